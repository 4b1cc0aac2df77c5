package login

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/tallystick/tallystick/gateway"
	"github.com/tallystick/tallystick/gateway/token"
)

// Whatever is asked, by whatever cookie: nobody gets a session or a token who did not log in, no page has markup of the
// asker's, and every answer says that it is to be kept nowhere.
func FuzzServePage(f *testing.F) {
	store, err := token.Open(f.TempDir(), nil)
	if err != nil {
		f.Fatal(err)
	}
	p, err := New(Config{Public: "https://gateway.example", Tokens: store, Providers: []Provider{&door{}}})
	if err != nil {
		f.Fatal(err)
	}
	value, session, err := store.Mint(&gateway.Principal{Name: "door:alice"}, token.Session, "browser", time.Hour)
	if err != nil {
		f.Fatal(err)
	}
	for _, seed := range []struct {
		post         bool
		target, body string
	}{
		{false, Path + "?code=BCDF-GHJK", ""}, {false, Path + "/start?provider=door&code=x", ""}, {false, BackPath + "?state=a&who=b", ""},
		{true, SAMLPath, "SAMLResponse=PHg%2BPC94Pg&RelayState=%22%3E%3Cscript%3E"}, {true, DevicePath, "name=laptop"}, {true, TokenPath, "device_code=x"},
		{true, Path + "/confirm", "code=BCDFGHJK&decision=yes&word=" + p.word(session, "confirm BCDFGHJK")}, {true, Path + "/revoke", "id=" + session.ID}, {false, TokensPath, ""},
		{true, Path + "/out", "word=%zz"}, {false, SAMLPath + "/door", ""}, {false, "/.tallystick/login/../x", ""},
	} {
		f.Add(seed.post, seed.target, seed.body, value)
		f.Add(seed.post, seed.target, seed.body, "")
	}
	f.Fuzz(func(t *testing.T, post bool, target, body, cookie string) {
		method := http.MethodGet
		if post {
			method = http.MethodPost
		}
		r, err := http.NewRequest(method, "https://gateway.example", strings.NewReader(body))
		if err != nil {
			return
		}
		if r.URL, err = r.URL.Parse(target); err != nil || !strings.HasPrefix(r.URL.Path, "/") {
			return
		}
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		r.AddCookie(&http.Cookie{Name: "__Host-" + sessionCookie, Value: cookie})
		r.RemoteAddr = "192.0.2.1:1"
		had := len(store.List())
		rec := httptest.NewRecorder()
		p.ServePage(rec, r, nil, func(who *gateway.Principal, why, what string) error {
			if cookie != value {
				t.Errorf("nobody leaves something on record: %s %s %s", who.Name, why, what)
			}
			return nil
		})
		if n := len(store.List()); n > had || n < had && cookie != value {
			t.Fatalf("%d tokens became %d", had, n)
		}
		page := rec.Body.String()
		if c := rec.Header().Get("Cache-Control"); c != "no-store" && r.URL.Path != Path+"/style.css" {
			t.Errorf("it may be kept: %q", c)
		}
		if strings.HasPrefix(rec.Header().Get("Content-Type"), "text/html") {
			scripts := 0
			if r.URL.Path == SAMLPath {
				scripts = 1
			}
			if n := strings.Count(strings.ToLower(page), "<script"); n > scripts {
				t.Errorf("%d scripts: %s", n, page)
			}
		}
		if strings.Contains(page, "signed in as") && cookie != value {
			t.Errorf("nobody is somebody: %s", page)
		}
	})
}
