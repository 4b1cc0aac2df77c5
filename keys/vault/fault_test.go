package vault

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tallystick/tallystick/keys"
	"github.com/tallystick/tallystick/tlog"
)

// A question is one thing that the client is asked in the table of faults.
type question struct {
	name string
	path string // where its last request goes
	ask  func(ctx context.Context) error
}

// asking returns the questions of the table, each of which has worked.
func asking(t *testing.T, f *fake, c *Client) []question {
	t.Helper()
	k := f.addKey(t, "log", Ed25519)
	f.addKey(t, "kek", "aes256-gcm96")
	s, err := c.Signer(t.Context(), ref(t, "vault:transit/log?version=1"), origin, k.vkey(t, 1))
	if err != nil {
		t.Fatal(err)
	}
	kek, err := c.KEK(ref(t, "vault:transit/kek"))
	if err != nil {
		t.Fatal(err)
	}
	f.mu.Lock()
	f.engine["cas_required"] = true
	f.mu.Unlock()
	l, err := c.Latest(ref(t, "vault:secret/tallystick/anchor"))
	if err != nil {
		t.Fatal(err)
	}
	wrapped, err := kek.Wrap(t.Context(), nil, []byte(canary+"data-key"), []byte("aad"))
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Swap(t.Context(), origin, nil, checkpoint(0).Text()); err != nil {
		t.Fatal(err)
	}
	f.mu.Lock()
	f.kv["openai"] = &fakeSecret{versions: []fakeVersion{{data: map[string]any{"key": canary + "openai"}}}}
	f.mu.Unlock()
	qs := []question{
		{"sign", "/v1/transit/sign/log", func(context.Context) error { _, err := s.Sign([]byte("a\n")); return err }},
		{"read the public key", "/v1/transit/keys/log", func(ctx context.Context) error {
			_, err := c.Signer(ctx, s.Reference(), origin, "")
			return err
		}},
		{"wrap", "/v1/transit/encrypt/kek", func(ctx context.Context) error {
			_, err := kek.Wrap(ctx, nil, []byte(canary+"data-key"), nil)
			return err
		}},
		{"unwrap", "/v1/transit/decrypt/kek", func(ctx context.Context) error { _, err := kek.Unwrap(ctx, nil, wrapped, []byte("aad")); return err }},
		{"load the anchor", "/v1/secret/data/tallystick/anchor/", func(ctx context.Context) error { _, err := l.Load(ctx, origin); return err }},
		{"swap the anchor", "/v1/secret/data/tallystick/anchor/", func(ctx context.Context) error {
			return l.Swap(ctx, origin, checkpoint(0).Text(), checkpoint(0).Text())
		}},
		{"read a secret", "/v1/secret/data/openai", func(ctx context.Context) error {
			_, err := c.Secret(ctx, ref(t, "vault:secret/openai#key"))
			return err
		}},
	}
	for _, q := range qs {
		if err := q.ask(t.Context()); err != nil {
			t.Fatalf("%s: %v", q.name, err)
		}
	}
	return qs
}

// errGoneIfKey stands for keys.ErrGone where a key is asked for, and for none with a meaning elsewhere.
var errGoneIfKey = errors.New("gone, if it is a key")

// echo is a body that repeats all that was sent.
func echo(r *http.Request, body map[string]any) string {
	s := r.Header.Get("X-Vault-Token")
	for _, v := range body {
		s += " " + fmt.Sprint(v)
	}
	return s
}

