package gateway

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"unicode"
	"unicode/utf8"

	"github.com/tallystick/tallystick/tlog/record/mask"
	"github.com/tallystick/tallystick/tlog/record/original"
)

// An API says how a model's interface speaks: which paths it has, how it takes a credential, what ends its streams and
// what its errors look like.
type API uint8

const (
	HTTP      API = iota // any other API, by prefix
	OpenAI               // chat completions, responses, embeddings, completions, models
	Anthropic            // messages
)

// ParseAPI reads the name of an API in a configuration.
func ParseAPI(s string) (API, error) {
	switch s {
	case "http":
		return HTTP, nil
	case "openai":
		return OpenAI, nil
	case "anthropic":
		return Anthropic, nil
	}
	return HTTP, fmt.Errorf("gateway: the api %q is none of openai, anthropic, http", s)
}

// String returns the API's name in a configuration.
func (a API) String() string { return apiNames[a] }

var apiNames = [...]string{"http", "openai", "anthropic"}

func (a API) protocol() protocol {
	return [...]protocol{protocolHTTP, protocolOpenAI, protocolAnthropic}[a]
}

// endpoints lists what an API has: a path, or with a trailing slash everything below it.
func (a API) endpoints() []string {
	switch a {
	case OpenAI:
		return []string{"/v1/chat/completions", "/v1/chat/completions/", "/v1/responses", "/v1/responses/", "/v1/embeddings", "/v1/completions", "/v1/models", "/v1/models/"}
	case Anthropic:
		return []string{"/v1/messages", "/v1/messages/"}
	}
	return nil
}

// shared lists what an API has too, where no other API on the same prefix has it: both families list their models at
// the same path, and there the path alone cannot tell whom a caller means.
func (a API) shared() []string {
	if a == Anthropic {
		return []string{"/v1/models", "/v1/models/"}
	}
	return nil
}

// A Secret is a value that is shown only where it is used. It may be another one at every look, and is not to be changed by
// who looks. Safe for concurrent use.
type Secret interface{ Reveal() []byte }

// A Route leads calls to one model API. Which route a call takes is decided by its path alone: the longest match wins.
type Route struct {
	Name string // stands in records; 1 to 64 of a-z, 0-9, '-', '.'
	API  API
	// Prefix is the path below which the route lies, "/" or "/name/". It must be given for HTTP; for the others it
	// goes before the API's own paths, and "" means "/".
	Prefix string
	// Upstream is the base URL: scheme, host, and a path that stands in for Prefix.
	Upstream *url.URL
	// Credential is sent upstream in Header after Scheme and a space; nil for none. A call shows what it is at that time.
	// An empty Header means what the API uses: Authorization with Bearer, or x-api-key.
	Credential     Secret
	Header, Scheme string
	// Mask masks what is written down of calls on this route; nil for nothing. The calls themselves it does not change.
	Mask *mask.Masker
	// Originals seals what was masked, as it was, to people outside; nil for nothing. It costs its length again.
	Originals *original.Sealer
	// MaskAnswers gives callers answers as they are written down, masked by Mask. An answer is then held until it is whole, and
	// a stream with it, whose caller hears nothing before its end: a value can lie in the last event as in the first.
	MaskAnswers bool
	// Forward and Return name further headers to pass to the model and back to the caller.
	Forward, Return []string

	looked *atomic.Pointer[forms] // of the credential, as it was at the last look; set by check
	counts *counts                // set by newNumbers
}

// Caller is a principal and one of its static keys.
type Caller struct {
	Name   string   // of the principal; stands in records
	Key    string   // the key's own name, where a principal has several
	SHA256 string   // hex SHA-256 of the key
	Routes []string // the names of the routes it may use; nil for all
	Groups []string // what rules know it by, and who asks for approvals
	Email  string   // by which it is known to be the same person when it logs in otherwise; "" for none
}

// callers finds a caller by the SHA-256 of the key it shows. That the look-up takes time that depends on the hash tells
// nobody anything: who knows how near a hash is to a known one knows nothing of the key.
type callers map[[sha256.Size]byte]*Principal

var _ Identifier = callers(nil)

