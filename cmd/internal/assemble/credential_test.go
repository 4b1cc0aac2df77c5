package assemble

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tallystick/tallystick/cmd/internal/config"
	"github.com/tallystick/tallystick/keys"
)

// A credential that changes in its file is another one within half a minute; what is no credential changes nothing.
func TestCredentialIsRenewed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "model.key")
		put := func(s string) {
			if err := os.WriteFile(path, []byte(s), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		put("sk-first-0001\n")
		said := new(bytes.Buffer)
		refs := NewKeyring(&config.Config{}, Env{LookupEnv: func(string) (string, bool) { return "", false }, Logger: slog.New(slog.NewTextHandler(said, nil))})
		s, err := refs.Renewed(t.Context(), "openai", config.Credential{Credential: keys.Credential{File: path}})
		if err != nil {
			t.Fatal(err)
		}
		if len(refs.Runs) != 1 {
			t.Fatalf("%d runs", len(refs.Runs))
		}
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- refs.Runs[0](ctx) }()
		for _, c := range []struct{ put, want, said string }{
			{"sk-first-0001\n", "sk-first-0001", ""},
			{"sk-second-002\n", "sk-second-002", "was renewed"},
			{"short", "sk-second-002", "stays what it was"},
			{"two words of it", "sk-second-002", "stays what it was"},
			{"", "sk-second-002", "stays what it was"},
			{"sk-third-0003", "sk-third-0003", "was renewed"},
		} {
			put(c.put)
			said.Reset()
			time.Sleep(renewal + time.Second)
			synctest.Wait()
			if got := string(s.Reveal()); got != c.want {
				t.Errorf("%q makes it %q, want %q", c.put, got, c.want)
			}
			if got := said.String(); (c.said == "") != (got == "") || !strings.Contains(got, c.said) || strings.Contains(got, "sk-") {
				t.Errorf("%q: it is said: %s", c.put, got)
			}
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		time.Sleep(renewal + time.Second)
		synctest.Wait()
		if string(s.Reveal()) != "sk-third-0003" {
			t.Error("it is lost with its file")
		}
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if _, err := refs.Renewed(t.Context(), "openai", config.Credential{Credential: keys.Credential{File: path}}); err == nil || !strings.Contains(err.Error(), "openai: ") {
			t.Errorf("a credential that is not there: %v", err)
		}
	})
}

// A credential that is kept in Vault is read anew there.
func TestCredentialInVault(t *testing.T) {
	var now atomic.Value
	now.Store("sk-vault-0001")
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Header.Get("X-Vault-Token") != "t" && r.URL.Path != "/v1/sys/health":
			http.Error(w, `{"errors":["permission denied"]}`, http.StatusForbidden)
		case r.URL.Path == "/v1/kv/data/models":
			json.NewEncoder(w).Encode(map[string]any{"data": map[string]any{"data": map[string]any{"openai": now.Load()}, "metadata": map[string]any{"version": 1, "created_time": "2026-01-01T00:00:00Z", "deletion_time": "", "destroyed": false}}})
		default:
			json.NewEncoder(w).Encode(map[string]any{"data": map[string]any{"ttl": 0, "renewable": false}})
		}
	}))
	defer srv.Close()
	c := &config.Config{Vault: &config.Vault{Address: srv.URL}}
	c.Vault.Login.Token = keys.Credential{Env: "T"}
	refs := NewKeyring(c, Env{LookupEnv: func(name string) (string, bool) { return "t", name == "T" }, Logger: slog.New(slog.DiscardHandler)})
	s, err := refs.Renewed(t.Context(), "openai", config.Credential{Vault: "kv/models#openai"})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"sk-vault-0001", "sk-vault-0002"} {
		now.Store(want)
		if err := s.(*credential).look(t.Context()); err != nil || string(s.Reveal()) != want {
			t.Errorf("%q %v", s.Reveal(), err)
		}
	}
	now.Store("no")
	if err := s.(*credential).look(t.Context()); err == nil || string(s.Reveal()) != "sk-vault-0002" {
		t.Errorf("%q %v", s.Reveal(), err)
	}
	srv.Close()
	if err := s.(*credential).look(t.Context()); err == nil || string(s.Reveal()) != "sk-vault-0002" {
		t.Errorf("%q %v", s.Reveal(), err)
	}
}
