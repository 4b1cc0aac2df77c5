// Package assemble puts the rooms of the house together as a configuration says, and runs them in the order in which they
// need each other: the log outlives its writers, and the gateway stops first.
package assemble

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base32"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/tallystick/tallystick/audit"
	"github.com/tallystick/tallystick/cmd/internal/config"
	"github.com/tallystick/tallystick/gateway"
	"github.com/tallystick/tallystick/gateway/webhook"
	"github.com/tallystick/tallystick/keys/ring"
	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/local"
	"github.com/tallystick/tallystick/tlog/record"
	"github.com/tallystick/tallystick/tlog/remote"
	"github.com/tallystick/tallystick/tlog/tiles"
	"github.com/tallystick/tallystick/witness"
)

// Env is what comes from outside the configuration.
type Env struct {
	LookupEnv func(string) (string, bool)
	Logger    *slog.Logger
	Fatal     func(msg string) // called when the store cannot go on; must not return
	Software  string
	Personas  []Persona // whom the console lets in without asking; for a demonstration on this machine alone
	Brief     bool      // a closed log is opened for a moment: nobody is waited for long
	NewHead   bool      // that of local.Config, for one start
}

// Log is what the rooms above need of a log, wherever it is.
type Log interface {
	tlog.Log
	tlog.History
	Close() error
}

// A Vault is a log with the keys of its records: what can be written to and read from.
type Vault struct {
	Log   Log
	local *local.Log // Log, where it is in this process
	vkeys []string   // the log's verifier keys, where it is
	ring  *ring.Ring // nil where there are no records of our own
	keys  dataKeys
	refs  *Keyring
	pens  []*remote.Log // of writers beside Log's own, where it is in another process
	// What looks on at a log in this process. The witnesses can change while it runs.
	quorum  atomic.Pointer[witness.Quorum]
	signed  atomic.Pointer[[]string]        // the verifier keys of its newest checkpoints
	rules   atomic.Pointer[audit.Retention] // they can change, too
	mirrors []*witness.Mirror
	search  searching
	runs    []func(context.Context) error
	c       *config.Config
	env     Env
}

// OpenVault opens the log, or says where it is, and opens the ring of data keys.
func OpenVault(c *config.Config, env Env) (*Vault, error) {
	return openVault(c, env, NewKeyring(c, env))
}

func openVault(c *config.Config, env Env, refs *Keyring) (*Vault, error) {
	v := &Vault{c: c, env: env, refs: refs}
	open := v.openRemote
	if c.HasLog() {
		open = v.openLocal
	}
	if err := open(); err != nil {
		return nil, err
	}
	if c.DataKeys.Dir == "" {
		v.runs = append(v.runs, refs.Runs...)
		return v, nil
	}
	keks, err := refs.KEKs()
	if err != nil {
		return nil, errors.Join(err, v.Close())
	}
	rc := ring.Config{KEK: keks[0].Wrapper, Logger: env.Logger}
	for _, k := range keks[1:] {
		rc.Former = append(rc.Former, k.Wrapper)
	}
	if v.ring, err = ring.Open(c.DataKeys.Dir, rc); err != nil {
		return nil, errors.Join(err, v.Close())
	}
	v.keys = dataKeys{ring.ByName{Ring: v.ring}, keks}
	v.runs = append(append(v.runs, v.ring.Run), refs.Runs...)
	return v, nil
}

// openLocal opens the log in this process, with its witnesses and mirrors.
func (v *Vault) openLocal() error {
	c := v.c
	lc, err := v.localConfig()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(c.LogDir(), 0o700); err != nil {
		return fmt.Errorf("log: %w", err)
	}
	l, err := local.Open(c.LogDir(), lc)
	if err != nil {
		return err
	}
	v.Log, v.local = l, l
	v.signed.Store(&v.vkeys)
	v.runs = append(v.runs, l.Run)
	policy := lc.Policy
	if policy == nil {
		policy = policyOf(v.vkeys)
	}
	client, err := v.outsideClient()
	if err != nil {
		return errors.Join(err, l.Close())
	}
	for _, m := range c.Mirrors {
		mirror, err := witness.NewMirror(witness.MirrorConfig{
			Policy: policy, Origin: c.Origin, Reader: l, Keys: m.Keys, Submission: m.Submission, Monitoring: m.Monitoring,
			Interval: time.Duration(m.Interval), Client: client, Log: v.env.Logger,
		})
		if err != nil {
			return errors.Join(err, l.Close())
		}
		v.mirrors = append(v.mirrors, mirror)
		v.runs = append(v.runs, func(ctx context.Context) error {
			var fork *tlog.ForkError
			if err := mirror.Run(ctx); errors.As(err, &fork) {
				l.Contradict(fork) // the log says why it ended
			} else if err != nil {
				return err
			}
			return nil
		})
	}
	return nil
}

