package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/tallystick/tallystick/cmd/internal/cli"
	"github.com/tallystick/tallystick/keys/file"
	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/witness"
)

// serve is the witness from its files to its end.
func (v *invocation) serve(ctx context.Context) (int, error) {
	switch {
	case v.listen == "":
		return 0, cli.Usagef("where do logs submit? Name an address by --listen ADDR, such as 127.0.0.1:8080.")
	case len(v.keys) == 0:
		return 0, cli.Usagef("what does it sign with? Name a key by --keys FILE; tally-witness keygen makes some.")
	case v.logs == "":
		return 0, cli.Usagef("whose checkpoints? Name the list of logs by --logs FILE.")
	case v.state == "":
		return 0, cli.Usagef("where does it remember? Name a directory by --state DIR, one that no other witness uses.")
	case (v.tlsCert == "") != (v.tlsKey == ""):
		return 0, cli.Usagef("--tls-cert and --tls-key go together.")
	case v.maxConns < 1:
		return 0, cli.Usagef("--max-conns is 1 at least.")
	case v.reload <= 0 || v.clockJump < 0:
		return 0, cli.Usagef("--reload and --clock-jump are not below zero.")
	}
	level := slog.LevelInfo
	if v.debug {
		level = slog.LevelDebug
	}
	log := slog.New(slog.NewJSONHandler(v.stderr, &slog.HandlerOptions{Level: level}))

	var keys []*tlog.CosignatureSigner
	for _, path := range v.keys {
		k, err := file.LoadCosigner(path)
		if err != nil {
			return 0, err
		}
		keys = append(keys, k)
	}
	text, err := readFile(v.logs)
	if err != nil {
		return 0, err
	}
	list, err := witness.ParseLogList(text)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", v.logs, err)
	}
	store, err := witness.OpenStore(v.state)
	if err != nil {
		return 0, err
	}
	defer store.Close()
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	w, err := witness.New(ctx, witness.Config{
		Keys: keys, Logs: list, State: store, Evidence: store, Limits: witness.Limits{Overall: v.rate, Log: v.rateLog},
		ClockJump: v.clockJump, Log: log, Metrics: registry,
	})
	if err != nil {
		return 0, err
	}
	for _, path := range v.keys {
		held, err := holdKey(path)
		if err != nil {
			return 0, err
		}
		defer held.Close()
	}
	f := newFollower(v, w, log, registry, text, list)
	var tlsConfig *tls.Config
	if v.tlsCert != "" {
		if err := f.loadCertificate(); err != nil {
			return 0, err
		}
		tlsConfig = &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return f.cert.Load(), nil }}
	}

	// The first address is where it listens, whatever was asked for: a port of 0 is one that was free.
	h := &house{log: log, maxConns: v.maxConns}
	submit := w.Handler()
	if err := h.add("submit", v.listen, submit, tlsConfig); err != nil {
		return 0, err
	}
	if v.monitorListen != "" {
		if err := h.add("monitor", v.monitorListen, w.MonitorHandler(), tlsConfig); err != nil {
			return 0, errors.Join(err, h.close())
		}
	}
	if v.opsListen != "" {
		if err := h.add("ops", v.opsListen, f.ops(registry), nil); err != nil {
			return 0, errors.Join(err, h.close())
		}
	}
	for _, k := range w.VerifierKeys() {
		fmt.Fprintf(v.stdout, "key %s\n", k)
	}
	for _, r := range h.rooms {
		fmt.Fprintf(v.stdout, "%s %s\n", r.name, r.url)
	}
	ctx, stop := context.WithCancel(ctx)
	var following sync.WaitGroup
	following.Go(func() { f.follow(ctx) })
	err = h.run(ctx)
	stop()
	following.Wait()
	return 0, err
}

// holdKey keeps a second witness of this machine from signing with a key, whatever directory that would remember in. The end
// of the process lets go of it. Where files cannot be locked nothing is held.
func holdKey(path string) (*os.File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); errors.Is(err, syscall.EWOULDBLOCK) {
		f.Close()
		return nil, fmt.Errorf("another witness signs with %s: two that do not know of each other would cosign a fork; stop it, or give this one a key of its own", path)
	}
	return f, nil
}

// A house is the servers of one witness.
type house struct {
	log      *slog.Logger
	maxConns int
	rooms    []room
}

type room struct {
	name, url string
	listener  net.Listener
	server    *http.Server
}

// add listens at an address. Nothing is served before run.
func (h *house) add(name, addr string, handler http.Handler, tlsConfig *tls.Config) error {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	url := "http://" + l.Addr().String() + "/"
	l = &limited{Listener: l, places: make(chan struct{}, h.maxConns)}
	if tlsConfig != nil {
		url = "https" + url[len("http"):]
	}
	// One request at a time on a connection: so it is the number of those that bounds what bodies there are in memory.
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	h.rooms = append(h.rooms, room{name, url, l, &http.Server{
		Protocols: protocols,
		Handler:   handler, TLSConfig: tlsConfig, ErrorLog: slog.NewLogLogger(h.log.Handler(), slog.LevelWarn),
		// A submission is some 70 KB at most, and is answered within the time that its log's turn takes.
		ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 15 * time.Second, WriteTimeout: 45 * time.Second, IdleTimeout: 2 * time.Minute,
		MaxHeaderBytes: 16 << 10,
	}})
	return nil
}

