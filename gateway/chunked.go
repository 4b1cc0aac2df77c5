package gateway

import (
	"bytes"
	"net/http"
)

// Bounds on what a chunked body may carry besides its data. Data and the rest together stay under
// 1.1 x MaxBody + 64 KiB, so chunks of one byte are slow to the sender and cheap to us.
const (
	chunkLine       = 4 << 10  // longest size line or trailer line, in bytes
	chunkExtensions = 16 << 10 // all extensions of one body
	chunkTrailers   = 8 << 10  // all trailers of one body
	chunkFields     = 32       // trailer lines
	chunkOverhead   = 64 << 10 // sizes, line ends, extensions and trailers, plus a tenth of MaxBody
	chunkSizeDigits = 15       // hexadecimal digits in a size
)

// chunkPhase says what the next byte of a chunked body is part of.
type chunkPhase uint8

const (
	chunkSize    chunkPhase = iota // a size line
	chunkData                      // the data of a chunk
	chunkDataEnd                   // the CRLF behind the data
	chunkTrailer                   // a trailer line or the empty line
	chunkDone                      // nothing: the request is over
)

// A chunkReader turns a chunked body into one that has no extensions, no trailers, canonical sizes and the same chunks.
// The end of the body, "0 CRLF CRLF", is given out only when the client's own end, trailers included, was read and found
// good: until then the reader of the output has an unfinished request.
type chunkReader struct {
	phase    chunkPhase
	left     int64 // data bytes left in this chunk
	total    int64 // data bytes announced so far
	overhead int64 // everything else so far
	ext      int
	trailer  int
	fields   int
	scan     int // bytes of the line being read that hold no CR or LF

	out      [20]byte // framing to give out before anything else
	pos, len int
}

func (k *chunkReader) reset() { *k = chunkReader{} }

// put makes s the next bytes given out.
func (k *chunkReader) put(s string) { k.pos, k.len = 0, copy(k.out[:], s) }

// line finds the line b begins with, without its CRLF. Until ok it wants to be asked again with more bytes behind the
// same ones.
func (k *chunkReader) line(b []byte) (line []byte, ok bool, bad *refusal) {
	const ends = "a line of the chunked body does not end in CRLF; end chunk sizes, chunk data and trailers with CRLF"
	seen := b[k.scan:min(len(b), chunkLine+1)]
	if i := bytes.IndexByte(seen, '\r'); i >= 0 {
		seen = seen[:i]
	}
	if bytes.IndexByte(seen, '\n') >= 0 {
		return nil, false, refuse400("bad_chunk", ends)
	}
	k.scan += len(seen)
	switch {
	case k.scan > chunkLine:
		return nil, false, refuse400("bad_chunk", "a line of the chunked body's framing is longer than 4096 bytes; leave out chunk extensions and long trailers")
	case k.scan+1 >= len(b):
		return nil, false, nil
	case b[k.scan+1] != '\n':
		return nil, false, refuse400("bad_chunk", ends)
	}
	line = b[:k.scan]
	k.scan = 0
	return line, true, nil
}

// next reads framing from b, which holds what has arrived and not been read. It returns how many bytes it used; 0 means
// that more are needed.
func (k *chunkReader) next(b []byte, maxBody int64) (int, *refusal) {
	if k.phase == chunkDataEnd {
		switch {
		case len(b) > 0 && b[0] != '\r', len(b) > 1 && b[1] != '\n':
			return 0, refuse400("bad_chunk", "the data of a chunk is not followed by CRLF; make the chunk as long as its size says")
		case len(b) < 2:
			return 0, nil
		}
		k.phase = chunkSize
		k.put("\r\n")
		return 2, k.spend(2, maxBody)
	}
	line, ok, bad := k.line(b)
	if bad != nil || !ok {
		return 0, bad
	}
	used := len(line) + 2
	if bad := k.spend(used, maxBody); bad != nil {
		return 0, bad
	}
	if k.phase == chunkTrailer {
		return used, k.trailerLine(line)
	}
	return used, k.sizeLine(line, maxBody)
}

