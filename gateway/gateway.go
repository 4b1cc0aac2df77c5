// Package gateway stands between callers and model APIs and writes down what passes: who called, what was sent, how
// the model answered. It is the only home of fasthttp.
//
// What is always true:
//
//   - only requests with one meaning are read; everything else is refused with 400 and a closed connection;
//   - who calls is told by what it shows and cannot make up, a key, a token or a certificate, and by no other header;
//   - in the mode strict no byte reaches the model before the request is durable in the log, and no caller holds a
//     whole answer before the response is;
//   - an answer passes as it came, byte for byte and event by event; the record is made beside it;
//   - an answer that stopped before its own end is cut for the caller too, and is on record as truncated;
//   - the service credential is put on the wire and nowhere else: if a model sends it back, in one piece, it is struck
//     out before caller, journal and record see it;
//   - a connection to a model carries the calls of one caller, and what comes on it unasked is nobody's answer;
//   - a call that has begun has one end on record, whatever ends it: the model, the caller, a limit, a fault of ours, or,
//     after a crash, the next boot;
//   - a caller gets receipts of its own sessions, and of nobody else's;
//   - what is counted and traced of calls has nothing of what they say, nor of who says it.
//
// It knows the log only as [Log], and the keepers of data keys only as [Keys].
package gateway

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/record"
	"github.com/tallystick/tallystick/tlog/record/mask"
)

// Log is what a gateway needs of the log it writes to.
type Log interface {
	tlog.Appender
	tlog.Reader
	// Payload is that of [tlog.Payloads].
	Payload(ctx context.Context, sum tlog.Hash) ([]byte, error)
}

// Keys gives the data keys that payloads and the stream journal are sealed with.
type Keys interface {
	// New returns a fresh key of record.KeyBytes bytes and the name by which it is found again. The key is durable.
	New(ctx context.Context) (id string, key []byte, err error)
	// Open returns the key of that name, which whoever asked may clear, or tlog.ErrNotFound where it was erased.
	Open(ctx context.Context, id string) (key []byte, err error)
}

// A Mode says what comes first when recording and answering pull apart. The zero value is the strict one.
type Mode uint8

const (
	Strict  Mode = iota // the request is durable before the model sees a byte, the response before the caller sees its end
	Overlap             // the request's commit runs beside the call upstream and holds back the answer only
	Open                // the log never holds traffic back; what could not be recorded is counted in a gap entry
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
	Drain     time.Duration // for calls to finish when the gateway stops; default 30 s. After it come at most 10 s of last words

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
	Origin   string // the log's; "" for a gateway that makes no promises, so that receipts wait for the proof
	Keys     Keys
	Journal  string // a directory of the gateway's own, for what streams have brought so far
	Mode     Mode
	Routes   []Route
	Callers  []Caller
	// Identifiers know callers by other things than static keys, which are asked for first; the others are asked in this
	// order. Whoever makes them runs what of them must run.
	Identifiers []Identifier
	Pages       Pages          // nil for none
	Hosts       []string       // the names callers may use for the gateway; nil for any
	TLS         *tls.Config    // towards callers; nil for plain HTTP
	Roots       *x509.CertPool // for certificates of models; nil for the system's
	// Policy judges calls from the start; nil for none, until SetPolicy gives one.
	Policy    Policy
	Approvals Approvals
	// Linger keeps a call to the model going after its caller left, so that the whole answer is on record. The
	// default is to cancel it, which saves its cost.
	Linger bool
	Limits Limits
	// Heartbeat is the time between heartbeat entries; zero means 10 seconds.
	Heartbeat time.Duration
	Logger    *slog.Logger // nil for none
	// Models are the names of models that Stats tells apart; whatever else callers name is other. nil tells none apart.
	Models []string
	// Tracer follows calls; nil for nobody.
	Tracer Tracer

	lastWords time.Duration // tests only; zero means the constant
}

