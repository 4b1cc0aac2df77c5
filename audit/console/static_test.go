package console

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tallystick/tallystick/audit"
	"github.com/tallystick/tallystick/tlog/record"
)

// luminance is that of WCAG 2.2 for a colour #rrggbb.
func luminance(t *testing.T, hex string) float64 {
	t.Helper()
	n, err := strconv.ParseUint(strings.TrimPrefix(hex, "#"), 16, 32)
	if err != nil || len(hex) != 7 {
		t.Fatalf("%q is no colour", hex)
	}
	part := func(shift int) float64 {
		c := float64(n>>shift&0xff) / 255
		if c <= 0.04045 {
			return c / 12.92
		}
		return math.Pow((c+0.055)/1.055, 2.4)
	}
	return 0.2126*part(16) + 0.7152*part(8) + 0.0722*part(0)
}

func contrast(t *testing.T, a, b string) float64 {
	t.Helper()
	x, y := luminance(t, a), luminance(t, b)
	return (max(x, y) + 0.05) / (min(x, y) + 0.05)
}

func stylesheet(t *testing.T) string {
	t.Helper()
	b, err := static.ReadFile("static/console.css")
	if err != nil {
		t.Fatal(err)
	}
	return regexp.MustCompile(`(?s)/\*.*?\*/`).ReplaceAllString(string(b), "")
}

var (
	colour = regexp.MustCompile(`--([a-z0-9-]+): (#[0-9a-f]{6});`)
	rule   = regexp.MustCompile(`([^{}]+)\{([^{}]*)\}`)
	inks   = regexp.MustCompile(`(?:^|[\s;])color: var\(--([a-z0-9-]+)\)`)
	papers = regexp.MustCompile(`background: var\(--([a-z0-9-]+)\)`)
)

// Every colour of writing can be read on everything that it stands on, by day and by night: 4.5 to 1, and 3 to 1 for shapes.
func TestContrast(t *testing.T) {
	css := stylesheet(t)
	themes := make(map[string]map[string]string)
	for _, m := range rule.FindAllStringSubmatch(css, -1) {
		vars := make(map[string]string)
		for _, v := range colour.FindAllStringSubmatch(m[2], -1) {
			vars[v[1]] = v[2]
		}
		if len(vars) > 20 {
			themes[strings.TrimSpace(m[1])] = vars
		}
	}
	light, dark, chosen := themes[":root"], themes[`:root:not([data-theme="light"])`], themes[`:root[data-theme="dark"]`]
	if light == nil || dark == nil || fmt.Sprint(dark) != fmt.Sprint(chosen) || len(light) != len(dark) {
		t.Fatalf("light: %d colours; dark: %d, and the same where it is chosen: %v", len(light), len(dark), fmt.Sprint(dark) == fmt.Sprint(chosen))
	}
	type pair struct{ ink, paper string }
	pairs := make(map[pair]string)
	for _, m := range rule.FindAllStringSubmatch(css, -1) {
		ink := inks.FindStringSubmatch(m[2])
		if ink == nil {
			continue
		}
		where := strings.TrimSpace(m[1])
		if paper := papers.FindStringSubmatch(m[2]); paper != nil {
			pairs[pair{ink[1], paper[1]}] = where
			continue
		}
		under := []string{"bg", "panel", "sunk"}
		if _, ok := light[ink[1]+"-sunk"]; ok {
			under = append(under, ink[1]+"-sunk")
		}
		if on, ok := strings.CutPrefix(ink[1], "on-"); ok {
			under = []string{on}
		}
		for _, paper := range under {
			pairs[pair{ink[1], paper}] = where
		}
	}
	if len(pairs) < 25 {
		t.Fatalf("only %d pairs: this test sees nothing", len(pairs))
	}
	shapes := []pair{{"edge", "panel"}, {"edge", "bg"}, {"focus", "panel"}, {"focus", "bg"}, {"danger", "panel"}, {"accent", "panel"}, {"fine", "panel"}, {"warn", "panel"}}
	for i := 1; i <= 6; i++ {
		shapes = append(shapes, pair{fmt.Sprintf("c%d", i), "panel"}, pair{fmt.Sprintf("c%d", i), "sunk"})
	}
	for name, vars := range map[string]map[string]string{"light": light, "dark": dark} {
		for p, where := range pairs {
			if c := contrast(t, vars[p.ink], vars[p.paper]); c < 4.5 {
				t.Errorf("%s: %s on %s is %.2f to 1, in %s", name, p.ink, p.paper, c, where)
			}
		}
		for _, p := range shapes {
			if c := contrast(t, vars[p.ink], vars[p.paper]); c < 3 {
				t.Errorf("%s: the shape %s on %s is %.2f to 1", name, p.ink, p.paper, c)
			}
		}
	}
	if c := contrast(t, "#ffffff", "#000000"); math.Abs(c-21) > 0.01 {
		t.Errorf("white on black is %.2f", c)
	}
	if c := contrast(t, "#777777", "#ffffff"); math.Abs(c-4.48) > 0.01 {
		t.Errorf("#777 on white is %.2f", c)
	}
}