func newCallers(list []Caller, rs routes) (callers, error) {
	cs := make(callers, len(list))
	for _, c := range list {
		sum, err := hex.DecodeString(c.SHA256)
		if err != nil || len(sum) != sha256.Size {
			return nil, fmt.Errorf("gateway: the key of caller %q is not 64 hex digits of SHA-256; make one with `tally keys new`", c.Name)
		}
		if c.Name == "" || !plainName(c.Name) {
			return nil, fmt.Errorf("gateway: the caller's name %q is empty, longer than %d bytes or has control characters", c.Name, maxCaller)
		}
		if !plainName(c.Key) {
			return nil, fmt.Errorf("gateway: the name %q of a key of caller %q is longer than %d bytes or has control characters", c.Key, c.Name, maxCaller)
		}
		for _, name := range c.Routes {
			if !slices.ContainsFunc(rs, func(m matcher) bool { return m.route.Name == name }) {
				return nil, fmt.Errorf("gateway: the caller %q may use the route %q, which there is none of", c.Name, name)
			}
		}
		if was := cs[[sha256.Size]byte(sum)]; was != nil {
			return nil, fmt.Errorf("gateway: the callers %q and %q have the same key", was.Name, c.Name)
		}
		cs[[sha256.Size]byte(sum)] = &Principal{Name: c.Name, How: ByKey, Key: c.Key, Routes: c.Routes, Groups: c.Groups, Email: c.Email}
	}
	return cs, nil
}

// maxCaller is the longest name of a caller or of a key, in bytes.
const maxCaller = 200

func plainName(s string) bool {
	return len(s) <= maxCaller && utf8.ValidString(s) && !strings.ContainsFunc(s, unicode.IsControl)
}

// routes are in order: the longer path first.
type routes []matcher

type matcher struct {
	path  string // exact, or a prefix if it ends in a slash
	route *Route
}

func newRoutes(list []Route) (routes, error) {
	if len(list) == 0 {
		return nil, errors.New("gateway: no route is configured")
	}
	var rs routes
	names := make(map[string]bool)
	list = slices.Clone(list) // what check fills in is not written into the caller's
	for i := range list {
		r := &list[i]
		if err := r.check(); err != nil {
			return nil, err
		}
		if names[r.Name] {
			return nil, fmt.Errorf("gateway: two routes are named %q", r.Name)
		}
		names[r.Name] = true
		paths := []string{r.Prefix}
		if r.API != HTTP {
			paths = nil
			for _, p := range r.API.endpoints() {
				paths = append(paths, strings.TrimSuffix(r.Prefix, "/")+p)
			}
		}
		for _, p := range paths {
			for _, m := range rs {
				if m.path == p {
					return nil, fmt.Errorf("gateway: the routes %q and %q both have the path %s; give one a prefix", m.route.Name, r.Name, p)
				}
			}
			rs = append(rs, matcher{p, r})
		}
	}
	for i := range list {
		r := &list[i]
		for _, p := range r.API.shared() {
			p = strings.TrimSuffix(r.Prefix, "/") + p
			if !slices.ContainsFunc(rs, func(m matcher) bool { return m.path == p }) {
				rs = append(rs, matcher{p, r})
			}
		}
	}
	slices.SortStableFunc(rs, func(a, b matcher) int { return len(b.path) - len(a.path) })
	return rs, nil
}

