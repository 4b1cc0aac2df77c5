package gateway

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/tallystick/tallystick/tlog/tlogtest"
)

// What is wrong with a configuration is told when the gateway is made, in words that say what to change.
func TestConfigErrors(t *testing.T) {
	t.Parallel()
	up := func(s string) *url.URL {
		u, err := url.Parse(s)
		if err != nil {
			t.Fatal(err)
		}
		return u
	}
	good := func() Config {
		return Config{
			ID: "gw", Software: "x/1", Log: tlogtest.NewLog(t), Keys: &memKeys{}, Journal: "/nowhere",
			Routes:  []Route{{Name: "a", API: OpenAI, Upstream: up("https://m"), Credential: plain("12345678")}},
			Callers: []Caller{{Name: "alice", SHA256: hashOf("x")}},
		}
	}
	if _, err := New(good()); err != nil {
		t.Fatal(err)
	}
	route := func(change func(*Route)) func(*Config) { return func(c *Config) { change(&c.Routes[0]) } }
	for want, change := range map[string]func(*Config){
		"needs a log and keys":                        func(c *Config) { c.Log = nil },
		"needs a log  and keys":                       func(c *Config) { c.Keys = nil },
		"needs a directory":                           func(c *Config) { c.Journal = "" },
		"no mode has the number 3":                    func(c *Config) { c.Mode = 3 },
		"a limit of -1ns":                             func(c *Config) { c.Limits.Drain = -1 },
		"a limit is negative":                         func(c *Config) { c.Limits.Connections = -1 },
		"512 bytes for a head":                        func(c *Config) { c.Limits.Head = 512 },
		"2097152 bytes for a head":                    func(c *Config) { c.Limits.Head = 2 << 20 },
		"may not fit a record; choose at most 64 MiB": func(c *Config) { c.Limits.Answer = 65 << 20 },
		"may  not fit a record":                       func(c *Config) { c.Limits.Body = 1 << 40 },
		"an event of 70000000 bytes":                  func(c *Config) { c.Limits.Event = 70_000_000 },
		"no route is configured":                      func(c *Config) { c.Routes = nil },
		"two routes are named": func(c *Config) {
			c.Routes = append(c.Routes, Route{Name: "a", Prefix: "/b/", Upstream: up("http://m")})
		},
		`"a" and "b" both have the path /v1/chat/`:         func(c *Config) { c.Routes = append(c.Routes, c.Routes[0]); c.Routes[1].Name = "b" },
		`the route's name "A" is not`:                      route(func(r *Route) { r.Name = "A" }),
		`the route's name "" is not`:                       route(func(r *Route) { r.Name = "" }),
		"has no API":                                       route(func(r *Route) { r.API = 9 }),
		`has the prefix "x/"`:                              route(func(r *Route) { r.Prefix = "x/" }),
		`has the prefix "/x"`:                              route(func(r *Route) { r.Prefix = "/x" }),
		`has the prefix "//"`:                              route(func(r *Route) { r.Prefix = "//" }),
		`has the prefix "/../"`:                            route(func(r *Route) { r.Prefix = "/../" }),
		`has the prefix "/a b/"`:                           route(func(r *Route) { r.Prefix = "/a b/" }),
		`has the prefix "/a%20b/"`:                         route(func(r *Route) { r.Prefix = "/a%20b/" }),
		`has the prefix "/.tallystick/"`:                   route(func(r *Route) { r.Prefix = "/.tallystick/" }),
		`has the prefix ""`:                                route(func(r *Route) { r.API = HTTP }),
		"needs an upstream such as":                        route(func(r *Route) { r.Upstream = nil }),
		"needs  an upstream":                               route(func(r *Route) { r.Upstream = up("ftp://m") }),
		"needs   an upstream":                              route(func(r *Route) { r.Upstream = up("https://u:p@m") }),
		"needs    an upstream":                             route(func(r *Route) { r.Upstream = up("https://m?x=1") }),
		"needs     an upstream":                            route(func(r *Route) { r.Upstream = up("m") }),
		"shorter than 8 characters":                        route(func(r *Route) { r.Credential = plain("1234567") }),
		"shorter  than 8 characters or has":                route(func(r *Route) { r.Credential = plain("12345678\n") }),
		`in the header "Content-Length"`:                   route(func(r *Route) { r.Header = "Content-Length" }),
		`in the header "X: y"`:                             route(func(r *Route) { r.Header = "X: y" }),
		`has the scheme "Bearer x"`:                        route(func(r *Route) { r.Header, r.Scheme = "X-Key", "Bearer x" }),
		"says how to send a credential and has none":       route(func(r *Route) { r.Credential, r.Header = nil, "X-Key" }),
		`names the header "a b", which is not a header's`:  route(func(r *Route) { r.Forward = []string{"a b"} }),
		`names the header "Set-Cookie", which never`:       route(func(r *Route) { r.Return = []string{"Set-Cookie"} }),
		`names the header "tallystick-x", which never`:     route(func(r *Route) { r.Forward = []string{"tallystick-x"} }),
		`forwards the header "x-key", in which it sends`:   route(func(r *Route) { r.Header, r.Forward = "X-Key", []string{"x-key"} }),
		"is not 64 hex digits of SHA-256":                  func(c *Config) { c.Callers[0].SHA256 = "12" },
		`the caller's name "" is empty`:                    func(c *Config) { c.Callers[0].Name = "" },
		`the caller's name "a\nb"`:                         func(c *Config) { c.Callers[0].Name = "a\nb" },
		`the name "\x00" of a key of caller "alice"`:       func(c *Config) { c.Callers[0].Key = "\x00" },
		`"alice" and "bob" have the same key`:              func(c *Config) { c.Callers = append(c.Callers, Caller{Name: "bob", SHA256: hashOf("x")}) },
		`"alice" may use the route "b", which there is no`: func(c *Config) { c.Callers[0].Routes = []string{"a", "b"} },
		"record: ": func(c *Config) { c.ID = "A B" },
	} {
		cfg := good()
		change(&cfg)
		words := strings.Join(strings.Fields(want), " ") // spaces make the keys differ
		if _, err := New(cfg); err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("want %q, got %v", words, err)
		}
	}
}

