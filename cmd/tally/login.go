package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/tallystick/tallystick/cmd/internal/cli"
	"github.com/tallystick/tallystick/cmd/internal/config"
	"github.com/tallystick/tallystick/gateway/login"
	"github.com/tallystick/tallystick/gateway/token"
)

// gatewayURL is where a gateway is found: at what was said, or at $TALLYSTICK_GATEWAY.
func (t *tally) gatewayURL(said string) (*url.URL, error) {
	if said == "" {
		said, _ = t.lookup("TALLYSTICK_GATEWAY")
	}
	if said == "" {
		return nil, cli.Usagef("say where the gateway is with --gateway URL, or set TALLYSTICK_GATEWAY")
	}
	u, err := url.Parse(strings.TrimSuffix(said, "/"))
	if err != nil || u.Host == "" || u.Path != "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
		return nil, fmt.Errorf("%q is not where a gateway is; give a URL such as https://gateway.example", said)
	}
	if u.Scheme != "https" && !(u.Scheme == "http" && (u.Hostname() == "localhost" || net.ParseIP(u.Hostname()).IsLoopback())) {
		return nil, fmt.Errorf("%s: a token does not travel in the clear; use https", said)
	}
	return u, nil
}

// tokenFile is where this user's token for a gateway is kept.
func (t *tally) tokenFile(gateway *url.URL) (string, error) {
	dir := t.state()
	if dir == "" {
		return "", errors.New("there is no directory to keep a token in; set HOME or XDG_STATE_HOME")
	}
	dir = filepath.Join(dir, "tokens")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	return filepath.Join(dir, strings.NewReplacer(":", "_", "[", "", "]", "").Replace(gateway.Host)), nil
}

// gatewayToken is this user's token for a gateway: $TALLYSTICK_KEY, or what `tally login` has kept.
func (t *tally) gatewayToken(gateway *url.URL) (string, error) {
	if v, ok := t.lookup("TALLYSTICK_KEY"); ok {
		return strings.TrimSpace(v), nil
	}
	path, err := t.tokenFile(gateway)
	if err != nil {
		return "", err
	}
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("you have no token for %s; get one with `tally login --gateway %s`", gateway, gateway)
	}
	return strings.TrimSpace(string(b)), err
}

