package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tallystick/tallystick/gateway"
	"github.com/tallystick/tallystick/tlog/record"
	"github.com/tallystick/tallystick/tlog/record/mask/masktest"
)

// The process is killed while it streams what must be masked, in every spelling that is promised. It is in none of its files then,
// nor after the next start has put on record what was interrupted, nor in what is exported of that or was said in between.
func TestKilledLeaksNothing(t *testing.T) {
	cases, err := masktest.Bypasses()
	if err != nil {
		t.Fatal(err)
	}
	leaks := masktest.NewLeaks(cases)
	p := newPlace(t)
	p.start("--no-samples")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var streams sync.WaitGroup
	var mu sync.Mutex
	var begun []string
	for _, c := range cases {
		if !c.MustMask {
			continue
		}
		// The value is in the first half of what is said, and the model falls silent behind it.
		prompt, err := json.Marshal("/events 10 /stall 8 /say " + c.Text + " " + strings.Repeat("and so on ", 3+len(c.Text)/10))
		if err != nil {
			t.Fatal(err)
		}
		streams.Go(func() {
			req, err := p.request(ctx, "/v1/chat/completions", fmt.Sprintf(`{"model":"fake-1","stream":true,"messages":[{"role":"user","content":%s}]}`, prompt))
			if err != nil {
				t.Error(err)
				return
			}
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Errorf("%s: %v", c.ID, err)
				return
			}
			go func() { <-ctx.Done(); resp.Body.Close() }() // it is held open until the process is dead
			events := 0
			for s := bufio.NewScanner(resp.Body); events < 8 && s.Scan(); {
				if strings.HasPrefix(s.Text(), "data: ") {
					events++
				}
			}
			if events < 8 {
				t.Errorf("%s: %d events, with status %s", c.ID, events, resp.Status)
			}
			mu.Lock()
			begun = append(begun, resp.Header.Get(gateway.SessionHeader))
			mu.Unlock()
		})
	}
	streams.Wait()
	p.kill()
	said := p.out.String()
	clean := func(when string) {
		t.Helper()
		journal := 0
		for _, where := range []string{p.data, p.state} {
			for path, b := range readTree(t, where) {
				if found := leaks.In(b); found != "" {
					t.Errorf("%s, %s has %s", when, path, found)
				}
				if strings.Contains(path, "journal") {
					journal += len(b)
				}
			}
		}
		if when == "killed" && journal == 0 {
			t.Error("nothing is in the journal: this test sees nothing")
		}
	}
	clean("killed")
	p.start("--no-samples")
	await(t, "the log has published", func() bool {
		resp, err := http.Get(p.vars["LOG_URL"] + "/checkpoint")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
	await(t, "what was interrupted is on record", func() bool {
		all, n := p.outcomes(), 0
		for _, id := range begun {
			if all[id] == record.Interrupted {
				n++
			}
		}
		return n == len(begun)
	})
	out := filepath.Join(t.TempDir(), "bundle")
	for i := 0; i < len(begun); i += 4 { // each is a process
		if _, stderr, code := p.tally("export", begun[i], "--data", p.data, "-o", out); code != 0 {
			t.Fatalf("exit %d: %s", code, stderr)
		}
		b, err := os.ReadFile(out)
		if err != nil {
			t.Fatal(err)
		}
		if found := leaks.In(b); found != "" {
			t.Errorf("the bundle of %s has %s", begun[i], found)
		}
		if n := strings.Count(string(b), "⟦"); n < 2 || !strings.Contains(string(b), "so on") {
			t.Errorf("the bundle of %s has %d masks: %s", begun[i], n, b)
		}
	}
	p.stop()
	clean("stopped")
	if found := leaks.In([]byte(said + p.out.String())); found != "" {
		t.Errorf("the process said %s", found)
	}
}
