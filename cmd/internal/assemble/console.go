package assemble

import (
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/tallystick/tallystick/audit/console"
	"github.com/tallystick/tallystick/cmd/internal/config"
	"github.com/tallystick/tallystick/gateway"
	"github.com/tallystick/tallystick/gateway/login"
	"github.com/tallystick/tallystick/tlog/record"
)

// Where the console has what lets people in, and what waits for them.
const (
	loginPath     = "/login"
	logoutPath    = "/logout"
	approvalsPage = "/approvals"
)

// A front is the console of a house. It is made anew when the configuration changes, and those who are signed in stay so.
type front struct {
	now   atomic.Pointer[console.Console]
	tls   *tls.Config     // nil for plain HTTP
	door  *door           // nil for personas
	stage *stage          // nil for people who log in
	fixed *config.Console // what it began with
}

// ServeHTTP serves a page.
func (f *front) ServeHTTP(w http.ResponseWriter, req *http.Request) { f.now.Load().ServeHTTP(w, req) }

// addConsole makes the console, for people who log in, or for personas.
func (h *House) addConsole(c *config.Config, known *identity) (err error) {
	f := &front{fixed: c.Console}
	if t := c.Console.TLS; t.Cert != "" {
		cert, err := tls.LoadX509KeyPair(t.Cert, t.Key)
		if err != nil {
			return fmt.Errorf("console.tls: %w", err)
		}
		f.tls = &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}}
	}
	if len(h.env.Personas) > 0 {
		f.stage, err = newStage(h.env.Personas)
	} else {
		f.door = &door{gateway: h.Gateway}
		f.door.pages, err = known.logins(c.Gateway.Identity, login.Config{
			Public: c.Console.Public, At: loginPath, Home: "/", Life: c.SessionLife(), Logger: h.env.Logger,
		}, c.Console.Signs)
	}
	if err != nil {
		return fmt.Errorf("console: %w", err)
	}
	h.front = f
	return h.furnish(c)
}

// furnish makes the console's pages as a configuration says.
func (h *House) furnish(c *config.Config) error {
	f, k := h.front, c.Console
	public, err := url.Parse(k.Public)
	if err != nil {
		return fmt.Errorf("console.public: %w", err)
	}
	out := console.Config{
		Desk: h.desk, Log: h.Vault.Log, Hosts: append([]string{public.Host}, k.Hosts...), Secure: public.Scheme == "https",
		Health: h.checks, Numbers: h.numbers, Settings: func() []console.Setting { return settings(c) }, Software: h.env.Software, Logger: h.env.Logger,
	}
	if c.Gateway.Approvals != nil {
		out.Approvals = approvers{h.Gateway}
	}
	if out.Policy, err = h.Vault.trusted(c); err != nil {
		return err
	}
	if f.stage != nil {
		out.SignIn, out.Demonstration, out.Why = f.stage, "A demonstration: anybody on this machine is let in.", "looking at the demo"
	} else {
		out.SignIn = f.door
	}
	now, err := console.New(out)
	if err != nil {
		return err
	}
	if f.door != nil {
		f.door.roles.Store(k)
	}
	f.now.Store(now)
	return nil
}

// refurnish has the console go on by another configuration: roles, hosts, settings and the policy can change while it runs, but not
// where it is and how people log in.
func (h *House) refurnish(c *config.Config) {
	switch {
	case h.front == nil && c.Console == nil:
	case h.front == nil || c.Console == nil:
		h.env.Logger.Warn("whether there is a console changes at the next start")
	default:
		a, b := h.front.fixed, c.Console
		if a.Listen != b.Listen || a.Public != b.Public || a.TLS != b.TLS || a.Life != b.Life || !slices.Equal(a.SignIn, b.SignIn) {
			h.env.Logger.Warn("where the console is, and how people log in there, changes at the next start")
		}
		next := *c
		next.Console = &config.Console{Hosts: b.Hosts, Roles: b.Roles, People: b.People, Policy: b.Policy, Listen: a.Listen, Public: a.Public, TLS: a.TLS, Life: a.Life, SignIn: a.SignIn}
		if err := h.furnish(&next); err != nil {
			h.env.Logger.Error("the console goes on as it was", "err", err)
		}
	}
}

// trusted returns the policy by which pages and browsers judge the log; none where it is in another process and nobody gave one.
func (v *Vault) trusted(c *config.Config) ([]byte, error) {
	path := cmp.Or(c.Console.Policy, c.Policy)
	if path == "" {
		if keys := v.signed.Load(); keys != nil {
			return policyText(*keys), nil
		}
		return nil, nil
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("the console's policy: %w", err)
	}
	return text, nil
}

// serveConsole serves people until ctx ends; what they are being told of then ends with it.
func (h *House) serveConsole(ctx context.Context, at net.Listener) error {
	if a, ok := at.Addr().(*net.TCPAddr); h.front.stage != nil && (!ok || !a.IP.IsLoopback()) {
		at.Close()
		return fmt.Errorf("the console lets anybody in, and %s is not for this machine alone; choose a loopback address", at.Addr())
	}
	if h.front.tls != nil {
		at = tls.NewListener(at, h.front.tls)
	}
	return h.serve(ctx, "the console", h.front, ctx, at)
}

