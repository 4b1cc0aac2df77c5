package gateway

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"filippo.io/age"

	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/record"
	"github.com/tallystick/tallystick/tlog/record/mask"
	"github.com/tallystick/tallystick/tlog/record/original"
)

// The card numbers of these tests pass the check of their digits, and are nobody's.
const (
	cardInBody   = "4111 1111 1111 1111"
	cardInAnswer = "5555 5555 5555 4444"
)

func masker(t *testing.T) *mask.Masker {
	t.Helper()
	secrets, err := mask.DefaultSecrets()
	if err != nil {
		t.Fatal(err)
	}
	m, err := mask.New(mask.Config{Key: bytes.Repeat([]byte("m"), 32), Secrets: secrets})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func masking(t *testing.T) func(*Config) {
	m := masker(t)
	return func(c *Config) {
		for i := range c.Routes {
			c.Routes[i].Mask = m
		}
	}
}

// content is everything that the log has of what was said, opened.
func (w *world) content() string {
	var b strings.Builder
	for _, k := range w.sessions() {
		for _, r := range k.records {
			for _, f := range r {
				fmt.Fprintf(&b, "%s: %s\n", f.Name, f.Value)
			}
		}
	}
	return b.String()
}

// What the masker knows is nowhere in the records: not of bodies, streams in pieces, headers, targets or refusals. The model gets
// what was sent, and the caller what was answered.
func TestMaskedRecords(t *testing.T) {
	t.Parallel()
	w := newWorld(t, masking(t))
	for _, c := range []struct{ name, path, body, got string }{
		{"a body", "/v1/chat/completions", chat("/say "+cardInAnswer+" for "+cardInBody, false), cardInAnswer},
		{"a stream", "/v1/chat/completions", chat("/say "+cardInAnswer+" for "+cardInBody, true), ""},
		{"messages", "/v1/messages", chat("/say "+cardInAnswer+" for "+cardInBody, false), cardInAnswer},
		{"messages, streamed", "/v1/messages", chat("/say "+cardInAnswer+" for "+cardInBody, true), ""},
		{"a query", "/v1/chat/completions?card=" + strings.ReplaceAll(cardInAnswer, " ", "%20"), chat("hi", false), "hi"},
		{"no JSON", "/v1/chat/completions", `{"messages": "` + cardInBody, ""},
		{"no route", "/nowhere?card=" + strings.ReplaceAll(cardInAnswer, " ", "%20"), `{"card":"` + cardInBody + `"}`, ""},
		{"another API", "/any/v1/chat/completions", chat("/say "+cardInAnswer, false), cardInAnswer},
	} {
		body := c.body
		if strings.HasPrefix(c.path, "/v1/messages") {
			body = strings.Replace(body, `{"model"`, `{"max_tokens":100,"model"`, 1)
		}
		req, err := http.NewRequest("POST", w.base+c.path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+callerKey)
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("Anthropic-Version", "2023-06-01")
		req.Header.Set("X-Card", cardInAnswer)
		resp, err := w.client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || !strings.Contains(string(b), c.got) {
			t.Errorf("%s: %d %s %v", c.name, resp.StatusCode, b, err)
		}
		if got, ok := w.model.Last(); c.got != "" && (!ok || string(got.Body) != body) {
			t.Errorf("%s: the model got %s", c.name, got.Body)
		}
	}
	text := w.content()
	for _, secret := range []string{cardInBody, cardInAnswer, strings.ReplaceAll(cardInAnswer, " ", "%20"), `" 4444"`, `"content":"5555"`} {
		if i := strings.Index(text, secret); i >= 0 {
			t.Errorf("%s is on record: …%q…", secret, text[max(0, i-200):min(len(text), i+100)])
		}
	}
	if n := strings.Count(text, "⟦CARD:"); n < 12 {
		t.Errorf("%d masks", n)
	}
	if !strings.Contains(text, `findings: [["CARD","",`) {
		t.Error("nobody is told what was found")
	}
	for _, k := range w.sessions() {
		if e, r := k.last(); e.Kind == record.Response && get(r, record.FieldEvents) != "" {
			total := 0
			for _, row := range strings.Split(strings.Trim(get(r, record.FieldEvents), "[]"), "],[") {
				var n, gap int
				fmt.Sscanf(row, "%d,%d", &n, &gap)
				total += n
			}
			if body, _ := r.Get(record.FieldBody); total != len(body) {
				t.Errorf("events of %d bytes, and a body of %d", total, len(body))
			}
		}
	}
}

// Rules see what the masker found.
func TestRulesSeeFindings(t *testing.T) {
	t.Parallel()
	seen := make(chan Facts, 10)
	w := newWorld(t, func(c *Config) {
		masking(t)(c)
		c.Policy = seer{seen}
	})
	w.post("/v1/chat/completions", chat("pay with "+cardInBody, false)).Body.Close()
	if f := <-seen; f.Known&KnownFindings == 0 || len(f.Findings) != 1 || f.Findings[0] != (Finding{"CARD", "", 1}) {
		t.Errorf("%+v", f.Findings)
	}
	w.post("/v1/chat/completions", chat("hello", false)).Body.Close()
	if f := <-seen; f.Known&KnownFindings == 0 || len(f.Findings) != 0 {
		t.Errorf("%+v", f.Findings)
	}
}

type seer struct{ seen chan Facts }

func (seer) Text() []byte               { return []byte("seer") }
func (seer) Version() (h tlog.Hash)     { return h }
func (s seer) Judge(f *Facts) Judgement { s.seen <- *f; return Judgement{Verdict: Allow} }

// What a gateway that died had passed on is masked by the next one.
func TestMaskedRemnants(t *testing.T) {
	t.Parallel()
	identity, configured := sealing(t)
	w, readers, bodies := crash(t, nil, configured)
	all := w.closed(len(readers) + bodies)
	_, r := all[mustID(t, readers[0].session)].last()
	if body := get(r, record.FieldBody); !strings.Contains(readers[0].seen(), `" 4444"`) || strings.Contains(body, `" 4444"`) || !strings.Contains(body, "⟦CARD:") {
		t.Errorf("the caller saw %q, and on record is %q", readers[0].seen(), body)
	}
	if exact, err := identity.Open([]byte(get(r, record.FieldOriginal+record.FieldBody))); err != nil || !strings.HasPrefix(string(exact), readers[0].seen()) {
		t.Errorf("the caller saw %q, and sealed is %q: %v", readers[0].seen(), exact, err)
	}
}

// sealing masks every route, and seals originals to whoever has the identity.
func sealing(t *testing.T) (original.Identity, func(*Config)) {
	t.Helper()
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	sealer, err := original.NewSealer([]string{id.Recipient().String()})
	if err != nil {
		t.Fatal(err)
	}
	identity, err := original.ParseIdentity(strings.NewReader(id.String()))
	if err != nil {
		t.Fatal(err)
	}
	masks := masking(t)
	return identity, func(c *Config) {
		masks(c)
		for i := range c.Routes {
			c.Routes[i].Originals = sealer
		}
	}
}

// On a route that masks its answers callers get them as they are written down, whole and in events, in every mode, and nothing of
// one that is cut.
func TestMaskedAnswers(t *testing.T) {
	t.Parallel()
	for _, mode := range []Mode{Strict, Open} {
		w := newWorld(t, func(c *Config) {
			masking(t)(c)
			c.Mode = mode
			for i := range c.Routes {
				c.Routes[i].MaskAnswers = true
			}
		})
		for _, c := range []struct {
			path, prompt string
			stream       bool
			cut          bool
		}{
			{"/v1/chat/completions", "/say pay " + cardInAnswer + " today", false, false},
			{"/v1/chat/completions", "/say pay " + cardInAnswer + " today", true, false},
			{"/any/v1/chat/completions", "/say pay " + cardInAnswer + " today", false, false},
			{"/v1/chat/completions", "/cut 7 /say pay " + cardInAnswer + " today", true, true},
			{"/v1/models", "", false, false},
		} {
			method, body := "POST", chat(c.prompt, c.stream)
			if c.prompt == "" {
				method, body = "GET", ""
			}
			resp, err := w.do(t.Context(), method, c.path, body)
			if err != nil {
				t.Fatal(err)
			}
			b, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			got := string(b)
			if (err != nil) != c.cut || c.cut && len(b) > 0 {
				t.Errorf("%s %s: %q, %v", c.path, c.prompt, got, err)
			}
			if strings.Contains(got, cardInAnswer) || strings.Contains(got, `" 4444"`) {
				t.Errorf("%s %s: %q", c.path, c.prompt, got)
			}
			if c.cut {
				continue
			}
			if c.prompt != "" && (!strings.Contains(got, "⟦CARD:") || c.stream && !strings.Contains(got, "data: [DONE]")) {
				t.Errorf("%s %s: %q", c.path, c.prompt, got)
			}
			k := w.tells(resp.Header.Get(SessionHeader), "request complete")
			if _, r := k.last(); get(r, record.FieldBody) != got {
				t.Errorf("%s %s: given %q, and on record %q", c.path, c.prompt, got, get(r, record.FieldBody))
			}
		}
	}
}

// Where it is wanted, what was masked is beside the mask, for whoever has the identity and nobody else; and nothing that was not.
func TestOriginals(t *testing.T) {
	t.Parallel()
	identity, configured := sealing(t)
	w := newWorld(t, configured)
	for _, stream := range []bool{false, true} {
		body := chat("/say pay "+cardInAnswer+" today", stream)
		resp := w.post("/v1/chat/completions", body)
		b, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		k := w.tells(resp.Header.Get(SessionHeader), "request complete")
		for i, want := range []string{body, string(b)} {
			sealed, ok := k.records[i].Get(record.FieldOriginal + record.FieldBody)
			if !ok {
				t.Fatalf("record %d has no original", i)
			}
			if got, err := identity.Open(sealed); err != nil || string(got) != want {
				t.Errorf("record %d: %q, %v", i, got, err)
			}
		}
		if _, ok := k.records[0].Get(record.FieldOriginal + record.FieldTarget); ok {
			t.Error("an original of what was not masked")
		}
	}
	if text := w.content(); strings.Contains(text, cardInAnswer) {
		t.Error("the card is on record in the clear")
	}
}

// Whoever is asked sees masks, in the list and in the whole request.
func TestAskedMasked(t *testing.T) {
	t.Parallel()
	w := newAsking(t, masking(t))
	done := w.calling(callerKey, "/v1/chat/completions?card="+strings.ReplaceAll(cardInAnswer, " ", "%20"), ask("ask", "pay with "+cardInBody))
	q := w.waiting(carolsKey, 1)[0]
	code, whole := w.own(carolsKey, "GET", q.ID, "")
	if code != 200 || strings.Contains(whole, cardInBody) || strings.Contains(whole, "4444") || strings.Contains(q.Target, "4444") || !strings.Contains(whole, "⟦CARD:") {
		t.Errorf("%+v %s", q, whole)
	}
	w.must(carolsKey, q.ID, "approve")
	if a := <-done; a.status != 200 {
		t.Errorf("%+v", a)
	}
	if got, _ := w.model.Last(); !strings.Contains(string(got.Body), cardInBody) {
		t.Error("the model got something else")
	}
}
