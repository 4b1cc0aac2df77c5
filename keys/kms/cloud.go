//go:build kms_cloud

package kms

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/sigstore/sigstore/pkg/signature"

	"github.com/tallystick/tallystick/keys"
)

// connect makes a client with load and pins the key that it has. The client outlives ctx.
func connect(ctx context.Context, ref keys.Reference, origin, vkey string, timeout time.Duration, kind func(error) error,
	load func(ctx context.Context, id string) (signature.SignerVerifier, error)) (*keys.Signer, error) {
	id := ref.Path
	if ref.Scheme == keys.SchemeGCP {
		id += "/cryptoKeyVersions"
	}
	if ref.Version != "" {
		id += "/" + ref.Version
	} else if ref.Scheme != keys.SchemeAWS {
		return nil, fmt.Errorf("keys/kms: %s says no version, and without one sigstore signs with the newest: add ?version=", ref)
	}
	a := newAsker(nil, timeout, kind)
	var err error
	a.sv, err = ask(ctx, a, func(ctx context.Context) (signature.SignerVerifier, error) {
		return load(context.WithoutCancel(ctx), id)
	})
	if err != nil {
		return nil, fmt.Errorf("keys/kms: client for %s: %w", ref, err)
	}
	return pin(ctx, ref, origin, vkey, a)
}

// checkEnv says whether a variable that a cloud's library or sigstore reads by itself has one of the values allowed; "" stands
// for none. A value that is not is not repeated.
func checkEnv(lookup func(string) (string, bool), name, reason string, allowed ...string) error {
	if lookup == nil {
		return fmt.Errorf("keys/kms: %s cannot be looked up: there is no environment to look in", name)
	}
	if v, _ := lookup(name); slices.Contains(allowed, v) {
		return nil
	}
	want := "be one of " + strings.Join(allowed, ", ")
	switch {
	case allowed[0] == "":
		want = "not be set"
	case len(allowed) == 1:
		want = "be " + allowed[0]
	}
	return fmt.Errorf("keys/kms: the environment variable %s must %s: otherwise %s", name, want, reason)
}
