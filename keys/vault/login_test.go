package vault

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tallystick/tallystick/keys"
)

// prove asks for something that needs a session.
func prove(t *testing.T, f *fake, c *Client) error {
	t.Helper()
	f.mu.Lock()
	if f.keys["log"] == nil {
		f.addKey(t, "log", Ed25519)
	}
	f.mu.Unlock()
	_, err := c.Signer(t.Context(), ref(t, "vault:transit/log?version=1"), origin, "")
	return err
}

func TestLogIn(t *testing.T) {
	here := keys.Credential{Env: "SECRET"}
	for _, row := range []struct {
		name   string
		login  func(t *testing.T) Login
		secret string // in the environment
		err    string // "" where it works
	}{
		{"token", func(*testing.T) Login { return Login{Token: here} }, canary + "root", ""},
		{"token in a file", func(t *testing.T) Login { return Login{Token: keys.Credential{File: write(t, canary+"root\n")}} }, "", ""},
		{"AppRole", func(*testing.T) Login { return Login{AppRole: &AppRole{RoleID: "role-1", SecretID: here}} }, canary + "secret-id", ""},
		{"AppRole elsewhere", func(*testing.T) Login {
			return Login{AppRole: &AppRole{Mount: "other/approle", RoleID: "role-1", SecretID: here}}
		}, canary + "secret-id", ""},
		{"Kubernetes", func(t *testing.T) Login {
			return Login{Kubernetes: &Kubernetes{Role: "tally", Token: write(t, canary+"jwt")}}
		}, "", ""},
		{"JWT", func(*testing.T) Login { return Login{JWT: &JWT{Role: "tally", Token: here}} }, canary + "jwt", ""},

		{"a token that is none", func(*testing.T) Login { return Login{Token: here} }, canary + "nobody", "not valid here, or may not ask about itself"},
		{"no token", func(*testing.T) Login { return Login{Token: here} }, "", "is empty"},
		{"a token of two lines", func(*testing.T) Login { return Login{Token: here} }, canary + "\n" + canary, "more than one line"},
		{"a token's file that is not there", func(*testing.T) Login { return Login{Token: keys.Credential{File: "/nonexistent/token"}} }, "", "/nonexistent/token"},
		{"a wrong secret-id", func(*testing.T) Login { return Login{AppRole: &AppRole{RoleID: "role-1", SecretID: here}} }, canary + "wrong", "invalid role or secret ID"},
		{"no such mount", func(*testing.T) Login {
			return Login{AppRole: &AppRole{Mount: "nowhere", RoleID: "role-1", SecretID: here}}
		}, canary + "secret-id", "answered 403"},
		{"a wrong JWT", func(*testing.T) Login { return Login{JWT: &JWT{Role: "tally", Token: here}} }, canary + "wrong", "permission denied"},
		{"outside of Kubernetes", func(*testing.T) Login { return Login{Kubernetes: &Kubernetes{Role: "tally"}} }, "", "/var/run/secrets/kubernetes.io"},
	} {
		t.Run(row.name, func(t *testing.T) {
			f := newFake()
			c := f.client(t, func(cfg *Config) {
				cfg.Login = row.login(t)
				cfg.Lookup = func(string) (string, bool) { return row.secret, true }
			})
			err := prove(t, f, c)
			if (err == nil) != (row.err == "") || err != nil && !strings.Contains(err.Error(), row.err) {
				t.Errorf("%v, want %q", err, row.err)
			}
			if err != nil {
				wantNoTrace(t, err.Error())
			}
		})
	}
}

// TestLogInSenseless has Vault answer a log-in with what is no token.
func TestLogInSenseless(t *testing.T) {
	for _, answer := range []string{`{}`, `{"auth":null}`, `{"auth":{}}`, `{"auth":{"client_token":""}}`, `{"auth":{"client_token":7}}`, `[]`, ``, `{"auth":{"client_token":"x","lease_duration":"y"}}`} {
		f := newFake()
		f.fault = func(w http.ResponseWriter, r *http.Request, body map[string]any) bool {
			fmt.Fprint(w, answer)
			return true
		}
		if err := prove(t, f, f.client(t, nil)); err == nil || !strings.Contains(err.Error(), "log in to Vault: by approle: PUT auth/approle/login: the answer makes no sense") {
			t.Errorf("%s: %v", answer, err)
		}
	}
}

