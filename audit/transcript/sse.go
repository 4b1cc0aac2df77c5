package transcript

import "bytes"

// A block is one of an event stream, as the WHATWG HTML standard (§9.2.6) reads it.
type block struct {
	to         int    // in the body, behind the first byte of the line end that closes it: with that a client hears of it
	end        int    // behind all of that line end
	name       []byte // the event field
	data       []byte // the data lines, joined by LF
	dispatched bool   // a client hears of it
}

// blocks calls each for the blocks of a stream, comments and blank lines at the end included, until it returns false. A block that
// has no end is not dispatched; cut says that there is one, with data.
func blocks(body []byte, each func(block) bool) (cut bool) {
	at := 0
	if bytes.HasPrefix(body, []byte("\xef\xbb\xbf")) {
		at = 3
	}
	var joined []byte
	var b block
	lines, ended := 0, 0
	for at < len(body) {
		end := at + bytes.IndexAny(body[at:], "\r\n")
		if end < at {
			break // a line without an end is none
		}
		next := end + 1
		if body[end] == '\r' && next < len(body) && body[next] == '\n' {
			next++
		}
		line := body[at:end]
		at = next
		if len(line) == 0 {
			if lines > 0 {
				b.dispatched, b.to, b.end = true, end+1, next
				if !each(b) {
					return false
				}
				b, joined, lines, ended = block{}, nil, 0, next
				continue
			}
			b.name = nil
			continue
		}
		name, v, _ := bytes.Cut(line, []byte(":"))
		v = bytes.TrimPrefix(v, []byte(" "))
		switch string(name) {
		case "event":
			b.name = v
		case "data":
			switch lines++; lines {
			case 1:
				b.data = v
			case 2:
				joined = append(append(joined, b.data...), '\n')
				fallthrough
			default:
				if lines > 2 {
					joined = append(joined, '\n')
				}
				joined = append(joined, v...)
				b.data = joined
			}
		}
	}
	if ended < len(body) {
		b.to, b.end = len(body), len(body)
		cut = lines > 0 || bytes.HasPrefix(body[min(at, len(body)):], []byte("data"))
		each(b)
	}
	return cut
}
