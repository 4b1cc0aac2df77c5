package peers

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/anthropics/anthropic-sdk-go"
	anthropicoption "github.com/anthropics/anthropic-sdk-go/option"
	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"

	"github.com/tallystick/tallystick/gateway"
	"github.com/tallystick/tallystick/gateway/gatewaytest"
	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/record/mask"
	"github.com/tallystick/tallystick/verify"
)

// A keeper is a transport that keeps the bytes of the last call as they went over the wire.
type keeper struct {
	mu                sync.Mutex
	session           string
	request, response []byte
}

func (k *keeper) RoundTrip(r *http.Request) (*http.Response, error) {
	var sent []byte
	if r.Body != nil {
		var err error
		if sent, err = io.ReadAll(r.Body); err != nil {
			return nil, err
		}
		r = r.Clone(r.Context())
		r.Body = io.NopCloser(bytes.NewReader(sent))
	}
	resp, err := (&http.Transport{DisableCompression: true, DisableKeepAlives: true}).RoundTrip(r)
	if err != nil {
		return nil, err
	}
	if s := resp.Header.Get(gateway.SessionHeader); s != "" {
		k.mu.Lock()
		k.session, k.request, k.response = s, append([]byte{}, sent...), []byte{}
		k.mu.Unlock()
		resp.Body = &keptBody{resp.Body, k}
	}
	return resp, nil
}

type keptBody struct {
	io.ReadCloser
	k *keeper
}

func (b *keptBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.k.mu.Lock()
	b.k.response = append(b.k.response, p[:n]...)
	b.k.mu.Unlock()
	return n, err
}

// The official SDKs call, at once and streaming; then they fetch the receipt with the same key, and what they sent and got
// verifies: at once by the promise, later by the proof, and not with another byte.
func TestReceipts(t *testing.T) {
	if direct {
		t.Skip("a model gives no receipts")
	}
	ln := listen(t)
	run(t, func(ctx context.Context) error {
		return gatewaytest.New(gatewaytest.Config{Key: modelKey}).Run(ctx, ln)
	})
	base, policy := passing(t, "http://"+ln.Addr().String())
	k := &keeper{}
	hc := &http.Client{Transport: k, Timeout: 10 * time.Second}
	oa := openai.NewClient(option.WithBaseURL(base+"/v1"), option.WithAPIKey(key()), option.WithMaxRetries(0), option.WithHTTPClient(hc))
	an := anthropic.NewClient(anthropicoption.WithoutEnvironmentDefaults(), anthropicoption.WithBaseURL(base+"/anthropic"),
		anthropicoption.WithAPIKey(key()), anthropicoption.WithMaxRetries(0), anthropicoption.WithHTTPClient(hc))
	// One takes a path that is relative to its base URL and no other, the other anything but that.
	openaiGet := func(session string, resp **http.Response) ([]byte, error) {
		var b []byte
		err := oa.Get(t.Context(), "../.tallystick/receipts/"+session, nil, &b, option.WithResponseInto(resp))
		return b, err
	}
	anthropicGet := func(session string, resp **http.Response) ([]byte, error) {
		var b []byte
		err := an.Get(t.Context(), base+"/.tallystick/receipts/"+session, nil, &b, anthropicoption.WithResponseInto(resp))
		return b, err
	}
	for _, c := range []struct {
		name string
		call func() error
		get  func(session string, resp **http.Response) ([]byte, error)
	}{
		{"OpenAI", func() error { _, err := oa.Chat.Completions.New(t.Context(), chat("hi")); return err }, openaiGet},
		{"OpenAI, streaming", func() error {
			s := oa.Chat.Completions.NewStreaming(t.Context(), chat("/say one two three"))
			for s.Next() {
			}
			return s.Err()
		}, openaiGet},
		{"Anthropic", func() error { _, err := an.Messages.New(t.Context(), message("hi")); return err }, anthropicGet},
		{"Anthropic, streaming", func() error {
			s := an.Messages.NewStreaming(t.Context(), message("/say one two three"))
			for s.Next() {
			}
			return s.Err()
		}, anthropicGet},
	} {
		t.Run(c.name, func(t *testing.T) {
			if err := c.call(); err != nil {
				t.Fatal(err)
			}
			beside := verify.Beside{Request: bytes.Clone(k.request), Response: bytes.Clone(k.response)}
			session := k.session
			for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
				var resp *http.Response
				raw, err := c.get(session, &resp)
				if err != nil {
					t.Fatal(err)
				}
				holds(t, raw, beside, policy, true)
				other := beside
				other.Response = bytes.Clone(other.Response)
				other.Response[len(other.Response)/2] ^= 1
				holds(t, raw, other, policy, false)
				if resp.Header.Get("Retry-After") == "" {
					break // that was the proof
				}
				if time.Now().After(deadline) {
					t.Fatal("there is no proof")
				}
			}
		})
	}
}

