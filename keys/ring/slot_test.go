package ring

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"hash/crc32"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestID(t *testing.T) {
	id := newID([4]byte{0x1f, 0x2e, 0x3d, 0x4c}, 0x0123456789abcdef, 42)
	const text = "1f2e3d4c-0123456789abcdef-42"
	if id.String() != text {
		t.Errorf("String: %s, want %s", id, text)
	}
	if got := hex.EncodeToString(id[:]); got != "1f2e3d4c0123456789abcdef0000002a" {
		t.Errorf("bytes: %s", got)
	}
	if got, err := ParseID(text); err != nil || got != id {
		t.Errorf("ParseID: %v, %v", got, err)
	}
	b, err := json.Marshal(map[string]ID{"key": id})
	if err != nil || string(b) != `{"key":"`+text+`"}` {
		t.Errorf("JSON: %s, %v", b, err)
	}
	var back map[string]ID
	if err := json.Unmarshal(b, &back); err != nil || back["key"] != id {
		t.Errorf("from JSON: %v, %v", back, err)
	}
	for _, bad := range []string{
		"", "-", "--", "42", text + " ", " " + text, text + "\n", text + "-", text + "-1",
		"1f2e3d4c-0123456789abcdef", "1f2e3d4c-0123456789abcdef-",
		"1f2e3d4c-0123456789abcdef-042", "1f2e3d4c-0123456789abcdef-+42", "1f2e3d4c-0123456789abcdef--42",
		"1f2e3d4c-0123456789abcdef-4_2", "1f2e3d4c-0123456789abcdef-0x2a", "1f2e3d4c-0123456789abcdef-4294967296",
		"1F2E3D4C-0123456789abcdef-42", "1f2e3d4c-0123456789ABCDEF-42",
		"1f2e3d4-0123456789abcdef-42", "1f2e3d4c-0123456789abcde-42", "1f2e3d4cc-0123456789abcdef-42",
		"1f2e3d4g-0123456789abcdef-42", "1f2e3d4c-0123456789abcdeg-42", "1f2e3d4c_0123456789abcdef_42",
	} {
		if id, err := ParseID(bad); err == nil {
			t.Errorf("ParseID(%q) = %v, want an error", bad, id)
		}
	}
}

// testdata/v1 and v2 are rings as the two versions of this format wrote them. They are opened
// for ever.
func TestVersions(t *testing.T) {
	for _, version := range []string{"v1", "v2"} {
		dir, w := fixture(t, version)
		r := open(t, dir, Config{KEK: newKEK('k')})
		w.check(t, r, nil)
		w.take(t, r, 3)
		w.check(t, r, nil)
	}
}

// fixture returns a copy of a ring in testdata, and its world.
func fixture(t *testing.T, version string) (dir string, w world) {
	t.Helper()
	dir = t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(filepath.Join("testdata", version))); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join("testdata", version+".keys"))
	if err != nil {
		t.Fatal(err)
	}
	w = world{}
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		id, err := ParseID(f[0])
		if err != nil {
			t.Fatal(err)
		}
		if f[1] == "erased" {
			w[id] = nil
			continue
		}
		if w[id], err = hex.DecodeString(f[1]); err != nil {
			t.Fatal(err)
		}
	}
	if len(w) != 4 {
		t.Fatalf("%d keys in the list", len(w))
	}
	return dir, w
}

func FuzzParseID(f *testing.F) {
	f.Add("1f2e3d4c-0123456789abcdef-42")
	f.Add("00000000-0000000000000000-0")
	f.Add("ffffffff-ffffffffffffffff-4294967295")
	f.Add("1f2e3d4c-0123456789abcdef-042")
	f.Fuzz(func(t *testing.T, s string) {
		id, err := ParseID(s)
		if err != nil {
			if id != (ID{}) {
				t.Fatal("an ID besides an error")
			}
			return
		}
		if id.String() != s {
			t.Fatalf("%q parses, and is written %q", s, id)
		}
	})
}

// Of arbitrary bytes, none pass for a key, whether or not the CRC is put right.
func FuzzSlot(f *testing.F) {
	seal := newSeal(&[32]byte{1})
	slotOf := func(id ID, key Key) []byte {
		b, err := appendSlot(nil, id, key.Bytes(), seal)
		if err != nil {
			panic(err)
		}
		return b
	}
	id := newID([4]byte{1, 2, 3, 4}, 5, 6)
	key := newKey(&[32]byte{7})
	good := slotOf(id, key)
	erased := erasedSlot(id)
	f.Add(good)
	f.Add(good[:63])
	f.Add(erased[:])
	f.Add(make([]byte, slotSize))
	f.Add(slotOf(newID([4]byte{1, 2, 3, 4}, 5, 7), key))
	f.Fuzz(func(t *testing.T, b []byte) {
		var slot [slotSize]byte
		copy(slot[:], b)
		try := func() {
			err := checkSlot(&slot, id)
			switch {
			case errors.Is(err, ErrErased):
				if slot != erased {
					t.Fatal("not an erased slot")
				}
			case err == nil:
				got, err := openSlot(&slot, id, seal)
				if err != nil && bytes.Equal(slot[:], good) {
					t.Fatal(err)
				}
				// Each process of the fuzzer has its own nonce in good: the key is what counts.
				if err == nil && !bytes.Equal(got[:], key.Bytes()) {
					t.Fatal("a wrong key")
				}
			}
		}
		try()
		fixCRC(&slot, id)
		try()
	})
}

func fixCRC(slot *[slotSize]byte, id ID) {
	binary.BigEndian.PutUint32(slot[slotSize-4:], slotCRC(id, slot[:]))
}

func FuzzHeader(f *testing.F) {
	sealed := bytes.Repeat([]byte{5}, sealedSize)
	f.Add(appendHeader(nil, header{kind: kindRing, ring: [4]byte{1}, epoch: 1, sealed: sealed, wrapped: make([]byte, 60)}))
	f.Add(appendHeader(nil, header{kind: kindSegment, segment: 1 << 63, epoch: 1 << 63, sealed: sealed, wrapped: bytes.Repeat([]byte{9}, maxWrapped)}))
	f.Add(appendHeader(nil, header{kind: kindRing1, ring: [4]byte{1}, wrapped: make([]byte, 60)}))
	f.Add(appendHeader(nil, header{kind: kindSegment1, segment: 1 << 63, wrapped: bytes.Repeat([]byte{9}, maxWrapped1)}))
	f.Add(make([]byte, headerSize))
	f.Add([]byte(kindSegment))
	f.Fuzz(func(t *testing.T, b []byte) {
		try := func() {
			h, err := parseHeader(b)
			if err != nil {
				return
			}
			if !bytes.Equal(appendHeader(nil, h), b) {
				t.Fatal("a header that would be written differently")
			}
		}
		try()
		if len(b) == headerSize { // as if the CRC were right
			b = bytes.Clone(b)
			binary.BigEndian.PutUint32(b[headerSize-4:], crc32.Checksum(b[:headerSize-4], crcTable))
			try()
		}
	})
}
