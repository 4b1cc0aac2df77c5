package transcript

import (
	"encoding/json"
	"time"
	"unicode/utf8"
)

// Bytes are bytes as they are on record. In JSON they are a string, or, where they are not UTF-8, an object with the member base64.
type Bytes []byte

// MarshalJSON writes them as a string if they are text.
func (b Bytes) MarshalJSON() ([]byte, error) {
	if utf8.Valid(b) {
		return json.Marshal(string(b))
	}
	return json.Marshal(struct {
		Base64 []byte `json:"base64"`
	}{b})
}

// MarshalJSON writes the event with its time in microseconds, as the member at_us.
func (e Event) MarshalJSON() ([]byte, error) {
	type plain Event
	at := e.At
	if at >= 0 {
		at /= time.Microsecond
	}
	return json.Marshal(struct {
		At int64 `json:"at_us"`
		plain
	}{int64(at), plain(e)})
}

// MarshalJSON writes the times, and how long things took in microseconds, as the members first_us and duration_us; -1 for what is
// not on record.
func (t Times) MarshalJSON() ([]byte, error) {
	type plain Times
	micros := func(d time.Duration) int64 {
		if d < 0 {
			return -1
		}
		return d.Microseconds()
	}
	return json.Marshal(struct {
		plain
		First    int64 `json:"first_us"`
		Duration int64 `json:"duration_us"`
	}{plain(t), micros(t.FirstByte()), micros(t.Duration())})
}