// localConfig reads what a log in this process is made of.
func (v *Vault) localConfig() (out local.Config, err error) {
	c := v.c
	signers, err := v.refs.Signers(context.Background())
	if err != nil {
		return local.Config{}, err
	}
	anchor, err := v.refs.Anchor()
	if err != nil {
		return local.Config{}, err
	}
	for _, s := range signers {
		v.vkeys = append(v.vkeys, s.VerifierKey())
	}
	pairs := localKeys(signers)
	out = local.Config{
		Origin: c.Origin, Signer: pairs[0].Signer, Verifier: pairs[0].Verifier, Also: pairs[1:], Latest: anchor, Head: c.Head, NewHead: v.env.NewHead,
		Interval: time.Duration(c.Interval), CosignEvery: time.Duration(c.Witnesses.Interval),
		MaxUnanchored: c.MaxUnanchored, MaxUnanchoredAge: time.Duration(c.MaxUnanchoredAge),
		Unwitnessed: c.Witnesses.Unwitnessed, Logger: v.env.Logger, Fatal: v.env.Fatal,
	}
	if v.env.Brief {
		out.LastWait = time.Second
	}
	former := slices.Clone(c.FormerKeys)
	defer func() {
		if err == nil {
			err = addFormer(&out, former)
		}
	}()
	if c.Policy == "" {
		return out, nil
	}
	text, err := os.ReadFile(c.Policy)
	if err != nil {
		return out, fmt.Errorf("policy: %w", err)
	}
	policy, err := tlog.ParsePolicy(text)
	if err != nil {
		return out, fmt.Errorf("policy %s: %w", c.Policy, err)
	}
	if !slices.ContainsFunc(policy.Logs(), func(l tlog.PolicyLog) bool { return slices.Contains(v.vkeys, l.Key) }) {
		return out, fmt.Errorf("policy %s: it does not have the key %s; add the line: log %s", c.Policy, c.Key, v.vkeys[0])
	}
	for _, l := range policy.Logs() {
		if l.Origin == c.Origin {
			former = append(former, l.Key)
		}
	}
	if !c.Witnesses.Uncosigned {
		out.Policy = policy
	}
	if len(policy.Witnesses()) == 0 {
		return out, nil
	}
	client, err := v.outsideClient()
	if err != nil {
		return out, err
	}
	w := c.Witnesses
	quorum, err := witness.NewQuorum(witness.QuorumConfig{
		Policy: policy, Origin: c.Origin, Monitoring: w.Monitoring, Grace: time.Duration(w.Grace), All: w.All, Wait: time.Duration(w.Wait),
		Timeout: time.Duration(w.Timeout), Interval: time.Duration(w.Interval), Skew: time.Duration(w.Skew), Start: w.Start,
		Client: client, Log: v.env.Logger,
	})
	if err != nil {
		return out, err
	}
	v.quorum.Store(quorum)
	out.Cosigner = quorum
	return out, nil
}

// addFormer adds public keys that signed before.
func addFormer(c *local.Config, vkeys []string) error {
	for _, k := range vkeys {
		v, err := tlog.NewLogVerifier(k)
		if err != nil {
			return fmt.Errorf("former_keys: %w", err)
		}
		c.Former = append(c.Former, v)
	}
	return nil
}

