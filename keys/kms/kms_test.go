package kms

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/sigstore/sigstore/pkg/signature/options"

	"github.com/tallystick/tallystick/keys"
	"github.com/tallystick/tallystick/tlog"
)

const origin = "log.example/1"

var (
	here       = keys.Reference{Scheme: keys.SchemeGCP, Path: "projects/p/locations/l/keyRings/r/cryptoKeys/k", Version: "1"}
	checkpoint = tlog.Checkpoint{Origin: origin, Size: 7, Root: tlog.HashLeaf(nil)}
)

// A client is one of sigstore's whose answers a test changes.
type client struct {
	signature.SignerVerifier
	mu     sync.Mutex
	public func(ctx context.Context) (crypto.PublicKey, error)
	sign   func(ctx context.Context, msg []byte) ([]byte, error)
}

func (c *client) PublicKey(opts ...signature.PublicKeyOption) (crypto.PublicKey, error) {
	ctx := context.Background()
	for _, o := range opts {
		o.ApplyContext(&ctx)
	}
	c.mu.Lock()
	f := c.public
	c.mu.Unlock()
	if f != nil {
		return f(ctx)
	}
	return c.SignerVerifier.PublicKey(opts...)
}

func (c *client) SignMessage(r io.Reader, opts ...signature.SignOption) ([]byte, error) {
	ctx := context.Background()
	for _, o := range opts {
		o.ApplyContext(&ctx)
	}
	c.mu.Lock()
	f := c.sign
	c.mu.Unlock()
	if f != nil {
		msg, err := io.ReadAll(r)
		if err != nil {
			return nil, err
		}
		return f(ctx, msg)
	}
	return c.SignerVerifier.SignMessage(r, opts...)
}

func (c *client) set(sign func(ctx context.Context, msg []byte) ([]byte, error)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sign = sign
}

func load(t testing.TB, key crypto.PrivateKey, opts ...signature.LoadOption) signature.SignerVerifier {
	t.Helper()
	sv, err := signature.LoadSignerVerifierWithOpts(key, opts...)
	if err != nil {
		t.Fatal(err)
	}
	return sv
}

