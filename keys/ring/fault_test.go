package ring

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// frozen is a closed ring of two segments, of which a test damages copies.
type frozen struct {
	dir   string
	world world
	last  ID     // the last key of the damaged segment
	seg   string // its file's name
	bytes []byte // and content
}

func freeze(t testing.TB) frozen {
	z := frozen{dir: t.TempDir(), world: world{}}
	cfg := Config{Batch: 4, Segment: 4}
	r := open(t, z.dir, cfg)
	z.world.take(t, r, 4)
	r.Close()
	r = open(t, z.dir, cfg) // another life: another segment
	ids := z.world.take(t, r, 4)
	z.world.erase(t, r, ids[1])
	r.Close()
	z.last = ids[3]
	z.seg = segmentName(z.last.segment())
	var err error
	if z.bytes, err = os.ReadFile(filepath.Join(z.dir, z.seg)); err != nil {
		t.Fatal(err)
	}
	return z
}

// opened opens the ring with b in place of a file, and closes it at the end of f.
func (z frozen) opened(t testing.TB, name string, b []byte, f func(r *Ring)) {
	t.Helper()
	path := filepath.Join(z.dir, name)
	old, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := Open(z.dir, Config{KEK: newKEK(1), Batch: 1})
	if err != nil {
		t.Fatal(err)
	}
	f(r)
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, old, 0o600); err != nil {
		t.Fatal(err)
	}
}

// whole returns the errors wanted when every key of the damaged segment is lost: erased
// ones are still known to be.
func (z frozen) whole(err error) map[ID]error {
	but := map[ID]error{}
	for id, key := range z.world {
		if id.segment() == z.last.segment() && key != nil {
			but[id] = err
		}
	}
	return but
}

// A segment may end anywhere within its last slot: that key is unknown, the others are what
// they were, and new keys are made.
func TestTornSlot(t *testing.T) {
	z := freeze(t)
	for cut := 1; cut <= slotSize; cut++ {
		z.opened(t, z.seg, z.bytes[:len(z.bytes)-cut], func(r *Ring) {
			z.world.check(t, r, map[ID]error{z.last: ErrUnknown})
			if err := r.Erase(t.Context(), z.last); !errors.Is(err, ErrUnknown) {
				t.Fatalf("%d bytes short: Erase: %v", cut, err)
			}
			id, _, err := r.New(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if _, dup := z.world[id]; dup {
				t.Fatal("an ID was handed out twice")
			}
			if err := os.Remove(r.path(id.segment())); err != nil { // for the next row
				t.Fatal(err)
			}
		})
	}
	// A file that is longer but was never written there.
	z.opened(t, z.seg, append(z.bytes[:len(z.bytes)-slotSize:len(z.bytes)-slotSize], make([]byte, 10*slotSize)...), func(r *Ring) {
		z.world.check(t, r, map[ID]error{z.last: ErrUnknown})
		if err := r.Erase(t.Context(), z.last); !errors.Is(err, ErrUnknown) {
			t.Fatalf("Erase: %v", err)
		}
	})
	// And one that ends in its header, or before it.
	for _, n := range []int{0, 1, headerSize - 1, headerSize, headerTwin + headerSize, slotsStart} {
		z.opened(t, z.seg, z.bytes[:n], func(r *Ring) {
			but := z.whole(ErrUnknown)
			for id, key := range z.world {
				if id.segment() == z.last.segment() && key == nil {
					but[id] = ErrUnknown
				}
			}
			z.world.check(t, r, but)
		})
	}
}

// A flipped bit anywhere in a slot costs that key and no other, and never gives a wrong one.
// The key can still be erased.
func TestFlippedBitInSlot(t *testing.T) {
	z := freeze(t)
	for i := range 8 * slotSize {
		b := append([]byte(nil), z.bytes...)
		b[len(b)-slotSize+i/8] ^= 1 << (i % 8)
		z.opened(t, z.seg, b, func(r *Ring) {
			z.world.check(t, r, map[ID]error{z.last: ErrCorrupt})
			if i%8 != 0 {
				return
			}
			if err := r.Erase(t.Context(), z.last); err != nil {
				t.Fatal(err)
			}
			z.world.check(t, r, map[ID]error{z.last: ErrErased})
		})
	}
	// In an erased slot: damage is told, and it does not come back to life.
	for i := range slotSize {
		b := append([]byte(nil), z.bytes...)
		b[slotsStart+slotSize+i] ^= 0x10
		z.opened(t, z.seg, b, func(r *Ring) {
			but := map[ID]error{}
			for id, key := range z.world {
				if key == nil {
					but[id] = ErrCorrupt
				}
			}
			z.world.check(t, r, but)
		})
	}
}

// A flipped bit in one header of a file is survived, in both costs the segment and no other.
func TestFlippedBitInHeader(t *testing.T) {
	z := freeze(t)
	ringBytes, err := os.ReadFile(filepath.Join(z.dir, ringFile))
	if err != nil {
		t.Fatal(err)
	}
	for i := range headerSize {
		if used := 98 + 60; i > used+4 && i < headerSize-8 && i%32 != 0 {
			continue // zeros up to the CRC: a few of them will do
		}
		flip := func(b []byte, twins ...int) []byte {
			b = append([]byte(nil), b...)
			for _, at := range twins {
				b[at+i] ^= 1 << (i % 8)
			}
			return b
		}
		for _, one := range []int{0, headerTwin} {
			z.opened(t, z.seg, flip(z.bytes, one), func(r *Ring) { z.world.check(t, r, nil) })
			z.opened(t, ringFile, flip(ringBytes, one), func(r *Ring) { z.world.check(t, r, nil) })
		}
		z.opened(t, z.seg, flip(z.bytes, 0, headerTwin), func(r *Ring) {
			z.world.check(t, r, z.whole(ErrCorrupt))
		})
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, ringFile), flip(ringBytes, 0, headerTwin), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(dir, Config{KEK: newKEK(1)}); !errors.Is(err, ErrCorrupt) {
			t.Fatalf("both headers of the ring damaged at %d: %v", i, err)
		}
	}
}

