package peers

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/chromedp/chromedp"

	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/tlogtest"
	"github.com/tallystick/tallystick/verify"
)

const proofPage = `<!doctype html><meta charset="utf-8"><title>proof</title><script type="module" src="/static/proof.js"></script>
<section id="proof" data-session="019a4200-0000-7000-8000-000000000002" data-bundle="/bundle" data-policy="/policy"><div id="verdict" aria-live="polite"></div></section>`

// A desk serves a page with the panel of proofs, and a bundle and a policy that can be changed.
type desk struct {
	*tab
	url string

	mu             sync.Mutex
	bundle, policy []byte
}

func newDesk(t *testing.T, bundle, policy []byte) *desk {
	t.Helper()
	d := &desk{tab: open(t), bundle: bundle, policy: policy}
	mux := http.NewServeMux()
	mux.Handle("GET /static/", http.StripPrefix("/static/", http.FileServerFS(static())))
	mux.HandleFunc("GET /favicon.ico", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte(proofPage)) })
	mux.HandleFunc("GET /bundle", func(w http.ResponseWriter, _ *http.Request) {
		d.mu.Lock()
		defer d.mu.Unlock()
		w.Header().Set("Content-Type", "application/json")
		w.Write(d.bundle)
	})
	mux.HandleFunc("GET /policy", func(w http.ResponseWriter, _ *http.Request) {
		d.mu.Lock()
		defer d.mu.Unlock()
		w.Write(d.policy)
	})
	d.url = site(t, strict(mux)) + "/"
	d.visit()
	return d
}

func (d *desk) visit() {
	d.t.Helper()
	d.goTo(d.url)
	d.until(`document.querySelector("#check") && document.querySelector("#pin").textContent`)
}

func (d *desk) serve(bundle, policy []byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.bundle, d.policy = bundle, policy
}

// check presses the button and returns the verdict.
func (d *desk) check() string {
	d.t.Helper()
	d.do(chromedp.Click(chromedp.CSS("#check")))
	return d.said()
}

func (d *desk) said() string {
	d.t.Helper()
	d.until(`!document.querySelector("#proof").hasAttribute("aria-busy") && document.querySelector("#verdict").textContent`)
	return strings.TrimSpace(d.text("#verdict"))
}

