package local

import (
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/tlogtest"
)

// TestStory tells the story of tlogtest on a disk, where the process ends well, and on a disk in memory, which also
// loses power.
func TestStory(t *testing.T) {
	closeLog := func(t testing.TB, l tlog.Log) {
		if err := l.(*Log).Close(); err != nil {
			t.Error(err)
		}
	}
	t.Run("disk", func(t *testing.T) {
		t.Parallel()
		tlogtest.Run(t, func(t *testing.T) tlogtest.World {
			dir := t.TempDir()
			large := uint64(0) // tiles of level 2
			if testing.Short() {
				large = 3000
			}
			return tlogtest.World{
				Large: large,
				Open: func(t testing.TB, s tlogtest.Setting) tlog.Log {
					return open(t, dir, Config{Origin: s.Origin, Signer: s.Signer, Verifier: s.Verifier, Latest: s.Latest})
				},
				Close: closeLog,
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
				Close: closeLog,
				Crash: func(t testing.TB, l tlog.Log) {
					// In this order: what is acknowledged after the copy was made would be missing in it.
					l.(*Log).halt(errors.New("power lost"))
					fs = fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 50, RNG: rng})
				},
				Large: 3000,
			}
		})
	})
}