func (r *Route) check() error {
	if r.Name == "" || len(r.Name) > 64 || strings.ContainsFunc(r.Name, func(c rune) bool {
		return !('a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '-' || c == '.')
	}) {
		return fmt.Errorf("gateway: the route's name %q is not 1 to 64 of a-z, 0-9, '-', '.'", r.Name)
	}
	if r.MaskAnswers && r.Mask == nil {
		return fmt.Errorf("gateway: the route %q is to mask its answers, and has nothing to mask them by", r.Name)
	}
	if int(r.API) >= len(apiNames) {
		return fmt.Errorf("gateway: the route %q has no API", r.Name)
	}
	if r.Prefix == "" && r.API != HTTP {
		r.Prefix = "/"
	}
	if !isPrefix(r.Prefix) || strings.HasPrefix(r.Prefix, ownPrefix) {
		return fmt.Errorf("gateway: the route %q has the prefix %q; a prefix is / or /name/, of letters, digits and -._~, and not below %s", r.Name, r.Prefix, ownPrefix)
	}
	u := r.Upstream
	if u == nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" {
		return fmt.Errorf("gateway: the route %q needs an upstream such as https://api.example.com, without user, query or fragment", r.Name)
	}
	if r.Credential == nil && (r.Header != "" || r.Scheme != "") {
		return fmt.Errorf("gateway: the route %q says how to send a credential and has none", r.Name)
	}
	if r.Credential != nil {
		if err := CheckCredential(r.Credential.Reveal()); err != nil {
			return fmt.Errorf("route %q: %w", r.Name, err)
		}
		r.looked = new(atomic.Pointer[forms])
		if r.Header == "" {
			switch r.API {
			case Anthropic:
				r.Header = "X-Api-Key"
			default:
				r.Header, r.Scheme = "Authorization", "Bearer"
			}
		}
		if !isToken(r.Header) || slices.Contains(framing, strings.ToLower(r.Header)) {
			return fmt.Errorf("gateway: the route %q sends its credential in the header %q, which is not one that can hold it", r.Name, r.Header)
		}
		if r.Scheme != "" && !isToken(r.Scheme) {
			return fmt.Errorf("gateway: the route %q has the scheme %q; a scheme is a word such as Bearer", r.Name, r.Scheme)
		}
	}
	for _, h := range slices.Concat(r.Forward, r.Return) {
		if !isToken(h) {
			return fmt.Errorf("gateway: the route %q names the header %q, which is not a header's name", r.Name, h)
		}
		if l, ok := lower(h); !ok || l.in(never) {
			return fmt.Errorf("gateway: the route %q names the header %q, which never passes", r.Name, h)
		}
	}
	for _, h := range r.Forward {
		if strings.EqualFold(h, r.Header) {
			return fmt.Errorf("gateway: the route %q forwards the header %q, in which it sends its credential", r.Name, h)
		}
	}
	return nil
}

// framing are the headers that say how a request is read: they hold no credential.
var framing = []string{"host", "content-length", "content-type", "content-encoding", "transfer-encoding", "connection", "keep-alive", "te", "trailer", "upgrade", "expect", "accept-encoding", "user-agent"}

// isToken says whether s can name a header (RFC 9110 §5.6.2).
func isToken(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(c rune) bool {
		return c <= ' ' || c > '~' || strings.ContainsRune(`"(),/:;<=>?@[\]{}`, c)
	})
}

// isPrefix says whether a path that is read strictly can begin with s.
func isPrefix(s string) bool {
	if s == "/" {
		return true
	}
	if len(s) < 3 || s[0] != '/' || s[len(s)-1] != '/' {
		return false
	}
	for segment := range strings.SplitSeq(s[1:len(s)-1], "/") {
		if segment == "" || segment == "." || segment == ".." || strings.ContainsFunc(segment, func(c rune) bool {
			return !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.ContainsRune("-._~", c))
		}) {
			return false
		}
	}
	return true
}

// match returns the route of a path, or nil. path is the raw path of the target, without query.
func (rs routes) match(path string) *Route { return rs.find(path).route }

// find returns what matches a path; nothing does where it has no route.
func (rs routes) find(path string) matcher {
	for _, m := range rs {
		if path == m.path || (m.path[len(m.path)-1] == '/' && strings.HasPrefix(path, m.path)) {
			return m
		}
	}
	return matcher{}
}

// address returns where a call with that raw path and query goes: the upstream's base with the path behind the
// route's prefix, escaped as the caller escaped it.
func (r *Route) address(path, query string) (*url.URL, error) {
	rest := strings.TrimPrefix(path, strings.TrimSuffix(r.Prefix, "/"))
	raw := strings.TrimSuffix(r.Upstream.EscapedPath(), "/") + rest
	plain, err := url.PathUnescape(raw)
	if err != nil {
		return nil, fmt.Errorf("gateway: the path %q cannot be read: %w", path, err)
	}
	u := *r.Upstream
	u.Path, u.RawPath = plain, raw
	u.RawQuery = query
	return &u, nil
}
