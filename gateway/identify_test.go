package gateway

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tallystick/tallystick/tlog/record"
)

// An identifier answers as it is told.
type identifier func(Shown) (*Principal, error)

func (f identifier) Identify(_ context.Context, s Shown) (*Principal, error) { return f(s) }

// tokens knows tokens that begin with its prefix: what follows says how it answers.
func tokens(prefix string, asked *atomic.Int64) identifier {
	return func(s Shown) (*Principal, error) {
		what, ok := strings.CutPrefix(string(s.Bearer), prefix)
		if !ok {
			return nil, ErrNotMine
		}
		if asked != nil {
			asked.Add(1)
		}
		switch what {
		case "expired":
			return nil, &Stranger{Why: "expired", Message: "the token has expired; get a new one"}
		case "later":
			return nil, errors.New("the keys are not known now")
		case "nobody":
			return nil, nil
		case "nameless":
			return &Principal{How: ByOIDC, Subject: "x"}, nil
		case "panic":
			panic("a secret")
		}
		return &Principal{
			Name: prefix + what, How: ByOIDC, Key: "j-1", Issuer: "https://issuer.example", Subject: what, Email: what + "@example.com",
			Groups: []string{"staff", "a \"b\""}, At: time.Date(2026, 11, 25, 9, 0, 0, 0, time.UTC), Routes: nil,
		}, nil
	}
}

// Who calls is whom the first identifier names that knows the kind of what was shown; and it is on record with all that is
// known of it.
func TestIdentifiers(t *testing.T) {
	t.Parallel()
	var asked atomic.Int64
	w := newWorld(t, func(cfg *Config) {
		cfg.Identifiers = []Identifier{
			tokens("okta-", &asked),
			identifier(func(s Shown) (*Principal, error) { // asked after the first alone
				if strings.HasPrefix(string(s.Bearer), "okta-") || string(s.Bearer) == callerKey {
					t.Errorf("the second was asked for %q", s.Bearer)
				}
				return tokens("entra-", nil)(s)
			}),
		}
		cfg.Callers = append(cfg.Callers, Caller{Name: "none", SHA256: hashOf("tk-none"), Routes: []string{}})
	})
	for _, c := range []struct {
		token  string
		status int
		caller string
		how    string
		code   string
		kept   bool // a refusal is on record
	}{
		{callerKey, 200, "alice", "key", "", false},
		{"okta-carol", 200, "okta-carol", "oidc", "", false},
		{"entra-dave", 200, "entra-dave", "oidc", "", false},
		{"okta-expired", 401, "", "", "invalid_api_key", true},
		{"entra-expired", 401, "", "", "invalid_api_key", true},
		{"okta-later", 503, "", "", "identity_unavailable", false},
		{"okta-nobody", 503, "", "", "identity_unavailable", false},
		{"okta-nameless", 503, "", "", "identity_unavailable", false},
		{"okta-bad\tname", 503, "", "", "identity_unavailable", false},
		{"okta-panic", 500, "", "", "internal", false},
		{"github-eve", 401, "", "", "invalid_api_key", false},
		{"tk-none", 403, "", "", "route_not_allowed", false},
	} {
		t.Run(c.token, func(t *testing.T) {
			resp, err := w.doAs(t.Context(), c.token, "POST", "/v1/chat/completions", chat("hello", false))
			if err != nil {
				t.Fatal(err)
			}
			if c.status != 200 {
				wantRefusal(t, resp, c.status, c.code, true)
				if c.kept {
					k := w.session(resp.Header.Get(SessionHeader))
					e, r := k.last()
					_, named := r.Get(record.FieldCaller)
					if len(k.entries) != 1 || e.Kind != record.Refused || e.Reason != c.code || named || get(r, record.FieldBody) != "" || !strings.HasSuffix(get(r, record.FieldError), "(expired)") {
						t.Errorf("on record: %d entries, %s %s %q", len(k.entries), e.Kind, e.Reason, get(r, record.FieldError))
					}
				}
				return
			}
			slurp(t, resp.Body)
			id := resp.Header.Get(SessionHeader)
			q := w.session(id).records[0]
			if get(q, record.FieldCaller) != c.caller || get(q, record.FieldHow) != c.how {
				t.Errorf("on record as %q by %q", get(q, record.FieldCaller), get(q, record.FieldHow))
			}
			if _, dated := q.Get(record.FieldAuthed); dated != (c.how == "oidc") {
				t.Errorf("when the caller logged in is on record: %v", dated)
			}
			if c.how == "oidc" {
				_, subject, _ := strings.Cut(c.token, "-")
				for name, want := range map[string]string{
					record.FieldKey: "j-1", record.FieldIssuer: "https://issuer.example", record.FieldSubject: subject, record.FieldEmail: subject + "@example.com",
					record.FieldGroups: `["staff","a \"b\""]`, record.FieldAuthed: "2026-11-25T09:00:00Z",
				} {
					if get(q, name) != want {
						t.Errorf("%s is on record as %q, want %q", name, get(q, name), want)
					}
				}
			}
			// The receipt is the caller's own and nobody else's, whatever it shows.
			w.receipt(c.token, id)
			for _, other := range []string{bobKey, "okta-mallory"} {
				if resp, _ := w.ask(other, id); resp.StatusCode != 404 {
					t.Errorf("%s has a receipt of %s's: %s", other, c.caller, resp.Status)
				}
			}
			if last, _ := w.model.Last(); strings.Contains(string(last.Head), c.token) || strings.Contains(string(last.Body), c.token) {
				t.Errorf("the model was shown %s: %s", c.token, last.Head)
			}
		})
	}
	if strings.Contains(w.said.String(), "a secret") {
		t.Error("what a panic said is in the log")
	}
	for _, no := range []string{"okta-expired", "okta-later"} {
		if resp, _ := w.ask(no, record.NewID(time.Now()).String()); resp.StatusCode != map[string]int{"okta-expired": 401, "okta-later": 503}[no] {
			t.Errorf("%s asks for a receipt: %s", no, resp.Status)
		}
	}
	// One request is one question, however large its body and in however many pieces it comes.
	was := asked.Load()
	resp, err := w.doAs(t.Context(), "okta-carol", "POST", "/v1/chat/completions", chat(strings.Repeat("long ", 100<<10), false))
	if err != nil {
		t.Fatal(err)
	}
	slurp(t, resp.Body)
	if n := asked.Load() - was; resp.StatusCode != 200 || n != 1 {
		t.Errorf("%s, and who calls was asked %d times", resp.Status, n)
	}
}

