// Package vault keeps keys in HashiCorp Vault: the key a log signs its checkpoints with, in a transit engine, which never
// gives it out ([Client.Signer]); the key that wraps the data keys of a ring, in another one ([KEK]); the anchor of a log,
// in a KV v2 engine with check-and-set ([Latest]); and credentials for other services ([Client.Secret]).
//
// A [Client] is one identity at one Vault. It logs in when it is first asked for something, and Run keeps it logged in.
// What is always true:
//
//   - no error, no log line and no way of printing anything here shows a token, a secret-id or a key;
//   - every request ends within Config.Timeout, and every call that has no context within twice that;
//   - nothing is tried twice here but for one fresh log-in after a 403. An error that is none of keys.ErrNotPinned,
//     keys.ErrGone, keys.ErrDenied, keys.ErrWrongKey and tlog.ErrConflict says that Vault could not be asked, or that its
//     answer made no sense: ask again;
//   - the end of a token is never silence: it is renewed at two thirds of its life, and where it cannot be, the
//     client logs in afresh, and says so in the log until it has;
//   - redirects are not followed, so that a token goes to no address but the configured one.
//
// What it does not do: defend a log against whoever administers Vault. A key that was changed is noticed, because each
// signature is verified with the pinned public key; an anchor that was deleted looks like none. Witnesses are for that.
//
// It is written for the API of Vault 1.14 and later, on the client of github.com/hashicorp/vault/api (MPL-2.0). The server
// that its tests run is a tool of the tests alone.
package vault

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/tallystick/tallystick/keys"
)

const (
	// DefaultTimeout is how long one request may take.
	DefaultTimeout = 3 * time.Second
	maxTimeout     = 60 * time.Second

	// maxAnswer is the largest answer that is read, in bytes. Checkpoints, keys and tokens are far smaller.
	maxAnswer = 1 << 20
)

// Config says which Vault, and as whom. [FromEnvironment] fills it from the variables that Vault's own tools read.
type Config struct {
	// Address is a URL such as https://vault.example:8200, or unix:///run/vault.sock for an agent. Plain http is for
	// this machine alone, unless AllowHTTP is set.
	Address   string
	AllowHTTP bool

	// Namespace is sent with every request. "" for none.
	Namespace string

	// CACert is a file of certificates in PEM, CACertPEM their text, CAPath a directory of such files. Without any, the
	// system's authorities are trusted.
	CACert    string
	CACertPEM string
	CAPath    string

	// ClientCert and ClientKey are the files of a certificate to show, in PEM. They are read at every connection.
	ClientCert string
	ClientKey  string

	// TLSServerName is the name in Vault's certificate where it is not the address's. SkipVerify believes any
	// certificate, and with it whoever stands in between; it is written to the log at each log-in.
	TLSServerName string
	SkipVerify    bool

	// Proxy is the URL of an HTTP proxy; "" takes what HTTPS_PROXY and its like say.
	Proxy string

	// Header is sent with every request. Names beginning with X-Vault- are refused.
	Header http.Header

	// SRVLookup finds the port by DNS where Address has none.
	SRVLookup bool

	// Timeout ends each request; 0 is DefaultTimeout, and a minute the most.
	Timeout time.Duration

	// Login says who we are. Required.
	Login Login

	// Lookup finds environment variables for the credentials in Login, as os.LookupEnv does. It may be nil if none of
	// them stands in one.
	Lookup func(name string) (string, bool)

	// Logger is told of log-ins and of renewals that failed. Nil means silence.
	Logger *slog.Logger

	transport http.RoundTripper // tests only: instead of a network
}

// A Client is an identity at a Vault. It is safe for concurrent use.
type Client struct {
	api     *api.Client // holds no token: each request is given one
	timeout time.Duration
	login   Login
	lookup  func(string) (string, bool)
	log     *slog.Logger
	where   string // the address, for people
	warn    string // what is unsafe about the configuration, "" for nothing
	idle    func() // closes idle connections

	entering  chan struct{} // a lock that a context can leave: full while somebody logs in or renews
	unwrapped unwrapped     // owner: entering

	mu      sync.Mutex
	now     session       // guarded by mu: the zero session before the first
	changed chan struct{} // guarded by mu: closed when now is another
	trouble trouble       // guarded by mu
}

var _ keys.Provider = (*Client)(nil)

// New returns a client. It reads the files of certificates and asks nobody.
func New(cfg Config) (*Client, error) {
	c, err := newClient(cfg)
	if err != nil {
		return nil, fmt.Errorf("keys/vault: %w", err)
	}
	return c, nil
}

