package login

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	samlxml "github.com/crewjam/saml"

	"github.com/tallystick/tallystick/gateway"
	"github.com/tallystick/tallystick/gateway/saml"
	"github.com/tallystick/tallystick/gateway/saml/samltest"
	"github.com/tallystick/tallystick/gateway/token"
)

// A door is a provider that lets everybody in under the name that comes back with the browser.
type door struct{ begun sync.Map }

func (d *door) Name() string { return "door" }

func (d *door) Begin(_ context.Context, state string) (string, string, error) {
	d.begun.Store(state, true)
	return "https://door.example/?state=" + state, "memory of " + state, nil
}

func (d *door) Finish(_ context.Context, r *http.Request, memory string) (*gateway.Principal, error) {
	q := r.URL.Query()
	if memory != "memory of "+q.Get("state") {
		return nil, errors.New("another's memory")
	}
	switch who := q.Get("who"); who {
	case "":
		return nil, &gateway.Stranger{Why: "declined", Message: "the door stays closed"}
	case "later":
		return nil, errors.New("a secret of the door's")
	default:
		return &gateway.Principal{Name: "door:" + who, How: gateway.ByOIDC, Issuer: "https://door.example", Subject: who, Email: who + "@example.com", Groups: []string{"staff"}, At: time.Now()}, nil
	}
}

// A world is a gateway's pages, with a door and a SAML provider.
type world struct {
	t     *testing.T
	base  string
	pages *Pages
	store *token.Store
	idp   *samltest.Provider

	mu    sync.Mutex
	notes []string // under mu: what was put on record
	deaf  error    // under mu: why nothing can be
}

// note is the world's gateway.Note.
func (w *world) note(who *gateway.Principal, why, what string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.deaf != nil {
		return w.deaf
	}
	w.notes = append(w.notes, who.Name+" by "+who.How+": "+why+": "+what)
	return nil
}

// noted returns what was put on record since it was called last, and says whether anything can be from now on.
func (w *world) noted(deaf error) []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	all := w.notes
	w.notes, w.deaf = nil, deaf
	return all
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, idp: samltest.New(t)}
	srv := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		var from *gateway.Principal
		if bearer, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer "); ok {
			from, _ = w.store.Identify(r.Context(), gateway.Shown{Bearer: []byte(bearer)})
		}
		w.pages.ServePage(rw, r, from, w.note)
	}))
	t.Cleanup(srv.Close)
	w.base = srv.URL
	var err error
	if w.store, err = token.Open(t.TempDir(), nil); err != nil {
		t.Fatal(err)
	}
	login, err := saml.New(saml.Config{
		Name: "idp", Metadata: w.idp.Metadata(), Entity: w.base, Back: w.base + SAMLPath, Email: samltest.EmailAttribute, Groups: samltest.GroupsAttribute,
	})
	if err != nil {
		t.Fatal(err)
	}
	if w.pages, err = New(Config{Public: w.base, Tokens: w.store, Providers: []Provider{&door{}, login}}); err != nil {
		t.Fatal(err)
	}
	_, m := w.get(w.browser(), SAMLPath+"/idp")
	w.idp.Register("gateway", []byte(m))
	return w
}

func (w *world) browser() *http.Client {
	jar, _ := cookiejar.New(nil)
	return &http.Client{Jar: jar, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }, Timeout: time.Minute}
}

