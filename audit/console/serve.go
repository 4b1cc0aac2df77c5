package console

import (
	"embed"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/tallystick/tallystick/audit"
	"github.com/tallystick/tallystick/tlog"
)

// ErrGone says that a call does not wait any more, or never did: look at the list again.
var ErrGone = errors.New("there is no such call waiting that is yours to decide; it may have been decided, or be too late")

// ErrNotYours says that others decide: ask them.
var ErrNotYours = errors.New("your own call is not yours to decide; others are asked")

// ErrNotTaken says that a word does not count as it was given: look again, and say it again.
var ErrNotTaken = errors.New("the decision was not taken")

//go:embed static
var static embed.FS

//go:embed pages
var pages embed.FS

// A Console serves the pages. Safe for concurrent use. Its streams of events end with their request, so a server that is to stop has
// a BaseContext that ends.
type Console struct {
	c       Config
	policy  *tlog.Policy // nil for none
	other   *http.CrossOriginProtection
	mux     *http.ServeMux
	routes  []route
	pages   map[string]*template.Template
	counted [len(ranges)]counted
	log     *slog.Logger
	now     func() time.Time
}

// New returns a console. It fails where something is missing that it cannot be without, or the policy cannot be read.
func New(c Config) (*Console, error) {
	switch {
	case c.Desk == nil, c.Log == nil, c.SignIn == nil:
		return nil, errors.New("console: there is no console without a desk, a log and a way to sign in")
	case len(c.Hosts) == 0:
		return nil, errors.New("console: it is not told by which names it is reached")
	}
	o := &Console{c: c, other: http.NewCrossOriginProtection(), mux: http.NewServeMux(), routes: routes(), log: c.Logger, now: time.Now}
	if o.log == nil {
		o.log = slog.New(slog.DiscardHandler)
	}
	if len(c.Policy) > 0 {
		var err error
		if o.policy, err = tlog.ParsePolicy(c.Policy); err != nil {
			return nil, fmt.Errorf("console: policy: %w", err)
		}
	}
	var err error
	if o.pages, err = parsePages(o); err != nil {
		return nil, fmt.Errorf("console: %w", err)
	}
	for i := range o.routes {
		r := &o.routes[i]
		o.mux.HandleFunc(strings.TrimSpace(r.method+" "+r.path), func(w http.ResponseWriter, req *http.Request) { o.serve(w, req, r) })
	}
	return o, nil
}

// A route is what is served under one pattern, and to whom. The zero value is for nobody.
type route struct {
	method, path string
	whom         audit.Roles
	other        whose
	// content says that a reading is recorded where it is served: it is refused to whoever only looks ahead, and needs a reason;
	// unasked, where whoever records it says himself why.
	content, unasked bool
	do               func(o *Console, v *visit) error
}

// whose says who is let in without a role.
type whose uint8

const (
	byRole   whose = iota
	signedIn       // everybody who is signed in
	anybody        // everybody
)

// A visit is one request and who makes it.
type visit struct {
	w    http.ResponseWriter
	req  *http.Request
	who  Person // zero for nobody, where anybody is let in
	why  string // "" for no reason yet
	here string // the route's pattern
}

// asker is who asks a desk.
func (v *visit) asker() audit.Asker { return v.askerFor(v.why) }

func (v *visit) askerFor(reason string) audit.Asker {
	return audit.Asker{Name: v.who.Name, Reason: reason, Roles: v.who.Roles}
}