// TestFaults asks every question of a Vault that is at fault in every way, in virtual time. Wanted is always: an error
// of the right kind, soon enough, that says what is wrong and nothing that is secret; and when the fault is over, an
// answer without anybody's doing, within a minute.
func TestFaults(t *testing.T) {
	type answering = func(w http.ResponseWriter, r *http.Request, body map[string]any) bool
	status := func(code int, text func(r *http.Request, body map[string]any) string) answering {
		return func(w http.ResponseWriter, r *http.Request, body map[string]any) bool {
			w.WriteHeader(code)
			io.WriteString(w, text(r, body))
			return true
		}
	}
	plain := func(s string) func(*http.Request, map[string]any) string {
		return func(*http.Request, map[string]any) string { return s }
	}
	for _, row := range []struct {
		name  string
		fault answering
		want  error  // nil for none of those with a meaning: ask again
		says  string // in the error
	}{
		{"sealed", status(503, plain(`{"errors":["Vault is sealed"]}`)), nil, "503, sealed or not ready: unseal it: Vault is sealed"},
		{"standby without an active node", status(500, plain(`{"errors":["local node not active but active cluster node not found"]}`)), nil, "active cluster node not found"},
		{"500", status(500, plain(`{"errors":["1 error occurred:\n\t* storage is down\n\n"]}`)), nil, "500: 1 error occurred: * storage is down"},
		{"502 of a proxy", status(502, plain("<html>\n<h1>502 Bad Gateway</h1></html>")), nil, "answered 502"},
		{"504 of a proxy", status(504, plain("upstream timed out")), nil, "answered 504"},
		{"404 of a proxy", status(404, plain("<html>not found</html>")), nil, "is this the address of a Vault?"},
		{"404 of another API", status(404, plain(`{"message":"not found"}`)), nil, "is this the address of a Vault?"},
		{"404 of nobody", status(404, plain("")), nil, "is this the address of a Vault?"},
		{"404, no engine", status(404, plain(`{"errors":["no handler for route \"x\". route entry not found."]}`)), errGoneIfKey, "no handler for route"},
		{"429", status(429, plain(`{"errors":["request path \"x\": rate limit quota exceeded"]}`)), nil, "429, too many requests: request path"},
		{"412", status(412, plain(`{"errors":["required index state not present"]}`)), nil, "required index state"},
		{"403", status(403, plain(`{"errors":["1 error occurred:\n\t* permission denied\n\n"]}`)), keys.ErrDenied, "permission denied"},
		{"401", status(401, plain(`{"errors":["unauthorized"]}`)), keys.ErrDenied, "unauthorized"},
		{"hung", hang, nil, "deadline exceeded"},
		{"slow, 30 s", func(w http.ResponseWriter, r *http.Request, body map[string]any) bool {
			time.Sleep(30 * time.Second)
			return false
		}, nil, "deadline exceeded"},
		{"killed", func(http.ResponseWriter, *http.Request, map[string]any) bool { panic(errCut) }, nil, "unexpected EOF"},
		{"redirected", func(w http.ResponseWriter, r *http.Request, body map[string]any) bool {
			http.Redirect(w, r, "https://elsewhere.example"+r.URL.Path, http.StatusTemporaryRedirect)
			return true
		}, nil, "redirects are not followed"},
		{"a huge answer", status(200, plain(`{"data":{"x":"`+strings.Repeat("x", 2<<20)+`"}}`)), nil, "over 1048576 bytes"},
		{"a huge error", status(500, plain(`{"errors":["`+strings.Repeat("x", 2<<20)+`"]}`)), nil, "over 1048576 bytes"},
		{"a long error", status(500, plain(`{"errors":["`+strings.Repeat("ü", 10_000)+`"]}`)), nil, "üü"},
		{"garbage", status(200, plain("\x00\x01garbage")), nil, "makes no sense"},
		{"half an answer", status(200, plain(`{"data":{"signature":"vault:v1:`)), nil, "makes no sense"},
		{"two answers", status(200, plain(`{"data":{}}{"data":{}}`)), nil, "makes no sense"},
		{"an empty answer", status(200, plain("")), nil, "makes no sense"},
		{"no content", status(204, plain("")), nil, "makes no sense"},
		{"no data", status(200, plain(`{"data":null}`)), nil, "makes no sense"},
		{"an empty object", status(200, plain(`{"data":{}}`)), nil, "makes no sense"},
		{"another shape", status(200, plain(`{"data":[1,2]}`)), nil, "makes no sense"},
		{"values of other kinds", status(200, plain(`{"data":{"signature":7,"ciphertext":7,"plaintext":7,"keys":7,"metadata":7}}`)), nil, "makes no sense"},
		{"a page", status(200, plain("<html>Please log in</html>")), nil, "makes no sense"},
		{"what was sent, as an error", status(400, func(r *http.Request, body map[string]any) string {
			return fmt.Sprintf(`{"errors":[%q]}`, echo(r, body))
		}), nil, "answered 400"},
		{"what was sent, as a page", status(500, echo), nil, "answered 500"},
		{"what was sent, as an answer", status(200, echo), nil, "makes no sense"},
		{"terminal escapes", status(500, plain(`{"errors":["\u001b[2J\u202e\nok"]}`)), nil, "ok"},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFake()
				c := f.client(t, nil)
				for _, q := range asking(t, f, c) {
					for _, scope := range []string{q.path, "/v1/"} { // this request alone, and all of Vault with the log-in
						var asked atomic.Int32
						f.fault = func(w http.ResponseWriter, r *http.Request, body map[string]any) bool {
							if !strings.HasPrefix(r.URL.Path, scope) {
								return false
							}
							asked.Add(1)
							return row.fault(w, r, body)
						}
						begun := time.Now()
						ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
						err := q.ask(ctx)
						cancel()
						if err == nil {
							t.Errorf("%s, %s: no error", q.name, scope)
							continue
						}
						if n := asked.Load(); n != 1 && (row.want != keys.ErrDenied || n > 2) {
							t.Errorf("%s, %s: asked %d times", q.name, scope, n)
						}
						if took := time.Since(begun); took > 2*DefaultTimeout {
							t.Errorf("%s, %s: it took %v", q.name, scope, took)
						}
						want := row.want
						if want == errGoneIfKey {
							want = nil
							if strings.HasPrefix(q.path, "/v1/transit/") {
								want = keys.ErrGone
							}
						}
						for _, e := range []error{keys.ErrDenied, keys.ErrGone, keys.ErrNotPinned, keys.ErrWrongKey, tlog.ErrConflict} {
							if errors.Is(err, e) != (e == want) {
								t.Errorf("%s, %s: %v, is it %v?", q.name, scope, err, e)
							}
						}
						if scope == q.path && row.want != errGoneIfKey && q.name != "read a secret" && !strings.Contains(err.Error(), row.says) {
							t.Errorf("%s: %v, want %q in it", q.name, err, row.says)
						}
						if s := err.Error(); len(s) > 1000 || strings.ContainsAny(s, "\n\x1b\u202e") {
							t.Errorf("%s: %d bytes, or not one line: %.200q", q.name, len(s), s)
						}
						wantNoTrace(t, err.Error())
						f.fault = nil
						time.Sleep(time.Minute)
						if err := q.ask(t.Context()); err != nil {
							t.Errorf("%s, %s: a minute after: %v", q.name, scope, err)
						}
					}
				}
			})
		})
	}
}

