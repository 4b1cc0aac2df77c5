package audit

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/record"
	"github.com/tallystick/tallystick/tlog/tlogtest"
	"github.com/tallystick/tallystick/verify"
)

// put seals a record and appends its entry.
func (w *world) put(e record.Entry, after *record.Ticket, r record.Record) *record.Ticket {
	w.t.Helper()
	id, key, err := w.keys.New(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	e.Root, e.Fields = r.Root(), len(r)
	sealed, err := w.coder.Seal(r, key, id, record.Binding{Kind: e.Kind, Session: e.Session, Root: e.Root})
	if err != nil {
		w.t.Fatal(err)
	}
	e.Payload, e.PayloadSize = record.Sum(sealed), int64(len(sealed))
	t, err := w.pen.Write(w.t.Context(), record.Draft{Entry: e, Payload: sealed, After: after})
	if err != nil {
		w.t.Fatal(err)
	}
	return t
}

// of makes a record of names and values, each after the other.
func of(pairs ...string) (r record.Record) {
	for i := 0; i < len(pairs); i += 2 {
		r.Add(pairs[i], []byte(pairs[i+1]))
	}
	return r
}

// A call is a session with what its records hold.
type call struct {
	id                record.ID
	request, response record.Record
}

// call writes a session with a body of so many bytes, in which some values are few enough to be guessed.
func (w *world) call(body int) call {
	w.t.Helper()
	id := record.NewID(time.Now())
	c := call{id,
		of(record.FieldSession, id.String(), record.FieldCaller, "miss alice", record.FieldSubject, "alice@idp.example", record.FieldGroups, `["staff"]`,
			record.FieldModel, "fake-1", record.FieldMethod, "POST", record.FieldBody, "asked for "+strings.Repeat("q", body)),
		of(record.FieldSession, id.String(), record.FieldStatus, "200", record.FieldFinish, "stop", record.FieldBody, "answered with "+strings.Repeat("a", body), record.FieldError, ""),
	}
	t := w.put(record.Entry{Kind: record.Request, Session: id}, nil, c.request)
	w.put(record.Entry{Kind: record.Response, Session: id, Outcome: record.Complete}, t, c.response)
	return c
}

func (w *world) trust() verify.Trust {
	w.t.Helper()
	p, err := tlog.ParsePolicy(w.log.Policy())
	if err != nil {
		w.t.Fatal(err)
	}
	return verify.Trust{Policy: p}
}

// holds checks a bundle and takes it apart.
func (w *world) holds(raw []byte) *verify.Bundle {
	w.t.Helper()
	report, err := verify.Check(raw, w.trust())
	if err != nil || !report.OK() {
		w.t.Fatalf("%v %+v", err, report.Findings)
	}
	b, err := verify.Parse(raw)
	if err != nil {
		w.t.Fatal(err)
	}
	return b
}

// The bundle proves what was to be shown. Of the rest it has neither value nor salt nor name, in any spelling, and nobody who
// tries every short value finds one.
func TestDiscloseShowsNothingElse(t *testing.T) {
	w := newWorld(t)
	c := w.call(1000)
	w.published()
	raw, err := w.desk.Disclose(t.Context(), somebody, c.id, "caller.subject", "response.status")
	if err != nil {
		t.Fatal(err)
	}
	b := w.holds(raw)
	_, body, _ := bytes.Cut(raw, []byte("\n"))
	var shown []string
	var salts [][record.SaltBytes]byte
	var leaves []tlog.Hash
	for i, r := range []record.Record{c.request, c.response} {
		for n, f := range b.Sessions[0].Entries[i].Fields {
			if f.Shown != nil {
				shown = append(shown, f.Shown.Name+"="+string(f.Shown.Value))
				salts = append(salts, f.Shown.Salt)
				continue
			}
			leaves = append(leaves, f.Withheld)
			for what, secret := range map[string][]byte{"value": r[n].Value, "salt": r[n].Salt[:], "name": []byte(`"name":"` + r[n].Name + `"`)} {
				if what == "value" && (len(secret) < 4 || r[n].Name == record.FieldSession) { // the session is in the entry, too
					continue
				}
				for _, spelling := range [][]byte{secret, []byte(hex.EncodeToString(secret)), []byte(base64.StdEncoding.EncodeToString(secret)), []byte(base64.URLEncoding.EncodeToString(secret)), []byte(fmt.Sprintf("%q", secret))} {
					if bytes.Contains(body, spelling) {
						t.Errorf("the %s of %s is in the bundle: %q", what, r[n].Name, spelling)
					}
				}
			}
		}
	}
	if want := []string{"caller.subject=alice@idp.example", "status=200"}; !slices.Equal(shown, want) {
		t.Errorf("shown are %q, not %q", shown, want)
	}
	// Whoever knows the names and tries the values, with any salt that he has seen or none.
	var guesses []string
	for i := range 1000 {
		guesses = append(guesses, fmt.Sprint(i))
	}
	guesses = append(guesses, "", "miss alice", "alice", "bob", `["staff"]`, "fake-1", "POST", "GET", "stop", c.id.String())
	for _, name := range []string{record.FieldSession, record.FieldCaller, record.FieldGroups, record.FieldModel, record.FieldMethod, record.FieldFinish, record.FieldError, record.FieldStatus} {
		for _, v := range guesses {
			for _, salt := range append(salts, [record.SaltBytes]byte{}) {
				f := record.Field{Name: name, Salt: salt, Value: []byte(v)}
				if h := f.Hash(); slices.Contains(leaves, h) || slices.Contains(leaves, sha256.Sum256([]byte(v))) {
					t.Errorf("%s = %q can be told from its leaf", name, v)
				}
			}
		}
	}
}

// How long the withheld values are cannot be seen in what is said of the records: bundles of short and of long ones differ in
// nothing but hashes, salts and entries.
func TestDiscloseHidesLengths(t *testing.T) {
	w := newWorld(t)
	short, long := w.call(1), w.call(1<<20)
	w.published()
	var sizes []int
	for _, c := range []call{short, long} {
		raw, err := w.desk.Disclose(t.Context(), somebody, c.id, "response.status")
		if err != nil {
			t.Fatal(err)
		}
		n := len(raw)
		for _, e := range w.holds(raw).Sessions[0].Entries {
			n -= len(e.Bytes) + 47*len(e.Proof) // "HASH", with its comma
			if len(e.Proof) > 0 {
				n++ // which the last has not
			}
			n -= len(fmt.Sprint(e.Index))
		}
		sizes = append(sizes, n)
	}
	if sizes[0] != sizes[1] {
		t.Errorf("of short values it has %d bytes, of long ones %d", sizes[0], sizes[1])
	}
}

// Every way in which a field can be named, and what is then shown.
func TestDiscloseNames(t *testing.T) {
	w := newWorld(t)
	c := w.call(1)
	w.published()
	const requestAll = "request.session request.caller request.caller.subject request.caller.groups request.model request.method request.body"
	for _, x := range []struct{ fields, want string }{
		{"caller.subject,response.status", "request.caller.subject response.status"},
		{"response.status,caller.subject", "request.caller.subject response.status"},
		{"status", "response.status"},
		{"status,response.status", "response.status"},
		{"caller", "request.caller"},
		{"request.caller", "request.caller"},
		{"request.caller.*", "request.caller.subject request.caller.groups"},
		{"request.*", requestAll},
		{"request.*,response.*", requestAll + " response.session response.status response.finish response.body response.error"},
		{"body", ""}, {"session", ""}, // of which of the two?
		{"", ""}, {"*", ""}, {".", ""}, {"caller.*", ""}, {"request.", ""}, {"request", ""}, {"request.call*", ""}, {"request.status", ""}, {"approval.*", ""}, {"response.*.*", ""},
		{"status,nothing", ""}, {"status,", ""}, {"Status", ""}, {"response-1.status", ""}, {"refused.body", ""},
	} {
		raw, err := w.desk.Disclose(t.Context(), somebody, c.id, strings.Split(x.fields, ",")...)
		if x.want == "" {
			if !errors.Is(err, ErrNoField) || raw != nil {
				t.Errorf("%q: %d bytes, %v", x.fields, len(raw), err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%q: %v", x.fields, err)
			continue
		}
		var shown []string
		for _, e := range w.holds(raw).Sessions[0].Entries {
			for _, f := range e.Fields {
				if f.Shown != nil {
					r, err := record.ParseEntry(e.Bytes)
					if err != nil {
						t.Fatal(err)
					}
					shown = append(shown, string(r.Kind)+"."+f.Shown.Name)
				}
			}
		}
		if got := strings.Join(shown, " "); got != x.want {
			t.Errorf("%q shows %s", x.fields, got)
		}
	}
	if _, err := w.desk.Disclose(t.Context(), somebody, c.id); !errors.Is(err, ErrNoField) {
		t.Errorf("no field at all: %v", err)
	}
	if _, err := w.desk.Disclose(t.Context(), somebody, c.id, "body"); err == nil || !strings.Contains(err.Error(), "request.body or response.body") {
		t.Errorf("what can be meant is not told: %v", err)
	}
}

// readings returns what the access entries of a session say, opened.
func (w *world) readings(id record.ID) (all []string) {
	w.t.Helper()
	for _, e := range w.entries() {
		if e.Kind != record.Access || e.Session != id {
			continue
		}
		r, err := w.desk.record(context.Background(), e)
		if err != nil {
			w.t.Fatal(err)
		}
		line := ""
		for i, name := range []string{record.FieldActor, record.FieldReason, record.FieldWhat, record.FieldFields} {
			v, ok := r.Get(name)
			if ok && i > 0 {
				line += "; "
			}
			line += string(v)
		}
		all = append(all, line)
	}
	return all
}

// Who was shown which fields is on record, and who asked in vain; and without a record nothing is shown, not even names.
func TestDiscloseIsRecorded(t *testing.T) {
	w := newWorld(t)
	c := w.call(1)
	w.published()
	if _, err := w.desk.Disclose(t.Context(), somebody, c.id, "status", "request.caller.*"); err != nil {
		t.Fatal(err)
	}
	if _, err := w.desk.Disclose(t.Context(), somebody, c.id, "status", "request.password"); !errors.Is(err, ErrNoField) {
		t.Fatal(err)
	}
	names, err := w.desk.Fields(t.Context(), somebody, c.id)
	if err != nil || len(names) != len(c.request)+len(c.response) || names[2] != "request.caller.subject" {
		t.Errorf("the names are %q: %v", names, err)
	}
	want := []string{
		"ann; a complaint; disclose; request.caller.subject\nrequest.caller.groups\nresponse.status",
		"ann; a complaint; disclose, in vain; status\nrequest.password",
		"ann; a complaint; the names of all fields",
	}
	if got := w.readings(c.id); !slices.Equal(got, want) {
		t.Errorf("on record is %q", got)
	}
	for _, who := range []Asker{{}, {Name: "ann"}, {Reason: "a complaint"}} {
		if raw, err := w.desk.Disclose(t.Context(), who, c.id, "status"); !errors.Is(err, ErrNobody) || raw != nil {
			t.Errorf("%+v: %d bytes, %v", who, len(raw), err)
		}
		if _, err := w.desk.Disclose(t.Context(), who, record.NewID(time.Now()), "status"); !errors.Is(err, ErrNobody) {
			t.Errorf("%+v is told whether there is a session: %v", who, err)
		}
		if names, err := w.desk.Fields(t.Context(), who, c.id); !errors.Is(err, ErrNobody) || names != nil {
			t.Errorf("%+v: %q, %v", who, names, err)
		}
	}
	w.log.Inject(tlogtest.Faults{Append: tlogtest.Always(tlog.ErrFull)})
	for _, field := range []string{"status", "nothing"} {
		if raw, err := w.desk.Disclose(t.Context(), somebody, c.id, field); !errors.Is(err, tlog.ErrFull) || raw != nil {
			t.Errorf("%s, with a full log: %d bytes, %v", field, len(raw), err)
		}
	}
	if names, err := w.desk.Fields(t.Context(), somebody, c.id); !errors.Is(err, tlog.ErrFull) || names != nil {
		t.Errorf("with a full log: %q, %v", names, err)
	}
	w.log.Inject(tlogtest.Faults{})
}

// Of a session that used another's yes both are in the bundle, which verifies; of the other nothing is shown.
func TestDiscloseOfApproved(t *testing.T) {
	w := newWorld(t)
	asked, used := record.NewID(time.Now()), record.NewID(time.Now())
	until := time.Now().Add(time.Hour).UTC().Truncate(time.Microsecond)
	facts := func(id record.ID) record.Record {
		return of(record.FieldSession, id.String(), record.FieldCaller, "alice", record.FieldRoute, "r", record.FieldMethod, "POST", record.FieldTarget, "/v1", record.FieldVerdict, "ask", record.FieldBody, "{}")
	}
	who := func(name string) record.Record {
		return of(record.FieldSession, asked.String(), record.FieldActor, name, record.FieldActorHow, "key", record.FieldReason, "secret reasons of "+name)
	}
	t1 := w.put(record.Entry{Kind: record.Request, Session: asked, Asks: true}, nil, facts(asked))
	t1 = w.put(record.Entry{Kind: record.Approval, Session: asked, Tag: tlog.Hash{1}, Until: until}, t1, of(record.FieldSession, asked.String(), record.FieldNeed, "2", record.FieldAsked, "[]", record.FieldUntil, until.Format(time.RFC3339Nano)))
	t1 = w.put(record.Entry{Kind: record.Approval, Session: asked, Reason: record.Agreed}, t1, who("bob"))
	t1 = w.put(record.Entry{Kind: record.Approval, Session: asked, Reason: record.Granted}, t1, who("carol"))
	grant := w.leafOf(asked, record.Granted)
	t2 := w.put(record.Entry{Kind: record.Request, Session: used, Asks: true}, nil, facts(used))
	t2 = w.put(record.Entry{Kind: record.Approval, Session: used, Reason: record.Used, Grant: grant}, t2, of(record.FieldSession, used.String(), record.FieldApproval, asked.String()))
	w.put(record.Entry{Kind: record.Response, Session: asked, Outcome: record.Resumed}, t1, of(record.FieldSession, asked.String(), record.FieldTimes, "{}"))
	w.put(record.Entry{Kind: record.Response, Session: used, Outcome: record.Complete}, t2, of(record.FieldSession, used.String(), record.FieldStatus, "200"))
	w.published()

	raw, err := w.desk.Disclose(t.Context(), somebody, used, "status")
	if err != nil {
		t.Fatal(err)
	}
	b := w.holds(raw)
	if len(b.Sessions) != 2 || b.Sessions[1].ID != asked {
		t.Fatalf("the bundle has %d sessions", len(b.Sessions))
	}
	for _, e := range b.Sessions[1].Entries {
		if len(e.Fields) == 0 {
			t.Errorf("entry %d has no fields, as if they were erased", e.Index)
		}
		for _, f := range e.Fields {
			if f.Shown != nil {
				t.Errorf("%s of the session that asked is shown", f.Shown.Name)
			}
		}
	}
	if bytes.Contains(raw, []byte("secret")) || bytes.Contains(raw, []byte("carol")) || bytes.Contains(raw, []byte(`"alice"`)) {
		t.Error("more is shown than was asked for")
	}
	if got, want := w.readings(asked), []string{"ann; a complaint; disclose, for the approval that " + used.String() + " used"}; !slices.Equal(got, want) {
		t.Errorf("on record is %q", got)
	}

	// Approvals are many, and are numbered.
	for fields, want := range map[string]string{
		"approval-2.actor": "bob", "approval-3.actor": "carol", "approval-3.*": "carol", "need": "2", "approval.need": "2", "approval.*": "bob",
		"approval.actor": "", "actor": "", "approval-4.actor": "", "approval-0.actor": "",
	} {
		raw, err := w.desk.Disclose(t.Context(), somebody, asked, fields)
		if want == "" {
			if !errors.Is(err, ErrNoField) {
				t.Errorf("%q: %v", fields, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%q: %v", fields, err)
			continue
		}
		w.holds(raw)
		if !bytes.Contains(raw, []byte(`"text":"`+want+`"`)) || strings.Contains(fields, "-") && bytes.Contains(raw, []byte("bob")) != (want == "bob") {
			t.Errorf("%q does not show %s, or more", fields, want)
		}
	}
}

// leafOf returns the leaf hash of a session's approval entry of that reason.
func (w *world) leafOf(id record.ID, reason string) tlog.Hash {
	w.t.Helper()
	found, err := record.FindSession(w.t.Context(), w.log, w.published(), id, 0)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, f := range found {
		if f.Entry.Kind == record.Approval && f.Entry.Reason == reason {
			return tlog.HashLeaf(f.Bytes)
		}
	}
	w.t.Fatalf("no approval of %s is %s", id, reason)
	return tlog.Hash{}
}

// deskToken is that of the handlers of these tests.
const deskToken = "op-0123456789abcdef0123"

func (w *world) handler() http.Handler {
	return Handler(w.desk, sha256.Sum256([]byte(deskToken)), slog.New(slog.DiscardHandler))
}

// get asks a handler for something.
func get(t *testing.T, url, token, actor string) (status int, body string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("Tallystick-Actor", actor)
	req.Header.Set("Tallystick-Reason", "a test")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

func TestDiscloseHandler(t *testing.T) {
	w := newWorld(t)
	c := w.call(1)
	w.published()
	srv := httptest.NewServer(w.handler())
	defer srv.Close()
	for _, x := range []struct {
		path, auth, actor string
		want              int
		has               string
	}{
		{"disclose/" + c.id.String() + "?fields=" + url.QueryEscape("caller.subject,response.status"), deskToken, "ann", 200, "alice@idp.example"},
		{"disclose/" + c.id.String() + "?fields=body", deskToken, "ann", 400, "request.body or response.body"},
		{"disclose/" + c.id.String(), deskToken, "ann", 400, ""},
		{"disclose/" + c.id.String() + "?fields=status", deskToken, "", 400, ""},
		{"disclose/" + c.id.String() + "?fields=status", "op-x", "ann", 401, ""},
		{"disclose/x?fields=status", deskToken, "ann", 400, ""},
		{"disclose/" + record.NewID(time.Now()).String() + "?fields=status", deskToken, "ann", 404, ""},
		{"fields/" + c.id.String(), deskToken, "ann", 200, "request.caller.subject\n"},
		{"fields/" + c.id.String(), deskToken, "", 400, ""},
		{"fields/" + c.id.String(), "op-x", "ann", 401, ""},
		{"fields/x", deskToken, "ann", 400, ""},
		{"fields/" + record.NewID(time.Now()).String(), deskToken, "ann", 404, ""},
	} {
		status, b := get(t, srv.URL+Prefix+x.path, x.auth, x.actor)
		if status != x.want || !strings.Contains(b, x.has) {
			t.Errorf("%s: status %d: %s", x.path, status, b)
		}
		if x.want != 200 && strings.Contains(b, "alice@") || strings.Contains(b, "asked for") {
			t.Errorf("%s shows content: %s", x.path, b)
		}
	}
}

// Whatever is asked for, what is picked is there, no pattern picks what it does not name, and every full name picks itself.
func FuzzChoose(f *testing.F) {
	session := []place{
		{1, "request", []string{"session", "caller", "caller.subject", "body", "approval"}},
		{2, "approval-1", []string{"session", "need"}}, {3, "approval-2", []string{"session", "actor", "request.body"}},
		{7, "response", []string{"session", "status", "body", "request.caller"}},
	}
	there := make(map[string]pick)
	for _, p := range session {
		for _, n := range p.names {
			there[p.name+"."+n] = pick{p.index, n}
		}
	}
	for _, s := range []string{"caller.subject,response.status", "request.*", "approval.*", "approval-2.actor", "request.body", "*", ".", ",", "request.caller.*", "body", "approval", "a.b.c.*"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, list string) {
		patterns := strings.Split(list, ",")
		picked, full, err := choose(session, patterns)
		if err != nil {
			if picked != nil || full != nil || !errors.Is(err, ErrNoField) {
				t.Fatalf("%v: %v %v", err, picked, full)
			}
			return
		}
		if len(full) != len(picked) || len(full) == 0 {
			t.Fatalf("%d names of %d fields", len(full), len(picked))
		}
		for _, name := range full {
			if p, ok := there[name]; !ok || !picked[p] {
				t.Fatalf("%q was picked", name)
			}
			place, rest, _ := strings.Cut(name, ".")
			kind, _, _ := strings.Cut(place, "-")
			if !slices.ContainsFunc(patterns, func(p string) bool {
				stem, wild := strings.CutSuffix(p, "*")
				return p == name || p == rest || p == kind+"."+rest || wild && (strings.HasPrefix(name, stem) || strings.HasPrefix(kind+"."+rest, stem))
			}) {
				t.Fatalf("%q picks %s", list, name)
			}
			again, _, err := choose(session, []string{name})
			if err != nil || len(again) != 1 || !again[there[name]] {
				t.Fatalf("%s picks %v: %v", name, again, err)
			}
		}
	})
}

// Of an erased session it can be shown who erased it, and nothing of what it was; its originals are gone, too.
func TestDiscloseOfErased(t *testing.T) {
	w := newWorld(t)
	id := record.NewID(time.Now())
	ticket := w.put(record.Entry{Kind: record.Request, Session: id}, nil, of(record.FieldCaller, "alice", record.FieldBody, "masked", "original.body", "an age file"))
	w.put(record.Entry{Kind: record.Response, Session: id, Outcome: record.Complete}, ticket, of(record.FieldStatus, "200"))
	w.published()
	if _, err := w.desk.Unseal(t.Context(), somebody, id, ""); err != nil {
		t.Fatal(err)
	}
	if err := w.desk.Erase(t.Context(), somebody, Order{Sessions: []record.ID{id}, Basis: "she asked for it"}, func(Fate) error { return nil }); err != nil {
		t.Fatal(err)
	}
	w.published()
	names, err := w.desk.Fields(t.Context(), somebody, id)
	if err != nil || slices.ContainsFunc(names, func(n string) bool { return !strings.HasPrefix(n, "erasure-1.") }) || !slices.Contains(names, "erasure-1.basis") {
		t.Errorf("the names are %q: %v", names, err)
	}
	raw, err := w.desk.Disclose(t.Context(), somebody, id, "erasure.basis")
	if err != nil {
		t.Fatal(err)
	}
	var shown []string
	for _, e := range w.holds(raw).Sessions[0].Entries {
		for _, f := range e.Fields {
			if f.Shown != nil {
				shown = append(shown, f.Shown.Name+"="+string(f.Shown.Value))
			}
		}
	}
	if !slices.Equal(shown, []string{"basis=she asked for it"}) || bytes.Contains(raw, []byte("a complaint")) {
		t.Errorf("shown are %q", shown)
	}
	if raw, err := w.desk.Disclose(t.Context(), somebody, id, "status"); !errors.Is(err, ErrNoField) || raw != nil {
		t.Errorf("what was erased: %d bytes, %v", len(raw), err)
	}
	if raw, err := w.desk.Unseal(t.Context(), somebody, id, ""); !errors.Is(err, ErrNoField) || raw != nil {
		t.Errorf("an original that was erased: %d bytes, %v", len(raw), err)
	}
}