func (w *world) do(c *http.Client, req *http.Request) (*http.Response, string) {
	w.t.Helper()
	resp, err := c.Do(req)
	if err != nil {
		w.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	return resp, string(b)
}

func (w *world) get(c *http.Client, path string) (*http.Response, string) {
	w.t.Helper()
	req, err := http.NewRequest("GET", w.base+path, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	return w.do(c, req)
}

func (w *world) post(c *http.Client, path string, form url.Values, lines ...string) (*http.Response, string) {
	w.t.Helper()
	req, err := http.NewRequest("POST", w.base+path, strings.NewReader(form.Encode()))
	if err != nil {
		w.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	for _, l := range lines {
		name, value, _ := strings.Cut(l, ": ")
		req.Header.Set(name, value)
	}
	return w.do(c, req)
}

// signIn signs somebody in at the door and returns the page that is shown then.
func (w *world) signIn(c *http.Client, who, code string) string {
	w.t.Helper()
	q := "?provider=door"
	if code != "" {
		q += "&code=" + code
	}
	resp, _ := w.get(c, Path+"/start"+q)
	to, err := url.Parse(resp.Header.Get("Location"))
	if err != nil || resp.StatusCode != http.StatusSeeOther || to.Host != "door.example" {
		w.t.Fatalf("%s to %s", resp.Status, to)
	}
	resp, page := w.get(c, BackPath+"?who="+who+"&state="+to.Query().Get("state"))
	if resp.StatusCode != http.StatusOK {
		w.t.Fatalf("%s: %s", resp.Status, page)
	}
	return w.follow(c, page)
}

var refresh = regexp.MustCompile(`content="0;url=([^"]*)"`)

// follow goes where a page sends the browser.
func (w *world) follow(c *http.Client, page string) string {
	w.t.Helper()
	m := refresh.FindStringSubmatch(page)
	if m == nil {
		w.t.Fatalf("the page leads nowhere: %s", page)
	}
	_, page = w.get(c, strings.ReplaceAll(m[1], "&amp;", "&"))
	return page
}

// formTo returns the values of the form of a page that goes to path.
func formTo(page, path string) url.Values {
	for _, f := range strings.Split(page, "<form")[1:] {
		f = "<form" + f[:strings.Index(f, "</form>")]
		if to, values := samltest.Form(f); to == path {
			return values
		}
	}
	return nil
}

// begin has a program ask for a code.
func (w *world) begin(name string) Begun {
	w.t.Helper()
	resp, b := w.post(http.DefaultClient, DevicePath, url.Values{"name": {name}})
	var out Begun
	if err := json.Unmarshal([]byte(b), &out); err != nil || resp.StatusCode != http.StatusOK {
		w.t.Fatalf("%s: %s", resp.Status, b)
	}
	return out
}

// poll polls once, as if the interval had passed.
func (w *world) poll(device string) (Given, string) {
	w.t.Helper()
	if d, ok := w.pages.devices.get(sum(device)); ok {
		d.mu.Lock()
		d.polled = time.Time{}
		d.mu.Unlock()
	}
	_, b := w.post(http.DefaultClient, TokenPath, url.Values{"device_code": {device}, "grant_type": {"urn:ietf:params:oauth:grant-type:device_code"}})
	var out struct {
		Given
		Error string `json:"error"`
	}
	if err := json.Unmarshal([]byte(b), &out); err != nil {
		w.t.Fatalf("%s: %v", b, err)
	}
	return out.Given, out.Error
}

// A program gets a token when the person who is signed in saw its code and said yes; once; and it can be revoked.
func TestDevice(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b := w.begin("laptop <script>alert(1)</script>")
	if !strings.HasPrefix(b.Complete, w.base+Path+"?code=") || len(b.Code) != 9 || b.Interval != 2 || b.Expires != 600 {
		t.Errorf("%+v", b)
	}
	if _, err := w.poll(b.Device); err != "authorization_pending" {
		t.Error(err)
	}
	c := w.browser()
	_, page := w.get(c, Path+"?code="+b.Code)
	if !strings.Contains(page, "Log in with door") || !strings.Contains(page, "Log in with idp") || !strings.Contains(page, "Go on only if you started it") {
		t.Fatalf("%s", page)
	}
	page = w.signIn(c, "alice", b.Code)
	for _, want := range []string{"You are signed in as door:alice", ">" + b.Code + "<", "laptop &lt;script&gt;", "127.0.0.1", "alice@example.com"} {
		if !strings.Contains(page, want) {
			t.Errorf("the page does not show %q: %s", want, page)
		}
	}
	// Following the link, as often as scanners like, decides nothing.
	for range 3 {
		w.get(c, Path+"?code="+b.Code)
		w.get(c, Path+"/confirm?code="+b.Code+"&decision=yes")
	}
	if _, err := w.poll(b.Device); err != "authorization_pending" {
		t.Error(err)
	}
	form := formTo(page, Path+"/confirm")
	form.Set("decision", "yes")
	if resp, page := w.post(c, Path+"/confirm", form, "Origin: null", "Sec-Fetch-Site: same-origin"); resp.StatusCode != 200 || !strings.Contains(page, "has its token") {
		t.Fatalf("%s: %s", resp.Status, page)
	}
	if resp, _ := w.post(c, Path+"/confirm", form); resp.StatusCode != http.StatusGone {
		t.Errorf("it is decided twice: %s", resp.Status)
	}
	given, no := w.poll(b.Device)
	if no != "" || !strings.HasPrefix(given.Token, token.Prefix) || given.Who != "door:alice" || given.Expires < 11*3600 || given.Expires > 12*3600 {
		t.Fatalf("%+v %s", given, no)
	}
	if _, no := w.poll(b.Device); no != "expired_token" {
		t.Errorf("it is given twice: %s", no)
	}
	if _, ok := w.pages.byCode.get(normal(b.Code)); ok {
		t.Error("its code is kept")
	}
	who, err := w.store.Identify(t.Context(), gateway.Shown{Bearer: []byte(given.Token)})
	if err != nil || who.Name != "door:alice" || who.How != gateway.ByToken || who.Key != given.ID || who.Email != "alice@example.com" || who.Subject != "alice" || len(who.Groups) != 1 {
		t.Fatalf("%+v %v", who, err)
	}

	// She sees it and revokes it on the page, and on the API; nobody else does.
	page = func() string { _, p := w.get(c, Path); return p }()
	if !strings.Contains(page, given.ID) || strings.Contains(page, given.Token) {
		t.Errorf("%s", page)
	}
	eve := w.browser()
	evil := w.signIn(eve, "eve", "")
	if strings.Contains(evil, given.ID) {
		t.Error("eve sees alice's token")
	}
	f := formTo(page, Path+"/revoke")
	w.post(eve, Path+"/revoke", url.Values{"id": {given.ID}, "word": {w.wordOf(eve, "revoke")}})
	if _, err := w.store.Identify(t.Context(), gateway.Shown{Bearer: []byte(given.Token)}); err != nil {
		t.Fatalf("eve revoked alice's token: %v", err)
	}
	list := func(bearer string) (int, []Listed) {
		req, _ := http.NewRequest("GET", w.base+TokensPath, nil)
		if bearer != "" {
			req.Header.Set("Authorization", "Bearer "+bearer)
		}
		resp, b := w.do(c, req) // with alice's cookie, which is nothing here
		var out []Listed
		json.Unmarshal([]byte(b), &out)
		return resp.StatusCode, out
	}
	if status, _ := list(""); status != http.StatusUnauthorized {
		t.Errorf("a cookie lists tokens: %d", status)
	}
	if status, l := list(given.Token); status != 200 || len(l) != 2 || l[0].This == l[1].This {
		t.Errorf("%d %+v", status, l)
	}
	if resp, _ := w.post(c, Path+"/revoke", f); resp.StatusCode != http.StatusSeeOther {
		t.Error(resp.Status)
	}
	if status, _ := list(given.Token); status != http.StatusUnauthorized {
		t.Errorf("it is revoked, and lists: %d", status)
	}

	// No is no, and who has signed out says nothing any more.
	b = w.begin("other")
	_, page = w.get(c, Path+"?code="+strings.ToLower(strings.ReplaceAll(b.Code, "-", "")))
	form = formTo(page, Path+"/confirm")
	form.Set("decision", "no")
	w.post(c, Path+"/confirm", form)
	if _, no := w.poll(b.Device); no != "access_denied" {
		t.Error(no)
	}
	b = w.begin("third")
	_, page = w.get(c, Path+"?code="+b.Code)
	form = formTo(page, Path+"/confirm")
	form.Set("decision", "yes")
	w.post(c, Path+"/confirm", form)
	if resp, _ := w.post(c, Path+"/out", formTo(page, Path+"/out")); resp.StatusCode != http.StatusSeeOther {
		t.Error(resp.Status)
	}
	if _, page := w.get(c, Path); !strings.Contains(page, "Log in with door") {
		t.Error("she is signed in still")
	}
	if _, no := w.poll(b.Device); no != "access_denied" {
		t.Errorf("a token is given by who has signed out: %s", no)
	}
}

// Who logs in or out, is given a token or revokes one, is on record, and nothing else is. What cannot be recorded is not
// handed out, but it is taken away.
func TestOnRecord(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	expect := func(want ...string) {
		t.Helper()
		got := w.noted(nil)
		if len(got) != len(want) {
			t.Fatalf("%q, want %q", got, want)
		}
		for i := range want {
			if !regexp.MustCompile("^" + want[i] + "$").MatchString(got[i]) {
				t.Errorf("%q, want %q", got[i], want[i])
			}
		}
	}
	const at = `, until \d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ`
	// Strangers leave nothing.
	c := w.browser()
	w.get(c, Path)
	resp, _ := w.get(c, Path+"/start?provider=door")
	w.get(c, BackPath+"?who=alice&state=none")
	to, _ := url.Parse(resp.Header.Get("Location"))
	if resp, page := w.get(c, BackPath+"?state="+to.Query().Get("state")); resp.StatusCode != http.StatusUnauthorized {
		t.Errorf("%s: %s", resp.Status, page)
	}
	w.post(c, Path+"/out", url.Values{"word": {"x"}})
	b := w.begin("laptop")
	w.poll(b.Device)
	expect()

	page := w.signIn(c, "alice", b.Code)
	first := w.store.List()[0].ID
	expect("door:alice by oidc: log-in: session token " + first + " for browser" + at)
	yes := func(page string) {
		t.Helper()
		form := formTo(page, Path+"/confirm")
		form.Set("decision", "yes")
		if resp, page := w.post(c, Path+"/confirm", form); resp.StatusCode != http.StatusOK {
			t.Fatalf("%s: %s", resp.Status, page)
		}
	}
	yes(page)
	expect()
	given, _ := w.poll(b.Device)
	expect("door:alice by token: token: bearer token " + given.ID + " for laptop" + at)
	w.post(c, Path+"/revoke", url.Values{"id": {given.ID}, "word": {w.wordOf(c, "revoke")}})
	expect("door:alice by token: revocation: bearer token " + given.ID + " for laptop")
	w.post(c, Path+"/revoke", url.Values{"id": {given.ID}, "word": {w.wordOf(c, "revoke")}}) // it is gone
	expect()

	// On the API a token can end itself. One without a name is told by its id.
	b = w.begin("")
	_, page = w.get(c, Path+"?code="+b.Code)
	yes(page)
	given, _ = w.poll(b.Device)
	expect("door:alice by token: token: bearer token " + given.ID + at)
	remove := func() int {
		req, _ := http.NewRequest("DELETE", w.base+TokensPath+"/"+given.ID, nil)
		req.Header.Set("Authorization", "Bearer "+given.Token)
		resp, _ := w.do(c, req)
		return resp.StatusCode
	}
	if status := remove(); status != http.StatusNoContent {
		t.Error(status)
	}
	expect("door:alice by token: revocation: bearer token " + given.ID)

	// A log-in in the same browser ends the session before; then she signs out.
	page = w.signIn(c, "alice", "")
	second := w.store.List()[0].ID
	expect("door:alice by oidc: log-in: session token "+second+" for browser"+at, "door:alice by token: log-out: session token "+first+" for browser")
	w.post(c, Path+"/out", formTo(page, Path+"/out"))
	expect("door:alice by token: log-out: session token " + second + " for browser")

	// Without the log nobody comes in, and everything ends.
	page = w.signIn(c, "alice", "")
	b, other := w.begin("laptop"), w.begin("desk")
	_, page = w.get(c, Path+"?code="+b.Code)
	yes(page)
	given, _ = w.poll(b.Device)
	_, page = w.get(c, Path+"?code="+other.Code)
	yes(page)
	had := len(w.store.List())
	w.noted(errors.New("the log is away"))
	if got, no := w.poll(other.Device); no != "temporarily_unavailable" || got.Token != "" {
		t.Errorf("%+v %s", got, no)
	}
	stranger := w.browser()
	resp, _ = w.get(stranger, Path+"/start?provider=door")
	to, _ = url.Parse(resp.Header.Get("Location"))
	if resp, page := w.get(stranger, BackPath+"?who=bob&state="+to.Query().Get("state")); resp.StatusCode != http.StatusServiceUnavailable || strings.Contains(page, "signed in as") {
		t.Errorf("%s: %s", resp.Status, page)
	}
	if n := len(w.store.List()); n != had {
		t.Errorf("%d tokens became %d", had, n)
	}
	if status := remove(); status != http.StatusNoContent {
		t.Errorf("a token is not revoked while the log is away: %d", status)
	}
	_, page = w.get(c, Path)
	w.post(c, Path+"/out", formTo(page, Path+"/out"))
	if l := w.store.List(); len(l) != 0 {
		t.Errorf("%+v", l)
	}
	expect()
}

// wordOf is the word for the session of a browser.
func (w *world) wordOf(c *http.Client, purpose string) string {
	req, _ := http.NewRequest("GET", w.base, nil)
	for _, k := range c.Jar.Cookies(req.URL) {
		req.AddCookie(k)
	}
	t, ok := w.pages.Person(req)
	if !ok {
		w.t.Fatal("nobody is signed in")
	}
	return w.pages.word(t, purpose)
}

// A yes comes from the page that was shown to the person of the session, and from nowhere else.
func TestForgedYes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	alice, eve := w.browser(), w.browser()
	w.signIn(alice, "alice", "")
	w.signIn(eve, "eve", "")
	b := w.begin("laptop")
	code := normal(b.Code)
	other := normal(w.begin("other").Code)
	good := w.wordOf(alice, "confirm "+code)
	for _, c := range []struct {
		name   string
		client *http.Client
		word   string
		code   string
		lines  []string
		want   int
	}{
		{"no word", alice, "", code, nil, 403},
		{"a wrong word", alice, strings.Repeat("0", 64), code, nil, 403},
		{"the word of another session", alice, w.wordOf(eve, "confirm "+code), code, nil, 403},
		{"the word for another purpose", alice, w.wordOf(alice, "out"), code, nil, 403},
		{"the word for another code", alice, w.wordOf(alice, "confirm "+other), code, nil, 403},
		{"from another site", alice, good, code, []string{"Origin: https://evil.example"}, 403},
		{"from a page without origin", alice, good, code, []string{"Origin: null"}, 403},
		{"from another port", alice, good, code, []string{"Origin: http://127.0.0.1:1"}, 403},
		{"across sites", alice, good, code, []string{"Sec-Fetch-Site: cross-site"}, 403},
		{"across sites, from a page without origin", alice, good, code, []string{"Origin: null", "Sec-Fetch-Site: cross-site"}, 403},
		{"from another site, by a word of its own", alice, good, code, []string{"Origin: https://evil.example", "Sec-Fetch-Site: same-origin"}, 403},
		{"from a sister site", alice, good, code, []string{"Sec-Fetch-Site: same-site"}, 403},
		{"nobody", w.browser(), good, code, nil, 401},
		{"a code nobody has", alice, w.wordOf(alice, "confirm BBBBBBBB"), "BBBBBBBB", nil, 410},
		{"no code", alice, w.wordOf(alice, "confirm "), "", nil, 410},
	} {
		resp, page := w.post(c.client, Path+"/confirm", url.Values{"word": {c.word}, "code": {c.code}, "decision": {"yes"}}, c.lines...)
		if resp.StatusCode != c.want {
			t.Errorf("%s: %s, want %d: %s", c.name, resp.Status, c.want, page)
		}
		if _, no := w.poll(b.Device); no != "authorization_pending" {
			t.Fatalf("%s: %s", c.name, no)
		}
	}
	// Where the word must be in the form: nowhere else does it count.
	if resp, _ := w.post(alice, Path+"/confirm?word="+good+"&code="+code+"&decision=yes", nil); resp.StatusCode != 403 {
		t.Errorf("a word in the address: %s", resp.Status)
	}
	for _, path := range []string{"/out", "/revoke"} {
		if resp, _ := w.post(alice, Path+path, url.Values{"word": {good}}); resp.StatusCode != 403 {
			t.Errorf("%s by another word: %s", path, resp.Status)
		}
	}
	// The two kinds of tokens are not each other.
	req, _ := http.NewRequest("GET", w.base+TokensPath, nil)
	for _, k := range alice.Jar.Cookies(req.URL) {
		req.Header.Set("Authorization", "Bearer "+k.Value)
	}
	if resp, _ := w.do(http.DefaultClient, req); resp.StatusCode != 401 {
		t.Errorf("a session is taken for a token: %s", resp.Status)
	}
	bearer, _, err := w.store.Mint(&gateway.Principal{Name: "door:alice"}, token.Bearer, "", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	req, _ = http.NewRequest("GET", w.base+Path, nil)
	req.AddCookie(&http.Cookie{Name: sessionCookie, Value: bearer})
	if _, page := w.do(http.DefaultClient, req); !strings.Contains(page, "Log in with door") {
		t.Error("a token is taken for a session")
	}
}

// A provider's answer is good for once, in the browser that asked.
func TestAnswers(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	start := func(c *http.Client) string {
		resp, _ := w.get(c, Path+"/start?provider=door")
		to, _ := url.Parse(resp.Header.Get("Location"))
		return to.Query().Get("state")
	}
	a, b := w.browser(), w.browser()
	first, second := start(a), start(a)
	theirs := start(b)
	for _, c := range []struct {
		name, query string
		client      *http.Client
		want        int
	}{
		{"no state", "who=alice", a, 400},
		{"an empty state", "who=alice&state=", a, 400},
		{"a state nobody gave", "who=alice&state=AAAA", a, 400},
		{"two states", "who=alice&state=" + first + "&state=" + second, a, 400},
		{"another browser's", "who=mallory&state=" + theirs, a, 400},
		{"in a browser that began nothing", "who=mallory&state=" + theirs, w.browser(), 400},
		{"the second", "who=alice&state=" + second, a, 200},
		{"the second again", "who=alice&state=" + second, a, 400},
	} {
		if resp, page := w.get(c.client, BackPath+"?"+c.query); resp.StatusCode != c.want {
			t.Errorf("%s: %s: %s", c.name, resp.Status, page)
		}
	}
	// Its own browser can still finish what others could not.
	if resp, _ := w.get(b, BackPath+"?who=bob&state="+theirs); resp.StatusCode != 200 {
		t.Error(resp.Status)
	}
	for who, want := range map[string]int{"": 401, "later": 502} {
		c := w.browser()
		resp, page := w.get(c, BackPath+"?who="+who+"&state="+start(c))
		if resp.StatusCode != want || strings.Contains(page, "a secret") || len(resp.Cookies()) != 0 {
			t.Errorf("%q: %s %v: %s", who, resp.Status, resp.Cookies(), page)
		}
	}
	if resp, _ := w.get(a, Path+"/start?provider=other"); resp.StatusCode != 404 {
		t.Error(resp.Status)
	}
	// Who logs in anew has one session.
	c := w.browser()
	w.signIn(c, "carol", "")
	was := len(w.store.List())
	w.signIn(c, "carol", "")
	if n := len(w.store.List()); n != was {
		t.Errorf("%d sessions became %d", was, n)
	}
}

// A SAML response comes by a POST from another site, without cookies, and is sent on by a page of ours.
func TestSAML(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := w.browser()
	begun := w.begin("laptop")
	resp, _ := w.get(c, Path+"/start?provider=idp&code="+begun.Code)
	to, form := w.idp.LogIn(w.idp.Browser, resp.Header.Get("Location"))
	if to != w.base+SAMLPath {
		t.Fatal(to)
	}
	resp, page := w.post(http.DefaultClient, SAMLPath, form)
	if resp.StatusCode != 200 || len(resp.Cookies()) != 0 || !strings.Contains(resp.Header.Get("Content-Security-Policy"), "script-src 'sha256-") || strings.Count(page, "<script>") != 1 {
		t.Fatalf("%s %v: %s", resp.Status, resp.Header, page)
	}
	again := formTo(page, SAMLPath)
	if resp, _ := w.post(w.browser(), SAMLPath, again); resp.StatusCode != 400 {
		t.Errorf("in a browser that began nothing: %s", resp.Status)
	}
	resp, page = w.post(c, SAMLPath, again)
	if resp.StatusCode != 200 {
		t.Fatalf("%s: %s", resp.Status, page)
	}
	if page = w.follow(c, page); !strings.Contains(page, "idp:"+samltest.Email) || !strings.Contains(page, ">"+begun.Code+"<") {
		t.Errorf("%s", page)
	}
	if resp, _ := w.post(c, SAMLPath, again); resp.StatusCode != 400 {
		t.Errorf("it is taken twice: %s", resp.Status)
	}
	// The session ends when that at the provider does.
	end := time.Now().Add(30 * time.Minute)
	w.idp.Change(func(a *samlxml.Assertion) { a.AuthnStatements[0].SessionNotOnOrAfter = &end })
	c = w.browser()
	resp, _ = w.get(c, Path+"/start?provider=idp")
	_, form = w.idp.LogIn(w.idp.Browser, resp.Header.Get("Location"))
	w.post(c, SAMLPath, form)
	if list := w.store.List(); len(list) != 2 || !slices.ContainsFunc(list, func(o token.Token) bool { return !o.Expires.After(end) }) {
		t.Errorf("that at the provider ends at %v, and the sessions here are %+v", end, list)
	}
	// What is sent to the page comes back as text.
	_, page = w.post(http.DefaultClient, SAMLPath, url.Values{"SAMLResponse": {`"><script>alert(1)</script>`}, "RelayState": {`'"><img src=x onerror=alert(1)>`}})
	if strings.Count(page, "<script>") != 1 || strings.Contains(page, "<img") {
		t.Errorf("%s", page)
	}
}

// Pages stand in no frame, run nothing and are kept nowhere; cookies are for this host and for TLS alone, where there is TLS.
func TestHeaders(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := w.browser()
	w.signIn(c, "alice", "")
	for _, path := range []string{Path, Path + "?code=x", Path + "/start?provider=none", BackPath, TokensPath, Path + "/none", SAMLPath + "/door"} {
		resp, page := w.get(c, path)
		for name, want := range map[string]string{"Content-Security-Policy": policy, "X-Frame-Options": "DENY", "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"} {
			if resp.Header.Get(name) != want {
				t.Errorf("%s: %s is %q", path, name, resp.Header.Get(name))
			}
		}
		if strings.Contains(page, "<script") || strings.Contains(page, "style=") || regexp.MustCompile(` on[a-z]+=`).MatchString(page) {
			t.Errorf("%s: %s", path, page)
		}
	}
	pages, err := New(Config{Public: "https://gateway.example", Tokens: w.store, Providers: []Provider{&door{}}})
	if err != nil {
		t.Fatal(err)
	}
	serve := func(r *http.Request) *http.Response {
		rec := httptest.NewRecorder()
		pages.ServePage(rec, r, nil, w.note)
		return rec.Result()
	}
	resp := serve(httptest.NewRequest("GET", Path+"/start?provider=door", nil))
	k := resp.Cookies()
	if len(k) != 1 || k[0].Name != "__Host-tallystick-login" || !k[0].Secure || !k[0].HttpOnly || k[0].SameSite != http.SameSiteLaxMode || k[0].Path != "/" || k[0].Domain != "" {
		t.Fatalf("%+v", k)
	}
	to, _ := url.Parse(resp.Header.Get("Location"))
	r := httptest.NewRequest("GET", BackPath+"?who=alice&state="+to.Query().Get("state"), nil)
	r.AddCookie(k[0])
	resp = serve(r)
	var session *http.Cookie
	for _, k := range resp.Cookies() {
		if k.Name == "__Host-tallystick-session" {
			session = k
		}
	}
	if session == nil || !session.Secure || !session.HttpOnly || session.SameSite != http.SameSiteStrictMode || session.Path != "/" || session.MaxAge < 11*3600 {
		t.Errorf("%+v", session)
	}
}

// What waits is bounded, in number, by who asked, and in time.
func TestBounds(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for i := range eachDevice {
		w.begin(fmt.Sprint("program ", i))
	}
	if resp, b := w.post(http.DefaultClient, DevicePath, url.Values{"name": {"one more"}}); resp.StatusCode != http.StatusTooManyRequests || !strings.Contains(b, "slow_down") {
		t.Errorf("%s %s", resp.Status, b)
	}
	for _, name := range []string{strings.Repeat("x", 101), "a\nb", "\xff"} {
		if resp, _ := w.post(http.DefaultClient, DevicePath, url.Values{"name": {name}}); resp.StatusCode != 400 {
			t.Errorf("%q: %s", name, resp.Status)
		}
	}
	for key := range w.pages.devices.rows {
		w.pages.devices.takeIf(key, nil)
	}
	for code := range w.pages.byCode.rows {
		w.pages.byCode.takeIf(code, nil)
	}
	b := w.begin("hasty")
	for _, want := range []string{"authorization_pending", "slow_down"} {
		if _, body := w.post(http.DefaultClient, TokenPath, url.Values{"device_code": {b.Device}}); !strings.Contains(body, want) {
			t.Errorf("%s, want %s", body, want)
		}
	}
	if _, no := w.poll("nobody's"); no != "expired_token" {
		t.Error(no)
	}
	for _, c := range []struct{ in, want string }{
		{"BCDF-GHJK", "BCDFGHJK"}, {"bcdf ghjk", "BCDFGHJK"}, {"ACDFGHJK", ""}, {"BCDFGHJ", ""}, {"BCDFGHJKL", ""}, {"", ""}, {"BCDFGHJ\x00", ""},
	} {
		if got := normal(c.in); got != c.want {
			t.Errorf("%q is %q", c.in, got)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		tab := newTable[int](3, 3)
		for i := range 3 {
			if !tab.put(fmt.Sprint(i), i, "") {
				t.Fatal(i)
			}
		}
		if tab.put("3", 3, "") || tab.put("0", 0, "") {
			t.Error("it has no bound")
		}
		time.Sleep(underWay - 1)
		if v, ok := tab.get("1"); !ok || v != 1 {
			t.Error("it is forgotten")
		}
		time.Sleep(1)
		if _, ok := tab.get("1"); ok {
			t.Error("it is kept for ever")
		}
		if _, ok := tab.takeIf("1", nil); ok {
			t.Error("it is taken for ever")
		}
		if !tab.put("3", 3, "") {
			t.Error("there is no room for another")
		}
		if v, ok := tab.takeIf("3", func(int) bool { return false }); ok || v != 0 {
			t.Error("it is taken whatever it is")
		}
		if _, ok := tab.takeIf("3", nil); !ok {
			t.Error("it is not taken")
		}
		each := newTable[int](3, 1)
		if !each.put("a", 1, "x") || each.put("b", 1, "x") || !each.put("c", 1, "y") {
			t.Error("one has more than it may, or another less")
		}
		if each.takeIf("a", nil); !each.put("d", 1, "x") {
			t.Error("what was taken counts still")
		}
		if len(tab.rows) != 0 || len(tab.of) != 0 {
			t.Errorf("%v %v", tab.rows, tab.of)
		}
	})
}

func TestNew(t *testing.T) {
	store, err := token.Open(t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name   string
		change func(*Config)
		want   string
	}{
		{"as it is", func(*Config) {}, ""},
		{"on this machine", func(c *Config) { c.Public = "http://127.0.0.1:8080" }, ""},
		{"in the clear", func(c *Config) { c.Public = "http://gateway.example" }, "https"},
		{"below a path", func(c *Config) { c.Public = "https://gateway.example/x" }, "such as"},
		{"nowhere", func(c *Config) { c.Public = "" }, "such as"},
		{"no providers", func(c *Config) { c.Providers = nil }, "nobody"},
		{"no store", func(c *Config) { c.Tokens = nil }, "no store"},
		{"a provider twice", func(c *Config) { c.Providers = append(c.Providers, c.Providers[0]) }, "two providers"},
		{"for a month", func(c *Config) { c.Life = 30 * 24 * time.Hour }, "choose"},
	} {
		cfg := Config{Public: "https://gateway.example", Tokens: store, Providers: []Provider{&door{}}}
		c.change(&cfg)
		if _, err := New(cfg); (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// Where people go on elsewhere they log in at the pages' own place, come back to where they wanted to go, and sign out; no
// program gets a token there, and nobody is sent to another site.
func TestElsewhere(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.elsewhere()
	for to, want := range map[string]string{
		"": "/", "/sessions/1?q=a&b=c": "/sessions/1?q=a&b=c", "//evil.example/": "/", `/\evil.example/`: "/", "https://evil.example/": "/", "javascript:alert(1)": "/",
		"/login": "/", "/login/start?provider=door": "/", "evil": "/", "/\nx": "/", "/" + strings.Repeat("a", 3000): "/",
	} {
		c := w.browser()
		w.noted(nil)
		_, page := w.get(c, "/login/?to="+url.QueryEscape(to))
		start := regexp.MustCompile(`href="(/login/start\?provider=door[^"]*)"`).FindStringSubmatch(page)
		if start == nil || !strings.Contains(page, "Log in to Tallystick") || !strings.Contains(page, `href="/login/style.css"`) {
			t.Fatalf("%q: %s", to, page)
		}
		resp, _ := w.get(c, strings.ReplaceAll(start[1], "&amp;", "&"))
		there, err := url.Parse(resp.Header.Get("Location"))
		if err != nil || there.Host != "door.example" {
			t.Fatalf("%s to %s", resp.Status, there)
		}
		_, page = w.get(c, "/login/back?who=alice&state="+there.Query().Get("state"))
		if m := refresh.FindStringSubmatch(page); m == nil || strings.ReplaceAll(m[1], "&amp;", "&") != want {
			t.Errorf("%q leads to %q, want %q: %s", to, m, want, page)
		}
		if got := w.noted(nil); len(got) != 1 || !strings.HasPrefix(got[0], "door:alice by oidc: log-in: session token ") {
			t.Errorf("on record: %q", got)
		}
		// Who is signed in is not asked again.
		if resp, _ := w.get(c, "/login?to="+url.QueryEscape(to)); resp.StatusCode != http.StatusSeeOther || resp.Header.Get("Location") != want {
			t.Errorf("%q: %s to %q", to, resp.Status, resp.Header.Get("Location"))
		}
	}

	// A link in a message: the strict cookie comes along at the second step.
	for _, c := range []*http.Client{w.browser(), http.DefaultClient} {
		req, err := http.NewRequest("GET", w.base+"/login?to=/approvals/1", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Sec-Fetch-Site", "cross-site")
		_, page := w.do(c, req)
		if m := refresh.FindStringSubmatch(page); m == nil || m[1] != "/login?to=/approvals/1" {
			t.Errorf("%s", page)
		}
	}

	c := w.browser()
	w.signInAt(c, "/login", "bob")
	w.noted(nil)
	for _, gone := range []struct{ method, path string }{
		{"POST", DevicePath}, {"POST", TokenPath}, {"GET", TokensPath}, {"DELETE", TokensPath + "/x"}, {"POST", "/login/confirm"}, {"POST", "/login/revoke"}, {"POST", "/login/out"},
		{"GET", Path}, {"GET", Path + "/start?provider=door"}, {"GET", BackPath}, {"POST", SAMLPath}, {"POST", "/login/device"}, {"POST", "/login/token"}, {"GET", "/"},
	} {
		req, err := http.NewRequest(gone.method, w.base+gone.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if resp, page := w.do(c, req); resp.StatusCode != http.StatusNotFound && resp.StatusCode != http.StatusMethodNotAllowed {
			t.Errorf("%s %s: %s: %s", gone.method, gone.path, resp.Status, page)
		}
	}
	if _, ok := w.here(c); !ok {
		t.Error("bob was signed out by something else")
	}
	rec := httptest.NewRecorder()
	r := httptest.NewRequest("POST", "/logout", nil)
	u, _ := url.Parse(w.base)
	for _, k := range c.Jar.Cookies(u) {
		r.AddCookie(k)
	}
	w.pages.SignOut(rec, r, w.note)
	if rec.Code != http.StatusSeeOther || rec.Header().Get("Location") != "/login" || !strings.Contains(rec.Header().Get("Set-Cookie"), "Max-Age=0") {
		t.Errorf("%d %v", rec.Code, rec.Header())
	}
	if got := w.noted(nil); len(got) != 1 || !strings.HasPrefix(got[0], "door:bob by token: log-out: ") {
		t.Errorf("on record: %q", got)
	}
	if _, ok := w.here(c); ok {
		t.Error("the session lives on")
	}
}

// Who is let in at one place is not let in at another: there may be others who let people in there, and for less long.
func TestSessionsOfOtherPages(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	gateway := w.browser()
	w.signIn(gateway, "alice", "")
	if _, ok := w.here(gateway); !ok {
		t.Fatal("alice is not signed in")
	}
	w.elsewhere()
	if who, ok := w.here(gateway); ok {
		t.Errorf("with a session of the gateway's %s is signed in elsewhere", who.Principal.Name)
	}
	there := w.browser()
	w.signInAt(there, "/login", "bob")
	if _, ok := w.here(there); !ok {
		t.Error("bob is not signed in")
	}
	var err error
	if w.pages, err = New(Config{Public: w.base, Tokens: w.store, Providers: []Provider{&door{}}}); err != nil {
		t.Fatal(err)
	}
	if who, ok := w.here(there); ok {
		t.Errorf("with a session from elsewhere %s is signed in at the gateway", who.Principal.Name)
	}
}

// elsewhere makes the world's pages those of something that is not a gateway.
func (w *world) elsewhere() {
	w.t.Helper()
	var err error
	if w.pages, err = New(Config{Public: w.base, Tokens: w.store, Providers: []Provider{&door{}}, At: "/login", Home: "/"}); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) signInAt(c *http.Client, at, who string) {
	w.t.Helper()
	resp, _ := w.get(c, at+"/start?provider=door")
	to, err := url.Parse(resp.Header.Get("Location"))
	if err != nil {
		w.t.Fatal(err)
	}
	if resp, page := w.get(c, at+Back+"?who="+who+"&state="+to.Query().Get("state")); resp.StatusCode != http.StatusOK {
		w.t.Fatalf("%s: %s", resp.Status, page)
	}
}

// here says who is signed in with a browser.
func (w *world) here(c *http.Client) (*token.Token, bool) {
	r := httptest.NewRequest("GET", "/", nil)
	u, _ := url.Parse(w.base)
	for _, k := range c.Jar.Cookies(u) {
		r.AddCookie(k)
	}
	return w.pages.Person(r)
}
