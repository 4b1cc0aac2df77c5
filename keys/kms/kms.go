// Package kms signs with keys through sigstore (github.com/sigstore/sigstore): keys in PEM files ([PEM]), and, in a build
// with the tag kms_cloud, keys in the key services of AWS, Google and Azure (AWS, GCP, Azure). Each is a [keys.Provider];
// nothing is registered anywhere, and what the command does not set up does not exist. [Pin] makes a signer of anything
// else that speaks sigstore's interface.
//
// What is always true: a signature leaves here only after the pinned public key has verified it; a key in a service that
// has versions is used in the one version that its reference names; a call ends when its context or its time does, even
// where sigstore's client does not listen; and no program is run, though these libraries can: sigstore's own loader runs
// sigstore-kms-NAME for a scheme NAME that it does not know, so it is not called here, and where a cloud's library would
// look for credentials by running something, the environment must say that it shall not.
//
// The kinds of key are Ed25519 in PEM files, and ECDSA on P-256 in PEM files and in all three clouds: sigstore's clients
// know no other kind there that a log can have. RSA is not offered: no checkpoint is signed with it.
package kms

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/sigstore/sigstore/pkg/signature/options"

	"github.com/tallystick/tallystick/keys"
	"github.com/tallystick/tallystick/tlog"
)

const (
	// DefaultTimeout is how long one signature may take where nothing else is said, with all tries of the service's client.
	DefaultTimeout = 10 * time.Second
	// maxUnanswered is how many calls of one signer may be left behind by clients that do not listen to their contexts.
	maxUnanswered = 4
	// maxAnswer is how much of an error of a service is repeated, in bytes.
	maxAnswer = 500
)

// Pin returns the signer of the log called origin that has sv sign, with the key that ref names. It is pinned to vkey, or,
// where that is "", to the key that sv has now; ctx is for asking it. A signature may take as long as timeout says,
// or DefaultTimeout if that is 0. sv must be safe for concurrent use, sign with Ed25519 (not Ed25519ph) or with ECDSA on
// P-256 and SHA-256, and answer what ref says and nothing else. The errors are those of [keys.Provider].
func Pin(ctx context.Context, ref keys.Reference, origin, vkey string, sv signature.SignerVerifier, timeout time.Duration) (*keys.Signer, error) {
	return pin(ctx, ref, origin, vkey, newAsker(sv, timeout, nil))
}

// pin is Pin for an asker. The order: the key is asked for before it is believed, and compared before it is used.
func pin(ctx context.Context, ref keys.Reference, origin, vkey string, a *asker) (*keys.Signer, error) {
	now, err := a.verifierKey(ctx, origin)
	if err != nil {
		return nil, fmt.Errorf("keys/kms: public key of %s: %w", ref, err)
	}
	if vkey != "" && now != vkey {
		return nil, fmt.Errorf("keys/kms: %s has the public key %.200s, and pinned is %.200s: %w", ref, now, vkey, keys.ErrNotPinned)
	}
	return keys.Pin(ref, now, a.sign)
}

// An asker asks one key of one client, and waits no longer than it may.
type asker struct {
	sv      signature.SignerVerifier
	timeout time.Duration
	kind    func(error) error // which error of keys an answer is, or nil
	slots   chan struct{}     // one for each call that has not come back
}

func newAsker(sv signature.SignerVerifier, timeout time.Duration, kind func(error) error) *asker {
	if timeout <= 0 {
		timeout = DefaultTimeout
	}
	return &asker{sv, timeout, kind, make(chan struct{}, maxUnanswered)}
}

// verifierKey returns the public key that the client has now, as that of a log.
func (a *asker) verifierKey(ctx context.Context, origin string) (string, error) {
	return ask(ctx, a, func(ctx context.Context) (string, error) {
		pub, err := a.sv.PublicKey(options.WithContext(ctx))
		if err != nil {
			return "", err
		}
		if k, ok := pub.(*ecdsa.PublicKey); ok && k.Curve != elliptic.P256() {
			return "", fmt.Errorf("a key on %s; a log has one of ECDSA on P-256, or of Ed25519", k.Params().Name)
		}
		return tlog.LogVerifierKey(origin, pub)
	})
}

// sign has msg signed. Whether it is hashed before, the client knows by the kind of its key; what one makes that is wrong
// about it does not verify.
func (a *asker) sign(msg []byte) ([]byte, error) {
	msg = bytes.Clone(msg) // a client that was given up may still read it
	return ask(context.Background(), a, func(ctx context.Context) ([]byte, error) {
		return a.sv.SignMessage(bytes.NewReader(msg), options.WithContext(ctx))
	})
}

// ask calls f, with ctx and the asker's time. Two things it does because clients do not: it returns when the time is over
// though f does not (those for Google and Azure fetch public keys without a context), and it makes an error of a
// panic (all three follow pointers and indices that a service may leave out).
func ask[T any](ctx context.Context, a *asker, f func(context.Context) (T, error)) (T, error) {
	type result struct {
		v   T
		err error
	}
	var none T
	ctx, cancel := context.WithTimeoutCause(ctx, a.timeout, fmt.Errorf("no answer within %s: %w", a.timeout, context.DeadlineExceeded))
	defer cancel()
	if ctx.Err() != nil {
		return none, context.Cause(ctx)
	}
	select {
	case a.slots <- struct{}{}:
	case <-ctx.Done():
		return none, fmt.Errorf("%d earlier calls have not come back: %w", maxUnanswered, context.Cause(ctx))
	}
	done := make(chan result, 1)
	go func() {
		var r result
		defer func() {
			if p := recover(); p != nil {
				r = result{err: fmt.Errorf("sigstore's client could not read the answer: %v", p)}
			}
			<-a.slots
			done <- r
		}()
		r.v, r.err = f(ctx)
	}()
	select {
	case r := <-done:
		if r.err != nil {
			return none, a.explain(ctx, r.err)
		}
		return r.v, nil
	case <-ctx.Done():
		return none, context.Cause(ctx)
	}
}

// explain says of a client's error what its caller can do about it. Services answer at length, on several lines, and with
// whatever they like in them.
func (a *asker) explain(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil && errors.Is(err, ctx.Err()) {
		return cause
	}
	var kind error
	if a.kind != nil {
		kind = a.kind(err)
	}
	return &answer{kind, err}
}

// An answer is an error of a service, of a kind of ours or of none.
type answer struct{ kind, err error }

func (e *answer) Error() string {
	words := strings.FieldsFunc(e.err.Error(), func(r rune) bool { return unicode.IsSpace(r) || !unicode.IsPrint(r) })
	// Azure's library draws lines.
	s := strings.Join(slices.DeleteFunc(words, func(w string) bool { return len(w) > 2 && strings.Trim(w, "-") == "" }), " ")
	if len(s) > maxAnswer {
		s = strings.ToValidUTF8(s[:maxAnswer], "") + " …"
	}
	if e.kind != nil {
		return e.kind.Error() + ": " + s
	}
	return s
}

func (e *answer) Unwrap() []error {
	if e.kind == nil {
		return []error{e.err}
	}
	return []error{e.kind, e.err}
}