func holds(t *testing.T, raw []byte, beside verify.Beside, policy *tlog.Policy, want bool) {
	t.Helper()
	r, err := verify.CheckReceipt(t.Context(), raw, beside, verify.Trust{Policy: policy})
	if err != nil || r.OK() != want {
		t.Errorf("it holds: %v, want %v; %v", r.OK(), want, err)
		for _, f := range r.Findings {
			t.Logf("%v %s %s: %s", f.OK, f.Claim, f.Subject, f.Detail)
		}
	}
}

// What was masked before it was written down its caller can show all the same, by the receipt that it took at once: at first by
// the promise, later by the proof, and not with another byte, nor with the masked copy. One that is taken when the gateway has
// forgotten the session says that it cannot tell.
func TestMaskedReceipts(t *testing.T) {
	if direct {
		t.Skip("a model gives no receipts")
	}
	ln := listen(t)
	run(t, func(ctx context.Context) error {
		return gatewaytest.New(gatewaytest.Config{Key: modelKey}).Run(ctx, ln)
	})
	l, policy := openLog(t)
	m, err := mask.New(mask.Config{Key: bytes.Repeat([]byte("m"), 32)})
	if err != nil {
		t.Fatal(err)
	}
	keys := openRing(t)
	masks := func(c *gateway.Config) {
		for i := range c.Routes {
			c.Routes[i].Mask = m
		}
	}
	base := through(t, "http://"+ln.Addr().String(), l, keys, masks)
	other := through(t, "http://"+ln.Addr().String(), l, keys, func(c *gateway.Config) { masks(c); c.ID = "gw-other" })
	for _, stream := range []bool{false, true} {
		body := fmt.Appendf(nil, `{"model":"fake-1","stream":%v,"messages":[{"role":"user","content":"/say pay 4111 1111 1111 1111 today"}]}`, stream)
		do := func(method, url string, body []byte) (*http.Response, []byte) {
			t.Helper()
			req, err := http.NewRequest(method, url, bytes.NewReader(body))
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Authorization", "Bearer "+callerKey)
			req.Header.Set("Content-Type", "application/json")
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			b, err := io.ReadAll(resp.Body)
			if err != nil {
				t.Fatal(err)
			}
			return resp, b
		}
		resp, answer := do("POST", base+"/v1/chat/completions", body)
		session := resp.Header.Get("Tallystick-Session")
		beside := verify.Beside{Request: body, Response: answer}
		masked, _ := m.JSON(nil, body)
		for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
			resp, raw := do("GET", base+"/.tallystick/receipts/"+session, nil)
			if resp.StatusCode != 200 {
				t.Fatalf("%d %s", resp.StatusCode, raw)
			}
			holds(t, raw, beside, policy, true)
			holds(t, raw, verify.Beside{Request: masked, Response: answer}, policy, false)
			changed := bytes.Clone(answer)
			changed[len(changed)/2] ^= 1
			holds(t, raw, verify.Beside{Request: body, Response: changed}, policy, false)
			if resp.Header.Get("Retry-After") == "" {
				break // that was the proof
			}
			if time.Now().After(deadline) {
				t.Fatal("there is no proof")
			}
		}
		_, raw := do("GET", other+"/.tallystick/receipts/"+session, nil)
		r, err := verify.CheckReceipt(t.Context(), raw, beside, verify.Trust{Policy: policy})
		if err != nil || !r.OK() || slices.ContainsFunc(r.Findings, func(f verify.Finding) bool {
			return f.Claim == verify.RequestMatches || f.Claim == verify.ResponseMatches
		}) {
			t.Errorf("taken elsewhere: %v %+v", err, r.Findings)
		}
	}
}
