package audit

import (
	"bytes"
	"errors"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/record"
	"github.com/tallystick/tallystick/tlog/record/original"
	"github.com/tallystick/tallystick/tlog/tlogtest"
)

// Originals are sealed to people who are not here. The desk hands one out as it is, in a bundle that proves it, once that is on
// record; with the session's data key gone nobody can open it, the right identity or not.
func TestUnseal(t *testing.T) {
	w := newWorld(t)
	key, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	identity, err := original.ParseIdentity(strings.NewReader(key.String()))
	if err != nil {
		t.Fatal(err)
	}
	sealer, err := original.NewSealer([]string{key.Recipient().String()})
	if err != nil {
		t.Fatal(err)
	}
	const asked, answered = "my card is 4111 1111 1111 1111", "so it is 4111 1111 1111 1111"
	session := func(request, response bool) record.ID {
		id := record.NewID(time.Now())
		q, p := of(record.FieldSession, id.String(), record.FieldBody, "my card is [CARD]"), of(record.FieldStatus, "200", record.FieldBody, "so it is [CARD]")
		if request {
			if err := sealer.Add(&q, record.FieldBody, []byte(asked)); err != nil {
				t.Fatal(err)
			}
		}
		if response {
			if err := sealer.Add(&p, record.FieldBody, []byte(answered)); err != nil {
				t.Fatal(err)
			}
		}
		ticket := w.put(record.Entry{Kind: record.Request, Session: id}, nil, q)
		w.put(record.Entry{Kind: record.Response, Session: id, Outcome: record.Complete}, ticket, p)
		return id
	}
	none, one, both := session(false, false), session(false, true), session(true, true)
	w.published()
	for _, x := range []struct {
		id          record.ID
		field, want string
	}{
		{one, "", answered}, {one, "body", answered}, {one, "response.body", answered}, {both, "request.body", asked}, {both, "response.body", answered},
		{none, "", ""}, {none, "body", ""}, {one, "request.body", ""}, {one, "status", ""}, {one, "original.body", ""}, {one, "response.*", ""},
		{both, "", ""}, {both, "body", ""}, {both, "*", ""},
	} {
		raw, err := w.desk.Unseal(t.Context(), somebody, x.id, x.field)
		if x.want == "" {
			if !errors.Is(err, ErrNoField) || raw != nil {
				t.Errorf("%q: %d bytes, %v", x.field, len(raw), err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%q: %v", x.field, err)
			continue
		}
		var sealed [][]byte
		for _, e := range w.holds(raw).Sessions[0].Entries {
			for _, f := range e.Fields {
				if f.Shown != nil {
					sealed = append(sealed, f.Shown.Value)
				}
			}
		}
		if len(sealed) != 1 || bytes.Contains(raw, []byte("4111")) || bytes.Contains(raw, []byte("[CARD]")) {
			t.Fatalf("%q: %d fields are shown", x.field, len(sealed))
		}
		if got, err := identity.Open(sealed[0]); err != nil || string(got) != x.want {
			t.Errorf("%q: %q, %v", x.field, got, err)
		}
	}
	// Who only looks, or plays an answer back, is not given what is unsealed on record; an auditor's evidence is whole.
	const files = "age-encryption.org/v1"
	seen, err := w.desk.View(t.Context(), Asker{Name: "vic", Reason: "a complaint", Roles: Viewer}, both, "")
	if err != nil {
		t.Fatal(err)
	}
	shown := 0
	for _, e := range seen.Entries {
		for _, f := range e.Fields {
			if f.Shown != nil {
				if shown++; bytes.Contains(f.Shown.Value, []byte(files)) || strings.HasPrefix(f.Shown.Name, record.FieldOriginal) {
					t.Errorf("a viewer is shown %s", f.Shown.Name)
				}
			}
		}
	}
	if shown != 4 {
		t.Errorf("a viewer is shown %d fields, of 4", shown)
	}
	for act, want := range map[Act]int{Play: 0, Export: 2} {
		raw, err := w.desk.Bundle(t.Context(), somebody, act, "", both)
		if err != nil {
			t.Fatal(err)
		}
		got := 0
		for _, e := range w.holds(raw).Sessions[0].Entries {
			for _, f := range e.Fields {
				if f.Shown != nil && bytes.HasPrefix(f.Shown.Value, []byte(files)) {
					got++
				}
			}
		}
		if got != want {
			t.Errorf("to %s %d originals are shown, of %d", act, got, want)
		}
	}
	if got, want := w.readings(one)[:4], []string{
		"ann; a complaint; unseal; response.original.body", "ann; a complaint; unseal; response.original.body", "ann; a complaint; unseal; response.original.body",
		"ann; a complaint; unseal, in vain; request.body",
	}; !slices.Equal(got, want) {
		t.Errorf("on record is %q", got)
	}
	for _, who := range []Asker{{}, {Name: "ann"}, {Reason: "a complaint"}} {
		if raw, err := w.desk.Unseal(t.Context(), who, one, ""); !errors.Is(err, ErrNobody) || raw != nil {
			t.Errorf("%+v: %d bytes, %v", who, len(raw), err)
		}
	}
	w.log.Inject(tlogtest.Faults{Append: tlogtest.Always(tlog.ErrFull)})
	if raw, err := w.desk.Unseal(t.Context(), somebody, one, ""); !errors.Is(err, tlog.ErrFull) || raw != nil {
		t.Errorf("with a full log: %d bytes, %v", len(raw), err)
	}
	w.log.Inject(tlogtest.Faults{})

	// What lies in the store is no age file, and without the data key never becomes one.
	found, err := w.desk.find(t.Context(), one)
	if err != nil {
		t.Fatal(err)
	}
	payload, err := w.log.Payload(t.Context(), found[1].Entry.Payload)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(payload, []byte("age-encryption")) || bytes.Contains(payload, []byte("X25519")) {
		t.Error("the age file lies open in the payload")
	}
	name, err := record.KeyOf(payload)
	if err != nil {
		t.Fatal(err)
	}
	w.keys.mu.Lock()
	delete(w.keys.keys, name)
	w.keys.mu.Unlock()
	if raw, err := w.desk.Unseal(t.Context(), somebody, one, ""); err == nil || raw != nil {
		t.Errorf("with the data key gone: %d bytes, %v", len(raw), err)
	}
	if got, err := identity.Open(payload); err == nil || got != nil {
		t.Errorf("the payload itself opens: %q", got)
	}
}

func TestUnsealHandler(t *testing.T) {
	w := newWorld(t)
	c := w.call(1)
	sealed := record.NewID(time.Now())
	ticket := w.put(record.Entry{Kind: record.Request, Session: sealed}, nil, of("original.body", "an age file", record.FieldBody, "masked"))
	w.put(record.Entry{Kind: record.Response, Session: sealed, Outcome: record.Complete}, ticket, of(record.FieldStatus, "200"))
	w.published()
	srv := httptest.NewServer(w.handler())
	defer srv.Close()
	for _, x := range []struct {
		path, auth, actor string
		want              int
		has               string
	}{
		{"original/" + sealed.String(), deskToken, "ann", 200, "an age file"},
		{"original/" + sealed.String() + "?field=request.body", deskToken, "ann", 200, "an age file"},
		{"original/" + sealed.String() + "?field=response.body", deskToken, "ann", 400, "no sealed original"},
		{"original/" + c.id.String(), deskToken, "ann", 400, "no sealed original"},
		{"original/" + sealed.String(), deskToken, "", 400, ""},
		{"original/" + sealed.String(), "op-x", "ann", 401, ""},
		{"original/x", deskToken, "ann", 400, ""},
	} {
		if status, b := get(t, srv.URL+Prefix+x.path, x.auth, x.actor); status != x.want || !strings.Contains(b, x.has) || status != 200 && strings.Contains(b, "age file") {
			t.Errorf("%s: status %d: %s", x.path, status, b)
		}
	}
}
