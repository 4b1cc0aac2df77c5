package search

import (
	"bufio"
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tallystick/tallystick/audit"
	"github.com/tallystick/tallystick/tlog/record"
)

// unlike is a call with words that no other has: in its prompt, its answer, its caller, and in what who decided said.
func unlike(name string, at time.Time) *call {
	return &call{
		id: record.NewID(at), at: at, caller: "caller" + name, email: name + "@example.com", groups: []string{"group" + name}, model: "gpt-5", route: "chat",
		prompt: "the prompt" + name + " of the deploy", answer: "the answer" + name, status: 200, in: 1, out: 2, took: time.Second, outcome: record.Complete,
		ask: []string{"", record.Granted}, by: "boss" + name,
	}
}

// words are those that nothing may be left of.
func (c *call) words() []string {
	name := strings.TrimPrefix(c.caller, "caller")
	return []string{"prompt" + name, "answer" + name, "boss" + name, c.caller, c.email, "group" + name, name}
}

// left says in which file of the index something of a call stands that was forgotten, "" for in none.
func left(t *testing.T, dir string, c *call) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(files) < 2 {
		t.Fatalf("%v, %v", files, err)
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for _, w := range c.words() {
			if bytes.Contains(b, []byte(w)) || bytes.Contains(b, []byte(hex.EncodeToString([]byte(w)))) {
				return filepath.Base(f) + " has " + w
			}
		}
		if bytes.Contains(b, c.id[:]) && filepath.Base(f) == fileName && c.outcome == "" {
			return filepath.Base(f) + " has its id"
		}
	}
	return ""
}

// vocabularyOf returns all terms of an index.
func vocabularyOf(t *testing.T, ix *Index) (terms []string) {
	t.Helper()
	conn, err := ix.s.w.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.ExecContext(t.Context(), "CREATE VIRTUAL TABLE IF NOT EXISTS temp.vocab USING fts5vocab(main, words, row)"); err != nil {
		t.Fatal(err)
	}
	rows, err := conn.QueryContext(t.Context(), "SELECT term FROM temp.vocab")
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var s string
		if err := rows.Scan(&s); err != nil {
			t.Fatal(err)
		}
		terms = append(terms, s)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return terms
}

// Of what is forgotten no word is left: not among the terms, and not in the bytes of any file; whether the session had ended or not,
// and whether the desk says so or the log. What others said stays to be found.
func TestForget(t *testing.T) {
	w := newWorld(t, true)
	at := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	r := rand.New(rand.NewPCG(1, 2))
	var all []*call
	some := func(n int) {
		for range n {
			at = at.Add(time.Second)
			someCall(r, at).record(t, w.testLog)
		}
	}
	for i := range 12 {
		some(40)
		c := unlike(fmt.Sprintf("zq%cxw", 'a'+i), at)
		c.begin(t, w.testLog)
		for _, reason := range c.ask {
			c.decide(t, w.testLog, reason)
		}
		if i%3 > 0 {
			c.end(t, w.testLog) // the others stay open
		}
		all = append(all, c)
		if i%4 == 0 {
			w.caughtUp(t) // so that they lie in several segments
		}
	}
	some(40)
	w.caughtUp(t)
	others := w.find(t, "deploy -caller:callerzq*", 100)
	for i, c := range all {
		for _, word := range c.words()[:2] {
			if word == c.words()[1] && i%3 == 0 {
				continue // it has no answer yet
			}
			if found := w.find(t, word, 10); !slices.Equal(found, []record.ID{c.id}) {
				t.Fatalf("before: %s is in %v", word, found)
			}
		}
	}
	if w.stop(); left(t, w.ix.c.Dir, all[1]) == "" {
		t.Fatal("this test sees nothing")
	}
	w.open(t, w.ix.c.Dir, true)
	for i, c := range all {
		if i%2 == 0 {
			for range 2 { // it may be told twice
				if err := w.ix.Forget(t.Context(), c.id); err != nil {
					t.Fatal(err)
				}
			}
		} else {
			w.erase(c.id)
			w.add(t, record.Entry{Kind: record.Erasure, Session: c.id, Time: at, Reason: "request"}, nil)
			w.caughtUp(t)
		}
		terms := vocabularyOf(t, w.ix)
		for _, word := range c.words() {
			if slices.Contains(terms, word) || slices.ContainsFunc(terms, func(s string) bool { return strings.Contains(s, hex.EncodeToString([]byte(word))) }) {
				t.Errorf("%s is still a term", word)
			}
		}
		if where := left(t, w.ix.c.Dir, c); where != "" {
			t.Errorf("after %d: %s", i, where)
		}
		if found := w.find(t, "session:"+c.id.String(), 10); found != nil {
			t.Errorf("after %d: it is found", i)
		}
	}
	if found := w.find(t, "deploy -caller:callerzq*", 100); !slices.Equal(found, others) {
		t.Errorf("of the others %d are found, of %d", len(found), len(others))
	}
	w.stop()
	for i, c := range all {
		if where := left(t, w.ix.c.Dir, c); where != "" {
			t.Errorf("closed, %d: %s", i, where)
		}
	}
	if b, err := os.ReadFile(filepath.Join(w.ix.c.Dir, fileName)); err != nil || b[20] != 8 { // so much of each page is its checksum
		t.Errorf("pages have no checksums: %v", err)
	}
}

