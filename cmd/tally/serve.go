package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/tallystick/tallystick/cmd/internal/assemble"
	"github.com/tallystick/tallystick/cmd/internal/cli"
	"github.com/tallystick/tallystick/cmd/internal/config"
)

func (t *tally) serve(ctx context.Context, args []string) error {
	fs := t.flags("serve --config FILE", "Runs the gateway, the log and the console until it is interrupted. Then calls under way finish, the\nlast checkpoint is signed, and it ends. On SIGHUP it reads the file again: keys, policy and\nwitnesses of its log can change while it runs, and so can who has which role in the console, the\nrules of retention, and those that judge calls, which are read again by themselves, too, when their file changes.")
	path := fs.String("config", "", "the `file` that says how")
	newHead := fs.Bool("new-head", false, "go on without the head file, if it was lost: what came after the anchor is then known to the store alone")
	if _, err := parse(fs, args, 0, 0); err != nil {
		return err
	}
	if *path == "" {
		return cli.Usagef("serve needs --config FILE; the README has one to begin with")
	}
	c, err := config.Load(*path)
	if err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(t.stderr, nil))
	env := t.env(log)
	env.NewHead = *newHead
	h, at, err := t.house(c, env)
	if err != nil {
		return err
	}
	done := t.announce(c, at.Reads)
	defer done()
	var what []any
	if at.Calls != nil {
		what = append(what, "gateway", "http://"+at.Calls.Addr().String())
	}
	what = append(what, "log", "http://"+at.Reads.Addr().String(), "origin", c.Origin)
	if at.Console != nil {
		what = append(what, "console", c.Console.Public)
	}
	if at.Ops != nil {
		what = append(what, "ops", "http://"+at.Ops.Addr().String())
	}
	if at.Appends != nil {
		what = append(what, "appends", at.Appends.Addr().String())
	}
	if key := h.Vault.Key(); key != "" {
		what = append(what, "key", key)
	} else {
		what = append(what, "kept_at", c.Log)
	}
	log.Info("serving", what...)
	if err := h.Vault.Quarantined(); err != nil {
		log.Error("the log is in quarantine: it serves reads and signs nothing", "why", err)
	}
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	go t.reload(ctx, hup, *path, h, log)
	return h.Run(ctx, at)
}

// reload reads the file again whenever it is told to, and hands on what can change while everything runs.
func (t *tally) reload(ctx context.Context, hup <-chan os.Signal, path string, h *assemble.House, log *slog.Logger) {
	for {
		select {
		case <-hup:
		case <-ctx.Done():
			return
		}
		c, err := config.Load(path)
		if err != nil {
			log.Error("the file is not taken, and everything goes on as it was", "err", err)
			continue
		}
		select {
		case h.Reload <- c:
		case <-ctx.Done():
			return
		}
	}
}

// house builds what a configuration says and opens its listeners.
func (t *tally) house(c *config.Config, env assemble.Env) (h *assemble.House, at assemble.Listeners, err error) {
	var open []net.Listener
	defer func() {
		if err != nil {
			for _, ln := range open {
				ln.Close()
			}
		}
	}()
	console := ""
	if c.Console != nil {
		console = c.Console.Listen
	}
	for _, l := range []struct {
		key, addr string
		ln        *net.Listener
	}{
		{"gateway.listen", c.Gateway.Listen, &at.Calls}, {"listen", c.Listen, &at.Reads}, {"serve_log.listen", c.ServeLog.Listen, &at.Appends},
		{"console.listen", console, &at.Console}, {"ops.listen", c.Ops.Listen, &at.Ops},
	} {
		if l.addr == "" {
			continue
		}
		if *l.ln, err = listen(l.key, l.addr); err != nil {
			return nil, at, err
		}
		open = append(open, *l.ln)
	}
	h, err = assemble.Build(c, env)
	return h, at, err
}

// env is what the rooms below get of the world. When the store cannot go on, the process ends at once: nothing that
// was not acknowledged may look as if it were.
func (t *tally) env(log *slog.Logger) assemble.Env {
	return assemble.Env{
		LookupEnv: t.lookup, Logger: log, Software: software(),
		Fatal: func(msg string) {
			fmt.Fprintf(t.stderr, "tally: the store cannot go on: %s\ntally: start it again when its disk is in order; nothing acknowledged is lost\n", printable(msg))
			os.Exit(exitStore)
		},
	}
}

// listen opens a port, and says what to do when it is taken.
func listen(key, addr string) (net.Listener, error) {
	ln, err := net.Listen("tcp", addr)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("%s: the port of %s is in use; stop what uses it, or choose another (port 0 takes a free one)", key, addr)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", key, err)
	}
	return ln, nil
}

// announce leaves, beside the operators' token, where the running log is found, and returns what takes it back.
func (t *tally) announce(c *config.Config, reads net.Listener) func() {
	path := filepath.Join(c.Dir(), runningFile)
	os.WriteFile(path, []byte("http://"+reads.Addr().String()+"\n"), 0o600)
	state := t.remember(reads.Addr().String(), c.Operators)
	return func() {
		os.Remove(path)
		if state != "" {
			os.Remove(state)
		}
	}
}