// The style sheet names no colour but by its variable, takes nothing from elsewhere, and knows of motion, print and narrow screens.
func TestStylesheet(t *testing.T) {
	css := stylesheet(t)
	for _, m := range rule.FindAllStringSubmatch(css, -1) {
		if colour.MatchString(m[2]) {
			continue
		}
		if bad := regexp.MustCompile(`#[0-9a-fA-F]{3,8}\b|rgb|hsl`).FindString(m[2]); bad != "" && !strings.Contains(m[2], "#999999") && !strings.Contains(m[2], "#666666") {
			t.Errorf("%s has a colour of its own: %s", strings.TrimSpace(m[1]), bad)
		}
	}
	for _, bad := range []string{"url(", "@import", "expression", "http:", "https:"} {
		if strings.Contains(css, bad) {
			t.Errorf("the style sheet has %s", bad)
		}
	}
	for _, must := range []string{"prefers-color-scheme: dark", "prefers-reduced-motion: reduce", "@media print", "max-width: 46rem", ":focus-visible", "forced-colors: active"} {
		if !strings.Contains(css, must) {
			t.Errorf("the style sheet knows nothing of %s", must)
		}
	}
	// A variable that is used is there.
	has := make(map[string]bool)
	for _, m := range regexp.MustCompile(`--([a-z0-9-]+):`).FindAllStringSubmatch(css, -1) {
		has[m[1]] = true
	}
	for _, m := range regexp.MustCompile(`var\(--([a-z0-9-]+)\)`).FindAllStringSubmatch(css, -1) {
		if !has[m[1]] {
			t.Errorf("there is no variable %s", m[1])
		}
	}
}

