package monitor

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"
)

// A Webhook is an address that is told of alerts and findings, and of their end: POST with an [Event] as JSON, one at a time
// and in order. An answer of 2xx is a delivery. No answer, 408, 429 and 5xx are tried again, five times in a quarter of a
// minute; any other, a redirect among them, is not. What could not be delivered is told as an event of its own, and not kept.
type Webhook struct {
	URL string // http or https; it may hold a secret, and is shown nowhere
	// Secret, if it is not empty, signs what is sent: the header Tallystick-Signature is "sha256=" and the hexadecimal
	// HMAC-SHA-256 of the body under it.
	Secret []byte
	// Transport makes the requests; nil is one of its own.
	Transport http.RoundTripper
}

const (
	signatureHeader = "Tallystick-Signature"
	hookTries       = 5
	hookPause       = time.Second      // before the second try, and twice as long before each further one
	hookTimeout     = 10 * time.Second // of one try
	hookQueue       = 256              // events that wait
	hookPatience    = 30 * time.Second // for what waits when the monitor ends
)

// errFull says that an event was not told because too many others wait.
var errFull = fmt.Errorf("%d others wait to be told", hookQueue)

// A hook tells a webhook, beside what goes on.
type hook struct {
	to     Webhook
	client http.Client
	queue  chan Event
}

func newHook(to Webhook) (*hook, error) {
	u, err := url.Parse(to.URL)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, errors.New("monitor: the webhook's address is no http or https URL")
	}
	h := &hook{to: to, queue: make(chan Event, hookQueue)}
	h.client = http.Client{
		Transport:     to.Transport,
		Timeout:       hookTimeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	if to.Transport == nil {
		h.client.Transport = http.DefaultTransport.(*http.Transport).Clone()
	}
	return h, nil
}

// put has an event told, and says whether there was room for it. It does not wait.
func (h *hook) put(e Event) bool {
	select {
	case h.queue <- e:
		return true
	default:
		return false
	}
}

// start tells what is put, and untold what could not be told. The function that it returns ends that: it waits for what still
// waits, at most for hookPatience. Nothing may be put any more then.
func (h *hook) start(untold func(Event, error)) (end func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for e := range h.queue {
			if err := h.tell(ctx, e); err != nil {
				untold(e, err)
			}
		}
	}()
	return func() {
		close(h.queue)
		t := time.AfterFunc(hookPatience, cancel)
		<-done
		t.Stop()
		cancel()
		if h.to.Transport == nil {
			h.client.CloseIdleConnections()
		}
	}
}

// tell tells one event, trying again where that may help.
func (h *hook) tell(ctx context.Context, e Event) error {
	body, err := json.Marshal(e)
	if err != nil {
		return err
	}
	for try, pause := 1, hookPause; ; try, pause = try+1, 2*pause {
		again, err := h.post(ctx, body)
		if err == nil || !again || try == hookTries {
			return err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return err
		}
	}
}

// post makes one try. again says whether another one may help.
func (h *hook) post(ctx context.Context, body []byte) (again bool, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, h.to.URL, bytes.NewReader(body))
	if err != nil {
		return false, errors.New("its address cannot be asked")
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "tallystick (+https://github.com/tallystick/tallystick)")
	if len(h.to.Secret) > 0 {
		mac := hmac.New(sha256.New, h.to.Secret)
		mac.Write(body)
		req.Header.Set(signatureHeader, "sha256="+hex.EncodeToString(mac.Sum(nil)))
	}
	resp, err := h.client.Do(req)
	if err != nil {
		var where *url.Error // it names the address
		if errors.As(err, &where) {
			err = where.Err
		}
		return ctx.Err() == nil, err
	}
	defer resp.Body.Close()
	io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10)) // so that the connection can be used again
	switch s := resp.StatusCode; {
	case s >= 200 && s < 300:
		return false, nil
	default:
		return s == http.StatusRequestTimeout || s == http.StatusTooManyRequests || s >= 500, fmt.Errorf("it answers %d", s)
	}
}
