package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"

	"github.com/tallystick/tallystick/cmd/internal/assemble"
	"github.com/tallystick/tallystick/keys/file"
)

const keysUsage = `tally keys makes keys, and changes those that are in use.

  tally keys new NAME              a key for a caller, or a token for a gateway whose log is elsewhere
  tally keys new-log ORIGIN FILE   the key that a log signs with
  tally keys new-kek FILE          the key that wraps data keys
  tally keys new-approvals FILE    the key of approvals that the gateways of a log share
  tally keys new-mask FILE         the key of masks that the gateways of a tenant share
  tally keys new-webhook FILE      the secret of messages to and from another system

  tally keys init ORIGIN           set up a log's keys in Vault
  tally keys rotate --config FILE  give a log another key
  tally keys rewrap --config FILE  seal data keys anew, under the newest key that wraps them

'tally keys COMMAND --help' tells more of each.
`

func (t *tally) keys(ctx context.Context, args []string) error {
	return t.choose(ctx, "keys ", keysUsage, map[string]command{
		"new": t.keysNew, "new-log": t.keysNewLog, "new-kek": t.keysNewKEK, "new-approvals": t.keysNewApprovals, "new-mask": t.keysNewMask, "new-webhook": t.keysNewWebhook,
		"init": t.keysInit, "rotate": t.keysRotate, "rewrap": t.keysRewrap,
	}, args)
}

func (t *tally) keysNew(_ context.Context, args []string) error {
	rest, err := parse(t.flags("keys new NAME", `Makes a key for the caller NAME, or a token for a gateway whose log is in another process. It is
printed once and kept nowhere; its hash goes into the configuration.`), args, 1, 1)
	if err != nil {
		return err
	}
	key := "tk-" + assemble.NewSecret()
	sum := sha256.Sum256([]byte(key))
	fmt.Fprintf(t.stdout, "key: %s\n\nGive the key to %s and put under gateway.callers:\n\n  - name: %q\n    sha256: %s\n\nOf a gateway whose log is in another process, the hash goes among the tokens of a client under serve_log there.\n", key, rest[0], rest[0], hex.EncodeToString(sum[:]))
	return nil
}

func (t *tally) keysNewLog(_ context.Context, args []string) error {
	fs := t.flags("keys new-log ORIGIN FILE [--ml-dsa]", `Makes the key that the log ORIGIN signs with, in FILE, and prints what auditors and witnesses know it by.`)
	mldsa := fs.Bool("ml-dsa", false, "a further key, ML-DSA-44, which signs beside the first")
	rest, err := parse(fs, args, 2, 2)
	if err != nil {
		return err
	}
	if *mldsa {
		s, err := file.CreateCosigner(rest[1], rest[0], file.MLDSA44Cosigner)
		if err != nil {
			return err
		}
		fmt.Fprintf(t.stdout, "The log's further key is in %s; name it in also_keys. Auditors and witnesses know it as:\n\n%s\n", rest[1], s.VerifierKey())
		return nil
	}
	s, err := file.Create(rest[1], rest[0])
	if err != nil {
		return err
	}
	fmt.Fprintf(t.stdout, "The log's key is in %s. Auditors and witnesses know it as:\n\n%s\n", rest[1], s.VerifierKey())
	return nil
}

func (t *tally) keysNewKEK(_ context.Context, args []string) error {
	return t.keysNewFile("keys new-kek FILE", "Makes the key that wraps data keys, in FILE.", args,
		func(path string) error { _, err := file.CreateKEK(path); return err },
		"The key that wraps data keys is in %s. Without it no record can be read: keep a copy elsewhere.\n")
}

func (t *tally) keysNewApprovals(_ context.Context, args []string) error {
	return t.keysNewFile("keys new-approvals FILE", `Makes the key of approvals, in FILE: what one gateway has asked is decided and used at all that have it.`, args,
		assemble.CreateApprovalsKey, "The key of approvals is in %s. Name it in gateway.approvals.key, the same at every gateway of the log.\n")
}

func (t *tally) keysNewMask(_ context.Context, args []string) error {
	return t.keysNewFile("keys new-mask FILE", `Makes the key of masks, in FILE: the same value has the same mask at all gateways that have it.`, args,
		assemble.CreateMaskKey, "The key of masks is in %s. Name it in gateway.masking.key. Who has it can tell whether a value was masked: keep it as what it hides.\n")
}

func (t *tally) keysNewWebhook(_ context.Context, args []string) error {
	return t.keysNewFile("keys new-webhook FILE", "Makes the secret of messages to or from another system, in FILE.", args,
		assemble.CreateWebhookSecret, "The secret is in %s. Name it as the secret of a webhook or hook under gateway.approvals, and give it to the other system.\n")
}

// keysNewFile makes a key that is in a file and has no other half, and says what to do with it.
func (t *tally) keysNewFile(synopsis, help string, args []string, create func(path string) error, made string) error {
	rest, err := parse(t.flags(synopsis, help), args, 1, 1)
	if err != nil {
		return err
	}
	if err := create(rest[0]); err != nil {
		return err
	}
	fmt.Fprintf(t.stdout, made, rest[0])
	return nil
}
