package remote

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/local"
	"github.com/tallystick/tallystick/tlog/record"
)

// What is sent is taken by the engines and writers that there are.
func TestLimits(t *testing.T) {
	if MaxAppend > local.MaxAppend {
		t.Errorf("a call of %d leaves; the engine takes %d", MaxAppend, local.MaxAppend)
	}
	for _, id := range []string{"", "a", "gw-1", "gw-1.desk", "A", "a b", "a/b", "a%62", "..", "ü", "a\n", strings.Repeat("a", 64), strings.Repeat("a", 65)} {
		if ours, theirs := checkWriter(id), record.CheckWriter(id); (ours == nil) != (theirs == nil) {
			t.Errorf("the writer %q: %v here, %v in package record", id, ours, theirs)
		}
	}
}

func equalLeaves(a, b []tlog.Leaf) bool {
	return slices.EqualFunc(a, b, func(a, b tlog.Leaf) bool {
		return bytes.Equal(a.Entry, b.Entry) && bytes.Equal(a.Payload, b.Payload)
	})
}

func encode(leaves []tlog.Leaf) []byte {
	b := appendCount(nil, len(leaves))
	for _, leaf := range leaves {
		b = appendLeaf(b, leaf)
	}
	return b
}

// Whatever is read is what would be written, and nothing is read twice or left over.
func FuzzParseLeaves(f *testing.F) {
	f.Add([]byte{})
	f.Add(encode([]tlog.Leaf{{Entry: []byte("e")}}))
	f.Add(encode([]tlog.Leaf{{Entry: []byte("e"), Payload: []byte("p")}, {Entry: bytes.Repeat([]byte("e"), tlog.MaxEntry)}}))
	f.Add(append(encode([]tlog.Leaf{{Entry: []byte("e")}}), 0))
	f.Add([]byte{0, 0, 0, 1, 0, 1, 0xff, 0xff, 0xff, 0xff, 'e'})
	f.Fuzz(func(t *testing.T, b []byte) {
		leaves, err := parseLeaves(b)
		if err != nil {
			if !errors.Is(err, ErrRefused) && !errors.Is(err, tlog.ErrTooLarge) {
				t.Errorf("an error that says nothing of what to do: %v", err)
			}
			return
		}
		if len(leaves) == 0 || len(leaves) > MaxAppend {
			t.Errorf("%d leaves", len(leaves))
		}
		for i, leaf := range leaves {
			if err := checkLeaf(i, len(leaf.Entry), len(leaf.Payload)); err != nil {
				t.Error(err)
			}
		}
		if again := encode(leaves); !bytes.Equal(again, b) {
			t.Errorf("%x was read as what is written %x", b, again)
		}
		hashes := hashHeads(nil, b[countLen:], true)
		for i, leaf := range leaves {
			if hashes[i] != tlog.HashLeaf(leaf.Entry) {
				t.Errorf("leaf %d has another hash where it is looked for", i)
			}
		}
	})
}

