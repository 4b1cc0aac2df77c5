package local

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/tlogtest"
	"golang.org/x/mod/sumdb/note"
)

// TestStory tells the story of tlogtest on a disk, where the process ends well, and on a disk in memory, which also
// loses power.
func TestStory(t *testing.T) {
	t.Run("disk", func(t *testing.T) {
		t.Parallel()
		tlogtest.Run(t, func(t *testing.T) tlogtest.World {
			dir := t.TempDir()
			return tlogtest.World{
				Open: func(t testing.TB, s tlogtest.Setting) tlog.Log {
					return open(t, dir, Config{Origin: s.Origin, Signer: s.Signer, Verifier: s.Verifier, Latest: s.Latest})
				},
				Close: func(t testing.TB, l tlog.Log) {
					if err := l.(*Log).Close(); err != nil {
						t.Error(err)
					}
				},
			}
		})
	})
	t.Run("power", func(t *testing.T) {
		t.Parallel()
		tlogtest.Run(t, func(t *testing.T) tlogtest.World {
			fs := vfs.NewCrashableMem()
			rng := rand.New(rand.NewPCG(1, 2))
			return tlogtest.World{
				Open: func(t testing.TB, s tlogtest.Setting) tlog.Log {
					return open(t, "/log", Config{Origin: s.Origin, Signer: s.Signer, Verifier: s.Verifier, Latest: s.Latest, FS: fs})
				},
				Close: func(t testing.TB, l tlog.Log) {
					if err := l.(*Log).Close(); err != nil {
						t.Error(err)
					}
				},
				Crash: func(t testing.TB, l tlog.Log) {
					fs = fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 50, RNG: rng})
					l.(*Log).halt(errors.New("power lost"))
				},
				Large: 3000,
			}
		})
	})
}

// open opens a log for a test with intervals that suit one.
func open(t testing.TB, dir string, c Config) *Log {
	t.Helper()
	c = testing_(t, c)
	l, err := Open(dir, c)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Quarantined(); err != nil {
		t.Fatal(err)
	}
	return l
}

func testing_(t testing.TB, c Config) Config {
	if c.Origin == "" {
		c.Origin = "log.example/local"
	}
	signer, vkey := tlogtest.Key(c.Origin)
	if c.Signer == nil {
		c.Signer = signer
	}
	if c.Verifier == nil {
		var err error
		if c.Verifier, err = note.NewVerifier(vkey); err != nil {
			t.Fatal(err)
		}
	}
	if c.Interval == 0 {
		c.Interval = 5 * time.Millisecond
	}
	if os.Getenv("LOG") != "" {
		c.Logger = slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	return c
}

var _ = fmt.Sprint
var _ sync.Mutex
var _ context.Context