// check says what is wrong with limits that were given.
func (l Limits) check() error {
	for _, d := range []time.Duration{l.HeadTime, l.BodyTime, l.IdleTime, l.FirstByte, l.Silence, l.Total, l.WriteTime, l.Drain} {
		if d < 0 {
			return fmt.Errorf("gateway: a limit of %v; a time is positive, and zero means the default", d)
		}
	}
	switch {
	case l.Head < 0 || l.Body < 0 || l.Answer < 0 || l.Event < 0 || l.Connections < 0:
		return errors.New("gateway: a limit is negative; zero means the default")
	case l.Head != 0 && l.Head < 1<<10, l.Head > 1<<20:
		return fmt.Errorf("gateway: a limit of %d bytes for a head; choose 1 KiB to 1 MiB", l.Head)
	case l.Body > maxKept || l.Answer > maxKept:
		return fmt.Errorf("gateway: a body of %d bytes may not fit a record; choose at most %d MiB", max(l.Body, l.Answer), maxKept>>20)
	case int64(l.Event) > maxKept:
		return fmt.Errorf("gateway: an event of %d bytes; choose at most %d MiB", l.Event, maxKept>>20)
	}
	return nil
}

// maxKept is the largest body, in bytes, whose record is sure to fit record.MaxRecord, be it a stream of the shortest
// events, of which each takes more room in the table of events than in the body.
const maxKept = 64 << 20

// A Gateway passes calls and writes them down. Make one with New, and Run it once.
type Gateway struct {
	cfg     Config
	limits  Limits
	log     *slog.Logger
	routes  routes
	pools   *pools
	writer  *record.Writer
	coder   *record.Coder
	journal *journal
	server  *fasthttp.Server
	spare   chan dataKey // in the mode open: keys fetched ahead

	identifiers []Identifier // in the order in which they are asked
	strangers   ration       // of refusals of bad credentials that are on record

	mask *mask.Masker // of the first route that masks; nil for none

	law      atomic.Pointer[inForce] // nil while there is none
	lawful   chan struct{}           // closed when there is one
	policing sync.Mutex              // held while another comes into force
	book     *book
	meter    Meter
	numbers  *numbers

	promiser  ed25519.PrivateKey // of this boot, never on a disk; nil if nothing is promised
	recent    recent
	turns     turns
	spareWork sync.Pool // of *workings

	// stopping ends the calls that are still under way when the time to drain is over, and silenced, some seconds
	// later, ends the waiting for the log.
	stopping context.Context
	stop     context.CancelCauseFunc
	silenced context.Context
	silence  context.CancelFunc
	// draining ends the waiting for people, when the gateway begins to stop.
	draining context.Context
	drained  context.CancelFunc

	late   sync.WaitGroup // in the mode open: responses whose callers have gone on
	active atomic.Int64   // calls under way
}

