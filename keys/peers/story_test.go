package peers

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	formats "github.com/transparency-dev/formats/note"
	"golang.org/x/mod/sumdb/note"

	"github.com/tallystick/tallystick/keys"
	"github.com/tallystick/tallystick/keys/ring"
	"github.com/tallystick/tallystick/keys/vault"
	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/local"
)

const origin = "log.example/peers"

func checkpoint(size uint64) tlog.Checkpoint {
	c := tlog.Checkpoint{Origin: origin, Size: size, Root: tlog.EmptyRoot()}
	if size > 0 {
		c.Root = tlog.HashLeaf(fmt.Append(nil, size))
	}
	return c
}

// TestTransit tells the story to the engines alone, hangs and kills them.
func TestTransit(t *testing.T) {
	t.Parallel()
	s := startTransit(t)
	story(t, s)
	t.Run("an engine of KV version 1", func(t *testing.T) {
		l, err := s.client(t, s.root).Latest(ref(t, "vault:kv1/anchors"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := l.Load(t.Context(), origin); err == nil || !strings.Contains(err.Error(), "no KV engine of version 2") {
			t.Error(err)
		}
		s.do(t, "PUT", "kv1/config", `{"a":"b"}`)
		if _, err := l.Load(t.Context(), origin); err == nil || !strings.Contains(err.Error(), "no KV engine of version 2") {
			t.Error(err)
		}
	})
	t.Run("a log, and an outage", func(t *testing.T) {
		logStory(t, s, func() { s.signal(t, syscall.SIGSTOP) }, func() { s.signal(t, syscall.SIGCONT) })
	})
	t.Run("killed", func(t *testing.T) {
		c := s.client(t, s.root)
		s.cmd.Process.Kill()
		if _, err := c.Signer(t.Context(), ref(t, "vault:transit/ed25519?version=1"), origin, ""); err == nil || errors.Is(err, keys.ErrGone) {
			t.Errorf("a Vault that is gone has another thing to say than a key that is: %v", err)
		}
	})
}

// story is what every Vault hears, with the engines transit/ and secret/ (KV v2).
func story(t *testing.T, s *server) {
	c := s.client(t, s.root)
	for _, kind := range []string{vault.Ed25519, vault.ECDSAP256} {
		t.Run("a key of type "+kind, func(t *testing.T) { keyStory(t, s, c, kind) })
	}
	t.Run("an anchor", func(t *testing.T) { anchorStory(t, s, c) })
	t.Run("a key to wrap with", func(t *testing.T) { kekStory(t, s, c) })
	t.Run("a secret", func(t *testing.T) {
		s.do(t, "PUT", "secret/data/openai", `{"data":{"key":"sk-1","n":1}}`)
		s.do(t, "PUT", "secret/data/openai", `{"data":{"key":"sk-2"}}`)
		for text, want := range map[string]string{"vault:secret/openai#key": "sk-2", "vault:secret/openai?version=1#key": "sk-1"} {
			got, err := c.Secret(t.Context(), ref(t, text))
			if err != nil || string(got.Reveal()) != want {
				t.Errorf("%s: %v", text, err)
			}
		}
		for _, text := range []string{"vault:secret/openai#n", "vault:secret/openai?version=1#n", "vault:secret/nobody#key", "vault:secret/openai?version=9#key"} {
			if got, err := c.Secret(t.Context(), ref(t, text)); err == nil {
				t.Errorf("%s: %s", text, got.Reveal())
			}
		}
	})
}

// keyStory signs with a key, opens the notes with verifiers that are not ours, rotates it, and takes it away.
func keyStory(t *testing.T, s *server, c *vault.Client, kind string) {
	ctx := t.Context()
	at := func(version int) keys.Reference {
		return ref(t, fmt.Sprintf("vault:transit/%s?version=%d", kind, version))
	}
	s.do(t, "POST", "transit/keys/"+kind, fmt.Sprintf(`{"type":%q}`, kind))
	if _, err := c.Signer(ctx, at(2), origin, ""); err == nil {
		t.Error("a version that was never made")
	}
	one, err := c.Signer(ctx, at(1), origin, "")
	if err != nil {
		t.Fatal(err)
	}
	two, err := c.Rotate(ctx, one)
	if err != nil || two.Reference() != at(2) || two.VerifierKey() == one.VerifierKey() {
		t.Fatalf("%v, %v", two, err)
	}
	// The log signs with both for a while. Each is known by those who know one.
	signed, err := tlog.SignCheckpoint(checkpoint(7), one, two)
	if err != nil {
		t.Fatal(err)
	}
	for _, signer := range []*keys.Signer{one, two} {
		if _, _, err := tlog.OpenCheckpoint(signed, signer.Verifier()); err != nil {
			t.Error(err)
		}
		theirs, err := formats.NewVerifier(signer.VerifierKey())
		if err != nil {
			t.Fatalf("to transparency-dev's formats: %v", err)
		}
		if theirs.Name() != origin || theirs.KeyHash() != signer.KeyHash() {
			t.Errorf("to transparency-dev's formats it is %s+%08x", theirs.Name(), theirs.KeyHash())
		}
		n, err := note.Open(signed, note.VerifierList(theirs))
		if err != nil || len(n.Sigs) != 1 {
			t.Errorf("by transparency-dev's formats: %v, %v", n, err)
		}
		if kind == vault.Ed25519 {
			xmod, err := note.NewVerifier(signer.VerifierKey())
			if err != nil {
				t.Fatal(err)
			}
			if _, err := note.Open(signed, note.VerifierList(xmod)); err != nil {
				t.Errorf("by x/mod's note: %v", err)
			}
		}
	}
	pinned, err := c.Signer(ctx, at(1), origin, one.VerifierKey())
	if err != nil {
		t.Fatal(err)
	}
	crossed, err := c.Signer(ctx, at(1), origin, two.VerifierKey())
	if err != nil {
		t.Fatal(err)
	}
	want := func(what string, signer *keys.Signer, is error) {
		t.Helper()
		if sig, err := signer.Sign([]byte("a\n")); !errors.Is(err, is) || (err == nil) != (sig != nil) {
			t.Errorf("%s: %x, %v; want %v", what, sig, err, is)
		}
	}
	want("the first version after a rotation", pinned, nil)
	want("the first version, with the second's key pinned", crossed, keys.ErrNotPinned)
	s.do(t, "POST", "transit/keys/"+kind+"/config", `{"min_encryption_version":2,"min_decryption_version":2}`)
	want("archived", pinned, keys.ErrGone)
	want("the second version, with the first archived", two, nil)
	if _, err := c.Signer(ctx, at(1), origin, ""); !errors.Is(err, keys.ErrGone) {
		t.Errorf("an archived version's public key: %v", err)
	}
	s.do(t, "POST", "transit/keys/"+kind+"/trim", `{"min_available_version":2}`)
	want("trimmed", pinned, keys.ErrGone)
	s.do(t, "POST", "transit/keys/"+kind+"/config", `{"deletion_allowed":true}`)
	s.do(t, "DELETE", "transit/keys/"+kind, "")
	want("deleted", two, keys.ErrGone)
	s.do(t, "POST", "transit/keys/"+kind, fmt.Sprintf(`{"type":%q}`, kind))
	want("deleted, and made again", two, keys.ErrGone)
	want("made again, the first version", pinned, keys.ErrNotPinned)
	s.do(t, "POST", "transit/keys/"+kind+"/rotate", "")
	want("made again, as often", two, keys.ErrNotPinned)
	s.do(t, "POST", "transit/keys/"+kind+"/config", `{"deletion_allowed":true}`)
	s.do(t, "DELETE", "transit/keys/"+kind, "")
	s.do(t, "POST", "transit/keys/"+kind, `{"type":"aes256-gcm96"}`)
	want("replaced by one to encrypt", pinned, keys.ErrNotPinned)
	if _, err := c.Signer(ctx, at(1), origin, ""); err == nil {
		t.Error("a key to encrypt was pinned")
	}
	s.do(t, "POST", "transit/keys/"+kind+"-derived", `{"type":"ed25519","derived":true}`)
	if _, err := c.Signer(ctx, ref(t, "vault:transit/"+kind+"-derived?version=1"), origin, ""); err == nil || !strings.Contains(err.Error(), "derived") {
		t.Errorf("a derived key: %v", err)
	}
	if _, err := c.Signer(ctx, ref(t, "vault:nowhere/k?version=1"), origin, ""); !errors.Is(err, keys.ErrGone) {
		t.Errorf("no engine: %v", err)
	}
}

// anchorStory asks for the settings, swaps, races, and lets an administrator delete and bring back.
func anchorStory(t *testing.T, s *server, c *vault.Client) {
	ctx := t.Context()
	l, err := c.Latest(ref(t, "vault:secret/tallystick/anchors"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.Load(ctx, origin); err == nil || !strings.Contains(err.Error(), "vault kv metadata put -mount=secret -cas-required=true ") {
		t.Fatalf("without check-and-set: %v", err)
	}
	if err := l.Swap(ctx, origin, nil, checkpoint(0).Text()); err == nil {
		t.Fatal("written without check-and-set")
	}
	// What the error says, it wants.
	_, err = l.Load(ctx, origin)
	path := err.Error()[strings.LastIndex(err.Error(), " ")+1:]
	s.do(t, "POST", "secret/metadata/"+path, `{"cas_required":true,"max_versions":2}`)
	want := func(b []byte) {
		t.Helper()
		if got, err := l.Load(ctx, origin); err != nil || !bytes.Equal(got, b) {
			t.Fatalf("it remembers %q, %v; want %q", got, err, b)
		}
	}
	want(nil)
	var old []byte
	for size := range uint64(6) { // more often than versions are kept
		text := checkpoint(size).Text()
		if err := l.Swap(ctx, origin, checkpoint(99).Text(), text); err != tlog.ErrConflict {
			t.Errorf("from what is not there: %v", err)
		}
		if err := l.Swap(ctx, origin, old, text); err != nil {
			t.Fatal(err)
		}
		want(text)
		old = text
	}
	s.do(t, "POST", "secret/data/"+path, `{"data":{"checkpoint":"x"}}`, 400)
	want(old)
	// Two at once, again and again.
	for round := range uint64(10) {
		var wg sync.WaitGroup
		won := make(chan []byte, 4)
		for i := range uint64(4) {
			wg.Go(func() {
				text := checkpoint(100 + 10*round + i).Text()
				switch err := l.Swap(ctx, origin, old, text); err {
				case nil:
					won <- text
				case tlog.ErrConflict:
				default:
					t.Error(err)
				}
			})
		}
		wg.Wait()
		close(won)
		if len(won) != 1 {
			t.Fatalf("%d won", len(won))
		}
		old = <-won
		want(old)
	}
	version := fmt.Sprint(s.do(t, "GET", "secret/metadata/"+path, "")["data"].(map[string]any)["current_version"])
	told := func(what, say string) {
		t.Helper()
		if got, err := l.Load(ctx, origin); err == nil || !strings.Contains(err.Error(), say) || got != nil {
			t.Errorf("%s: %q, %v", what, got, err)
		}
		if err := l.Swap(ctx, origin, old, checkpoint(7).Text()); err == nil || errors.Is(err, tlog.ErrConflict) {
			t.Errorf("%s: swapped: %v", what, err)
		}
		if err := l.Swap(ctx, origin, nil, checkpoint(7).Text()); err == nil || errors.Is(err, tlog.ErrConflict) {
			t.Errorf("%s: swapped from nothing: %v", what, err)
		}
	}
	s.do(t, "DELETE", "secret/data/"+path, "")
	told("deleted", "vault kv undelete -mount=secret -versions="+version+" "+path)
	s.do(t, "POST", "secret/undelete/"+path, fmt.Sprintf(`{"versions":[%s]}`, version))
	want(old)
	s.do(t, "POST", "secret/metadata/"+path, `{"delete_version_after":"1h"}`)
	told2 := func(say string) {
		t.Helper()
		if _, err := l.Load(ctx, origin); err == nil || !strings.Contains(err.Error(), say) {
			t.Error(err)
		}
	}
	told2("vault kv metadata put -mount=secret -delete-version-after=0s " + path)
	s.do(t, "POST", "secret/metadata/"+path, `{"delete_version_after":"0s"}`)
	s.do(t, "POST", "secret/config", `{"delete_version_after":"1h"}`)
	told2("vault write secret/config delete_version_after=0s")
	s.do(t, "POST", "secret/config", `{"delete_version_after":"0s","cas_required":true}`)
	s.do(t, "POST", "secret/metadata/"+path, `{"cas_required":false}`)
	want(old)
	s.do(t, "POST", "secret/config", `{"cas_required":false}`)
	s.do(t, "POST", "secret/metadata/"+path, `{"cas_required":true}`)
	s.do(t, "PUT", "secret/destroy/"+path, fmt.Sprintf(`{"versions":[%s]}`, version))
	told("destroyed", "was destroyed")
	if none, err := c.Latest(ref(t, "vault:nowhere/anchors")); err != nil {
		t.Error(err)
	} else if _, err := none.Load(ctx, origin); err == nil || !strings.Contains(err.Error(), "vault secrets enable -path=nowhere") {
		t.Errorf("no engine: %v", err)
	}
}

func kekStory(t *testing.T, s *server, c *vault.Client) {
	ctx := t.Context()
	s.do(t, "POST", "transit/keys/tenant", `{"type":"aes256-gcm96"}`)
	s.do(t, "POST", "transit/keys/other", `{"type":"aes256-gcm96"}`)
	kek, err := c.KEK(ref(t, "vault:transit/tenant"))
	if err != nil {
		t.Fatal(err)
	}
	other, err := c.KEK(ref(t, "vault:transit/other"))
	if err != nil {
		t.Fatal(err)
	}
	key, wrapped, err := kek.NewDataKey(ctx, []byte("epoch 1"))
	if err != nil {
		t.Fatal(err)
	}
	unwraps := func(what string, k *vault.KEK, wrapped, aad []byte, want error) {
		t.Helper()
		got, err := k.Unwrap(t.Context(), nil, wrapped, aad)
		if !errors.Is(err, want) || want == nil && !bytes.Equal(got, key) || want != nil && got != nil {
			t.Errorf("%s: %x, %v, want %v", what, got, err, want)
		}
	}
	unwraps("what it wrapped", kek, wrapped, []byte("epoch 1"), nil)
	unwraps("other associated data", kek, wrapped, []byte("epoch 2"), keys.ErrWrongKey)
	unwraps("no associated data", kek, wrapped, nil, keys.ErrWrongKey)
	unwraps("another key", other, wrapped, []byte("epoch 1"), keys.ErrWrongKey)
	for i := range wrapped {
		if i%7 != 0 {
			continue
		}
		b := bytes.Clone(wrapped)
		b[i] ^= 1
		if got, err := kek.Unwrap(t.Context(), nil, b, []byte("epoch 1")); err == nil {
			t.Errorf("%q unwraps to %x", b, got)
		}
	}
	s.do(t, "POST", "transit/keys/tenant/rotate", "")
	unwraps("after a rotation", kek, wrapped, []byte("epoch 1"), nil)
	again, err := kek.Rewrap(ctx, wrapped, []byte("epoch 1"))
	if err != nil || !bytes.HasPrefix(again, []byte("vault:v2:")) {
		t.Fatalf("%q, %v", again, err)
	}
	unwraps("wrapped again", kek, again, []byte("epoch 1"), nil)
	unwraps("wrapped again, with other associated data", kek, again, []byte("epoch 2"), keys.ErrWrongKey)
	s.do(t, "POST", "transit/keys/tenant/config", `{"min_decryption_version":2,"min_encryption_version":2}`)
	unwraps("archived", kek, wrapped, []byte("epoch 1"), keys.ErrGone)
	first, err := c.KEK(ref(t, "vault:transit/tenant?version=1"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := first.Wrap(t.Context(), nil, key, nil); !errors.Is(err, keys.ErrGone) {
		t.Errorf("wrapped with an archived version: %v", err)
	}

	dir := filepath.Join(t.TempDir(), "ring")
	r, err := ring.Open(dir, ring.Config{KEK: kek})
	if err != nil {
		t.Fatal(err)
	}
	id, k, err := r.New(ctx)
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	if _, err := ring.Open(dir, ring.Config{KEK: other}); !errors.Is(err, ring.ErrWrongKEK) {
		t.Errorf("a ring under another key: %v", err)
	}
	s.do(t, "POST", "transit/keys/tenant/rotate", "")
	if r, err = ring.Open(dir, ring.Config{KEK: kek}); err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if got, err := r.Open(ctx, id); err != nil || !bytes.Equal(got.Bytes(), k.Bytes()) {
		t.Errorf("a ring after a rotation: %v", err)
	}

	// The ring moves to the newest version. Then the older are retired, and a copy of it from before opens nothing.
	erased, _, err := r.New(ctx)
	if err != nil {
		t.Fatal(err)
	}
	before := filepath.Join(t.TempDir(), "copy")
	if err := os.CopyFS(before, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	if err := r.Erase(ctx, erased); err != nil {
		t.Fatal(err)
	}
	if needs, err := r.Needed(ctx); err != nil || len(needs) != 1 || needs[0].Version != 2 {
		t.Fatalf("needed: %v, %v", needs, err)
	}
	if _, err := r.Rewrap(ctx); err != nil {
		t.Fatal(err)
	}
	needs, err := r.Needed(ctx)
	if err != nil || len(needs) != 1 || needs[0].Version != 3 {
		t.Fatalf("needed: %v, %v", needs, err)
	}
	thief, err := ring.Open(before, ring.Config{KEK: kek})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := thief.Open(ctx, erased); err != nil {
		t.Errorf("what was erased since, in a copy, before the old version is retired: %v", err)
	}
	thief.Close()
	s.do(t, "POST", "transit/keys/tenant/config", fmt.Sprintf(`{"min_decryption_version":%d,"min_encryption_version":%[1]d}`, needs[0].Version))
	s.do(t, "POST", "transit/keys/tenant/trim", fmt.Sprintf(`{"min_available_version":%d}`, needs[0].Version))
	if _, err := ring.Open(before, ring.Config{KEK: kek}); !errors.Is(err, keys.ErrGone) {
		t.Errorf("the copy, after it: %v", err)
	}
	r.Close()
	if r, err = ring.Open(dir, ring.Config{KEK: kek, MaxStale: time.Second}); err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if got, err := r.Open(ctx, id); err != nil || !bytes.Equal(got.Bytes(), k.Bytes()) {
		t.Errorf("the ring, after it: %v", err)
	}
	if _, err := r.Open(ctx, erased); !errors.Is(err, ring.ErrErased) {
		t.Errorf("what was erased: %v", err)
	}
	// Withdrawn, it ends the ring in a second, and given back it goes on.
	s.do(t, "POST", "transit/keys/tenant/rotate", "")
	s.do(t, "POST", "transit/keys/tenant/config", fmt.Sprintf(`{"min_decryption_version":%d,"min_encryption_version":%[1]d}`, needs[0].Version+1))
	await(t, "the end of a ring", func() error {
		if _, err := r.Open(ctx, id); !errors.Is(err, ring.ErrStale) || !errors.Is(err, keys.ErrGone) {
			return fmt.Errorf("it goes on: %v", err)
		}
		return nil
	})
	s.do(t, "POST", "transit/keys/tenant/config", fmt.Sprintf(`{"min_decryption_version":%d}`, needs[0].Version))
	await(t, "a ring that goes on", func() error { _, err := r.Open(ctx, id); return err })
	s.do(t, "POST", "transit/keys/other/config", `{"deletion_allowed":true}`)
	s.do(t, "DELETE", "transit/keys/other", "")
	unwraps("a key that was deleted", other, wrapped, nil, keys.ErrGone)
}

// logStory runs a log whose key and anchor lie in Vault, through an outage: what is appended meanwhile is kept, nothing is
// signed, and all of it is when Vault is back.
func logStory(t *testing.T, s *server, down, up func()) {
	ctx := t.Context()
	s.do(t, "POST", "transit/keys/log", `{"type":"ed25519"}`)
	s.do(t, "POST", "secret/config", `{"cas_required":true}`)
	c, err := vault.New(vault.Config{Address: s.url, Login: vault.Login{Token: keys.Credential{File: file(t, s.root)}}, Timeout: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	var signer *keys.Signer
	await(t, "a signer", func() (err error) {
		signer, err = c.Signer(ctx, ref(t, "vault:transit/log?version=1"), origin, "")
		return err
	})
	latest, err := c.Latest(ref(t, "vault:secret/log"))
	if err != nil {
		t.Fatal(err)
	}
	open := func(dir string) *local.Log {
		l, err := local.Open(dir, local.Config{Origin: origin, Signer: signer, Verifier: signer.Verifier(), Latest: latest, AnchorTimeout: 5 * time.Second, MaxUnanchoredAge: time.Hour, MinFree: -1, Ballast: -1})
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	dir := filepath.Join(t.TempDir(), "log")
	l := open(dir)
	run := func(l *local.Log) (stop func() error) {
		rctx, cancel := context.WithCancel(ctx)
		done := make(chan error, 1)
		go func() { done <- l.Run(rctx) }()
		return func() error { cancel(); return <-done }
	}
	stop := run(l)
	next := uint64(0)
	add := func(n int) {
		t.Helper()
		for range n {
			at, err := l.Append(ctx, tlog.Leaf{Entry: fmt.Appendf(nil, "entry %d", next)})
			if err != nil || at[0] != next {
				t.Fatalf("entry %d: %v, %v", next, at, err)
			}
			next++
		}
	}
	size := func() (n uint64) {
		signed, err := l.Checkpoint(ctx)
		if err == nil {
			c, _, err := tlog.OpenCheckpoint(signed, signer.Verifier())
			if err != nil {
				t.Fatal(err)
			}
			n = c.Size
		}
		return n
	}
	settle := func() {
		t.Helper()
		await(t, fmt.Sprintf("a checkpoint of size %d", next), func() error {
			if n := size(); n != next {
				return fmt.Errorf("it has %d", n)
			}
			return nil
		})
	}
	add(20)
	settle()
	before := size()
	down()
	add(20)
	time.Sleep(3 * time.Second)
	if n := size(); n != before {
		t.Errorf("a checkpoint of %d entries was signed by nobody", n)
	}
	add(20)
	up()
	settle()
	add(5)
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if q := l.Quarantined(); q != nil {
		t.Fatalf("in quarantine: %v", q)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	// Restarted, and put back to what the anchor does not know.
	l = open(dir)
	stop = run(l)
	add(5)
	settle()
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	remembered, err := latest.Load(ctx, origin)
	if err != nil {
		t.Fatal(err)
	}
	if c, err := tlog.ParseCheckpoint(remembered); err != nil || c.Size != next {
		t.Errorf("the anchor remembers %q, %v", remembered, err)
	}
	empty := open(filepath.Join(t.TempDir(), "another"))
	defer empty.Close()
	if empty.Quarantined() == nil {
		t.Error("an empty log of that name is not in quarantine, and the anchor remembers a longer one")
	}
}

func await(t *testing.T, what string, try func() error) {
	t.Helper()
	for begun := time.Now(); ; time.Sleep(50 * time.Millisecond) {
		err := try()
		if err == nil {
			return
		}
		if time.Since(begun) > 2*patience {
			t.Fatalf("%s: %v", what, err)
		}
	}
}