// TestWrapped opens a wrapping token once, logs in with what was in it again and again, and tells a token that was opened
// by somebody else, or made elsewhere, from others.
func TestWrapped(t *testing.T) {
	f := newFake()
	f.ttl = time.Hour
	data := map[string]any{"secret_id": f.secretID, "secret_id_accessor": "a"}
	f.wraps[canary+"wrapping-1"] = wrap{"auth/approle/role/tally/secret-id", data}
	f.wraps[canary+"wrapping-2"] = wrap{"auth/approle/role/tally/secret-id", data}
	f.wraps[canary+"cubbyhole"] = wrap{"sys/wrapping/wrap", data}
	f.wraps[canary+"other-mount"] = wrap{"auth/approle2/role/tally/secret-id", data}
	f.wraps[canary+"no-secret"] = wrap{"auth/approle/role/tally/secret-id", map[string]any{"other": 1}}
	path := write(t, canary+"wrapping-1")
	put := func(name string) {
		if err := os.WriteFile(path, []byte(canary+name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	open := func() *Client {
		return f.client(t, func(cfg *Config) {
			cfg.Login = Login{AppRole: &AppRole{RoleID: "role-1", SecretID: keys.Credential{File: path}, Wrapped: true}}
		})
	}
	synctest.Test(t, func(t *testing.T) {
		c := open()
		for range 3 {
			if err := prove(t, f, c); err != nil {
				t.Fatal(err)
			}
			f.revoke()
			time.Sleep(2 * time.Second)
		}
		if n := f.logIns(); n != 3 {
			t.Errorf("%d log-ins", n)
		}
		put("wrapping-2") // an operator puts a new one there
		f.revoke()
		time.Sleep(2 * time.Second)
		if err := prove(t, f, c); err != nil {
			t.Error(err)
		}
		if len(f.wraps) != 3 {
			t.Errorf("%d wrapping tokens are left", len(f.wraps))
		}
		// Whoever asked first does not wait until it is open. It is opened for the next one.
		f.wraps[canary+"wrapping-3"] = wrap{"auth/approle/role/tally/secret-id", data}
		put("wrapping-3")
		c = open()
		ctx, cancel := context.WithCancel(t.Context())
		f.fault = func(w http.ResponseWriter, r *http.Request, body map[string]any) bool {
			if strings.HasSuffix(r.URL.Path, "/unwrap") {
				cancel()
			}
			return false
		}
		if _, err := c.Secret(ctx, ref(t, "vault:secret/x#y")); !errors.Is(err, context.Canceled) {
			t.Errorf("canceled: %v", err)
		}
		f.fault = nil
		if err := prove(t, f, c); err != nil {
			t.Error(err)
		}
		for name, want := range map[string]string{
			"wrapping-1":  "has been opened before, or has expired. If nobody here opened it, somebody else has",
			"cubbyhole":   "somebody has replaced it",
			"other-mount": "somebody has replaced it",
			"no-secret":   "no secret-id in it",
			"nobody":      "has been opened before",
		} {
			put(name)
			err := prove(t, f, open())
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v, want %q", name, err, want)
				continue
			}
			wantNoTrace(t, err.Error())
		}
	})
}

// running is a client whose Run runs for the length of a test in virtual time.
func running(t *testing.T, f *fake, change func(*Config)) *Client {
	t.Helper()
	c := f.client(t, change)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return c
}

// count tells how often something was asked.
func (f *fake) count(what string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := 0
	for _, a := range f.asked {
		if strings.HasSuffix(a, what) {
			n++
		}
	}
	return n
}

// TestRun lives through a week in virtual time with tokens of every kind, asking something every minute. It is never
// without a session, and does not ask for more of them than it needs.
func TestRun(t *testing.T) {
	const week = 7 * 24 * time.Hour
	for _, row := range []struct {
		name                string
		ttl, max            time.Duration
		batch               bool
		logIns, renewals    int // at least
		mostIns, mostRenews int
	}{
		{"for ever", 0, 0, false, 1, 0, 1, 0},
		{"renewed for ever", time.Hour, 0, false, 1, 7 * 36, 1, 7 * 40},
		{"renewed up to a day", time.Hour, 24 * time.Hour, false, 7, 7 * 30, 9, 7 * 42},
		{"not to be renewed", time.Hour, 0, true, 7 * 36, 0, 7 * 40, 0},
		{"short", 20 * time.Second, time.Minute, false, 7 * 24 * 60, 0, 7 * 24 * 60 * 3, 7 * 24 * 60 * 6},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFake()
				f.ttl, f.max, f.batch = row.ttl, row.max, row.batch
				c := running(t, f, nil)
				for range int(week / time.Minute) {
					time.Sleep(time.Minute)
					if s, _ := c.current(); !s.alive() {
						t.Fatal("it is without a session")
					}
				}
				if n := f.logIns(); n < row.logIns || n > row.mostIns {
					t.Errorf("%d log-ins, want %d to %d", n, row.logIns, row.mostIns)
				}
				if n := f.count("auth/token/renew-self"); n < row.renewals || n > row.mostRenews {
					t.Errorf("%d renewals, want %d to %d", n, row.renewals, row.mostRenews)
				}
			})
		})
	}
}

