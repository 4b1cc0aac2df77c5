// Package gateway stands between callers and model APIs and writes down what passes: who called, what was sent, how
// the model answered. It is the only home of fasthttp.
//
// What is always true:
//
//   - only requests with one meaning are read; everything else is refused with 400 and a closed connection;
//   - who calls is told by a key, never by a header that a caller can write;
//   - in the mode strict no byte reaches the model before the request is durable in the log, and no caller holds a
//     whole answer before the response is;
//   - an answer passes as it came, byte for byte and event by event; the record is made beside it;
//   - an answer that stopped before its own end is cut for the caller too, and is on record as truncated;
//   - the service credential is put on the wire and nowhere else: if a model sends it back, it is struck out before
//     caller, journal and record see it.
//
// It knows the log only as [tlog.Appender] and [tlog.Reader], and the keepers of data keys only as [Keys].
package gateway

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/record"
)

// Log is what a gateway needs of the log it writes to.
type Log interface {
	tlog.Appender
	tlog.Reader
}

// Keys gives the data keys that payloads and the stream journal are sealed with.
type Keys interface {
	// New returns a fresh key of record.KeyBytes bytes and the name by which it is found again. The key is durable.
	New(ctx context.Context) (id string, key []byte, err error)
	// Open returns the key of that name.
	Open(ctx context.Context, id string) (key []byte, err error)
}

// A Mode says what comes first when recording and answering pull apart. The zero value is the strict one.
type Mode uint8

const (
	Strict  Mode = iota // the request is durable before the model sees a byte, the response before the caller sees its end
	Overlap             // the request's commit runs beside the call upstream and holds back the answer only
	Open                // traffic is never held back; what could not be recorded is counted in a gap entry
)

// String returns the mode's name in a configuration and in a start entry.
func (m Mode) String() string {
	switch m {
	case Overlap:
		return "overlap"
	case Open:
		return "open"
	}
	return "strict"
}

// ParseMode reads the name of a mode. The empty name is strict.
func ParseMode(s string) (Mode, error) {
	switch s {
	case "", "strict":
		return Strict, nil
	case "overlap":
		return Overlap, nil
	case "open":
		return Open, nil
	}
	return Strict, fmt.Errorf("gateway: the mode %q is none of strict, overlap, open", s)
}

// Limits bound what one caller can make the gateway hold or wait for. Zero means the default.
type Limits struct {
	Head   int   // bytes of a request's head; default 32 KiB
	Body   int64 // bytes of a request's body; default 64 MiB
	Answer int64 // bytes of an answer; default 64 MiB
	Event  int   // bytes of one event of a stream; default 8 MiB

	HeadTime  time.Duration // from a request's first byte to the end of its head; default 10 s
	BodyTime  time.Duration // from there to the end of its body; default 60 s
	IdleTime  time.Duration // between requests of a connection; default 60 s
	FirstByte time.Duration // from sending upstream to the answer's head; default 10 min
	Silence   time.Duration // between two reads of an answer; default 5 min
	Total     time.Duration // of a whole call; default 1 h
	WriteTime time.Duration // for the caller to take what is written at once; default 30 s
	Drain     time.Duration // for calls to finish when the gateway stops; default 30 s

	Connections int // open at a time; default 10,000
}

func (l Limits) filled() Limits {
	or := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	or(&l.HeadTime, 10*time.Second)
	or(&l.BodyTime, time.Minute)
	or(&l.IdleTime, time.Minute)
	or(&l.FirstByte, 10*time.Minute)
	or(&l.Silence, 5*time.Minute)
	or(&l.Total, time.Hour)
	or(&l.WriteTime, 30*time.Second)
	or(&l.Drain, 30*time.Second)
	if l.Head == 0 {
		l.Head = 32 << 10
	}
	if l.Body == 0 {
		l.Body = 64 << 20
	}
	if l.Answer == 0 {
		l.Answer = 64 << 20
	}
	if l.Event == 0 {
		l.Event = 8 << 20
	}
	if l.Connections == 0 {
		l.Connections = 10_000
	}
	return l
}

// Config is what a gateway is made of.
type Config struct {
	ID       string // stands in every entry; see record.CheckWriter
	Software string // name and version, for the start entry
	Log      Log
	Keys     Keys
	Journal  string // a directory of the gateway's own, for what streams have brought so far
	Mode     Mode
	Routes   []Route
	Callers  []Caller
	Hosts    []string       // the names callers may use for the gateway; nil for any
	TLS      *tls.Config    // towards callers; nil for plain HTTP
	Roots    *x509.CertPool // for certificates of models; nil for the system's
	// Linger keeps a call to the model going after its caller left, so that the whole answer is on record. The
	// default is to cancel it, which saves its cost.
	Linger bool
	Limits Limits
	// Heartbeat is the time between heartbeat entries; zero means 10 seconds.
	Heartbeat time.Duration
	Logger    *slog.Logger // nil for none
}

// A Gateway passes calls and writes them down. Make one with New, and Run it once.
type Gateway struct {
	cfg     Config
	limits  Limits
	log     *slog.Logger
	callers callers
	routes  routes
	pools   *pools
	writer  *record.Writer
	coder   *record.Coder
	journal *journal
	server  *fasthttp.Server

	// stopping ends the calls that are still under way when the time to drain is over.
	stopping context.Context
	stop     context.CancelCauseFunc
	late     sync.WaitGroup // what outlives its connection: calls that are seen through in the mode open
	active   atomic.Int64
}

