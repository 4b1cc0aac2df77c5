package remote

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/tiles"
)

// A Secret is a value that is shown only where it is used.
type Secret interface{ Reveal() []byte }

// Config says where the log is, which log it is to be, and who we are. URL, Origin and Writer are needed, and a
// credential: Token, or a client certificate in TLS. The rest has defaults.
type Config struct {
	// URL is where the log's public paths begin: https://host:port, with a prefix where the server has one. http:// is
	// for a host that is the loopback.
	URL string
	// Origin is the log's name. Nothing is appended to another log.
	Origin string
	// Writer is the id under which Append appends: of one process at a time, for a second one fences the first.
	Writer string
	// Token is a bearer token. It is asked for at every request, so it may change.
	Token Secret
	// TLS holds the authorities that the server's certificate may come from, if not the system's, and the client's own
	// certificate. A copy is used that speaks TLS 1.2 or later.
	TLS *tls.Config

	// MaxLeaves and MaxBytes bound what waits or is on its way: 16,384 leaves and 64 MiB by default. What comes beyond
	// is answered tlog.ErrBusy at once, but a call larger than the bounds is let in when there is no other.
	MaxLeaves int
	MaxBytes  int
	// Stall is how long the server may keep an exchange waiting before it is given up and asked again, by default 30 s;
	// a body may take a second longer for every 64 KiB.
	Stall time.Duration
	// Grace is how long Run waits at its end for what is on its way, by default 5 s.
	Grace time.Duration
	// Logger is told what an operator should know, by default nobody. No credential reaches it.
	Logger *slog.Logger
}

// A Log is a log in another process. What it reads is public, but for payloads, which are found by digest, and the tail; see
// package tiles for Checkpoint, Tile, Sizes and CheckpointAt. Its methods are safe for concurrent use. Appends wait for Run, which is called
// once; reads do not.
type Log struct {
	*tiles.URL
	cfg       Config
	base      string // without a slash at its end
	transport *http.Transport
	queue     queue
	ran       atomic.Bool
	acked     atomic.Uint64 // above every index that was acknowledged to us

	leases, sought, found atomic.Uint64 // see Stats

	// Run's own.
	asked    epoch     // for the last lease; its boot is this Log's
	lease    grant     // the newest; its epoch is zero before the first
	leased   bool      // it can be used
	heard    time.Time // when the server last told the size or an index
	failures int       // since then
	air      map[*batch]bool
	open     []*batch // whose outcome is open
	landed   chan *batch
}

var (
	_ tlog.Log     = (*Log)(nil)
	_ tlog.History = (*Log)(nil)
)

// New returns the log at an address. It connects to nothing.
func New(c Config) (*Log, error) {
	u, err := url.Parse(c.URL)
	if err != nil {
		return nil, errors.New("tlog/remote: the log's URL cannot be read") // it may hold a password, which is not to be shown
	}
	if u.Scheme == "http" && !loopback(u.Hostname()) {
		return nil, fmt.Errorf("tlog/remote: %s would show what is sent to the network; name the log https://", u.Redacted())
	}
	if err := tlog.CheckOrigin(c.Origin); err != nil {
		return nil, err
	}
	if err := checkWriter(c.Writer); err != nil {
		return nil, err
	}
	if c.Token == nil && (c.TLS == nil || len(c.TLS.Certificates) == 0 && c.TLS.GetClientCertificate == nil) {
		return nil, errors.New("tlog/remote: neither a token nor a client certificate: the log would not know who we are")
	}
	or(&c.MaxLeaves, 16384)
	or(&c.MaxBytes, 64<<20)
	or(&c.Stall, 30*time.Second)
	or(&c.Grace, 5*time.Second)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	l := &Log{cfg: c, base: strings.TrimRight(u.String(), "/"), air: make(map[*batch]bool), landed: make(chan *batch)}
	rand.Read(l.asked.boot[:])
	l.queue.init(c.MaxLeaves, c.MaxBytes)
	l.transport = &http.Transport{
		// HTTP/1.1: a connection of its own for each body on its way is faster here than one for all.
		DialContext:            (&net.Dialer{Timeout: min(c.Stall, 10*time.Second)}).DialContext,
		TLSHandshakeTimeout:    min(c.Stall, 10*time.Second),
		ResponseHeaderTimeout:  c.Stall,
		ExpectContinueTimeout:  time.Second,
		MaxResponseHeaderBytes: maxHead,
		MaxIdleConnsPerHost:    64,
		IdleConnTimeout:        30 * time.Second, // before others' time is over: a connection that is closed under a request costs a lease
		DisableCompression:     true,
		WriteBufferSize:        64 << 10,
	}
	if c.TLS != nil {
		l.transport.TLSClientConfig = c.TLS.Clone()
	} else {
		l.transport.TLSClientConfig = new(tls.Config)
	}
	l.transport.TLSClientConfig.MinVersion = max(l.transport.TLSClientConfig.MinVersion, tls.VersionTLS12)
	l.transport.TLSClientConfig.NextProtos = []string{"http/1.1"}
	l.URL, err = tiles.FromURL(l.base, &http.Client{Transport: l.transport, Timeout: c.Stall + transfer(publicBytes)}, tiles.Limits{Bundle: publicBytes})
	return l, err
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// Stats is a snapshot of what the client did, and what it has to do.
type Stats struct {
	Waiting      int // leaves whose outcome is not known yet
	WaitingBytes int
	Leases       uint64 // asked for
	Searches     uint64 // for leaves whose outcome was open
	Found        uint64 // bodies that a search found
}

// Stats returns where the client stands.
func (l *Log) Stats() Stats {
	l.queue.mu.Lock()
	defer l.queue.mu.Unlock()
	return Stats{l.queue.all.leaves, l.queue.all.bytes, l.leases.Load(), l.sought.Load(), l.found.Load()}
}

// Close releases idle connections. Run must have returned, or never have been called.
func (l *Log) Close() error {
	l.queue.close(tlog.ErrClosed)
	l.transport.CloseIdleConnections()
	return nil
}

// request makes a request of ours. Whatever context it has must end.
func (l *Log) request(ctx context.Context, method, path string, body io.ReadCloser, length int64) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, method, l.base+path, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("User-Agent", "tallystick (+https://github.com/tallystick/tallystick)")
	if l.cfg.Token != nil {
		token := string(l.cfg.Token.Reveal())
		if token == "" || strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }) {
			return nil, fmt.Errorf("%w: our token is empty, or has characters that no token has", ErrDenied)
		}
		req.Header.Set("Authorization", "Bearer "+token)
	}
	if body != nil {
		req.Body, req.ContentLength = body, length
	}
	return req, nil
}

