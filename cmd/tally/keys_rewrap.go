package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strings"

	"github.com/tallystick/tallystick/audit"
	"github.com/tallystick/tallystick/cmd/internal/assemble"
	"github.com/tallystick/tallystick/cmd/internal/cli"
)

func (t *tally) keysRewrap(ctx context.Context, args []string) error {
	fs := t.flags("keys rewrap --config FILE", `Seals all data keys anew, under the newest version of the key that wraps them (data_keys.kek), so
that a backup of the ring opens nothing that was erased since. Calls are served meanwhile; who has it done, and why, goes
on record first. It is the second of four steps, without which it changes nothing for whoever has a backup:

  1. rotate the key that wraps them: in Vault, vault write -f transit/keys/NAME/rotate; in a file, a new one as
     data_keys.kek with the old one in data_keys.former, and start again
  2. tally keys rewrap
  3. make a new backup of data_keys.dir
  4. retire what it does not name as needed: in Vault, vault write transit/keys/NAME/config min_decryption_version=N;
     destroy an old file and its copies. If other rings hang on the same key, do that when all were moved

Broken off, it begins again where it was, when it is run again.`)
	var s source
	fs.StringVar(&s.log, "log", "", "the `URL` of the desk of a running gateway")
	fs.StringVar(&s.data, "data", "", "the data `directory` of a log, running or closed; by default "+defaultData)
	fs.StringVar(&s.config, "config", "", "the configuration `file` that the gateway runs by, or did")
	fs.StringVar(&s.tokenFile, "token-file", "", "the `file` with the operators' token of a running gateway")
	reason := fs.String("reason", "rotation", "`why`, for the record")
	actor := fs.String("as", "", "`who` does it, for the record; by default the user's name")
	if _, err := parse(fs, args, 0, 0); err != nil {
		return err
	}
	who := audit.Asker{Name: *actor, Reason: *reason, Roles: audit.Admin}
	if who.Name == "" {
		who.Name = userName()
	}
	base, err := s.url()
	if err != nil {
		return err
	}
	var said string
	if base != "" {
		said, err = t.rewrapRunning(ctx, base, s.tokenFile, who)
		if refused := new(url.Error); errors.As(err, &refused) && s.log == "" && ctx.Err() == nil {
			base, err = "", nil // it said that it runs, and does not: it died
		}
	}
	if base == "" && err == nil {
		said, err = t.rewrapClosed(ctx, &s, who)
	}
	if err != nil {
		return fmt.Errorf("keys rewrap: %w", err)
	}
	fmt.Fprint(t.stdout, said)
	fmt.Fprint(t.stderr, "Make a new backup of the ring; then whatever is not named as needed can be retired.\n")
	return nil
}

// rewrapRunning asks the desk of a running gateway, and waits for as long as it takes.
func (t *tally) rewrapRunning(ctx context.Context, base, tokenFile string, who audit.Asker) (string, error) {
	token, err := t.operatorToken(base, tokenFile)
	if err != nil {
		return "", err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, strings.TrimSuffix(base, "/")+audit.Prefix+"rewrap", nil)
	if err != nil {
		return "", err
	}
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("Tallystick-Actor", who.Name)
	req.Header.Set("Tallystick-Reason", who.Reason)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("the desk answered %s: %s", resp.Status, strings.TrimSpace(string(b)))
	}
	return string(b), err
}

// rewrapClosed opens a ring that nobody has open, and its log for the record.
func (t *tally) rewrapClosed(ctx context.Context, s *source, who audit.Asker) (said string, err error) {
	c, err := s.load()
	if err != nil {
		return "", err
	}
	if !c.HasGateway() {
		return "", cli.Usagef("keys rewrap: this process has no data keys; name the gateway's configuration, or its desk with --log")
	}
	env := t.env(slog.New(slog.DiscardHandler))
	env.Brief = true
	v, err := assemble.OpenVault(c, env)
	if err != nil {
		return "", err
	}
	desk, pen, err := v.Desk("tally-keys")
	if err != nil {
		return "", errors.Join(err, v.Close())
	}
	err = assemble.While(ctx, v, pen, func(ctx context.Context) error {
		said, err = desk.Rewrap(ctx, who)
		return err
	})
	return said, err
}
