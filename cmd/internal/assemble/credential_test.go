package assemble

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
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
		s, err := refs.RouteCredential(t.Context(), "openai", config.Credential{Credential: keys.Credential{File: path}})
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
		if _, err := refs.RouteCredential(t.Context(), "openai", config.Credential{Credential: keys.Credential{File: path}}); err == nil || !strings.Contains(err.Error(), `"openai"`) {
			t.Errorf("a credential that is not there: %v", err)
		}
	})
}