// Whoever moves sealed keys about, and puts the CRCs right, gets errors and never a key under
// another's name.
func TestMovedBytes(t *testing.T) {
	z := freeze(t)
	var other []byte // the first life's segment
	for _, path := range segments(t, z.dir) {
		if filepath.Base(path) != z.seg {
			var err error
			if other, err = os.ReadFile(path); err != nil {
				t.Fatal(err)
			}
		}
	}
	last := len(z.bytes) - slotSize
	moved := func(from []byte, crc bool) []byte {
		b := append([]byte(nil), z.bytes...)
		copy(b[last:], from[:slotSize])
		if crc {
			slot := [slotSize]byte(b[last:])
			fixCRC(&slot, z.last)
			copy(b[last:], slot[:])
		}
		return b
	}
	for _, crc := range []bool{false, true} {
		for _, from := range [][]byte{z.bytes[slotsStart:], other[last:], other[slotsStart:]} {
			z.opened(t, z.seg, moved(from, crc), func(r *Ring) {
				z.world.check(t, r, map[ID]error{z.last: ErrCorrupt})
			})
		}
	}
	// A whole segment under another's name; only the header of another; a segment of
	// another ring; the ring's file.
	z.opened(t, z.seg, other, func(r *Ring) {
		but := z.whole(ErrCorrupt)
		for id, key := range z.world {
			if id.segment() == z.last.segment() && key == nil {
				but[id] = ErrCorrupt
			}
		}
		z.world.check(t, r, but)
	})
	swapped := append(append([]byte(nil), other[:slotsStart]...), z.bytes[slotsStart:]...)
	z.opened(t, z.seg, swapped, func(r *Ring) { z.world.check(t, r, z.whole(ErrCorrupt)) })

	foreign := header{kind: kindSegment, ring: [4]byte{1, 2, 3, 4}, segment: z.last.segment(), epoch: 1, sealed: make([]byte, sealedSize), wrapped: []byte{1}}
	swapped = append(appendHeaders(nil, foreign), z.bytes[slotsStart:]...)
	z.opened(t, z.seg, swapped, func(r *Ring) { z.world.check(t, r, z.whole(ErrCorrupt)) })

	ringBytes, err := os.ReadFile(filepath.Join(z.dir, ringFile))
	if err != nil {
		t.Fatal(err)
	}
	swapped = append(append([]byte(nil), ringBytes[:slotsStart]...), z.bytes[slotsStart:]...)
	z.opened(t, z.seg, swapped, func(r *Ring) { z.world.check(t, r, z.whole(ErrCorrupt)) })

	// The right header, wrapped by another key-encryption key.
	h, _, err := readHeader(strings.NewReader(string(z.bytes)))
	if err != nil {
		t.Fatal(err)
	}
	h.wrapped, _ = newKEK(2).Wrap(t.Context(), nil, make([]byte, 32), h.epochAAD())
	swapped = append(appendHeaders(nil, h), z.bytes[slotsStart:]...)
	z.opened(t, z.seg, swapped, func(r *Ring) { z.world.check(t, r, z.whole(ErrWrongKEK)) })
}

