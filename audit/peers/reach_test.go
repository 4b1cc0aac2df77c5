package peers

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
)

// contrasts finds text whose colour is too near to what is behind it, by what the browser computed (WCAG 2.2, 1.4.3: 4.5 to 1, and 3 to
// 1 for large text).
const contrasts = `(() => {
	const parse = (c) => { const m = c.match(/[\d.]+/g).map(Number); return { r: m[0], g: m[1], b: m[2], a: m[3] ?? 1 }; };
	const over = (top, under) => ({ r: top.r * top.a + under.r * (1 - top.a), g: top.g * top.a + under.g * (1 - top.a), b: top.b * top.a + under.b * (1 - top.a), a: 1 });
	const light = ({ r, g, b }) => {
		const [x, y, z] = [r, g, b].map((v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
		return 0.2126 * x + 0.7152 * y + 0.0722 * z;
	};
	const behind = (e) => {
		const layers = [];
		for (; e; e = e.parentElement) {
			const c = parse(getComputedStyle(e).backgroundColor);
			if (c.a > 0) layers.push(c);
			if (c.a === 1) break;
		}
		return layers.reverse().reduce((under, top) => over(top, under), parse(getComputedStyle(document.documentElement).backgroundColor));
	};
	const wrong = new Set();
	const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
	for (let n; (n = walk.nextNode());) {
		const e = n.parentElement;
		if (!n.data.trim() || !e.checkVisibility({ visibilityProperty: true, opacityProperty: true }) || e.closest("svg, :disabled, .unseen, .skip")) continue;
		const style = getComputedStyle(e), back = behind(e), fore = over(parse(style.color), back);
		const [a, b] = [light(fore), light(back)].sort((x, y) => y - x);
		const size = parseFloat(style.fontSize), large = size >= 24 || size >= 18.66 && Number(style.fontWeight) >= 700;
		const is = (a + 0.05) / (b + 0.05);
		if (is < (large ? 3 : 4.5)) wrong.add(is.toFixed(2) + " " + e.localName + "." + e.className + " " + n.data.trim().slice(0, 40));
	}
	return [...wrong];
})()`

// unnamed finds what people without eyes or a mouse cannot use: controls without a name, two ids that are one, headings that leave a level
// out, a page without a language, a title or a main part.
const unnamed = `(() => {
	const wrong = [];
	const named = (e) => (e.getAttribute("aria-label") ?? "").trim() || e.textContent.trim() || (e.labels && [...e.labels].some((l) => l.textContent.trim())) ||
		e.getAttribute("aria-labelledby")?.split(" ").some((id) => document.getElementById(id)?.textContent.trim()) || e.querySelector("svg[aria-label], img[alt]");
	for (const e of document.querySelectorAll("a[href], button, input:not([type=hidden]), select, textarea, summary, [role=region], [tabindex='0']")) {
		if (e.checkVisibility() && !named(e)) wrong.push("no name: " + e.outerHTML.slice(0, 120));
	}
	const ids = [...document.querySelectorAll("[id]")].map((e) => e.id);
	for (const id of new Set(ids)) if (ids.filter((i) => i === id).length > 1) wrong.push("twice: #" + id);
	let level = 0;
	for (const h of document.querySelectorAll("h1, h2, h3, h4, h5, h6")) {
		const n = Number(h.localName[1]);
		if (n > level + 1) wrong.push("a level is left out before " + h.outerHTML.slice(0, 80));
		level = n;
	}
	if (document.querySelectorAll("h1").length !== 1) wrong.push(document.querySelectorAll("h1").length + " h1");
	if (!document.documentElement.lang || !document.title || document.querySelectorAll("main").length !== 1) wrong.push("no language, title or main");
	for (const th of document.querySelectorAll("th:not([scope])")) wrong.push("a th without scope: " + th.textContent);
	for (const e of document.querySelectorAll("[tabindex]")) if (e.tabIndex > 0) wrong.push("a tabindex of " + e.tabIndex);
	return wrong;
})()`

