package remote

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/bits"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/tiles"
)

// An Engine is the log that a Server serves. It is run by somebody else, for longer than the Server is served.
type Engine interface {
	tlog.Appender
	tlog.Reader
	tlog.Tailer
	tlog.Payloads
	tlog.History
	// Size returns how many entries are durable, published or not. No entry that is durable before the call has a higher
	// index, those that an earlier process made durable included.
	Size() uint64
}

// A quarantined engine says so before anything is appended. What it answers is tlog.ErrQuarantine or nil.
type quarantined interface{ Quarantined() error }

// ServerConfig says which log is served to whom. Origin, Clients and Check are needed; the rest has defaults.
type ServerConfig struct {
	// Origin is the log's name. A client that wants another log's is told before it appends anything.
	Origin string
	// Clients are those who may append, and read and discard payloads, and who see what is not published yet. What is public
	// is read by everybody.
	Clients []Client
	// Roots are the authorities that may give clients the names in their certificates. Needed where a client has Names.
	Roots *x509.CertPool
	// Check says whether a writer may append an entry, and is asked about every one before any is appended: that it is an
	// entry, and states that it is by that writer. Its error is told to the client. Safe for concurrent use.
	Check func(writer string, entry []byte) error

	// TLS holds the server's certificate. nil is plain HTTP, for which Run takes only a listener on the loopback.
	// Run makes a copy that asks clients for certificates and speaks TLS 1.2 or later.
	TLS *tls.Config
	// MaxBytes bounds the bodies in memory, in bytes, by default 256 MiB. What comes beyond is answered tlog.ErrBusy, but a
	// body that is larger by itself is taken when there is no other.
	MaxBytes int64
	// Connections is how many may be open at a time, by default 4096. Others wait to be accepted.
	Connections int
	// Stall is how long a peer may keep an exchange waiting, by default 10 s; a body may take a second longer for every
	// 64 KiB.
	Stall time.Duration
	// Grace is how long Run waits at its end for what it has begun to answer, by default 10 s.
	Grace time.Duration
	// Logger is told what an operator should know, by default nobody. No credential reaches it.
	Logger *slog.Logger
}

const (
	// slowest is the rate, in bytes a second, below which a transfer is given up.
	slowest = 64 << 10
	// publicBytes is the size of the longest answer that is public: a bundle of the longest entries.
	publicBytes = tlog.TileWidth * (2 + tlog.MaxEntry)
)

// transfer is how long so many bytes may take.
func transfer(n int64) time.Duration { return time.Duration(n) * time.Second / slowest }

func or[T comparable](p *T, def T) {
	var zero T
	if *p == zero {
		*p = def
	}
}

// A Server is the log's end of the protocol: an http.Handler, safe for concurrent use, and with Run a whole HTTP server.
// It is for one opening of the engine; an engine that was opened again gets a new Server, and with it new leases.
type Server struct {
	engine  Engine
	cfg     ServerConfig
	who     *who
	reads   http.Handler
	broken  chan struct{}   // closed when stopped is set
	ending  context.Context // ends when Run begins to: nobody is kept waiting then
	end     func()
	buffers sync.Pool // of *[]byte, for bodies

	// mu guards what follows.
	mu      sync.Mutex
	leases  map[string]*lease // by writer
	inRoom  int64             // bytes of bodies in memory
	stopped error             // why nothing is appended any more: the outcome of an append is unknown
}

// A lease is who may append as one writer at the moment. Its fields are guarded by Server.mu.
type lease struct {
	epoch  epoch         // the newest
	past   [][8]byte     // the clients that it was taken from, the latest last
	flying int           // appends that the engine has not answered, of this epoch or of earlier ones
	landed chan struct{} // closed when none flies any more; nil when none does
}

// NewServer returns a server that nobody runs.
func NewServer(e Engine, c ServerConfig) (*Server, error) {
	if err := tlog.CheckOrigin(c.Origin); err != nil {
		return nil, err
	}
	if c.Check == nil {
		return nil, errors.New("tlog/remote: nothing checks what clients append")
	}
	w, err := newWho(c.Clients, c.Roots)
	if err != nil {
		return nil, err
	}
	or(&c.MaxBytes, 256<<20)
	or(&c.Connections, 4096)
	or(&c.Stall, 10*time.Second)
	or(&c.Grace, 10*time.Second)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	ending, end := context.WithCancel(context.Background())
	s := &Server{
		engine: e, cfg: c, who: w, reads: tiles.Handler(e, tiles.Options{Log: c.Logger}),
		broken: make(chan struct{}), ending: ending, end: end, leases: make(map[string]*lease),
	}
	return s, nil
}

