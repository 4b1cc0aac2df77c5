package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"

	"github.com/tallystick/tallystick/cmd/internal/assemble"
	"github.com/tallystick/tallystick/cmd/internal/cli"
	"github.com/tallystick/tallystick/keys/file"
)

func (t *tally) keys(ctx context.Context, args []string) error {
	if len(args) > 0 {
		switch args[0] {
		case "init":
			return t.keysInit(ctx, args[1:])
		case "rotate":
			return t.keysRotate(ctx, args[1:])
		case "rewrap":
			return t.keysRewrap(ctx, args[1:])
		}
	}
	fs := t.flags("keys new NAME | new-log ORIGIN FILE | new-kek FILE | new-approvals FILE | new-webhook FILE | init | rotate | rewrap", `Makes a key: for a caller or a gateway, for a log, to wrap data keys, for the approvals of all gateways
of a log, or for messages to and from another system.
A caller's key is printed once and kept nowhere; its hash goes into the configuration.
'keys init' sets up a log's keys in Vault, 'keys rotate' gives a log another key, 'keys rewrap'
seals data keys anew; --help tells more of each.`)
	mldsa := fs.Bool("ml-dsa", false, "a log's further key, ML-DSA-44, which signs beside its first")
	rest, err := parse(fs, args, 1, 3)
	if err != nil {
		return err
	}
	switch {
	case rest[0] == "new" && len(rest) == 2:
		key := "tk-" + assemble.NewSecret()
		sum := sha256.Sum256([]byte(key))
		fmt.Fprintf(t.stdout, "key: %s\n\nGive the key to %s and put under gateway.callers:\n\n  - name: %q\n    sha256: %s\n", key, rest[1], rest[1], hex.EncodeToString(sum[:]))
	case rest[0] == "new-log" && len(rest) == 3 && *mldsa:
		s, err := file.CreateCosigner(rest[2], rest[1], file.MLDSA44Cosigner)
		if err != nil {
			return err
		}
		fmt.Fprintf(t.stdout, "The log's further key is in %s; name it in also_keys. Auditors and witnesses know it as:\n\n%s\n", rest[2], s.VerifierKey())
	case rest[0] == "new-log" && len(rest) == 3:
		s, err := file.Create(rest[2], rest[1])
		if err != nil {
			return err
		}
		fmt.Fprintf(t.stdout, "The log's key is in %s. Auditors and witnesses know it as:\n\n%s\n", rest[2], s.VerifierKey())
	case rest[0] == "new-kek" && len(rest) == 2:
		if _, err := file.CreateKEK(rest[1]); err != nil {
			return err
		}
		fmt.Fprintf(t.stdout, "The key that wraps data keys is in %s. Without it no record can be read: keep a copy elsewhere.\n", rest[1])
	case rest[0] == "new-approvals" && len(rest) == 2:
		if err := assemble.CreateApprovalsKey(rest[1]); err != nil {
			return err
		}
		fmt.Fprintf(t.stdout, "The key of approvals is in %s. Name it in gateway.approvals.key, the same at every gateway of the log.\n", rest[1])
	case rest[0] == "new-webhook" && len(rest) == 2:
		if err := assemble.CreateWebhookSecret(rest[1]); err != nil {
			return err
		}
		fmt.Fprintf(t.stdout, "The secret is in %s. Name it as the secret of a webhook or hook under gateway.approvals, and give it to the other system.\n", rest[1])
	default:
		fs.Usage()
		return cli.Usagef("keys: %q is not understood", rest)
	}
	return nil
}