// What was read before it was erased, and comes to be written after it was forgotten, is not written.
func TestForgottenWhileOnItsWay(t *testing.T) {
	w := newWorld(t, true)
	at := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	c := unlike("zqxkv", at)
	read, on := make(chan struct{}), make(chan struct{})
	w.mu.Lock()
	w.hold = func(batch []audit.Seen) {
		if slices.ContainsFunc(batch, func(s audit.Seen) bool { return s.Entry.Session == c.id && s.Entry.Kind == record.Response }) {
			close(read)
			<-on
		}
	}
	w.mu.Unlock()
	c.record(t, w.testLog)
	<-read
	w.mu.Lock()
	w.hold = nil
	w.mu.Unlock()
	w.erase(c.id)
	if err := w.ix.Forget(t.Context(), c.id); err != nil {
		t.Fatal(err)
	}
	close(on)
	w.caughtUp(t)
	if found := w.find(t, "promptzqxkv", 10); found != nil {
		t.Errorf("it is found")
	}
	if where := left(t, w.ix.c.Dir, c); where != "" {
		t.Error(where)
	}
	gone := func() (n int) {
		if err := w.ix.s.w.QueryRow("SELECT count(*) FROM gone").Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	if n := gone(); n != 1 {
		t.Errorf("%d sessions are not to come back", n)
	}
	w.add(t, record.Entry{Kind: record.Erasure, Session: c.id, Time: at, Reason: "request"}, nil)
	w.caughtUp(t)
	if n := gone(); n != 0 {
		t.Errorf("%d sessions are not to come back, of which none can", n)
	}
	// So it is where the erasure is in the same transaction, and was read after the records were.
	d := unlike("zqxkw", at.Add(time.Second))
	w.mu.Lock()
	more := w.more
	w.more = make(chan struct{}) // nobody is told until all of it is there
	w.mu.Unlock()
	d.record(t, w.testLog)
	w.add(t, record.Entry{Kind: record.Erasure, Session: d.id, Time: at, Reason: "request"}, nil)
	close(more)
	w.caughtUp(t)
	if found := w.find(t, "promptzqxkw", 10); found != nil {
		t.Errorf("what was erased at once is found")
	}
	w.erase(d.id)
	// And the same from the start.
	if err := w.ix.Rebuild(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.caughtUp(t)
	if found := w.find(t, "", 10); found != nil {
		t.Errorf("it is found after all")
	}
}

// An index of another log, of another version, damaged, or without its key, is made again, under a new key. The former one is destroyed
// if it was the index's for sure, and not where somebody only named it.
func TestIsMadeAgain(t *testing.T) {
	at := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	fill := func(l *testLog, seed uint64, n int) {
		r := rand.New(rand.NewPCG(seed, 1))
		for i := range n {
			someCall(r, at.Add(time.Duration(i)*time.Second)).record(t, l)
		}
	}
	for _, c := range []struct {
		name string
		sure bool
		harm func(w *world, path string)
	}{
		{"another log", true, func(w *world, _ string) { w.testLog = newTestLog(); fill(w.testLog, 2, 300) }},
		{"a shorter log", true, func(w *world, _ string) { w.testLog = newTestLog(); fill(w.testLog, 2, 10) }},
		{"another version", true, func(w *world, path string) {
			key, _ := w.keys.Open(t.Context(), "key-1")
			s, err := w.ix.c.open(key)
			if err == nil {
				_, err = s.w.Exec("UPDATE meta SET value = 99 WHERE name = 'version'")
				s.close()
			}
			if err != nil {
				t.Fatal(err)
			}
		}},
		{"no key", true, func(w *world, _ string) { w.keys.Erase(t.Context(), "key-1") }},
		{"no file", false, func(w *world, path string) { os.Remove(path) }},
		{"an empty file", false, func(w *world, path string) { os.Truncate(path, 0) }},
		{"half a file", false, func(w *world, path string) { os.Truncate(path, 3*4096) }},
		{"a damaged head", false, func(w *world, path string) { flip(t, path, 17) }},
		{"another key's", false, func(w *world, path string) {
			w.keys.New(t.Context())
			os.WriteFile(filepath.Join(filepath.Dir(path), KeyFile), []byte("key-2\n"), 0o600)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, false)
			fill(w.testLog, 1, 200)
			w.caughtUp(t)
			w.stop()
			c.harm(w, filepath.Join(w.ix.c.Dir, fileName))
			w.open(t, w.ix.c.Dir, false)
			w.caughtUp(t)
			n := 0
			for _, s := range w.seen {
				if s.Entry.Kind == record.Request || s.Entry.Kind == record.Refused {
					n++
				}
			}
			if found := w.find(t, "", 50); len(found) != n {
				t.Errorf("%d sessions are found, of %d", len(found), n)
			}
			w.keys.mu.Lock()
			defer w.keys.mu.Unlock()
			if there := w.keys.keys["key-1"] != nil; there == c.sure {
				t.Errorf("the former key is there: %v", there)
			}
			if w.keys.n > 2 && w.keys.keys["key-2"] == nil {
				t.Error("a key that somebody named was destroyed")
			}
			if is, err := readKeyName(w.ix.c.Dir); err != nil || is != fmt.Sprint("key-", w.keys.n) {
				t.Errorf("the key is %s, %v", is, err)
			}
		})
	}
}

// Entries that a hostile writer copied, so that sessions begin twice or end twice, keep no others out and change nothing.
func TestCopiedEntries(t *testing.T) {
	w := newWorld(t, false)
	at := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	r := rand.New(rand.NewPCG(7, 7))
	for i := range 50 {
		someCall(r, at.Add(time.Duration(i)*time.Second)).record(t, w.testLog)
	}
	w.caughtUp(t)
	before := w.find(t, "", 50)
	for range 2 { // of those that are in the index, and of those that come in one go
		for _, s := range slices.Clone(w.seen) {
			w.add(t, s.Entry, s.Record)
		}
		w.caughtUp(t)
		if got := w.find(t, "", 50); !slices.Equal(got, before) {
			t.Fatalf("%d sessions are found, of %d", len(got), len(before))
		}
		if err := w.ix.Rebuild(t.Context()); err != nil {
			t.Fatal(err)
		}
		w.caughtUp(t)
		if got := w.find(t, "", 50); !slices.Equal(got, before) {
			t.Fatalf("made again, %d sessions are found, of %d", len(got), len(before))
		}
	}
	last := someCall(r, at.Add(time.Hour))
	last.record(t, w.testLog)
	w.caughtUp(t)
	if got := w.find(t, "session:"+last.id.String(), 50); len(got) != 1 {
		t.Error("what came behind is not found")
	}
}

// An index that is not wanted any more goes with its key, and what is not known to be its key stays.
func TestRemove(t *testing.T) {
	for _, c := range []struct {
		name string
		stay bool
		harm func(w *world, dir string)
	}{
		{"whole", false, func(*world, string) {}},
		{"its key gone", false, func(w *world, _ string) { w.keys.Erase(t.Context(), "key-1") }},
		{"damaged", true, func(w *world, dir string) { flip(t, filepath.Join(dir, fileName), 17) }},
		{"another's key named", true, func(w *world, dir string) {
			w.keys.New(t.Context())
			os.WriteFile(filepath.Join(dir, KeyFile), []byte("key-2\n"), 0o600)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, false)
			someCall(rand.New(rand.NewPCG(1, 1)), time.Now()).record(t, w.testLog)
			w.caughtUp(t)
			w.stop()
			dir := w.ix.c.Dir
			c.harm(w, dir)
			for range 2 { // there is none any more, which is no error
				if err := Remove(t.Context(), w.ix.c); err != nil {
					t.Fatal(err)
				}
			}
			if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
				t.Errorf("there is still %v, %v", left, err)
			}
			w.keys.mu.Lock()
			defer w.keys.mu.Unlock()
			if there := w.keys.keys["key-1"] != nil; there != c.stay || w.keys.n > 1 && w.keys.keys["key-2"] == nil {
				t.Errorf("of its key is there: %v, and in all %d", there, len(w.keys.keys))
			}
		})
	}
}

