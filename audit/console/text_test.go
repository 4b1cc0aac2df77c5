package console

import (
	"encoding/json"
	"fmt"
	"html"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/tallystick/tallystick/audit"
	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/record"
	"github.com/tallystick/tallystick/tlog/tlogtest"
)

// What can be seen stands as it is; what cannot stands by its name.
func TestSpans(t *testing.T) {
	show := func(s string) string {
		var b strings.Builder
		for _, p := range spans(s) {
			switch p.Kind {
			case "":
				b.WriteString(p.Text)
			case "mask":
				b.WriteString("{" + p.Text + "}")
			default:
				b.WriteString("[" + p.Text + "]")
			}
		}
		return b.String()
	}
	for in, want := range map[string]string{
		"":                                "",
		"plain\ttext\nand more":           "plain\ttext\nand more",
		"two\r\nlines\rone":               "two\nlines[CR]one",
		"a\u202eb\u202c":                  "a[RLO]b[PDF]",
		"\u2066x\u2069 \u200bz":           "[LRI]x[PDI] [ZWSP]z",
		"a\x00b\x1b[31m":                  "a[NUL]b[ESC][31m",
		"\xff\xfe!":                       `[\xff][\xfe]!`,
		"no\u00a0break":                   "no[NBSP]break",
		"שלום עולם":                       "שלום עולם",
		"❤️ 👩‍👩‍👧 ok":                     "❤️ 👩‍👩‍👧 ok",
		"a\u200db \ufe0f":                 "a[ZWJ]b [U+FE0F]",
		"ﾠ\u3164\u2800\u115f":             "[U+FFA0][U+3164][U+2800][U+115F]",
		"\U000e0061\U000e007f":            "[U+E0061][U+E007F]",
		"\ue000\ufffe\U0010ffff\u0378":    "[U+E000][U+FFFE][U+10FFFF][U+0378]",
		"\ufffd":                          "\ufffd",
		"e\u0301\u0301\u0301\u0301\u0301": "e\u0301\u0301\u0301\u0301[U+0301]",
		"card ⟦CARD:q7k3⟧, ⟦IBAN⟧ ⟦CARD:…1111⟧":           "card {⟦CARD:q7k3⟧}, {⟦IBAN⟧} {⟦CARD:…1111⟧}",
		"⟦card:x⟧ ⟦⟧ ⟦CARD:⟦X⟧⟧":                          "⟦card:x⟧ ⟦⟧ ⟦CARD:{⟦X⟧}⟧",
		"⟦CARD:a\u202eb⟧":                                 "{⟦CARD:a}[RLO]{b⟧}",
		"\u2028\u2029\ufeff\u00ad":                        "[LS][PS][BOM][SHY]",
		"#️⃣ 1️⃣":                                         "#️⃣ 1️⃣",
		"\u061c\u180e\u2062\ufff9\u034f":                  "[U+061C][U+180E][U+2062][U+FFF9][U+034F]",
		"\u2003wide\u3000":                                "[U+2003]wide[U+3000]",
		"x\u0338\U0001d173":                               "x\u0338[U+1D173]",
		strings.Repeat("⟦", 3) + "A" + "⟧" + "\U000e01ef": "⟦⟦{⟦A⟧}[U+E01EF]",
	} {
		if got := show(in); got != want {
			t.Errorf("%q is shown as %q, want %q", in, got, want)
		}
	}
}

