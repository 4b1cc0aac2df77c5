package main

import (
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/tallystick/tallystick/tlog/record"
)

// The demo's console shows what the demo did, to anybody on this machine and to nobody's page elsewhere, as one person after another;
// the call that waits is there to be decided about, and nobody decides about his own.
func TestDemoConsole(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	p.start()
	at := p.vars["CONSOLE_URL"]
	await(t, "the demo says where it is", func() bool { // through a pipe
		said := p.out.String()
		return at != "" && strings.Contains(said, "Open "+at+"/") && strings.Contains(said, "Anybody on this machine is let in")
	})
	jar, _ := cookiejar.New(nil)
	c := &http.Client{Jar: jar, Timeout: time.Minute}
	do := func(method, path string, form url.Values, lines ...string) (int, string) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, at+path, strings.NewReader(form.Encode()))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		for _, l := range lines {
			name, value, _ := strings.Cut(l, ": ")
			if req.Header.Set(name, value); name == "Host" {
				req.Host = value
			}
		}
		resp, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(b)
	}
	get := func(path string) string {
		t.Helper()
		_, page := do("GET", path, nil)
		return page
	}

	var card string
	await(t, "the sessions are on the page", func() bool {
		page, all := get("/"), p.outcomes()
		for id, o := range all {
			if !strings.Contains(page, id) {
				return false
			}
			if o == record.Complete {
				card = id
			}
		}
		return len(all) > len(samples())-1 && card != "" && strings.Contains(page, ">ada<") && strings.Contains(page, "A demonstration: anybody on this machine is let in.")
	})
	if status, page := do("GET", "/sessions/"+card, nil); status != http.StatusPreconditionRequired || !strings.Contains(page, `value="looking at the demo"`) {
		t.Errorf("%d %s", status, mainOf(page))
	}
	if status, page := do("POST", "/reason", url.Values{"reason": {"looking at the demo"}, "back": {"/sessions/" + card}}); status != http.StatusOK || !strings.Contains(page, card) {
		t.Errorf("%d %s", status, mainOf(page))
	}
	var waiting string
	await(t, "the refund waits", func() bool {
		_, rest, ok := strings.Cut(get("/approvals"), `href="/approvals/`)
		waiting, _, _ = strings.Cut(rest, `"`)
		return ok
	})
	if page := get("/approvals/" + waiting); !strings.Contains(page, "59.90") || !strings.Contains(page, ">support<") {
		t.Errorf("%s", mainOf(page))
	}
	if status, page := do("POST", "/approvals/"+waiting, url.Values{"decision": {"approve"}}); status != http.StatusOK || !strings.Contains(page, "Your word is on record: yes") {
		t.Errorf("%d %s", status, mainOf(page))
	}

	// Somebody else is somebody with less to see.
	if status, page := do("POST", "/login/", url.Values{"persona": {"demo"}}); status != http.StatusOK || !strings.Contains(page, ">demo<") {
		t.Errorf("%d %s", status, page)
	}
	for path, want := range map[string]int{"/approvals": http.StatusOK, "/trail": http.StatusForbidden, "/settings": http.StatusForbidden} {
		if status, page := do("GET", path, nil); status != want {
			t.Errorf("%s: %d %s", path, status, mainOf(page))
		}
	}
	if status, page := do("POST", "/logout", nil); status != http.StatusOK || !strings.Contains(page, "Who to be") || strings.Count(page, `name="persona"`) != len(demoPersonas) {
		t.Errorf("%d %s", status, page)
	}
	if page := get("/me"); !strings.Contains(page, ">ada<") {
		t.Errorf("%s", mainOf(page))
	}

	// A page elsewhere is not let in, by whatever name it knows this machine.
	_, port, _ := strings.Cut(strings.TrimPrefix(at, "http://"), ":")
	for _, lines := range [][]string{
		{"Host: evil.example"}, {"Host: evil.example:" + port}, {"Host: 127.0.0.1"}, {"Host: 127.0.0.1.nip.example:" + port},
	} {
		if status, page := do("GET", "/", nil, lines...); status != http.StatusMisdirectedRequest || strings.Contains(page, "ada") {
			t.Errorf("%q: %d %s", lines, status, page)
		}
	}
	for _, path := range []string{"/login/", "/logout", "/reason", "/approvals/" + waiting} {
		if status, page := do("POST", path, url.Values{"persona": {"adam"}, "reason": {"evil"}, "decision": {"deny"}}, "Origin: https://evil.example", "Sec-Fetch-Site: cross-site"); status != http.StatusForbidden {
			t.Errorf("%s: %d %s", path, status, page)
		}
	}
	if page := get("/me"); !strings.Contains(page, ">ada<") || strings.Contains(page, "evil") {
		t.Errorf("%s", mainOf(page))
	}
	if status, page := do("GET", "/", nil, "Host: localhost:"+port); status != http.StatusOK || !strings.Contains(page, ">ada<") {
		t.Errorf("%d %s", status, page)
	}
	p.stop()

	// Elsewhere than on this machine it does not listen.
	if _, errs, code := p.tally("demo", "--data", p.data, "--gateway", "127.0.0.1:0", "--log", "127.0.0.1:0", "--console", "0.0.0.0:0", "--no-samples"); code == 0 || !strings.Contains(errs, "loopback") {
		t.Errorf("exit %d: %s", code, errs)
	}
}
