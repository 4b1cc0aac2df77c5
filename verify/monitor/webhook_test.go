package monitor

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// A hookServer takes what a webhook is sent.
type hookServer struct {
	mu     sync.Mutex
	answer func(n int, rw http.ResponseWriter) // for the n-th request; nil is 200
	tries  int
	got    []Event
	bodies [][]byte
	signed []string
}

func (h *hookServer) ServeHTTP(rw http.ResponseWriter, req *http.Request) {
	h.mu.Lock()
	h.tries++
	n, answer := h.tries, h.answer
	h.mu.Unlock()
	body, _ := io.ReadAll(req.Body)
	if answer != nil {
		rec := &statusWriter{ResponseWriter: rw, status: 200}
		answer(n, rec)
		if rec.status != 200 {
			return
		}
	}
	var e Event
	if err := json.Unmarshal(body, &e); err != nil || req.Method != http.MethodPost || req.Header.Get("Content-Type") != "application/json" {
		http.Error(rw, "what is this", 400)
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.got, h.bodies, h.signed = append(h.got, e), append(h.bodies, body), append(h.signed, req.Header.Get(signatureHeader))
}

type statusWriter struct {
	http.ResponseWriter
	status int
}

func (w *statusWriter) WriteHeader(s int) { w.status = s; w.ResponseWriter.WriteHeader(s) }

const hookURL = "http://hook.test/secret-in-the-path"

// withHook is a world whose monitor tells a webhook, and the server of that.
func withHook(t *testing.T) (*world, *hookServer) {
	w := newWorld(t)
	w.pen.start()
	w.pen.beat(299)
	h := new(hookServer)
	w.net.set("hook.test", h)
	w.conf.Webhook = &Webhook{URL: hookURL, Secret: []byte("key"), Transport: w.net}
	return w, h
}

// The webhook is told of findings before the monitor ends, with their evidence, signed; and of nothing in the ordinary course.
func TestWebhook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, h := withHook(t)
		r := w.start()
		time.Sleep(time.Minute)
		w.pen.beat(1) // late: a silence
		time.Sleep(time.Minute)
		f, _ := w.fork(200, 150)
		w.serve(f)
		time.Sleep(time.Minute)
		if !r.ended() {
			t.Fatal("it goes on after a fork")
		}
		if got := kinds(h.got); got != "false fork" {
			t.Fatalf("told of: %q", got)
		}
		e := h.got[1]
		if len(e.Evidence) != 3 || *e.OldSize != 301 || *e.Size != 350 || e.OldRoot == nil || e.Root == nil || e.Reason == "" || e.Log == "" || e.URL == "" || e.Time.IsZero() {
			t.Errorf("%+v", e)
		}
		for i, body := range h.bodies {
			mac := hmac.New(sha256.New, []byte("key"))
			mac.Write(body)
			if h.signed[i] != "sha256="+hex.EncodeToString(mac.Sum(nil)) {
				t.Errorf("signed %q", h.signed[i])
			}
		}
	})
}

// A webhook that fails is tried again, for a while; what it could not be told of is told, and nothing waits for it.
func TestWebhookFails(t *testing.T) {
	for _, c := range []struct {
		name   string
		answer func(n int, rw http.ResponseWriter)
		tries  int
		taken  bool
		says   string
	}{
		{name: "once", answer: func(n int, rw http.ResponseWriter) {
			if n == 1 {
				rw.WriteHeader(500)
			}
		}, tries: 2, taken: true},
		{name: "four times", answer: func(n int, rw http.ResponseWriter) {
			switch n {
			case 1:
				panic(hang)
			case 2:
				rw.WriteHeader(429)
			case 3:
				rw.WriteHeader(408)
			case 4:
				rw.WriteHeader(502)
			}
		}, tries: 5, taken: true},
		{name: "always", answer: func(_ int, rw http.ResponseWriter) { rw.WriteHeader(500) }, tries: hookTries, says: "it answers 500"},
		{name: "by not answering", answer: func(int, http.ResponseWriter) { panic(hang) }, tries: hookTries, says: "deadline exceeded"},
		{name: "by refusing", answer: func(_ int, rw http.ResponseWriter) { rw.WriteHeader(403) }, tries: 1, says: "it answers 403"},
		{name: "by sending elsewhere", answer: func(_ int, rw http.ResponseWriter) {
			rw.Header().Set("Location", "http://elsewhere.test/")
			rw.WriteHeader(307)
		}, tries: 1, says: "it answers 307"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, h := withHook(t)
				h.answer = c.answer
				elsewhere := new(hookServer)
				w.net.set("elsewhere.test", elsewhere)
				r := w.start()
				time.Sleep(time.Minute)
				w.told()
				w.pen.seq++
				w.pen.beat(1)
				time.Sleep(15 * time.Second)
				// The rounds go on meanwhile.
				before := w.remembered().Size
				w.pen.beat(1)
				time.Sleep(15 * time.Second)
				if got := w.remembered().Size; got != before+1 {
					t.Errorf("it came from %d to %d", before, got)
				}
				time.Sleep(2 * time.Minute)
				r.stop()
				es := w.told()
				untold := 0
				for _, e := range es {
					if e.Kind == Untold {
						untold++
						if !strings.Contains(e.Reason, c.says) || strings.Contains(e.Reason, "secret-in-the-path") {
							t.Errorf("%+v", e)
						}
					}
				}
				// A silence and a number missing, at once.
				if c.taken && (len(h.got) != 2 || untold > 0) || !c.taken && (len(h.got) > 0 || untold != 2) {
					t.Errorf("taken: %q; told: %q", kinds(h.got), kinds(es))
				}
				if h.tries != c.tries+map[bool]int{true: 1, false: c.tries}[c.taken] {
					t.Errorf("%d tries", h.tries)
				}
				if elsewhere.tries > 0 {
					t.Error("it followed a redirect")
				}
			})
		})
	}
}

// When the monitor ends it waits for the webhook, but not for ever.
func TestWebhookAtTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, h := withHook(t)
		h.answer = func(int, http.ResponseWriter) { panic(hang) }
		r := w.start()
		time.Sleep(time.Minute)
		f, _ := w.fork(200, 150)
		w.serve(f)
		time.Sleep(15 * time.Second)
		began := time.Now()
		<-r.done
		if took := time.Since(began); took > hookPatience {
			t.Errorf("it ended after %s", took)
		}
		if got := kinds(w.told()); got != "fork untold" {
			t.Errorf("told: %q", got)
		}
	})
}

// More than it can be told at once is told to be too much.
func TestWebhookOverrun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, h := withHook(t)
		h.answer = func(int, http.ResponseWriter) { panic(hang) }
		m, err := New(w.conf)
		if err != nil {
			t.Fatal(err)
		}
		end := m.hook.start(m.untold)
		for i := range hookQueue + 10 {
			m.tell(Event{Kind: False, Level: Finding, Reason: fmt.Sprint(i)})
		}
		synctest.Wait()
		es := w.told()
		untold := 0
		for _, e := range es {
			if e.Kind == Untold && strings.Contains(e.Reason, "256 others wait") {
				untold++
			}
		}
		if untold < 9 || untold > 10 {
			t.Errorf("%d of %d", untold, len(es))
		}
		end()
	})
}