// Rekey has a log in this process go on with the keys, the policy and the witnesses of another configuration. What it returns
// keeps log-ins alive for as long as those are used.
func (v *Vault) Rekey(c *config.Config) (run func(context.Context) error, err error) {
	if v.local == nil || c.Log != v.c.Log || c.Origin != v.c.Origin {
		return nil, errors.New("keys, policy and witnesses of a log in this process can be changed while it runs, and nothing else: start again")
	}
	refs := NewKeyring(c, v.env)
	next := &Vault{c: c, env: v.env, refs: refs}
	lc, err := next.localConfig()
	if err != nil {
		return nil, err
	}
	if err := v.local.Rekey(lc); err != nil {
		return nil, err
	}
	v.quorum.Store(next.quorum.Load())
	v.signed.Store(&next.vkeys)
	return func(ctx context.Context) error { return together(ctx, refs.Runs...) }, nil
}

// policyOf believes a log by its keys and asks for no witness.
func policyOf(vkeys []string) *tlog.Policy {
	p, err := tlog.ParsePolicy(policyText(vkeys))
	if err != nil {
		panic(err) // the keys are those of signers
	}
	return p
}

func policyText(vkeys []string) (text []byte) {
	for _, k := range vkeys {
		text = fmt.Appendf(text, "log %s\n", k)
	}
	return append(text, "quorum none\n"...)
}

// outsideClient returns what carries requests to witnesses and mirrors, nil for their own.
func (v *Vault) outsideClient() (*http.Client, error) {
	if v.c.Witnesses.Roots == "" {
		return nil, nil
	}
	roots, err := readRoots("witnesses.roots", v.c.Witnesses.Roots)
	if err != nil {
		return nil, err
	}
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.TLSClientConfig = &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
	return &http.Client{Transport: t}, nil
}

func readRoots(key, path string) (*x509.CertPool, error) {
	if path == "" {
		return nil, nil
	}
	pem, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", key, err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s: no certificate in %s", key, path)
	}
	return pool, nil
}

// openRemote says where the log is. Nothing is connected.
func (v *Vault) openRemote() error {
	l, err := v.remote(v.c.Gateway.ID)
	if err != nil {
		return err
	}
	v.Log = l
	v.runs = append(v.runs, l.Run)
	return nil
}

// remote returns the log in another process as one writer's.
func (v *Vault) remote(writer string) (*remote.Log, error) {
	c := v.c
	out := remote.Config{URL: c.Log, Origin: c.Origin, Writer: writer, Logger: v.env.Logger}
	if !c.LogAccess.Token.IsZero() {
		token, err := c.LogAccess.Token.Load(v.env.LookupEnv)
		if err != nil {
			return nil, fmt.Errorf("log_access.token: %w", err)
		}
		out.Token = token
	}
	roots, err := readRoots("log_access.roots", c.LogAccess.Roots)
	if err != nil {
		return nil, err
	}
	out.TLS = &tls.Config{RootCAs: roots}
	if c.LogAccess.TLS.Cert != "" {
		cert, err := tls.LoadX509KeyPair(c.LogAccess.TLS.Cert, c.LogAccess.TLS.Key)
		if err != nil {
			return nil, fmt.Errorf("log_access.tls: %w", err)
		}
		out.TLS.Certificates = []tls.Certificate{cert}
	}
	return remote.New(out)
}

// Key returns the log's first verifier key, or "" where the log is in another process.
func (v *Vault) Key() string {
	if len(v.vkeys) == 0 {
		return ""
	}
	return v.vkeys[0]
}

// Quarantined returns why the log in this process is in quarantine, or nil.
func (v *Vault) Quarantined() error {
	if v.local == nil {
		return nil
	}
	return v.local.Quarantined()
}

// Run keeps the log and the ring going until ctx ends.
func (v *Vault) Run(ctx context.Context) error { return together(ctx, v.runs...) }

// Close closes all that was opened. Run must have returned.
func (v *Vault) Close() error {
	var errs []error
	errs = append(errs, v.search.close())
	for _, p := range v.pens {
		errs = append(errs, p.Close())
	}
	if v.Log != nil {
		errs = append(errs, v.Log.Close())
	}
	if v.ring != nil {
		errs = append(errs, v.ring.Close())
	}
	return errors.Join(errs...)
}