// Whatever a client sends, however it is cut into bodies, is what a server reads.
func FuzzSendLeaves(f *testing.F) {
	f.Add([]byte("entry"), []byte("payload"), uint8(3), uint16(7), false)
	f.Add([]byte("e"), []byte(nil), uint8(1), uint16(1), true)
	f.Add(bytes.Repeat([]byte("e"), tlog.MaxEntry), bytes.Repeat([]byte("p"), 3000), uint8(40), uint16(5000), true)
	f.Fuzz(func(t *testing.T, entry, payload []byte, n uint8, chunk uint16, bulk bool) {
		n %= 16
		leaves := make([]tlog.Leaf, n)
		for i := range leaves {
			leaves[i] = tlog.Leaf{Entry: entry, Payload: payload[:len(payload)*i/int(n)]}
		}
		c, err := newCall(leaves)
		if err != nil {
			if len(entry) > 0 && len(entry) <= tlog.MaxEntry {
				t.Errorf("not sent: %v", err)
			}
			return
		}
		if n == 0 {
			return
		}
		if bulk != c.bulk { // the other way of sending the same
			c.buf, c.bulk, c.leaves = nil, bulk, leaves
			for _, leaf := range leaves {
				if bulk {
					c.buf = appendLeafHead(c.buf, leaf)
				} else {
					c.buf = appendLeaf(c.buf, leaf)
				}
			}
		}
		b := &batch{}
		b.add(c)
		b.body = newBody(b)
		var sent bytes.Buffer
		if _, err := io.CopyBuffer(&sent, struct{ io.Reader }{b.body}, make([]byte, int(chunk)+16)); err != nil {
			t.Fatal(err)
		}
		if !b.body.release() || int64(sent.Len()) != b.body.length {
			t.Errorf("%d bytes were sent of %d", sent.Len(), b.body.length)
		}
		read, err := parseLeaves(sent.Bytes())
		if err != nil || !equalLeaves(read, leaves) {
			t.Errorf("%d leaves were sent and %d read: %v", len(leaves), len(read), err)
		}
		hashes := b.hashes()
		for i, leaf := range leaves {
			if hashes[i] != tlog.HashLeaf(leaf.Entry) {
				t.Errorf("leaf %d has another hash where it is looked for", i)
			}
		}
	})
}

// A body keeps the contract of io.Reader, and gives nothing out once it is taken back.
func TestBody(t *testing.T) {
	make2 := func() *body {
		b := &batch{}
		for _, leaves := range [][]tlog.Leaf{{leaf("a")}, {leaf("b"), leaf("c")}} {
			c, err := newCall(leaves)
			if err != nil {
				t.Fatal(err)
			}
			b.add(c)
		}
		return newBody(b)
	}
	if err := iotest.TestReader(make2(), encode([]tlog.Leaf{leaf("a"), leaf("b"), leaf("c")})); err != nil {
		t.Error(err)
	}
	b := make2()
	b.Read(make([]byte, b.length-1))
	if b.release() {
		t.Error("a body is whole with a byte missing")
	}
	if n, err := b.Read(make([]byte, 1)); n != 0 || err == nil {
		t.Errorf("a body that was taken back gives %d bytes, %v", n, err)
	}
	b = make2()
	b.Read(make([]byte, b.length))
	if !b.release() {
		t.Error("a whole body is not")
	}
}

func FuzzParseGrant(f *testing.F) {
	f.Add([]byte("log.example/1\n00112233445566770000000000000001\n0\n"))
	f.Add([]byte("log.example/1\n00112233445566770000000000000001\n9223372036854775807\n"))
	f.Add([]byte("log.example/1\n00112233445566770000000000000001\n01\n"))
	f.Add([]byte("\n\n\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		g, err := parseGrant(b)
		if err != nil {
			return
		}
		if again := g.append(nil); !bytes.Equal(again, b) {
			t.Errorf("%q was read as what is written %q", b, again)
		}
		if g.epoch == (epoch{}) || g.size >= 1<<63 {
			t.Errorf("%+v", g)
		}
	})
}

func FuzzParseTail(f *testing.F) {
	f.Add([]byte(nil))
	f.Add([]byte("\x00\x01a\x00\x02bc"))
	f.Add([]byte("\x00\x00"))
	f.Add([]byte("\x00"))
	f.Add([]byte("\x00\x02a"))
	f.Add(tlog.AppendBundleEntry(nil, make([]byte, tlog.MaxEntry)))
	f.Add(tlog.AppendBundleEntry(nil, make([]byte, tlog.MaxEntry+1)))
	f.Add(bytes.Repeat([]byte("\x00\x01a"), tlog.MaxTail))
	f.Add(bytes.Repeat([]byte("\x00\x01a"), tlog.MaxTail+1))
	f.Fuzz(func(t *testing.T, b []byte) {
		entries, err := parseTail(b)
		if err != nil {
			return
		}
		var again []byte
		for _, e := range entries {
			if len(e) == 0 || len(e) > tlog.MaxEntry {
				t.Errorf("an entry of %d bytes", len(e))
			}
			again = tlog.AppendBundleEntry(again, e)
		}
		if !bytes.Equal(again, b) || len(entries) > tlog.MaxTail {
			t.Errorf("%q was read as %d entries, which are written %q", b, len(entries), again)
		}
	})
}

