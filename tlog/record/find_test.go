package record_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/tallystick/tallystick/tlog"
	. "github.com/tallystick/tallystick/tlog/record"
)

// A day is a log of sessions that begin a second apart, each ending two entries after the next one began, and what else
// is written meanwhile. One more begins early and ends late.
func newDay(t *testing.T, n int) (log bundles, ids []ID) {
	p := &pen{id: "gw", boot: NewID(epoch)}
	put := func(k Kind, at time.Time, id ID) {
		log = append(log, p.entry(t, k, func(e *Entry) {
			e.Time, e.Session = at, id
			switch k {
			case Response:
				e.Outcome = Complete
			case Refused, Erasure:
				e.Reason = "policy"
			case Approval:
				e.Prev = hashOf("prev")
			}
			if k == Erasure {
				e.Root, e.Fields, e.Payload, e.PayloadSize = tlog.Hash{}, 0, tlog.Hash{}, 0
			}
		}))
	}
	put(Start, epoch, ID{})
	long := NewID(epoch)
	put(Request, epoch, long)
	var open ID
	at := epoch
	for i := range n {
		at = at.Add(time.Second)
		id := NewID(at)
		ids = append(ids, id)
		if i%7 == 3 {
			put(Refused, at, id)
			continue
		}
		put(Request, at.Add(time.Millisecond), id)
		put(Access, at.Add(time.Millisecond), id)
		if i%5 == 2 {
			put(Approval, at.Add(2*time.Millisecond), id)
		}
		if !open.IsZero() {
			put(Response, at.Add(3*time.Millisecond), open)
			put(Erasure, at.Add(3*time.Millisecond), open)
		}
		open = id
	}
	put(Response, at, open)
	put(Response, at.Add(time.Second), long)
	return log, append(ids, long)
}

func TestFindSession(t *testing.T) {
	log, ids := newDay(t, 400)
	size := uint64(len(log))
	for i, id := range ids {
		if i%3 != 0 && i != len(ids)-1 {
			continue // enough of every sort
		}
		for _, most := range []uint64{0, 1000, size} {
			r := &counting{Reader: log}
			found, err := FindSession(t.Context(), r, size, id, most)
			if i == len(ids)-1 && most == 1000 {
				if err != nil || len(found) != 1 || found[0].Index != 1 {
					t.Errorf("a session that ends too far away: %v, %v", found, err)
				}
				continue
			}
			if err != nil {
				t.Fatalf("session %d of %d, %d at most: %v", i, len(ids), most, err)
			}
			text := ""
			for _, f := range found {
				text += string(f.Entry.Kind) + " "
				if f.Entry.Session != id || tlog.HashLeaf(f.Bytes) != tlog.HashLeaf(log[f.Index]) {
					t.Fatalf("session %d: entry %d is another", i, f.Index)
				}
			}
			want := "request response "
			switch {
			case i == len(ids)-1:
			case i%7 == 3:
				want = "refused "
			case i%5 == 2:
				want = "request approval response "
			}
			if text != want {
				t.Errorf("session %d of %d, %d at most: %s", i, len(ids), most, text)
			}
			if i < len(ids)-1 && r.reads > 20 {
				t.Errorf("session %d of %d: %d tiles were read", i, len(ids), r.reads)
			}
		}
	}
}

// What is not there is looked for no further than it could be; and what its ID says nothing of is found all the same, by
// whoever has the time.
func TestFindSessionThatIsNotThere(t *testing.T) {
	log, _ := newDay(t, 3000)
	size := uint64(len(log))
	for name, c := range map[string]struct {
		id    ID
		most  uint64
		reads int
	}{
		"of the first minute":             {NewID(epoch.Add(time.Minute)), 512, 18},
		"of the first minute, unhurried":  {NewID(epoch.Add(time.Minute)), 1 << 20, 30},
		"of before":                       {NewID(time.Unix(0, 0)), 1 << 20, 18},
		"of after":                        {NewID(epoch.Add(100 * time.Hour)), 1 << 20, 18},
		"of the newest":                   {NewID(epoch.Add(3000 * time.Second)), 1 << 20, 18},
		"that is all ones":                {ID{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, 1 << 20, 18},
		"by somebody who reads all of it": {NewID(epoch.Add(time.Hour / 2)), 0, 80},
	} {
		r := &counting{Reader: log}
		found, err := FindSession(t.Context(), r, size, c.id, c.most)
		if err != nil || len(found) != 0 || r.reads > c.reads {
			t.Errorf("a session %s: %v, %v, with %d reads", name, found, err, r.reads)
		}
	}
	if found, err := FindSession(t.Context(), log, 0, NewID(epoch), 0); err != nil || len(found) != 0 {
		t.Errorf("in an empty log: %v, %v", found, err)
	}
	p := &pen{id: "gw", boot: NewID(epoch)}
	p.seq = 1
	odd := log[:len(log):len(log)]
	odd = append(odd, p.entry(t, Refused, func(e *Entry) { e.Session, e.Reason = ID{15: 1}, "no_route"; e.Time = epoch.Add(4000 * time.Second) }))
	for id, want := range map[ID]int{{15: 1}: 1, {0xff, 15: 1}: 0} {
		found, err := FindSession(t.Context(), odd, uint64(len(odd)), id, 0)
		if len(found) != want || err != nil {
			t.Errorf("an ID that tells no time, %s: %v, %v", id, found, err)
		}
	}
	if found, err := FindSession(t.Context(), odd, uint64(len(odd)), ID{15: 1}, 1<<20); err != nil || len(found) != 0 {
		t.Errorf("by somebody in a hurry: %v, %v", found, err)
	}
}

// What cannot be read is told; so is what is no entry, where it matters.
func TestFindSessionFails(t *testing.T) {
	log, ids := newDay(t, 300)
	size := uint64(len(log))
	if found, err := FindSession(t.Context(), broken{}, size, ids[0], 0); err == nil {
		t.Errorf("a log that cannot be read: %v, %v", found, err)
	}
	bad := append(bundles(nil), log...)
	bad[1] = []byte(fmt.Sprintf(`{"session":"%s"}`, ids[0]))
	if _, err := FindSession(t.Context(), bad, size, ids[0], 0); err == nil {
		t.Errorf("an entry that is none: %v", err)
	}
}

// A broken log cannot be read.
type broken struct{ bundles }

func (broken) Tile(context.Context, tlog.Tile) ([]byte, error) {
	return nil, errors.New("the disk is on fire")
}