// New checks a configuration and makes a gateway of it. It opens nothing and starts nothing.
func New(cfg Config) (*Gateway, error) {
	if cfg.Log == nil || cfg.Keys == nil {
		return nil, errors.New("gateway: a gateway needs a log and keys")
	}
	if cfg.Journal == "" {
		return nil, errors.New("gateway: a gateway needs a directory for its stream journal")
	}
	if cfg.Mode > Open {
		return nil, fmt.Errorf("gateway: no mode has the number %d", cfg.Mode)
	}
	if err := cfg.Limits.check(); err != nil {
		return nil, err
	}
	g := &Gateway{cfg: cfg, limits: cfg.Limits.filled(), log: cfg.Logger, spare: make(chan dataKey, spareKeys), lawful: make(chan struct{}), strangers: ration{most: strangersAtOnce, pause: strangersPause}}
	g.cfg.lastWords = cmp.Or(cfg.lastWords, lastWords)
	if g.log == nil {
		g.log = slog.New(slog.DiscardHandler)
	}
	var err error
	if g.routes, err = newRoutes(cfg.Routes); err != nil {
		return nil, err
	}
	g.numbers = newNumbers(cfg.Models, g.routes)
	for _, m := range g.routes {
		if g.mask = m.route.Mask; g.mask != nil {
			break
		}
	}
	keys, err := newCallers(cfg.Callers, g.routes)
	if err != nil {
		return nil, err
	}
	g.identifiers = append([]Identifier{keys}, cfg.Identifiers...)
	if g.coder, err = record.NewCoder(runtime.GOMAXPROCS(0)); err != nil {
		return nil, err
	}
	pen := record.WriterConfig{
		ID: cfg.ID, Log: cfg.Log, Reader: cfg.Log, Software: cfg.Software, Mode: cfg.Mode.String(), Heartbeat: cfg.Heartbeat,
	}
	if cfg.Origin != "" {
		if err := tlog.CheckOrigin(cfg.Origin); err != nil {
			return nil, err
		}
		public, private, err := ed25519.GenerateKey(nil)
		if err != nil {
			return nil, fmt.Errorf("gateway: a key to promise by: %w", err)
		}
		g.promiser, pen.Promise = private, [ed25519.PublicKeySize]byte(public)
	}
	if g.writer, err = record.NewWriter(pen); err != nil {
		return nil, err
	}
	g.turns = turns{making: make(chan struct{}, receiptsAtOnce), searching: make(map[string]bool)}
	if cfg.TLS != nil {
		// Callers speak HTTP/1.1: what offers more would be talked to in a tongue that is not spoken here.
		g.cfg.TLS = cfg.TLS.Clone()
		g.cfg.TLS.NextProtos = []string{"http/1.1"}
	}
	g.journal = newJournal(cfg.Journal, g.writer.Boot(), cfg.Keys)
	g.pools = newPools(cfg.Roots, g.limits)
	g.stopping, g.stop = context.WithCancelCause(context.Background())
	g.silenced, g.silence = context.WithCancel(context.Background())
	g.draining, g.drained = context.WithCancel(context.Background())
	if err := cfg.Approvals.check(); err != nil {
		return nil, err
	}
	g.book = newBook(g, cfg.Approvals)
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
		ReduceMemoryUsage:             true,
		ReadBufferSize:                g.limits.Head + 1024,
		MaxRequestBodySize:            int(g.limits.Body),
		IdleTimeout:                   g.limits.IdleTime,
		Concurrency:                   g.limits.Connections + 16, // the door turns away before the server must
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

// When the time to drain is over, calls are cut. lastBytes later connections are closed on which a caller does not take
// what it is told, or has not said all. lastWords after the cut nobody waits for the log any more; and so long the writer
// has, after that, for its last entries.
const (
	lastBytes = time.Second
	lastWords = 5 * time.Second
)

// Run serves callers from ln until ctx ends. Then it takes no new connection, lets the calls under way finish within
// Limits.Drain, cuts the rest, writes its last entries and returns. ln is closed when Run returns. An error is a fault
// that only a restart can mend: the journal cannot be used, or the outcome of an append is unknown. In the mode open
// the latter does not end Run, for traffic goes first; nor does a quarantine in any.
func (g *Gateway) Run(ctx context.Context, ln net.Listener) error {
	defer ln.Close()
	if err := g.journal.open(); err != nil {
		return err
	}
	// The writer, the journal and the keys outlive the calls: they end when nothing can use them any more.
	pen, layDown := context.WithCancel(context.WithoutCancel(ctx))
	defer layDown()
	written, below := make(chan error, 1), make(chan struct{})
	go func() { written <- g.writer.Run(pen) }()
	go func() {
		defer close(below)
		var all sync.WaitGroup
		all.Go(func() { g.journal.run(pen) })
		all.Go(func() { g.fetchKeys(pen) })
		all.Go(func() { g.enforce(pen) })
		all.Go(func() { g.book.run(pen) })
		all.Go(func() {
			g.closeUnfinished(pen)
			g.book.follow(pen)
		})
		all.Wait()
	}()

	d := newDoor(ln, g.limits.Connections, g.limits.IdleTime, g.full)
	served := make(chan error, 1)
	go func() {
		var ln net.Listener = d
		if g.cfg.TLS != nil {
			ln = tls.NewListener(d, g.cfg.TLS)
		}
		served <- g.server.Serve(newStrictListener(ln, g.strict()))
	}()

	var fault error
	writing := written
	for fault == nil && ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case err := <-served:
			fault = fmt.Errorf("gateway: the listener failed: %w", cmp.Or(err, net.ErrClosed))
			served <- nil
		case err := <-writing:
			g.log.Error("the writer has stopped", "err", err)
			// In quarantine the gateway lives on, so that callers are told; a restart would find the same.
			if writing = nil; g.cfg.Mode != Open && !errors.Is(err, tlog.ErrQuarantine) {
				fault = err
			}
		}
	}

	fault = errors.Join(fault, g.drain(d, served, fault != nil))
	layDown()
	if writing != nil {
		fault = errors.Join(fault, g.lastEntries(writing))
	}
	if n := g.writer.Untold(); n > 0 {
		fault = errors.Join(fault, fmt.Errorf("gateway: %d sessions passed unrecorded and no gap entry tells of them", n))
	}
	select {
	case <-below:
	case <-time.After(g.cfg.lastWords): // whoever keeps the keys does not come back
	}
	return errors.Join(fault, g.journal.close())
}