// Every page can be read by everybody: at the width of a telephone without going sideways, dark and light with contrast, and by who hears it.
func TestPagesAreForEverybody(t *testing.T) {
	d := theDemo(t)
	session := d.mustAsk(t, map[string]string{"Fake-Model": "/tool find_order"}, chat{
		Model: d.env["MODEL"], Stream: true,
		Messages: []message{{"system", "Be short."}, {"user", "My card is 4000 0566 5566 5556, " + strings.Repeat("averylongwordwithoutanyspace", 20) + " and a right-to-left \u202eoverride"}},
	})
	go d.ask(t.Context(), nil, chat{Model: "fake-risky", Messages: []message{{"user", strings.Repeat("wide", 200)}}})
	p := d.as(t, "ada", "a look at every page, with a reason that is rather long, so that it would be wider than a telephone")
	p.found("/sessions/"+session, "Proof")
	paths := []string{"/", "/search", "/search?q=nothing+like+it", "/sessions/" + session, "/approvals", "/log", "/trail", "/settings", "/me", "/sessions/" + session + "/erase", "/nowhere", "/login/"}
	p.visit("/approvals")
	p.until(`document.querySelector("#list a")`)
	paths = append(paths, eval[string](p.tab, `document.querySelector("#list a").getAttribute("href")`))
	axe := ""
	if file := os.Getenv("AXE"); file != "" { // axe-core's axe.min.js, where somebody has it
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		axe = string(b)
	}
	for _, path := range paths {
		name := strings.NewReplacer("/", "-", "?", "-", session, "session").Replace(strings.Trim(path, "/"))
		p.do(chromedp.EmulateViewport(1280, 900))
		p.visit(path)
		if strings.HasPrefix(path, "/sessions/") && strings.HasSuffix(path, session) {
			p.do(chromedp.Click(chromedp.CSS("#check")))
			p.until(`document.querySelector("#claims")`)
		}
		// What is folded is read as well.
		eval[any](p.tab, `(document.querySelectorAll("details").forEach((e) => { e.open = true; }), 0)`)
		for _, scheme := range []string{"dark", "light"} {
			p.prefers("prefers-color-scheme", scheme)
			if wrong := eval[[]string](p.tab, contrasts); len(wrong) > 0 {
				t.Errorf("%s, %s: too little contrast: %q", path, scheme, wrong)
			}
			p.shot(scheme + "-" + name)
		}
		if wrong := eval[[]string](p.tab, unnamed); len(wrong) > 0 {
			t.Errorf("%s: %q", path, wrong)
		}
		if axe != "" {
			eval[any](p.tab, axe+";0")
			for _, w := range eval[[]string](p.tab, `axe.run(document, { runOnly: ["wcag2a", "wcag2aa", "wcag21aa", "wcag22aa"] }).then((r) =>
				r.violations.map((v) => v.id + ": " + v.nodes.map((n) => n.html.slice(0, 150)).slice(0, 4).join(" | ")))`) {
				t.Errorf("axe, %s: %s", path, w)
			}
		}
		p.do(chromedp.EmulateViewport(360, 740))
		if wide := eval[int](p.tab, "document.documentElement.scrollWidth"); wide > 360 {
			t.Errorf("%s is %d wide on a telephone: %q", path, wide, eval[[]string](p.tab, `[...document.querySelectorAll("main *, header *, footer *")]
				.filter((e) => e.getBoundingClientRect().right > 361 && !e.closest(".box, pre, svg")).map((e) => e.localName + "." + e.className + " " + e.textContent.trim().slice(0, 40)).slice(0, 8)`))
		}
		eval[any](p.tab, `(document.querySelectorAll("details").forEach((e) => { e.open = false; }), 0)`)
		p.shot("phone-" + name)
	}
}

// press presses keys.
func (p *person) press(keys string) {
	p.t.Helper()
	p.do(chromedp.KeyEvent(keys))
}

// tabTo presses the key that goes on until the focus is on what is wanted, and sees that everybody sees where it is.
func (p *person) tabTo(selector string) {
	p.t.Helper()
	for range 200 {
		p.press(kb.Tab)
		at := eval[struct {
			Here, Seen bool
			What       string
		}](p.tab, fmt.Sprintf(`(() => {
			const e = document.activeElement, s = getComputedStyle(e);
			return { Here: e.matches(%q), Seen: e === document.body || s.outlineStyle !== "none" && parseFloat(s.outlineWidth) >= 2, What: e.outerHTML.slice(0, 120) };
		})()`, selector))
		if !at.Seen {
			p.t.Errorf("the focus is not seen on %s", at.What)
		}
		if at.Here {
			return
		}
	}
	p.t.Fatalf("no key leads to %s", selector)
}

