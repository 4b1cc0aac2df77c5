package ship

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tallystick/tallystick/audit"
	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/record"
	"github.com/tallystick/tallystick/tlog/tlogtest"
)

// Whatever fails for a while, at either end, every entry arrives, in order, and the mark says so.
func TestFaults(t *testing.T) {
	down := errors.New("down")
	for _, c := range []struct {
		name   string
		sink   func(*memory)
		log    func(*tlogtest.Log)
		faults func() tlogtest.Faults
		within time.Duration
	}{
		{name: "nothing", within: time.Second},
		{name: "sink down", within: time.Minute, sink: func(m *memory) {
			m.fail = func(call int, _ [][]byte) error {
				if call < 6 {
					return down
				}
				return nil
			}
		}},
		{name: "sink takes all and does not say so", within: time.Minute, sink: func(m *memory) {
			m.after = func(call int) error {
				if call%2 == 1 {
					return down
				}
				return nil
			}
		}},
		{name: "sink slow", within: time.Hour, sink: func(m *memory) {
			m.fail = func(int, [][]byte) error { time.Sleep(time.Minute); return nil }
		}},
		{name: "sink says when", within: 10 * time.Minute, sink: func(m *memory) {
			start := time.Now()
			m.fail = func(call int, _ [][]byte) error {
				switch since := time.Since(start); {
				case call == 1:
					return &LaterError{5 * time.Minute, down}
				case call == 2 && since < 5*time.Minute:
					return &RefusedError{"it was asked again after " + since.String()}
				}
				return nil
			}
		}},
		{name: "log away", within: 5 * time.Minute, faults: func() tlogtest.Faults {
			start := time.Now()
			return tlogtest.Faults{
				Checkpoint: func(b []byte) ([]byte, error) {
					if time.Since(start) < 5*time.Second {
						return nil, down
					}
					return b, nil
				},
				Tile: func(tile tlog.Tile, b []byte) ([]byte, error) {
					if time.Since(start) < time.Duration(10+10*tile.Index)*time.Second {
						return nil, down
					}
					return b, nil
				},
			}
		}},
		{name: "log in quarantine", within: time.Second, faults: func() tlogtest.Faults {
			return tlogtest.Faults{Append: tlogtest.Always(tlog.ErrQuarantine)}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const n = 600
				l := filled(t, n)
				if c.faults != nil {
					l.Inject(c.faults())
				}
				m := &memory{}
				if c.sink != nil {
					c.sink(m)
				}
				mark := filepath.Join(t.TempDir(), "mark")
				f := follow(t, Config{Name: "test", Log: l, Sink: m, Mark: mark})
				time.Sleep(c.within)
				synctest.Wait()
				if err := whole(l, m.got(), n); err != nil {
					t.Error(err)
				}
				if st := f.Status(); st.Next != n || st.Err != nil || st.Fails != 0 || !st.Entry.Equal(began.Add((n-1)*time.Second)) {
					t.Errorf("%+v", st)
				}
				l.Inject(tlogtest.Faults{})
				if lag, err := f.Lag(t.Context()); err != nil || lag != 0 {
					t.Errorf("a lag of %d, %v", lag, err)
				}
				if err := f.stop(); err != nil {
					t.Error(err)
				}
				if b, err := os.ReadFile(mark); err != nil {
					t.Error(err)
				} else if m, err := parseMark(b); err != nil || m.next != n || m.origin != tlogtest.Origin {
					t.Errorf("%+v, %v", m, err)
				}
				// It goes on where it stopped, and sends nothing twice that was acknowledged.
				before := len(m.got())
				m.fail, m.after = nil, nil
				grow(t, l, 10)
				g := follow(t, Config{Name: "test", Log: l, Sink: m, Mark: mark})
				time.Sleep(time.Second)
				synctest.Wait()
				if got := len(m.got()) - before; got != 10 {
					t.Errorf("%d lines after it began again, not 10", got)
				}
				if err := errors.Join(g.stop(), whole(l, m.got(), n+10)); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// While a sink is down the lag is told, and why.
func TestLag(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := filled(t, 300)
		m := &memory{fail: func(call int, lines [][]byte) error {
			if call > 1 {
				return errors.New("no more")
			}
			return nil
		}}
		f := follow(t, Config{Name: "siem", Log: l, Sink: m})
		time.Sleep(time.Hour)
		synctest.Wait()
		lag, err := f.Lag(t.Context())
		st := f.Status()
		if err != nil || lag != 300-st.Next || st.Next != tlog.TileWidth || st.Err == nil || st.Fails < 50 || st.Fails > 200 || st.Name != "siem" {
			t.Errorf("a lag of %d, %v; %+v", lag, err, st)
		}
		if err := f.stop(); err != nil {
			t.Error(err)
		}
	})
}

// What waiting does not mend ends it, and says why.
func TestStops(t *testing.T) {
	saved := func(t *testing.T, m mark) string {
		path := filepath.Join(t.TempDir(), "mark")
		if err := m.save(path); err != nil {
			t.Fatal(err)
		}
		return path
	}
	leaf := tlog.HashLeaf(heartbeats(t, 9, 10)[0].Entry)
	for _, c := range []struct {
		name string
		mark func(*testing.T) string
		fail func(int, [][]byte) error
		is   error
		says string
	}{
		{name: "a refusal", fail: func(int, [][]byte) error { return &RefusedError{"unknown tenant"} }, says: "unknown tenant"},
		{name: "a log that was put back", mark: func(t *testing.T) string { return saved(t, mark{tlogtest.Origin, 10, tlog.Hash{1}}) }, is: ErrHistory, says: "entry 9"},
		{name: "a log that was cut back", mark: func(t *testing.T) string { return saved(t, mark{tlogtest.Origin, 21, leaf}) }, is: ErrHistory, says: "has 20"},
		{name: "another log", mark: func(t *testing.T) string { return saved(t, mark{"log.example/other", 10, leaf}) }, is: ErrHistory, says: "log.example/other"},
		{name: "a mark that cannot be written", mark: func(t *testing.T) string { return filepath.Join(t.TempDir(), "no", "mark") }, says: "mark"},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := filled(t, 20)
			conf := Config{Name: "test", Log: l, Sink: &memory{fail: c.fail}, Mark: filepath.Join(t.TempDir(), "mark")}
			if c.mark != nil {
				conf.Mark = c.mark(t)
			}
			s, err := New(conf)
			if err != nil {
				t.Fatal(err)
			}
			err = s.Run(t.Context())
			if err == nil || c.is != nil && !errors.Is(err, c.is) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v", err)
			}
			if refused := new(RefusedError); c.fail != nil && !errors.As(err, &refused) {
				t.Errorf("%v", err)
			}
			if got := conf.Sink.(*memory).got(); c.is != nil && len(got) > 0 {
				t.Errorf("%d lines of another log were shipped", len(got))
			}
		})
	}
}

