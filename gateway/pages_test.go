package gateway

import (
	"context"
	"net/http"
	"strings"
	"testing"

	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/record"
	"github.com/tallystick/tallystick/tlog/tlogtest"
)

// signing are Pages on which everybody is dora, and it is put on record.
type signing struct{ who *Principal }

func (s signing) ServePage(w http.ResponseWriter, r *http.Request, from *Principal, note Note) {
	if r.URL.Path != ownPrefix+"login" {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	if err := note(s.who, "log-in", "session token 17"); err != nil {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
}

// What people do on pages is on record when the page says that it was done: who, how known, from where, why, what. Where it
// cannot be, the page is told so; and nothing else that is asked of pages is on record.
func TestNote(t *testing.T) {
	t.Parallel()
	for _, mode := range []Mode{Strict, Overlap, Open} {
		who := &Principal{Name: "idp:dora", How: ByOIDC, Email: "dora@example.com", Groups: []string{"staff"}}
		w := newWorld(t, func(c *Config) { c.Mode, c.Pages = mode, signing{who} })
		visit := func(path string) int {
			t.Helper()
			resp, err := w.client.Get(w.base + path)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			return resp.StatusCode
		}
		accesses := func() (all []record.Entry) {
			t.Helper()
			for _, e := range w.entries() {
				if e.Kind == record.Access {
					all = append(all, e)
				}
			}
			return all
		}
		if code := visit(ownPrefix + "login/page"); code != http.StatusNoContent || len(accesses()) != 0 {
			t.Errorf("%v: %d, %d entries", mode, code, len(accesses()))
		}
		if code := visit(ownPrefix + "login"); code != http.StatusOK {
			t.Fatalf("%v: %d", mode, code)
		}
		all := accesses()
		if len(all) != 1 || !all[0].Session.IsZero() || all[0].By != "gw-test" {
			t.Fatalf("%v: %+v", mode, all)
		}
		r := w.open(all[0])
		for i, want := range []struct{ name, value string }{
			{record.FieldActor, "idp:dora"}, {record.FieldActorHow, "oidc"}, {record.FieldActorEmail, "dora@example.com"}, {record.FieldRemote, "127.0.0.1:"},
			{record.FieldReason, "log-in"}, {record.FieldWhat, "session token 17"},
		} {
			if len(r) != 6 || r[i].Name != want.name || !strings.HasPrefix(string(r[i].Value), want.value) {
				t.Fatalf("%v: field %d is %q, want %s %q", mode, i, r, want.name, want.value)
			}
		}
		w.log.Inject(tlogtest.Faults{Append: func(_ context.Context, leaves []tlog.Leaf) error {
			for _, l := range leaves {
				if e, err := record.ParseEntry(l.Entry); err == nil && e.Kind == record.Access {
					return tlog.ErrBusy
				}
			}
			return nil
		}})
		if code := visit(ownPrefix + "login"); code != http.StatusServiceUnavailable {
			t.Errorf("%v: what could not be recorded was done: %d", mode, code)
		}
		w.log.Inject(tlogtest.Faults{})
		if n := len(accesses()); n != 1 {
			t.Errorf("%v: %d entries", mode, n)
		}
		w.faulty = true // the entry that was lost is in a gap
	}
}