// Desk makes a desk and the pen it writes with, which the caller runs, before Run.
func (v *Vault) Desk(id string) (*audit.Desk, *record.Writer, error) {
	var log tlog.Appender = v.Log
	if v.local == nil {
		l, err := v.remote(id)
		if err != nil {
			return nil, nil, err
		}
		v.pens = append(v.pens, l)
		v.runs = append(v.runs, l.Run)
		log = l
	}
	pen, err := record.NewWriter(record.WriterConfig{ID: id, Log: log, Software: v.env.Software, Mode: "none", Heartbeat: time.Minute})
	if err != nil {
		return nil, nil, err
	}
	d, err := audit.NewDesk(v.Log, v.keys, pen)
	if err != nil {
		return nil, nil, err
	}
	d.Retention(v.retention)
	if err := v.search.open(v.c, v.keys, v.env.Logger, false); err != nil {
		return nil, nil, err
	}
	v.search.forgets(d)
	return d, pen, v.KeepTo(v.c)
}

// A House is what runs in one process: the gateway and the log, or one of them.
type House struct {
	Vault   *Vault
	Gateway *gateway.Gateway // nil in the log's own process
	Appends *remote.Server   // for gateways in other processes; nil for none
	// Reload takes configurations whose keys, policy and witnesses the running log is to go on with, whose rules the gateway is,
	// and by whose roles the console.
	Reload chan *config.Config
	api    http.Handler
	front  *front          // the console; nil for none
	desk   *audit.Desk     // nil without a gateway
	pen    *record.Writer  // the desk's
	law    *law            // nil without a gateway
	sender *webhook.Sender // nil where nobody is told of questions
	watch  *watchman
	ships  *shipping
	runs   []func(context.Context) error // of what knows callers
	env    Env
}

// Listeners are where a house is spoken to. Those of what it does not have are nil.
type Listeners struct {
	Calls   net.Listener // for callers
	Reads   net.Listener // for auditors
	Appends net.Listener // for gateways in other processes
	Console net.Listener // for people
	Ops     net.Listener // for those who run the house
}

// Build makes a house of a configuration. The log is opened; nothing runs.
func Build(c *config.Config, env Env) (*House, error) {
	var gc gateway.Config
	var token []byte
	var sender *webhook.Sender
	known := &identity{}
	refs := NewKeyring(c, env)
	watch, err := newWatchman(c, env, refs)
	if err != nil {
		return nil, err
	}
	if c.HasGateway() {
		if gc, err = gatewayConfig(c, env, refs); err != nil {
			return nil, err
		}
		if known, err = newIdentity(c, env, refs, gc.TLS); err != nil {
			return nil, err
		}
		gc.Identifiers, gc.Pages = known.identifiers, known.pages
		watch.follow(&gc)
		if c.Gateway.Policy != "" {
			if gc.Policy, err = readPolicy(&c.Gateway); err != nil {
				return nil, err
			}
		}
		if gc.Approvals, sender, err = approvals(c, env, refs); err != nil {
			return nil, err
		}
		if token, err = operatorToken(c.Operators); err != nil {
			return nil, err
		}
	}
	ships, err := newShipping(c, env, refs)
	if err != nil {
		return nil, err
	}
	v, err := openVault(c, env, refs)
	if err != nil {
		return nil, err
	}
	h := &House{Vault: v, env: env, Reload: make(chan *config.Config), runs: known.runs, sender: sender, watch: watch, ships: ships}
	watch.h = h
	mux := http.NewServeMux()
	mux.Handle("/", tiles.Handler(v.Log, tiles.Options{Log: env.Logger}))
	h.api = mux
	if v.local != nil {
		watched(mux, v)
	}
	if c.HasGateway() {
		err = h.addGateway(c, gc, mux, token)
	}
	if err == nil && c.Console != nil {
		err = h.addConsole(c, known)
	}
	if err == nil && c.ServeLog.Listen != "" {
		h.Appends, err = h.Vault.server()
	}
	if err == nil {
		err = ships.follow(h)
	}
	if err != nil {
		return nil, errors.Join(err, v.Close())
	}
	return h, nil
}

