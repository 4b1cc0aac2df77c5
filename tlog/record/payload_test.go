package record_test

import (
	"archive/zip"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/tallystick/tallystick/tlog"
	. "github.com/tallystick/tallystick/tlog/record"
)

func newCoder(t testing.TB) *Coder {
	t.Helper()
	c, err := NewCoder(runtime.GOMAXPROCS(0))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

var testKey = func() []byte { k := hashOf("key"); return k[:] }()

// Records of every size from one byte to beyond the window go in and come out, many at a time and with their buffers
// used again.
func TestSealOpen(t *testing.T) {
	c := newCoder(t)
	rnd := rand.New(rand.NewPCG(1, 1))
	noise := make([]byte, 3<<20)
	for i := range noise {
		noise[i] = byte(rnd.Uint32())
	}
	text := bytes.Repeat([]byte("data: {\"choices\":[{\"delta\":{\"content\":\"word \"}}]}\n\n"), 60_000)
	var wg sync.WaitGroup
	for n, size := range []int{0, 1, 31, 32, 195, 196, 197, 198, 255, 256, 257, 900, 1000, 1100, 4000, 65535, 65536, 131_072, 1 << 20, 1<<20 + 1, 3 << 20} {
		wg.Go(func() {
			for _, value := range [][]byte{make([]byte, size), noise[:size], text[:min(size, len(text))]} {
				var r Record
				r.Add(FieldSession, []byte("s"))
				r.Add(FieldBody, value)
				b := Binding{Kind: Response, Session: idOf(fmt.Sprint(n)), Root: r.Root()}
				sealed, err := c.Seal(r, testKey, "k", b)
				if err != nil {
					t.Errorf("%d bytes: %v", size, err)
					return
				}
				if cap(sealed) > len(sealed)+len(sealed)/8+64 {
					t.Errorf("%d bytes: a payload of %d holds on to %d", size, len(sealed), cap(sealed))
				}
				got, err := c.Open(sealed, testKey, b)
				if err != nil || len(got) != 2 || got[1].Salt != r[1].Salt || !bytes.Equal(got[1].Value, value) {
					t.Errorf("%d bytes: %d fields, %v", size, len(got), err)
				}
				plain, err := openPayload(sealed, testKey, "response", b.Session.String(), b.Root[:])
				if want, _ := r.Append(nil); err != nil || !bytes.Equal(plain, want) {
					t.Errorf("%d bytes: the second reading: %v", size, err)
				}
				again, err := c.Seal(r, testKey, "k", b)
				if err != nil || bytes.Equal(again[:20], sealed[:20]) {
					t.Errorf("%d bytes: one nonce twice, %v", size, err)
				}
			}
		})
	}
	wg.Wait()
}

func TestSealRefuses(t *testing.T) {
	c := newCoder(t)
	r := exampleRecords()[1]
	b := Binding{Kind: Response, Root: r.Root()}
	big := Record{{Name: "a", Value: make([]byte, MaxRecord-20)}}
	for name, f := range map[string]func() ([]byte, error){
		"no key":        func() ([]byte, error) { return c.Seal(r, nil, "k", b) },
		"a short key":   func() ([]byte, error) { return c.Seal(r, testKey[:16], "k", b) },
		"no key id":     func() ([]byte, error) { return c.Seal(r, testKey, "", b) },
		"a long key id": func() ([]byte, error) { return c.Seal(r, testKey, strings.Repeat("k", MaxKeyID+1), b) },
		"no record":     func() ([]byte, error) { return c.Seal(nil, testKey, "k", b) },
		"a large one":   func() ([]byte, error) { return c.Seal(big, testKey, "k", b) },
	} {
		if p, err := f(); err == nil || p != nil {
			t.Errorf("%s: %d bytes, %v", name, len(p), err)
		} else if name == "a large one" && !errors.Is(err, tlog.ErrTooLarge) {
			t.Error(err)
		}
	}
	if _, err := NewCoder(-1); err == nil {
		t.Error("a coder of fewer than no workers")
	}
}

// Every bit of a payload counts, and so does every byte of its length.
func TestPayloadEveryBit(t *testing.T) {
	c := newCoder(t)
	r := exampleRecords()[2]
	b := Binding{Kind: Request, Session: idOf("s"), Root: r.Root()}
	p, err := c.Seal(r, testKey, "key/1", b)
	if err != nil {
		t.Fatal(err)
	}
	for i := range p {
		for bit := range 8 {
			p[i] ^= 1 << bit
			if _, err := c.Open(p, testKey, b); err == nil {
				t.Fatalf("opens with bit %d of byte %d flipped", bit, i)
			} else if i >= 5 && !errors.Is(err, ErrSealed) {
				t.Fatalf("byte %d: %v", i, err)
			}
			p[i] ^= 1 << bit
		}
		if _, err := c.Open(p[:i], testKey, b); err == nil {
			t.Fatalf("opens after %d bytes of %d", i, len(p))
		}
	}
	for i := range testKey {
		k := bytes.Clone(testKey)
		k[i] ^= 1
		if _, err := c.Open(p, k, b); !errors.Is(err, ErrSealed) {
			t.Fatal(err)
		}
	}
	for name, change := range map[string]func(*Binding){
		"kind": func(b *Binding) { b.Kind = Response }, "no kind": func(b *Binding) { b.Kind = "" },
		"session": func(b *Binding) { b.Session[15] ^= 1 }, "no session": func(b *Binding) { b.Session = ID{} },
		"root": func(b *Binding) { b.Root[0] ^= 1 },
		// What leaves the kind must not be able to enter what follows it.
		"a letter moved": func(b *Binding) { b.Kind, b.Session[0] = "reques", 't' },
	} {
		other := b
		change(&other)
		if _, err := c.Open(p, testKey, other); !errors.Is(err, ErrSealed) {
			t.Errorf("another %s: %v", name, err)
		}
	}
	if _, err := c.Open(p, testKey, b); err != nil {
		t.Error(err)
	}
	if _, err := KeyOf(p[:20]); err == nil {
		t.Error("the key of a payload that ends early")
	}
}

// A corpus is frames by name, and what those that are good unpack to.
type corpus struct{ frames, want map[string][]byte }

func readCorpus(t testing.TB) corpus {
	t.Helper()
	c := corpus{map[string][]byte{}, map[string][]byte{}}
	for _, name := range []string{"good", "bad", "decode-oss", "decode-regression"} {
		z, err := zip.OpenReader(filepath.Join("testdata", "zstd", "klauspost", name+".zip"))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range z.File {
			r, err := f.Open()
			if err != nil {
				t.Fatal(err)
			}
			b, err := io.ReadAll(r)
			if err != nil {
				t.Fatal(err)
			}
			if strings.HasSuffix(f.Name, ".zst") || strings.HasPrefix(name, "decode") {
				c.frames[name+"/"+f.Name] = b
			} else if name == "good" {
				c.want[name+"/"+f.Name+".zst"] = b
			}
		}
		z.Close()
	}
	files, err := filepath.Glob(filepath.Join("testdata", "zstd", "facebook", "*", "*.zst"))
	if err != nil || len(files) != 7 {
		t.Fatal(files, err)
	}
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		c.frames["facebook/"+filepath.Base(filepath.Dir(name))+"/"+filepath.Base(name)] = b
	}
	c.want["facebook/good/empty-block.zst"] = []byte{}
	c.want["facebook/good/rle-first-block.zst"] = make([]byte, 1<<20)
	c.want["facebook/good/block-128k.zst"] = nil // not known; it must unpack
	c.want["facebook/good/zeroSeq_2B.zst"] = nil
	return c
}