func TestTailPath(t *testing.T) {
	for _, c := range []struct {
		from uint64
		wait time.Duration
		path string
		read time.Duration
	}{
		{0, 0, "/tail/0", 0},
		{1<<63 - 1, -time.Second, "/tail/9223372036854775807", 0},
		{7, time.Microsecond, "/tail/7", 0},
		{7, 1500 * time.Millisecond, "/tail/7?wait=1500", 1500 * time.Millisecond},
		{7, 1<<63 - 1, "/tail/7?wait=9223372036854", maxWait},
	} {
		path := tailPath(c.from, c.wait)
		index, query, _ := strings.Cut(strings.TrimPrefix(path, pathTail), "?")
		from, wait, ok := parseTailPath(index, query)
		if path != c.path || !ok || from != c.from || wait != c.read {
			t.Errorf("%d and %v are %s, which is read as %d, %v, %v", c.from, c.wait, path, from, wait, ok)
		}
	}
}

func TestParseFirst(t *testing.T) {
	for _, c := range []struct {
		text string
		n    int
		ok   bool
	}{
		{"0\n", 1, true}, {"7\n", 4096, true}, {"9223372036854775806\n", 1, true},
		{"9223372036854775807\n", 1, false}, {"9223372036854775806\n", 2, false}, {"18446744073709551615\n", 1, false},
		{"", 1, false}, {"7", 1, false}, {"7\n\n", 1, false}, {"07\n", 1, false}, {"+7\n", 1, false}, {" 7\n", 1, false}, {"-1\n", 1, false}, {"0x7\n", 1, false}, {"7\r\n", 1, false},
	} {
		if first, err := parseFirst([]byte(c.text), c.n); (err == nil) != c.ok {
			t.Errorf("%q for %d leaves: %d, %v", c.text, c.n, first, err)
		}
	}
}

// TestVerdicts sends every error through its status and word and back.
func TestVerdicts(t *testing.T) {
	words := make(map[string]bool)
	for _, v := range verdicts {
		if words[v.word] {
			t.Errorf("%q stands for two errors", v.word)
		}
		words[v.word] = true
	}
	for _, c := range []struct{ err, is, not error }{
		{tlog.ErrBusy, tlog.ErrBusy, nil},
		{fmt.Errorf("12 entries: %w", tlog.ErrBusy), tlog.ErrBusy, nil},
		{tlog.ErrFull, tlog.ErrFull, nil},
		{tlog.ErrTooLarge, tlog.ErrTooLarge, nil},
		{fmt.Errorf("%w: %w", tlog.ErrHalted, tlog.ErrFull), tlog.ErrHalted, tlog.ErrFull},
		{fmt.Errorf("%w: %w", tlog.ErrBusy, tlog.ErrHalted), tlog.ErrHalted, tlog.ErrBusy},
		{fmt.Errorf("%w: %w", tlog.ErrHalted, tlog.ErrQuarantine), tlog.ErrQuarantine, nil},
		{tlog.ErrQuarantine, tlog.ErrQuarantine, nil},
		{tlog.ErrClosed, tlog.ErrClosed, nil},
		{tlog.ErrNotFound, tlog.ErrNotFound, nil},
		{fmt.Errorf("%w: not an entry", ErrRefused), ErrRefused, nil},
		{ErrDenied, ErrDenied, nil},
		{errUnknownClient, ErrDenied, nil},
		{ErrFenced, ErrFenced, nil},
		{errStale, errStale, ErrFenced},
		{errCut, errCut, nil},
		{errors.New("input/output error"), errFailed, nil},
	} {
		v := verdictOf(c.err)
		got := readVerdict(v.status, http.Header{headVerdict: {v.word}}, []byte(c.err.Error()+"\n"))
		if !errors.Is(got, c.is) || c.not != nil && errors.Is(got, c.not) || !strings.Contains(got.Error(), c.err.Error()) {
			t.Errorf("%v is answered %d %s and read as %v", c.err, v.status, v.word, got)
		}
		if err := readVerdict(v.status, http.Header{}, nil); err != nil {
			t.Errorf("a status %d without the word is read as %v", v.status, err)
		}
		if err := readVerdict(http.StatusTeapot, http.Header{headVerdict: {v.word}}, nil); err != nil {
			t.Errorf("%s with another status is read as %v", v.word, err)
		}
	}
	ugly := readVerdict(503, http.Header{headVerdict: {"busy"}}, []byte("\x1b[2Jred\x00\n\u202e"+strings.Repeat("x", 1000)))
	if s := ugly.Error(); strings.ContainsAny(s, "\x1b\x00\n\u202e") || len(s) > 600 {
		t.Errorf("a peer's words are shown as %q", s)
	}
}

