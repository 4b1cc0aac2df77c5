package gateway

import (
	"errors"
	"net/http"
	"testing"

	"github.com/tallystick/tallystick/tlog/record"
)

// Approvers who are let in beside the gateway's own address decide by the same rules as those who come over HTTP, and see as much.
func TestApproversBeside(t *testing.T) {
	t.Parallel()
	w := newAsking(t, func(c *Config) {
		for i := range c.Callers {
			if c.Callers[i].Name == "alice" {
				c.Callers[i].Email = "alice@example.org"
			}
		}
	})
	ctx := t.Context()
	carol := &Principal{Name: "carol", How: ByToken, Email: "carol@example.org", Groups: []string{"approvers"}}
	mallory := &Principal{Name: "mallory", How: ByToken, Groups: []string{"staff"}}
	self := &Principal{Name: "idp:alice", How: ByToken, Email: "Alice@Example.org", Groups: []string{"approvers"}}
	refusedAs := func(err error, status int, code string) {
		t.Helper()
		var no *Refused
		if !errors.As(err, &no) || no.Status != status || no.Code != code || no.Message == "" {
			t.Errorf("%v, want %d %s", err, status, code)
		}
	}
	changed := w.g.ApprovalsChanged()
	body := ask("ask", "please")
	done := w.calling(callerKey, "/v1/chat/completions", body)
	<-changed
	id, err := record.ParseID(w.waiting(carolsKey, 1)[0].ID)
	if err != nil {
		t.Fatal(err)
	}
	if list := w.g.Approvals(carol); len(list) != 1 || list[0].ID != id.String() || list[0].Yours || list[0].Request != nil {
		t.Errorf("%+v", list)
	}
	if list := w.g.Approvals(mallory); len(list) != 0 {
		t.Errorf("%+v", list)
	}
	_, err = w.g.Look(ctx, mallory, id)
	refusedAs(err, http.StatusNotFound, "unknown_approval")
	_, err = w.g.Decide(ctx, mallory, id, "approve", "")
	refusedAs(err, http.StatusNotFound, "unknown_approval")
	_, err = w.g.Decide(ctx, carol, id, "approve", "")
	refusedAs(err, http.StatusPreconditionRequired, "look_first")
	_, err = w.g.Decide(ctx, carol, id, "deny", " ")
	refusedAs(err, http.StatusBadRequest, "reason_needed")
	_, err = w.g.Decide(ctx, carol, id, "perhaps", "")
	refusedAs(err, http.StatusBadRequest, "no_decision")
	// The same e-mail address is the same person, whatever he was called when he called.
	if q, err := w.g.Look(ctx, self, id); err != nil || !q.Yours || q.Request != nil {
		t.Errorf("%v %+v", err, q)
	}
	_, err = w.g.Decide(ctx, self, id, "approve", "")
	refusedAs(err, http.StatusForbidden, "self_approval")

	if q, err := w.g.Look(ctx, carol, id); err != nil || q.Request == nil || q.Request.Body == nil || *q.Request.Body != body {
		t.Fatalf("%v %+v", err, q)
	}
	changed = w.g.ApprovalsChanged()
	if q, err := w.g.Decide(ctx, carol, id, "approve", "it is fine"); err != nil || len(q.Yes) != 1 {
		t.Fatalf("%v %+v", err, q)
	}
	<-changed
	if a := <-done; a.status != 200 || a.session != id.String() {
		t.Errorf("%+v", a)
	}
	w.tells(id.String(), "request question access granted used complete")
	_, err = w.g.Decide(ctx, carol, id, "deny", "too late")
	var no *Refused
	if !errors.As(err, &no) || no.Code != "already_decided" && no.Code != "unknown_approval" {
		t.Error(err)
	}
}