// ServeHTTP answers one request; see the package's table.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.ContentLength != 0 {
		// Nobody waits longer for a body that is not asked for.
		http.NewResponseController(w).SetReadDeadline(time.Now().Add(s.cfg.Stall))
	}
	path := r.URL.Path
	if !forClients(path) {
		s.patience(w, publicBytes)
		s.reads.ServeHTTP(w, r)
		return
	}
	var body []byte
	c, err := s.who.ask(r), error(nil)
	if c == nil {
		err = errUnknownClient
	} else {
		body, err = s.do(c, w, r)
	}
	if err == nil {
		kind := typeText
		if strings.HasPrefix(path, pathPayload) || strings.HasPrefix(path, pathTail) {
			kind = typeBytes
		}
		s.answer(w, http.StatusOK, kind, body)
		return
	}
	name := "" // of nobody
	if c != nil {
		name = c.Name
		if !errors.Is(err, errCut) {
			s.drain(w, r)
		}
	}
	if r.Context().Err() == nil {
		level := slog.LevelDebug
		if errors.Is(err, ErrFenced) || errors.Is(err, errFailed) {
			level = slog.LevelWarn
		}
		s.cfg.Logger.Log(r.Context(), level, "a client is refused", "client", name, "from", r.RemoteAddr, "method", r.Method, "path", path, "error", err)
	}
	s.refuse(w, err)
}

// do does what an identified client asks.
func (s *Server) do(c *Client, w http.ResponseWriter, r *http.Request) ([]byte, error) {
	u := r.URL
	index, tails := strings.CutPrefix(u.Path, pathTail)
	if u.RawPath != "" || u.RawQuery != "" && !tails || u.ForceQuery {
		return nil, tlog.ErrNotFound // here no path needs an escape, and but for one none has a query
	}
	if tails {
		return s.tail(r, index)
	}
	if sum, ok := strings.CutPrefix(u.Path, pathPayload); ok {
		return s.payload(c, r, sum)
	}
	writer, asks := strings.CutPrefix(u.Path, pathLease)
	if !asks {
		writer, _ = strings.CutPrefix(u.Path, pathAppend)
	}
	switch {
	case !c.writes(writer):
		return nil, fmt.Errorf("%w: the client %q may not append as this writer", ErrDenied, c.Name)
	case r.Method != http.MethodPost:
		return nil, fmt.Errorf("%w: leases and appends are asked for with POST", ErrRefused)
	case asks:
		return s.lease(r, writer, c)
	}
	return s.append(w, r, writer)
}

func (c *Client) writes(writer string) bool { return slices.Contains(c.Writers, writer) }

// lease makes the client that asks the only one to append as a writer. The order is the whole of its safety:
//
//  1. the new epoch stands     what comes under an older one is refused from here on
//  2. what flies has landed    so of the older ones everything is in the log, or never will be
//  3. the size is read         all of it lies below
func (s *Server) lease(r *http.Request, writer string, c *Client) ([]byte, error) {
	e, err := parseEpoch(r.Header.Get(headEpoch))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRefused, err)
	}
	if q, ok := s.engine.(quarantined); ok {
		if err := q.Quarantined(); err != nil {
			return nil, err
		}
	}
	landed, err := s.begin(writer, e)
	if err != nil {
		return nil, err
	}
	if landed != nil {
		select {
		case <-landed:
		case <-r.Context().Done():
			return nil, errStale
		}
	}
	if err := s.current(writer, e); err != nil {
		return nil, err // it asked again, or another client did; or the engine's last answer leaves things open
	}
	g := grant{origin: s.cfg.Origin, epoch: e, size: s.engine.Size()}
	s.cfg.Logger.Info("lease", "writer", writer, "client", c.Name, "from", r.RemoteAddr, "size", g.size)
	return g.append(nil), nil
}

// maxPast is how many of those who lost a lease are known for it. More would have to be alive at once to go unknown.
const maxPast = 64

// begin makes an epoch the newest of its writer, and returns what is closed when all that flew then has landed; nil where
// nothing did. A request that was overtaken by a later one of the same client is stale; one by a client that the lease was
// taken from is fenced.
func (s *Server) begin(writer string, e epoch) (landed <-chan struct{}, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped != nil {
		return nil, s.stopped
	}
	l := s.leases[writer]
	if l == nil {
		l = &lease{epoch: epoch{boot: e.boot}}
		s.leases[writer] = l
	}
	switch {
	case l.epoch.boot == e.boot:
		if e.n <= l.epoch.n {
			return nil, errStale
		}
	case slices.Contains(l.past, e.boot):
		return nil, ErrFenced
	default:
		l.past = append(l.past, l.epoch.boot)
		l.past = l.past[max(0, len(l.past)-maxPast):]
	}
	l.epoch = e
	return l.landed, nil
}

