package peers

import (
	"context"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	cdplog "github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

// patience is how long a test waits for what must come, on a machine that has other things to do as well.
const patience = 60 * time.Second

// A chromium is the one browser of all tests; each test has a profile of its own in it.
type chromium struct {
	once   sync.Once
	ctx    context.Context
	cancel context.CancelFunc
	err    error
}

var shared chromium

func TestMain(m *testing.M) {
	code := m.Run()
	if shared.cancel != nil {
		shared.cancel()
	}
	shown.stop()
	os.Exit(code)
}

// find returns the browser's program.
func find() (string, error) {
	if path := os.Getenv("CHROMIUM"); path != "" {
		return exec.LookPath(path)
	}
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("there is no chromium: `make browser` installs one, or CHROMIUM names it")
}

func (c *chromium) start(path string) {
	opts := append(slices.Clone(chromedp.DefaultExecAllocatorOptions[:]),
		chromedp.ExecPath(path),
		chromedp.DisableGPU,
		chromedp.NoSandbox, // in a container there are no namespaces to build one from; what is opened here is ours
		chromedp.Flag("disable-quic", true),
		chromedp.Flag("disable-component-update", true),
		chromedp.Flag("no-proxy-server", true),
		chromedp.WSURLReadTimeout(patience),
	)
	alloc, cancel := chromedp.NewExecAllocator(context.Background(), opts...)
	ctx, _ := chromedp.NewContext(alloc)
	c.ctx, c.cancel = ctx, cancel
	c.err = chromedp.Do(ctx)
}

// A tab is a page of a browser, in a profile of its own. What goes wrong in it is kept.
type tab struct {
	t   *testing.T
	ctx context.Context

	mu      sync.Mutex
	faults  []string // exceptions, errors on the console, what the policy of contents stopped, dialogs
	dialogs int
}

// open opens a tab. Faults in it fail the test at its end, but those that the test has taken note of.
func open(t *testing.T) *tab {
	t.Helper()
	path, err := find()
	switch {
	case err != nil && os.Getenv("CI") == "true":
		t.Fatal(err)
	case err != nil:
		t.Skip(err)
	}
	shared.once.Do(func() { shared.start(path) })
	if shared.err != nil {
		t.Fatal("the browser: ", shared.err)
	}
	b := &tab{t: t}
	ctx, cancel := chromedp.NewContext(shared.ctx, chromedp.WithNewBrowserContext(), chromedp.WithListener(b.hear))
	b.ctx = ctx
	t.Cleanup(func() {
		if t.Failed() {
			b.shot("failed-" + strings.ReplaceAll(t.Name(), "/", "-"))
		}
		cancel()
		if f := b.seen(); len(f) > 0 {
			t.Errorf("in the browser:\n%s", strings.Join(f, "\n"))
		}
	})
	if err := chromedp.Do(ctx); err != nil { // what is run first lives as long as the tab
		t.Fatal("a tab: ", err)
	}
	b.do(chromedp.EmulateViewport(1280, 900))
	return b
}

func (b *tab) hear(ev any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch ev := ev.(type) {
	case *runtime.EventExceptionThrown:
		b.faults = append(b.faults, "exception: "+ev.ExceptionDetails.Text+" "+describe(ev.ExceptionDetails.Exception))
	case *runtime.EventConsoleAPICalled:
		if ev.Type == runtime.ConsoleAPICalledTypeError || ev.Type == runtime.ConsoleAPICalledTypeAssert {
			var s []string
			for _, a := range ev.Args {
				s = append(s, describe(a))
			}
			b.faults = append(b.faults, "console: "+strings.Join(s, " "))
		}
	case *cdplog.EventEntryAdded:
		// A page that says why it is not shown has a status that says so, too.
		told := ev.Entry.Source == cdplog.EntrySourceNetwork && strings.Contains(ev.Entry.Text, "status of 4")
		if ev.Entry.Level == cdplog.EntryLevelError && !told {
			b.faults = append(b.faults, fmt.Sprintf("log: %s (%s)", ev.Entry.Text, ev.Entry.URL))
		}
	case *page.EventJavascriptDialogOpening:
		b.dialogs++
		b.faults = append(b.faults, fmt.Sprintf("dialog: %q", ev.Message))
		go chromedp.Call(b.ctx, page.HandleJavaScriptDialog, page.HandleJavaScriptDialogParams{})
	}
}

func describe(o *runtime.RemoteObject) string {
	if o == nil {
		return ""
	}
	return string(o.Value) + o.Description
}

// seen returns the faults until now and forgets them.
func (b *tab) seen() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	f := b.faults
	b.faults = nil
	return f
}