func newEd25519(t testing.TB) ed25519.PrivateKey {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func newECDSA(t testing.TB, curve elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func vkeyOf(t testing.TB, sv signature.SignerVerifier) string {
	t.Helper()
	pub, err := sv.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	vkey, err := tlog.LogVerifierKey(origin, pub)
	if err != nil {
		t.Fatal(err)
	}
	return vkey
}

// wantSigns signs a checkpoint and has the log's own verifier read it.
func wantSigns(t testing.TB, s *keys.Signer) {
	t.Helper()
	signed, err := tlog.SignCheckpoint(checkpoint, s)
	if err != nil {
		t.Fatal(err)
	}
	v, err := tlog.NewLogVerifier(s.VerifierKey())
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := tlog.OpenCheckpoint(signed, v); err != nil {
		t.Error(err)
	}
}

// TestPin signs with each kind of key of sigstore's that a log can have, and with some that it cannot.
func TestPin(t *testing.T) {
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	ed, ec := newEd25519(t), newECDSA(t, elliptic.P256())
	for _, c := range []struct {
		name string
		sv   signature.SignerVerifier
		pin  string // what is wrong at once
		sign error  // or when it signs
	}{
		{"Ed25519", load(t, ed), "", nil},
		{"ECDSA on P-256", load(t, ec, options.WithHash(crypto.SHA256)), "", nil},
		{"Ed25519ph", load(t, ed, options.WithED25519ph()), "", keys.ErrNotPinned},
		{"ECDSA with SHA-512", load(t, ec, options.WithHash(crypto.SHA512)), "", keys.ErrNotPinned},
		{"ECDSA on P-384", load(t, newECDSA(t, elliptic.P384())), "P-256", nil},
		{"RSA", load(t, rsaKey), "rsa", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, err := Pin(t.Context(), here, origin, "", c.sv, 0)
			if c.pin != "" {
				if err == nil || !strings.Contains(err.Error(), c.pin) || s != nil {
					t.Fatalf("%v, %v", s, err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if s.Reference() != here || s.Name() != origin || s.VerifierKey() != vkeyOf(t, c.sv) {
				t.Errorf("%s of %s", s, s.Reference())
			}
			if c.sign != nil {
				if sig, err := s.Sign(checkpoint.Text()); !errors.Is(err, c.sign) || sig != nil {
					t.Errorf("%x, %v", sig, err)
				}
				return
			}
			wantSigns(t, s)
			if _, err := Pin(t.Context(), here, origin, s.VerifierKey(), c.sv, 0); err != nil {
				t.Errorf("pinned before: %v", err)
			}
			other := vkeyOf(t, load(t, newEd25519(t)))
			if s, err := Pin(t.Context(), here, origin, other, c.sv, 0); !errors.Is(err, keys.ErrNotPinned) || s != nil {
				t.Errorf("another key pinned: %v, %v", s, err)
			}
		})
	}
}

// What a service can answer instead of a signature of the pinned key, and what comes out: never a signature.
func TestSignAnswers(t *testing.T) {
	for _, svs := range [][2]signature.SignerVerifier{
		{load(t, newEd25519(t)), load(t, newEd25519(t))},
		{load(t, newECDSA(t, elliptic.P256())), load(t, newECDSA(t, elliptic.P256()))},
	} {
		sv, other := svs[0], svs[1]
		sign := func(msg []byte) []byte {
			sig, err := sv.SignMessage(bytes.NewReader(msg))
			if err != nil {
				t.Fatal(err)
			}
			return sig
		}
		c := &client{SignerVerifier: sv}
		s, err := Pin(t.Context(), here, origin, "", c, 0)
		if err != nil {
			t.Fatal(err)
		}
		down := errors.New("the service is down")
		for name, answer := range map[string]struct {
			sign func(context.Context, []byte) ([]byte, error)
			want error
		}{
			"another key's signature": {func(_ context.Context, msg []byte) ([]byte, error) { return other.SignMessage(bytes.NewReader(msg)) }, keys.ErrNotPinned},
			"a signature of another":  {func(_ context.Context, msg []byte) ([]byte, error) { return sign(append(msg, 'x')), nil }, keys.ErrNotPinned},
			"a signature of a digest": {func(_ context.Context, msg []byte) ([]byte, error) { h := sha256.Sum256(msg); return sign(h[:]), nil }, keys.ErrNotPinned},
			"a bit flipped": {func(_ context.Context, msg []byte) ([]byte, error) {
				sig := sign(msg)
				sig[len(sig)-1] ^= 1
				return sig, nil
			}, keys.ErrNotPinned},
			"cut off":        {func(_ context.Context, msg []byte) ([]byte, error) { return sign(msg)[:10], nil }, keys.ErrNotPinned},
			"nothing":        {func(context.Context, []byte) ([]byte, error) { return nil, nil }, keys.ErrNotPinned},
			"both":           {func(_ context.Context, msg []byte) ([]byte, error) { return sign(msg), down }, down},
			"an error":       {func(context.Context, []byte) ([]byte, error) { return nil, fmt.Errorf("x: %w", down) }, down},
			"an index error": {func(_ context.Context, msg []byte) ([]byte, error) { return nil, errors.New("none"[len(msg):]) }, errAny},
			"a nil pointer":  {func(context.Context, []byte) ([]byte, error) { var p *client; p.mu.Lock(); return nil, nil }, errAny},
		} {
			c.set(answer.sign)
			sig, err := s.Sign(checkpoint.Text())
			if sig != nil || err == nil || answer.want != errAny && !errors.Is(err, answer.want) || !strings.Contains(err.Error(), here.String()) {
				t.Errorf("%T: %s: %x, %v", sv, name, sig, err)
			}
		}
		c.set(nil)
		wantSigns(t, s)
	}
}

var errAny = errors.New("any")

// TestTimes is about clients that are slow, with a clock of its own.
func TestTimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &client{SignerVerifier: load(t, newEd25519(t))}
		s, err := Pin(t.Context(), here, origin, "", c, 3*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		took := func() (time.Duration, error) {
			began := time.Now()
			sig, err := s.Sign(checkpoint.Text())
			if sig != nil {
				t.Error("a signature that came too late")
			}
			return time.Since(began), err
		}

		// One that listens to its context.
		c.set(func(ctx context.Context, msg []byte) ([]byte, error) {
			<-ctx.Done()
			return nil, fmt.Errorf("rpc: %w", ctx.Err())
		})
		if d, err := took(); d != 3*time.Second || !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "no answer within 3s") {
			t.Errorf("listening: after %s %v", d, err)
		}

		// One that does not, and is asked more often than it comes back.
		release := make(chan struct{})
		c.set(func(context.Context, []byte) ([]byte, error) {
			<-release
			return c.SignerVerifier.SignMessage(bytes.NewReader(checkpoint.Text()))
		})
		for range maxUnanswered {
			if d, err := took(); d != 3*time.Second || !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("not listening: after %s %v", d, err)
			}
		}
		if d, err := took(); d != 3*time.Second || !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "4 earlier calls") {
			t.Errorf("with four calls out: after %s %v", d, err)
		}
		close(release)
		synctest.Wait()
		wantSigns(t, s)

		// Slow, but in time.
		c.set(func(_ context.Context, msg []byte) ([]byte, error) {
			time.Sleep(2900 * time.Millisecond)
			return c.SignerVerifier.SignMessage(bytes.NewReader(msg))
		})
		wantSigns(t, s)
	})
}

func TestPinTimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		c := &client{SignerVerifier: load(t, newEd25519(t))}
		c.public = func(context.Context) (crypto.PublicKey, error) { <-release; return nil, errors.New("late") }
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if s, err := Pin(ctx, here, origin, "", c, 0); !errors.Is(err, context.Canceled) || s != nil {
			t.Errorf("cancelled: %v, %v", s, err)
		}
		ctx, cancel = context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began := time.Now()
		if _, err := Pin(ctx, here, origin, "", c, 0); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != time.Second {
			t.Errorf("after %s %v", time.Since(began), err)
		}
		began = time.Now()
		if _, err := Pin(t.Context(), here, origin, "", c, 0); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != DefaultTimeout {
			t.Errorf("after %s %v", time.Since(began), err)
		}
		close(release)
	})
}

// A call that was given up goes on reading what its caller has long changed.
func TestGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := &slowReader{load(t, newEd25519(t)), make(chan struct{}), make(chan []byte)}
		s, err := Pin(t.Context(), here, origin, "", slow, 0)
		if err != nil {
			t.Fatal(err)
		}
		msg := []byte("a message")
		if _, err := s.Sign(msg); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
		clear(msg)
		close(slow.release)
		if read := <-slow.done; string(read) != "a message" {
			t.Errorf("read %q", read)
		}
	})
}

type slowReader struct {
	signature.SignerVerifier
	release chan struct{}
	done    chan []byte
}

func (s *slowReader) SignMessage(r io.Reader, _ ...signature.SignOption) ([]byte, error) {
	<-s.release
	b, err := io.ReadAll(r)
	s.done <- b
	return nil, err
}

func TestAnswersAreShort(t *testing.T) {
	c := &client{SignerVerifier: load(t, newEd25519(t))}
	s, err := Pin(t.Context(), here, origin, "", c, 0)
	if err != nil {
		t.Fatal(err)
	}
	long := errors.New("HTTP 500\r\n\x1b[31mbody:\t" + strings.Repeat("é", 5000) + "\xff")
	c.set(func(context.Context, []byte) ([]byte, error) { return nil, long })
	_, err = s.Sign(nil)
	if text := err.Error(); !errors.Is(err, long) || len(text) > 700 || strings.ContainsAny(text, "\r\n\t\x1b") || !strings.Contains(text, "HTTP 500") || !strings.HasSuffix(text, "é …") {
		t.Errorf("%d bytes: %.300q", len(text), text)
	}
}

func TestConcurrent(t *testing.T) {
	s, err := Pin(t.Context(), here, origin, "", load(t, newECDSA(t, elliptic.P256())), time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i := range 4 * maxUnanswered {
		wg.Go(func() {
			if _, err := s.Sign(fmt.Append(nil, i)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}
