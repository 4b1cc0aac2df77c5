package assemble

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tallystick/tallystick/cmd/internal/config"
	"github.com/tallystick/tallystick/gateway"
)

// guarded is written to by one at a time.
type guarded struct {
	mu *sync.Mutex
	w  io.Writer
}

func (g guarded) Write(p []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.w.Write(p)
}

// A policy's file is followed: what is whole comes into force, what has a mistake in it is told once and changes nothing.
func TestLaw(t *testing.T) {
	path := filepath.Join(t.TempDir(), "policy.yaml")
	synctest.Test(t, func(t *testing.T) {
		write := func(text string) {
			t.Helper()
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		const (
			first  = "otherwise: allow\n"
			second = "otherwise: refuse\n"
			third  = "otherwise: ask\n"
			bad    = "otherwise: maybe\n"
		)
		write(first)
		g := &config.Gateway{Policy: path, Routes: []config.Route{{Name: "openai"}}}
		p, err := readPolicy(g)
		if err != nil {
			t.Fatal(err)
		}
		var mu sync.Mutex // over what follows, and what is said
		var said bytes.Buffer
		var inForce []string
		var down error
		l := newLaw(g, p, func(_ context.Context, p gateway.Policy) error {
			mu.Lock()
			defer mu.Unlock()
			if down == nil {
				inForce = append(inForce, string(p.Text()))
			}
			return down
		}, slog.New(slog.NewTextHandler(guarded{&mu, &said}, nil)))
		goes := func(err error) {
			mu.Lock()
			defer mu.Unlock()
			down = err
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- l.run(ctx) }()
		// after waits some looks long and says what came into force meanwhile, and what was said.
		after := func(looks int) (texts []string, words string) {
			time.Sleep(time.Duration(looks) * lookAtPolicy)
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			texts, words = inForce, said.String()
			inForce = nil
			said.Reset()
			return texts, words
		}
		time.Sleep(lookAtPolicy / 2)
		is := func(what string, texts []string, words string, want []string, word string, times int) {
			t.Helper()
			if !slices.Equal(texts, want) || strings.Count(words, word) != times {
				t.Errorf("%s: in force came %q, and it said %q", what, texts, words)
			}
		}

		texts, words := after(5)
		is("nothing has changed", texts, words, nil, "level", 0)
		write(second[:len(second)-1]) // half of it
		texts, words = after(1)
		is("half a file", texts, words, nil, "level", 0)
		write(second)
		texts, words = after(3)
		is("another file", texts, words, []string{second}, "level", 0)
		write(bad)
		texts, words = after(9)
		is("a mistake", texts, words, nil, "policy.yaml:1:12", 1)
		os.Remove(path)
		texts, words = after(9)
		is("it is gone", texts, words, nil, "no such file", 1)
		write(second)
		texts, words = after(9)
		is("as it was before", texts, words, nil, "level", 0)
		write(bad)
		texts, words = after(9)
		is("the same mistake again", texts, words, nil, "policy.yaml:1:12", 1)

		// Whoever asks does not wait for a second look, and is told of a mistake again.
		l.ask(g)
		texts, words = after(0)
		is("asked, with a mistake", texts, words, nil, "policy.yaml:1:12", 1)
		write(third)
		l.ask(g)
		texts, words = after(0)
		is("asked", texts, words, []string{third}, "level", 0)

		// What the log does not take comes into force when it does.
		goes(errors.New("the log is away"))
		write(first)
		texts, words = after(20)
		is("the log is away", texts, words, nil, "the log is away", 1)
		goes(nil)
		texts, words = after(1)
		is("the log is back", texts, words, []string{first}, "level", 0)

		// Another configuration can name another file, and not none.
		l.ask(&config.Gateway{})
		write(second)
		texts, words = after(3)
		is("no file", texts, words, []string{second}, "names no policy any more", 1)
		other := filepath.Join(filepath.Dir(path), "other.yaml")
		if err := os.WriteFile(other, []byte(third), 0o600); err != nil {
			t.Fatal(err)
		}
		l.ask(&config.Gateway{Policy: other})
		texts, words = after(0)
		is("another name", texts, words, []string{third}, "level", 0)
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}
