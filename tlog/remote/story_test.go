package remote

import (
	"math/rand/v2"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/tlogtest"
)

func newRand() *rand.Rand { return rand.New(rand.NewPCG(1, 2)) }

// TestStory tells the story of tlogtest to a log behind TLS on a disk, and to one behind plain HTTP whose two ends crash,
// together and each by itself.
func TestStory(t *testing.T) {
	t.Run("disk", func(t *testing.T) {
		t.Parallel()
		tlogtest.Run(t, func(t *testing.T) tlogtest.World {
			s := newSite(t)
			s.dir, s.fs = t.TempDir(), vfs.Default
			a := newAuthority(t)
			s.server.TLS = a.server
			s.server.Clients = []Client{{Name: "gateway", Keys: []string{a.pin}, Writers: []string{testWriter}, Payloads: true, Discard: true}}
			large := uint64(0) // tiles of level 2
			if testing.Short() {
				large = 3000
			}
			return tlogtest.World{
				Large: large, Elsewhere: true,
				Open: func(t testing.TB, set tlogtest.Setting) tlog.Log {
					s.set = set
					s.start().quiet(t)
					c := s.config()
					c.Token, c.TLS = nil, a.client
					return s.client(c)
				},
				Close: func(t testing.TB, l tlog.Log) {
					l.(*Log).Close()
					s.down()
				},
			}
		})
	})
	t.Run("crash", func(t *testing.T) {
		t.Parallel()
		tlogtest.Run(t, func(t *testing.T) tlogtest.World {
			s := newSite(t)
			crashes := 0
			return tlogtest.World{
				Large: 3000, Elsewhere: true,
				Open: func(t testing.TB, set tlogtest.Setting) tlog.Log {
					s.set = set
					if s.up == nil {
						s.start()
					}
					s.up.quiet(t) // for the story looks at a log that stands still
					return s.client(s.config())
				},
				Close: func(t testing.TB, l tlog.Log) {
					l.(*Log).Close()
					s.down()
				},
				Crash: func(t testing.TB, l tlog.Log) {
					crashes++
					switch crashes % 3 {
					case 0: // the client
						s.crashClient(l.(*Log))
					case 1: // the server, which comes back while the client goes on
						s.crash(50)
						s.start()
					case 2: // both
						s.crash(50)
					}
				},
			}
		})
	})
}