// Nothing that a text holds is lost, and what stands in it for itself can be seen.
func FuzzSpans(f *testing.F) {
	for _, s := range naughty(f) {
		f.Add(s)
	}
	f.Add("⟦CARD:q7k3⟧ a\u202e\xff\r\n")
	f.Fuzz(func(t *testing.T, s string) {
		rest := s
		for _, p := range spans(s) {
			if p.Kind == "odd" {
				r, n := utf8.DecodeRuneInString(rest)
				if r == utf8.RuneError && n <= 1 {
					if n == 0 || p.Text != fmt.Sprintf(`\x%02x`, rest[0]) {
						t.Fatalf("%q: %q for a byte that is no text", s, p.Text)
					}
				} else if p.Text != runeName(r) {
					t.Fatalf("%q: %q for %U", s, p.Text, r)
				}
				rest = rest[n:]
				continue
			}
			for _, r := range p.Text {
				rest = strings.TrimPrefix(rest, "\r\n"[:1*btoi(strings.HasPrefix(rest, "\r\n"))])
				if !strings.HasPrefix(rest, string(r)) {
					t.Fatalf("%q: %q is not what comes next in %q", s, r, rest)
				}
				rest = rest[utf8.RuneLen(r):]
				if bidi(r) || r < 0x20 && r != '\n' && r != '\t' || 0x7f <= r && r < 0xa0 {
					t.Fatalf("%q: %U stands for itself", s, r)
				}
			}
		}
		if rest != "" && rest != "\r" {
			t.Fatalf("%q: %q is lost", s, rest)
		}
		// Parts of it put together are the whole.
		whole := strings.Repeat(s, min(4, 1+len(s)))
		var all string
		for n := 1; ; n++ {
			p := partOf([]byte(whole), n)
			all += p.Text
			if p.N == p.Of {
				break
			}
		}
		if all != whole {
			t.Fatalf("the parts of %q are %q", whole, all)
		}
	})
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

func bidi(r rune) bool {
	return r == 0x61c || 0x200e <= r && r <= 0x200f || 0x202a <= r && r <= 0x202e || 0x2066 <= r && r <= 0x2069
}

// A long body comes in parts, which end between characters; together they are all of it.
func TestParts(t *testing.T) {
	for _, body := range []string{"", "a", strings.Repeat("é", 3*partBytes), "x" + strings.Repeat("€", 2*partBytes), strings.Repeat("\xff", 2*partBytes+7), strings.Repeat("a", partBytes), "ab" + strings.Repeat("😀", partBytes)} {
		var all strings.Builder
		last := 0
		for n := 1; ; n++ {
			p := partOf([]byte(body), n)
			if p.N != n || p.From != last || p.Bytes != len(body) || len(p.Text) > partBytes+3 || utf8.ValidString(body) && !utf8.ValidString(p.Text) {
				t.Fatalf("part %d of %d bytes: %d, from %d to %d", n, len(body), p.N, p.From, p.To)
			}
			all.WriteString(p.Text)
			if last = p.To; n == p.Of {
				break
			}
		}
		if all.String() != body {
			t.Errorf("%d bytes come out as %d", len(body), all.Len())
		}
	}
	if p := partOf([]byte("abc"), 99); p.N != 1 || p.Text != "abc" {
		t.Errorf("a part that there is not: %+v", p)
	}
}

func naughty(t testing.TB) (all []string) {
	t.Helper()
	b, err := os.ReadFile("testdata/blns.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &all); err != nil || len(all) < 500 {
		t.Fatalf("%d strings: %v", len(all), err)
	}
	return all
}

// A tag is one of a page, with the names of its attributes.
var tags = regexp.MustCompile(`<(/?[a-zA-Z!][^\s/>]*)((?:[^>"']|"[^"]*"|'[^']*')*)>`)

var attributes = regexp.MustCompile(`\s([^\s=/>"']+)(?:="([^"]*)")?`)

// outline returns what a page is made of: its elements and the names of their attributes, without what stands for recorded text. It
// fails where there is anything in it that recorded text could do something with.
func outline(t *testing.T, page string) (all []string) {
	t.Helper()
	for i := strings.IndexByte(page, '<'); i >= 0; {
		m := tags.FindStringSubmatchIndex(page[i:])
		if m == nil || m[0] != 0 {
			t.Fatalf("a < that begins no tag: %.200q", page[i:])
		}
		name := page[i+m[2] : i+m[3]]
		line := name
		kind := ""
		for _, a := range attributes.FindAllStringSubmatch(page[i+m[4]:i+m[5]], -1) {
			value := html.UnescapeString(a[2])
			switch {
			case strings.HasPrefix(strings.ToLower(a[1]), "on"), a[1] == "style", a[1] == "srcdoc", a[1] == "nonce":
				t.Fatalf("an attribute %s: %.300s", a[1], page[i:])
			case (a[1] == "href" || a[1] == "src" || a[1] == "action") && !strings.HasPrefix(value, "/") && !strings.HasPrefix(value, "#") && !strings.HasPrefix(value, "?"):
				t.Fatalf("a link to elsewhere: %q", value)
			case (a[1] == "href" || a[1] == "src" || a[1] == "action") && strings.HasPrefix(value, "//"):
				t.Fatalf("a link to elsewhere: %q", value)
			case a[1] == "class" && name == "span" && (value == "odd" || value == "mask"):
				kind = value
			}
			line += " " + a[1]
		}
		switch {
		case name == "script" && !strings.HasPrefix(line, "script src") && !strings.HasPrefix(line, "script type src"):
			t.Fatalf("a script in the page: %.300s", page[i:])
		case name == "script" && !strings.HasPrefix(page[i+m[1]:], "</script>"):
			t.Fatalf("a script in the page: %.300s", page[i:])
		case slices.Contains([]string{"style", "iframe", "object", "embed", "base", "img", "template", "math", "foreignObject", "set", "animate", "use", "!--"}, name) || strings.HasPrefix(name, "!--"):
			t.Fatalf("a <%s>: %.300s", name, page[i:])
		}
		next := i + m[1]
		if kind != "" { // its end is left out too
			end := strings.Index(page[next:], "</span>")
			next += end + len("</span>")
		} else {
			all = append(all, line)
		}
		if n := strings.IndexByte(page[next:], '<'); n >= 0 {
			i = next + n
		} else {
			i = -1
		}
	}
	return all
}

// textOf returns the text of a page, with what stands for what cannot be seen turned back into it.
func textOf(page string) string {
	return html.UnescapeString(regexp.MustCompile(`<[^>]*>`).ReplaceAllString(page, ""))
}

// shownAs is how a text stands in the text of a page.
func shownAs(s string) string {
	var b strings.Builder
	for _, p := range spans(s) {
		b.WriteString(p.Text)
	}
	return b.String()
}

// Whatever callers and models write, in whatever place, the page is made of the same elements, and shows it as text.
func TestContentIsText(t *testing.T) {
	w := newWorld(t)
	strs := append(naughty(t),
		`</pre></td></table></main><script>alert(1)</script>`, `"><svg onload=alert(1)>`, `' autofocus onfocus=alert(1) '`, "javascript:alert(1)", "{{.Who.Name}}", "<!--", "-->", "]]>", "\x00\x01<b>",
		"</title><script src=/static/theme.js></script>", "&lt;script&gt;", "\u202e<script>\u202c")
	strs = slices.DeleteFunc(strs, func(s string) bool { return !utf8.ValidString(s) || strings.TrimSpace(s) == "" })
	var some []string // several at a time: a page for each would take long
	for few := range slices.Chunk(strs, 6) {
		some = append(some, strings.Join(few, " | "))
	}
	strs = some
	ann := visitor{w, "ann", audit.Operator, "a test"}
	page := func(target string) string {
		t.Helper()
		rec := ann.get(target)
		if rec.Code != 200 {
			t.Fatalf("%s: %d %.500s", target, rec.Code, rec.Body)
		}
		return rec.Body.String()
	}
	text := func(what, page string, shown ...string) {
		t.Helper()
		has := textOf(page)
		for _, s := range shown {
			if !strings.Contains(has, shownAs(s)) {
				t.Errorf("%s does not show %q", what, s)
			}
		}
		for _, r := range page {
			if bidi(r) || r < 0x20 && r != '\n' && r != '\t' {
				t.Errorf("%s holds %U as it is", what, r)
				break
			}
		}
	}
	waits := func(id record.ID, s string) Approval {
		return Approval{ID: id, State: "waiting", Open: true, Caller: s, Email: s, Route: s, Model: s, Method: s, Target: s, Rule: s, Message: s, Need: 1, Yes: []string{s}, Groups: []string{s}, Until: time.Now().Add(time.Minute),
			Request: &Request{Headers: [][2]string{{s, s}}, Fields: []NamedText{{s, s}}, Body: []byte(s)}}
	}
	ids := make([]record.ID, len(strs)+1)
	for i, s := range append([]string{"plain"}, strs...) {
		ids[i] = w.session(call{caller: s, model: s, agent: s, prompt: s, reply: s, stream: true})
		w.write(record.Entry{Kind: record.Access, Session: ids[i]}, nil, record.FieldActor, s, record.FieldReason, s, record.FieldWhat, s, record.FieldFields, "a\n"+s)
		w.waiting.list = append(w.waiting.list, waits(ids[i], s))
		h := &w.index.hits[i]
		h.Rule, h.Refusal, h.Route = s, s, s
	}
	w.publish()
	one := func(i int) (session, approval string) {
		return page("/sessions/" + ids[i].String()), page("/approvals/" + ids[i].String())
	}
	session, approval := one(0)
	session, approval = strings.Join(outline(t, session), "\n"), strings.Join(outline(t, approval), "\n")
	for i, s := range strs {
		gotSession, gotApproval := one(i + 1)
		for what, got := range map[string][2]string{"the session": {gotSession, session}, "the approval": {gotApproval, approval}} {
			if made := strings.Join(outline(t, got[0]), "\n"); made != got[1] {
				t.Errorf("%s is made of other elements for %q:\n%s", what, s, firstOther(strings.Split(made, "\n"), strings.Split(got[1], "\n")))
			}
			text(what+fmt.Sprintf(" of %q", s), got[0], s)
		}
	}
	for _, target := range []string{"/search", "/approvals"} {
		all := page(target)
		outline(t, all)
		text(target, all, strs...)
	}
	for next := "/trail?what=view+"; next != ""; {
		all := page(next)
		outline(t, all)
		_, next, _ = strings.Cut(all, `rel="next" href="`)
		next, _, _ = strings.Cut(next, `"`)
		next = html.UnescapeString(next)
	}
	all := page("/trail?person=%3Cscript")
	outline(t, all)
	if !strings.Contains(textOf(all), "<script>alert") {
		t.Error("the trail does not show who read")
	}
}

func firstOther(got, want []string) string {
	for i := range max(len(got), len(want)) {
		if i >= len(got) || i >= len(want) || got[i] != want[i] {
			return fmt.Sprintf("at %d: %q, want %q", i, got[max(0, i-3):min(len(got), i+3)], want[max(0, i-3):min(len(want), i+3)])
		}
	}
	return ""
}

// All pages that there are hold to the rules of a strict policy, for people with content and without.
func TestPagesAreStrict(t *testing.T) {
	w := newWorld(t)
	tries := w.tries()
	for _, r := range w.console.routes {
		for _, v := range []visitor{{w, "ann", audit.Operator, "a test"}, {w, "ann", audit.Operator, ""}, {w, "ann", 0, ""}} {
			rec := v.ask(&r, tries[r.name()])
			page := rec.Body.String()
			if !strings.HasPrefix(rec.Header().Get("Content-Type"), "text/html") || !strings.Contains(page, "<!doctype html>") {
				continue
			}
			outline(t, page)
			for _, must := range []string{`<html lang="en">`, `<main id="main"`, `class="skip"`, "<h1", `<meta name="viewport"`, `aria-label="Pages"`} {
				if must != `aria-label="Pages"` && !strings.Contains(page, must) {
					t.Errorf("%s has no %s", r.name(), must)
				}
			}
			if n := strings.Count(page, "<h1"); n != 1 {
				t.Errorf("%s has %d headings of the first order", r.name(), n)
			}
			for _, m := range regexp.MustCompile(`<(?:th|td)[^>]*>`).FindAllString(page, -1) {
				if strings.HasPrefix(m, "<th") && !strings.Contains(m, "scope=") && !strings.HasPrefix(m, "<thead") {
					t.Errorf("%s: %s says not of what it is the head", r.name(), m)
				}
			}
			ids := make(map[string]bool)
			for _, m := range regexp.MustCompile(`\sid="([^"]*)"`).FindAllStringSubmatch(page, -1) {
				if ids[m[1]] {
					t.Errorf("%s has two %q", r.name(), m[1])
				}
				ids[m[1]] = true
			}
			for _, m := range regexp.MustCompile(`(?:aria-labelledby|aria-describedby|for)="([^"]*)"`).FindAllStringSubmatch(page, -1) {
				if !ids[m[1]] {
					t.Errorf("%s speaks of %q, which is not there", r.name(), m[1])
				}
			}
		}
	}
}

// Long things are shown in parts, and say so.
func TestLong(t *testing.T) {
	w := newWorld(t)
	long := strings.Repeat("word ", 200_000)
	id := w.session(call{caller: "alice", model: "m", prompt: long, reply: strings.Repeat("one ", 2500), stream: true, words: true})
	w.publish()
	ann := visitor{w, "ann", audit.Viewer, "a test"}
	page := ann.get("/sessions/" + id.String()).Body.String()
	if len(page) > 8<<20 || !strings.Contains(page, "bytes more are in the body") || !strings.Contains(page, "more parts") || !strings.Contains(page, `id="e999"`) || strings.Contains(page, `id="e1000"`) || !strings.Contains(page, "?from=1000#timeline") {
		t.Errorf("a page of %d bytes: %.3000s", len(page), page)
	}
	page = ann.get("/sessions/" + id.String() + "?from=1000").Body.String()
	if !strings.Contains(page, `id="e1000"`) || strings.Contains(page, `id="e999"`) || !strings.Contains(page, `href="?from=1000#e1017"`) {
		t.Error("the later events are not there")
	}
	if page := ann.get("/sessions/" + id.String() + "?from=99999999").Body.String(); !strings.Contains(page, `id="e2501"`) {
		t.Error("from beyond the end the last are shown")
	}
	many := w.session(call{caller: "alice", model: strings.Repeat("long", 20_000), prompt: "p", reply: "the answer", turns: 3000})
	w.publish()
	page = ann.get("/sessions/" + many.String()).Body.String()
	if n := strings.Count(page, `<li class="turn`); n != pageTurns+1 || !strings.Contains(page, "turn 497</div>") || !strings.Contains(page, "messages and parts more") || !strings.Contains(page, "the answer</div>") || len(page) > 1<<20 {
		t.Errorf("%d turns in a page of %d bytes", n, len(page))
	}
	at, err := record.FindSession(t.Context(), w.log, w.publish(), id, 0)
	if err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	for n := 1; n < 100; n++ {
		rec := ann.get(fmt.Sprintf("/sessions/%s/body?entry=%d&field=body&part=%d", id, at[0].Index, n))
		_, rest, _ := strings.Cut(rec.Body.String(), `<pre class="raw" dir="auto" tabindex="0">`)
		one, _, _ := strings.Cut(rest, "</pre>")
		text.WriteString(html.UnescapeString(one))
		if !strings.Contains(rec.Body.String(), `rel="next"`) {
			break
		}
	}
	w.publish()
	read, _, err := w.desk.Trail(t.Context(), audit.Asker{Name: "test", Reason: "a test", Roles: audit.Admin}, 0, 2)
	if err != nil || len(read) == 0 || !slices.ContainsFunc(read, func(r audit.Reading) bool {
		return r.What == fmt.Sprintf("view, part 16 of body in entry %d", at[0].Index)
	}) {
		t.Errorf("that a part was read is on record as %+v, %v", read, err)
	}
	if !strings.Contains(text.String(), long) || !strings.HasSuffix(text.String(), "}") {
		t.Errorf("the parts are %d bytes", text.Len())
	}
}

// However a text is made, it is taken apart in one pass: what takes long for long texts takes a page down.
func TestSpansOfMuch(t *testing.T) {
	for _, s := range []string{"\r\n", "a\r\n", "\x00", "a\x00", "⟦", "⟦CARD:", "⟦CARD:x⟧", "e\u0301", "\u202e", "\xff"} {
		much := strings.Repeat(s, 1<<20/len(s))
		if all := spans(much); len(all) == 0 {
			t.Errorf("nothing of %q", s)
		}
	}
}

// What a mask stands for is marked, and what was looked for.
func TestMarked(t *testing.T) {
	all := marked("a ⟦CARD:x⟧ word and a word", [][2]int{{15, 19}, {99, 3}, {4, 5}, {22, 26}})
	var got []string
	for _, s := range all {
		got = append(got, s.Kind+":"+s.Text)
	}
	if want := []string{":a ", "mask:⟦CARD:x⟧", ": ", "hit:word", ": an"}; len(got) < 5 || !slices.Equal(got[:3], want[:3]) {
		t.Errorf("%q", got)
	}
	text := ""
	for _, s := range marked("äöü\u202ex", [][2]int{{1, 4}, {1, 3}, {2, 3}, {2, 4}, {4, 6}}) {
		text += s.Text
	}
	if text != "äöüRLOx" {
		t.Errorf("%q", text)
	}
}

// The log's own page finds what is missing in a writer's numbers.
func TestBook(t *testing.T) {
	w := newWorld(t)
	if page := (visitor{w, "ann", audit.Viewer, ""}).get("/log").Body.String(); !strings.Contains(page, "log.example/test") && !strings.Contains(page, "published nothing yet") {
		t.Errorf("an empty log: %s", page)
	}
	for range 300 {
		w.session(call{caller: "a", model: "m", prompt: "p", reply: "r"})
	}
	w.publish()
	rec := visitor{w, "ann", audit.Viewer, ""}.get("/log")
	if page := rec.Body.String(); rec.Code != 200 || !strings.Contains(page, "holds") || !strings.Contains(page, "without a gap") || !strings.Contains(page, "601 entries since") && !strings.Contains(page, "entries since") {
		t.Errorf("%d: %s", rec.Code, page)
	}
	signed, err := w.log.Checkpoint(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if rec := (visitor{w, "ann", audit.Viewer, ""}).get("/log/checkpoint"); rec.Body.String() != string(signed) {
		t.Errorf("the checkpoint: %s", rec.Body)
	}
	if rec := (visitor{w, "ann", audit.Viewer, ""}).get("/policy"); rec.Body.String() != string(w.log.Policy()) {
		t.Errorf("the policy: %s", rec.Body)
	}
	// A log that another key signed does not hold, and the page says so.
	_, other := tlogtest.Key("log.example/other")
	w.console.policy, err = tlog.ParsePolicy([]byte("log " + other + "\nquorum none\n"))
	if err != nil {
		t.Fatal(err)
	}
	if page := (visitor{w, "ann", audit.Viewer, ""}).get("/log").Body.String(); !strings.Contains(page, "does not hold") {
		t.Errorf("under another key: %s", page)
	}
	if page := (visitor{w, "ann", audit.Viewer, ""}).get("/").Body.String(); !strings.Contains(page, "the checkpoint does not hold") {
		t.Error("the overview is content with it")
	}
}
