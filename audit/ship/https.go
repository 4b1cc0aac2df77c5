package ship

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// An endpoint takes lines by POST and acknowledges them with any status from 200 to 299. 408, 429 and those from 500 on are asked again,
// when Retry-After says; of 413 the halves are sent one after the other; everything else, redirects too, is a refusal.
type endpoint struct {
	url            *url.URL
	token          Secret
	header, scheme string
	client         *http.Client
}

func newEndpoint(u *url.URL, o Options) (*endpoint, error) {
	e := &endpoint{url: u, token: o.Token, header: cmp.Or(o.Header, "Authorization"), scheme: o.Scheme}
	if e.scheme == "" && strings.EqualFold(e.header, "Authorization") {
		e.scheme = "Bearer"
	}
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.TLSClientConfig = clientTLS(o)
	e.client = &http.Client{Transport: t, Timeout: o.Timeout, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	return e, nil
}

// String leaves path and query out: some have a key in one of them.
func (e *endpoint) String() string { return e.url.Scheme + "://" + e.url.Host }

func (e *endpoint) Deliver(ctx context.Context, lines [][]byte) error {
	var body bytes.Buffer
	z := gzip.NewWriter(&body)
	for _, l := range lines {
		z.Write(l)
	}
	z.Close()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, e.url.String(), &body)
	if err != nil {
		return &RefusedError{err.Error()}
	}
	req.Header.Set("Content-Type", "application/x-ndjson")
	req.Header.Set("Content-Encoding", "gzip")
	req.Header.Set("User-Agent", "tallystick")
	if e.token != nil {
		value := string(e.token.Reveal())
		if e.scheme != "" {
			value = e.scheme + " " + value
		}
		req.Header.Set(e.header, value)
	}
	resp, err := e.client.Do(req)
	if err != nil {
		if uerr, ok := err.(*url.Error); ok {
			err = uerr.Err // its URL has the query
		}
		return fmt.Errorf("ship: %s: %w", e, err)
	}
	defer resp.Body.Close()
	said, err := io.ReadAll(io.LimitReader(resp.Body, 500))
	if err != nil {
		return fmt.Errorf("ship: %s: %w", e, err)
	}
	io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10)) // so that the connection serves again
	answer := fmt.Errorf("ship: %s answered %s: %.500q", e, resp.Status, said)
	switch code := resp.StatusCode; {
	case code >= 200 && code < 300:
		return nil
	case code == http.StatusRequestEntityTooLarge && len(lines) > 1:
		if err := e.Deliver(ctx, lines[:len(lines)/2]); err != nil {
			return err
		}
		return e.Deliver(ctx, lines[len(lines)/2:])
	case code == http.StatusRequestTimeout, code == http.StatusTooManyRequests, code >= 500:
		return &LaterError{retryAfter(resp.Header.Get("Retry-After"), time.Now()), answer}
	}
	return &RefusedError{answer.Error()}
}

// retryAfter reads seconds or a date (RFC 9110 §10.2.3); 0 where there is neither.
func retryAfter(s string, now time.Time) time.Duration {
	if n, err := strconv.ParseUint(s, 10, 31); err == nil {
		return time.Duration(n) * time.Second
	}
	if t, err := http.ParseTime(s); err == nil {
		return max(t.Sub(now), 0)
	}
	return 0
}

func (e *endpoint) Close() error {
	e.client.CloseIdleConnections()
	return nil
}