// TestParseEpoch reads nothing but what is written.
func TestParseEpoch(t *testing.T) {
	e := epoch{[8]byte{1, 2, 3, 4, 5, 6, 7, 8}, 1<<63 + 5}
	if got, err := parseEpoch(e.String()); err != nil || got != e {
		t.Errorf("%v is read as %v, %v", e, got, err)
	}
	for _, s := range []string{"", "0", strings.Repeat("0", 32), strings.Repeat("A", 32), strings.Repeat("a", 31), strings.Repeat("a", 33), strings.Repeat("g", 32), " " + strings.Repeat("a", 31)} {
		if got, err := parseEpoch(s); err == nil {
			t.Errorf("%q is read as %v", s, got)
		}
	}
}

// A body that states more than it has, or has more than it states, is refused whole.
func TestParseLeavesRefuses(t *testing.T) {
	good := encode([]tlog.Leaf{leaf("a"), leaf("b")})
	for n := range good {
		if leaves, err := parseLeaves(good[:n]); !errors.Is(err, ErrRefused) {
			t.Errorf("%d of %d bytes are read as %d leaves, %v", n, len(good), len(leaves), err)
		}
	}
	count := func(n uint32) []byte {
		b := bytes.Clone(good)
		binary.BigEndian.PutUint32(b, n)
		return b
	}
	lengths := func(entry uint16, payload uint32) []byte {
		b := binary.BigEndian.AppendUint16(appendCount(nil, 1), entry)
		return append(binary.BigEndian.AppendUint32(b, payload), "some bytes"...)
	}
	for _, c := range []struct {
		name string
		body []byte
		err  error
	}{
		{"one leaf too many", count(3), ErrRefused},
		{"one leaf too few", count(1), ErrRefused},
		{"no leaf", count(0), ErrRefused},
		{"more leaves than a call has", count(MaxAppend + 1), tlog.ErrTooLarge},
		{"all the leaves there are", count(1<<32 - 1), tlog.ErrTooLarge},
		{"a byte after the last", append(bytes.Clone(good), 0), ErrRefused},
		{"an empty entry", lengths(0, 10), ErrRefused},
		{"an entry over the limit", lengths(tlog.MaxEntry+1, 0), tlog.ErrTooLarge},
		{"a payload over the limit", lengths(10, tlog.MaxPayload+1), tlog.ErrTooLarge},
		{"the longest payload that can be stated", lengths(10, 1<<32-1), tlog.ErrTooLarge},
		{"a payload that is not there", lengths(9, 2), ErrRefused},
	} {
		if leaves, err := parseLeaves(c.body); !errors.Is(err, c.err) {
			t.Errorf("%s: %d leaves, %v", c.name, len(leaves), err)
		}
	}
}
