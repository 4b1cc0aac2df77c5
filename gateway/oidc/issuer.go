package oidc

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-json-experiment/json"
)

// An issuer is an Issuer with its keys.
//
// Its keys change in one place, run. Whoever misses a key asks for a fetch and waits for the end of it: of the one that is
// under way, or of a new one if the last ended a cool-down ago. So the number of requests depends on the clock alone.
type issuer struct {
	Issuer
	client *http.Client
	log    *slog.Logger

	known    atomic.Pointer[keySet]   // nil before the first fetch that succeeded
	metadata atomic.Pointer[metadata] // the same, where there is a discovery document
	wake     chan struct{}

	mu       sync.Mutex
	fetching chan struct{} // closed when the fetch that is under way or was asked for ended; nil where there is none
	ended    time.Time     // when the last fetch ended
	failed   error         // what was wrong with it
}

// metadata are what a discovery document (OpenID Connect Discovery §3, RFC 8414 §2) says and is needed here.
type metadata struct {
	Issuer      string   `json:"issuer"`
	Authorize   string   `json:"authorization_endpoint"`
	Token       string   `json:"token_endpoint"`
	Keys        string   `json:"jwks_uri"`
	AuthMethods []string `json:"token_endpoint_auth_methods_supported"`
	SaysIssuer  bool     `json:"authorization_response_iss_parameter_supported"` // RFC 9207
}

