package main

import (
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/record"
)

// A siem takes lines by POST, and is down for a while now and then.
type siem struct {
	mu    sync.Mutex
	token string // that is shown
	down  bool
	lines []string
}

func (s *siem) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case req.Header.Get("Authorization") != "Bearer "+s.token:
		w.WriteHeader(http.StatusUnauthorized)
	case s.down:
		w.WriteHeader(http.StatusServiceUnavailable)
	default:
		z, err := gzip.NewReader(req.Body)
		if err == nil {
			var b []byte
			if b, err = io.ReadAll(z); err == nil {
				s.lines = append(s.lines, strings.Split(strings.TrimSuffix(string(b), "\n"), "\n")...)
				return
			}
		}
		w.WriteHeader(http.StatusBadRequest)
	}
}

func (s *siem) set(down bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.down = down
}

// A shippedLine is one, as whoever receives it reads it.
type shippedLine struct {
	ID     string
	Index  uint64
	Leaf   tlog.Hash
	Entry  json.RawMessage
	Record map[string]any
}

// received returns the lines by their ids, and how many entries are missing from the first to the last.
func received(t *testing.T, lines []string) (by map[string]shippedLine, missing int) {
	t.Helper()
	by = make(map[string]shippedLine)
	last := uint64(0)
	for _, l := range lines {
		var s shippedLine
		if err := json.Unmarshal([]byte(l), &s); err != nil {
			continue // a death tore it
		}
		if tlog.HashLeaf(s.Entry) != s.Leaf {
			t.Fatalf("%s is not what was logged", s.ID)
		}
		by[s.ID] = s
		last = max(last, s.Index)
	}
	return by, int(last) + 1 - len(by)
}

// A gateway ships metadata to an endpoint, and the log's own process the public log to a file; both are killed again and again, and the
// endpoint is away for a while. Nothing is missing, no content is among it, and that metadata is shipped is on record.
func TestShip(t *testing.T) {
	a := newApartment(t, false)
	there := &siem{token: "tok-of-the-siem"}
	srv := httptest.NewServer(there)
	defer srv.Close()
	more := func(name, text string) {
		t.Helper()
		f, err := os.OpenFile(filepath.Join(a.dir, name), os.O_APPEND|os.O_WRONLY, 0o600)
		if err == nil {
			_, err = f.WriteString(text)
		}
		if err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
	if err := os.WriteFile(filepath.Join(a.dir, "siem.token"), []byte(there.token+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	more("gw.yaml", fmt.Sprintf("ship:\n  - {name: siem, to: '%s/ingest?k=v', content: metadata, token: {file: siem.token}}\n", srv.URL))
	more("log.yaml", "ship:\n  - {name: archive, to: 'file:archive.jsonl'}\n")
	a.log.start()
	a.gw.start()
	a.answers()
	const content = "what-nobody-may-ship"
	for i := range 4 {
		for range 3 {
			if _, _, err := a.chat(http.DefaultClient, content, false); err != nil {
				t.Fatal(err)
			}
		}
		there.set(i%2 == 0)
		switch i {
		case 1:
			a.gw.kill()
			a.gw.start()
		case 2:
			a.log.kill()
			a.log.start()
		}
		a.answers()
	}
	there.set(false)
	a.settled()
	size := 0
	a.entries(func(record.Entry) { size++ })
	archive := func() []string {
		b, err := os.ReadFile(filepath.Join(a.dir, "archive.jsonl"))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		return strings.Split(strings.TrimSuffix(string(b), "\n"), "\n")
	}
	ingested := func() []string {
		there.mu.Lock()
		defer there.mu.Unlock()
		return append([]string(nil), there.lines...)
	}
	for end := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) { // other processes ship
		one, gaps := received(t, archive())
		two, holes := received(t, ingested())
		calls, told := 0, 0
		for _, s := range two {
			if s.Record["caller"] == "alice" && s.Record["model"] == "fake-1" && s.Record["route"] == "openai" {
				calls++
			}
			if what, _ := s.Record["what"].(string); strings.HasPrefix(what, "derive, to ship to "+srv.URL+", from entry ") {
				told++
			}
		}
		if len(one) >= size && len(two) >= size && gaps == 0 && holes == 0 && calls >= 12 && told > 0 {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("of %d entries, %d and %d are shipped, with %d and %d missing; %d calls are told of, and %d times that this is shipped\n%s\n%s",
				size, len(one), len(two), gaps, holes, calls, told, a.log.out, a.gw.out)
		}
	}
	for name, lines := range map[string][]string{"the endpoint": ingested(), "the archive": archive()} {
		if s := strings.Join(lines, "\n"); strings.Contains(s, content) || strings.Contains(s, there.token) || strings.Contains(s, a.vars["API_KEY"]) {
			t.Errorf("%s has what nobody may ship", name)
		}
	}
	if s := strings.Join(archive(), "\n"); strings.Contains(s, "alice") || strings.Contains(s, `"record":{"caller`) {
		t.Error("the archive has metadata")
	}

	// The same by hand, from the running log and from the closed one.
	out := filepath.Join(a.dir, "byhand.jsonl")
	run := func(args ...string) {
		t.Helper()
		if _, errs, code := a.tally(append([]string{"ship", "--once", "--to", "file:" + out}, args...)...); code != 0 {
			t.Fatalf("ship %v: exit %d: %s", args, code, errs)
		}
	}
	run("--log", a.vars["LOG_URL"])
	a.gw.stop()
	a.log.stop()
	run("--config", "log.yaml")
	b, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSuffix(string(b), "\n"), "\n")
	if by, gaps := received(t, lines); gaps != 0 || len(by) < size || len(by) != len(lines) {
		t.Errorf("%d lines of %d entries, %d missing", len(lines), len(by), gaps)
	}
	for _, args := range [][]string{{}, {"--to", "ftp://x"}, {"--to", "https://h/"}, {"--to", "http://10.0.0.1/", "--mark", "m"}, {"--to", "file:x", "y"}} {
		if _, errs, code := a.tally(append([]string{"ship", "--config", "log.yaml"}, args...)...); code != 64 {
			t.Errorf("ship %v: exit %d: %s", args, code, errs)
		}
	}
}