// flip changes one bit of a file.
func flip(t *testing.T, path string, at int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var b [1]byte
	if _, err := f.ReadAt(b[:], at); err == nil {
		b[0] ^= 4
		_, err = f.WriteAt(b[:], at)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// Whichever page of the file is damaged, an answer is right or there is none, and after a while there is one again.
func TestDamageIsNoticed(t *testing.T) {
	w := newWorld(t, false)
	r := rand.New(rand.NewPCG(3, 4))
	for i := range 150 {
		someCall(r, time.Date(2026, 11, 1, 0, 0, i, 0, time.UTC)).record(t, w.testLog)
	}
	w.caughtUp(t)
	queries := []string{"", "the", `"the of"`, "card", "status:404", "caller:a*", "tokens:>2000", "-key"}
	var right [][]record.ID
	for _, q := range queries {
		right = append(right, w.find(t, q, 50))
	}
	path := filepath.Join(w.ix.c.Dir, fileName)
	noticed := 0
	for range 12 {
		w.stop()
		st, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		flip(t, path, r.Int64N(st.Size()))
		w.open(t, w.ix.c.Dir, false)
		before := w.keys.n
		for i, q := range queries {
			want, err := audit.ParseQuery(q, time.Now())
			if err != nil {
				t.Fatal(err)
			}
			p, err := w.ix.Find(t.Context(), want, "", 200)
			if err == nil && p.Indexed == uint64(len(w.seen)) && len(p.Hits) != len(right[i]) {
				t.Fatalf("%q: %d found, of %d", q, len(p.Hits), len(right[i]))
			}
		}
		w.caughtUp(t)
		if w.keys.n > before || before > noticed+1 {
			noticed = w.keys.n
		}
	}
	if noticed == 0 {
		t.Error("no damage was noticed")
	}
}

// childEnv names the directory in which this program, run again, follows a log until it is killed.
const childEnv = "SEARCH_TEST_DIR"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childEnv); dir != "" {
		follow(dir)
		return
	}
	os.Exit(m.Run())
}

