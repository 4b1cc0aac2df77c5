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
	"strings"
	"time"

	"github.com/tallystick/tallystick/audit"
	"github.com/tallystick/tallystick/cmd/internal/config"
	"github.com/tallystick/tallystick/gateway"
	"github.com/tallystick/tallystick/keys/file"
	"github.com/tallystick/tallystick/keys/ring"
	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/latest"
	"github.com/tallystick/tallystick/tlog/local"
	"github.com/tallystick/tallystick/tlog/record"
	"github.com/tallystick/tallystick/tlog/tiles"
)

// Env is what comes from outside the configuration.
type Env struct {
	LookupEnv func(string) (string, bool)
	Logger    *slog.Logger
	Fatal     func(msg string) // called when the store cannot go on; must not return
	Software  string
}

// A Vault is a log with its keys: what can be written to and read from.
type Vault struct {
	Log    *local.Log
	Signer *file.Signer
	keys   ring.ByName
	env    Env
}

// OpenVault opens the log and the ring of data keys.
func OpenVault(c *config.Config, env Env) (*Vault, error) {
	signer, err := file.Load(c.Key, c.Origin)
	if err != nil {
		return nil, err
	}
	kek, err := file.LoadKEK(c.DataKeys.KEK)
	if err != nil {
		return nil, err
	}
	anchor, err := latest.Open(c.AnchorDir())
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(c.LogDir(), 0o700); err != nil {
		return nil, fmt.Errorf("log: %w", err)
	}
	l, err := local.Open(c.LogDir(), local.Config{
		Origin: c.Origin, Signer: signer, Verifier: signer.Verifier(), Latest: anchor, Head: c.Head,
		Interval: time.Duration(c.Interval), Logger: env.Logger, Fatal: env.Fatal,
	})
	if err != nil {
		return nil, err
	}
	r, err := ring.Open(c.DataKeys.Dir, ring.Config{KEK: kek, Logger: env.Logger})
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return &Vault{Log: l, Signer: signer, keys: ring.ByName{Ring: r}, env: env}, nil
}

// Run keeps the log and the ring going until ctx ends.
func (v *Vault) Run(ctx context.Context) error {
	return together(ctx, v.Log.Run, v.keys.Ring.Run)
}

// Close closes both. Run must have returned.
func (v *Vault) Close() error { return errors.Join(v.Log.Close(), v.keys.Ring.Close()) }

// Desk makes a desk and the pen it writes with, which the caller runs.
func (v *Vault) Desk(id string) (*audit.Desk, *record.Writer, error) {
	pen, err := record.NewWriter(record.WriterConfig{ID: id, Log: v.Log, Software: v.env.Software, Mode: "none", Heartbeat: time.Minute})
	if err != nil {
		return nil, nil, err
	}
	d, err := audit.NewDesk(v.Log, v.keys, pen)
	return d, pen, err
}

// A House is everything in one process.
type House struct {
	Vault   *Vault
	Gateway *gateway.Gateway
	api     http.Handler
	pen     *record.Writer
	env     Env
}

// Build makes a house of a configuration. The log is opened; nothing runs.
func Build(c *config.Config, env Env) (*House, error) {
	gc, err := gatewayConfig(c, env)
	if err != nil {
		return nil, err
	}
	token, err := operatorToken(c.Operators)
	if err != nil {
		return nil, err
	}
	v, err := OpenVault(c, env)
	if err != nil {
		return nil, err
	}
	h := &House{Vault: v, env: env}
	gc.Log, gc.Keys = v.Log, v.keys
	if h.Gateway, err = gateway.New(gc); err != nil {
		return nil, errors.Join(err, v.Close())
	}
	desk, pen, err := v.Desk(c.Gateway.ID + ".desk")
	if err != nil {
		return nil, errors.Join(err, v.Close())
	}
	h.pen = pen
	mux := http.NewServeMux()
	mux.Handle("/", tiles.Handler(v.Log, tiles.Options{Log: env.Logger}))
	mux.Handle(audit.Prefix, audit.Handler(desk, sha256.Sum256(token), env.Logger))
	h.api = mux
	return h, nil
}