// A press of keys is all that it takes to find a session, and to read and to check it: no mouse.
func TestFoundByKeysAlone(t *testing.T) {
	d := theDemo(t)
	session := d.mustAsk(t, nil, d.chat("Where does the word xylophonist come from?"))
	p := d.as(t, "victor", "found by keys alone")
	p.found("/search?q=xylophonist", session) // it is in the index
	p.visit("/search")
	p.tabTo("#q")
	p.press("xylophonist")
	p.press(kb.Enter)
	p.until(`location.search.includes("xylophonist") && document.querySelector("a.open")`)
	p.tabTo(`a.open[href="/sessions/` + session + `"]`)
	p.press(kb.Enter)
	p.until(`location.pathname === "/sessions/` + session + `" && document.querySelector("#check")`)
	if talk := p.text("#conversation"); !strings.Contains(talk, "xylophonist") {
		t.Errorf("the session says %s", talk)
	}
	p.tabTo("#check")
	p.press(" ")
	p.until(`document.querySelector("#claims")`)
	p.tabTo("#pin-served")
	p.press(kb.Enter)
	p.until(`document.querySelector("#pinned")`)
}

// Nor does it take more to decide about a call.
func TestDecidedByKeysAlone(t *testing.T) {
	d := theDemo(t)
	type answer struct {
		status int
		err    error
	}
	answered := make(chan answer, 1)
	go func() {
		_, status, err := d.ask(t.Context(), nil, chat{Model: "fake-risky", Messages: []message{{"user", "by keys alone"}}})
		answered <- answer{status, err}
	}()
	p := d.as(t, "paula", "")
	p.visit("/")
	p.press(kb.Tab)
	if skip := eval[string](p.tab, "document.activeElement.className"); skip != "skip" {
		t.Errorf("the first thing is not the way to the content but %q", skip)
	}
	p.tabTo(`.pages a[href="/approvals"]`)
	p.press(kb.Enter)
	p.until(`location.pathname === "/approvals" && [...document.querySelectorAll("#list tr")].some((r) => r.textContent.includes("fake-risky"))`)
	eval[any](p.tab, `(document.querySelector("#main").focus(), 0)`)
	// The newest is the last.
	mine := ""
	for range 50 {
		p.tabTo("#list a")
		mine = eval[string](p.tab, "document.activeElement.href")
		if eval[bool](p.tab, `document.activeElement.closest("tr") === [...document.querySelectorAll("#list tr")].filter((r) => r.textContent.includes("fake-risky")).at(-1)`) {
			break
		}
	}
	p.press(kb.Enter)
	p.until(fmt.Sprintf("location.href === %q && document.querySelector('textarea')", mine))
	if body := p.text("pre.raw"); !strings.Contains(body, "by keys alone") {
		t.Fatalf("another call is shown: %s", body)
	}
	p.tabTo("textarea")
	p.press("Typed, and tabbed.")
	p.tabTo(`button[value="approve"]`)
	p.press(" ")
	p.until(`document.querySelector(".notice.good")`)
	if a := <-answered; a.err != nil || a.status != 200 {
		t.Errorf("the caller: %d %v", a.status, a.err)
	}
}

// What somebody is shown a way to, he may see; and what he may not, he is told so, with where to go on.
func TestRolesInTheBrowser(t *testing.T) {
	d := theDemo(t)
	session := d.mustAsk(t, nil, d.chat("Who may read this?"))
	for _, c := range []struct {
		who         string
		reads, uses string // what is on the page of a session, and what he may not open
	}{
		{"ada", "#out", ""},
		{"victor", "#proof", "/approvals /trail"},
		{"paula", "", "/search /trail /settings"},
		{"audrey", "#out", "/approvals"},
		{"adam", "", "/search /approvals"},
	} {
		p := d.as(t, c.who, "to see what a "+c.who+" sees")
		p.visit("/")
		for _, path := range eval[[]string](p.tab, `[...document.querySelectorAll(".pages a")].map((a) => a.getAttribute("href"))`) {
			p.visit(path)
			if h := p.text("h1"); h == "" || h == "Not in your role" {
				t.Errorf("%s is shown the way to %s: %q", c.who, path, h)
			}
		}
		for _, path := range strings.Fields(c.uses) {
			p.visit(path)
			if h := p.text("h1"); h != "Not in your role" || eval[int](p.tab, `document.querySelectorAll("main a").length`) == 0 {
				t.Errorf("%s opens %s: %q", c.who, path, h)
			}
		}
		if c.reads == "" {
			p.visit("/sessions/" + session)
			if body := p.text("main"); strings.Contains(body, "Who may read this?") {
				t.Errorf("%s reads a session: %s", c.who, body)
			}
			continue
		}
		p.found("/sessions/"+session, "Who may read this?")
		if !eval[bool](p.tab, fmt.Sprintf("document.querySelector(%q) !== null", c.reads)) || c.reads == "#proof" && eval[bool](p.tab, `document.querySelector("#out") !== null`) {
			t.Errorf("%s sees another page of a session than he should", c.who)
		}
	}
}
