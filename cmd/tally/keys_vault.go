package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/tallystick/tallystick/audit"
	"github.com/tallystick/tallystick/cmd/internal/assemble"
	"github.com/tallystick/tallystick/cmd/internal/cli"
	"github.com/tallystick/tallystick/cmd/internal/config"
	"github.com/tallystick/tallystick/keys"
	"github.com/tallystick/tallystick/keys/file"
	"github.com/tallystick/tallystick/keys/vault"
	"github.com/tallystick/tallystick/tlog"
)

// administrator is who the environment says, or else whoever logged in last with Vault's own tool, which leaves its token in
// .vault-token: no token of a running log may do what is done here.
func (t *tally) administrator() (*vault.Client, error) {
	c, err := vault.FromEnvironment(t.lookup)
	if err != nil {
		return nil, err
	}
	if c.Address == "" {
		return nil, errors.New("which Vault is it? Set VAULT_ADDR, such as https://vault.example:8200, and VAULT_TOKEN to an administrator's token")
	}
	if home, ok := t.lookup("HOME"); ok && c.Login == (vault.Login{}) {
		if left := filepath.Join(home, ".vault-token"); isFile(left) {
			c.Login.Token = keys.Credential{File: left}
		}
	}
	c.Lookup = t.lookup
	return vault.New(c)
}

func isFile(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular()
}

func (t *tally) keysInit(ctx context.Context, args []string) error {
	fs := t.flags("keys init ORIGIN", `Sets up in Vault what a log needs: the key it signs with, the anchor, and the key that wraps data
keys; and for each the least policy, for the log-in that you then make. It asks the Vault that VAULT_ADDR names, with
VAULT_TOKEN or what 'vault login' left in ~/.vault-token, which must be an administrator's. Run again it changes nothing but
policies.`)
	sign := fs.String("sign", "vault:transit/log", "the transit `key` that signs")
	kind := fs.String("type", vault.Ed25519, "its `type`: "+vault.Ed25519+" or "+vault.ECDSAP256)
	anchor := fs.String("anchor", "vault:secret/tallystick/anchor", "the `place` of the anchor in a KV v2 engine; empty for none")
	wrap := fs.String("wrap", "vault:transit/tenant", "the transit `key` that wraps data keys; empty for none")
	policies := fs.String("policies", "tallystick", "how the policies' `names` begin")
	bare := fs.Bool("no-policies", false, "write no policies, only print them")
	rest, err := parse(fs, args, 1, 1)
	if err != nil {
		return err
	}
	s := vault.Setup{Origin: rest[0], Type: *kind, Policies: *policies, NoPolicies: *bare}
	for _, r := range []struct {
		text string
		into *keys.Reference
	}{{*sign, &s.Signer}, {*anchor, &s.Anchor}, {*wrap, &s.KEK}} {
		if r.text == "" {
			continue
		}
		if *r.into, err = keys.ParseReference(r.text); err != nil {
			return cli.Usagef("keys init: %v", err)
		}
	}
	admin, err := t.administrator()
	if err != nil {
		return err
	}
	done, err := admin.Init(ctx, s)
	for _, did := range done.Did {
		fmt.Fprintf(t.stdout, "# %s\n", did)
	}
	if err != nil {
		return err
	}
	if *bare {
		for _, p := range done.Policies {
			fmt.Fprintf(t.stdout, "#\n# The policy %s:\n#\n#   %s\n", p.Name, strings.ReplaceAll(strings.TrimSpace(p.Text), "\n", "\n#   "))
		}
	}
	fmt.Fprintf(t.stdout, "#\n# For the configuration:\n\n%s", configured(s, done.Signer, "data/ring"))
	return nil
}

// configured is what the configuration of a log says of what is in Vault.
func configured(s vault.Setup, signer *keys.Signer, ring string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "key: %s\npublic_key: %s\n", signer.Reference(), signer.VerifierKey())
	if !s.Anchor.IsZero() {
		fmt.Fprintf(&b, "anchor: %s\n", s.Anchor)
	}
	if !s.KEK.IsZero() {
		fmt.Fprintf(&b, "data_keys: {dir: %s, kek: %q}\n", ring, s.KEK.String())
	}
	return b.String()
}

