package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"time"
)

// mostAnswer is the largest answer of a gateway that is read, in bytes: a whole request, of which each byte can be escaped.
const mostAnswer = 512 << 20

// A gatewayClient speaks with a gateway's own endpoints, as whoever has the key. It follows no redirect, for the key goes to
// the gateway that was named.
type gatewayClient struct {
	base   string
	key    string
	client http.Client
}

func newGatewayClient(base *url.URL, key, roots string) (*gatewayClient, error) {
	g := &gatewayClient{base: base.JoinPath(".tallystick").String() + "/", key: key}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	if roots != "" {
		pem, err := os.ReadFile(roots)
		if err != nil {
			return nil, fmt.Errorf("--roots: %w", err)
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("--roots: no certificate in %s", roots)
		}
		transport.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	}
	g.client = http.Client{
		Transport:     transport,
		Timeout:       2 * time.Minute,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return g, nil
}

func (g *gatewayClient) get(ctx context.Context, path string) ([]byte, error) {
	return g.do(ctx, http.MethodGet, path, nil)
}

func (g *gatewayClient) post(ctx context.Context, path string, body []byte) ([]byte, error) {
	return g.do(ctx, http.MethodPost, path, body)
}

func (g *gatewayClient) do(ctx context.Context, method, path string, body []byte) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, g.base+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+g.key)
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := g.client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("the gateway: %w", err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, mostAnswer+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("the gateway's answer: %w", err)
	case len(b) > mostAnswer:
		return nil, errors.New("the gateway's answer is larger than one can be")
	case resp.StatusCode == http.StatusOK:
		return b, nil
	}
	var no struct {
		Error struct{ Message, Code string }
	}
	if json.Unmarshal(b, &no) == nil && no.Error.Message != "" {
		return nil, fmt.Errorf("the gateway refuses: %s (%d, %s)", no.Error.Message, resp.StatusCode, no.Error.Code)
	}
	return nil, fmt.Errorf("the gateway answers %s", resp.Status)
}
