package vault

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/tallystick/tallystick/keys"
	"github.com/tallystick/tallystick/tlog"
)

func anchorPath(of string) string {
	sum := sha256.Sum256([]byte(of))
	return "tallystick/anchor/" + hex.EncodeToString(sum[:])
}

// anchored returns a fake whose engine requires check-and-set, and an anchor in it.
func anchored(t *testing.T) (*fake, *Latest) {
	t.Helper()
	f := newFake()
	f.engine["cas_required"] = true
	l, err := f.client(t, nil).Latest(ref(t, "vault:secret/tallystick/anchor"))
	if err != nil {
		t.Fatal(err)
	}
	return f, l
}

func TestLatest(t *testing.T) {
	f, l := anchored(t)
	ctx := t.Context()
	want := func(what []byte) {
		t.Helper()
		if got, err := l.Load(ctx, origin); err != nil || !bytes.Equal(got, what) || (got == nil) != (what == nil) {
			t.Fatalf("it remembers %q, %v; want %q", got, err, what)
		}
	}
	a, b := checkpoint(0).Text(), checkpoint(5).Text()
	signed := append(bytes.Clone(b), "\n— log.example/1 AAAAAAAA\n"...)
	want(nil)
	if err := l.Swap(ctx, origin, a, b); err != tlog.ErrConflict {
		t.Errorf("from what is not there: %v", err)
	}
	want(nil)
	if err := l.Swap(ctx, origin, nil, a); err != nil {
		t.Fatal(err)
	}
	want(a)
	for _, old := range [][]byte{nil, b, append(bytes.Clone(a), '\n'), a[:len(a)-1]} {
		if err := l.Swap(ctx, origin, old, b); err != tlog.ErrConflict {
			t.Errorf("from %q: %v", old, err)
		}
	}
	want(a)
	f.requests()
	if err := l.Swap(ctx, origin, a, b); err != nil {
		t.Fatal(err)
	}
	if got := f.requests(); !slices.Equal(got, []string{"GET secret/data/" + anchorPath(origin), "POST secret/data/" + anchorPath(origin)}) {
		t.Errorf("a swap asks %q", got)
	}
	want(b)
	if err := l.Swap(ctx, origin, b, signed); err != nil {
		t.Fatal(err)
	}
	want(signed)
	if err := l.Swap(ctx, origin, signed, signed); err != nil {
		t.Errorf("the same again: %v", err)
	}
	// Another log has another place.
	other := tlog.Checkpoint{Origin: "log.example/2", Root: tlog.EmptyRoot()}.Text()
	if err := l.Swap(ctx, "log.example/2", nil, other); err != nil {
		t.Error(err)
	}
	want(signed)
	// For people.
	v := f.kv[anchorPath(origin)].versions[1].data
	if v["origin"] != origin || v["size"] != "5" || v["root"] != checkpoint(5).Root.String() || v["written"] == "" {
		t.Errorf("people read %v", v)
	}
	// What is no checkpoint of the log is not written.
	for _, bad := range [][]byte{nil, []byte("x"), other, b[:len(b)-1], append(bytes.Clone(b), '\n'), signed[:len(signed)-1], bytes.Repeat(b, 2000)} {
		if err := l.Swap(ctx, origin, signed, bad); err == nil || errors.Is(err, tlog.ErrConflict) || !strings.Contains(err.Error(), "nothing was changed") {
			t.Errorf("%.40q: %v", bad, err)
		}
	}
	want(signed)
}

// TestLatestRace lets two processes swap at once: in each round one wins, and the others are told so.
func TestLatestRace(t *testing.T) {
	f, _ := anchored(t)
	const rounds, writers = 20, 4
	var ls []*Latest
	for range writers {
		l, err := f.client(t, nil).Latest(ref(t, "vault:secret/tallystick/anchor"))
		if err != nil {
			t.Fatal(err)
		}
		ls = append(ls, l)
	}
	var old []byte
	for i := range rounds {
		won := make([]bool, writers)
		var wg sync.WaitGroup
		for j, l := range ls {
			wg.Go(func() {
				err := l.Swap(t.Context(), origin, old, checkpoint(uint64(10*i+j+1)).Text())
				if err != nil && err != tlog.ErrConflict {
					t.Error(err)
				}
				won[j] = err == nil
			})
		}
		wg.Wait()
		got, err := ls[0].Load(t.Context(), origin)
		if err != nil {
			t.Fatal(err)
		}
		j := slices.Index(won, true)
		if j < 0 || slices.Contains(won[j+1:], true) || !bytes.Equal(got, checkpoint(uint64(10*i+j+1)).Text()) {
			t.Fatalf("round %d: %v won, and it remembers %q", i, won, got)
		}
		old = got
	}
}