func (t *tally) keysRotate(ctx context.Context, args []string) error {
	fs := t.flags("keys rotate --config FILE [--finish]", `Gives a log another key. First both keys sign, old and new, so that whoever knows one of them
can follow; when all have the new one, --finish lets it sign alone. The configuration and its policy file are changed,
what changed goes on record, and a running log takes it up when it is told to: kill -HUP. Bundles of before verify for
ever by policies that keep the old key's line. A key in Vault gets a new version there, asked for with VAULT_ADDR and
VAULT_TOKEN, which must be an administrator's; for one in a file name the new file with --to.`)
	var s source
	fs.StringVar(&s.config, "config", "", "the configuration `file` of the log")
	fs.StringVar(&s.log, "log", "", "the `URL` of the desk of a running gateway, for the record")
	fs.StringVar(&s.tokenFile, "token-file", "", "the `file` with the operators' token")
	finish := fs.Bool("finish", false, "let the new key sign alone")
	to := fs.String("to", "", "the new `file`, for a key in a file")
	policies := fs.String("policies", "tallystick", "how the `names` of policies in Vault begin; empty to leave them alone")
	reason := fs.String("reason", "rotation", "`why`, for the record")
	actor := fs.String("as", "", "`who` does it, for the record; by default the user's name")
	if _, err := parse(fs, args, 0, 0); err != nil {
		return err
	}
	if s.config == "" {
		return cli.Usagef("keys rotate needs --config FILE: the file that the log runs by")
	}
	c, err := config.Load(s.config)
	if err != nil {
		return err
	}
	if !c.HasLog() {
		return fmt.Errorf("keys rotate: the log %s is in another process; its keys are in that one's file", c.Origin)
	}
	now, err := assemble.NewKeyring(c, t.env(slog.New(slog.DiscardHandler))).Signers(ctx)
	if err != nil {
		return err
	}
	r := &rotation{tally: t, c: c, now: now, keys: c.Keys(), policies: *policies}
	step := r.begin
	if *finish {
		step = r.finish
	}
	if err := step(ctx, *to); err != nil {
		return fmt.Errorf("keys rotate: %w", err)
	}
	if err := r.write(s.config); err != nil {
		return fmt.Errorf("keys rotate: %w", err)
	}
	who := audit.Asker{Name: *actor, Reason: *reason, Roles: audit.Admin}
	if who.Name == "" {
		who.Name = userName()
	}
	if err := t.announceKeys(ctx, &s, c, who, r.said()); err != nil {
		fmt.Fprintf(t.stderr, "tally: the keys are changed, and it is not on record: %s\n", printable(err.Error()))
	}
	fmt.Fprintf(t.stdout, "%s\nTell the running log: kill -HUP its process, or start it again.\n", r.done)
	return nil
}

func userName() string {
	if u, err := user.Current(); err == nil {
		return u.Username
	}
	return "unknown"
}

// A rotation is one step from a key to the next.
type rotation struct {
	*tally
	c        *config.Config
	now      []*keys.Signer // of the configuration, the first one first
	keys     config.KeysOf  // as they are to be
	policies string
	added    string // a verifier key that policies must know
	done     string // in a sentence
}

// begin makes the new key, which signs beside the old one.
func (r *rotation) begin(ctx context.Context, to string) error {
	old := r.now[0]
	if i := slices.IndexFunc(r.now[1:], rotated); i >= 0 {
		return fmt.Errorf("a rotation is under way: %s signs too; end it with --finish first", r.now[1+i].Reference())
	}
	var next *keys.Signer
	switch ref := old.Reference(); ref.Scheme {
	case keys.SchemeVault:
		admin, err := r.administrator()
		if err != nil {
			return err
		}
		if next, err = admin.Rotate(ctx, old); err != nil {
			return err
		}
		if err := r.policy(ctx, admin, old, next); err != nil {
			return err
		}
	case keys.SchemeFile:
		if to == "" {
			return cli.Usagef("keys rotate: the key is in a file; name the file of the new one with --to")
		}
		if _, err := file.Create(to, r.c.Origin); err != nil {
			return err
		}
		ref, err := r.c.Reference(to)
		if err != nil {
			return err
		}
		if next, err = (file.Provider{}).Signer(ctx, ref, r.c.Origin, ""); err != nil {
			return err
		}
	default:
		return fmt.Errorf("%s is rotated where it is; then put the new version first in the configuration and the old one into also_keys", ref)
	}
	r.keys.Also = append([]config.AlsoKey{{Key: old.Reference().String(), PublicKey: old.VerifierKey()}}, r.keys.Also...)
	r.keys.Key, r.keys.PublicKey = next.Reference().String(), next.VerifierKey()
	r.added = next.VerifierKey()
	r.done = fmt.Sprintf("From now on both sign, %s and the new key:\n\n%s\n\nGive that to auditors and witnesses; when they have it: tally keys rotate --finish", old.Reference(), next.VerifierKey())
	return nil
}

