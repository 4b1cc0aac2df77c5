package peers

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/har"
	"github.com/chromedp/chromedp"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/tallystick/tallystick/audit/export"
	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/record"
	"github.com/tallystick/tallystick/verify"
)

// exported is a bundle of calls of all sorts: streamed, at once, binary, refused, cut off, with hostile words.
func exported(t *testing.T) []byte {
	t.Helper()
	began := time.Date(2026, 11, 2, 9, 30, 0, 0, time.UTC)
	b := &verify.Bundle{Origin: "log.example/test", Checkpoint: []byte("log.example/test\n40\n" + tlog.EmptyRoot().String() + "\n\n— log.example/test MaIT5jAw\n")}
	boot := record.NewID(began)
	seq := uint64(0)
	add := func(asked, answered map[string]string, end record.Entry) {
		id := record.NewID(began)
		s := verify.Session{ID: id}
		var prev tlog.Hash
		entry := func(e record.Entry, fields map[string]string) {
			r := record.Record{}
			r.Add(record.FieldSession, []byte(id.String()))
			for name, v := range fields {
				r.Add(name, []byte(v))
			}
			seq++
			e.By, e.Boot, e.Seq, e.Session, e.Time, e.Root, e.Fields, e.PayloadSize = "gw-1", boot, seq, id, began, r.Root(), len(r), 99
			if e.Kind == record.Response {
				e.Prev = prev
			}
			raw, err := e.Append(nil)
			if err != nil {
				t.Fatal(err)
			}
			prev = tlog.HashLeaf(raw)
			s.Entries = append(s.Entries, verify.Entry{Index: seq, Bytes: raw, Fields: verify.Fields(r, func(string) bool { return true })})
		}
		if end.Kind == record.Response {
			entry(record.Entry{Kind: record.Request}, asked)
			entry(end, answered)
		} else {
			entry(end, asked)
		}
		b.Sessions = append(b.Sessions, s)
	}
	ask := func(target, body string) map[string]string {
		return map[string]string{
			"caller": "alice", "route": "openai", "upstream": "https://api.example.com", "model": "fake-1", "method": "POST", "target": target, "body": body,
			"headers": `[["Host","⟦IP:q7k3⟧:8080"],["Content-Type","application/json"],["Authorization","(left out)"],["X-Odd","\u001b[2J\u0000<script>"]]`,
			"times":   `{"received":"2026-11-02T09:30:00.000000Z"}`,
		}
	}
	const times = `{"received":"2026-11-02T09:30:00.000000Z","sent":"2026-11-02T09:30:00.000300Z","first":"2026-11-02T09:30:00.021001Z","ended":"2026-11-02T09:30:01.000017Z"}`
	chat := `{"model":"fake-1","messages":[{"role":"user","content":"</script><script>alert(1)</script>"}]}`
	sse := "data: {\"object\":\"chat.completion.chunk\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"hi\"}}]}\n\ndata: [DONE]\n\n"
	complete := record.Entry{Kind: record.Response, Outcome: record.Complete}
	add(ask("/v1/chat/completions?a=b%20c&d", chat), map[string]string{
		"status": "200", "times": times, "headers": `[["Content-Type","text/event-stream"]]`, "body": sse, "events": `[[82,20000],[14,300]]`,
	}, complete)
	add(ask("/v1/files", "\x00\xff"), map[string]string{"status": "302", "times": times, "headers": `[["Location","/there"]]`, "body": "\xfe\xff"}, complete)
	add(ask("//x y\"{}", ""), map[string]string{"status": "0", "times": `{}`, "body": "", "error": "no answer"}, record.Entry{Kind: record.Response, Outcome: record.UpstreamError})
	refused := ask("/v1/chat/completions", chat)
	delete(refused, "upstream")
	refused["status"], refused["error"] = "404", "no route"
	add(refused, nil, record.Entry{Kind: record.Refused, Reason: "unknown_route"})
	add(map[string]string{}, map[string]string{}, record.Entry{Kind: record.Response, Outcome: record.Interrupted})
	raw, err := b.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// The schemas that others check HAR with take ours, and so does the parser that comes with Chromium's protocol, to which no member is
// unknown but those whose names begin with an underscore.
func TestHAR(t *testing.T) {
	_, _, b, err := export.As(export.HAR, exported(t), export.About{Software: "tallystick/0.0.1"})
	if err != nil {
		t.Fatal(err)
	}
	schema(t, b)
	d := json.NewDecoder(bytes.NewReader(plain(t, b)))
	d.DisallowUnknownFields()
	var h har.HAR
	if err := d.Decode(&h); err != nil {
		t.Fatal(err)
	}
	if h.Log.Version != "1.2" || h.Log.Creator.Name == "" || len(h.Log.Entries) != 5 {
		t.Fatalf("%+v", h.Log)
	}
	for i, e := range h.Log.Entries {
		sum := 0.0
		for _, n := range []*float64{e.Timings.Blocked, e.Timings.DNS, e.Timings.Connect, &e.Timings.Send, &e.Timings.Wait, &e.Timings.Receive} {
			if n != nil && *n > 0 {
				sum += *n
			}
		}
		if math.Abs(sum-e.Time) > 1e-9 {
			t.Errorf("entry %d: the timings add up to %v, and it took %v", i, sum, e.Time)
		}
		if int64(len(e.Response.Content.Text)) != e.Response.Content.Size {
			t.Errorf("entry %d: a body of %d bytes, and %d are stated", i, len(e.Response.Content.Text), e.Response.Content.Size)
		}
	}
	if e := h.Log.Entries[1]; string(e.Response.Content.Text) != "\xfe\xff" || e.Response.RedirectURL != "/there" {
		t.Errorf("%+v", e.Response)
	}
	// What must not pass does not: this test sees something.
	for _, spoil := range [][2]string{{`"startedDateTime": "2026`, `"startedDateTime": "yesterday`}, {`"status": 200`, `"status": "200"`}, {`"httpVersion"`, `"httpversion"`}} {
		bad := strings.Replace(string(b), spoil[0], spoil[1], 1)
		if schemas(t).Validate(value(t, []byte(bad))) == nil {
			t.Errorf("the schemas take %s", spoil[1])
		}
	}
}

// Chromium's DevTools take a HAR file as this does: dates and numbers that are some, addresses that can be parsed, and the steps of
// a timing that lie within its whole.
func TestHARInBrowser(t *testing.T) {
	_, _, b, err := export.As(export.HAR, exported(t), export.About{})
	if err != nil {
		t.Fatal(err)
	}
	tab := open(t)
	tab.goTo(site(t, strict(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		switch req.URL.Path {
		case "/a.har":
			w.Header().Set("Content-Type", "application/json")
			w.Write(b)
		case "/":
			w.Header().Set("Content-Type", "text/html; charset=utf-8")
			w.Write([]byte("<!doctype html><title>har</title>"))
		default:
			w.WriteHeader(http.StatusNoContent)
		}
	}))))
	wrong := eval[[]string](tab, `(async () => {
		const { log } = await (await fetch("/a.har")).json();
		const wrong = [];
		const number = (v, what) => { if (Number.isNaN(Number(v))) wrong.push(what + " is no number"); return Number(v); };
		log.entries.forEach((e, i) => {
			if (Number.isNaN(new Date(e.startedDateTime).getTime())) wrong.push(i + ": no date");
			try { new URL(e.request.url); } catch (x) { wrong.push(i + ": " + x); }
			let at = Math.max(e.timings.blocked ?? 0, 0);
			for (const k of ["dns", "connect", "send", "wait", "receive"]) at += Math.max(number(e.timings[k], k), 0);
			if (at > number(e.time, "time") + 1e-9) wrong.push(i + ": its steps take longer than it");
			for (const v of [e.request.headersSize, e.request.bodySize, e.response.status, e.response.headersSize, e.response.bodySize, e.response.content.size]) number(v, i + ": a size");
			if (e.request.postData && typeof e.request.postData.text !== "string") wrong.push(i + ": no text");
			if (e.response.content.encoding === "base64") atob(e.response.content.text);
		});
		return wrong;
	})()`)
	if len(wrong) > 0 {
		t.Error(wrong)
	}
}

