package kms

import (
	"crypto"
	"os"
	"path/filepath"
	"testing"

	sigstore "github.com/sigstore/sigstore/pkg/signature/kms"

	"github.com/tallystick/tallystick/keys"
	"github.com/tallystick/tallystick/keys/file"
)

// providers are all there are in this build.
func providers() keys.Providers {
	all := keys.Providers{keys.SchemeFile: PEM{Else: file.Provider{}}}
	for scheme, p := range clouds() {
		all[scheme] = p
	}
	return all
}

// trap puts programs of these names first in PATH, and says whether one of them was run.
func trap(t *testing.T, names ...string) (sprung func() bool) {
	t.Helper()
	dir := t.TempDir()
	mark := filepath.Join(dir, "mark")
	for _, n := range names {
		if err := os.WriteFile(filepath.Join(dir, n), []byte("#!/bin/sh\n: > "+mark+"\n"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", dir+string(os.PathListSeparator)+os.Getenv("PATH")) // a shell is needed too
	return func() bool {
		_, err := os.Stat(mark)
		return err == nil
	}
}

// A scheme that is not known runs no program, though sigstore's own loader does: that is shown last, so that it is known
// that the trap springs.
func TestNoProgramRuns(t *testing.T) {
	sprung := trap(t, "sigstore-kms-evil", "sigstore-kms-file", "sigstore-kms-vault", "sigstore-kms-awskms", "sigstore-kms-gcpkms", "sigstore-kms-azurekms")
	all := providers()
	for _, text := range []string{"evil://key", "evil:key", "evil:///key", "awskms://key", "gcpkms://key", "azurekms://key", "file://key", "vault://key", "vault:transit/key?version=1", "../evil:key", "sigstore-kms-evil:key"} {
		ref, err := keys.ParseReference(text)
		if err != nil {
			continue
		}
		if _, err := all.Signer(t.Context(), ref, origin, ""); err == nil {
			t.Errorf("%s: a signer", text)
		}
	}
	for _, ref := range []keys.Reference{{Scheme: "evil", Path: "//key"}, {Scheme: "evil", Path: "key"}, {Scheme: "", Path: "evil://key"}} {
		if _, err := all.Signer(t.Context(), ref, origin, ""); err == nil {
			t.Errorf("%s: a signer", ref)
		}
		for scheme, p := range all { // asked past the list
			if _, err := p.Signer(t.Context(), ref, origin, ""); err == nil {
				t.Errorf("%s of %s: a signer", ref, scheme)
			}
		}
	}
	if sprung() {
		t.Error("a program was run")
	}
	sv, err := sigstore.Get(t.Context(), "evil://key", crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := sv.PublicKey(); err == nil || !sprung() {
		t.Errorf("the trap does not spring: %v", err)
	}
}