func TestWrongKEK(t *testing.T) {
	z := freeze(t)
	if _, err := Open(z.dir, Config{KEK: newKEK(2)}); !errors.Is(err, ErrWrongKEK) {
		t.Fatalf("Open: %v", err)
	}
	z.world.check(t, open(t, z.dir, Config{}), nil) // no harm was done, and nothing is locked
}

func TestUnknown(t *testing.T) {
	z := freeze(t)
	r := open(t, z.dir, Config{})
	ring := z.last
	ring[0] ^= 1
	segment := z.last
	segment[4] ^= 1
	slot := z.last
	slot[15]++
	far := z.last
	copy(far[12:], "\xff\xff\xff\xff")
	for name, id := range map[string]ID{"zero": {}, "ring": ring, "segment": segment, "slot": slot, "far": far} {
		if key, err := r.Open(t.Context(), id); !errors.Is(err, ErrUnknown) || key.Bytes() != nil {
			t.Errorf("%s: Open: %v", name, err)
		}
		if err := r.Erase(t.Context(), id); !errors.Is(err, ErrUnknown) {
			t.Errorf("%s: Erase: %v", name, err)
		}
	}
	z.world.check(t, r, nil)
}

// A ring without its file is not made into a new ring; what an unfinished creation left is.
func TestRingFile(t *testing.T) {
	z := freeze(t)
	path := filepath.Join(z.dir, ringFile)
	if err := os.Rename(path, path+".away"); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(z.dir, Config{KEK: newKEK(1)}); !errors.Is(err, ErrCorrupt) {
		t.Fatalf("segments without a ring's file: %v", err)
	}
	if err := os.Rename(path+".away", path); err != nil {
		t.Fatal(err)
	}
	z.world.check(t, open(t, z.dir, Config{}), nil)

	for _, left := range []int{0, 1, slotsStart, 2 * slotsStart} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, ringFile+".new"), []byte(strings.Repeat("x", left)), 0o600); err != nil {
			t.Fatal(err)
		}
		r := open(t, dir, Config{})
		w := world{}
		w.take(t, r, 2)
		r.Close()
		w.check(t, open(t, dir, Config{}), nil)
	}

	for name, content := range map[string]string{"empty": "", "text": "hello", "short": kindRing, "header of a segment": string(z.bytes[:slotsStart])} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, ringFile), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(dir, Config{KEK: newKEK(1)}); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestInUse(t *testing.T) {
	dir := t.TempDir()
	r := open(t, dir, Config{})
	_, err := Open(dir, Config{KEK: newKEK(1)})
	if !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), dir) {
		t.Fatalf("a second handle: %v", err)
	}
	other := func() string {
		cmd := exec.Command(os.Args[0], "-test.run=^TestOtherProcess$", "-test.v")
		cmd.Env = append(os.Environ(), "RING_DIR="+dir)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return string(out)
	}
	if out := other(); !strings.Contains(out, "other process: ring "+dir+": another process has it open") {
		t.Fatalf("a second process:\n%s", out)
	}
	r.Close()
	if out := other(); !strings.Contains(out, "other process: <nil>") {
		t.Fatalf("a second process, the first being done:\n%s", out)
	}
}

// TestOtherProcess is the other process of TestInUse, and nothing by itself.
func TestOtherProcess(t *testing.T) {
	dir := os.Getenv("RING_DIR")
	if dir == "" {
		return
	}
	_, err := Open(dir, Config{KEK: newKEK(1)})
	fmt.Println("other process:", err)
}

// Whatever fails while keys are made, New says so, no key of that batch is handed out, the
// segment is left alone for good, and the next New works.
func TestMakingFails(t *testing.T) {
	for _, op := range []string{"create", "write", "short", "sync", "syncdir"} {
		for _, used := range []bool{false, true} { // whether the segment was in use before
			t.Run(fmt.Sprintf("%s used=%v", op, used), func(t *testing.T) {
				d := newMemDisk()
				r := open(t, t.TempDir(), Config{Batch: 4, Segment: 8, disk: d.disk()})
				w := world{}
				if used {
					w.take(t, r, 4)
					if op == "create" || op == "syncdir" {
						w.take(t, r, 4) // these come with a new segment
					}
				}
				files := d.files()
				var failed string
				d.short = op == "short"
				want := errInjected
				if d.short {
					want = io.ErrShortWrite
				}
				d.setFault(func(o, path string) error {
					if o == op || op == "short" && o == "write" {
						failed = path
						return errInjected
					}
					return nil
				})
				for range 3 {
					if _, _, err := r.New(t.Context()); !errors.Is(err, want) {
						t.Fatalf("New: %v, want %v", err, want)
					}
				}
				if d.files() != files {
					t.Errorf("%d files are left of attempts that failed", d.files()-files)
				}
				d.setFault(func(o, path string) error {
					if path == failed && (o == "write" || o == "sync") {
						t.Errorf("%s again on %s", o, path)
					}
					return nil
				})
				w.check(t, r, nil)
				w.take(t, r, 10)
				d.setFault(nil)
				w.check(t, r, nil)
			})
		}
	}
}