// run serves until ctx ends or a server does, and then lets those who are being answered have their answers.
func (h *house) run(ctx context.Context) error {
	ended := make(chan error, len(h.rooms))
	for _, r := range h.rooms {
		go func() {
			if r.server.TLSConfig != nil {
				ended <- r.server.ServeTLS(r.listener, "", "")
			} else {
				ended <- r.server.Serve(r.listener)
			}
		}()
	}
	h.log.Info("serving")
	var err error
	select {
	case <-ctx.Done():
	case err = <-ended:
	}
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), 15*time.Second)
	defer cancel()
	for _, r := range h.rooms {
		if stopErr := r.server.Shutdown(grace); stopErr != nil {
			r.server.Close()
		}
	}
	h.log.Info("ended")
	return err
}

func (h *house) close() error {
	var errs []error
	for _, r := range h.rooms {
		errs = append(errs, r.listener.Close())
	}
	return errors.Join(errs...)
}

// A limited listener has so many places: whoever comes when all are taken waits.
type limited struct {
	net.Listener
	places chan struct{}
}

// Accept waits for a connection while there is a place for it.
func (l *limited) Accept() (net.Conn, error) {
	l.places <- struct{}{}
	c, err := l.Listener.Accept()
	if err != nil {
		<-l.places
		return nil, err
	}
	return &placed{Conn: c, leave: sync.OnceFunc(func() { <-l.places })}, nil
}

type placed struct {
	net.Conn
	leave func()
}

func (c *placed) Close() error {
	defer c.leave()
	return c.Conn.Close()
}

// A follower reads the files of a witness again when they change. What it cannot read it does not take, and says so.
type follower struct {
	v   *invocation
	w   *witness.Witness
	log *slog.Logger

	cert     atomic.Pointer[tls.Certificate]
	listText []byte // as it was last read, good or bad
	certText []byte
	badList  atomic.Pointer[string] // why the list on the disk is not the one in use

	reloads *prometheus.CounterVec
	loaded  prometheus.Gauge
}

func newFollower(v *invocation, w *witness.Witness, log *slog.Logger, r *prometheus.Registry, text []byte, list *witness.LogList) *follower {
	f := &follower{
		v: v, w: w, log: log, listText: text,
		reloads: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: "tally_witness", Name: "list_reloads_total", Help: "Changed lists of logs, taken or refused.",
		}, []string{"result"}),
		loaded: prometheus.NewGauge(prometheus.GaugeOpts{
			Namespace: "tally_witness", Name: "list_loaded_timestamp_seconds", Help: "When the list of logs in use was read.",
		}),
	}
	r.MustRegister(f.reloads, f.loaded)
	f.taken(list)
	return f
}

// follow looks at the files now and then, and at once when the process is told to (SIGHUP).
func (f *follower) follow(ctx context.Context) {
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	tick := time.NewTicker(f.v.reload)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-hup:
		}
		f.reloadList()
		if f.v.tlsCert != "" {
			if err := f.loadCertificate(); err != nil {
				f.log.Error("the certificate was not taken, and the one before stays", "err", err)
			}
		}
	}
}

func (f *follower) reloadList() {
	text, err := readFile(f.v.logs)
	if err == nil && bytes.Equal(text, f.listText) {
		return
	}
	f.listText = text // nil if it cannot be read: what comes next is looked at
	if err == nil {
		var list *witness.LogList
		if list, err = witness.ParseLogList(text); err == nil {
			err = f.w.SetLogs(list)
		}
		if err == nil {
			f.reloads.WithLabelValues("taken").Inc()
			f.taken(list)
			return
		}
	}
	why := fmt.Sprintf("the list of logs %s was not taken, and the one before stays: %v", f.v.logs, err)
	if was := f.badList.Swap(&why); was == nil || *was != why {
		f.reloads.WithLabelValues("refused").Inc()
		f.log.Error("the list of logs was not taken, and the one before stays", "file", f.v.logs, "err", err)
	}
}

// taken says that a list is in use.
func (f *follower) taken(list *witness.LogList) {
	f.badList.Store(nil)
	f.loaded.SetToCurrentTime()
	f.log.Info("list of logs", "file", f.v.logs, "logs", len(list.Origins()))
	for _, s := range list.Skipped() {
		f.log.Warn("a log of the list cannot be witnessed", "file", f.v.logs, "why", s)
	}
}

// loadCertificate reads certificate and key, if they are others than before.
func (f *follower) loadCertificate() error {
	var text []byte
	for _, path := range []string{f.v.tlsCert, f.v.tlsKey} {
		b, err := readFile(path)
		if err != nil {
			return err
		}
		text = append(append(text, b...), 0)
	}
	if bytes.Equal(text, f.certText) {
		return nil
	}
	cert, err := tls.LoadX509KeyPair(f.v.tlsCert, f.v.tlsKey)
	if err != nil {
		return fmt.Errorf("%s, %s: %w", f.v.tlsCert, f.v.tlsKey, err)
	}
	f.cert.Store(&cert)
	f.certText = text
	return nil
}

// ops is for those who watch the witness.
func (f *follower) ops(r *prometheus.Registry) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(r, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /healthz", func(rw http.ResponseWriter, _ *http.Request) {
		err := f.w.Health()
		if why := f.badList.Load(); why != nil {
			err = errors.Join(err, errors.New(*why))
		}
		rw.Header().Set("Content-Type", "text/plain; charset=utf-8")
		if err != nil {
			rw.WriteHeader(http.StatusServiceUnavailable)
			fmt.Fprintln(rw, err)
			return
		}
		fmt.Fprintln(rw, "ok")
	})
	return mux
}

// readFile reads a file that is no larger than a list may be.
func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, tlog.MaxPolicy+1))
	if err != nil {
		return nil, err
	}
	if len(b) > tlog.MaxPolicy {
		return nil, fmt.Errorf("%s is over the limit of %d bytes", path, tlog.MaxPolicy)
	}
	return b, nil
}