// Names in a configuration are read as they are written.
func TestNames(t *testing.T) {
	t.Parallel()
	for _, m := range []Mode{Strict, Overlap, Open} {
		if got, err := ParseMode(m.String()); got != m || err != nil {
			t.Errorf("%v: %v, %v", m, got, err)
		}
	}
	for _, a := range []API{HTTP, OpenAI, Anthropic} {
		if got, err := ParseAPI(a.String()); got != a || err != nil {
			t.Errorf("%v: %v, %v", a, got, err)
		}
	}
	if m, err := ParseMode(""); m != Strict || err != nil {
		t.Errorf("no mode: %v, %v", m, err)
	}
	if _, err := ParseMode("Open"); err == nil || !strings.Contains(err.Error(), "strict, overlap, open") {
		t.Errorf("%v", err)
	}
	if _, err := ParseAPI(""); err == nil || !strings.Contains(err.Error(), "openai, anthropic, http") {
		t.Errorf("%v", err)
	}
}

// A configuration is not written to, and what is left out has a default.
func TestConfigIsNotWrittenTo(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	if r := w.g.cfg.Routes[1]; r.Header != "" || r.Prefix != "" {
		t.Errorf("%+v", r)
	}
	l := Limits{}.filled()
	if l.Head != 32<<10 || l.Body != 64<<20 || l.Answer != 64<<20 || l.Event != 8<<20 || l.Connections != 10_000 || l.Total != time.Hour || l.Drain != 30*time.Second {
		t.Errorf("%+v", l)
	}
}

// A caller names a route by its path alone; the longer path wins.
func TestRoutes(t *testing.T) {
	t.Parallel()
	u, _ := url.Parse("http://m")
	rs, err := newRoutes([]Route{
		{Name: "all", Prefix: "/", Upstream: u}, {Name: "openai", API: OpenAI, Upstream: u},
		{Name: "second", API: OpenAI, Prefix: "/two/", Upstream: u}, {Name: "below", Prefix: "/v1/chat/", Upstream: u},
		{Name: "claude", API: Anthropic, Upstream: u},
	})
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		"/v1/chat/completions": "openai", "/v1/chat/completions/x": "openai", "/v1/chat/x": "below", "/v1/chat": "all",
		"/v1/chat/completionsx": "below", "/v1/models/gpt": "openai", "/v1/messages": "claude", "/v1/messages/count_tokens": "claude",
		"/two/v1/models": "second", "/two": "all", "/V1/models": "all", "/": "all",
	} {
		if r := rs.match(path); r == nil || r.Name != want {
			t.Errorf("%s: %v, want %s", path, r, want)
		}
	}
	rs, err = newRoutes([]Route{{Name: "openai", API: OpenAI, Upstream: u}})
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/", "/v1", "/v1/", "/v1/files", "/v1/messages", "", "/v1/embeddings/x", "//v1/models"} {
		if r := rs.match(path); r != nil {
			t.Errorf("%s: %s", path, r.Name)
		}
	}
}

// The health is asked without a key.
func TestHealth(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	for _, method := range []string{"GET", "HEAD"} {
		req, err := http.NewRequest(method, w.base+"/.tallystick/health", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := w.client.Do(req)
		if err != nil || resp.StatusCode != 200 {
			t.Fatal(resp, err)
		}
		if body := slurp(t, resp.Body); body != map[string]string{"GET": "ok\n", "HEAD": ""}[method] {
			t.Errorf("%s: %q", method, body)
		}
	}
}
