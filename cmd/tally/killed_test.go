package main

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tallystick/tallystick/tlog/record"
)

// A ledger, outside the process that is killed, of what it acknowledged.
type ledger struct {
	mu    sync.Mutex
	whole map[string]bool // sessions whose answer came to its end
	begun map[string]bool // sessions whose answer began
	// At the answer that brings fuse to zero the process is killed, before anything else happens: what is answered
	// before it is recorded is lost then.
	fuse int
	kill func()
}

// The process is killed at random under load, again and again, on one data directory. No session that was answered whole
// may be missing, no session that was begun may be missing, every one that was open ends as interrupted, and the log
// verifies from outside.
func TestKilled(t *testing.T) {
	kills := 6
	if s := os.Getenv("CRASHES"); s != "" {
		var err error
		if kills, err = strconv.Atoi(s); err != nil {
			t.Fatalf("CRASHES: %v", err)
		}
	}
	seed := uint64(time.Now().UnixNano())
	rnd := rand.New(rand.NewPCG(seed, 0))
	t.Logf("%d kills, seed %d", kills, seed)
	p := newPlace(t)
	l := &ledger{whole: make(map[string]bool), begun: make(map[string]bool)}
	early := 0
	for i := range kills {
		p.launch("--no-samples")
		if rnd.IntN(8) == 0 {
			// While it starts, wherever that is.
			time.Sleep(time.Duration(rnd.IntN(400)) * time.Millisecond)
			p.kill()
			early++
			continue
		}
		if err := p.ready(30 * time.Second); err != nil {
			t.Fatalf("after %d kills: %v\n%s", i, err, p.out)
		}
		stop, blown := make(chan struct{}), make(chan struct{})
		l.fuse, l.kill = 0, sync.OnceFunc(func() { p.cmd.Process.Kill(); close(blown) })
		if rnd.IntN(2) == 0 {
			l.fuse = 1 + rnd.IntN(60)
		}
		fused := l.fuse > 0
		var callers sync.WaitGroup
		for n := range 12 {
			callers.Add(1)
			go func() {
				defer callers.Done()
				l.call(p, n, stop)
			}()
		}
		if fused {
			select {
			case <-blown:
			case <-time.After(3 * time.Second):
			}
		} else {
			time.Sleep(time.Duration(20+rnd.IntN(600)) * time.Millisecond)
		}
		p.kill()
		close(stop)
		callers.Wait()
		if i%20 == 19 {
			p.check(l)
		}
	}
	interrupted := 0
	for _, o := range p.check(l) {
		if o == record.Interrupted {
			interrupted++
		}
	}
	t.Logf("%d kills, %d of them while starting; %d sessions answered whole, %d begun, %d interrupted", kills, early, len(l.whole), len(l.begun), interrupted)
	if len(l.whole) == 0 || kills > 20 && interrupted == 0 {
		t.Error("nothing was answered, or nothing interrupted: this run has shown nothing")
	}
}

// call makes calls of all kinds until it is told to stop or nobody answers.
func (l *ledger) call(p *place, n int, stop chan struct{}) {
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	for i := 0; ; i++ {
		select {
		case <-stop:
			return
		default:
		}
		prompt, stream := fmt.Sprintf("caller %d call %d", n, i), false
		switch (n + i) % 4 {
		case 0:
			prompt, stream = "/slow 5ms "+prompt, true
		case 1:
			prompt = "/size 20KB " + prompt
		case 2:
			prompt, stream = "/slow 40ms "+prompt, true
		}
		session, answer, err := p.chat(client, prompt, stream)
		l.mu.Lock()
		if session != "" {
			l.begun[session] = true
			if err == nil && (!stream || strings.Contains(answer, "data: [DONE]")) {
				if l.fuse--; l.fuse == 0 {
					l.kill()
				}
				l.whole[session] = true
			}
		}
		l.mu.Unlock()
		if err != nil && session == "" {
			return
		}
	}
}

// check starts the place again in order, holds the log against the ledger, stops it, and returns how sessions ended.
func (p *place) check(l *ledger) (outcomes map[string]record.Outcome) {
	t := p.t
	t.Helper()
	p.start("--no-samples")
	// What the last kill left open is closed beside the serving of new calls.
	deadline := time.Now().Add(20 * time.Second)
	for {
		outcomes = p.outcomes()
		open := 0
		for _, o := range outcomes {
			if o == "" {
				open++
			}
		}
		if open == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d sessions are still open", open)
		}
		time.Sleep(50 * time.Millisecond) // another process closes them
	}
	for s := range l.whole {
		if o := outcomes[s]; o != record.Complete {
			t.Errorf("the session %s was answered whole and is on record as %q", s, o)
		}
	}
	for s := range l.begun {
		if _, ok := outcomes[s]; !ok {
			t.Errorf("the session %s was begun and is not on record", s)
		}
	}
	out, errs, code := p.verify("log", "--url", p.vars["LOG_URL"], "--policy", p.vars["POLICY"])
	if code != 0 {
		t.Fatalf("tally-verify log: exit %d\n%s%s", code, out, errs)
	}
	p.stop()
	return outcomes
}