// TestRunRevoked has the token revoked while nobody asks anything: the next renewal finds out, and there is a fresh log-in at
// once, not when the token would have ended.
func TestRunRevoked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.ttl = time.Hour
		running(t, f, nil)
		time.Sleep(time.Minute)
		f.revoke()
		time.Sleep(40 * time.Minute) // two thirds of the life, and a little
		if n := f.logIns(); n != 2 {
			t.Errorf("%d log-ins", n)
		}
	})
}

// TestRunOutage has Vault away for half an hour, in every way, and once for a day. Within a minute of its return all is
// well, and nobody did anything; meanwhile it was not asked more than it can bear, and the log tells.
func TestRunOutage(t *testing.T) {
	for _, row := range []struct {
		name string
		ttl  time.Duration
		how  func(f *fake)
		long time.Duration
	}{
		{"sealed", 20 * time.Minute, func(f *fake) { f.sealed = true }, 30 * time.Minute},
		{"sealed, shorter than the token", 4 * time.Hour, func(f *fake) { f.sealed = true }, 30 * time.Minute},
		{"hung", 20 * time.Minute, func(f *fake) {
			f.fault = func(w http.ResponseWriter, r *http.Request, body map[string]any) bool {
				<-r.Context().Done()
				return true
			}
		}, 30 * time.Minute},
		{"gone", time.Hour, func(f *fake) {
			f.fault = func(w http.ResponseWriter, r *http.Request, body map[string]any) bool { panic(errCut) }
		}, 24 * time.Hour},
		{"all tokens revoked, and no log-in", time.Hour, func(f *fake) {
			clear(f.tokens)
			f.fault = func(w http.ResponseWriter, r *http.Request, body map[string]any) bool {
				if strings.HasSuffix(r.URL.Path, "/login") {
					refuse(w, 400, "invalid role or secret ID")
					return true
				}
				return false
			}
		}, 30 * time.Minute},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFake()
				f.ttl = row.ttl
				c := running(t, f, nil)
				time.Sleep(time.Minute)
				if err := prove(t, f, c); err != nil {
					t.Fatal(err)
				}
				f.requests()
				f.mu.Lock()
				row.how(f)
				f.mu.Unlock()
				begun := time.Now()
				for time.Since(begun) < row.long {
					time.Sleep(10 * time.Second)
					if err := prove(t, f, c); err == nil {
						t.Fatal("it was answered by nobody")
					}
				}
				f.mu.Lock()
				asked := len(f.asked)
				f.sealed, f.fault = false, nil
				f.mu.Unlock()
				if per := row.long / time.Duration(asked); per < 3*time.Second {
					t.Errorf("asked every %v, %d times", per, asked)
				}
				time.Sleep(time.Minute)
				if err := prove(t, f, c); err != nil {
					t.Errorf("a minute after: %v", err)
				}
				if s, _ := c.current(); !s.alive() {
					t.Error("a minute after there is no session")
				}
			})
		})
	}
}