// No module makes a page of text, or text a script; what they fetch is ours. Nothing in the code of this room passes text off as HTML.
func TestNothingBecomesHTML(t *testing.T) {
	files, err := fs.Glob(static, "static/*.js")
	if err != nil || len(files) < 4 {
		t.Fatal(files, err)
	}
	for _, f := range files {
		b, err := static.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for _, bad := range []string{"innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "DOMParser", "createContextualFragment", "eval(", "new Function", "setHTML", "srcdoc", ".style.", "http://", "importScripts"} {
			if strings.Contains(string(b), bad) {
				t.Errorf("%s has %s", f, bad)
			}
		}
	}
	code, err := filepath.Glob("*.go")
	if err != nil || len(code) == 0 {
		t.Fatal(code, err)
	}
	for _, f := range code {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if bad := regexp.MustCompile(`template\.(HTML|JS|CSS|URL|Srcset|HTMLAttr|JSStr)\b|"text/template"`).Find(b); bad != nil && !strings.HasSuffix(f, "_test.go") {
			t.Errorf("%s has %s", f, bad)
		}
	}
	templates, err := fs.Glob(pages, "pages/*.html")
	if err != nil || len(templates) < 10 {
		t.Fatal(templates, err)
	}
	for _, f := range templates {
		b, err := pages.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if bad := regexp.MustCompile(`(?i)\sstyle=|<style|\son[a-z]+=|javascript:|<script>|https?://[a-z]|target="_blank"`).Find(b); bad != nil {
			t.Errorf("%s has %s", f, bad)
		}
	}
}

// What does not change is not sent again.
func TestAssets(t *testing.T) {
	w := newWorld(t)
	files, err := fs.Glob(static, "static/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		path := "/" + f
		rec := visitor{w: w}.get(path)
		kind := rec.Header().Get("Content-Type")
		if rec.Code != http.StatusOK || kind == "" || kind == "application/octet-stream" {
			t.Errorf("%s: %d, %s", path, rec.Code, kind)
			continue
		}
		req := visitor{w: w}.request("GET", path, nil)
		req.Header.Set("If-None-Match", rec.Header().Get("ETag"))
		if again := (visitor{w: w}).do(req); again.Code != http.StatusNotModified || again.Body.Len() > 0 {
			t.Errorf("%s again: %d, %d bytes", path, again.Code, again.Body.Len())
		}
	}
	// Whatever a page asks for is there.
	for _, p := range []string{"/", "/me"} {
		page := visitor{w, "ann", audit.Operator, "a test"}.get(p).Body.String()
		for _, m := range regexp.MustCompile(`(?:src|href)="(/static/[^"]*)"`).FindAllStringSubmatch(page, -1) {
			if rec := (visitor{w: w}).get(m[1]); rec.Code != http.StatusOK {
				t.Errorf("%s asks for %s: %d", p, m[1], rec.Code)
			}
		}
	}
}

// A leaving is a way in that lets nobody in any more once left is set.
type leaving struct {
	SignIn
	left atomic.Bool
}

func (l *leaving) Who(req *http.Request) (Person, bool) {
	if l.left.Load() {
		return Person{}, false
	}
	return l.SignIn.Who(req)
}

// Who has the list open is told when it changes, and not any more once he is signed out.
func TestChanges(t *testing.T) {
	w := newWorld(t)
	id := record.NewID(time.Now())
	w.waiting.list = []Approval{{ID: id, State: "waiting", Open: true, Caller: "<b>alice</b>", Need: 1, Until: time.Now().Add(time.Minute)}}
	var gone bool
	in := &leaving{SignIn: w.console.c.SignIn}
	w.console.c.SignIn = in
	server := httptest.NewServer(w.console)
	defer server.Close()
	w.console.c.Hosts = append(w.console.c.Hosts, strings.TrimPrefix(server.URL, "http://"))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, "GET", server.URL+"/approvals/changes", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Person", "cid")
	req.Header.Set("Roles", "approver")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if kind := resp.Header.Get("Content-Type"); resp.StatusCode != 200 || kind != "text/event-stream" {
		t.Fatalf("%s, %s", resp.Status, kind)
	}
	lines := bufio.NewScanner(resp.Body)
	event := func() (all []waits) {
		t.Helper()
		for lines.Scan() {
			if data, ok := strings.CutPrefix(lines.Text(), "data: "); ok {
				if err := json.Unmarshal([]byte(data), &all); err != nil {
					t.Fatal(err)
				}
				return all
			}
		}
		gone = true
		return nil
	}
	if all := event(); len(all) != 1 || all[0].ID != id.String() || all[0].Caller != "<b>alice</b>" {
		t.Fatalf("at first: %+v", all)
	}
	w.waiting.mu.Lock()
	w.waiting.list = append(w.waiting.list, Approval{ID: record.NewID(time.Now()), Caller: "cid", Open: true})
	w.waiting.mu.Unlock()
	w.waiting.changed <- struct{}{}
	if all := event(); len(all) != 2 || !all[1].Yours {
		t.Fatalf("after a change: %+v", all)
	}
	in.left.Store(true)
	w.waiting.changed <- struct{}{}
	if all := event(); !gone {
		t.Fatalf("who is signed out is told %+v", all)
	}
}