// The certificate is shown as it is meant to be, and its own policy of contents stops nothing of it.
func TestCertificate(t *testing.T) {
	bundle, err := os.ReadFile("../../verify/testdata/day.bundle")
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile("../../verify/testdata/day.policy")
	if err != nil {
		t.Fatal(err)
	}
	policy, err := tlog.ParsePolicy(text)
	if err != nil {
		t.Fatal(err)
	}
	_, kind, html, err := export.As(export.Certificate, bundle, export.About{By: `<img src=x onerror="alert(1)">`, Reason: "</style><script>alert(1)</script>", At: time.Now(), Policy: policy})
	if err != nil {
		t.Fatal(err)
	}
	tab := open(t)
	tab.goTo(site(t, http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.URL.Path != "/" {
			w.WriteHeader(http.StatusNoContent)
			return
		}
		w.Header().Set("Content-Type", kind)
		w.Write(html)
	})))
	tab.shot("certificate")
	if by := tab.text("body"); !strings.Contains(by, `<img src=x onerror="alert(1)">`) || !strings.Contains(by, "</style><script>alert(1)</script>") {
		t.Errorf("what people wrote is not shown as they wrote it: %.2000s", by)
	}
	if n := eval[int](tab, `document.querySelectorAll("script,img,iframe,object,embed,form").length`); n > 0 {
		t.Errorf("%d elements that a certificate does not have", n)
	}
	if color := eval[string](tab, `getComputedStyle(document.querySelector(".draft")).color`); color != "rgb(138, 28, 28)" {
		t.Errorf("the style does not take effect: %s", color)
	}
	if got := eval[string](tab, `(() => { const h = document.querySelector("a[download]").href; return atob(h.slice(h.indexOf(",") + 1)); })()`); got != string(bundle) && len([]rune(got)) != len(bundle) {
		t.Error("what is attached is another file")
	}
	for _, width := range []int64{320, 1280} {
		tab.do(chromedp.EmulateViewport(width, 900))
		if over := eval[int](tab, `document.documentElement.scrollWidth - document.documentElement.clientWidth`); over > 0 {
			t.Errorf("at %d pixels the page is %d too wide", width, over)
		}
	}
}