// New checks a configuration and makes a gateway of it. It opens nothing and starts nothing.
func New(cfg Config) (*Gateway, error) {
	if cfg.Log == nil || cfg.Keys == nil {
		return nil, errors.New("gateway: a gateway needs a log and keys")
	}
	if cfg.Journal == "" {
		return nil, errors.New("gateway: a gateway needs a directory for its stream journal")
	}
	g := &Gateway{cfg: cfg, limits: cfg.Limits.filled(), log: cfg.Logger}
	if g.log == nil {
		g.log = slog.New(slog.DiscardHandler)
	}
	var err error
	if g.callers, err = newCallers(cfg.Callers); err != nil {
		return nil, err
	}
	if g.routes, err = newRoutes(cfg.Routes); err != nil {
		return nil, err
	}
	if g.coder, err = record.NewCoder(runtime.GOMAXPROCS(0)); err != nil {
		return nil, err
	}
	if g.writer, err = record.NewWriter(record.WriterConfig{
		ID: cfg.ID, Log: cfg.Log, Reader: cfg.Log, Software: cfg.Software, Mode: cfg.Mode.String(), Heartbeat: cfg.Heartbeat,
	}); err != nil {
		return nil, err
	}
	g.journal = newJournal(cfg.Journal, g.writer.Boot(), cfg.Keys)
	g.pools = newPools(cfg.Roots, g.limits)
	g.stopping, g.stop = context.WithCancelCause(context.Background())
	g.server = &fasthttp.Server{
		Handler:                       g.handle,
		ErrorHandler:                  g.unreadable,
		Name:                          "",
		NoDefaultServerHeader:         true,
		NoDefaultContentType:          true,
		DisableHeaderNamesNormalizing: true,
		DisablePreParseMultipartForm:  true,
		SecureErrorLogMessage:         true,
		CloseOnShutdown:               true,
		StreamRequestBody:             false,
		ReadBufferSize:                g.limits.Head + 1024,
		MaxRequestBodySize:            int(g.limits.Body),
		IdleTimeout:                   g.limits.IdleTime,
		Concurrency:                   g.limits.Connections,
		Logger:                        quiet{},
	}
	return g, nil
}

// quiet swallows what fasthttp says on its own account: it is about connections, can quote what callers sent, and what
// matters of it is counted elsewhere.
type quiet struct{}

func (quiet) Printf(string, ...any) {}

// Writer returns the gateway's pen, for entries that others make in its name.
func (g *Gateway) Writer() *record.Writer { return g.writer }

// Run serves callers from ln until ctx ends. Then it takes no new connection, lets the calls under way finish within
// Limits.Drain, cuts the rest, writes its last entries and returns. ln is closed when Run returns. An error is a fault
// that only a restart can mend: the journal cannot be used, or the outcome of an append is unknown. In the mode open
// the latter does not end Run, for traffic goes first.
func (g *Gateway) Run(ctx context.Context, ln net.Listener) error {
	defer ln.Close()
	if err := g.journal.open(); err != nil {
		return err
	}
	// The writer and the journal outlive the calls: they end when nothing can use them any more.
	pen, layDown := context.WithCancel(context.WithoutCancel(ctx))
	defer layDown()
	written := make(chan error, 1)
	go func() { written <- g.writer.Run(pen) }()
	synced := make(chan struct{})
	go func() { g.journal.run(pen); close(synced) }()
	closed := make(chan error, 1)
	go func() { closed <- g.closeUnfinished(pen) }()

	if g.cfg.TLS != nil {
		ln = tls.NewListener(ln, g.cfg.TLS)
	}
	served := make(chan error, 1)
	go func() { served <- g.server.Serve(newStrictListener(ln, g.strict())) }()

	var fault error
	writing := written
	for fault == nil {
		select {
		case <-ctx.Done():
			fault = g.drain(served)
			layDown()
			if writing != nil {
				fault = errors.Join(fault, <-written)
			}
			<-synced
			if err := <-closed; err != nil && !errors.Is(err, context.Canceled) && !errors.Is(err, tlog.ErrQuarantine) {
				fault = errors.Join(fault, err)
			}
			return errors.Join(fault, g.journal.close())
		case err := <-served:
			fault = fmt.Errorf("gateway: the listener failed: %w", err)
		case err := <-writing:
			g.log.Error("the writer has stopped", "err", err)
			// In quarantine the gateway lives on, so that callers are told; a restart would find the same.
			writing = nil
			if g.cfg.Mode != Open && !errors.Is(err, tlog.ErrQuarantine) {
				fault = err
			}
		}
	}
	g.stop(fault)
	g.server.Shutdown()
	layDown()
	if writing != nil {
		<-written
	}
	<-synced
	<-closed
	return errors.Join(fault, g.journal.close())
}

// drain ends serving: no new connections, then the calls under way, then, when their time is over, the rest of them.
func (g *Gateway) drain(served chan error) error {
	g.log.Info("draining", "calls", g.active.Load(), "limit", g.limits.Drain)
	over := time.AfterFunc(g.limits.Drain, func() { g.stop(errStopping) })
	defer over.Stop()
	err := g.server.Shutdown()
	<-served
	g.late.Wait()
	if err != nil {
		return fmt.Errorf("gateway: shut down: %w", err)
	}
	return nil
}

// strict says what the strict reading of requests goes by.
func (g *Gateway) strict() strictConfig {
	return strictConfig{
		MaxHead: g.limits.Head, MaxBody: g.limits.Body, Hosts: g.cfg.Hosts,
		HeadTimeout: g.limits.HeadTime, BodyTimeout: g.limits.BodyTime,
		Refusal: func(status int, code, message string) []byte {
			return (&refusal{status, code, message}).body(record.ID{})
		},
		OnRefuse: func(net.Addr, int, string) { g.writer.Shed(1) },
	}
}
