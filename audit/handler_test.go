package audit

import (
	"errors"
	"net/http/httptest"
	"reflect"
	"testing"
	"time"

	"github.com/tallystick/tallystick/tlog/record"
	"github.com/tallystick/tallystick/verify"
)

// A view comes over the wire as the desk has it, of an open session, too, to nobody without the token, and is on record.
func TestViewHandler(t *testing.T) {
	w := newWorld(t)
	ended, open := w.session(record.NewID(time.Now())), record.NewID(time.Now())
	w.write(record.Entry{Kind: record.Request, Session: open}, nil, "asked in "+open.String())
	w.published()
	srv := httptest.NewServer(w.handler())
	defer srv.Close()
	for id, entries := range map[record.ID]int{ended: 2, open: 1} {
		status, b := get(t, srv.URL+Prefix+"view/"+id.String()+"?detail=its+head", deskToken, "ann")
		got, err := ParseView([]byte(b))
		if status != 200 || err != nil || len(got.Entries) != entries || string(got.Entries[0].Fields[0].Shown.Value) != "asked in "+id.String() {
			t.Fatalf("status %d: %v: %s", status, err, b)
		}
		want, err := w.desk.View(t.Context(), somebody, id, "")
		if err != nil {
			t.Fatal(err)
		}
		for i := range want.Entries {
			want.Entries[i].Proof = nil
			got.Entries[i].Proof = nil
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("over the wire it is another: %+v, %+v", got, want)
		}
		if rs := w.readings(id); len(rs) != 2 || rs[0] != "ann; a test; view, its head" {
			t.Errorf("on record is %q", rs)
		}
	}
	for _, c := range []struct {
		path, token, actor string
		want               int
	}{
		{"view/" + ended.String(), "op-x", "ann", 401}, {"view/" + ended.String(), deskToken, "", 400}, {"view/x", deskToken, "ann", 400},
		{"view/" + record.NewID(time.Now()).String(), deskToken, "ann", 404},
	} {
		if status, b := get(t, srv.URL+Prefix+c.path, c.token, c.actor); status != c.want || len(b) > 300 {
			t.Errorf("%s: status %d: %s", c.path, status, b)
		}
	}
	two, err := AppendView(nil, verify.Session{ID: ended})
	if err == nil {
		t.Errorf("a session without entries is %s", two)
	}
	if _, err := ParseView([]byte("{}")); err == nil {
		t.Error("what is no view is read")
	}
	s, err := w.desk.View(t.Context(), somebody, ended, "")
	if err != nil {
		t.Fatal(err)
	}
	b, err := (&verify.Bundle{Sessions: []verify.Session{s, s}}).Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ParseView(b); !errors.Is(err, errRequest) {
		t.Errorf("two sessions: %v", err)
	}
}