// Erase that fails says so, and works when done again; reading that fails is no verdict.
func TestErasingFails(t *testing.T) {
	for _, op := range []string{"open", "read", "write", "sync"} {
		d := newMemDisk()
		r := open(t, t.TempDir(), Config{Batch: 4, disk: d.disk()})
		w := world{}
		id := w.take(t, r, 3)[1]
		d.setFault(func(o, path string) error {
			if o == op {
				return errInjected
			}
			return nil
		})
		for range 2 {
			if err := r.Erase(t.Context(), id); !errors.Is(err, errInjected) {
				t.Errorf("%s fails: Erase: %v", op, err)
			}
		}
		if op == "open" || op == "read" {
			_, err := r.Open(t.Context(), id)
			if !errors.Is(err, errInjected) || errors.Is(err, ErrUnknown) || errors.Is(err, ErrCorrupt) || errors.Is(err, ErrErased) {
				t.Errorf("%s fails: Open: %v", op, err)
			}
		}
		d.setFault(nil)
		w.erase(t, r, id)
		w.check(t, r, nil)
		// The failed sync may have lost the zeros without a word later: what counts
		// is that they were written again before the sync that worked.
		for path, n := range d.inodes {
			if string(n.now) != string(n.synced) {
				t.Errorf("%s fails: %s is not on the disk", op, path)
			}
		}
	}
}

// The power is cut after every few operations, with any part of what was not synced on the
// disk: what was handed out opens, what was erased stays so, and no ID comes twice.
func TestPowerCut(t *testing.T) {
	cuts, kept := 0, 0
	for seed := range uint64(20) {
		rng := rand.New(rand.NewPCG(seed, 1))
		dir := t.TempDir()
		d := newMemDisk()
		cfg := Config{Batch: 1 + rng.IntN(20)}
		cfg.Segment = cfg.Batch + rng.IntN(40)
		w := world{}
		var ids []ID
		for range 25 {
			cfg.disk = d.disk()
			r := open(t, dir, cfg)
			w.check(t, r, nil)
			doubtful := map[ID]bool{}
			for range rng.IntN(8) {
				switch rng.IntN(4) {
				case 0: // a sync fails, and so perhaps an Erase or a New
					failing := rng.IntN(3)
					d.setFault(func(op, path string) error {
						if op == "sync" && failing == 0 {
							return errInjected
						}
						failing--
						return nil
					})
					if len(ids) > 0 && rng.IntN(2) == 0 {
						id := ids[rng.IntN(len(ids))]
						if err := r.Erase(t.Context(), id); err == nil {
							w[id] = nil
						} else if w[id] != nil {
							doubtful[id] = true
						}
					} else {
						for range rng.IntN(30) {
							if id, key, err := r.New(t.Context()); err == nil {
								w[id] = append([]byte(nil), key.Bytes()...)
								ids = append(ids, id)
							}
						}
					}
					d.setFault(nil)
				case 1:
					if len(ids) > 0 {
						w.erase(t, r, ids[rng.IntN(len(ids))])
					}
				default:
					ids = append(ids, w.take(t, r, 1+rng.IntN(40))...)
				}
			}
			d = d.crash(rng)
			cuts++
			r.Close() // after the cut: what it does now does not reach the disk
			// An Erase that failed has either happened or not, and is done again.
			cfg.disk = d.disk()
			r = open(t, dir, cfg)
			for id := range doubtful {
				if key, err := r.Open(t.Context(), id); err == nil && w[id] != nil && string(key.Bytes()) != string(w[id]) {
					t.Fatalf("%v: a wrong key", id)
				} else if err != nil && !errors.Is(err, ErrErased) {
					t.Fatalf("%v: neither there nor erased: %v", id, err)
				}
				w.erase(t, r, id)
			}
			w.check(t, r, nil)
			r.Close()
			for _, key := range w {
				if key != nil {
					kept++
				}
			}
		}
	}
	t.Logf("%d power cuts, %d keys opened after them", cuts, kept)
}