func schema(t *testing.T, b []byte) {
	t.Helper()
	if err := schemas(t).Validate(value(t, b)); err != nil {
		t.Errorf("%#v", err)
	}
}

// schemas compiles those of har-schema.
func schemas(t *testing.T) *jsonschema.Schema {
	t.Helper()
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	names, err := filepath.Glob("testdata/har-schema/*.json")
	if err != nil || len(names) == 0 {
		t.Fatalf("no schemas: %v", err)
	}
	for _, name := range names {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		doc := value(t, b)
		doc.(map[string]any)["$id"] = "http://har.example/" + filepath.Base(name)
		if err := c.AddResource("http://har.example/"+filepath.Base(name), doc); err != nil {
			t.Fatal(err)
		}
	}
	s, err := c.Compile("http://har.example/har.json")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func value(t *testing.T, b []byte) any {
	t.Helper()
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// plain takes out what is ours: members whose names begin with an underscore.
func plain(t *testing.T, b []byte) []byte {
	t.Helper()
	var v any
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatal(err)
	}
	var strip func(any)
	strip = func(v any) {
		switch v := v.(type) {
		case map[string]any:
			for k, x := range v {
				if strings.HasPrefix(k, "_") {
					delete(v, k)
					continue
				}
				strip(x)
			}
		case []any:
			for _, x := range v {
				strip(x)
			}
		}
	}
	strip(v)
	out, err := json.Marshal(v)
	if err != nil {
		t.Fatal(fmt.Errorf("strip: %w", err))
	}
	return out
}