// TestTokensLost has the token end or be revoked, and be forbidden something, between two questions. What a fresh log-in
// cures is cured; what it does not is told, with no storm of log-ins.
func TestTokensLost(t *testing.T) {
	for _, row := range []struct {
		name   string
		lose   func(f *fake)
		cured  bool
		logIns int // more than before, after ten questions in ten seconds
	}{
		{"expired", func(f *fake) { time.Sleep(2 * time.Hour) }, true, 1},
		{"revoked", func(f *fake) { f.revoke() }, true, 1},
		{"forbidden by a policy", func(f *fake) {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.fault = func(w http.ResponseWriter, r *http.Request, body map[string]any) bool {
				if strings.Contains(r.URL.Path, "/auth/") {
					return false
				}
				refuse(w, 403, "1 error occurred:\n\t* permission denied\n\n")
				return true
			}
		}, false, 1},
		{"revoked as soon as it is made", func(f *fake) {
			f.fault = func(w http.ResponseWriter, r *http.Request, body map[string]any) bool {
				if strings.Contains(r.URL.Path, "/auth/") {
					return false
				}
				refuse(w, 403, "2 errors occurred:\n\t* permission denied\n\t* invalid token\n\n")
				return true
			}
		}, false, 10},
		{"revoked, and the secret-id with it", func(f *fake) { f.revoke(); f.secretID = "another" }, false, 0},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFake()
				f.ttl = time.Hour
				c := f.client(t, func(cfg *Config) { cfg.Lookup = func(string) (string, bool) { return canary + "secret-id", true } })
				qs := asking(t, f, c)
				before := f.logIns()
				time.Sleep(40 * time.Second)
				row.lose(f)
				for range 10 {
					for _, q := range qs[:1] {
						err := q.ask(t.Context())
						if row.cured != (err == nil) {
							t.Errorf("%s: %v", q.name, err)
						}
						if err != nil {
							wantNoTrace(t, err.Error())
						}
					}
					time.Sleep(time.Second)
				}
				if n := f.logIns() - before; n != row.logIns {
					t.Errorf("%d log-ins, want %d", n, row.logIns)
				}
			})
		})
	}
}

