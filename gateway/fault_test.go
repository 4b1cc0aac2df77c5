package gateway

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tallystick/tallystick/gateway/gatewaytest"
	"github.com/tallystick/tallystick/tlog/record"
)

const carolKey = "tk-carol-00112233445566778899"

// stricter are the faults that could pass, and why they do not.
var stricter = map[string]string{
	"any stream length-none": "an event stream of an API whose end is not known ends with its transport, and this one has no end to tell from a cut",
}

// What is wrong with an answer at the level of HTTP never looks like a whole answer, never reaches anybody else, and is
// on record as what it was.
func TestEveryFaultOfAModel(t *testing.T) {
	t.Parallel()
	for _, stream := range []bool{false, true} {
		for _, prefix := range []string{"", "/any"} {
			name := strings.TrimPrefix(prefix, "/")
			if stream {
				name += " stream"
			}
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				w := newWorld(t, func(cfg *Config) {
					cfg.Limits.FirstByte, cfg.Limits.Silence = 300*time.Millisecond, 300*time.Millisecond
					cfg.Callers = append(cfg.Callers, Caller{Name: "carol", SHA256: hashOf(carolKey)})
				})
				for _, f := range gatewaytest.Faults() {
					label := name + " " + f.Name
					prompt := "/raw " + f.Name + " /say token " + f.Name
					key := callerKey
					if strings.HasPrefix(f.Name, "extra") {
						key = carolKey // what comes after her answer could be taken for that to her next call, so there is none
					}
					resp, err := w.doAs(t.Context(), key, "POST", prefix+"/v1/chat/completions", chat(prompt, stream))
					if err != nil {
						t.Fatal(err)
					}
					b, err := io.ReadAll(resp.Body)
					resp.Body.Close()
					body := string(b)
					whole := resp.StatusCode < 400 && err == nil
					_, refused := stricter[label]
					switch {
					case f.Want == gatewaytest.Refuse && whole:
						t.Errorf("%s: %s: passed as whole: %.200q", label, f.Does, body)
					case f.Want == gatewaytest.Pass && !whole && !refused:
						t.Errorf("%s: %s: status %d, %v: %.200q", label, f.Does, resp.StatusCode, err, body)
					case f.Want == gatewaytest.Pass && whole && f.Name != "gzip" && !strings.Contains(strings.ReplaceAll(body, `"}`, ""), "token"):
						t.Errorf("%s: another answer: %.300q", label, body)
					}
					for h := range resp.Header {
						switch h {
						case "Date", "Content-Length", "Connection", "X-Should-Retry":
						default:
							if h != SessionHeader && !passes(h, returnedHeaders, nil) {
								t.Errorf("%s: the caller was given the header %s: %q", label, h, resp.Header[h])
							}
						}
					}
					if s := resp.Header[SessionHeader]; len(s) != 1 || s[0] == "forged" {
						t.Fatalf("%s: sessions %q", label, s)
					}
					if strings.Contains(body, "unsolicited") {
						t.Errorf("%s: the caller was given what nobody asked for: %q", label, body)
					}
					e, r := w.session(resp.Header.Get(SessionHeader)).last()
					if (e.Outcome == record.Complete) != whole && f.Name != "gzip" {
						t.Errorf("%s: on record as %s (%s) with status %d", label, e.Outcome, get(r, record.FieldError), resp.StatusCode)
					}
					if e.Outcome == record.Internal || e.Outcome == record.Interrupted {
						t.Errorf("%s: on record as %s (%s)", label, e.Outcome, get(r, record.FieldError))
					}
					// Whatever it was, another caller is answered with its own answer.
					next, err := w.doAs(t.Context(), bobKey, "POST", prefix+"/v1/chat/completions", chat("/say after "+f.Name, false))
					if err != nil {
						t.Fatal(err)
					}
					if got := slurp(t, next.Body); next.StatusCode != 200 || !strings.Contains(got, "after "+f.Name) {
						t.Errorf("%s: the call after it: status %d: %.200q", label, next.StatusCode, got)
					}
				}
			})
		}
	}
}

// What a model says unasked is nobody's answer. One that comes with the answer before it is always seen; one that comes
// while another call is on the connection cannot be told from that call's answer by anybody, and so no connection ever
// carries calls of two callers.
func TestUnaskedAnswers(t *testing.T) {
	t.Parallel()
	for _, late := range []bool{false, true} {
		t.Run(fmt.Sprint("late=", late), func(t *testing.T) {
			t.Parallel()
			var asked, taken atomic.Int64
			w := newRawWorld(t, func(_ *gatewaytest.Model, r *http.Request) gatewaytest.Wire {
				b, err := io.ReadAll(r.Body)
				if err != nil {
					t.Error(err)
				}
				answer := fmt.Appendf(nil, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(b), b)
				if asked.Add(1)%2 == 0 {
					return gatewaytest.Wire{Parts: [][]byte{answer}, End: gatewaytest.Keep}
				}
				whose, _, _ := strings.Cut(string(b), ",")
				stray := fmt.Appendf(nil, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s,\"stray\":1}", len(whose)+11, whose)
				if !late {
					return gatewaytest.Wire{Parts: [][]byte{append(answer, stray...)}, End: gatewaytest.Keep}
				}
				return gatewaytest.Wire{Parts: [][]byte{answer, stray}, Pause: 50 * time.Microsecond, End: gatewaytest.Keep}
			}, nil)
			var all sync.WaitGroup
			const callers, calls = 64, 40
			for g := range callers {
				all.Go(func() {
					key := []string{callerKey, bobKey}[g%2]
					for i := range calls {
						body := fmt.Sprintf(`{"caller":%d,"call":%d,"of":%d}`, g%2, i, g)
						resp, err := w.doAs(context.Background(), key, "POST", "/v1/chat/completions", body)
						if err != nil {
							t.Error(err)
							return
						}
						got := slurp(t, resp.Body)
						resp.Body.Close()
						switch {
						case resp.StatusCode == 200 && got == body:
						case resp.StatusCode != 200 || !late || !strings.HasPrefix(got, fmt.Sprintf(`{"caller":%d,`, g%2)):
							t.Errorf("%s was answered %d %s", body, resp.StatusCode, got)
						default:
							taken.Add(1)
						}
					}
				})
			}
			all.Wait()
			t.Logf("%d calls, half of them followed by an answer that nobody asked for: %d were taken for another's of the same caller", asked.Load(), taken.Load())
		})
	}
}
