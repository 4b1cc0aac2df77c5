package peers

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/browser"
	"github.com/chromedp/chromedp"
)

// The first sight of a demo: its sessions are there already.
func TestFirstSight(t *testing.T) {
	d := theDemo(t)
	p := &person{open(t), d.env["CONSOLE_URL"]}
	p.visit("/")
	p.until(`document.querySelectorAll("main table.cards tbody tr").length >= 8`)
	if n := eval[string](p.tab, `document.querySelector(".tile .big").textContent`); n == "0" {
		t.Error("the overview counts no session")
	}
	if p.text(".chart .says") == "" {
		t.Errorf("the overview has no charts: %.500s", p.text("main"))
	}
	p.shot("overview")
}

// download clicks on what hands out a file, and returns where that lies.
func (p *person) download(selector string) string {
	p.t.Helper()
	dir := p.t.TempDir()
	id := chromedp.FromContext(p.ctx).BrowserContextID
	if _, err := chromedp.CallBrowser(p.ctx, browser.SetDownloadBehavior, browser.SetDownloadBehaviorParams{
		Behavior: browser.SetDownloadBehaviorBehaviorAllow, BrowserContextID: id, DownloadPath: dir,
	}); err != nil {
		p.t.Fatal(err)
	}
	p.do(chromedp.ScrollIntoView(chromedp.CSS(selector)), chromedp.Click(chromedp.CSS(selector)))
	for deadline := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		all, err := os.ReadDir(dir)
		if err != nil {
			p.t.Fatal(err)
		}
		if len(all) == 1 && !strings.HasSuffix(all[0].Name(), ".crdownload") {
			return filepath.Join(dir, all[0].Name())
		}
		if time.Now().After(deadline) {
			p.t.Fatalf("nothing is handed out: %v\n%s", all, p.text("main"))
		}
	}
}

// A console that lies about a bundle, or somebody on the way, is found out in the page of the session.
func TestTamperedOnTheWay(t *testing.T) {
	d := theDemo(t)
	session := d.mustAsk(t, nil, d.chat("What is a tally stick?"))
	to, err := url.Parse(d.env["CONSOLE_URL"])
	if err != nil {
		t.Fatal(err)
	}
	edit := func(b string) string { return b }
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(to)
			r.Out.Host = to.Host
		},
		ModifyResponse: func(resp *http.Response) error {
			if !strings.HasSuffix(resp.Request.URL.Path, "/bundle") {
				return nil
			}
			b, err := io.ReadAll(resp.Body)
			if err != nil {
				return err
			}
			body := string(again([]byte(edit(string(b[head:])))))
			resp.Body = io.NopCloser(strings.NewReader(body))
			resp.Header.Set("Content-Length", fmt.Sprint(len(body)))
			resp.ContentLength = int64(len(body))
			return nil
		},
	}
	p := d.as(t, "audrey", "a test of tampering")
	// Cookies know no ports: whoever is signed in there is signed in here.
	p.base = site(t, proxy)
	check := func() string {
		t.Helper()
		p.do(chromedp.Click(chromedp.CSS("#check")))
		p.until(`!document.querySelector("#proof").hasAttribute("aria-busy") && document.querySelector("#verdict").textContent`)
		return strings.TrimSpace(p.text("#verdict"))
	}
	p.found("/sessions/"+session, "Check the proofs")
	p.do(chromedp.Click(chromedp.CSS("#pin-served")))
	p.until(`document.querySelector("#pinned")`)
	if got := check(); got != "Everything in this bundle holds under the policy you pinned." {
		t.Fatalf("untouched: %s", got)
	}
	p.do(chromedp.ScrollIntoView(chromedp.CSS("#proof")))
	p.shot("proof-good")
	first := func(old, new string) func(string) string {
		return func(b string) string {
			if !strings.Contains(b, old) {
				t.Errorf("the bundle has no %s", old)
			}
			return strings.Replace(b, old, new, 1)
		}
	}
	for _, c := range []struct {
		name string
		edit func(string) string
		says string
	}{
		{"payload", first("What is a tally stick?", "What is a silly trick?"), "REFUSED: fields-match is false for entry "},
		{"proof", func(b string) string {
			i := strings.Index(b, `"proof":["`) + len(`"proof":["`)
			return b[:i] + strings.Repeat("A", 42) + b[i+42:]
		}, "REFUSED: entry-in-tree is false for entry "},
		{"checkpoint", func(b string) string {
			// The size is the line after the origin.
			i := strings.Index(b, `"checkpoint":"`)
			i += strings.Index(b[i:], `\n`) + 2
			return b[:i] + "1" + b[i:]
		}, "REFUSED: checkpoint-signed is false for the checkpoint: "},
	} {
		edit = c.edit
		if got := check(); !strings.HasPrefix(got, c.says) {
			t.Errorf("%s: %s", c.name, got)
		}
		p.shot("proof-refused-" + c.name)
	}
}

// Whoever decides sees a call come without a reload, and says yes; the caller has his answer.
func TestApprovalLive(t *testing.T) {
	d := theDemo(t)
	p := d.as(t, "paula", "")
	p.visit("/approvals")
	p.until(`document.querySelector("#live").textContent.includes("kept up to date")`)
	eval[any](p.tab, `(window.stayed = true, 0)`)
	// What other tests left waiting is older.
	const risky = `[...document.querySelectorAll("#list tr")].filter((r) => r.textContent.includes("fake-risky"))`
	before := eval[int](p.tab, risky+".length")
	type answer struct {
		session string
		status  int
		err     error
	}
	answered := make(chan answer, 1)
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	go func() {
		s, status, err := d.ask(ctx, nil, chat{Model: "fake-risky", Messages: []message{{"user", "Delete everything, <b>now</b>."}}})
		answered <- answer{s, status, err}
	}()
	p.until(fmt.Sprintf("%s.length > %d", risky, before))
	if !eval[bool](p.tab, "window.stayed === true") {
		t.Error("the page was loaded anew")
	}
	p.shot("approvals")
	eval[any](p.tab, `(`+risky+`.at(-1).querySelector("a").id = "here", 0)`)
	p.submit("#here")
	if body := p.text("pre.raw"); !strings.Contains(body, "Delete everything, <b>now</b>.") {
		t.Fatalf("the whole request is not shown: %s", body)
	}
	p.fill("textarea", "It is a test, and nothing is deleted.")
	p.shot("approval")
	p.submit(`button[value="approve"]`)
	p.until(`document.querySelector(".notice.good")`)
	select {
	case a := <-answered:
		if a.err != nil || a.status != http.StatusOK {
			t.Errorf("the caller: %d %v", a.status, a.err)
		}
		audrey := d.as(t, "audrey", "who said yes")
		audrey.found("/sessions/"+a.session, "It is a test, and nothing is deleted.")
		if story := audrey.text("#story"); !strings.Contains(story, "paula") {
			t.Errorf("the session does not say who approved it: %s", story)
		}
		audrey.do(chromedp.Click(chromedp.CSS("#check")))
		audrey.until(`[...document.querySelectorAll("#claims tr[data-claim=approval-given]")].some((r) => r.dataset.ok === "true" && r.textContent.includes("paula"))`)
	case <-ctx.Done():
		t.Error("the caller has no answer")
	}
}
