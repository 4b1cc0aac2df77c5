package record

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"strconv"
	"time"
)

// An Event is a row of the field [FieldEvents]: one event of a body, and when it came.
type Event struct {
	Bytes int           // how many of the body it is
	After time.Duration // since the one before, or of the first since the answer began; whole microseconds, not negative
}

// ErrEvents is a table of events that is not one of the body's: take the body without it.
var ErrEvents = errors.New("record: the table of events does not belong to the body")

// AppendEvent appends a row to a table of events, which begins with '[' and becomes whole with ']'. What is less than a
// microsecond is left out, and a time that is negative counts as none.
func AppendEvent(table []byte, e Event) []byte {
	if len(table) > 0 && table[len(table)-1] == ']' {
		table = append(table, ',')
	}
	table = strconv.AppendInt(append(table, '['), int64(e.Bytes), 10)
	table = strconv.AppendInt(append(table, ','), max(0, e.After.Microseconds()), 10)
	return append(table, ']')
}

// ParseEvents reads a table of events of a body of total bytes. It takes what AppendEvent writes, with a bracket around it, and
// refuses rows that do not add up to the body.
func ParseEvents(table []byte, total int) ([]Event, error) {
	b, ok := bytes.CutPrefix(table, []byte("["))
	if b, ok = bytes.CutSuffix(b, []byte("]")); !ok || len(table) < 2 {
		return nil, fmt.Errorf("%w: it is no list", ErrEvents)
	}
	events := make([]Event, 0, bytes.Count(b, []byte("[")))
	for len(b) > 0 {
		end := bytes.IndexByte(b, ']')
		if b[0] != '[' || end < 0 {
			return nil, fmt.Errorf("%w: event %d is no row of two numbers", ErrEvents, len(events))
		}
		size, gap, _ := bytes.Cut(b[1:end], []byte(","))
		n, ok := natural(size, int64(total))
		micros, ok2 := natural(gap, math.MaxInt64/int64(time.Microsecond))
		if !ok || !ok2 {
			return nil, fmt.Errorf("%w: event %d has no size, or no time, or goes beyond the body", ErrEvents, len(events))
		}
		total -= int(n)
		events = append(events, Event{int(n), time.Duration(micros) * time.Microsecond})
		if b = b[end+1:]; len(b) > 0 {
			if b[0] != ',' || len(b) == 1 {
				return nil, fmt.Errorf("%w: after event %d stands what is no row", ErrEvents, len(events)-1)
			}
			b = b[1:]
		}
	}
	if total != 0 {
		return nil, fmt.Errorf("%w: it is shorter by %d bytes", ErrEvents, total)
	}
	return events, nil
}

// natural reads digits, and no number above most.
func natural(b []byte, most int64) (int64, bool) {
	if len(b) == 0 || len(b) > 1 && b[0] == '0' {
		return 0, false
	}
	var n int64
	for _, c := range b {
		d := int64(c - '0')
		if c < '0' || c > '9' || d > most || n > (most-d)/10 {
			return 0, false
		}
		n = n*10 + d
	}
	return n, true
}