// rotated says whether a key that signs beside the first is there for a rotation. One of ML-DSA-44 is there for good.
func rotated(s *keys.Signer) bool {
	_, err := tlog.NewCosignatureVerifier(s.VerifierKey())
	return err != nil
}

// finish leaves the new key alone, but for keys of another kind that sign beside it for good.
func (r *rotation) finish(ctx context.Context, _ string) error {
	var stay []config.AlsoKey
	var gone []string
	for i, s := range r.now[1:] {
		if rotated(s) {
			gone = append(gone, s.VerifierKey())
		} else {
			stay = append(stay, r.keys.Also[i])
		}
	}
	if len(gone) == 0 {
		return errors.New("no rotation is under way: no other key of the same kind signs beside the first")
	}
	r.keys.Also, r.keys.Former = stay, append(r.keys.Former, gone...)
	if r.now[0].Reference().Scheme == keys.SchemeVault {
		admin, err := r.administrator()
		if err != nil {
			return err
		}
		if err := r.policy(ctx, admin, r.now[0]); err != nil {
			return err
		}
	}
	r.done = fmt.Sprintf("From now on %s signs alone. Keep the old key's line in every policy: it verifies what was signed before.", r.now[0].Reference())
	return nil
}

// policy lets the log's token sign with these versions and no others.
func (r *rotation) policy(ctx context.Context, admin *vault.Client, signers ...*keys.Signer) error {
	if r.policies == "" {
		return nil
	}
	p, err := vault.SignPolicy(r.policies+"-sign", signers...)
	if err != nil {
		return err
	}
	return admin.WritePolicy(ctx, p)
}

// write changes the policy file first: a log whose policy does not know its key publishes nothing.
func (r *rotation) write(path string) error {
	if r.c.Policy != "" && r.added != "" {
		text, err := os.ReadFile(r.c.Policy)
		if err != nil {
			return fmt.Errorf("policy: %w", err)
		}
		has := r.now[0].VerifierKey()
		next, err := config.AddLogKey(text, has, r.added)
		if err != nil {
			return fmt.Errorf("policy %s: %w", r.c.Policy, err)
		}
		if _, err := tlog.ParsePolicy(next); err != nil {
			return fmt.Errorf("policy %s: %w", r.c.Policy, err)
		}
		if err := config.WriteFile(r.c.Policy, next); err != nil {
			return fmt.Errorf("policy: %w", err)
		}
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	next, err := config.EditKeys(text, ".", r.keys)
	if err != nil {
		return fmt.Errorf("%s: %w; the keys it is to have are:\n%s", path, err, r.said())
	}
	return config.WriteFile(path, next)
}

// said is what goes on record: a key a line.
func (r *rotation) said() string {
	var b strings.Builder
	fmt.Fprintf(&b, "signs %s\n", r.keys.PublicKey)
	for _, k := range r.keys.Also {
		fmt.Fprintf(&b, "signs %s\n", k.PublicKey)
	}
	for _, k := range r.keys.Former {
		fmt.Fprintf(&b, "former %s\n", k)
	}
	return b.String()
}

// announceKeys puts on record which keys sign: at the desk of what runs, or in the closed log.
func (t *tally) announceKeys(ctx context.Context, s *source, c *config.Config, who audit.Asker, said string) error {
	base, err := s.url()
	if err != nil {
		return err
	}
	if base == "" {
		if !c.HasGateway() {
			return errors.New("the log's own process has no desk, and that of a gateway was not named")
		}
		return t.announceClosed(ctx, c, who, said)
	}
	token, err := t.operatorToken(base, s.tokenFile)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, strings.TrimSuffix(base, "/")+audit.Prefix+"keys", bytes.NewReader([]byte(said)))
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("Tallystick-Actor", who.Name)
	req.Header.Set("Tallystick-Reason", who.Reason)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if b, _ := io.ReadAll(io.LimitReader(resp.Body, 500)); resp.StatusCode != http.StatusNoContent {
		return fmt.Errorf("the desk answered %s: %s", resp.Status, strings.TrimSpace(string(b)))
	}
	return nil
}

// announceClosed opens a log that nobody has open. Its keys are those of before, or of after: either may sign for this.
func (t *tally) announceClosed(ctx context.Context, c *config.Config, who audit.Asker, said string) error {
	env := t.env(slog.New(slog.DiscardHandler))
	env.Brief = true
	v, err := assemble.OpenVault(c, env)
	if err != nil {
		return err
	}
	desk, pen, err := v.Desk("tally-keys")
	if err != nil {
		return errors.Join(err, v.Close())
	}
	return assemble.While(ctx, v, pen, func(ctx context.Context) error { return desk.Announce(ctx, who, said) })
}
