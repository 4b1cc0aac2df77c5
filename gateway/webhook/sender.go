package webhook

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	mrand "math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/tallystick/tallystick/gateway"
)

const (
	queued     = 256              // messages that wait for one address
	maxTries   = 8                // of one message: in about two minutes
	firstPause = time.Second      // before the second try, and twice as long before each further one,
	longest    = time.Minute      // but never longer, whatever the other side asks for
	tryTime    = 10 * time.Second // for one try
	lastTime   = 5 * time.Second  // for what waits when Run is to end: one try each
	maxRead    = 64 << 10         // bytes of an answer that are read, so that the connection can be used again
)

// A Target is an address that is told.
type Target struct {
	// URL is https, or http to this very machine. It may be a secret, as Slack's is, and is shown nowhere but for its host.
	URL     string
	Kind    Kind
	Secret  gateway.Secret // of kind JSON: "whsec_" and the base64 of 24 to 64 bytes; of Slack: nil
	Buttons bool           // of kind Slack: Approve and Deny, for a Reader of the same kind
	Roots   *x509.CertPool // of the address's certificate; nil for the system's
}

// A SenderConfig is what a Sender is made of.
type SenderConfig struct {
	Targets []Target
	Logger  *slog.Logger // nil for none
}

// A Sender tells addresses what happens to questions. Make one with NewSender and Run it once. Safe for concurrent use.
type Sender struct {
	lines []*line
	lost  atomic.Uint64
}

// NewSender checks where to send. It sends nothing.
func NewSender(c SenderConfig) (*Sender, error) {
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Sender{}
	for i, t := range c.Targets {
		l, err := newLine(t, c.Logger, &s.lost)
		if err != nil {
			return nil, fmt.Errorf("webhook: address %d: %w", i+1, err)
		}
		s.lines = append(s.lines, l)
	}
	return s, nil
}

// Notify has a notice told to all addresses. It does not wait; what there is no room for is lost, and said.
func (s *Sender) Notify(n gateway.Notice) {
	for _, l := range s.lines {
		l.put(&n)
	}
}

// Lost is how many messages could not be delivered.
func (s *Sender) Lost() uint64 { return s.lost.Load() }

// Run sends until ctx ends. Then it tries once more what still waits, for at most five seconds, and returns nil.
func (s *Sender) Run(ctx context.Context) error {
	var all sync.WaitGroup
	for _, l := range s.lines {
		all.Go(func() { l.run(ctx) })
	}
	all.Wait()
	return nil
}

// A line is all there is of one address. What fails waits for its next try beside the others, so that a message which one
// address never takes does not keep those behind it.
type line struct {
	Target
	key    []byte // the secret's bytes
	host   string
	client *http.Client
	log    *slog.Logger
	lost   *atomic.Uint64
	wake   chan struct{} // holds a value when there is something new

	mu      sync.Mutex
	waiting []*message // in no order
}

// A message is one that waits.
type message struct {
	id    string
	event string
	about string
	body  []byte
	tries int
	next  time.Time
	until time.Time // when it is of no use any more
}