// do runs actions, with patience.
func (b *tab) do(actions ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	for _, a := range actions {
		get(b, a)
	}
}

// get runs an action, with patience, and returns what it brings.
func get[T any](b *tab, a chromedp.Action[T]) T {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	v, err := chromedp.Run(ctx, a)
	if err != nil {
		b.t.Fatalf("%v\n%s", err, strings.Join(b.seen(), "\n"))
	}
	return v
}

// eval evaluates an expression, awaits what it promises, and returns it.
func eval[T any](b *tab, expression string) T {
	b.t.Helper()
	return get(b, chromedp.Evaluate[T](expression, chromedp.EvalAwaitPromise))
}

// until waits until an expression is true.
func (b *tab) until(expression string) {
	b.t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		ctx, cancel := context.WithTimeout(b.ctx, patience)
		ok, err := chromedp.Run(ctx, chromedp.Evaluate[bool]("Boolean("+expression+")"))
		cancel()
		if err == nil && ok {
			return
		}
		if time.Now().After(deadline) {
			b.t.Fatalf("not within %v: %s (%v)\nthe page says: %.3000s", patience, expression, err, b.text("body"))
		}
	}
}

// text returns what somebody reads in the first element of a selector; "" where there is none.
func (b *tab) text(selector string) string {
	b.t.Helper()
	return eval[string](b, fmt.Sprintf("document.querySelector(%q)?.innerText ?? ''", selector))
}

func (b *tab) goTo(url string) {
	b.t.Helper()
	b.do(chromedp.Navigate(url))
}

// shot writes a picture of the whole page, or of what is seen of one that is too high for a picture, where somebody wants any.
func (b *tab) shot(name string) {
	dir := os.Getenv("SCREENSHOTS")
	if dir == "" {
		return
	}
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	picture := chromedp.FullScreenshot(100)
	if high, err := chromedp.Run(ctx, chromedp.Evaluate[int]("document.documentElement.scrollHeight")); err == nil && high > 15000 {
		picture = chromedp.CaptureScreenshot()
	}
	png, err := chromedp.Run(ctx, picture)
	if err != nil {
		b.t.Logf("no picture of %s: %v", name, err)
		return
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		b.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, name+".png"), png, 0o644); err != nil {
		b.t.Fatal(err)
	}
}

// prefers has the page believe that its reader prefers something: "prefers-color-scheme" "dark".
func (b *tab) prefers(feature, value string) {
	b.t.Helper()
	features := []*emulation.MediaFeature{{Name: feature, Value: value}}
	if _, err := chromedp.Call(b.ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: features}); err != nil {
		b.t.Fatal(err)
	}
}

// site serves a handler on a free port of this machine until the test ends, and returns its address.
func site(t *testing.T, h http.Handler) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: h}
	go s.Serve(ln)
	t.Cleanup(func() { s.Close() })
	return "http://" + ln.Addr().String()
}

// static is the console's modules and style sheets, as they lie in the repository.
func static() fs.FS { return os.DirFS("../console/static") }

// strict sets the headers that the console's pages have.
func strict(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		w.Header().Set("Content-Security-Policy", "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; require-trusted-types-for 'script'; trusted-types 'none'")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		h.ServeHTTP(w, req)
	})
}
