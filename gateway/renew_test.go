package gateway

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/tallystick/tallystick/tlog/record"
)

// changing is a Secret that becomes another one.
type changing struct{ now atomic.Value }

func (c *changing) Reveal() []byte { return []byte(c.now.Load().(string)) }

// A credential is renewed while calls are under way: the next call shows the new one, and of those under way neither the one
// that they showed nor the new one reaches a caller or the record.
func TestCredentialIsRenewed(t *testing.T) {
	t.Parallel()
	const first, next = "sk-first-1a2b3c4d5e6f7a8b/x", "sk-next-7f3e5d1c9b8a6420/x" // which JSON may write in another way
	secret := &changing{}
	secret.now.Store(first)
	saw, renewed := make(chan string, 2), make(chan struct{})
	w := newServedWorld(t, func(rw http.ResponseWriter, r *http.Request) {
		saw <- r.Header.Get("Authorization")
		rw.Header().Set("Content-Type", "text/event-stream")
		fmt.Fprint(rw, "data: begin\n\n")
		rw.(http.Flusher).Flush()
		<-renewed
		if strings.HasSuffix(r.Header.Get("Authorization"), next) {
			return // what is not shown any more nobody looks for
		}
		for _, said := range []string{first, strings.ReplaceAll(first, "/", `\/`), next, strings.ReplaceAll(next, "/", `\/`), "[DONE]"} {
			fmt.Fprintf(rw, "data: %s\n\n", said)
		}
	}, func(cfg *Config) { cfg.Routes[0].Credential = secret })
	resp := w.post("/v1/chat/completions", chat("hello", true))
	if got := <-saw; got != "Bearer "+first {
		t.Errorf("the first call shows %q", got)
	}
	body := bufio.NewReader(resp.Body)
	if line, err := body.ReadString('\n'); err != nil || line != "data: begin\n" {
		t.Fatalf("%q %v", line, err)
	}
	secret.now.Store(next)
	close(renewed)
	rest, err := io.ReadAll(body)
	if err != nil {
		t.Fatal(err)
	}
	_, r := w.session(resp.Header.Get(SessionHeader)).last()
	for place, text := range map[string]string{"the caller": string(rest), "the record": get(r, record.FieldBody)} {
		if strings.Contains(text, "sk-") || strings.Count(text, "data: ****") != 4 || !strings.Contains(text, "[DONE]") {
			t.Errorf("%s has %q", place, text)
		}
	}
	resp = w.post("/v1/chat/completions", chat("hello", true))
	io.ReadAll(resp.Body) // it is cut
	w.session(resp.Header.Get(SessionHeader))
	if got := <-saw; got != "Bearer "+next {
		t.Errorf("the second call shows %q", got)
	}
}

func TestCheckCredential(t *testing.T) {
	for secret, good := range map[string]bool{"": false, "1234567": false, "12345678": true, "1234 5678": false, "12345678\n": false, "1234567é": false} {
		if err := CheckCredential([]byte(secret)); (err == nil) != good {
			t.Errorf("%q: %v", secret, err)
		}
	}
}