func newLine(t Target, log *slog.Logger, lost *atomic.Uint64) (*line, error) {
	u, err := url.Parse(t.URL)
	if err != nil || u.Hostname() == "" || u.Scheme != "http" && u.Scheme != "https" || u.User != nil {
		return nil, errors.New("its URL is none of a webhook, such as https://hooks.example/tally; what stands there is not repeated here")
	}
	if ip, err := netip.ParseAddr(u.Hostname()); u.Scheme == "http" && u.Hostname() != "localhost" && (err != nil || !ip.IsLoopback()) {
		return nil, fmt.Errorf("%s is spoken to in plain HTTP, and that is for this machine alone; use https", u.Host)
	}
	l := &line{Target: t, host: u.Host, log: log, lost: lost, wake: make(chan struct{}, 1)}
	switch {
	case t.Kind == JSON:
		if l.key, err = standardSecret(t.Secret); err != nil {
			return nil, err
		}
	case t.Kind != Slack:
		return nil, fmt.Errorf("no kind has the number %d", t.Kind)
	case t.Secret != nil:
		return nil, errors.New("messages to Slack are not signed, and it has a secret")
	}
	d := &net.Dialer{Timeout: tryTime, Control: notLinkLocal}
	l.client = &http.Client{
		Transport: &http.Transport{
			DialContext: d.DialContext, TLSClientConfig: &tls.Config{RootCAs: t.Roots, MinVersion: tls.VersionTLS12},
			TLSHandshakeTimeout: tryTime, MaxIdleConnsPerHost: 1, IdleConnTimeout: time.Minute, MaxResponseHeaderBytes: 16 << 10, ForceAttemptHTTP2: true,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Timeout:       tryTime,
	}
	return l, nil
}

// errLink says that an address is one of the link.
var errLink = errors.New("it resolves to an address of the link, which no webhook has")

// metadata is where one cloud keeps what others keep at addresses of the link.
var metadata = netip.MustParseAddr("fd00:ec2::254")

// notLinkLocal refuses a connection before its first packet.
func notLinkLocal(_, address string, _ syscall.RawConn) error {
	a, err := netip.ParseAddrPort(address)
	if err != nil {
		return err
	}
	ip := a.Addr().WithZone("").Unmap()
	if ip.IsLinkLocalUnicast() || ip.IsMulticast() || ip.IsUnspecified() || ip == metadata {
		return errLink
	}
	return nil
}

// put has a notice told, if there is room for it.
func (l *line) put(n *gateway.Notice) {
	now := time.Now()
	m := &message{event: n.Event, about: n.Approval.String(), next: now, until: n.Until}
	if n.Event != "asked" && n.Event != "agreed" {
		m.until = now.Add(time.Hour)
	}
	var id [16]byte
	rand.Read(id[:])
	m.id = "msg_" + base64.RawURLEncoding.EncodeToString(id[:])
	var err error
	if l.Kind == Slack {
		m.body, err = slackMessage(n, l.Buttons)
	} else {
		m.body, err = jsonMessage(n, now)
	}
	if err == nil {
		l.mu.Lock()
		if len(l.waiting) < queued {
			l.waiting = append(l.waiting, m)
		} else {
			err = fmt.Errorf("%d others wait", queued)
		}
		l.mu.Unlock()
	}
	if err != nil {
		l.lose(m, err)
		return
	}
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

func (l *line) lose(m *message, err error) {
	l.lost.Add(1)
	l.log.Error("nobody is told what happened to an approval", "host", l.host, "event", m.event, "approval", m.about, "tries", m.tries, "err", err)
}

// first takes out the message that is due first, or says when one is.
func (l *line) first(now time.Time) (m *message, next time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	at := -1
	for i, o := range l.waiting {
		if at < 0 || o.next.Before(l.waiting[at].next) {
			at = i
		}
	}
	if at < 0 {
		return nil, now.Add(time.Hour)
	}
	if m = l.waiting[at]; m.next.After(now) {
		return nil, m.next
	}
	l.waiting = append(l.waiting[:at], l.waiting[at+1:]...)
	return m, now
}

func (l *line) run(ctx context.Context) {
	defer l.client.CloseIdleConnections()
	for ctx.Err() == nil {
		m, next := l.first(time.Now())
		if m == nil {
			t := time.NewTimer(time.Until(next))
			select {
			case <-ctx.Done():
			case <-l.wake:
			case <-t.C:
			}
			t.Stop()
			continue
		}
		l.try(ctx, m)
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastTime)
	defer cancel()
	l.mu.Lock()
	rest := l.waiting
	l.waiting = nil
	l.mu.Unlock()
	for _, m := range rest {
		m.tries = maxTries - 1
		l.try(last, m)
	}
}

// try makes one try, and puts the message back if another may help.
func (l *line) try(ctx context.Context, m *message) {
	m.tries++
	wait, err := l.post(ctx, m)
	if err == nil {
		return
	}
	pause := min(firstPause<<(m.tries-1), longest)
	pause += mrand.N(pause/4 + 1) // not all at once
	m.next = time.Now().Add(max(pause, min(wait, longest)))
	if wait < 0 || m.tries >= maxTries || m.next.After(m.until) {
		l.lose(m, err)
		return
	}
	l.log.Warn("a message is tried again", "host", l.host, "event", m.event, "approval", m.about, "err", err)
	l.mu.Lock()
	l.waiting = append(l.waiting, m)
	l.mu.Unlock()
}

// post makes one try. wait is how long the other side wants to be left alone, and negative if another try cannot help.
func (l *line) post(ctx context.Context, m *message) (wait time.Duration, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, l.URL, bytes.NewReader(m.body))
	if err != nil {
		return -1, errors.New("the request cannot be made")
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "tallystick")
	if l.Kind == JSON {
		now := time.Now().Unix()
		req.Header.Set(HeaderID, m.id)
		req.Header.Set(HeaderTimestamp, strconv.FormatInt(now, 10))
		req.Header.Set(HeaderSignature, sign(l.key, m.id, now, m.body))
	}
	resp, err := l.client.Do(req)
	if err != nil {
		var u *url.Error
		if errors.As(err, &u) {
			err = u.Err // without the URL
		}
		if errors.Is(err, errLink) {
			return -1, err
		}
		return 0, err
	}
	defer resp.Body.Close()
	io.Copy(io.Discard, io.LimitReader(resp.Body, maxRead))
	switch s := resp.StatusCode; {
	case s >= 200 && s < 300:
		return 0, nil
	case s == http.StatusRequestTimeout, s == http.StatusTooManyRequests, s >= 500:
		if n, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil && n > 0 && n < 1<<20 {
			wait = time.Duration(n) * time.Second
		}
		return wait, fmt.Errorf("it answered %d", s)
	default:
		return -1, fmt.Errorf("it answered %d, which another try does not change", s)
	}
}
