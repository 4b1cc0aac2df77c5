package assemble

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/tallystick/tallystick/cmd/internal/config"
	"github.com/tallystick/tallystick/gateway"
	"github.com/tallystick/tallystick/gateway/webhook"
	"github.com/tallystick/tallystick/keys"
)

// approvals reads how people are asked, and who is told of it: sender is nil for nobody. Where nothing is said of approvals,
// nobody is asked.
func approvals(c *config.Config, env Env, refs *Keyring) (out gateway.Approvals, sender *webhook.Sender, err error) {
	a := c.Gateway.Approvals
	if a == nil {
		return out, nil, nil
	}
	out = gateway.Approvals{
		Groups: a.Groups, Glass: a.Glass, Within: time.Duration(a.Within), Longest: time.Duration(a.Longest), Hold: time.Duration(a.Hold),
		Again: time.Duration(a.Again), URL: a.URL,
	}
	if out.Key, err = readKey(c.Gateway.Approvals.Key, c.ApprovalsKey(), CreateApprovalsKey, refs, "tally keys new-approvals"); err != nil {
		return out, nil, fmt.Errorf("gateway.approvals.key: %w", err)
	}
	if c.Console != nil {
		out.Pages = strings.TrimSuffix(c.Console.Public, "/") + approvalsPage
	}
	if out.Hooks, err = hooks(a, refs); err != nil {
		return out, nil, err
	}
	if len(a.Notify) > 0 {
		if sender, err = notifier(a, env, refs); err != nil {
			return out, nil, fmt.Errorf("gateway.approvals.notify: %w", err)
		}
		out.Notify = sender.Notify
	}
	return out, sender, nil
}

// hooks makes what reads decisions that other systems send on.
func hooks(a *config.Approvals, refs *Keyring) (map[string]gateway.Hook, error) {
	out := make(map[string]gateway.Hook, len(a.Hooks))
	for name, h := range a.Hooks {
		kind, err := webhook.ParseKind(h.Kind)
		if err != nil {
			return nil, fmt.Errorf("gateway.approvals.hooks.%s: %w", name, err)
		}
		secret, err := refs.Credential(context.Background(), h.Secret)
		if err != nil {
			return nil, fmt.Errorf("gateway.approvals.hooks.%s.secret: %w", name, err)
		}
		people := make(map[string]gateway.Principal, len(h.People))
		for id, p := range h.People {
			people[id] = gateway.Principal{Name: p.Name, Email: p.Email, Groups: p.Groups, Key: name}
		}
		if out[name], err = webhook.NewReader(webhook.ReaderConfig{Kind: kind, Secret: secret, People: people}); err != nil {
			return nil, fmt.Errorf("gateway.approvals.hooks.%s: %w", name, err)
		}
	}
	return out, nil
}

// notifier makes what tells others of questions.
func notifier(a *config.Approvals, env Env, refs *Keyring) (*webhook.Sender, error) {
	buttons := false // in messages to Slack, if there is a hook that reads what they send
	for _, h := range a.Hooks {
		buttons = buttons || h.Kind == config.KindSlack
	}
	out := webhook.SenderConfig{Logger: env.Logger}
	for i, n := range a.Notify {
		t := webhook.Target{URL: n.URL, Buttons: buttons}
		var err error
		if t.Kind, err = webhook.ParseKind(n.Kind); err != nil {
			return nil, err
		}
		if !n.URLFrom.IsZero() {
			u, err := refs.Credential(context.Background(), n.URLFrom)
			if err != nil {
				return nil, fmt.Errorf("number %d: url_from: %w", i+1, err)
			}
			t.URL = string(u.Reveal())
		}
		if !n.Secret.IsZero() {
			secret, err := refs.Credential(context.Background(), n.Secret)
			if err != nil {
				return nil, fmt.Errorf("number %d: secret: %w", i+1, err)
			}
			t.Secret = secret
		}
		if t.Roots, err = readRoots(fmt.Sprintf("number %d: roots", i+1), n.Roots); err != nil {
			return nil, err
		}
		out.Targets = append(out.Targets, t)
	}
	return webhook.NewSender(out)
}

// readKey reads a key of 64 hex digits, which is in the file made unless another place is named; what is missing there is made
// by create. command is what makes one.
func readKey(ref config.Credential, made string, create func(path string) error, refs *Keyring, command string) ([]byte, error) {
	if ref.IsZero() {
		ref = config.Credential{Credential: keys.Credential{File: made}}
		if err := create(made); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, err
		}
	}
	secret, err := refs.Credential(context.Background(), ref)
	if err != nil {
		return nil, err
	}
	key, err := hex.DecodeString(string(secret.Reveal()))
	if err != nil || len(key) != 32 {
		return nil, fmt.Errorf("it is not 64 hex digits; `%s FILE` makes one", command)
	}
	return key, nil
}

// CreateApprovalsKey makes a key for approvals in a file, which must not be there.
func CreateApprovalsKey(path string) error {
	return createSecret(path, hex.EncodeToString(random(32)))
}

// CreateWebhookSecret makes a secret of Standard Webhooks in a file, which must not be there.
func CreateWebhookSecret(path string) error {
	return createSecret(path, "whsec_"+base64.StdEncoding.EncodeToString(random(32)))
}

// createSecret writes a secret into a file of its owner's alone, which must not be there. There is never half of one.
func createSecret(path, secret string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.WriteString(secret + "\n")
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Link(f.Name(), path)
}
