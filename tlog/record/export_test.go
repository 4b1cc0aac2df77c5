package record

import "time"

// Unpack is what Open does between unsealing and parsing.
func (c *Coder) Unpack(packed []byte) ([]byte, error) { return c.unpack(packed) }

// SetLast makes the writer believe that its last entry was at that time: a clock that has gone back since.
func (w *Writer) SetLast(t time.Time) { w.last = t }

// Held returns what the writer counts as waiting.
func (w *Writer) Held() (count, bytes int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.count, w.bytes
}

// SetLost makes the writer believe that n entries were lost at that time: a clock that has gone back since.
func (w *Writer) SetLost(n uint64, since time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lost = lost{n, since, "clock"}
}