// killedLog is what parent and child have in common: a log, and sessions in it that are forgotten.
func killedLog(t testing.TB) (l *testLog, forgotten []*call) {
	l = newTestLog()
	r := rand.New(rand.NewPCG(5, 6))
	at := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	for i := range 1500 {
		at = at.Add(time.Second)
		if i%25 == 7 {
			c := unlike(fmt.Sprintf("zq%c%cxw", 'a'+i/25/26, 'a'+i/25%26), at)
			copy(c.id[6:], fmt.Sprintf("forget%04d", i))
			c.record(t, l)
			forgotten = append(forgotten, c)
			continue
		}
		c := someCall(r, at)
		copy(c.id[6:], fmt.Sprintf("session%03d", i%1000)) // the same in both processes
		c.record(t, l)
	}
	return l, forgotten
}

// follow is the child: it follows the log, forgets sessions, and says which.
func follow(dir string) {
	t := &stubborn{}
	l, forgotten := killedLog(t)
	keys := &testKeys{}
	keys.New(context.Background())
	ix, err := Open(context.Background(), Config{Dir: dir, Keys: keys, Name: "index", Log: slog.New(slog.DiscardHandler), naked: true})
	if err != nil {
		t.Fatal(err)
	}
	go ix.Run(context.Background(), slow{l})
	fmt.Println("begun")
	for {
		for _, c := range forgotten {
			if ix.Indexed() > l.indexOf(c.id) {
				if err := ix.Forget(context.Background(), c.id); err != nil {
					t.Fatal(err)
				}
				fmt.Println("forgot", c.id)
			}
		}
		time.Sleep(time.Millisecond)
	}
}