// TestRunToken lives with a token that was handed out: one that ends, and one that an agent replaces in its file. When it
// has ended that is told again and again, and cured by a new one.
func TestRunToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.batch = true
		life := func(name string, d time.Duration) {
			f.mu.Lock()
			f.tokens[canary+name] = &fakeToken{made: time.Now(), until: time.Now().Add(d)}
			f.mu.Unlock()
		}
		life("first", time.Hour)
		path := write(t, canary+"first")
		log := new(journal)
		c := running(t, f, func(cfg *Config) {
			cfg.Login = Login{Token: keys.Credential{File: path}}
			cfg.Logger = newLogger(log)
		})
		time.Sleep(59 * time.Minute)
		if err := prove(t, f, c); err != nil {
			t.Fatal(err)
		}
		life("second", time.Hour)
		if err := os.WriteFile(path, []byte(canary+"second"), 0o600); err != nil {
			t.Fatal(err)
		}
		for range 58 {
			time.Sleep(time.Minute)
			if err := prove(t, f, c); err != nil {
				t.Errorf("with the second token: %v", err)
			}
		}
		time.Sleep(10 * time.Minute)
		if err := prove(t, f, c); !errors.Is(err, keys.ErrDenied) {
			t.Errorf("it has ended: %v", err)
		}
		told := strings.Count(log.String(), "no log-in to Vault")
		time.Sleep(10 * time.Minute)
		if again := strings.Count(log.String(), "no log-in to Vault"); again < told+10 || again > told+40 {
			t.Errorf("it was told %d times, and then %d", told, again)
		}
		life("third", time.Hour)
		if err := os.WriteFile(path, []byte(canary+"third"), 0o600); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		if err := prove(t, f, c); err != nil {
			t.Errorf("with the third token: %v", err)
		}
		wantNoTrace(t, log.String())
	})
}

// TestLogInOnce asks from many sides at once, of a Vault that is well and of one that is not: one log-in for all, and no
// storm of them.
func TestLogInOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.addKey(t, "log", Ed25519)
		f.sealed = true
		c := f.client(t, nil)
		ask := func(n int) (failed int) {
			errs := make(chan error, n)
			for range n {
				go func() { errs <- prove(t, f, c) }()
			}
			for range n {
				if err := <-errs; err != nil {
					failed++
					if !strings.Contains(err.Error(), "Vault is sealed") {
						t.Errorf("%v does not say why", err)
					}
				}
			}
			return failed
		}
		if n := ask(50); n != 50 || f.count("/login") != 1 {
			t.Errorf("%d failed, after %d log-ins", n, f.count("/login"))
		}
		f.sealed = false
		time.Sleep(time.Second)
		if n := ask(50); n != 0 || f.count("/login") != 2 {
			t.Errorf("%d failed, after %d log-ins", n, f.count("/login"))
		}
		// Who does not wait for a log-in does not spoil it for others.
		c = f.client(t, nil)
		for range 10 { // it may end before the log-in or during it
			ctx, cancel := context.WithCancel(t.Context())
			f.fault = func(http.ResponseWriter, *http.Request, map[string]any) bool { cancel(); return false }
			if _, err := c.Secret(ctx, ref(t, "vault:secret/x#y")); !errors.Is(err, context.Canceled) {
				t.Errorf("canceled: %v", err)
			}
			f.fault = nil
		}
		if n := ask(1); n != 0 {
			t.Error("one that was canceled holds up the next")
		}
	})
}