// spend counts n bytes of framing against what a body may have.
func (k *chunkReader) spend(n int, maxBody int64) *refusal {
	k.overhead += int64(n)
	if k.overhead > chunkOverhead+maxBody/10 {
		return refuse400("chunk_overhead", "the chunked body has more framing than data; send larger chunks, or a Content-Length")
	}
	return nil
}

func (k *chunkReader) sizeLine(line []byte, maxBody int64) *refusal {
	var size int64
	n := 0
	for n < len(line) {
		v := headHex(line[n])
		if v < 0 {
			break
		}
		if n == chunkSizeDigits {
			return refuse400("bad_chunk", "a chunk size has more than 15 digits; send smaller chunks")
		}
		size = size<<4 | int64(v)
		n++
	}
	if n == 0 || n < len(line) && line[n] != ';' {
		return refuse400("bad_chunk", "a chunk size is not a hexadecimal number followed by CRLF; send the size of the chunk alone on its line")
	}
	k.ext += len(line) - n
	if k.ext > chunkExtensions {
		return refuse400("chunk_extensions", "the chunk extensions of this body are longer than 16384 bytes; leave them out")
	}
	if !isChunkExtension(line[n:]) {
		return refuse400("bad_chunk", "a chunk extension is malformed; leave extensions out")
	}
	if size == 0 {
		k.phase = chunkTrailer
		return nil
	}
	if size > maxBody-k.total {
		return refusalBodyTooLarge(maxBody)
	}
	k.total += size
	k.left = size
	k.phase = chunkData
	k.putSize(size)
	return nil
}

// putSize makes "size CRLF" the next bytes given out.
func (k *chunkReader) putSize(size int64) {
	const digits = "0123456789abcdef"
	n := 1
	for v := size >> 4; v > 0; v >>= 4 {
		n++
	}
	for i := n - 1; i >= 0; i-- {
		k.out[i] = digits[size&15]
		size >>= 4
	}
	k.out[n], k.out[n+1] = '\r', '\n'
	k.pos, k.len = 0, n+2
}

// isChunkExtension reads *( ";" name [ "=" value ] ), RFC 9112 §7.1.1, without the blanks it tolerates; an empty value
// passes, as it can mean nothing else.
func isChunkExtension(b []byte) bool {
	for len(b) > 0 {
		n := 1
		for n < len(b) && headByte[b[n]]&byteToken != 0 {
			n++
		}
		if b[0] != ';' || n == 1 {
			return false
		}
		b = b[n:]
		if len(b) == 0 || b[0] != '=' {
			continue
		}
		b = b[1:]
		if len(b) == 0 || b[0] != '"' {
			n = 0
			for n < len(b) && headByte[b[n]]&byteToken != 0 {
				n++
			}
			b = b[n:]
			continue
		}
		n = 1
		for n < len(b) && b[n] != '"' {
			if b[n] == '\\' {
				n++
			}
			if n == len(b) || headByte[b[n]]&byteText == 0 {
				return false
			}
			n++
		}
		if n == len(b) {
			return false
		}
		b = b[n+1:]
	}
	return true
}

// trailerLine checks a trailer and drops it. The empty line ends the body.
func (k *chunkReader) trailerLine(line []byte) *refusal {
	if len(line) == 0 {
		k.phase = chunkDone
		k.put("0\r\n\r\n")
		return nil
	}
	k.fields++
	k.trailer += len(line) + 2
	if k.fields > chunkFields || k.trailer > chunkTrailers {
		return &refusal{http.StatusRequestHeaderFieldsTooLarge, "trailers_too_large", "the trailers of the chunked body are more than 32 lines or 8192 bytes; leave them out"}
	}
	n, bad := checkFieldLine(line)
	if bad != nil {
		return bad
	}
	if isBadTrailer(line[:n]) {
		return refuse400("bad_trailer", "the header "+headName(line[:n])+" has no meaning as a trailer; send it in the head")
	}
	return nil
}