// TestLatestPlace has an anchor lie where it could be forgotten or overwritten, or not be there any more: the error says
// what to do, and nothing passes for nothing.
func TestLatestPlace(t *testing.T) {
	path := anchorPath(origin)
	b := checkpoint(5).Text()
	put := func(f *fake, data map[string]any) {
		s := f.kv[path]
		s.versions = append(s.versions, fakeVersion{data: data})
	}
	for _, row := range []struct {
		name   string
		change func(f *fake)
		err    string // "" where it works
		fresh  bool   // also without anything written there yet

		conflict bool // to Swap it is not what was there
	}{
		{"required by the engine", func(f *fake) {}, "", true, false},
		{"required by the secret", func(f *fake) {
			f.engine["cas_required"] = false
			if f.kv[path] == nil {
				f.kv[path] = &fakeSecret{}
			}
			f.kv[path].settings = map[string]any{"cas_required": true}
		}, "", true, false},
		{"deletion switched off", func(f *fake) { f.engine["delete_version_after"] = "-1s" }, "", true, false},
		{"few versions kept", func(f *fake) { f.engine["max_versions"] = 1 }, "", true, false},
		{"not required", func(f *fake) { f.engine["cas_required"] = false }, "vault kv metadata put -mount=secret -cas-required=true " + path, true, false},
		{"deleted by the engine after a time", func(f *fake) { f.engine["delete_version_after"] = "768h0m0s" }, "vault write secret/config delete_version_after=0s", true, false},
		{"deleted after a time", func(f *fake) {
			if f.kv[path] == nil {
				f.kv[path] = &fakeSecret{}
			}
			f.kv[path].settings = map[string]any{"delete_version_after": "1h0m0s"}
		}, "vault kv metadata put -mount=secret -delete-version-after=0s " + path, true, false},
		{"a time that is none", func(f *fake) { f.engine["delete_version_after"] = "soon" }, "deletes versions", true, false},
		{"an engine of version 1", func(f *fake) { f.engine = map[string]any{"some": "secret"} }, "vault secrets enable -path=secret -version=2 kv", true, false},
		{"the settings may not be read", func(f *fake) { f.tokens[canary+"token-1"].denied = []string{"secret/config"} }, "allow read on secret/config", true, false},
		{"the secret's may not be read", func(f *fake) { f.tokens[canary+"token-1"].denied = []string{"secret/metadata/"} }, "allow read on secret/metadata/" + path, true, false},
		{"deleted", func(f *fake) { f.kv[path].versions[0].deleted = "2026-01-02T03:04:05Z" }, "version 1 was deleted at \"2026-01-02T03:04:05Z\": vault kv undelete -mount=secret -versions=1 " + path, false, false},
		{"destroyed", func(f *fake) { f.kv[path].versions[0].destroyed = true }, "version 1 was destroyed, and nothing brings it back", false, false},
		{"its newest version lost", func(f *fake) {
			f.kv[path].settings = map[string]any{"cas_required": true, "current_version": 9}
			f.kv[path].versions = nil
		}, "it has 9 versions, and no newest one", false, true},
		{"overwritten by nothing", func(f *fake) { put(f, map[string]any{}) }, "version 2 holds no checkpoint", false, false},
		{"overwritten by a number", func(f *fake) { put(f, map[string]any{"checkpoint": 7}) }, "version 2 holds no checkpoint", false, false},
		{"overwritten by anything", func(f *fake) { put(f, map[string]any{"checkpoint": "x"}) }, "version 2 does not hold a checkpoint of the log", false, false},
		{"overwritten by another log's", func(f *fake) {
			put(f, map[string]any{"checkpoint": string(tlog.Checkpoint{Origin: "log.example/2", Root: tlog.EmptyRoot()}.Text())})
		}, "it is of the log \"log.example/2\"", false, false},
	} {
		for _, fresh := range []bool{false, true} {
			if fresh && !row.fresh {
				continue
			}
			t.Run(fmt.Sprintf("%s, fresh %v", row.name, fresh), func(t *testing.T) {
				f, l := anchored(t)
				if !fresh {
					if err := l.Swap(t.Context(), origin, nil, b); err != nil {
						t.Fatal(err)
					}
				}
				if err := prove(t, f, l.c); err != nil { // so that there is a token
					t.Fatal(err)
				}
				row.change(f)
				again, err := l.c.Latest(ref(t, "vault:secret/tallystick/anchor"))
				if err != nil {
					t.Fatal(err)
				}
				got, err := again.Load(t.Context(), origin)
				if row.err == "" {
					if err != nil || !fresh && !bytes.Equal(got, b) || fresh && got != nil {
						t.Errorf("%q, %v", got, err)
					}
				} else if err == nil || !strings.Contains(err.Error(), row.err) || got != nil {
					t.Errorf("%q, %v, want %q", got, err, row.err)
				}
				var old []byte
				if !fresh {
					old = b
				}
				before := len(f.requests())
				err = again.Swap(t.Context(), origin, old, checkpoint(6).Text())
				if (err == nil) != (row.err == "") || errors.Is(err, tlog.ErrConflict) != row.conflict {
					t.Errorf("a swap: %v", err)
				}
				for _, q := range f.requests() {
					if row.err != "" && strings.HasPrefix(q, "POST") {
						t.Errorf("after %d requests it wrote", before)
					}
				}
			})
		}
	}
	_, l := anchored(t)
	for _, bad := range []string{"vault:secret/a?version=1", "vault:secret/a#b", "file:a", "awskms:a"} {
		if _, err := l.c.Latest(ref(t, bad)); err == nil {
			t.Errorf("%s is a place for an anchor", bad)
		}
	}
}

// Who cannot log in is not told of policies.
func TestLatestStranger(t *testing.T) {
	f, l := anchored(t)
	f.fault = func(w http.ResponseWriter, r *http.Request, body map[string]any) bool {
		if strings.HasSuffix(r.URL.Path, "/login") {
			refuse(w, 403, "1 error occurred:\n\t* permission denied\n\n")
			return true
		}
		return false
	}
	if _, err := l.Load(t.Context(), origin); !errors.Is(err, keys.ErrDenied) || !strings.Contains(err.Error(), "log in to Vault") || strings.Contains(err.Error(), "allow read") {
		t.Error(err)
	}
}