func (h *House) addGateway(c *config.Config, gc gateway.Config, mux *http.ServeMux, token []byte) (err error) {
	gc.Log, gc.Keys = h.Vault.Log, h.Vault.keys
	if c.Gateway.Approvals != nil && c.SharedApprovals() {
		gc.Approvals.Tail = h.Vault.Log
	}
	if h.Gateway, err = gateway.New(gc); err != nil {
		return err
	}
	if c.Gateway.Policy != "" && c.Gateway.Approvals == nil {
		h.env.Logger.Warn("there is a policy and nobody to ask: what it asks about, or cannot judge, is refused; say who decides under gateway.approvals")
	}
	h.law = newLaw(&c.Gateway, gc.Policy, h.Gateway.SetPolicy, h.env.Logger)
	if err := h.Vault.search.open(c, h.Vault.keys, h.env.Logger, true); err != nil {
		return err
	}
	if ix := h.Vault.search.index; ix != nil {
		h.follows("index", ix.Indexed)
	}
	desk, pen, err := h.Vault.Desk(c.Gateway.ID + ".desk")
	if err != nil {
		return err
	}
	h.desk, h.pen = desk, pen
	h.runs = append(h.runs, h.Vault.search.serves(desk, masksOf(gc.Routes)))
	mux.Handle(audit.Prefix, audit.Handler(desk, sha256.Sum256(token), h.env.Logger))
	return nil
}

// server makes the end of the log that gateways in other processes append to.
func (v *Vault) server() (*remote.Server, error) {
	s := v.c.ServeLog
	out := remote.ServerConfig{Origin: v.c.Origin, Check: checkEntry, Logger: v.env.Logger}
	for _, k := range s.Clients {
		out.Clients = append(out.Clients, remote.Client{
			Name: k.Name, Tokens: k.Tokens, Keys: k.Keys, Names: k.Names, Writers: k.Writers, Payloads: k.Payloads, Discard: k.Discard,
		})
	}
	var err error
	if out.Roots, err = readRoots("serve_log.roots", s.Roots); err != nil {
		return nil, err
	}
	if s.TLS.Cert != "" {
		cert, err := tls.LoadX509KeyPair(s.TLS.Cert, s.TLS.Key)
		if err != nil {
			return nil, fmt.Errorf("serve_log.tls: %w", err)
		}
		out.TLS = &tls.Config{Certificates: []tls.Certificate{cert}}
	}
	return remote.NewServer(v.local, out)
}

// checkEntry lets a writer append entries, and of them its own.
func checkEntry(writer string, entry []byte) error {
	e, err := record.ParseEntry(entry)
	if err == nil && e.By != writer {
		err = fmt.Errorf("an entry by %q from the writer %q", e.By, writer)
	}
	return err
}

// Run serves callers, gateways and auditors until ctx ends; all listeners are closed when it returns. The order of going:
// callers and those who append, then the pens, then the log, which signs what they left.
func (h *House) Run(ctx context.Context, at Listeners) error {
	below := context.WithoutCancel(ctx)
	vctx, stopVault := context.WithCancel(below)
	defer stopVault()
	vault := make(chan error, 1)
	go func() { vault <- h.Vault.Run(vctx) }()

	runs := []func(context.Context) error{func(ctx context.Context) error { return h.serveReads(ctx, at.Reads) }, h.reloads, h.ships.run}
	runs = append(runs, h.runs...)
	if h.Gateway != nil {
		runs = append(runs,
			func(ctx context.Context) error { return h.runGateway(ctx, at.Calls) },
			func(ctx context.Context) error {
				err := h.pen.Run(ctx)
				if errors.Is(err, tlog.ErrQuarantine) {
					<-ctx.Done() // reads are served on; the log itself says at the end why
					err = nil
				}
				return err
			},
			h.law.run, h.erasing, h.retains)
	}
	if h.front != nil {
		runs = append(runs, func(ctx context.Context) error { return h.serveConsole(ctx, at.Console) })
	}
	if h.Appends != nil {
		runs = append(runs, func(ctx context.Context) error { return h.Appends.Run(ctx, at.Appends) })
	}
	if h.Gateway == nil {
		// A gateway decides by its mode whether to go on without its log. Without one, a log that halted ends the process.
		runs = append(runs, func(ctx context.Context) error {
			select {
			case err := <-vault:
				vault <- err
				return err
			case <-ctx.Done():
				return nil
			}
		})
	}
	err := h.watch.watched(ctx, at.Ops, func() error { return together(ctx, runs...) })
	stopVault()
	verr := <-vault
	if err != nil && verr != nil && (errors.Is(err, verr) || errors.Is(err, tlog.ErrQuarantine) && errors.Is(verr, tlog.ErrQuarantine)) {
		err = nil // said once is enough
	}
	return errors.Join(err, verr, h.Vault.Close())
}