// ServeHTTP serves a page. The order is the whole of its safety:
//
//  1. headers        also an error has them
//  2. host           a name that leads here and is not ours belongs to somebody else's page
//  3. other sites    what changes something comes from a page of ours
//  4. route          what is not in the table is not there
//  5. who            or he is sent to sign in
//  6. role
//  7. looking ahead  nobody has read what a browser only fetched, nor what a page of another site had it fetch
//  8. why            or he is asked
//
// and only then is anything read.
func (o *Console) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	h := w.Header()
	for _, kv := range headers {
		h.Set(kv[0], kv[1])
	}
	if !o.ours(req.Host) {
		http.Error(w, "the console does not go by this name; open it by the address in its configuration", http.StatusMisdirectedRequest)
		return
	}
	if !strings.HasPrefix(req.URL.Path, "/login/") {
		if err := o.other.Check(req); err != nil {
			o.fail(&visit{w: w, req: req}, errOtherSite)
			return
		}
	}
	o.mux.ServeHTTP(w, req)
}

// headers are those of every answer.
var headers = [][2]string{
	{"Content-Security-Policy", "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; " +
		"frame-ancestors 'none'; base-uri 'none'; require-trusted-types-for 'script'; trusted-types 'none'"},
	{"X-Content-Type-Options", "nosniff"},
	{"X-Frame-Options", "DENY"},
	{"Referrer-Policy", "no-referrer"},
	{"Cross-Origin-Opener-Policy", "same-origin"},
	{"Cross-Origin-Resource-Policy", "same-origin"},
	{"Permissions-Policy", "camera=(), microphone=(), geolocation=(), payment=(), usb=(), browsing-topics=()"},
	{"X-DNS-Prefetch-Control", "off"},
	{"X-Robots-Tag", "noindex, nofollow"},
	{"Cache-Control", "no-store"},
}

// ours says whether a Host header has one of the console's names.
func (o *Console) ours(host string) bool {
	for _, h := range o.c.Hosts {
		if strings.EqualFold(h, host) {
			return true
		}
	}
	// A browser leaves out the port that is the scheme's.
	if name, port, err := net.SplitHostPort(host); err == nil && (port == "80" || port == "443") {
		for _, h := range o.c.Hosts {
			if strings.EqualFold(h, name) {
				return true
			}
		}
	}
	return false
}

// serve is the second half of the trip, once the route is known.
func (o *Console) serve(w http.ResponseWriter, req *http.Request, r *route) {
	v := &visit{w: w, req: req, here: r.path}
	if who, ok := o.c.SignIn.Who(req); ok && who.Name != "" {
		v.who = who
	}
	if r.other == anybody {
		o.done(v, r.do(o, v))
		return
	}
	if v.who.Name == "" {
		o.stranger(v)
		return
	}
	v.why = o.reasonOf(v)
	if r.other != signedIn && !v.who.Roles.Any(r.whom) {
		o.fail(v, fmt.Errorf("%w: this is for %s, and you are %s", audit.ErrRole, r.whom, v.who.Roles))
		return
	}
	if r.content {
		switch {
		case req.Method == http.MethodHead:
			w.Header().Set("Allow", "GET")
			o.fail(v, errHead)
			return
		case ahead(req):
			o.fail(v, errAhead)
			return
		case beside(req):
			o.fail(v, errOtherSite)
			return
		case v.why == "" && !r.unasked:
			o.askWhy(v)
			return
		}
	}
	o.done(v, r.do(o, v))
}

// ahead says whether a request is made before anybody wants to see what it is for.
func ahead(req *http.Request) bool {
	for _, name := range []string{"Sec-Purpose", "Purpose", "X-Purpose", "X-Moz"} {
		v := strings.ToLower(req.Header.Get(name))
		if strings.Contains(v, "prefetch") || strings.Contains(v, "prerender") || strings.Contains(v, "preview") {
			return true
		}
	}
	return false
}

// beside says whether a page of another site fetches something for itself, such as an image or a frame. Nobody sees what comes of it, and a
// strict cookie comes along where the site differs in the port or in what stands before the domain alone. A link is followed by somebody
// who then sees the page.
func beside(req *http.Request) bool {
	switch req.Header.Get("Sec-Fetch-Site") {
	case "", "none", "same-origin":
		return false
	}
	return req.Header.Get("Sec-Fetch-Mode") != "navigate" || req.Header.Get("Sec-Fetch-Dest") != "document"
}