// TestSwapOutcomes has the answer to a compare-and-swap lost, after it was applied and before. Either is an error without a
// meaning, and Load settles it: the caller goes on from what is there.
func TestSwapOutcomes(t *testing.T) {
	for _, row := range []struct {
		name    string
		applied bool
		how     func(f *fake)
	}{
		{"applied, and the answer cut off", true, func(f *fake) { f.lose = isSwap }},
		{"applied, and the answer never comes", true, func(f *fake) {
			f.lose = func(r *http.Request) bool {
				if isSwap(r) {
					<-r.Context().Done()
				}
				return false
			}
		}},
		{"cut off before it was applied", false, func(f *fake) {
			f.fault = func(w http.ResponseWriter, r *http.Request, body map[string]any) bool {
				if isSwap(r) {
					panic(errCut)
				}
				return false
			}
		}},
		{"never taken in", false, func(f *fake) {
			f.fault = func(w http.ResponseWriter, r *http.Request, body map[string]any) bool {
				if isSwap(r) {
					<-r.Context().Done()
					return true
				}
				return false
			}
		}},
		{"told that it is another version than was asked for", false, func(f *fake) {
			f.fault = func(w http.ResponseWriter, r *http.Request, body map[string]any) bool {
				if isSwap(r) {
					reply(w, map[string]any{"version": 7})
					return true
				}
				return false
			}
		}},
		{"garbage for an answer", false, func(f *fake) {
			f.fault = func(w http.ResponseWriter, r *http.Request, body map[string]any) bool {
				if isSwap(r) {
					io.WriteString(w, "ok")
					return true
				}
				return false
			}
		}},
		{"500 of a store that did not write", false, func(f *fake) {
			f.fault = func(w http.ResponseWriter, r *http.Request, body map[string]any) bool {
				if isSwap(r) {
					refuse(w, 500, "1 error occurred:\n\t* failed to persist\n\n")
					return true
				}
				return false
			}
		}},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFake()
				f.engine["cas_required"] = true
				c := f.client(t, nil)
				l, err := c.Latest(ref(t, "vault:secret/anchors"))
				if err != nil {
					t.Fatal(err)
				}
				a, b, d := checkpoint(0).Text(), checkpoint(5).Text(), checkpoint(9).Text()
				if err := l.Swap(t.Context(), origin, nil, a); err != nil {
					t.Fatal(err)
				}
				row.how(f)
				err = l.Swap(t.Context(), origin, a, b)
				if err == nil || errors.Is(err, tlog.ErrConflict) {
					t.Fatalf("%v, want an unknown outcome", err)
				}
				f.fault, f.lose = nil, nil
				got, err := l.Load(t.Context(), origin)
				want := a
				if row.applied {
					want = b
				}
				if err != nil || string(got) != string(want) {
					t.Fatalf("it remembers %q, %v", got, err)
				}
				// Whoever does not ask, and tries the same again, is told when it was applied.
				if err := l.Swap(t.Context(), origin, a, b); errors.Is(err, tlog.ErrConflict) != row.applied || !row.applied && err != nil {
					t.Errorf("once more: %v", err)
				}
				if err := l.Swap(t.Context(), origin, b, d); err != nil {
					t.Errorf("and on: %v", err)
				}
			})
		})
	}
}

func isSwap(r *http.Request) bool {
	return r.Method == http.MethodPost && strings.HasPrefix(r.URL.Path, "/v1/secret/data/")
}