// No frame makes the decoder panic or hang; none that is bad passes; those that are good and of the form that payloads
// have unpack to what they were made of.
func TestZstdCorpora(t *testing.T) {
	c := newCoder(t)
	k := readCorpus(t)
	good, other, bad := 0, 0, 0
	for name, frame := range k.frames {
		got, err := c.Unpack(frame)
		want, isGood := k.want[name]
		switch {
		case !isGood:
			if err == nil && !strings.Contains(name, "2274d31e") {
				t.Errorf("%s: unpacks to %d bytes", name, len(got))
			}
			bad++
		case err == nil:
			if want != nil && !bytes.Equal(got, want) {
				t.Errorf("%s: unpacks to other bytes", name)
			}
			good++
		default:
			// Good, and not one frame that states its size: then it is refused for that.
			if oneFrame(frame) == nil {
				t.Errorf("%s: %v", name, err)
			}
			other++
		}
		// Cut, and with every byte wrong once: an error or any bytes, but an end.
		if len(frame) < 1000 {
			for i := range frame {
				c.Unpack(frame[:i])
				m := bytes.Clone(frame)
				for _, x := range []byte{1, 0x80, 0xff} {
					m[i] ^= x
					c.Unpack(m)
				}
			}
		}
	}
	t.Logf("%d good frames, %d good ones that no payload has, %d bad ones", good, other, bad)
	if good < 4 || bad < 30 {
		t.Error("the corpora are not what they were")
	}
}

