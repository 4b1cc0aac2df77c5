package ship

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"time"
)

// A Secret is a credential that may be another one at each look.
type Secret interface{ Reveal() []byte }

// Options are what an address does not say. The zero value is good for files and sockets.
type Options struct {
	Token  Secret         // of an HTTPS endpoint; nil for none
	Header string         // that the token stands in; by default Authorization
	Scheme string         // what goes before it; by default Bearer, if the header is Authorization
	Roots  *x509.CertPool // the authorities that its certificate comes from; nil for the system's
	Cert   *tls.Certificate
	// Timeout is how long one delivery may take, and how long a syslog collector to say that it has read everything; by default 30s.
	Timeout time.Duration
}

// Open returns the sink at an address, and connects to nothing yet:
//
//	file:PATH                  lines are appended, and synced before they count. A file that was renamed or removed is made anew.
//	https://host/path          lines are posted, as application/x-ndjson packed with gzip; http:// on the loopback alone.
//	syslog+tls://host:port     each line is the message of one syslog message (RFC 5424), framed by its length (RFC 6587 §3.4.1, RFC 5425);
//	syslog+tcp://host:port     without encryption, on the loopback alone;
//	syslog+unix:PATH           over a stream socket.
func Open(to string, o Options) (Sink, error) {
	if o.Timeout == 0 {
		o.Timeout = 30 * time.Second
	}
	if path, ok := strings.CutPrefix(to, "file:"); ok {
		if path == "" {
			return nil, fmt.Errorf("ship: %s has no path behind it", to)
		}
		return &file{path: path}, nil
	}
	if path, ok := strings.CutPrefix(to, "syslog+unix:"); ok {
		if path == "" {
			return nil, fmt.Errorf("ship: %s has no path behind it", to)
		}
		return &syslog{network: "unix", address: path, timeout: o.Timeout, said: to}, nil
	}
	u, err := url.Parse(to)
	if err != nil || u.Host == "" {
		return nil, fmt.Errorf("ship: %.100q is nowhere to ship to; there are file:PATH, https://host/path, syslog+tls://host:port, syslog+tcp://host:port and syslog+unix:PATH", to)
	}
	if u.User != nil {
		return nil, errors.New("ship: a password does not stand in an address; give it as the token")
	}
	switch u.Scheme {
	case "https", "http":
		if u.Scheme == "http" && !loopback(u.Hostname()) {
			return nil, fmt.Errorf("ship: http://%s: plain HTTP is for the loopback alone", u.Host)
		}
		return newEndpoint(u, o)
	case "syslog+tls", "syslog+tcp":
		if u.Port() == "" || u.Path != "" || u.RawQuery != "" || u.Fragment != "" {
			return nil, fmt.Errorf("ship: %.100q: give a host and a port, and nothing else", to)
		}
		s := &syslog{network: "tcp", address: u.Host, timeout: o.Timeout, said: to}
		if u.Scheme == "syslog+tls" {
			s.tls = clientTLS(o)
			s.tls.ServerName = u.Hostname()
		} else if !loopback(u.Hostname()) {
			return nil, fmt.Errorf("ship: %s: syslog without encryption is for the loopback alone", to)
		}
		return s, nil
	}
	return nil, fmt.Errorf("ship: %.40q is no way to ship; there are file, https, syslog+tls, syslog+tcp and syslog+unix", u.Scheme)
}

func clientTLS(o Options) *tls.Config {
	c := &tls.Config{RootCAs: o.Roots, MinVersion: tls.VersionTLS12}
	if o.Cert != nil {
		c.Certificates = []tls.Certificate{*o.Cert}
	}
	return c
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}
