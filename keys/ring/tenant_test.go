package ring

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/tallystick/tallystick/keys"
)

// tenant is a tenant key that has versions, as Vault's have, and faults of which one can be
// chosen. What it wraps begins with the version, in one byte.
type tenant struct {
	mu       sync.Mutex
	versions []*seal // guarded by mu: version 1 first
	min      int     // guarded by mu: older versions were retired
	fault    fault   // guarded by mu
	asked    int     // guarded by mu
	asking   int     // guarded by mu
	most     int     // guarded by mu: of asking
}

// fault is asked before each question: an error is the answer. It may change the key that
// will be the answer to an unwrapping.
type fault func(ctx context.Context) (wrong func(key []byte) []byte, err error)

var _ Versioned = (*tenant)(nil)

func newTenant() *tenant {
	k := &tenant{min: 1}
	k.rotate()
	return k
}

func (k *tenant) rotate() {
	var key [keySize]byte
	rand.Read(key[:])
	k.mu.Lock()
	defer k.mu.Unlock()
	k.versions = append(k.versions, newSeal(&key))
}

// retire makes versions before min useless for good.
func (k *tenant) retire(min int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.min = min
}

func (k *tenant) newest() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.versions)
}

func (k *tenant) setFault(f fault) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.fault = f
}

// begin counts a question and has its fault.
func (k *tenant) begin(ctx context.Context) (wrong func([]byte) []byte, err error) {
	k.mu.Lock()
	k.asked++
	k.asking++
	k.most = max(k.most, k.asking)
	f := k.fault
	k.mu.Unlock()
	defer func() {
		k.mu.Lock()
		k.asking--
		k.mu.Unlock()
	}()
	if f == nil {
		return nil, ctx.Err()
	}
	return f(ctx)
}

// questions returns how many there were since the last time.
func (k *tenant) questions() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	n := k.asked
	k.asked = 0
	return n
}

func (k *tenant) Wrap(ctx context.Context, dst, key, aad []byte) ([]byte, error) {
	if _, err := k.begin(ctx); err != nil && !errors.Is(err, keys.ErrWrongKey) { // which only an unwrapping can meet
		return nil, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	n := len(k.versions)
	return k.versions[n-1].seal(append(dst, byte(n)), key, aad)
}

func (k *tenant) Unwrap(ctx context.Context, dst, wrapped, aad []byte) ([]byte, error) {
	wrong, err := k.begin(ctx)
	if err != nil {
		return nil, err
	}
	key, err := k.unwrap(wrapped, aad)
	if err != nil {
		return nil, err
	}
	if wrong != nil {
		key = wrong(key)
	}
	return append(dst, key...), nil
}

func (k *tenant) unwrap(wrapped, aad []byte) ([]byte, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	n := k.Version(wrapped)
	if n == 0 || n > len(k.versions) {
		return nil, keys.ErrWrongKey
	}
	if n < k.min {
		return nil, keys.ErrGone
	}
	key, err := k.versions[n-1].open(nil, wrapped[1:], aad)
	if err != nil {
		return nil, keys.ErrWrongKey
	}
	return key, nil
}

func (k *tenant) Version(wrapped []byte) int {
	if len(wrapped) == 0 {
		return 0
	}
	return int(wrapped[0])
}

// loot is what a thief opens who has the files of several disks and may use the tenant key:
// every header is tried with every epoch key, and every slot with every key of its segment,
// wherever that was found. It returns the keys by the disk their slot was on.
func loot(t testing.TB, k *tenant, disks ...map[string][]byte) []map[ID][]byte {
	t.Helper()
	var headers []header
	for _, files := range disks {
		for _, b := range files {
			for _, off := range []int{0, headerTwin} {
				if len(b) < off+headerSize {
					continue
				}
				if h, err := parseHeader(b[off : off+headerSize]); err == nil {
					headers = append(headers, h)
				}
			}
		}
	}
	var epochs [][]byte
	segments := map[uint64]map[string]bool{}
	add := func(id uint64, key []byte) {
		if segments[id] == nil {
			segments[id] = map[string]bool{}
		}
		segments[id][string(key)] = true
	}
	for _, h := range headers {
		aad := h.epochAAD()
		if h.epoch == 0 {
			aad = h.aad()
		}
		key, err := k.unwrap(h.wrapped, aad)
		switch {
		case err != nil:
		case h.epoch == 0:
			add(h.segment, key)
		default:
			epochs = append(epochs, key)
		}
	}
	for _, e := range epochs {
		s := newSeal((*[keySize]byte)(bytes.Clone(e)))
		for _, h := range headers {
			if h.epoch == 0 || h.ofRing() {
				continue
			}
			if key, err := s.open(nil, h.sealed, h.aad()); err == nil {
				add(h.segment, key)
			}
		}
	}
	var out []map[ID][]byte
	for _, files := range disks {
		found := map[ID][]byte{}
		for name, b := range files {
			id := segmentOf(strings.TrimSuffix(name, unfinished))
			if id == 0 || len(b) < headerSize {
				continue
			}
			ring := [4]byte(b[16:])
			for key := range segments[id] {
				s := newSeal((*[keySize]byte)([]byte(key)))
				for n := 0; slotsStart+(n+1)*slotSize <= len(b); n++ {
					id := newID(ring, id, uint32(n))
					if got, err := openSlot((*[slotSize]byte)(b[id.offset():]), id, s); err == nil {
						found[id] = got[:]
					}
				}
			}
		}
		out = append(out, found)
	}
	return out
}