// A door lets people into the console who logged in at an issuer or a provider, with the session that the gateway's store keeps, and
// tells their roles.
type door struct {
	pages   *login.Pages
	roles   atomic.Pointer[config.Console] // says who has which
	gateway *gateway.Gateway               // puts on record who logged in and out
}

// Who says who is signed in with a browser.
func (d *door) Who(req *http.Request) (console.Person, bool) {
	t, ok := d.pages.Person(req)
	if !ok {
		return console.Person{}, false
	}
	p := t.Principal
	return console.Person{
		Name: p.Name, Email: p.Email, Groups: p.Groups, How: cmp.Or(p.Issuer, strings.SplitN(p.Name, ":", 2)[0]),
		Roles: d.roles.Load().RolesOf(p.Name, p.Groups), Session: t.ID, Until: t.Expires,
	}, true
}

// Way returns where people log in, to come back.
func (d *door) Way(back string) string { return loginPath + "/?to=" + url.QueryEscape(back) }

// ServeHTTP logs people in and out, which goes on record at the gateway.
func (d *door) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	note := d.gateway.Note(req.RemoteAddr)
	if req.URL.Path == logoutPath {
		d.pages.SignOut(w, req, note)
		return
	}
	d.pages.ServePage(w, req, nil, note)
}

// approvers are the console's people as the gateway's approvers.
type approvers struct{ g *gateway.Gateway }

// principal is a person of the console as the gateway knows it: by the same name, so that nobody decides about a call of his own.
func principal(who console.Person) *gateway.Principal {
	return &gateway.Principal{Name: who.Name, How: gateway.ByToken, Key: who.Session, Email: who.Email, Groups: who.Groups, Until: who.Until}
}

// List returns what waits.
func (a approvers) List(_ context.Context, who console.Person) ([]console.Approval, error) {
	var all []console.Approval
	for _, q := range a.g.Approvals(principal(who)) {
		v, err := approvalOf(q)
		if err != nil {
			return nil, err
		}
		all = append(all, v)
	}
	return all, nil
}

// Look shows one.
func (a approvers) Look(ctx context.Context, who console.Person, id record.ID) (console.Approval, error) {
	q, err := a.g.Look(ctx, principal(who), id)
	if err != nil {
		return console.Approval{}, refusedTo(err)
	}
	return approvalOf(q)
}

// Decide takes somebody's word.
func (a approvers) Decide(ctx context.Context, who console.Person, id record.ID, decision, reason string) (console.Approval, error) {
	q, err := a.g.Decide(ctx, principal(who), id, decision, reason)
	if err != nil {
		return console.Approval{}, refusedTo(err)
	}
	return approvalOf(q)
}

// Changes says when to look again.
func (a approvers) Changes(ctx context.Context) <-chan struct{} {
	out := make(chan struct{}, 1)
	go func() {
		for {
			changed := a.g.ApprovalsChanged()
			select {
			case <-changed:
			case <-ctx.Done():
				return
			}
			select {
			case out <- struct{}{}:
			default: // one waits to be taken already
			}
		}
	}()
	return out
}

// refusedTo is a refusal of the gateway's in the console's words.
func refusedTo(err error) error {
	var no *gateway.Refused
	if !errors.As(err, &no) {
		return err
	}
	switch no.Code {
	case "unknown_approval":
		return console.ErrGone
	case "self_approval":
		return console.ErrNotYours
	}
	return fmt.Errorf("%w: %s", console.ErrNotTaken, no.Message)
}

// approvalOf is a question of the gateway's as the console shows it.
func approvalOf(q gateway.Question) (console.Approval, error) {
	id, err := record.ParseID(q.ID)
	if err != nil {
		return console.Approval{}, err
	}
	v := console.Approval{
		ID: id, State: strings.ReplaceAll(q.State, "_", " "), Open: q.State == "waiting", Yours: q.Yours, Caller: q.Caller, Email: q.Email, Route: q.Route,
		Model: q.Model, Method: q.Method, Target: q.Target, Rule: q.Rule, Message: q.Message, Need: q.Need, Yes: q.Yes, Groups: q.Groups, Glass: q.Glass, Asked: q.Asked, Until: q.Until,
	}
	if r := q.Request; r != nil {
		v.Request = &console.Request{Leaf: r.Leaf, Body: r.Base64}
		if r.Body != nil {
			v.Request.Body = []byte(*r.Body)
		}
		for _, name := range slices.Sorted(maps.Keys(r.Fields)) {
			v.Request.Fields = append(v.Request.Fields, console.NamedText{Name: name, Text: r.Fields[name]})
		}
		if len(r.Headers) > 0 {
			if err := json.Unmarshal(r.Headers, &v.Request.Headers); err != nil {
				return console.Approval{}, fmt.Errorf("the headers of %s: %w", id, err)
			}
		}
	}
	return v, nil
}