func sha(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// Somebody who has pinned a policy is told what holds under it, and that the console serves another one; who has not, what that is
// worth.
func TestPinnedPolicy(t *testing.T) {
	day, _, policy, alone := load(t)
	raw := write(t, day)
	d := newDesk(t, raw, []byte(policy))
	if got := d.check(); !strings.Contains(got, "trust on first use") || !strings.Contains(got, sha([]byte(policy))) {
		t.Errorf("nothing pinned: %s", got)
	}
	d.do(chromedp.Click(chromedp.CSS("#pin-served")))
	d.until(`document.querySelector("#pinned")`)
	if got := d.check(); got != "Everything in this bundle holds under the policy you pinned." {
		t.Errorf("pinned: %s", got)
	}
	// It is pinned for good, and another one is seen.
	d.serve(raw, []byte(alone))
	d.visit()
	if got := d.text("#pin"); !strings.Contains(got, "ANOTHER") || !strings.Contains(got, sha([]byte(policy))) || !strings.Contains(got, sha([]byte(alone))) {
		t.Errorf("the console serves another: %s", got)
	}
	if got := d.check(); got != "Everything in this bundle holds under the policy you pinned." {
		t.Errorf("the console serves another: %s", got)
	}
	if got := d.text("#judged-by"); !strings.Contains(got, sha([]byte(policy))) || !strings.Contains(got, "the console serves another") {
		t.Errorf("judged by: %s", got)
	}
	// A console that drops its witnesses, and their cosignatures, does not get through.
	signed := day.Checkpoint
	day.Checkpoint = signed[:bytes.Index(signed, []byte("— witness.example/a"))]
	d.serve(write(t, day), []byte(alone))
	if got := d.check(); !strings.HasPrefix(got, "REFUSED: checkpoint-cosigned is false for the checkpoint") {
		t.Errorf("without witnesses: %s", got)
	}
	d.do(chromedp.Click(chromedp.CSS("#forget")))
	d.until(`document.querySelector("#unpinned")`)
	if got := d.check(); !strings.Contains(got, "trust on first use") {
		t.Errorf("forgotten: %s", got)
	}
	// One is pasted, without the line break that a clipboard loses; and what is none is not taken.
	paste := func(text string) {
		t.Helper()
		d.do(chromedp.Click(chromedp.CSS("#pin summary")), chromedp.SetValue(chromedp.CSS("#policy-text"), text), chromedp.Click(chromedp.CSS("#pin-pasted")))
	}
	paste("trust everybody\n")
	d.until(`document.querySelector("#policy-wrong").textContent.includes("line 1")`)
	d.visit()
	paste(strings.TrimSpace(policy))
	d.until(`document.querySelector("#pinned")`)
	if got := d.text("#pinned"); !strings.Contains(got, sha([]byte(policy))) {
		t.Errorf("pasted: %s", got)
	}
	// Without any nothing is proven, which is not the same as false, and not as true.
	d.do(chromedp.Click(chromedp.CSS("#forget")))
	d.until(`document.querySelector("#unpinned")`)
	d.serve(raw, nil)
	d.visit()
	if got := d.check(); !strings.HasPrefix(got, "NOT PROVEN HERE") || !strings.Contains(got, "checkpoint-signed") {
		t.Errorf("no policy at all: %s", got)
	}
}

// ofAnother returns the same bundle as one of another log, and that log's policy.
func ofAnother(t *testing.T, b *verify.Bundle) (bundle, policy []byte) {
	t.Helper()
	const origin = "log.example/other"
	key, vkey := tlogtest.Key(origin)
	c, err := tlog.UnverifiedCheckpoint(b.Checkpoint)
	if err != nil {
		t.Fatal(err)
	}
	c.Origin = origin
	moved := *b
	moved.Origin = origin
	if moved.Checkpoint, err = tlog.SignCheckpoint(c, key); err != nil {
		t.Fatal(err)
	}
	return write(t, &moved), []byte("log " + vkey + "\nquorum none\n")
}

// Whatever is changed in a bundle on its way is refused, and the claim named that is false.
func TestTamperedBundleIsRefused(t *testing.T) {
	day, _, policy, _ := load(t)
	d := newDesk(t, write(t, day), []byte(policy))
	d.do(chromedp.Click(chromedp.CSS("#pin-served")))
	d.until(`document.querySelector("#pinned")`)
	for _, c := range []struct {
		name string
		edit func(b *verify.Bundle)
		says string
	}{
		{"proof", func(b *verify.Bundle) { b.Sessions[0].Entries[0].Proof[0][0] ^= 1 }, "REFUSED: entry-in-tree is false for entry 1: "},
		{"payload", func(b *verify.Bundle) { b.Sessions[0].Entries[1].Fields[2].Shown.Value = []byte("null ") }, "REFUSED: fields-match is false for entry 3: "},
		{"checkpoint", func(b *verify.Bundle) {
			b.Checkpoint = bytes.Replace(b.Checkpoint, []byte("\n12\n"), []byte("\n13\n"), 1)
		}, "REFUSED: checkpoint-signed is false for the checkpoint: "},
		{"origin", func(b *verify.Bundle) { b.Origin = "log.example/tesT" }, "REFUSED: checkpoint-signed is false for the checkpoint: "},
	} {
		b, _, _, _ := load(t)
		c.edit(b)
		d.serve(write(t, b), []byte(policy))
		if got := d.check(); !strings.HasPrefix(got, c.says) {
			t.Errorf("%s: %s", c.name, got)
		}
		if n := eval[int](d.tab, `document.querySelectorAll("#claims tr[data-ok=false]").length`); n == 0 {
			t.Errorf("%s: no row of the table is false", c.name)
		}
	}
	// Another log altogether, with a policy that names it: whoever has pinned one is told that it is not that log's.
	other, theirs := ofAnother(t, day)
	d.serve(other, theirs)
	if got := d.check(); !strings.Contains(got, "you have not pinned") || !strings.Contains(got, "is of the log log.example/other; what you pinned is of log.example/test") {
		t.Errorf("another log: %s", got)
	}
	// A good bundle of something else than the page is about.
	day.Sessions = day.Sessions[1:]
	d.serve(write(t, day), []byte(policy))
	if got := d.check(); !strings.HasPrefix(got, "REFUSED: the console handed out a bundle that is not about the session 019a4200-") {
		t.Errorf("another session: %s", got)
	}
	raw := write(t, day)
	raw[len(raw)/2] ^= 1
	d.serve(raw, []byte(policy))
	if got := d.check(); !strings.HasPrefix(got, "REFUSED") || !strings.Contains(got, "bundle-intact is false") {
		t.Errorf("a byte: %s", got)
	}
	d.serve([]byte("<!doctype html><p>Sign in"), []byte(policy))
	if got := d.check(); !strings.HasPrefix(got, "REFUSED, for it cannot be read: bundle-readable is false") {
		t.Errorf("no bundle: %s", got)
	}
}

// A bundle is checked from a file, chosen or dropped, and what stands in it is text, whatever it says.
func TestBundleFromFile(t *testing.T) {
	day, _, policy, alone := load(t)
	d := newDesk(t, nil, []byte(policy))
	good := filepath.Join(t.TempDir(), "good.bundle")
	if err := os.WriteFile(good, write(t, day), 0o600); err != nil {
		t.Fatal(err)
	}
	d.do(chromedp.SetUploadFiles(chromedp.CSS("#bundle-file"), []string{good}))
	d.until(`document.querySelector("#verdict").textContent.includes("Everything in this bundle holds")`)
	if about := d.text("#about"); !strings.Contains(about, day.Sessions[3].ID.String()) {
		t.Errorf("it is about %s", about)
	}
	d.do(chromedp.Click(chromedp.CSS("#contents summary")))
	d.until(`document.querySelector("#contents dd")`)
	if stands := d.text("#contents"); !strings.Contains(stands, "alice@example.com") || !strings.Contains(stands, "withheld") {
		t.Errorf("in the bundle stands %s", stands)
	}
	evil := `<img src=x onerror="alert(1)"><script>alert(2)</script>`
	day.Origin = evil
	day.Checkpoint = fmt.Appendf(nil, "%s\n1\n%s\n\n— %s AAAAAAA=\n", evil, tlog.EmptyRoot(), evil)
	body, _ := strings.CutPrefix(string(write(t, day)), "")
	drop := func(text string) {
		t.Helper()
		eval[any](d.tab, fmt.Sprintf(`(() => {
			const t = new DataTransfer();
			t.items.add(new File([new TextEncoder().encode(%q)], "dropped"));
			document.querySelector("#proof").dispatchEvent(new DragEvent("drop", { dataTransfer: t, bubbles: true, cancelable: true }));
			return 0;
		})()`, text))
	}
	drop(body)
	d.until(`document.querySelector("#verdict").textContent.startsWith("REFUSED: checkpoint-signed")`)
	drop(strings.ToUpper(evil))
	d.until(`document.querySelector("#verdict").textContent.startsWith("REFUSED, for it cannot be read")`)
	drop(alone)
	d.until(`document.querySelector("#verdict").textContent.startsWith("REFUSED, for it cannot be read")`)
	if n := eval[int](d.tab, `document.querySelectorAll("#proof img, #proof script").length`); n != 0 {
		t.Errorf("%d elements came out of a bundle", n)
	}
}