// drain ends serving: no new connections, then the calls under way, then, when their time is over, the rest of them.
func (g *Gateway) drain(d *door, served chan error, now bool) error {
	limit := g.limits.Drain
	if now {
		limit = 0
	}
	g.drained()
	g.log.Info("draining", "calls", g.active.Load(), "limit", limit)
	cut := time.AfterFunc(limit, func() { g.stop(errStopping) })
	defer cut.Stop()
	out := time.AfterFunc(limit+lastBytes, d.closeAll)
	defer out.Stop()
	mute := time.AfterFunc(limit+g.cfg.lastWords, g.silence)
	defer mute.Stop()
	d.Close()
	d.closeSilent()
	<-served // nobody is let in any more
	err := g.server.Shutdown()
	g.late.Wait()
	g.stop(errStopping)
	g.silence()
	g.pools.close()
	if err != nil && !errors.Is(err, net.ErrClosed) {
		return fmt.Errorf("gateway: shut down: %w", err)
	}
	return nil
}

// lastEntries waits for the writer to end, but not for ever.
func (g *Gateway) lastEntries(written chan error) error {
	select {
	case err := <-written:
		return err
	case <-time.After(g.cfg.lastWords):
		return fmt.Errorf("gateway: the log did not take the last entries in %v", g.cfg.lastWords)
	}
}

// full answers who is turned away at the door. It waits for nobody.
func (g *Gateway) full(conn net.Conn) {
	g.turnedAway("too_many_connections")
	if g.cfg.TLS == nil {
		body := (&refusal{http.StatusServiceUnavailable, "too_many_connections", "the gateway has as many connections as it may; close some, or try again"}).body(record.ID{})
		conn.SetWriteDeadline(time.Now().Add(time.Millisecond)) // a buffer that is empty takes it at once
		fmt.Fprintf(conn, "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nContent-Length: %d\r\nRetry-After: 1\r\nConnection: close\r\n\r\n%s", len(body), body)
	}
	conn.Close()
}

// A dataKey is a session's key and its name.
type dataKey struct {
	name string
	key  []byte
}

const (
	spareKeys = 64                     // how many keys are fetched ahead in the mode open
	keyWait   = 100 * time.Millisecond // how long a call waits for one there
)

var errNoKey = errors.New("no data key came in time")

// newKey gives a session its key. In the mode open it is one that was fetched ahead, or none: no call waits for the disk
// on which keys lie.
func (g *Gateway) newKey(ctx context.Context) (string, []byte, error) {
	if g.cfg.Mode != Open {
		return g.cfg.Keys.New(ctx)
	}
	select {
	case k := <-g.spare:
		return k.name, k.key, nil
	default:
	}
	select {
	case k := <-g.spare:
		return k.name, k.key, nil
	case <-time.After(keyWait):
		return "", nil, errNoKey
	}
}

// fetchKeys fetches keys ahead until ctx ends, in the mode open.
func (g *Gateway) fetchKeys(ctx context.Context) {
	if g.cfg.Mode != Open {
		return
	}
	for ctx.Err() == nil {
		var k dataKey
		var err error
		if k.name, k.key, err = g.cfg.Keys.New(ctx); err != nil {
			g.log.Error("no data key", "err", err)
			select {
			case <-time.After(keyWait):
			case <-ctx.Done():
			}
			continue
		}
		select {
		case g.spare <- k:
		case <-ctx.Done():
		}
	}
}

// strict says what the strict reading of requests goes by.
func (g *Gateway) strict() strictConfig {
	return strictConfig{
		MaxHead: g.limits.Head, MaxBody: g.limits.Body, Hosts: g.cfg.Hosts,
		HeadTimeout: g.limits.HeadTime, BodyTimeout: g.limits.BodyTime,
		From: g.meet,
		Refusal: func(status int, code, message string) []byte {
			return (&refusal{status, code, message}).body(record.ID{})
		},
		OnRefuse: func(_ net.Addr, _ int, code string) { g.turnedAway(code) },
	}
}