// Run serves callers from calls and auditors from reads until ctx ends; both listeners are closed when it returns. The
// order of going: callers, then the pens, then the log, which signs what they left.
func (h *House) Run(ctx context.Context, calls, reads net.Listener) error {
	below := context.WithoutCancel(ctx)
	vctx, stopVault := context.WithCancel(below)
	defer stopVault()
	vault := make(chan error, 1)
	go func() { vault <- h.Vault.Run(vctx) }()

	srv := &http.Server{
		Handler: h.api, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10,
		ErrorLog: slog.NewLogLogger(h.env.Logger.Handler(), slog.LevelDebug),
	}
	err := together(ctx,
		func(ctx context.Context) error { return h.Gateway.Run(ctx, calls) },
		func(ctx context.Context) error {
			err := h.pen.Run(ctx)
			if errors.Is(err, tlog.ErrQuarantine) {
				<-ctx.Done() // reads are served on; the log itself says at the end why
				err = nil
			}
			return err
		},
		func(ctx context.Context) error {
			stop := context.AfterFunc(ctx, func() {
				late, cancel := context.WithTimeout(below, 5*time.Second)
				defer cancel()
				srv.Shutdown(late)
			})
			defer stop()
			if err := srv.Serve(reads); !errors.Is(err, http.ErrServerClosed) {
				return fmt.Errorf("the read API: %w", err)
			}
			return nil
		})
	stopVault()
	verr := <-vault
	if errors.Is(err, tlog.ErrQuarantine) && errors.Is(verr, tlog.ErrQuarantine) {
		err = nil // said once is enough
	}
	return errors.Join(err, verr, h.Vault.Close())
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
func gatewayConfig(c *config.Config, env Env) (gateway.Config, error) {
	g := c.Gateway
	mode, err := gateway.ParseMode(g.Mode)
	if err != nil {
		return gateway.Config{}, err
	}
	l := g.Limits
	out := gateway.Config{
		ID: g.ID, Software: env.Software, Journal: g.Journal, Mode: mode, Hosts: g.Hosts, Linger: g.Linger,
		Heartbeat: time.Duration(g.Heartbeat), Logger: env.Logger,
		Limits: gateway.Limits{
			Head: l.Head, Body: l.Body, Answer: l.Answer, Event: l.Event,
			HeadTime: time.Duration(l.HeadTime), BodyTime: time.Duration(l.BodyTime), IdleTime: time.Duration(l.IdleTime),
			FirstByte: time.Duration(l.FirstByte), Silence: time.Duration(l.Silence), Total: time.Duration(l.Total),
			WriteTime: time.Duration(l.WriteTime), Drain: time.Duration(l.Drain), Connections: l.Connections,
		},
	}
	for _, k := range g.Callers {
		out.Callers = append(out.Callers, gateway.Caller{Name: k.Name, Key: k.Key, SHA256: k.SHA256, Routes: k.Routes})
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
		}
		if !r.Credential.IsZero() {
			secret, err := r.Credential.Load(env.LookupEnv)
			if err != nil {
				return out, fmt.Errorf("route %q: %w", r.Name, err)
			}
			route.Credential = secret
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
	if g.Roots != "" {
		pem, err := os.ReadFile(g.Roots)
		if err != nil {
			return out, fmt.Errorf("gateway.roots: %w", err)
		}
		out.Roots = x509.NewCertPool()
		if !out.Roots.AppendCertsFromPEM(pem) {
			return out, fmt.Errorf("gateway.roots: no certificate in %s", g.Roots)
		}
	}
	return out, nil
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
	b := make([]byte, 20)
	rand.Read(b)
	return strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(b))
}

// While runs a vault and a pen for as long as do takes, and closes the vault.
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
	if err == nil {
		err = errors.Join(perr, verr)
	}
	return errors.Join(err, v.Close())
}

// OpenReadOnly opens a closed log for reading what it published; its keys are not needed.
func OpenReadOnly(c *config.Config, env Env) (*local.Log, error) {
	signer, err := file.Load(c.Key, c.Origin)
	if err != nil {
		return nil, err
	}
	anchor, err := latest.Open(c.AnchorDir())
	if err != nil {
		return nil, err
	}
	return local.Open(c.LogDir(), local.Config{
		Origin: c.Origin, Verifier: signer.Verifier(), Latest: anchor, Head: c.Head, Logger: env.Logger, ReadOnly: true,
	})
}
