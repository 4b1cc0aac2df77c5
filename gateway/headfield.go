package gateway

// headField names the headers a head check knows: those that may come once, and those that may not come at all.
type headField uint8

const (
	fieldOther     headField = iota // may come any number of times, means nothing here
	fieldForbidden                  // hop-by-hop requests we do not grant

	// Framing and the connection.
	fieldHost
	fieldContentLength
	fieldTransferEncoding
	fieldConnection
	fieldExpect

	// What the body is.
	fieldContentType
	fieldContentEncoding
	fieldContentRange

	// Who asks.
	fieldAuthorization
	fieldAPIKey     // Api-Key
	fieldXAPIKey    // X-Api-Key
	fieldXGoogKey   // X-Goog-Api-Key
	fieldCookie     // RFC 6265 §5.4: one at most
	fieldFrom       // a mailbox
	fieldUserAgent  // recorded as the client
	fieldOrigin     // checked against CSRF where it matters
	fieldReferer    // as Origin
	fieldIdempotent // Idempotency-Key: which call this repeats

	// Conditions, of which two can contradict each other.
	fieldDate
	fieldMaxForwards
	fieldRange
	fieldIfRange
	fieldIfModified
	fieldIfUnmodified
)

// knownField finds a header by its name, in any case.
func knownField(name []byte) headField {
	one := func(s string, k headField) headField {
		if equalFold(name, s) {
			return k
		}
		return fieldOther
	}
	if len(name) >= 6 && equalFold(name[:6], "proxy-") {
		return fieldForbidden
	}
	switch len(name) {
	case 2:
		return one("te", fieldForbidden)
	case 4:
		switch name[0] | 0x20 {
		case 'h':
			return one("host", fieldHost)
		case 'd':
			return one("date", fieldDate)
		case 'f':
			return one("from", fieldFrom)
		}
	case 5:
		return one("range", fieldRange)
	case 6:
		switch name[0] | 0x20 {
		case 'e':
			return one("expect", fieldExpect)
		case 'c':
			return one("cookie", fieldCookie)
		case 'o':
			return one("origin", fieldOrigin)
		}
	case 7:
		switch name[0] | 0x20 {
		case 'u':
			return one("upgrade", fieldForbidden)
		case 't':
			return one("trailer", fieldForbidden)
		case 'a':
			return one("api-key", fieldAPIKey)
		case 'r':
			return one("referer", fieldReferer)
		}
	case 8:
		return one("if-range", fieldIfRange)
	case 9:
		return one("x-api-key", fieldXAPIKey)
	case 10:
		switch name[0] | 0x20 {
		case 'c':
			return one("connection", fieldConnection)
		case 'u':
			return one("user-agent", fieldUserAgent)
		}
	case 12:
		switch name[0] | 0x20 {
		case 'c':
			return one("content-type", fieldContentType)
		case 'm':
			return one("max-forwards", fieldMaxForwards)
		}
	case 13:
		switch name[0] | 0x20 {
		case 'a':
			return one("authorization", fieldAuthorization)
		case 'c':
			return one("content-range", fieldContentRange)
		}
	case 14:
		switch name[0] | 0x20 {
		case 'c':
			return one("content-length", fieldContentLength)
		case 'x':
			return one("x-goog-api-key", fieldXGoogKey)
		case 'h':
			return one("http2-settings", fieldForbidden)
		}
	case 15:
		return one("idempotency-key", fieldIdempotent)
	case 16:
		return one("content-encoding", fieldContentEncoding)
	case 17:
		switch name[0] | 0x20 {
		case 't':
			return one("transfer-encoding", fieldTransferEncoding)
		case 'i':
			return one("if-modified-since", fieldIfModified)
		}
	case 19:
		return one("if-unmodified-since", fieldIfUnmodified)
	}
	return fieldOther
}

// isBadTrailer tells whether a trailer of this name would change how the message was framed, routed or whose it is, had
// it come as a header (RFC 9110 §6.5.1).
func isBadTrailer(name []byte) bool {
	switch knownField(name) {
	case fieldOther, fieldDate:
		return len(name) >= 11 && equalFold(name[:11], "x-forwarded") || equalFold(name, "forwarded") || equalFold(name, "keep-alive")
	}
	return true
}

// Classes of bytes, one bit each in headByte.
const (
	byteToken      = 1 << iota // RFC 9110 §5.6.2
	byteName                   // a token byte we take in header names: no "_", no "."
	byteText                   // in a header value: visible, space, tab, 0x80 and up
	byteUnreserved             // RFC 3986 §2.3
	bytePath                   // pchar of RFC 3986 without "%"
	byteQuery                  // pchar, "/", "?" and the brackets clients write plainly
	byteHost                   // in a label of a host name
)

// headByte holds the classes of each byte.
var headByte = func() (t [256]uint8) {
	set := func(chars string, class uint8) {
		for i := 0; i < len(chars); i++ {
			t[chars[i]] |= class
		}
	}
	const alnum = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
	set(alnum, byteToken|byteName|byteUnreserved|bytePath|byteQuery|byteHost)
	set("!#$%&'*+-^`|~", byteToken|byteName)
	set("_.", byteToken)
	set("-._~", byteUnreserved|bytePath|byteQuery)
	set("!$&'()*+,;=:@", bytePath|byteQuery)
	set("/?[]", byteQuery)
	set("-_", byteHost)
	for c := range t {
		if c >= 0x20 && c != 0x7f || c == '\t' {
			t[c] |= byteText
		}
	}
	return t
}()
