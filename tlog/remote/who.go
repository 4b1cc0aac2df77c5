package remote

import (
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// A Client is somebody who may do more than read what is public, and how he shows who he is: any one of his
// credentials is enough. A credential belongs to one client.
type Client struct {
	// Name is for the server's log.
	Name string
	// Tokens are the SHA-256 digests, in hex, of bearer tokens. A token should hold 128 random bits or more.
	Tokens []string
	// Keys are the SHA-256 digests, in hex, of the SubjectPublicKeyInfo of client certificates. Whoever holds the
	// private key is the client, whoever signed the certificate and whatever dates are in it: to end that, take the
	// digest away.
	Keys []string
	// Names are DNS names or URIs, compared letter by letter with the subject alternative names of a client certificate
	// that leads to ServerConfig.Roots.
	Names []string

	// Writers are the ids under which the client may append.
	Writers []string
	// Payloads says that the client may read payloads, Discard that it may discard them.
	Payloads, Discard bool
}

// who knows the clients.
type who struct {
	tokens  []token
	keys    map[[sha256.Size]byte]*Client
	names   map[string]*Client
	roots   *x509.CertPool
	trusted trusted
}

type token struct {
	sum    [sha256.Size]byte
	client *Client
}

func newWho(clients []Client, roots *x509.CertPool) (*who, error) {
	w := &who{keys: make(map[[sha256.Size]byte]*Client), names: make(map[string]*Client), roots: roots}
	named := make(map[string]bool)
	for i := range clients {
		c := &clients[i]
		switch {
		case c.Name == "" || clean([]byte(c.Name)) != c.Name:
			return nil, fmt.Errorf("tlog/remote: client %d has no name that can be printed", i+1)
		case named[c.Name]:
			return nil, fmt.Errorf("tlog/remote: two clients are called %q", c.Name)
		case len(c.Tokens)+len(c.Keys)+len(c.Names) == 0:
			return nil, fmt.Errorf("tlog/remote: the client %q has no credential", c.Name)
		case len(c.Names) > 0 && roots == nil:
			return nil, fmt.Errorf("tlog/remote: the client %q is known by the name in its certificate, and no authority is trusted to give names", c.Name)
		}
		named[c.Name] = true
		for _, writer := range c.Writers {
			if err := checkWriter(writer); err != nil {
				return nil, fmt.Errorf("client %q: %w", c.Name, err)
			}
		}
		for _, text := range c.Tokens {
			sum, err := parseDigest(text)
			if err != nil {
				return nil, fmt.Errorf("a token of the client %q: %w", c.Name, err)
			}
			if slices.ContainsFunc(w.tokens, func(t token) bool { return t.sum == sum }) {
				return nil, fmt.Errorf("tlog/remote: a token of the client %q is given twice", c.Name)
			}
			w.tokens = append(w.tokens, token{sum, c})
		}
		for _, text := range c.Keys {
			sum, err := parseDigest(text)
			if err != nil {
				return nil, fmt.Errorf("a key of the client %q: %w", c.Name, err)
			}
			if w.keys[sum] != nil {
				return nil, fmt.Errorf("tlog/remote: a key of the client %q is given twice", c.Name)
			}
			w.keys[sum] = c
		}
		for _, name := range c.Names {
			if name == "" || w.names[name] != nil {
				return nil, fmt.Errorf("tlog/remote: the name %.100q of the client %q is empty or given twice", name, c.Name)
			}
			w.names[name] = c
		}
	}
	return w, nil
}

func parseDigest(text string) (sum [sha256.Size]byte, err error) {
	b, err := hex.DecodeString(text)
	if err != nil || len(b) != len(sum) {
		return sum, errors.New("tlog/remote: a SHA-256 digest is 64 digits of hexadecimal")
	}
	return [sha256.Size]byte(b), nil
}

// checkWriter says whether a writer can have that id. The rule is that of package record, so that an id needs no escape in
// a path.
func checkWriter(id string) error {
	ok := id != "" && len(id) <= 64
	for i := range len(id) {
		c := id[i]
		ok = ok && ('a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '-' || c == '.')
	}
	if !ok {
		return fmt.Errorf("tlog/remote: a writer's id is 1 to 64 of a-z, 0-9, '-', '.', not %.80q", id)
	}
	return nil
}

// ask returns who makes a request, or nil. A token that is not known is not made good by a certificate.
func (w *who) ask(r *http.Request) *Client {
	if fields := r.Header.Values("Authorization"); len(fields) > 0 {
		scheme, value, ok := strings.Cut(fields[0], " ")
		if len(fields) > 1 || !ok || !strings.EqualFold(scheme, "Bearer") {
			return nil
		}
		return w.byToken(value)
	}
	if r.TLS != nil && len(r.TLS.PeerCertificates) > 0 {
		return w.byCertificate(r.TLS)
	}
	return nil
}

// byToken compares with every token, so that the time it takes tells nothing of which one was near.
func (w *who) byToken(value string) *Client {
	sum := sha256.Sum256([]byte(value))
	var found *Client
	for i := range w.tokens {
		if subtle.ConstantTimeCompare(sum[:], w.tokens[i].sum[:]) == 1 {
			found = w.tokens[i].client
		}
	}
	return found
}

// byCertificate believes that the peer holds the certificate's key: the handshake saw to that, and to nothing else.
func (w *who) byCertificate(state *tls.ConnectionState) *Client {
	cert := state.PeerCertificates[0]
	if c := w.keys[sha256.Sum256(cert.RawSubjectPublicKeyInfo)]; c != nil {
		return c
	}
	if len(w.names) == 0 {
		return nil
	}
	var c *Client
	for _, name := range cert.DNSNames {
		if c == nil {
			c = w.names[name]
		}
	}
	for _, uri := range cert.URIs {
		if c == nil {
			c = w.names[uri.String()]
		}
	}
	if c == nil || !w.trusted.leads(cert, state.PeerCertificates[1:], w.roots) {
		return nil
	}
	return c
}

// trusted remembers which certificates led to the roots, and when they last did: every request asks, and a chain takes
// longer to verify than a small append takes in all.
type trusted struct {
	mu    sync.Mutex
	certs map[[sha256.Size]byte]time.Time
}

const (
	maxTrusted = 1024      // so many are remembered
	trustedFor = time.Hour // and for so long
)

func (t *trusted) leads(cert *x509.Certificate, between []*x509.Certificate, roots *x509.CertPool) bool {
	now := time.Now()
	if now.Before(cert.NotBefore) || now.After(cert.NotAfter) {
		return false
	}
	id := sha256.Sum256(cert.Raw)
	t.mu.Lock()
	led, known := t.certs[id]
	t.mu.Unlock()
	if known && now.Sub(led) < trustedFor {
		return true
	}
	pool := x509.NewCertPool()
	for _, c := range between {
		pool.AddCert(c)
	}
	_, err := cert.Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: pool, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	if err != nil {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.certs == nil || len(t.certs) >= maxTrusted {
		t.certs = make(map[[sha256.Size]byte]time.Time)
	}
	t.certs[id] = now
	return true
}