// A large body is not taken in from nobody, be its length known or not, nor is it asked for by 100 Continue.
func TestStrangersBodies(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(cfg *Config) { cfg.Identifiers = []Identifier{tokens("okta-", nil)} })
	large := strings.Repeat(" ", strangerBody+1)
	for _, c := range []struct {
		name, head, body string
		status           int
	}{
		{"a length", fmt.Sprintf("Authorization: Bearer okta-expired\r\nContent-Length: %d", len(large)), large, 401},
		{"chunks", "Authorization: Bearer okta-expired\r\nTransfer-Encoding: chunked", fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(large), large), 401},
		{"many chunks", "Authorization: Bearer okta-expired\r\nTransfer-Encoding: chunked", strings.Repeat(fmt.Sprintf("%x\r\n%s\r\n", 1<<10, large[:1<<10]), 65) + "0\r\n\r\n", 401},
		{"no key", fmt.Sprintf("Content-Length: %d", len(large)), large, 401},
		{"nothing sent yet", fmt.Sprintf("Authorization: Bearer okta-expired\r\nExpect: 100-continue\r\nContent-Length: %d", len(large)), "", 401},
		{"nobody can tell", fmt.Sprintf("Authorization: Bearer okta-later\r\nContent-Length: %d", len(large)), large, 503},
		{"somebody", fmt.Sprintf("Authorization: Bearer okta-carol\r\nContent-Length: %d", len(large)), large, 400},
		{"somebody in chunks", "Authorization: Bearer okta-carol\r\nTransfer-Encoding: chunked", fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(large), large), 400},
	} {
		conn := w.dial()
		go io.WriteString(conn, "POST /v1/chat/completions HTTP/1.1\r\nHost: g\r\n"+c.head+"\r\n\r\n"+c.body)
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if b := slurp(t, resp.Body); resp.StatusCode != c.status || !strings.Contains(b, `"type":"error"`) {
			t.Errorf("%s: %s %s", c.name, resp.Status, b)
		}
		conn.Close()
	}
}

