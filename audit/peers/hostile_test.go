package peers

import (
	"encoding/json"
	"os"
	"slices"
	"strings"
	"testing"
	"unicode"

	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"
)

// naughty are the strings of the list that can be sent: JSON takes them all, and a header what is left of one.
func naughty(t *testing.T) []string {
	t.Helper()
	raw, err := os.ReadFile("testdata/blns.json")
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	if err := json.Unmarshal(raw, &all); err != nil {
		t.Fatal(err)
	}
	return all
}

// header returns what of a string can stand in a header.
func header(s string) string {
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return -1
		}
		return r
	}, s))
}

// watch makes every page of a tab keep what was stopped in it, and whether anything ran that was recorded.
func (b *tab) watch() {
	b.t.Helper()
	const source = `
		window.stopped = [];
		document.addEventListener("securitypolicyviolation", (e) => window.stopped.push(e.violatedDirective + " " + e.blockedURI + " " + e.sample));
		for (const name of ["alert", "confirm", "prompt", "print", "open", "eval"]) window[name] = (...a) => { window.stopped.push("ran: " + name + " " + a); };`
	if _, err := chromedp.Call(b.ctx, page.AddScriptToEvaluateOnNewDocument, page.AddScriptToEvaluateOnNewDocumentParams{Source: source}); err != nil {
		b.t.Fatal(err)
	}
}

// calm fails where anything that was recorded became more than text in the page.
func (b *tab) calm() {
	b.t.Helper()
	if s := eval[[]string](b, "window.stopped"); len(s) > 0 {
		b.t.Errorf("%s: %q", eval[string](b, "location.href"), s)
	}
	// What the pages themselves have, and nothing else.
	made := eval[[]string](b, `[...document.querySelectorAll("*")].filter((e) =>
		e.matches("iframe, object, embed, img, audio, video, base, style, math, template, marquee, frame, frameset, applet, body body, html html, main script, main link, main meta") ||
		[...e.attributes].some((a) => a.name.startsWith("on") || a.name === "style" || /^\s*(javascript|data|vbscript):/i.test(a.value) && a.name !== "value" && a.name !== "title" && a.name !== "placeholder") ||
		e.localName === "a" && e.hostname !== "" && e.host !== location.host).map((e) => e.outerHTML.slice(0, 200))`)
	if len(made) > 0 {
		b.t.Errorf("%s has %q", eval[string](b, "location.href"), made)
	}
}

// Everything on the list is recorded as a prompt, as a model's name and as a user agent, and is text on every page that shows it.
func TestNaughtyStringsAreText(t *testing.T) {
	d := theDemo(t)
	all := naughty(t)
	halves := [][]string{all[:len(all)/2], all[len(all)/2:]}
	var prompts []string
	for _, h := range halves {
		prompts = append(prompts, d.mustAsk(t, nil, d.chat(h...)))
	}
	// As models' names and user agents, what looks most like markup, a call each.
	var worst []string
	for _, s := range all {
		if strings.ContainsAny(s, "<>\"'`") && len(s) < 200 {
			worst = append(worst, s)
		}
	}
	const calls = 16
	sessions := make([]string, calls)
	for i := range sessions {
		s := worst[i*len(worst)/calls]
		sessions[i] = d.mustAsk(t, map[string]string{"User-Agent": header(s), "X-Naughty": header(worst[(i*len(worst)/calls+3)%len(worst)])},
			chat{Model: s, Messages: []message{{"user", s}}})
	}
	p := d.as(t, "ada", `<script>alert("why")</script>`)
	p.watch()
	// Whatever has no invisible characters stands there as it is.
	plain := func(s string) bool {
		return s != "" && !strings.ContainsFunc(s, func(r rune) bool { return r > 0x2000 || !unicode.IsPrint(r) })
	}
	for i, h := range halves {
		p.found("/sessions/"+prompts[i], "Proof")
		p.calm()
		words := eval[[]string](p.tab, `[...document.querySelectorAll("#conversation .turn.user .words")].map((e) => e.textContent)`)
		for _, s := range h {
			if plain(s) && !slices.Contains(words, s) && !masked(words, s) {
				t.Errorf("%q does not stand on the page", s)
			}
		}
		if len(words) != len(h) {
			t.Errorf("%d messages are shown of %d", len(words), len(h))
		}
		p.do(chromedp.Click(chromedp.CSS("#check")))
		p.until(`document.querySelector("#verdict").textContent.includes("trust on first use")`)
		p.calm()
	}
	eval[any](p.tab, `([...document.querySelectorAll("#conversation .words")].find((e) => e.textContent.includes("alert("))?.scrollIntoView({ block: "start" }), 0)`)
	p.shot("naughty")
	for _, s := range sessions {
		p.visit("/sessions/" + s)
		p.until(`document.querySelector("#facts")`)
		p.calm()
	}
	for _, path := range []string{"/", "/trail", "/search?q=" + "%22%3E%3Cscript%3Ealert(1)%3C%2Fscript%3E", "/search?caller=demo", "/log", "/settings", "/me"} {
		p.visit(path)
		p.calm()
	}
	if heading := p.text("h1"); heading == "" {
		t.Error("the page of the person has no heading")
	}
	if why := p.text(".why .reason"); why != `<script>alert("why")</script>` {
		t.Errorf("the reason stands there as %q", why)
	}
}

// masked says whether a string is shown with a mask in it: an address, a card number.
func masked(words []string, s string) bool {
	begin, _, _ := strings.Cut(s, " ")
	return slices.ContainsFunc(words, func(w string) bool {
		return strings.Contains(w, "⟦") && (strings.HasPrefix(w, begin) || strings.HasPrefix(w, "⟦") || strings.Contains(s, "@") || strings.Contains(s, "."))
	})
}