// A mark that is torn, or that somebody wrote into, is none: everything comes again, and nothing is missing.
func TestTornMark(t *testing.T) {
	good := mark{tlogtest.Origin, 7, tlog.Hash{1}}.append(nil)
	for i := range good {
		if _, err := parseMark(good[:i]); err == nil {
			t.Errorf("the first %d bytes of a mark are one", i)
		}
		bad := bytes.Clone(good)
		bad[i] ^= 0x01
		if _, err := parseMark(bad); err == nil {
			t.Errorf("%q is a mark", bad)
		}
	}
	for _, torn := range [][]byte{nil, good[:40], good[:len(good)-1], bytes.Repeat([]byte("x"), maxMark+1)} {
		l := filled(t, 20)
		path := filepath.Join(t.TempDir(), "mark")
		if err := os.WriteFile(path, torn, 0o600); err != nil {
			t.Fatal(err)
		}
		m := &memory{}
		s, err := New(Config{Log: l, Sink: m, Mark: path, Once: true})
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(s.Run(t.Context()), whole(l, m.got(), 20)); err != nil {
			t.Error(err)
		}
	}
}

func TestOnce(t *testing.T) {
	l := filled(t, 700)
	m := &memory{}
	c := Config{Log: l, Sink: m, Mark: filepath.Join(t.TempDir(), "mark"), Once: true}
	for _, n := range []int{700, 0} {
		before := len(m.got())
		s, err := New(c)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Run(t.Context()); err != nil || len(m.got())-before != n {
			t.Errorf("%d lines, %v", len(m.got())-before, err)
		}
	}
	c.Mark, c.From = filepath.Join(t.TempDir(), "mark"), 690
	s, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Run(t.Context()); err != nil || len(m.got()) != 710 {
		t.Errorf("%d lines, %v", len(m.got()), err)
	}
}