func newClient(cfg Config) (*Client, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	t := &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		DialContext:         (&net.Dialer{KeepAlive: 30 * time.Second}).DialContext, // a request's time-out is its own too
		TLSClientConfig:     &tls.Config{MinVersion: tls.VersionTLS12},
		ForceAttemptHTTP2:   true,
		MaxIdleConnsPerHost: 8,
		IdleConnTimeout:     90 * time.Second,
	}
	if cfg.Proxy != "" {
		u, err := url.Parse(cfg.Proxy)
		if err != nil || u.Host == "" {
			return nil, errors.New("the proxy is not a URL")
		}
		t.Proxy = http.ProxyURL(u)
	}
	conf := &api.Config{Address: cfg.Address, SRVLookup: cfg.SRVLookup, DisableRedirects: true, HttpClient: &http.Client{
		Transport:     t,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
	err := conf.ConfigureTLS(&api.TLSConfig{CACert: cfg.CACert, CACertBytes: []byte(cfg.CACertPEM), CAPath: cfg.CAPath, TLSServerName: cfg.TLSServerName, Insecure: cfg.SkipVerify})
	if err != nil {
		return nil, fmt.Errorf("certificates of authorities: %w", err)
	}
	if cfg.ClientCert != "" {
		load := func() (*tls.Certificate, error) {
			cert, err := tls.LoadX509KeyPair(cfg.ClientCert, cfg.ClientKey)
			if err != nil {
				return nil, fmt.Errorf("client certificate: %w", err)
			}
			return &cert, nil
		}
		if _, err := load(); err != nil {
			return nil, err
		}
		// Whatever authorities the server names: it may not name those of its certificate log-in.
		t.TLSClientConfig.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return load() }
	}
	a, err := api.NewClient(conf)
	if err != nil {
		return nil, err
	}
	// NewClient and its requests read the environment by themselves. Here the Config says everything.
	a.ClearToken()
	a.SetWrappingLookupFunc(func(string, string) string { return "" })
	header := cfg.Header.Clone()
	if header == nil {
		header = make(http.Header)
	}
	header.Set(api.RequestHeaderName, "true")
	a.SetHeaders(header)
	if cfg.Namespace != "" {
		a.SetNamespace(cfg.Namespace)
	}
	conf.HttpClient.Transport = limited{t}
	if cfg.transport != nil {
		conf.HttpClient.Transport = limited{cfg.transport}
	}
	c := &Client{
		api: a, timeout: cfg.Timeout, login: cfg.Login, lookup: cfg.Lookup, log: cfg.Logger, where: cfg.Address,
		idle:     t.CloseIdleConnections,
		entering: make(chan struct{}, 1),
		changed:  make(chan struct{}),
	}
	if c.timeout == 0 {
		c.timeout = DefaultTimeout
	}
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	if cfg.SkipVerify {
		c.warn = "the certificate of Vault is not verified: whoever stands in between reads the token"
	}
	return c, nil
}

func (cfg Config) check() error {
	u, err := url.Parse(cfg.Address)
	switch {
	case cfg.Address == "":
		return errors.New("no address of a Vault; set one such as https://vault.example:8200")
	case err != nil:
		return errors.New("the address of Vault is not a URL")
	case u.User != nil:
		return errors.New("the address of Vault holds a name or a password; leave it out")
	case u.RawQuery != "" || u.Fragment != "":
		return fmt.Errorf("the address of Vault, %s, ends in a query or fragment", cfg.Address)
	case u.Scheme == "unix" && u.Path != "" && u.Host == "":
	case u.Scheme == "https" && u.Host != "":
	case u.Scheme == "http" && (cfg.AllowHTTP || isHere(u.Hostname())):
	case u.Scheme == "http" && u.Host != "":
		return fmt.Errorf("the address of Vault, %s, is plain http to another machine: a token would be readable on the way; use https, or allow it where the network encrypts", cfg.Address)
	default:
		return fmt.Errorf("the address of Vault, %s, is not https://HOST:PORT, http://127.0.0.1:PORT or unix:///PATH", cfg.Address)
	}
	if cfg.Timeout < 0 || cfg.Timeout > maxTimeout {
		return fmt.Errorf("a timeout of %v: choose up to %v", cfg.Timeout, maxTimeout)
	}
	if (cfg.ClientCert == "") != (cfg.ClientKey == "") {
		return errors.New("a client certificate needs both its files, certificate and key")
	}
	for name := range cfg.Header {
		if strings.HasPrefix(http.CanonicalHeaderKey(name), "X-Vault-") {
			return fmt.Errorf("the header %s belongs to Vault's own protocol", name)
		}
	}
	return cfg.Login.check(cfg.ClientCert != "")
}

func isHere(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// String says which Vault it is, and as whom. It shows no secret.
func (c *Client) String() string { return fmt.Sprintf("%s by %s", c.where, c.login.method()) }

// GoString is String.
func (c *Client) GoString() string { return c.String() }

// Format writes String, whatever the verb.
func (c *Client) Format(f fmt.State, verb rune) { io.WriteString(f, c.String()) }

// A limited transport cuts answers off that nobody would read.
type limited struct{ next http.RoundTripper }

func (l limited) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := l.next.RoundTrip(r)
	if err == nil {
		resp.Body = &limitedBody{resp.Body, maxAnswer}
	}
	return resp, err
}

type limitedBody struct {
	io.ReadCloser
	left int64
}

func (b *limitedBody) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, fmt.Errorf("the answer is over %d bytes", maxAnswer)
	}
	n, err := b.ReadCloser.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	return n, err
}