// exchange sends a request and reads an answer of at most limit bytes. An error that is no *answered says nothing of what
// the server did. No redirect is followed.
func (l *Log) exchange(req *http.Request, limit int64) ([]byte, error) {
	resp, err := l.transport.RoundTrip(req)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", req.Method, req.URL.Redacted(), err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		limit = maxAnswer
	}
	if resp.ContentLength > limit {
		return nil, fmt.Errorf("%s %s: status %d with %d bytes, over the limit of %d", req.Method, req.URL.Redacted(), resp.StatusCode, resp.ContentLength, limit)
	}
	body, err := readAll(resp.Body, resp.ContentLength, limit)
	if err != nil {
		return nil, fmt.Errorf("%s %s: after %d bytes of the answer: %w", req.Method, req.URL.Redacted(), len(body), err)
	}
	if resp.StatusCode != http.StatusOK {
		if err := readVerdict(resp.StatusCode, resp.Header, body); err != nil {
			return nil, err
		}
		return nil, &strange{fmt.Sprintf("%s %s: status %d, not from a log: %q", req.Method, req.URL.Redacted(), resp.StatusCode, clean(body[:min(len(body), 100)])), resp.StatusCode}
	}
	return body, nil
}

// A strange answer is one that no server of ours gives.
type strange struct {
	words  string
	status int
}

func (e *strange) Error() string { return e.words }

// readAll reads an answer whose length may be known, or -1.
func readAll(r io.Reader, length, limit int64) ([]byte, error) {
	if length >= 0 {
		b := make([]byte, length)
		n, err := io.ReadFull(r, b)
		return b[:n], err
	}
	b, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("it is longer than %d bytes", limit)
	}
	return b, err
}

// Payload implements [tlog.Payloads]. The client must be allowed to read payloads. What comes is hashed before it is
// returned.
func (l *Log) Payload(ctx context.Context, sum tlog.Hash) ([]byte, error) {
	data, err := l.short(ctx, http.MethodGet, payloadPath(sum), tlog.MaxPayload)
	if err == nil && sha256.Sum256(data) != sum {
		return nil, fmt.Errorf("tlog/remote: the log serves another payload than %s", sum)
	}
	return data, err
}

// Discard implements [tlog.Payloads]. The client must be allowed to discard payloads. After an error the payload may be
// there or not; discard it again.
func (l *Log) Discard(ctx context.Context, sum tlog.Hash) error {
	_, err := l.short(ctx, http.MethodDelete, payloadPath(sum), maxAnswer)
	return err
}

// Tail implements [tlog.Tailer]. It waits no longer than half of Config.Stall, and 20 s. Whether what comes is the log's, its
// next checkpoints tell: it is what the server says.
func (l *Log) Tail(ctx context.Context, from uint64, wait time.Duration) ([][]byte, error) {
	data, err := l.short(ctx, http.MethodGet, tailPath(from, min(wait, l.cfg.Stall/2)), maxTail)
	if err != nil {
		return nil, err
	}
	return parseTail(data)
}

// short makes a request without a body, once.
func (l *Log) short(ctx context.Context, method, path string, limit int64) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, l.cfg.Stall+transfer(limit))
	defer cancel()
	req, err := l.request(ctx, method, path, nil, 0)
	if err != nil {
		return nil, err
	}
	return l.exchange(req, limit)
}

// takeLease asks for a lease.
func (l *Log) takeLease(ctx context.Context) (grant, error) {
	ctx, cancel := context.WithTimeout(ctx, l.cfg.Stall)
	defer cancel()
	req, err := l.request(ctx, http.MethodPost, pathLease+l.cfg.Writer, nil, 0)
	if err != nil {
		return grant{}, err
	}
	l.asked.n++
	req.Header.Set(headEpoch, l.asked.String())
	body, err := l.exchange(req, maxAnswer)
	if err != nil {
		return grant{}, err
	}
	g, err := parseGrant(body)
	if err == nil && g.epoch != l.asked {
		err = fmt.Errorf("it is %s, which nobody asked for", g.epoch)
	}
	if err != nil {
		return grant{}, &strange{fmt.Sprintf("%s: %v", req.URL.Redacted(), err), http.StatusOK}
	}
	return g, nil
}