// askGateway makes one request and reads the JSON that is answered into out, for the status want; for another it returns the
// word in the answer.
func askGateway(ctx context.Context, method string, to *url.URL, path, bearer string, form url.Values, want int, out any) (word string, err error) {
	var body io.Reader
	if form != nil {
		body = strings.NewReader(form.Encode())
	}
	req, err := http.NewRequestWithContext(ctx, method, to.String()+path, body)
	if err != nil {
		return "", err
	}
	if form != nil {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	if bearer != "" {
		req.Header.Set("Authorization", "Bearer "+bearer)
	}
	// No redirect is followed: a token is for the gateway that was named.
	client := &http.Client{Timeout: 30 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return "", err
	}
	if resp.StatusCode == want {
		if out == nil {
			return "", nil
		}
		return "", json.Unmarshal(b, out)
	}
	var no struct {
		Error any `json:"error"`
	}
	json.Unmarshal(b, &no)
	if s, ok := no.Error.(string); ok && s != "" {
		return s, nil
	}
	return fmt.Sprintf("status %d", resp.StatusCode), nil
}

func (t *tally) login(ctx context.Context, args []string) error {
	fs := t.flags("login [--gateway URL] [--name NAME]", `Gets a token to call models with, from a gateway where people log in. It shows an address and a
code; log in there, and say yes if the page shows the same code. The token is kept for this user
alone, and ends after some hours.`)
	at := fs.String("gateway", "", "the `URL` of the gateway; by default $TALLYSTICK_GATEWAY")
	host, _ := os.Hostname()
	name := fs.String("name", host, "what the token is called in lists")
	if _, err := parse(fs, args, 0, 0); err != nil {
		return err
	}
	gateway, err := t.gatewayURL(*at)
	if err != nil {
		return err
	}
	path, err := t.tokenFile(gateway)
	if err != nil {
		return err
	}
	var begun login.Begun
	word, err := askGateway(ctx, http.MethodPost, gateway, login.DevicePath, "", url.Values{"name": {*name}}, http.StatusOK, &begun)
	switch {
	case err != nil:
		return err
	case word == "unknown_path" || strings.HasPrefix(word, "status "):
		return fmt.Errorf("nobody can log in at %s (%s); ask who runs it for a key", gateway, word)
	case word == "slow_down":
		return fmt.Errorf("too many log-ins are under way at %s; try again in a minute", gateway)
	case word != "":
		return fmt.Errorf("%s gives no code: %s", gateway, word)
	}
	fmt.Fprintf(t.stdout, "Open  %s\nCode  %s\n\nSay yes there if the page shows this code. Waiting...\n", cli.Escape(begun.Complete), cli.Escape(begun.Code))
	given, err := t.await(ctx, gateway, begun)
	if err != nil {
		return err
	}
	if err := keep(path, given.Token); err != nil {
		return err
	}
	until := time.Now().Add(time.Duration(given.Expires) * time.Second)
	fmt.Fprintf(t.stdout, "\nYou are %s, until %s. The token is in %s:\n\n  export OPENAI_BASE_URL=%s/v1 OPENAI_API_KEY=\"$(cat %s)\"\n", cli.Escape(given.Who), until.Format("2006-01-02 15:04"), path, gateway, path)
	return nil
}

// await polls until a person has decided.
func (t *tally) await(ctx context.Context, gateway *url.URL, begun login.Begun) (given login.Given, err error) {
	pause := time.Duration(min(max(begun.Interval, 1), 60)) * time.Second
	over := time.Now().Add(time.Duration(min(max(begun.Expires, 1), 3600)) * time.Second)
	for time.Now().Before(over) {
		select {
		case <-ctx.Done():
			return given, ctx.Err()
		case <-time.After(pause):
		}
		form := url.Values{"grant_type": {"urn:ietf:params:oauth:grant-type:device_code"}, "device_code": {begun.Device}}
		word, err := askGateway(ctx, http.MethodPost, gateway, login.TokenPath, "", form, http.StatusOK, &given)
		switch {
		case err != nil && ctx.Err() != nil:
			return given, ctx.Err()
		case err != nil, word == "authorization_pending", word == "temporarily_unavailable": // a gateway that starts again forgets us, and says so
		case word == "slow_down":
			pause += 5 * time.Second
		case word == "access_denied":
			return given, errors.New("it was refused: somebody said no, or has signed out")
		case word == "expired_token":
			return given, errors.New("nobody said yes in time, or the gateway started again; run `tally login` again")
		case word != "":
			return given, fmt.Errorf("%s gives no token: %s", gateway, word)
		default:
			if given.Token == "" {
				return given, fmt.Errorf("%s gives an answer without a token", gateway)
			}
			return given, nil
		}
	}
	return given, errors.New("nobody said yes in time; run `tally login` again")
}

// keep writes a secret into a file for this user alone, all of it or nothing.
func keep(path, secret string) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*") // which is for this user alone
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.WriteString(secret + "\n")
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

const tokensUsage = `tally tokens deals with the tokens that a gateway has given people.

  tally tokens list       list the tokens you have
  tally tokens revoke ID  end one of them

'tally tokens COMMAND --help' tells more of each.
`

func (t *tally) tokens(ctx context.Context, args []string) error {
	return t.choose(ctx, "tokens ", tokensUsage, map[string]command{"list": t.tokensList, "revoke": t.tokensRevoke}, args)
}

// whoseTokens are the flags that say whose tokens are meant: everybody's, if there is a configuration.
func whoseTokens(fs *flag.FlagSet) (gateway, config *string) {
	return fs.String("gateway", "", "the `URL` of the gateway; by default $TALLYSTICK_GATEWAY"),
		fs.String("config", "", "the configuration `file` of the gateway, for everybody's tokens")
}

const whoseHelp = `
Without --config the tokens are your own, and the one that 'tally login' has kept speaks for you.`

func (t *tally) tokensList(ctx context.Context, args []string) error {
	fs := t.flags("tokens list [--gateway URL | --config FILE]", "Lists tokens that people were given by a gateway."+whoseHelp)
	at, file := whoseTokens(fs)
	if _, err := parse(fs, args, 0, 0); err != nil {
		return err
	}
	w := tabwriter.NewWriter(t.stdout, 0, 8, 2, ' ', 0)
	if *file != "" {
		store, err := tokenStore(*file)
		if err != nil {
			return err
		}
		for _, o := range store.List() {
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\tuntil %s\n", o.ID, o.Kind, cli.Escape(o.Principal.Name), cli.Escape(o.Name), o.Expires.Local().Format("2006-01-02 15:04"))
		}
		return w.Flush()
	}
	gateway, bearer, err := t.ownToken(*at)
	if err != nil {
		return err
	}
	var all []login.Listed
	word, err := askGateway(ctx, http.MethodGet, gateway, login.TokensPath, bearer, nil, http.StatusOK, &all)
	if err != nil || word != "" {
		return refused(gateway, word, err)
	}
	for _, o := range all {
		this := ""
		if o.This {
			this = "this one"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\tuntil %s\t%s\n", cli.Escape(o.ID), cli.Escape(o.Kind), cli.Escape(o.Name), o.Expires.Local().Format("2006-01-02 15:04"), this)
	}
	return w.Flush()
}

func (t *tally) tokensRevoke(ctx context.Context, args []string) error {
	fs := t.flags("tokens revoke ID [--gateway URL | --config FILE]", "Ends a token that somebody was given by a gateway; 'tally tokens list' shows the IDs."+whoseHelp)
	at, file := whoseTokens(fs)
	rest, err := parse(fs, args, 1, 1)
	if err != nil {
		return err
	}
	id := rest[0]
	if *file != "" {
		store, err := tokenStore(*file)
		if err != nil {
			return err
		}
		if err := store.Revoke(id); err != nil {
			return err
		}
	} else {
		gateway, bearer, err := t.ownToken(*at)
		if err != nil {
			return err
		}
		word, err := askGateway(ctx, http.MethodDelete, gateway, login.TokensPath+"/"+url.PathEscape(id), bearer, nil, http.StatusNoContent, nil)
		if err != nil || word != "" {
			return refused(gateway, word, err)
		}
	}
	fmt.Fprintf(t.stdout, "The token %s is revoked.\n", cli.Escape(id))
	return nil
}

// ownToken is where the gateway is, and what this user shows it.
func (t *tally) ownToken(said string) (*url.URL, string, error) {
	gateway, err := t.gatewayURL(said)
	if err != nil {
		return nil, "", err
	}
	bearer, err := t.gatewayToken(gateway)
	return gateway, bearer, err
}

func refused(gateway *url.URL, word string, err error) error {
	switch {
	case err != nil:
		return err
	case word == "invalid_token":
		return fmt.Errorf("your token for %s is not good any more; get one with `tally login --gateway %s`", gateway, gateway)
	case word == "unknown_token":
		return errors.New("you have no such token; `tally tokens list` shows those you have")
	case word == "unknown_path" || word == "status 404":
		return fmt.Errorf("nobody logs in at %s (%s), and so it has given no tokens; keys are changed by who runs it", gateway, word)
	}
	return fmt.Errorf("%s answers: %s", gateway, word)
}

// tokenStore opens the tokens of the gateway that a configuration is of.
func tokenStore(file string) (*token.Store, error) {
	c, err := config.Load(file)
	if err != nil {
		return nil, err
	}
	if c.Gateway.Identity.Tokens == nil {
		return nil, fmt.Errorf("%s: the gateway gives no tokens: there is no gateway.identity.tokens", file)
	}
	return token.Open(c.Gateway.Identity.Tokens.Dir, nil)
}