// allocated returns how many bytes f makes the program ask for.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// streamed is a frame of zeros made by a real compressor that cannot know how many will come.
func streamed(t testing.TB, size int, opts ...zstd.EOption) []byte {
	t.Helper()
	var out bytes.Buffer
	e, err := zstd.NewWriter(&out, append(opts, zstd.WithEncoderConcurrency(1))...)
	if err != nil {
		t.Fatal(err)
	}
	zeros := make([]byte, 1<<20)
	for ; size > 0; size -= len(zeros) {
		if _, err := e.Write(zeros); err != nil {
			t.Fatal(err)
		}
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// A small payload cannot make its reader find room for a large record, whatever it states, by whoever it was sealed.
func TestBombs(t *testing.T) {
	c := newCoder(t)
	const gib = 1 << 30
	var many []byte
	for range gib >> 24 {
		many = append(many, bomb(16<<20, true)...)
	}
	claim := func(size uint64) []byte {
		f := rawFrame([]byte("x"))
		f = append([]byte{0x28, 0xb5, 0x2f, 0xfd, 0xe0, 0, 0, 0, 0, 0, 0, 0, 0}, f[9:]...)
		for i := range 8 {
			f[5+i] = byte(size >> (8 * i))
		}
		return f
	}
	lie := bomb(gib, true)
	copy(lie[5:], []byte{0, 0, 1, 0, 0, 0, 0, 0})
	for name, b := range map[string][]byte{
		"1 GiB, streamed":                              streamed(t, gib),
		"256 MiB, streamed, a small window":            streamed(t, gib/4, zstd.WithWindowSize(1<<10)),
		"1 GiB, stated":                                bomb(gib, true),
		"1 GiB, not stated":                            bomb(gib, false),
		"1 GiB, stated as 64 KiB":                      lie,
		"64 frames of 16 MiB":                          many,
		"a small frame, then 1 GiB":                    append(rawFrame([]byte("x")), bomb(gib, false)...),
		"a small frame, then 1 GiB stated":             append(rawFrame([]byte("x")), bomb(gib, true)...),
		"a skippable frame, then 1 GiB":                append([]byte("\x50\x2a\x4d\x18\x00\x00\x00\x00"), bomb(gib, true)...),
		"a byte that claims 192 MiB":                   claim(MaxRecord),
		"a byte that claims 192 MiB, with a window":    append(append([]byte{0x28, 0xb5, 0x2f, 0xfd, 0xc0, 0x38}, claim(MaxRecord)[5:13]...), 9, 0, 0, 'x'),
		"a byte that claims 2^64-1":                    claim(1<<64 - 1),
		"a byte that claims 2^63":                      claim(1 << 63),
		"192 MiB and a byte, stated":                   bomb(MaxRecord+1, true),
		"1 GiB, stated, a window of 3.75 TiB":          append([]byte{0x28, 0xb5, 0x2f, 0xfd, 0xc0, 0xff, 0, 0, 0, 0x40, 0, 0, 0, 0}, bomb(gib, true)[13:]...),
		"16 MiB, stated, a window of 3.75 TiB":         append([]byte{0x28, 0xb5, 0x2f, 0xfd, 0xc0, 0xff, 0, 0, 0, 1, 0, 0, 0, 0}, bomb(16<<20, true)[13:]...),
		"1 GiB of empty blocks":                        append(append([]byte{0x28, 0xb5, 0x2f, 0xfd, 0xa0, 0, 0, 0, 1}, make([]byte, 3*8192)...), 1, 0, 0),
		"a dictionary's id and 1 GiB":                  append([]byte{0x28, 0xb5, 0x2f, 0xfd, 0x03, 0x38, 1, 0, 0, 0}, bomb(gib, false)[6:]...),
		"blocks that state more than a block can have": append([]byte{0x28, 0xb5, 0x2f, 0xfd, 0xa0, 0, 0, 0, 8}, bytes.Repeat([]byte{0xfa, 0xff, 0xff, 0}, 1024)...),
	} {
		// Sealed with the right key for the right entry: only the bomb itself is wrong.
		root := hashOf("root")
		p := sealWith(t, b, testKey, make([]byte, 12), "k", Binding{Kind: Response, Root: root})
		var err error
		begin := time.Now()
		n := allocated(func() { _, err = c.Open(p, testKey, Binding{Kind: Response, Root: root}) })
		took := time.Since(begin)
		if err == nil {
			t.Errorf("%s: opens", name)
		}
		if limit := uint64(64<<20 + len(p)); n > limit {
			t.Errorf("%s: %d bytes of payload made %d MiB of memory: %v", name, len(p), n>>20, err)
		}
		t.Logf("%-45s %7d bytes of payload, %6d KiB of memory, %8v: %v", name, len(p), n>>10, took.Round(time.Microsecond), err)
	}
}

// A frame may be as large as a record and no larger.
func TestUnpackLimit(t *testing.T) {
	if testing.Short() {
		t.Skip("unpacks 192 MiB")
	}
	c := newCoder(t)
	b := bomb(MaxRecord, true)
	b = append([]byte{0x28, 0xb5, 0x2f, 0xfd, 0xc0, 0x38}, b[5:]...) // with a window of 128 KiB: one segment may have 8 MiB
	var plain []byte
	var err error
	n := allocated(func() { plain, err = c.Unpack(b) })
	if err != nil || len(plain) != MaxRecord {
		t.Errorf("%d bytes, %v", len(plain), err)
	}
	if n > MaxRecord+32<<20 {
		t.Errorf("unpacking %d bytes took %d", MaxRecord, n)
	}
}

// One segment is its own window.
func TestUnpackSegment(t *testing.T) {
	c := newCoder(t)
	if b, err := c.Unpack(bomb(8<<20, true)); err != nil || len(b) != 8<<20 {
		t.Errorf("8 MiB: %d bytes, %v", len(b), err)
	}
	if b, err := c.Unpack(bomb(8<<20+1, true)); err == nil {
		t.Errorf("over 8 MiB: %d bytes", len(b))
	}
}

// What an http-ish text of another project's corpus says comes out as it went in.
func TestSealForeignText(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("testdata", "zstd", "facebook", "good", "http"))
	if err != nil {
		t.Fatal(err)
	}
	c := newCoder(t)
	var r Record
	r.Add(FieldBody, text)
	b := Binding{Kind: Request, Session: idOf("x"), Root: r.Root()}
	p, err := c.Seal(r, testKey, "k", b)
	if err != nil {
		t.Fatal(err)
	}
	got, err := c.Open(p, testKey, b)
	if err != nil || !bytes.Equal(got[0].Value, text) {
		t.Error(err)
	}
}

// Nothing sealed panics, takes more memory than it states, or opens as something else than what its root says.
func FuzzPayloadOpen(f *testing.F) {
	for _, v := range examplePayloads(f) {
		f.Add(v.Payload, []byte{}, v.Root[:])
	}
	for name, b := range readCorpus(f).frames {
		if len(b) < 200 && strings.HasPrefix(name, "good") {
			f.Add([]byte{}, b, make([]byte, 32))
		}
	}
	for _, r := range exampleRecords() {
		b, err := r.Append(nil)
		if err != nil {
			f.Fatal(err)
		}
		root := r.Root()
		f.Add([]byte{}, rawFrame(b), root[:])
	}
	c := newCoder(f)
	f.Fuzz(func(t *testing.T, payload, packed, root []byte) {
		if len(payload)+len(packed) > 4096 || len(root) != 32 {
			return
		}
		b := Binding{Kind: Response, Session: idOf("plain"), Root: tlog.Hash(root)}
		if len(packed) > 0 { // what is inside, behind a seal that is right
			payload = sealWith(t, packed, testKey, make([]byte, 12), "k", b)
		}
		r, err := c.Open(payload, testKey, b)
		plain, other := openPayload(payload, testKey, "response", b.Session.String(), root)
		if (err == nil) != (other == nil) {
			t.Fatalf("%v; the second reading: %v", err, other)
		}
		if err == nil {
			if got, err := r.Append(nil); err != nil || !bytes.Equal(got, plain) {
				t.Fatal("the second reading has another record")
			}
		}
		if got, err := c.Unpack(packed); err == nil {
			if oneFrame(packed) != nil || len(got) > MaxRecord {
				t.Fatalf("%d bytes of something that is not one frame", len(got))
			}
		}
		KeyOf(payload)
	})
}