// runGateway serves callers. Who is told of what people are asked is told of its last ones, too.
func (h *House) runGateway(ctx context.Context, calls net.Listener) error {
	if h.sender == nil {
		return h.Gateway.Run(ctx, calls)
	}
	sending, stop := context.WithCancel(context.WithoutCancel(ctx))
	sent := make(chan error, 1)
	go func() { sent <- h.sender.Run(sending) }()
	err := h.Gateway.Run(ctx, calls)
	stop()
	return errors.Join(err, <-sent)
}

// reloads has the log go on by other configurations, one after another.
func (h *House) reloads(ctx context.Context) error {
	end := func() {}
	defer func() { end() }()
	for {
		select {
		case <-ctx.Done():
			return nil
		case c := <-h.Reload:
			if h.law != nil {
				h.law.ask(&c.Gateway)
				if err := h.Vault.KeepTo(c); err != nil {
					h.env.Logger.Error("the rules of retention stay as they were", "err", err)
				}
			}
			if h.Vault.local == nil && !c.HasLog() {
				h.refurnish(c)
				continue // it has no keys and witnesses here
			}
			run, err := h.Vault.Rekey(c)
			if err != nil {
				h.env.Logger.Error("the log goes on as it was", "err", err)
				continue
			}
			h.refurnish(c)
			end()
			rctx, cancel := context.WithCancel(ctx)
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				run(rctx) // it logs what fails, and tries again
			}()
			end = func() { cancel(); <-ended }
			h.env.Logger.Info("the log goes on with other keys", "origin", c.Origin, "key", c.PublicKey)
		}
	}
}

// serveReads serves the log's public half, and the desk, to whoever reads.
func (h *House) serveReads(ctx context.Context, reads net.Listener) error {
	return h.serve(ctx, "the read API", h.api, context.WithoutCancel(ctx), reads)
}

// serve serves an address until ctx ends. What is asked there has base above it.
func (h *House) serve(ctx context.Context, what string, handler http.Handler, base context.Context, at net.Listener) error {
	srv := &http.Server{
		Handler: handler, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10,
		ErrorLog:    slog.NewLogLogger(h.env.Logger.Handler(), slog.LevelDebug),
		BaseContext: func(net.Listener) context.Context { return base },
	}
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		late, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		srv.Shutdown(late)
	})
	if err := srv.Serve(at); !errors.Is(err, http.ErrServerClosed) {
		stop()
		return fmt.Errorf("%s: %w", what, err)
	}
	<-stopped // who was answered is
	return nil
}

// together runs all until ctx ends or one fails, ends the others then, and returns when all have.
func together(ctx context.Context, runs ...func(context.Context) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	errs := make(chan error, len(runs))
	for _, run := range runs {
		go func() {
			err := run(ctx)
			if err != nil {
				cancel()
			}
			errs <- err
		}()
	}
	var all []error
	for range runs {
		all = append(all, <-errs)
	}
	return errors.Join(all...)
}