func newIssuer(is Issuer, cfg Config) *issuer {
	return &issuer{
		Issuer: is,
		client: &http.Client{
			Timeout: is.Timeout,
			Transport: &http.Transport{
				Proxy:                  cfg.Proxy,
				TLSClientConfig:        &tls.Config{RootCAs: is.Roots, MinVersion: tls.VersionTLS12},
				ForceAttemptHTTP2:      true,
				MaxIdleConns:           1,
				IdleConnTimeout:        time.Minute,
				MaxResponseHeaderBytes: 64 << 10,
			},
			// Keys are believed because of the address they come from. Another address is for the configuration to name.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		log:  cfg.Logger.With("issuer", is.Name),
		wake: make(chan struct{}, 1),
	}
}

// key returns the key that kid names and alg can be verified with, and its set.
func (is *issuer) key(ctx context.Context, kid, alg string) (*key, *keySet, error) {
	k, set, err := is.look(kid, alg)
	if err == nil || errors.Is(err, wrongAlgorithm) {
		return k, set, err
	}
	done := is.ask()
	if done == nil { // it is too soon for another fetch; but one may have ended since
		return is.look(kid, alg)
	}
	wait := time.NewTimer(is.Timeout)
	defer wait.Stop()
	select {
	case <-done:
		return is.look(kid, alg)
	case <-ctx.Done():
		return nil, nil, fmt.Errorf("oidc: waiting for the keys of issuer %s: %w", is.Name, ctx.Err())
	case <-wait.C:
		return nil, nil, fmt.Errorf("oidc: the keys of issuer %s were not there within %v", is.Name, is.Timeout)
	}
}

// look is key from what is known. That there is no such key can be said only where the last fetch succeeded.
func (is *issuer) look(kid, alg string) (*key, *keySet, error) {
	set := is.known.Load()
	is.mu.Lock()
	failed := is.failed
	is.mu.Unlock()
	if set == nil || !time.Now().Before(set.until) {
		if failed == nil {
			failed = errors.New("they were not fetched yet")
		}
		return nil, nil, fmt.Errorf("oidc: the keys of issuer %s are not known now: %w", is.Name, failed)
	}
	k, err := set.find(kid, alg)
	if errors.Is(err, unknownKey) && failed != nil {
		return nil, nil, fmt.Errorf("oidc: whether issuer %s has published a new key is not known now: %w", is.Name, failed)
	}
	return k, set, err
}

// ask asks for a fetch, and returns what is closed when it ended; or nil in the cool-down.
func (is *issuer) ask() <-chan struct{} {
	is.mu.Lock()
	defer is.mu.Unlock()
	if is.fetching == nil {
		if !is.ended.IsZero() && time.Since(is.ended) < is.CoolDown {
			return nil
		}
		is.fetching = make(chan struct{})
		select {
		case is.wake <- struct{}{}:
		default:
		}
	}
	return is.fetching
}

// run fetches until ctx ends: at once, then every Refresh or when asked; after a failure again after a cool-down, which
// doubles while the failures go on.
func (is *issuer) run(ctx context.Context) {
	for again := is.CoolDown; ctx.Err() == nil; {
		is.mu.Lock()
		if is.fetching == nil {
			is.fetching = make(chan struct{})
		}
		is.mu.Unlock()

		err := is.fetch(ctx)
		if err != nil && ctx.Err() == nil {
			is.log.WarnContext(ctx, "oidc: the keys of an issuer could not be fetched", "error", err)
		}

		is.mu.Lock()
		close(is.fetching)
		is.fetching, is.ended, is.failed = nil, time.Now(), err
		is.mu.Unlock()

		next := is.Refresh
		if err != nil {
			next = min(again, is.Refresh)
			again = min(2*again, is.Refresh)
		} else {
			again = is.CoolDown
		}
		timer := time.NewTimer(next)
		select {
		case <-timer.C:
		case <-is.wake:
		case <-ctx.Done():
		}
		timer.Stop()
	}
}

// fetch fetches the keys, from where the discovery document says that they are.
func (is *issuer) fetch(ctx context.Context) error {
	from := is.JWKS
	if from == "" {
		m, err := is.discover(ctx)
		if err != nil {
			return err
		}
		is.metadata.Store(m)
		from = m.Keys
	}
	begun := time.Now()
	b, err := is.get(ctx, from)
	if err != nil {
		return err
	}
	keys, passed, err := parseKeys(b)
	if err != nil {
		return fmt.Errorf("%s: %w", from, err)
	}
	// Their age counts from when they were asked for.
	set := &keySet{keys: keys, sum: sha256.Sum256(b), until: begun.Add(is.Stale)}
	if was := is.known.Load(); was != nil && was.sum == set.sum {
		set.serial = was.serial
	} else {
		if was != nil {
			set.serial = was.serial + 1
		}
		is.log.InfoContext(ctx, "oidc: an issuer has published keys", "keys", len(keys), "passed over", passed)
	}
	is.known.Store(set)
	return nil
}

func (is *issuer) discover(ctx context.Context) (*metadata, error) {
	from := strings.TrimSuffix(is.URL, "/") + "/.well-known/openid-configuration"
	b, err := is.get(ctx, from)
	if err != nil {
		return nil, err
	}
	m := new(metadata)
	if err := json.Unmarshal(b, m); err != nil {
		return nil, fmt.Errorf("%s: what is found there is not a discovery document", from)
	}
	if m.Issuer != is.URL {
		return nil, fmt.Errorf("%s: the issuer calls itself something else than it is called here; URL must be byte for byte what stands there as issuer", from)
	}
	if err := goodURL(m.Keys); err != nil {
		return nil, fmt.Errorf("%s: jwks_uri %w", from, err)
	}
	return m, nil
}

// get returns what is found at an address.
func (is *issuer) get(ctx context.Context, from string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, from, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/json")
	resp, err := is.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		if resp.StatusCode/100 == 3 {
			return nil, fmt.Errorf("%s: it is answered with a redirect (%d), which is not followed; configure the address that it leads to", from, resp.StatusCode)
		}
		return nil, fmt.Errorf("%s: it is answered with status %d", from, resp.StatusCode)
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxDocument+1))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", from, err)
	}
	if len(b) > maxDocument {
		return nil, fmt.Errorf("%s: it is over %d bytes", from, maxDocument)
	}
	return b, nil
}