// stubborn ends the process where a test would fail.
type stubborn struct{ testing.TB }

func (*stubborn) Fatal(a ...any) { fmt.Println(a...); os.Exit(3) }

// slow gives entries a few at a time, so that there are many transactions to be killed in.
type slow struct{ *testLog }

func (s slow) Feed(ctx context.Context, who audit.Asker, detail string, from uint64, each func(context.Context, []audit.Seen) error) error {
	return s.testLog.Feed(ctx, who, detail, from, func(ctx context.Context, batch []audit.Seen) error {
		for part := range slices.Chunk(batch, 16) {
			if err := each(ctx, part); err != nil {
				return err
			}
			time.Sleep(2 * time.Millisecond)
		}
		return nil
	})
}

func (l *testLog) indexOf(id record.ID) uint64 {
	return uint64(slices.IndexFunc(l.seen, func(s audit.Seen) bool { return s.Entry.Session == id }))
}

// Killed at any time, the index holds what its position says, no more and no less; what it said it had forgotten is in none of its
// files, and does not come back.
func TestKilled(t *testing.T) {
	dir := t.TempDir()
	l, forgotten := killedLog(t)
	keys := &testKeys{}
	begun, err := Open(t.Context(), Config{Dir: dir, Keys: keys, Name: "index", Log: slog.New(slog.DiscardHandler), naked: true})
	if err == nil {
		err = begun.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(9, uint64(time.Now().UnixNano())))
	said := make(map[string]bool)
	for round := range 6 {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), childEnv+"="+dir)
		out, err := cmd.StdoutPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		for n := 1 + r.IntN(20); n > 0 && lines.Scan(); n-- {
			if id, ok := strings.CutPrefix(lines.Text(), "forgot "); ok {
				said[id] = true
			} else if lines.Text() != "begun" {
				t.Fatal(lines.Text())
			}
		}
		time.Sleep(time.Duration(r.IntN(30)) * time.Millisecond)
		cmd.Process.Kill()
		for lines.Scan() {
			if id, ok := strings.CutPrefix(lines.Text(), "forgot "); ok {
				said[id] = true
			}
		}
		cmd.Wait()
		for _, c := range forgotten {
			if said[c.id.String()] {
				if where := left(t, dir, c); where != "" {
					t.Fatalf("round %d: %s", round, where)
				}
			}
		}
		ix, err := Open(t.Context(), Config{Dir: dir, Keys: keys, Name: "index", Log: slog.New(slog.DiscardHandler), naked: true})
		if err != nil {
			t.Fatal(err)
		}
		if len(keys.keys) != 1 || keys.keys["key-1"] == nil {
			t.Fatalf("round %d: it was made again", round)
		}
		w := &world{testLog: l, ix: ix}
		position := ix.Indexed()
		found := w.find(t, "", 100)
		kept := make(map[record.ID]bool)
		for _, id := range found {
			kept[id] = true
		}
		for _, s := range l.seen[:position] {
			id := s.Entry.Session
			is := slices.ContainsFunc(forgotten, func(c *call) bool { return c.id == id })
			if !kept[id] && !is || kept[id] && said[id.String()] {
				t.Fatalf("round %d: at %d, session %s is found: %v", round, position, id, kept[id])
			}
		}
		for _, s := range l.seen[position:] {
			if kept[s.Entry.Session] && l.indexOf(s.Entry.Session) >= position {
				t.Fatalf("round %d: at %d, session %s is found", round, position, s.Entry.Session)
			}
		}
		if err := ix.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if len(said) == 0 {
		t.Error("nothing was forgotten: this test sees nothing")
	}
}