// A log of which nothing is published yet is waited for.
func TestFromTheBeginning(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := tlogtest.Start(t, tlogtest.Config{Manual: true})
		m := &memory{}
		f := follow(t, Config{Log: l, Sink: m})
		time.Sleep(time.Hour)
		grow(t, l, 3)
		time.Sleep(2 * maxPause)
		synctest.Wait()
		if err := errors.Join(f.stop(), whole(l, m.got(), 3)); err != nil {
			t.Error(err)
		}
	})
}

// fed is a desk that feeds what it has.
type fed struct {
	who    audit.Asker
	detail string
	from   []uint64
	all    []audit.Seen
}

func (d *fed) Feed(ctx context.Context, who audit.Asker, detail string, from uint64, each func(context.Context, []audit.Seen) error) error {
	d.who, d.detail, d.from = who, detail, append(d.from, from)
	if err := each(ctx, d.all[from:]); err != nil {
		return err
	}
	<-ctx.Done()
	return nil
}

// Of records, what is named is shipped, and nothing else of them.
func TestMetadata(t *testing.T) {
	const secret = "the-content"
	r := record.Record{}
	for name, v := range map[string]string{
		record.FieldCaller: "alice", record.FieldModel: "m\u2028\n\"" + strings.Repeat("ü", 300), record.FieldStatus: "200", record.FieldGroups: `["a","b"]`,
		record.FieldFindings: `[["CARD","luhn",2],["CARD","ctx",1],["EMAIL","x",1]]`, record.FieldRemote: "127.0.0.1:1", record.FieldRule: "r", record.FieldFinish: "[DONE]",
		record.FieldBody: secret, record.FieldHeaders: secret, record.FieldTarget: "/" + secret, record.FieldEvents: secret, record.FieldError: secret, record.FieldReason: secret,
		record.FieldOriginal + "body": secret, record.FieldExact: secret, record.FieldSubject: secret, record.FieldEmail: secret, record.FieldUpstream: secret, "new": secret,
	} {
		r.Add(name, []byte(v))
	}
	l := filled(t, 4)
	d := &fed{}
	for i, leaf := range heartbeats(t, 0, 4) {
		e, err := record.ParseEntry(leaf.Entry)
		if err != nil {
			t.Fatal(err)
		}
		e.PayloadSize = 1 // as the desk tells it of entries with records
		seen := audit.Seen{Found: record.Found{Index: uint64(i), Bytes: leaf.Entry, Entry: e}, Record: r}
		switch i {
		case 1:
			seen.Record, seen.Missing = nil, tlog.ErrNotFound
		case 2:
			seen.Record, seen.Missing = nil, audit.ErrNotHere
		case 3:
			seen.Record, seen.Entry.PayloadSize = nil, 0
		}
		d.all = append(d.all, seen)
	}
	m := &memory{}
	who := audit.Asker{Name: "gw-1", Reason: "configured", Roles: audit.Admin}
	f := follow(t, Config{Name: "siem", Log: l, Sink: m, Desk: d, Who: who})
	until(t, "four lines", func() bool { return len(m.got()) == 4 })
	if err := errors.Join(f.stop(), whole(l, m.got(), 4)); err != nil {
		t.Error(err)
	}
	if d.who != who || d.detail != "to ship to memory:" {
		t.Errorf("%+v, %q", d.who, d.detail)
	}
	got := m.got()
	if s := strings.Join(got, ""); strings.Contains(s, secret) {
		t.Errorf("what nobody named is shipped: %s", s)
	}
	want := `"record":{"caller":"alice","caller.groups":["a","b"],"remote":"127.0.0.1:1","model":"m\u2028\n\"` + strings.Repeat("ü", 123) + `…","status":200,"finish":"[DONE]","rule":"r","findings":{"CARD":3,"EMAIL":1}}}`
	if !strings.Contains(got[0], want) {
		t.Errorf("%s\nwants\n%s", got[0], want)
	}
	if !strings.HasSuffix(got[1], `,"missing":"erased"}`+"\n") || !strings.HasSuffix(got[2], `,"missing":"unreadable"}`+"\n") || strings.Contains(got[3], "record\":{\"c") || strings.Contains(got[3], "missing") {
		t.Errorf("%q", got[1:])
	}

	m = &memory{}
	f = follow(t, Config{Log: l, Sink: m, Desk: d, Who: who, Fields: []string{record.FieldStatus}})
	until(t, "four lines", func() bool { return len(m.got()) == 4 })
	if got := m.got()[0]; !strings.HasSuffix(got, `"record":{"status":200}}`+"\n") {
		t.Error(got)
	}
	for _, name := range []string{"body", "headers", "target", "original.body", "events", "error", "reason", "BODY", ""} {
		if err := CheckFields([]string{name}); err == nil {
			t.Errorf("the field %q can be shipped", name)
		}
	}
}