// gatewayConfig reads what the gateway's part of the file refers to.
func gatewayConfig(c *config.Config, env Env, refs *Keyring) (gateway.Config, error) {
	g := c.Gateway
	mode, err := gateway.ParseMode(g.Mode)
	if err != nil {
		return gateway.Config{}, err
	}
	l := g.Limits
	out := gateway.Config{
		ID: g.ID, Origin: c.Origin, Software: env.Software, Journal: g.Journal, Mode: mode, Hosts: g.Hosts, Linger: g.Linger,
		Heartbeat: time.Duration(g.Heartbeat), Logger: env.Logger,
		Limits: gateway.Limits{
			Head: l.Head, Body: l.Body, Answer: l.Answer, Event: l.Event,
			HeadTime: time.Duration(l.HeadTime), BodyTime: time.Duration(l.BodyTime), IdleTime: time.Duration(l.IdleTime),
			FirstByte: time.Duration(l.FirstByte), Silence: time.Duration(l.Silence), Total: time.Duration(l.Total),
			WriteTime: time.Duration(l.WriteTime), Drain: time.Duration(l.Drain), Connections: l.Connections,
		},
	}
	for _, k := range g.Callers {
		out.Callers = append(out.Callers, gateway.Caller{Name: k.Name, Key: k.Key, SHA256: k.SHA256, Routes: k.Routes, Groups: k.Groups, Email: k.Email})
	}
	masks, err := readMaskers(c, refs)
	if err != nil {
		return out, err
	}
	for _, r := range g.Routes {
		api, err := gateway.ParseAPI(r.API)
		if err != nil {
			return out, fmt.Errorf("route %q: %w", r.Name, err)
		}
		up, err := url.Parse(r.Upstream)
		if err != nil {
			return out, fmt.Errorf("route %q: %w", r.Name, err)
		}
		route := gateway.Route{
			Name: r.Name, API: api, Prefix: r.Prefix, Upstream: up, Header: r.Header, Scheme: r.Scheme, Forward: r.Forward, Return: r.Return,
			Mask: masks.of(&r).mask, Originals: masks.of(&r).originals, MaskAnswers: r.Live,
		}
		if !r.Credential.IsZero() {
			if route.Credential, err = refs.Renewed(context.Background(), fmt.Sprintf("the credential of route %q", r.Name), r.Credential); err != nil {
				return out, err
			}
		}
		out.Routes = append(out.Routes, route)
	}
	if g.TLS.Cert != "" {
		cert, err := tls.LoadX509KeyPair(g.TLS.Cert, g.TLS.Key)
		if err != nil {
			return out, fmt.Errorf("gateway.tls: %w", err)
		}
		out.TLS = &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}}
	}
	out.Roots, err = readRoots("gateway.roots", g.Roots)
	return out, err
}

// operatorToken reads the token of those who may export records, or makes one.
func operatorToken(path string) ([]byte, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return nil, fmt.Errorf("operators: %w", err)
		}
		b = []byte("op-" + NewSecret() + "\n")
		err = os.WriteFile(path, b, 0o600)
	}
	if err != nil {
		return nil, fmt.Errorf("operators: %w", err)
	}
	token := strings.TrimSpace(string(b))
	if len(token) < 20 {
		return nil, fmt.Errorf("operators: the token in %s is too short to be safe; delete the file and a new one is made", path)
	}
	return []byte(token), nil
}

// NewSecret returns 160 random bits as text.
func NewSecret() string {
	return strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(random(20)))
}

func random(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}

// While runs a vault and a pen for as long as do takes, and closes the vault. That the last entries could not be signed for
// now is told, and no error: they are durable, and the log's next run signs for them.
func While(ctx context.Context, v *Vault, pen *record.Writer, do func(context.Context) error) error {
	below := context.WithoutCancel(ctx)
	vctx, stopVault := context.WithCancel(below)
	defer stopVault()
	pctx, stopPen := context.WithCancel(below)
	defer stopPen()
	vault, writing := make(chan error, 1), make(chan error, 1)
	go func() { vault <- v.Run(vctx) }()
	go func() { writing <- pen.Run(pctx) }()
	err := do(ctx)
	stopPen()
	perr := <-writing
	stopVault()
	verr := <-vault
	if errors.Is(verr, local.ErrUnsigned) {
		v.env.Logger.Warn("the log was closed", "err", verr)
		verr = nil
	}
	if err == nil {
		err = errors.Join(perr, verr)
	}
	return errors.Join(err, v.Close())
}

// OpenReadOnly opens a closed log for reading what it published; its keys are not needed.
func OpenReadOnly(c *config.Config, env Env) (*local.Log, error) {
	if !c.HasLog() {
		return nil, fmt.Errorf("the log %s is in another process; ask there, or read it with --log %s", c.Origin, c.Log)
	}
	v := &Vault{c: c, env: env, refs: NewKeyring(c, env)}
	lc, err := v.localConfig()
	if err != nil {
		return nil, err
	}
	lc.ReadOnly = true
	return local.Open(c.LogDir(), lc)
}