// Whom a client certificate names, an identifier is shown only if the handshake verified it.
func TestShownCertificate(t *testing.T) {
	t.Parallel()
	server, pool := selfSigned(t)
	client, clients := selfSigned(t)
	for _, c := range []struct {
		name    string
		auth    tls.ClientAuthType
		present bool
		want    int
	}{
		{"verified", tls.VerifyClientCertIfGiven, true, 200},
		{"none", tls.VerifyClientCertIfGiven, false, 401},
		{"not verified", tls.RequestClientCert, true, 401},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, func(cfg *Config) {
				cfg.TLS = &tls.Config{Certificates: []tls.Certificate{server}, ClientAuth: c.auth, ClientCAs: clients}
				cfg.Identifiers = []Identifier{identifier(func(s Shown) (*Principal, error) {
					if s.Cert == nil || s.Bearer != nil || !s.Remote.Addr().IsLoopback() {
						return nil, ErrNotMine
					}
					return &Principal{Name: "cn:" + s.Cert.Subject.CommonName, How: ByCert}, nil
				})}
			})
			conf := &tls.Config{RootCAs: pool}
			if c.present {
				conf.Certificates = []tls.Certificate{client}
			}
			hc := &http.Client{Transport: &http.Transport{TLSClientConfig: conf}}
			defer hc.CloseIdleConnections()
			body := chat(strings.Repeat("x", 200<<10), false) // more than a stranger may send
			if c.want != 200 {
				body = chat("hello", false)
			}
			for range 2 {
				resp, err := hc.Post("https://localhost:"+strings.Split(w.at, ":")[1]+"/v1/chat/completions", "application/json", strings.NewReader(body))
				if err != nil {
					t.Fatal(err)
				}
				slurp(t, resp.Body)
				resp.Body.Close()
				if resp.StatusCode != c.want {
					t.Fatal(resp.Status)
				}
				if c.want == 200 {
					if q := w.session(resp.Header.Get(SessionHeader)).records[0]; get(q, record.FieldCaller) != "cn:test" || get(q, record.FieldHow) != "cert" {
						t.Errorf("on record is %q", get(q, record.FieldCaller))
					}
				}
			}
		})
	}
}

// Strangers fill the log at a rate and no faster; those beyond are counted.
func TestRation(t *testing.T) {
	r := ration{most: 3, pause: time.Second}
	now := time.Now()
	for i, c := range []struct {
		after time.Duration
		want  bool
	}{{0, true}, {0, true}, {0, true}, {0, false}, {time.Second, true}, {0, false}, {999 * time.Millisecond, false}, {time.Millisecond, true}, {0, false}, {time.Hour, true}, {0, true}, {0, true}, {0, false}} {
		now = now.Add(c.after)
		if r.take(now) != c.want {
			t.Fatalf("step %d", i)
		}
	}
	w := newWorld(t, func(cfg *Config) { cfg.Identifiers = []Identifier{tokens("okta-", nil)} })
	w.g.strangers.used, w.g.strangers.last = strangersAtOnce-2, time.Now().Add(time.Hour)
	for range 5 {
		resp, err := w.doAs(t.Context(), "okta-expired", "POST", "/v1/chat/completions", "{}")
		if err != nil {
			t.Fatal(err)
		}
		wantRefusal(t, resp, 401, "invalid_api_key", true)
	}
	if err := w.stop(); err != nil {
		t.Fatal(err)
	}
	kept, shed := 0, 0
	for _, e := range w.entries() {
		shed += int(e.Shed)
		if e.Kind == record.Refused {
			kept++
		}
	}
	if kept != 2 || shed != 3 {
		t.Errorf("%d on record and %d counted, want 2 and 3", kept, shed)
	}
}
