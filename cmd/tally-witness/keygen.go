package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/tallystick/tallystick/cmd/internal/cli"
	"github.com/tallystick/tallystick/keys/file"
	"github.com/tallystick/tallystick/tlog"
)

// keygen makes key files, all that were asked for or none.
func (v *invocation) keygen(args []string) (int, error) {
	if len(args) != 1 {
		return 0, cli.Usagef("keygen takes one NAME, not %d: the witness's, a URL without its scheme such as witness.example.org/w1.", len(args))
	}
	if err := tlog.CheckOrigin(args[0]); err != nil {
		return 0, cli.Usagef("%q cannot name a witness: use a URL without its scheme such as witness.example.org/w1.", cli.Escape(args[0]))
	}
	var algs []byte
	switch v.keyType {
	case "both":
		algs = []byte{file.Ed25519Cosigner, file.MLDSA44Cosigner}
	case "ed25519":
		algs = []byte{file.Ed25519Cosigner}
	case "mldsa44":
		algs = []byte{file.MLDSA44Cosigner}
	default:
		return 0, cli.Usagef("--type is ed25519, mldsa44 or both.")
	}
	names := map[byte]string{file.Ed25519Cosigner: "witness-ed25519.key", file.MLDSA44Cosigner: "witness-mldsa44.key"}
	for _, alg := range algs {
		if path := filepath.Join(v.out, names[alg]); !missing(path) {
			return 0, fmt.Errorf("%s exists, and a key is never overwritten; move it away, or name another directory by --out", path)
		}
	}
	for _, alg := range algs {
		path := filepath.Join(v.out, names[alg])
		s, err := file.CreateCosigner(path, args[0], alg)
		if err != nil {
			return 0, err
		}
		fmt.Fprintf(v.stderr, "%s: keep it secret, and use it for this witness alone\n", path)
		fmt.Fprintln(v.stdout, s.VerifierKey())
	}
	fmt.Fprintln(v.stderr, "The verifier keys on standard output are what logs and auditors need.")
	return 0, nil
}

func missing(path string) bool {
	_, err := os.Lstat(path)
	return errors.Is(err, fs.ErrNotExist)
}