// current says whether an epoch is the newest of its writer.
func (s *Server) current(writer string, e epoch) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.currentLocked(writer, e)
}

func (s *Server) currentLocked(writer string, e epoch) error {
	l := s.leases[writer]
	switch {
	case s.stopped != nil:
		return s.stopped
	case l == nil:
		return fmt.Errorf("%w: this server has given none", errStale)
	case e != l.epoch:
		return errStale
	}
	return nil
}

// append appends one body. Once the engine has the leaves it waits for the outcome, whether the client does or not.
func (s *Server) append(w http.ResponseWriter, r *http.Request, writer string) ([]byte, error) {
	n := r.ContentLength
	switch {
	case r.Header.Get("Content-Type") != typeLeaves || r.Header.Get("Content-Encoding") != "":
		return nil, fmt.Errorf("%w: the body is to be %s, not encoded", ErrRefused, typeLeaves)
	case n < 0:
		return nil, fmt.Errorf("%w: the length of the body is to be stated", ErrRefused)
	case n > maxBody:
		return nil, fmt.Errorf("a body of %d bytes, over the limit of %d: %w", n, maxBody, tlog.ErrTooLarge)
	}
	e, err := parseEpoch(r.Header.Get(headEpoch))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRefused, err)
	}
	if err := s.current(writer, e); err != nil {
		return nil, err // before the body is sent, where it is long
	}
	if !s.takeRoom(n) {
		return nil, fmt.Errorf("%d bytes are on their way: %w", s.cfg.MaxBytes, tlog.ErrBusy)
	}
	defer s.giveRoom(n)
	buf := s.buffer(int(n))
	body := (*buf)[:n]
	if err := s.read(w, r, body); err != nil {
		return nil, err
	}
	leaves, err := parseLeaves(body)
	if err != nil {
		return nil, err
	}
	for i, leaf := range leaves {
		if err := s.cfg.Check(writer, leaf.Entry); err != nil {
			return nil, fmt.Errorf("%w: entry %d: %w", ErrRefused, i, err)
		}
	}
	first, err := s.enter(context.WithoutCancel(r.Context()), writer, e, leaves)
	if err != nil {
		return nil, err
	}
	if n <= drainBytes {
		s.buffers.Put(buf) // and after a failure not, for the engine may still hold it
	}
	return append(strconv.AppendUint(nil, first, 10), '\n'), nil
}

// buffer returns a buffer of at least n bytes. Long ones are made as they are needed and not kept.
func (s *Server) buffer(n int) *[]byte {
	if b, ok := s.buffers.Get().(*[]byte); ok && cap(*b) >= n {
		return b
	}
	b := make([]byte, n)
	if n <= drainBytes {
		b = make([]byte, max(64<<10, 1<<bits.Len(uint(n-1))))
	}
	return &b
}

// read fills body, which has the length that was stated.
func (s *Server) read(w http.ResponseWriter, r *http.Request, body []byte) error {
	rc := http.NewResponseController(w)
	rc.SetReadDeadline(time.Now().Add(s.cfg.Stall + transfer(int64(len(body))))) // where this cannot be done, the server sees to it
	if n, err := io.ReadFull(r.Body, body); err != nil {
		return fmt.Errorf("%w: it ends, or stops, after %d of %d bytes", errCut, n, len(body))
	}
	rc.SetReadDeadline(time.Time{})
	return nil
}

// enter hands leaves to the engine, if the epoch is still the newest then.
func (s *Server) enter(ctx context.Context, writer string, e epoch, leaves []tlog.Leaf) (first uint64, err error) {
	s.mu.Lock()
	if err := s.currentLocked(writer, e); err != nil {
		s.mu.Unlock()
		return 0, err
	}
	l := s.leases[writer]
	if l.flying++; l.flying == 1 {
		l.landed = make(chan struct{})
	}
	s.mu.Unlock()
	err = errors.New("the engine did not return") // where it panics
	defer func() { err = s.leave(l, err) }()
	var indices []uint64
	if indices, err = s.engine.Append(ctx, leaves...); err != nil {
		return 0, err
	}
	if len(indices) != len(leaves) {
		return 0, fmt.Errorf("the engine gave %d indices for %d leaves", len(indices), len(leaves))
	}
	for i, index := range indices {
		if index != indices[0]+uint64(i) {
			return 0, fmt.Errorf("the engine gave the indices %d", indices)
		}
	}
	return indices[0], nil
}

