package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"html"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tallystick/tallystick/gateway/saml/samltest"
)

// A reception is an office with a console, to which people log in at an OpenID Connect issuer and at a SAML provider.
type reception struct {
	*office
	at    string // the console's URL
	host  string
	roots *x509.CertPool
	okta  *issuer
	idp   *samltest.Provider
}

func newReception(t *testing.T) *reception {
	t.Helper()
	r := &reception{office: furnish(t), okta: newIssuer(t), idp: samltest.New(t), host: freePort(t), roots: x509.NewCertPool()}
	r.at = "https://" + r.host
	dir := filepath.Dir(r.data)
	certificates(t, dir)
	if ca, err := os.ReadFile(filepath.Join(dir, "ca.crt")); err != nil || !r.roots.AppendCertsFromPEM(ca) {
		t.Fatal(err)
	}
	r.write("idp.xml", string(r.idp.Metadata()))
	b, err := os.ReadFile(filepath.Join(dir, "tally.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Replace(string(b), "gateway:\n  id: gw-1\n", fmt.Sprintf(`console:
  listen: %s
  public: %s
  tls: {cert: server.crt, key: server.key}
  roles:
    viewer: [support]
    approver: [approvers]
    auditor: [compliance]
    admin: [platform]
  people:
    okta:u-vip: [viewer]
gateway:
  id: gw-1
  masking: {}
  identity:
    public: https://gw.example
    tokens: {dir: data/tokens, life: 2h}
    issuers:
      - {name: okta, url: %q, audiences: [tallystick], groups: [groups], client: {id: tallystick}}
    saml:
      - {name: idp, metadata: idp.xml, email: %q, groups: %q}
`, r.host, r.at, r.okta.URL, samltest.EmailAttribute, samltest.GroupsAttribute), 1)
	// Who is alice at the SAML provider calls as alice, too.
	text = strings.Replace(text, "name: alice, ", "name: alice, email: "+samltest.Email+", ", 1)
	r.write("tally.yaml", text)
	r.serve()
	if !strings.Contains(r.said.String(), "console="+r.at) {
		t.Errorf("it does not say where the console is: %s", r.said)
	}
	resp, metadata := r.get(r.browser(), "/login/saml/idp")
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s", resp.Status, metadata)
	}
	r.idp.Register("console", []byte(metadata))
	return r
}

// browser returns a browser that keeps cookies and follows nothing by itself.
func (r *reception) browser() *http.Client {
	jar, _ := cookiejar.New(nil)
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: r.roots}}
	r.t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Jar: jar, Timeout: time.Minute, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// ask sends a request, with header lines, and returns the answer with its body; of a stream the first event.
func (r *reception) ask(c *http.Client, method, path string, form url.Values, lines ...string) (*http.Response, string) {
	r.t.Helper()
	ctx, cancel := context.WithCancel(r.t.Context())
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, r.at+path, strings.NewReader(form.Encode()))
	if err != nil {
		r.t.Fatal(err)
	}
	if method == "POST" {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		req.Header.Set("Sec-Fetch-Site", "same-origin")
	}
	for _, l := range lines {
		name, value, _ := strings.Cut(l, ": ")
		if req.Header.Set(name, value); name == "Host" {
			req.Host = value
		}
	}
	resp, err := c.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	if strings.HasPrefix(resp.Header.Get("Content-Type"), "text/event-stream") {
		s, err := bufio.NewReader(resp.Body).ReadString('\n')
		if err != nil {
			r.t.Fatal(err)
		}
		return resp, s
	}
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return resp, string(b)
}

func (r *reception) get(c *http.Client, path string) (*http.Response, string) {
	r.t.Helper()
	return r.ask(c, "GET", path, nil)
}

// leave has a browser ask for a page, be sent to log in, choose a provider, and be sent there; it returns where.
func (r *reception) leave(c *http.Client, path, provider string) string {
	r.t.Helper()
	resp, _ := r.get(c, path)
	if resp.StatusCode != http.StatusSeeOther || !strings.HasPrefix(resp.Header.Get("Location"), "/login/") {
		r.t.Fatalf("%s: %s to %q", path, resp.Status, resp.Header.Get("Location"))
	}
	_, page := r.get(c, resp.Header.Get("Location"))
	start := regexp.MustCompile(`href="([^"]*/start\?provider=` + provider + `[^"]*)"`).FindStringSubmatch(page)
	if start == nil {
		r.t.Fatalf("nobody called %s logs in: %s", provider, page)
	}
	resp, page = r.get(c, html.UnescapeString(start[1]))
	if resp.StatusCode != http.StatusSeeOther {
		r.t.Fatalf("%s: %s", resp.Status, page)
	}
	return resp.Header.Get("Location")
}

var onward = regexp.MustCompile(`content="0;url=([^"]*)"`)

// signIn logs somebody in at the issuer, on the way to a page, and returns where he is sent then.
func (r *reception) signIn(c *http.Client, path, sub, email string, groups ...string) string {
	r.t.Helper()
	back := r.okta.letIn(r.leave(c, path, "okta"), map[string]any{"sub": sub, "email": email, "email_verified": true, "groups": groups})
	_, page := r.get(c, "/login/back?"+back.Encode())
	next := onward.FindStringSubmatch(page)
	if next == nil {
		r.t.Fatalf("%s", page)
	}
	return html.UnescapeString(next[1])
}

// signInSAML does so at the SAML provider, where there is alice alone.
func (r *reception) signInSAML(c *http.Client, path string) string {
	r.t.Helper()
	to, form := r.idp.LogIn(samltest.Browser(), r.leave(c, path, "idp"))
	if to != r.at+"/login/saml" {
		r.t.Fatalf("the provider posts to %s", to)
	}
	// From another site, so without cookies: the page sends itself what it got.
	_, page := r.ask(r.browser(), "POST", "/login/saml", form, "Origin: "+r.idp.URL, "Sec-Fetch-Site: cross-site")
	to, form = samltest.Form(page)
	_, page = r.ask(c, "POST", to, form, "Origin: null")
	next := onward.FindStringSubmatch(page)
	if next == nil {
		r.t.Fatalf("%s", page)
	}
	return html.UnescapeString(next[1])
}

// published waits until a session is there to be read.
func (r *reception) published(id string) {
	r.t.Helper()
	if _, stderr, code := r.tally("export", id, "--config", "tally.yaml", "-o", filepath.Join(r.t.TempDir(), "bundle")); code != 0 {
		r.t.Fatal(stderr)
	}
}

// because gives the reason why somebody looks.
func (r *reception) because(c *http.Client, why string) {
	r.t.Helper()
	if resp, page := r.ask(c, "POST", "/reason", url.Values{"reason": {why}, "back": {"/"}}); resp.StatusCode != http.StatusSeeOther {
		r.t.Fatalf("%s: %s", resp.Status, page)
	}
}

// session returns the value of a browser's session.
func (r *reception) session(c *http.Client) string {
	u, _ := url.Parse(r.at)
	for _, k := range c.Jar.Cookies(u) {
		if k.Name == "__Host-tallystick-session-login" {
			return k.Value
		}
	}
	return ""
}

// asks has a caller ask a model with a tool, so that people are asked, and returns the session that waits.
func (r *reception) asks(caller, prompt string) (id string, done <-chan got) {
	r.t.Helper()
	done = r.calling(caller, "terminal", prompt)
	m := <-r.messages
	r.messages <- m
	if id = r.told("asked"); !strings.Contains(m, r.at+"/approvals/"+id) {
		r.t.Errorf("people are led elsewhere than to the console: %s", m)
	}
	return id, done
}

// mainOf is what is on a page, without what is on all of them.
func mainOf(page string) string {
	_, rest, ok := strings.Cut(page, "<main")
	if !ok {
		return page
	}
	page, _, _ = strings.Cut(rest, "</main>")
	return page
}

const canary = "canary-prompt-7c1b"

// The roles that people have, by the groups they are in at the issuer.
var roleGroups = []struct{ role, group string }{{"viewer", "support"}, {"approver", "approvers"}, {"auditor", "compliance"}, {"admin", "platform"}, {"nobody's", "staff"}}

// A routeRow is a route of the console's, as its own table has it, and who may use it.
type routeRow struct {
	method, path string
	form         url.Values
	who          string // roles; "signed in", "anybody"
	let          []int  // how it is answered then
}

// Each role opens what is its own, of every route that the console has, and nothing else; who is in no group that has a role sees no
// content, and who is not signed in sees nothing at all.
func TestConsoleRoles(t *testing.T) {
	t.Parallel()
	r := newReception(t)
	r.vars["API_KEY"] = r.keys["bob"]
	id, _, err := r.chat(http.DefaultClient, canary, false)
	if err != nil {
		t.Fatal(err)
	}
	r.published(id)
	asked, _ := r.asks("bob", canary)

	const all = "viewer approver auditor admin"
	in := func(statuses ...int) []int { return statuses }
	rows := []routeRow{
		{"GET", "/{$}", nil, all, in(200)},
		{"GET", "/search", nil, "viewer auditor", in(200, 503)},
		{"POST", "/search", url.Values{"q": {"x"}}, "viewer auditor", in(200, 303, 503)},
		{"GET", "/sessions/{session}", nil, "viewer auditor", in(200)},
		{"GET", "/sessions/{session}/body", nil, "viewer auditor", in(200, 400)}, // of whichever entry has the index 1
		{"GET", "/sessions/{session}/bundle", nil, "viewer auditor", in(200)},
		{"POST", "/sessions/{session}/export", url.Values{"format": {"bundle"}, "reason": {"case 4711"}}, "auditor", in(200)},
		{"POST", "/sessions/{session}/disclose", url.Values{"field": {"request.body"}, "reason": {"case 4711"}}, "auditor", in(200)},
		{"POST", "/sessions/{session}/unseal", url.Values{"field": {"request.body"}, "reason": {"case 4711"}}, "admin", in(400, 404)},
		{"GET", "/sessions/{session}/erase", nil, "admin", in(200)},
		{"POST", "/sessions/{session}/erase", url.Values{"basis": {"b"}, "reason": {"case 4711"}}, "admin", in(400)}, // the box is not ticked
		{"GET", "/approvals", nil, "approver", in(200)},
		{"GET", "/approvals/changes", nil, "approver", in(200)},
		{"GET", "/approvals/{session}", nil, "approver", in(200)},
		{"POST", "/approvals/{session}", url.Values{"decision": {"perhaps"}}, "approver", in(400)},
		{"GET", "/log", nil, all, in(200)},
		{"GET", "/log/checkpoint", nil, all, in(200)},
		{"GET", "/policy", nil, all, in(200)},
		{"GET", "/trail", nil, "auditor admin", in(200)},
		{"GET", "/settings", nil, "auditor admin", in(200)},
		{"GET", "/me", nil, "signed in", in(200)},
		{"POST", "/reason", url.Values{"reason": {"case 4711"}, "back": {"/"}}, "signed in", in(303)},
		{"GET", "/static/{name}", nil, "anybody", in(200)},
		{"", "/login/", nil, "anybody", in(200, 303)},
		{"", "/", nil, "signed in", in(404)},
		{"POST", "/logout", nil, "anybody", in(303)}, // the last: then nobody is there
	}
	table, err := os.ReadFile("../../audit/console/routes.go")
	if err != nil {
		t.Fatal(err)
	}
	routes := regexp.MustCompile(`\{method: "([A-Z]*)", path: "([^"]+)"`).FindAllStringSubmatch(string(table), -1)
	for _, route := range routes {
		if !slices.ContainsFunc(rows, func(row routeRow) bool { return row.method == route[1] && row.path == route[2] }) {
			t.Errorf("nobody has tried who may %s %s", route[1], route[2])
		}
	}
	if len(routes) != len(rows) {
		t.Errorf("%d rows for %d routes", len(rows), len(routes))
	}

	people := append([]struct{ role, group string }{{"", ""}}, roleGroups...)
	for _, p := range people {
		c := r.browser()
		if p.role != "" {
			r.signIn(c, "/", "u-"+p.role, p.role+"@example.com", p.group)
			r.because(c, "the matrix of roles")
		}
		for _, row := range rows {
			path := strings.NewReplacer("/{$}", "/", "/approvals/{session}", "/approvals/"+asked, "{session}", id, "{name}", "console.css").Replace(row.path)
			method := row.method
			if method == "" {
				method = "GET"
			}
			if row.path == "/" {
				path = "/nowhere"
			}
			if strings.HasSuffix(path, "/body") {
				path += "?entry=1&field=body"
			}
			resp, body := r.ask(c, method, path, row.form)
			at := fmt.Sprintf("%s %s as %q", method, path, p.role)
			let := row.who == "anybody" || row.who == "signed in" && p.role != "" || p.role != "" && slices.Contains(strings.Fields(row.who), p.role)
			switch {
			case let:
				if !slices.Contains(row.let, resp.StatusCode) {
					t.Errorf("%s: %s: %s", at, resp.Status, mainOf(body))
				}
				continue
			case p.role == "" && method == "GET":
				if resp.StatusCode != http.StatusSeeOther || resp.Header.Get("Location") != "/login/?to="+url.QueryEscape(path) {
					t.Errorf("%s: %s to %s", at, resp.Status, resp.Header.Get("Location"))
				}
			case p.role == "":
				if resp.StatusCode != http.StatusUnauthorized {
					t.Errorf("%s: %s", at, resp.Status)
				}
			case resp.StatusCode != http.StatusForbidden || !strings.Contains(body, "ask whoever runs the log to be given it"):
				t.Errorf("%s: %s: %s", at, resp.Status, mainOf(body))
			}
			if strings.Contains(body, canary) {
				t.Errorf("%s shows content: %s", at, body)
			}
		}
		if resp, _ := r.get(c, "/me"); resp.StatusCode != http.StatusSeeOther {
			t.Errorf("as %q: signed in after signing out: %s", p.role, resp.Status)
		}
	}
	// What was asked is still open: nobody has decided.
	if stdout, _, code := r.as("carol", "approvals"); code != 0 || !strings.Contains(stdout, asked) {
		t.Errorf("exit %d: %s", code, stdout)
	}
	if _, stderr, code := r.as("carol", "deny", asked, "--reason", "the end of the test"); code != 0 {
		t.Error(stderr)
	}
	r.stop()
}

// People log in at either provider and come back to where they wanted to go; who they are, what they looked at and why, and that they
// left is on record; a session is nobody's who was not given it, and outlives the process.
func TestConsoleLogIn(t *testing.T) {
	t.Parallel()
	r := newReception(t)
	r.vars["API_KEY"] = r.keys["bob"]
	id, _, err := r.chat(http.DefaultClient, canary, false)
	if err != nil {
		t.Fatal(err)
	}
	r.published(id)

	// What there was before in the browser is not the session that somebody gets, whether it was somebody else's or nobody's.
	eve, ann := r.browser(), r.browser()
	r.signIn(eve, "/", "u-eve", "eve@example.com", "staff")
	here, _ := url.Parse(r.at)
	planted := r.session(eve)
	for _, value := range []string{planted, "ts-" + strings.Repeat("a", 40), "x"} {
		ann = r.browser()
		k := &http.Cookie{Name: "__Host-tallystick-session-login", Value: value, Path: "/", Secure: true}
		back := r.okta.letIn(r.leave(ann, "/trail", "okta"), map[string]any{"sub": "u-ann", "email": "ann@example.com", "email_verified": true, "groups": []string{"compliance", "approvers"}})
		ann.Jar.SetCookies(here, []*http.Cookie{k})
		resp, page := r.get(ann, "/login/back?"+back.Encode())
		if onward.FindStringSubmatch(page) == nil || r.session(ann) == value || r.session(ann) == "" {
			t.Fatalf("a session was fixed: %s", page)
		}
		for _, c := range resp.Cookies() {
			if c.Value != "" && (!c.Secure || !c.HttpOnly || c.SameSite != http.SameSiteStrictMode || c.Path != "/" || c.Domain != "" || !strings.HasPrefix(c.Name, "__Host-")) {
				t.Errorf("the cookie is %s", c.Raw)
			}
		}
	}
	if resp, _ := r.get(eve, "/me"); resp.StatusCode != http.StatusSeeOther {
		t.Errorf("a session that lay in somebody else's browser lives on: %s", resp.Status)
	}

	// By SAML: alice's groups have a role, too, and a person by name.
	alice, vip := r.browser(), r.browser()
	if to := r.signInSAML(alice, "/approvals?x=1&y=2"); to != "/approvals?x=1&y=2" {
		t.Errorf("alice is sent to %q", to)
	}
	if to := r.signIn(vip, "/sessions/"+id, "u-vip", "vip@example.com"); to != "/sessions/"+id {
		t.Errorf("the guest is sent to %q", to)
	}
	for _, who := range []struct {
		c      *http.Client
		shows  []string
		hasNot string
	}{
		{alice, []string{"idp:" + samltest.Email, samltest.Email, "staff, approvers", ">approver<", r.idp.Entity()}, ">viewer<"},
		{ann, []string{"okta:u-ann", "ann@example.com", "approver, auditor", r.okta.URL}, "admin<"},
		{vip, []string{"okta:u-vip", ">viewer<"}, "approver<"},
	} {
		_, page := r.get(who.c, "/me")
		facts, _, _ := strings.Cut(mainOf(page), "</dl>")
		for _, s := range who.shows {
			if !strings.Contains(facts, s) {
				t.Errorf("it does not say %q: %s", s, facts)
			}
		}
		if strings.Contains(facts, who.hasNot) {
			t.Errorf("it says %q: %s", who.hasNot, facts)
		}
	}

	// Nothing is shown before there is a reason; then the reading is on record.
	if resp, page := r.get(vip, "/sessions/"+id); resp.StatusCode != http.StatusPreconditionRequired || strings.Contains(page, canary) {
		t.Errorf("without a reason: %s", resp.Status)
	}
	r.because(vip, "the case of the canary")
	resp, page := r.get(vip, "/sessions/"+id)
	if resp.StatusCode != http.StatusOK || !strings.Contains(page, canary) {
		t.Errorf("with a reason: %s: %s", resp.Status, mainOf(page))
	}
	if link := regexp.MustCompile(`href="(/sessions/[^"]*/body\?[^"]*field=body[^"]*)"`).FindStringSubmatch(page); link == nil {
		t.Errorf("no link leads to a field: %s", mainOf(page))
	} else if resp, page := r.get(vip, html.UnescapeString(link[1])); resp.StatusCode != http.StatusOK || !strings.Contains(page, canary) {
		t.Errorf("%s: %s: %s", link[1], resp.Status, mainOf(page))
	}

	// Another site can make a browser send what it likes, and nothing comes of it.
	for _, evil := range [][]string{
		{"Origin: https://evil.example", "Sec-Fetch-Site: cross-site"}, {"Origin: null", "Sec-Fetch-Site: cross-site"}, {"Origin: https://evil.example", "Sec-Fetch-Site: "},
		{"Origin: https://sub." + r.host, "Sec-Fetch-Site: same-site"}, {"Origin: http://127.0.0.1:1", "Sec-Fetch-Site: "},
	} {
		for path, form := range map[string]url.Values{
			"/logout": nil, "/reason": {"reason": {"evil"}, "back": {"/"}}, "/sessions/" + id + "/export": {"format": {"bundle"}, "reason": {"evil"}},
			"/sessions/" + id + "/erase": {"sure": {"yes"}, "basis": {"evil"}, "reason": {"evil"}}, "/approvals/" + id: {"decision": {"deny"}, "reason": {"evil"}},
		} {
			if resp, page := r.ask(ann, "POST", path, form, evil...); resp.StatusCode != http.StatusForbidden || len(resp.Cookies()) > 0 || !strings.Contains(page, "another site") {
				t.Errorf("POST %s, %q: %s: %s", path, evil, resp.Status, mainOf(page))
			}
		}
	}
	// A log-in that somebody else began is not finished here: nobody is logged in as another by a link.
	other := r.browser()
	back := r.okta.letIn(r.leave(eve, "/", "okta"), map[string]any{"sub": "u-eve", "groups": []string{"platform"}})
	if resp, page := r.get(other, "/login/back?"+back.Encode()); resp.StatusCode != http.StatusBadRequest || r.session(other) != "" {
		t.Errorf("%s: %s", resp.Status, page)
	}
	// Nor is a name that leads here and is not the console's.
	for _, host := range []string{"evil.example", "localhost:1", strings.Split(r.host, ":")[0]} {
		if resp, page := r.ask(ann, "GET", "/", nil, "Host: "+host); resp.StatusCode != http.StatusMisdirectedRequest || strings.Contains(page, "okta:") {
			t.Errorf("as %s: %s: %s", host, resp.Status, page)
		}
	}

	// Who may not read the trail is not shown it; who may sees all that was done.
	r.because(ann, "who was here")
	trail := func(what string, c *http.Client) string {
		t.Helper()
		resp, page := r.get(c, "/trail?"+url.Values{"what": {what}}.Encode())
		if resp.StatusCode != http.StatusOK {
			t.Fatalf("%s: %s", resp.Status, mainOf(page))
		}
		return mainOf(page)
	}
	out := r.session(vip)
	if resp, _ := r.ask(vip, "POST", "/logout", nil); resp.StatusCode != http.StatusSeeOther {
		t.Errorf("%s %v", resp.Status, resp.Header)
	}
	vip.Jar.SetCookies(here, []*http.Cookie{{Name: "__Host-tallystick-session-login", Value: out, Path: "/", Secure: true}})
	if resp, _ := r.get(vip, "/me"); resp.StatusCode != http.StatusSeeOther {
		t.Errorf("who signed out is there again with the old cookie: %s", resp.Status)
	}
	for what, want := range map[string][]string{
		"log-in":        {"okta:u-ann", "okta:u-eve", "okta:u-vip", "idp:" + samltest.Email},
		"log-out":       {"okta:u-vip"},
		"view":          {"okta:u-vip", "the case of the canary", id},
		"who read what": {"okta:u-ann", "who was here"},
	} {
		await(t, what+" is on record", func() bool {
			page := trail(what, ann)
			return !slices.ContainsFunc(want, func(s string) bool { return !strings.Contains(page, s) })
		})
	}
	for _, secret := range []string{planted, out, r.session(ann), canary, "evil"} {
		if page := trail("", ann); strings.Contains(page, secret) {
			t.Errorf("the trail has %q", secret)
		}
	}

	// Settings are shown to who may see them, without a secret.
	_, page = r.get(ann, "/settings")
	if !strings.Contains(page, "console.roles.auditor") || !strings.Contains(page, "compliance") {
		t.Errorf("%s", mainOf(page))
	}
	for _, secret := range append([]string{"sk-model", signingSecret, "whsec_", "signing.secret", "model.key"}, r.keys["alice"], r.keys["bob"]) {
		if strings.Contains(page, secret) {
			t.Errorf("the settings have %q", secret)
		}
	}

	// A role can be given and taken while everything runs.
	file := filepath.Join(filepath.Dir(r.data), "tally.yaml")
	before, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, group := range []string{"nobody-at-all", "compliance"} {
		r.write("tally.yaml", strings.Replace(string(before), "auditor: [compliance]", "auditor: ["+group+"]", 1))
		r.cmd.Process.Signal(syscall.SIGHUP)
		want := map[string]int{"compliance": http.StatusOK, "nobody-at-all": http.StatusForbidden}[group]
		await(t, "the role is "+group+"'s", func() bool { resp, _ := r.get(ann, "/trail"); return resp.StatusCode == want })
	}

	// Who is signed in stays so when the process comes again; a stream that is open then ends with it, and does not hold it up.
	req, err := http.NewRequestWithContext(t.Context(), "GET", r.at+"/approvals/changes", nil)
	if err != nil {
		t.Fatal(err)
	}
	stream, err := ann.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Body.Close()
	lines := bufio.NewReader(stream.Body)
	if s, err := lines.ReadString('\n'); err != nil || s != "event: waiting\n" {
		t.Fatalf("%q %v", s, err)
	}
	r.stop()
	if _, err := io.ReadAll(lines); err != nil && !strings.Contains(err.Error(), "EOF") {
		t.Error(err)
	}
	r.serve()
	if resp, page := r.get(ann, "/trail"); resp.StatusCode != http.StatusOK || !strings.Contains(page, "okta:u-ann") {
		t.Errorf("after a restart: %s: %s", resp.Status, mainOf(page))
	}
	r.stop()
	for _, secret := range []string{planted, out, r.session(ann), canary} {
		if strings.Contains(r.said.String(), secret) {
			t.Errorf("it said %q", secret)
		}
	}
}

// In the console people decide by the rules by which they do elsewhere: not about their own calls, by whatever way they made them, and
// after a look at all of it, which is on record.
func TestConsoleDecides(t *testing.T) {
	t.Parallel()
	r := newReception(t)
	ann, alice, pat := r.browser(), r.browser(), r.browser()
	r.signIn(ann, "/", "u-ann", "ann@example.com", "approvers", "compliance")
	r.signIn(pat, "/", "u-pat", "pat@example.com", "support")
	r.signInSAML(alice, "/")

	// Alice called with her key, and is known by her address.
	id, done := r.asks("alice", canary)
	_, page := r.get(alice, "/approvals")
	if !strings.Contains(page, "your own") || strings.Contains(page, "/approvals/"+id) {
		t.Errorf("%s", mainOf(page))
	}
	if resp, page := r.get(alice, "/approvals/"+id); resp.StatusCode != http.StatusOK || strings.Contains(page, canary) || strings.Contains(page, "<form method=\"post\" action=\"/approvals/") || !strings.Contains(page, "your own call") {
		t.Errorf("%s: %s", resp.Status, mainOf(page))
	}
	decide := func(c *http.Client, what, why string) (*http.Response, string) {
		t.Helper()
		resp, page := r.ask(c, "POST", "/approvals/"+id, url.Values{"decision": {what}, "reason": {why}})
		return resp, mainOf(page)
	}
	if resp, page := decide(alice, "approve", "it is mine"); resp.StatusCode != http.StatusForbidden || !strings.Contains(page, "others are asked") {
		t.Errorf("%s: %s", resp.Status, page)
	}
	if resp, page := decide(ann, "approve", "unseen"); resp.StatusCode != http.StatusConflict || !strings.Contains(page, "look at the whole request") {
		t.Errorf("%s: %s", resp.Status, page)
	}
	if resp, page := decide(ann, "break_glass", "because I can, and you cannot"); resp.StatusCode != http.StatusNotFound {
		t.Errorf("%s: %s", resp.Status, page)
	}
	if resp, page := r.get(ann, "/approvals/"+id); resp.StatusCode != http.StatusOK || !strings.Contains(page, canary) || !strings.Contains(page, ">alice") || strings.Contains(page, "Break the glass") {
		t.Errorf("%s: %s", resp.Status, mainOf(page))
	}
	if resp, page := decide(ann, "deny", " "); resp.StatusCode != http.StatusBadRequest {
		t.Errorf("%s: %s", resp.Status, page)
	}

	// Who follows what waits is told of it.
	req, err := http.NewRequestWithContext(t.Context(), "GET", r.at+"/approvals/changes", nil)
	if err != nil {
		t.Fatal(err)
	}
	stream, err := ann.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Body.Close()
	lines := bufio.NewScanner(stream.Body)
	event := func(with, without string) {
		t.Helper()
		for lines.Scan() {
			if l := lines.Text(); strings.HasPrefix(l, "data: ") && (with == "" || strings.Contains(l, with)) && (without == "" || !strings.Contains(l, without)) {
				return
			}
		}
		t.Fatalf("the stream ended: %v", lines.Err())
	}
	event(id, "")
	if resp, page := decide(ann, "approve", "a good cause"); resp.StatusCode != http.StatusOK || !strings.Contains(page, "Your word is on record: yes") {
		t.Errorf("%s: %s", resp.Status, page)
	}
	if a := <-done; a.code != 200 {
		t.Errorf("%+v", a)
	}
	event("", id)
	r.told("granted")
	if resp, page := decide(ann, "deny", "too late"); resp.StatusCode != http.StatusConflict && resp.StatusCode != http.StatusNotFound {
		t.Errorf("%s: %s", resp.Status, page)
	}
	first := id
	id, done = r.asks("bob", canary)
	event(id, "")
	r.get(ann, "/approvals/"+id)
	if resp, page := decide(ann, "deny", "not today"); resp.StatusCode != http.StatusOK {
		t.Errorf("%s: %s", resp.Status, page)
	}
	if a := <-done; a.code != 403 || !strings.Contains(a.body, "not today") {
		t.Errorf("%+v", a)
	}
	event("", id)

	// The looks and the words are on record, and the call's session shows them to who may see it.
	r.because(ann, "what was decided")
	await(t, "the look is on record", func() bool {
		_, page := r.get(ann, "/trail?person=u-ann")
		return strings.Contains(page, "to decide about the approval") && strings.Contains(page, first)
	})
	r.because(pat, "what was decided")
	await(t, "the word is on record", func() bool {
		resp, page := r.get(pat, "/sessions/"+first)
		return resp.StatusCode == http.StatusOK && strings.Contains(page, "okta:u-ann") && strings.Contains(page, "a good cause")
	})
	r.stop()
}