// Of a reading it is shipped what it was, and not the words that somebody searched for.
func TestWhatWasDone(t *testing.T) {
	for what, want := range map[string]string{
		`search, "the content" caller:alice`: "search", "search, begin* (a further page)": "search", "search, ": "search", "search": "search", "searched": "searched",
		"view, from event 1000 on": "view, from event 1000 on", "erase, refused: a rule": "erase, refused: a rule", "disclose, in vain": "disclose, in vain",
	} {
		if got := string(appendValue(nil, record.FieldWhat, []byte(what))); got != strconv.Quote(want) {
			t.Errorf("of %q %s is shipped", what, got)
		}
	}
}

func FuzzMark(f *testing.F) {
	f.Add(mark{tlogtest.Origin, 7, tlog.Hash{1}}.append(nil))
	f.Add([]byte("tallystick-ship/v1 a 0 " + tlog.Hash{}.String() + "\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := parseMark(b)
		if err == nil && !bytes.Equal(m.append(nil), b) {
			t.Errorf("%q is read as %+v", b, m)
		}
	})
}

// Whatever stands in a record, a line is one line of JSON.
func FuzzLine(f *testing.F) {
	f.Add("model", []byte("m\n\r\u2028\xff"))
	f.Add("findings", []byte(`[["a","b",1e308],["a","b",1e308]]`))
	f.Add("caller.groups", []byte(`["a\nb", null]`))
	f.Add("status", []byte("1e3"))
	entry := heartbeats(f, 0, 1)[0].Entry
	s, err := New(Config{Log: tlogtest.NewLog(f), Sink: &memory{}, Mark: "/nowhere", Desk: &fed{}})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, name string, value []byte) {
		e, _ := record.ParseEntry(entry)
		e.PayloadSize = 1
		line, err := s.line(tlogtest.Origin, &audit.Seen{Found: record.Found{Bytes: entry, Entry: e}, Record: record.Record{{Name: name, Value: value}}})
		if err != nil {
			t.Fatal(err)
		}
		if err := whole(nil, []string{string(line)}, 1); err != nil || bytes.Count(line, []byte("\n")) != 1 {
			t.Errorf("%v: %q", err, line)
		}
		if _, err := message(line); err != nil {
			t.Error(err)
		}
	})
}

// What is delivered at once is bounded in bytes, too.
func TestChunks(t *testing.T) {
	r := record.Record{}
	for _, name := range Fields() {
		r.Add(name, []byte(strings.Repeat("x", maxValue)))
	}
	d := &fed{}
	for i, leaf := range heartbeats(t, 0, tlog.TileWidth) {
		e, err := record.ParseEntry(leaf.Entry)
		if err != nil {
			t.Fatal(err)
		}
		e.PayloadSize = 1
		d.all = append(d.all, audit.Seen{Found: record.Found{Index: uint64(i), Bytes: leaf.Entry, Entry: e}, Record: r})
	}
	l := filled(t, tlog.TileWidth)
	m := &memory{fail: func(_ int, lines [][]byte) error {
		if n := len(bytes.Join(lines, nil)); n > maxChunk {
			t.Errorf("%d bytes at once", n)
		}
		return nil
	}}
	f := follow(t, Config{Log: l, Sink: m, Desk: d, Who: audit.Asker{Name: "gw-1", Reason: "a test"}})
	until(t, "all lines", func() bool { return len(m.got()) == tlog.TileWidth })
	if err := errors.Join(f.stop(), whole(l, m.got(), tlog.TileWidth)); err != nil || m.calls < 2 {
		t.Errorf("%d deliveries, %v", m.calls, err)
	}
}