// TestConnections has real connections fail: none there, none in the end, and ones that are not to be trusted.
func TestConnections(t *testing.T) {
	f := newFake()
	f.addKey(t, "log", Ed25519)
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	quiet := httptest.NewUnstartedServer(f)
	quiet.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
	quiet.StartTLS()
	defer quiet.Close()
	plain := httptest.NewServer(f)
	defer plain.Close()
	ca := caOf(t, quiet)
	for _, row := range []struct {
		name   string
		change func(*Config)
		err    string // "" where it works
	}{
		{"plain, on this machine", func(c *Config) { c.Address = plain.URL }, ""},
		{"TLS, its authority named", func(c *Config) { c.Address, c.CACert = quiet.URL, write(t, ca) }, ""},
		{"TLS, its authority given", func(c *Config) { c.Address, c.CACertPEM = quiet.URL, ca }, ""},
		{"TLS by another name", func(c *Config) { c.Address, c.CACertPEM, c.TLSServerName = quiet.URL, ca, "example.com" }, ""},
		{"TLS, unverified", func(c *Config) { c.Address, c.SkipVerify = quiet.URL, true }, ""},
		{"nobody there", func(c *Config) { c.Address = "http://" + closed.Addr().String() }, "connection refused"},
		{"an unknown authority", func(c *Config) { c.Address = quiet.URL }, "certificate"},
		{"a wrong name", func(c *Config) { c.Address, c.CACertPEM, c.TLSServerName = quiet.URL, ca, "vault.example" }, "certificate is valid for"},
		{"TLS to plain", func(c *Config) { c.Address = "https" + strings.TrimPrefix(plain.URL, "http") }, "HTTP response to HTTPS"},
		{"plain to TLS", func(c *Config) { c.Address = "http" + strings.TrimPrefix(quiet.URL, "https") }, "answered 400"},
		{"no such socket", func(c *Config) { c.Address = "unix:///nonexistent/vault.sock" }, "no such file"},
		{"a name that is none", func(c *Config) { c.Address = "https://vault.invalid:8200" }, "vault.invalid"},
	} {
		t.Run(row.name, func(t *testing.T) {
			log := new(journal)
			cfg := Config{
				Address: "https://vault.example", Timeout: 20 * time.Second,
				Login: Login{Token: keys.Credential{Env: "TOKEN"}}, Lookup: func(string) (string, bool) { return canary + "root", true },
				Logger: slog.New(slog.NewTextHandler(log, nil)),
			}
			row.change(&cfg)
			c, err := New(cfg)
			if err != nil {
				t.Fatal(err)
			}
			_, err = c.Signer(t.Context(), ref(t, "vault:transit/log?version=1"), origin, "")
			if row.err == "" && err != nil || row.err != "" && (err == nil || !strings.Contains(err.Error(), row.err)) {
				t.Errorf("%v, want %q", err, row.err)
			}
			wantNoTrace(t, fmt.Sprint(err)+log.String())
			if cfg.SkipVerify != strings.Contains(log.String(), "not verified") {
				t.Errorf("the log says: %s", log)
			}
		})
	}
	// Killed between two questions, and back.
	c, err := New(Config{Address: plain.URL, Login: Login{Token: keys.Credential{File: write(t, canary+"root")}}})
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if _, err := c.Signer(t.Context(), ref(t, "vault:transit/log?version=1"), origin, ""); err != nil {
			t.Error(err)
		}
		plain.CloseClientConnections()
	}
}

// TestNoRedirect sees that a token goes to one address alone.
func TestNoRedirect(t *testing.T) {
	reached := 0
	elsewhere := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { reached++ }))
	defer elsewhere.Close()
	for _, code := range []int{301, 302, 303, 307, 308} {
		here := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, elsewhere.URL+r.URL.Path, code)
		}))
		defer here.Close()
		c, err := New(Config{Address: here.URL, Login: Login{Token: keys.Credential{File: write(t, canary+"root")}}})
		if err != nil {
			t.Fatal(err)
		}
		_, err = c.Signer(t.Context(), ref(t, "vault:transit/log?version=1"), origin, "")
		if err == nil || !strings.Contains(err.Error(), "redirects are not followed") || reached != 0 {
			t.Errorf("%d: %v, %d requests elsewhere", code, err, reached)
		}
	}
}
