package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/tallystick/tallystick/keys/file"
	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/tlogtest"
)

// A submitter is a log with what its witness said of it, which is written down outside of the process that is killed.
type submitter struct {
	*tlogtest.Log

	mu       sync.Mutex
	answered uint64 // the largest size that was cosigned
	cosigned int
}

// body writes a submission of the tree of size after that of old.
func (s *submitter) body(ctx context.Context, old, size uint64) ([]byte, error) {
	signed, err := s.CheckpointAt(ctx, size)
	if err != nil {
		return nil, err
	}
	proof, err := tlog.Tiles{Reader: s, Size: size}.Consistency(ctx, old)
	if err != nil {
		return nil, err
	}
	b := fmt.Appendf(nil, "old %d\n", old)
	for _, h := range proof {
		b = append(append(b, h.String()...), '\n')
	}
	return append(append(b, '\n'), signed...), nil
}

// grow publishes a few entries more and returns the size.
func (s *submitter) grow(ctx context.Context, n int) (uint64, error) {
	leaves := make([]tlog.Leaf, n)
	for i := range leaves {
		leaves[i].Entry = []byte("an entry")
	}
	if _, err := s.Append(ctx, leaves...); err != nil {
		return 0, err
	}
	signed, err := s.Publish()
	if err != nil {
		return 0, err
	}
	c, err := tlog.UnverifiedCheckpoint(signed)
	return c.Size, err
}

// run submits until nobody answers any more. Whatever is cosigned must not be below what was before it was asked.
func (s *submitter) run(url string, verifier note.Verifier, rnd *rand.Rand) error {
	client := &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	ctx := context.Background()
	old := uint64(0)
	for {
		size, err := s.grow(ctx, 1+rnd.IntN(3))
		if err != nil {
			return err
		}
		s.mu.Lock()
		before := s.answered
		s.mu.Unlock()
		if old > size {
			continue // another submitter of this log was faster
		}
		b, err := s.body(ctx, old, size)
		if err != nil {
			return err
		}
		resp, err := client.Post(url+"add-checkpoint", "text/plain", bytes.NewReader(b))
		if err != nil {
			return nil // killed
		}
		answer, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil {
			return nil
		}
		switch resp.StatusCode {
		case http.StatusOK:
			if size < before {
				return fmt.Errorf("%s: cosigned %d after %d", s.Origin(), size, before)
			}
			if err := cosigned(b, answer, verifier); err != nil {
				return err
			}
			s.mu.Lock()
			s.answered = max(s.answered, size)
			s.cosigned++
			s.mu.Unlock()
			old = size
		case http.StatusConflict:
			now, err := strconv.ParseUint(strings.TrimSuffix(string(answer), "\n"), 10, 64)
			if err != nil {
				return err
			}
			if now < before {
				return fmt.Errorf("%s: it is at %d and was at %d", s.Origin(), now, before)
			}
			old = now
		default:
			return fmt.Errorf("%d %s", resp.StatusCode, answer)
		}
	}
}

// cosigned verifies an answer over the checkpoint of a request.
func cosigned(request, answer []byte, verifier note.Verifier) error {
	_, signed, _ := bytes.Cut(request, []byte("\n\n"))
	text, _, _ := bytes.Cut(signed, []byte("\n\n"))
	_, err := note.Open(append(append(bytes.Clone(text), "\n\n"...), answer...), note.VerifierList(verifier))
	return err
}

// The process is killed at random while several submit for each of several logs, again and again on one directory. A witness
// that has answered with a size never accepts an older one.
func TestKilled(t *testing.T) {
	kills := 8
	if s := os.Getenv("CRASHES"); s != "" {
		var err error
		if kills, err = strconv.Atoi(s); err != nil {
			t.Fatalf("CRASHES: %v", err)
		}
	}
	seed := uint64(time.Now().UnixNano())
	rnd := rand.New(rand.NewPCG(seed, 0))
	t.Logf("%d kills, seed %d", kills, seed)

	dir := t.TempDir()
	key, err := file.CreateCosigner(filepath.Join(dir, "key"), "witness.example/killed", file.Ed25519Cosigner)
	if err != nil {
		t.Fatal(err)
	}
	verifier, err := tlog.NewCosignatureVerifier(key.VerifierKey())
	if err != nil {
		t.Fatal(err)
	}
	var logs []*submitter
	var list strings.Builder
	for i := range 3 {
		l := &submitter{Log: tlogtest.Start(t, tlogtest.Config{Origin: fmt.Sprintf("log.example/%d", i), Manual: true})}
		logs = append(logs, l)
		fmt.Fprintf(&list, "log %s\n", l.VerifierKey())
	}
	list.WriteString("quorum none\n")
	if err := os.WriteFile(filepath.Join(dir, "logs"), []byte(list.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	for kill := range kills {
		p, err := launch(dir, "--listen", "127.0.0.1:0", "--keys", "key", "--logs", "logs", "--state", "state", "--rate", "-1", "--rate-log", "-1")
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range logs {
			if err := l.check(t.Context(), p.urls["submit"]); err != nil {
				t.Errorf("after %d kills: %v", kill, err)
			}
		}
		var wg sync.WaitGroup
		errs := make(chan error, 3*len(logs))
		for i := range 3 * len(logs) {
			rnd := rand.New(rand.NewPCG(rnd.Uint64(), 0))
			wg.Go(func() { errs <- logs[i%len(logs)].run(p.urls["submit"], verifier, rnd) })
		}
		time.Sleep(time.Duration(rnd.IntN(300)) * time.Millisecond)
		p.cmd.Process.Kill()
		wg.Wait()
		p.cmd.Wait()
		for range cap(errs) {
			if err := <-errs; err != nil {
				t.Errorf("at kill %d: %v", kill, err)
			}
		}
	}
	n := 0
	for _, l := range logs {
		n += l.cosigned
	}
	t.Logf("%d kills, %d checkpoints cosigned", kills, n)
	if n < kills {
		t.Error("hardly anything was cosigned: this run has shown nothing")
	}
}

// check asks a witness that has just started what it knows: all that was answered, by name and by number.
func (s *submitter) check(ctx context.Context, url string) error {
	if s.answered == 0 {
		return nil
	}
	size, err := s.grow(ctx, 1)
	if err != nil {
		return err
	}
	for _, old := range []uint64{0, s.answered - 1} {
		b, err := s.body(ctx, old, size)
		if old != 0 {
			b, err = s.sub(ctx, old)
		}
		if err != nil {
			return err
		}
		resp, err := http.Post(url+"add-checkpoint", "text/plain", bytes.NewReader(b))
		if err != nil {
			return err
		}
		answer, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil {
			return err
		}
		now, err := strconv.ParseUint(strings.TrimSuffix(string(answer), "\n"), 10, 64)
		if err != nil || resp.StatusCode != http.StatusConflict || now < s.answered {
			return fmt.Errorf("%s: it answered %d from %d, and had answered 200 for %d: %d %q", s.Origin(), resp.StatusCode, old, s.answered, now, answer)
		}
	}
	return nil
}

// sub writes a submission of a tree that is no larger than old, the old size that it states: if the witness has forgotten
// what came after, it takes it.
func (s *submitter) sub(ctx context.Context, old uint64) ([]byte, error) {
	sizes, err := s.Sizes(ctx, 0, 1<<20)
	if err != nil {
		return nil, err
	}
	for i := len(sizes) - 1; i >= 0; i-- {
		if sizes[i] <= old {
			return s.body(ctx, sizes[i], sizes[i])
		}
	}
	return nil, errors.New("no smaller checkpoint was published")
}