// leave notes what the engine answered, and returns what to tell. Where the answer leaves the outcome open, nothing more
// is appended and no lease is given: what a lease would say of earlier appends could become untrue when the engine is
// opened again.
func (s *Server) leave(l *lease, err error) error {
	if err != nil && !nothingAppended(err) && !errors.Is(err, tlog.ErrQuarantine) && !errors.Is(err, tlog.ErrClosed) && !errors.Is(err, tlog.ErrHalted) {
		err = fmt.Errorf("%w: %w", tlog.ErrHalted, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil && !nothingAppended(err) && s.stopped == nil {
		s.stopped = err
		close(s.broken)
		s.cfg.Logger.Error("nothing is appended any more", "error", err)
	}
	if l.flying--; l.flying == 0 {
		close(l.landed)
		l.landed = nil
	}
	return err
}

// nothingAppended says whether an Appender's error means just that.
func nothingAppended(err error) bool {
	if errors.Is(err, tlog.ErrHalted) || errors.Is(err, tlog.ErrQuarantine) {
		return false // for whatever reason
	}
	return errors.Is(err, tlog.ErrBusy) || errors.Is(err, tlog.ErrFull) || errors.Is(err, tlog.ErrTooLarge)
}

// tail shows what is durable to any client, and waits for it where that is asked for and until Run ends.
func (s *Server) tail(r *http.Request, index string) ([]byte, error) {
	from, wait, ok := parseTailPath(index, r.URL.RawQuery)
	switch {
	case !ok:
		return nil, tlog.ErrNotFound
	case r.Method != http.MethodGet:
		return nil, fmt.Errorf("%w: a tail is read with GET", ErrRefused)
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	defer context.AfterFunc(s.ending, cancel)()
	entries, err := s.engine.Tail(ctx, from, wait)
	if err != nil && (s.ending.Err() == nil || r.Context().Err() != nil) {
		return nil, failed(err)
	}
	var body []byte
	for _, e := range entries {
		body = tlog.AppendBundleEntry(body, e)
	}
	return body, nil
}

func (s *Server) payload(c *Client, r *http.Request, name string) ([]byte, error) {
	may := c.Payloads
	if r.Method == http.MethodDelete {
		may = c.Discard
	}
	if !may {
		return nil, fmt.Errorf("%w: the client %q may not do this with payloads", ErrDenied, c.Name)
	}
	sum, ok := parseSum(name)
	if !ok {
		return nil, tlog.ErrNotFound
	}
	switch r.Method {
	case http.MethodGet:
		data, err := s.engine.Payload(r.Context(), sum)
		return data, failed(err)
	case http.MethodDelete:
		return nil, failed(s.engine.Discard(r.Context(), sum))
	}
	return nil, fmt.Errorf("%w: payloads are read with GET and discarded with DELETE", ErrRefused)
}

// failed marks an engine's error that says nothing of what to do next.
func failed(err error) error {
	if err == nil || verdictOf(err).err != errFailed {
		return err
	}
	return fmt.Errorf("%w: %w", errFailed, err)
}

// answer writes an answer whole.
func (s *Server) answer(w http.ResponseWriter, status int, kind string, body []byte) {
	s.patience(w, int64(len(body)))
	head := w.Header()
	head.Set("Content-Type", kind)
	head.Set("Cache-Control", "no-store")
	head.Set("X-Content-Type-Options", "nosniff")
	head.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	w.Write(body) // who does not take it asks again
}

// refuse answers with the verdict on an error. To who is nobody it says nothing else.
func (s *Server) refuse(w http.ResponseWriter, err error) {
	v := verdictOf(err)
	words := err.Error()
	switch v.status {
	case http.StatusInternalServerError:
		words = errFailed.Error() // the cause is for the operator
	case http.StatusUnauthorized:
		w.Header().Set("WWW-Authenticate", "Bearer")
	case http.StatusServiceUnavailable:
		w.Header().Set("Retry-After", "1")
	}
	w.Header().Set(headVerdict, v.word)
	s.answer(w, v.status, typeText, append([]byte(words), '\n'))
}

// patience bounds how long the peer may take to take an answer of n bytes. It is set before every answer, for a connection
// keeps it.
func (s *Server) patience(w http.ResponseWriter, n int64) {
	http.NewResponseController(w).SetWriteDeadline(time.Now().Add(s.cfg.Stall + transfer(n)))
}

// drain reads the rest of a refused body that was sent anyway, if it is short: who is still sending does not see an answer.
func (s *Server) drain(w http.ResponseWriter, r *http.Request) {
	if r.ContentLength == 0 || r.ContentLength > drainBytes || r.Header.Get("Expect") != "" {
		return
	}
	http.NewResponseController(w).SetReadDeadline(time.Now().Add(s.cfg.Stall))
	io.CopyN(io.Discard, r.Body, drainBytes)
}

func (s *Server) takeRoom(n int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.inRoom > 0 && s.inRoom+n > s.cfg.MaxBytes {
		return false
	}
	s.inRoom += n
	return true
}

func (s *Server) giveRoom(n int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.inRoom -= n
}