// stranger sends somebody to sign in, and from there back, if it is a page that he wants.
func (o *Console) stranger(v *visit) {
	if v.req.Method != http.MethodGet || v.req.Header.Get("Sec-Fetch-Dest") == "empty" {
		o.fail(v, errStranger)
		return
	}
	http.Redirect(v.w, v.req, o.c.SignIn.Way(v.req.URL.RequestURI()), http.StatusSeeOther)
}

// local returns a path of our own that somebody is sent back to, or "/".
func local(back string) string {
	u, err := url.Parse(back)
	if err != nil || u.IsAbs() || u.Host != "" || u.User != nil || !strings.HasPrefix(back, "/") || strings.HasPrefix(back, "//") ||
		strings.ContainsAny(back, "\\\r\n\t") || len(back) > 2000 {
		return "/"
	}
	return back
}

const (
	whyCookie = "tallystick-why"
	maxWhy    = 500            // bytes of a reason
	whyLasts  = 12 * time.Hour // a day's work: then it is asked for anew
)

// A stated reason is kept in the browser, by whoever gave it. It says of nobody else why he looks.
type stated struct {
	By    string `json:"by"`
	Why   string `json:"why"`
	Until int64  `json:"until"`
}

// reasonOf returns the reason that somebody gave in this browser, not long ago, or "".
func (o *Console) reasonOf(v *visit) string {
	k, err := v.req.Cookie(o.whyName())
	if err != nil {
		return ""
	}
	b, err := base64.RawURLEncoding.DecodeString(k.Value)
	if err != nil {
		return ""
	}
	var s stated
	if json.Unmarshal(b, &s) != nil || s.By != v.who.Name || s.Until <= o.now().Unix() || goodReason(s.Why) != nil {
		return ""
	}
	return s.Why
}

// whyName is the name of the cookie: under TLS one that no other host can set, or else somebody there could say why others look.
func (o *Console) whyName() string {
	if o.c.Secure {
		return "__Host-" + whyCookie
	}
	return whyCookie
}

// keepReason has the browser keep a reason; "" for none any more.
func (o *Console) keepReason(v *visit, why string) {
	k := &http.Cookie{Name: o.whyName(), Path: "/", HttpOnly: true, SameSite: http.SameSiteStrictMode, Secure: o.c.Secure, MaxAge: -1}
	if why != "" {
		b, _ := json.Marshal(stated{v.who.Name, why, o.now().Add(whyLasts).Unix()})
		k.Value, k.MaxAge = base64.RawURLEncoding.EncodeToString(b), 0 // until the browser is closed
	}
	http.SetCookie(v.w, k)
}

// goodReason says what is wrong with a reason.
func goodReason(why string) error {
	switch {
	case strings.TrimSpace(why) == "":
		return errWhy
	case len(why) > maxWhy || !utf8.ValidString(why):
		return fmt.Errorf("%w; it is text of at most %d bytes", errWhy, maxWhy)
	}
	return nil
}

// asset serves a style sheet or a module.
func (o *Console) asset(v *visit) error {
	name := v.req.PathValue("name")
	kind := ""
	switch {
	case strings.HasSuffix(name, ".css"):
		kind = "text/css; charset=utf-8"
	case strings.HasSuffix(name, ".js"):
		kind = "text/javascript; charset=utf-8"
	case strings.HasSuffix(name, ".svg"):
		kind = "image/svg+xml"
	}
	b, err := fs.ReadFile(static, "static/"+name)
	if kind == "" || err != nil {
		return errNoPage
	}
	v.w.Header().Set("Content-Type", kind)
	v.w.Header().Set("Cache-Control", "no-cache")
	etag := `"` + tlog.HashLeaf(b).String()[:20] + `"`
	v.w.Header().Set("ETag", etag)
	if v.req.Header.Get("If-None-Match") == etag {
		v.w.WriteHeader(http.StatusNotModified)
		return nil
	}
	v.w.Write(b)
	return nil
}
