package export

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// hostile are bodies that would like to be something else than a body.
var hostile = []string{
	"",
	`{"model":"m"}`,
	`'; touch owned; '`,
	"$(touch owned)`touch owned`\"${HOME}\" \\ \\' !! !1 #",
	"@/etc/passwd",
	"a\nEND\nb\n",
	"line\r\nline\ttab",
	"\x00\x01\xff\xfe\x1b[2J",
	"\u202eevil\u200b⟦CARD:q7k3⟧ 漢字",
	strings.Repeat("long ", 40_000),
	"-",
	"%s%n",
	"END",
}

func hostileCall(body string) call {
	return call{
		method: "POST", target: "/v1/chat/completions?q='$(touch%20owned)'&[a]={b}", body: body, status: 200,
		headers: [][2]string{
			{"Host", "x"}, {"Content-Type", "application/json"}, {"Authorization", "(left out)"}, {"Cookie", "(left out)"},
			{"X-Quote", `it's $HOME "and" ` + "`id`" + ` \`}, {"X-Empty", ""}, {"X-Wide", "⟦IP:abc⟧"}, {"X-Bell", "a\x07b"}, {"@file", "x"}, {"X Space", "x"},
			{"Content-Length", "7"}, {"Accept-Encoding", "gzip"}, {"Connection", "close"},
		},
	}
}

// What the command sends is what was recorded, whatever that is: with curl itself where it is installed.
func TestCURL(t *testing.T) {
	if _, err := exec.LookPath("curl"); err != nil {
		t.Skip("curl is not installed; see TestCURLWords")
	}
	type got struct {
		method, uri string
		header      http.Header
		body        []byte
	}
	seen := make(chan got, 1)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		seen <- got{r.Method, r.RequestURI, r.Header, b}
	}))
	defer srv.Close()
	for i, body := range hostile {
		dir := t.TempDir()
		script := as(t, CURL, bundleOf(t, hostileCall(body)))
		cmd := exec.Command("sh", "-c", string(script))
		if len(script) > 100<<10 {
			cmd = exec.Command("sh")
			cmd.Stdin = bytes.NewReader(script) // more than one argument can be
		}
		cmd.Dir, cmd.Env = dir, append(os.Environ(), "KEY=secret", "BASE="+srv.URL, "http_proxy=", "HTTP_PROXY=", "HOME="+dir)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("body %d: %v: %s\n%s", i, err, out, script)
		}
		g := <-seen
		if g.method != "POST" || g.uri != "/v1/chat/completions?q='$(touch%20owned)'&[a]=%7Bb%7D" || string(g.body) != body {
			t.Errorf("body %d: %s %s %.200q", i, g.method, g.uri, g.body)
		}
		for name, want := range map[string][]string{
			"Authorization": {"Bearer secret"}, "Content-Type": {"application/json"}, "X-Quote": {`it's $HOME "and" ` + "`id`" + ` \`}, "X-Empty": {""},
			"X-Wide": {"⟦IP:abc⟧"}, "X-Bell": nil, "Cookie": nil, "User-Agent": nil, "Accept": nil, "Accept-Encoding": nil,
		} {
			if fmt.Sprint(g.header.Values(name)) != fmt.Sprint(want) && (want != nil || g.header.Get(name) != "") {
				t.Errorf("body %d: %s: %q, not %q", i, name, g.header.Values(name), want)
			}
		}
		if left, _ := os.ReadDir(dir); len(left) > 0 {
			t.Errorf("body %d: the shell did something else: %v", i, left)
		}
		if strings.Contains(string(script), "\x1b") || strings.Contains(string(script), "\u202e") || bytes.ContainsAny(script, "\x00\t\r") {
			t.Errorf("body %d: the command steers the terminal that it is pasted into", i)
		}
	}
}

// The same with a stand-in for curl that says which words it was given, and a shell alone.
func TestCURLWords(t *testing.T) {
	sh, err := exec.LookPath("sh")
	if err != nil {
		t.Skip("there is no shell")
	}
	bin := t.TempDir()
	stand := "#!" + sh + "\nfor a in \"$@\"; do printf '%s\\0' \"$a\"; done\n"
	if err := os.WriteFile(filepath.Join(bin, "curl"), []byte(stand), 0o700); err != nil {
		t.Fatal(err)
	}
	for i, body := range hostile {
		if len(body) > mostArgument || !printable(body) {
			continue // that is what base64 and curl are for
		}
		dir := t.TempDir()
		cmd := exec.Command(sh, "-c", string(as(t, CURL, bundleOf(t, hostileCall(body)))))
		cmd.Dir, cmd.Env = dir, []string{"PATH=" + bin, "KEY=k$(touch owned)", "HOME=" + dir}
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("body %d: %v", i, err)
		}
		words := strings.Split(strings.TrimSuffix(string(out), "\x00"), "\x00")
		want := []string{
			"--request", "POST", "--globoff", "--path-as-is", "--url", "https://api.example.com/v1/chat/completions?q='$(touch%20owned)'&[a]=%7Bb%7D",
			"--header", "Content-Type: application/json", "--header", "Authorization: Bearer k$(touch owned)",
			"--header", `X-Quote: it's $HOME "and" ` + "`id`" + ` \`, "--header", "X-Empty;", "--header", "X-Wide: ⟦IP:abc⟧", "--header", "Accept:", "--header", "User-Agent:",
		}
		if body != "" {
			want = append(want, "--data-raw", body)
		}
		if fmt.Sprintf("%q", words) != fmt.Sprintf("%q", want) {
			t.Errorf("body %d:\n%q\nwant\n%q", i, words, want)
		}
		if left, _ := os.ReadDir(dir); len(left) > 0 {
			t.Errorf("body %d: the shell did something else: %v", i, left)
		}
	}
}

func TestCURLOthers(t *testing.T) {
	for _, c := range []struct {
		call
		want, not string
	}{
		{call{method: "HEAD", target: "/x"}, "curl \\\n  --head \\\n", "--request"},
		{call{method: "GET", target: "//evil/../x y"}, `"${BASE:-https://api.example.com}"'//evil/../x%20y'`, "--data"},
		{call{method: "GET", target: "/x", more: map[string]string{"upstream": `https://h";touch owned;".example`}}, `"${BASE:-http://gateway.invalid}"'/x'`, "owned"},
		{call{method: "GET", target: "/x", more: map[string]string{"upstream": `https://h";owned;".example`}}, `"${BASE:-http://gateway.invalid}"'/x'`, "owned"},
		{call{method: "GET", target: "/x", more: map[string]string{"upstream": `https://h$(owned).example`}}, `"${BASE:-http://gateway.invalid}"'/x'`, "owned"},
		{call{method: "GET", target: "/x", more: map[string]string{"upstream": "https://h.example/a$(b)"}}, `"${BASE:-http://gateway.invalid}"`, "$(b)"},
		{call{method: "GET", target: "/x", headers: [][2]string{{"Host", "evil.example"}, {"Authorization", "(left out)"}}, more: map[string]string{"upstream": "-"}}, `"${BASE:-http://gateway.invalid}"'/x'`, "evil"},
		{call{method: "GET", target: "/p/v1/models", more: map[string]string{"upstream": "https://h.example/base/"}}, `"${BASE:-https://h.example/base}"`, "owned"},
		{call{method: "GET", target: "/x", headers: [][2]string{{"X-Api-Key", "(left out)"}}}, `--header "x-api-key: $KEY"`, "(left out)"},
		{call{method: "POST", target: "/v1/messages", body: `{"stream":true,"messages":[]}`}, "--no-buffer", "--include"},
	} {
		b := string(as(t, CURL, bundleOf(t, c.call)))
		if !strings.Contains(b, c.want) || strings.Contains(b, c.not) {
			t.Errorf("%s\nwants %q and not %q", b, c.want, c.not)
		}
	}
	if _, _, _, err := As(CURL, bundleOf(t, call{}), About{}); err == nil {
		t.Error("a command is made of a session that does not say what it asked")
	}
}

// Whatever a caller sends, the forms can be read by whom they are for, and none of them breaks.
func FuzzForms(f *testing.F) {
	for _, b := range hostile {
		f.Add("POST", "/v1/chat/completions", "X-A", "b", b, b, "fake-1")
	}
	c := chatStream()
	f.Add(c.method, c.target, "Content-Type", "application/json", c.body, c.answer, "=1")
	m, r := message(), response()
	f.Add(m.method, m.target, "Content-Type", "application/json", m.body, m.answer, "+1")
	f.Add(r.method, r.target, "@x", "a\nb", r.body, r.answer, "\x1b[2J")
	f.Fuzz(func(t *testing.T, method, target, name, value, body, answer, model string) {
		raw := bundleOf(t, call{
			method: method, target: target, headers: [][2]string{{name, value}}, body: body, status: 200, answer: answer,
			answerHeaders: [][2]string{{"Content-Type", "text/event-stream"}}, more: map[string]string{"model": model},
		})
		for _, format := range Formats() {
			if format == Certificate {
				continue
			}
			_, _, b, err := As(format, raw, About{})
			if err != nil {
				if format == CURL && method == "" {
					continue
				}
				t.Fatalf("%s: %v", format, err)
			}
			switch format {
			case HAR:
				if !json.Valid(b) {
					t.Errorf("not JSON: %q", b)
				}
			case JSONL, JSONLAnthropic:
				if bytes.Count(b, []byte("\n")) != 1 || !json.Valid(b) {
					t.Errorf("not a line of JSON: %q", b)
				}
			case Cast:
				_, frames := readCast(t, b)
				for _, f := range frames {
					for _, r := range strings.NewReplacer(dim, "", plane, "").Replace(f[2].(string)) {
						if r < ' ' && r != '\r' && r != '\n' && r != '\t' || 0x7f <= r && r < 0xa0 {
							t.Errorf("%q steers the terminal: %q", r, f)
						}
					}
				}
			case CURL:
				if !printable(strings.ReplaceAll(string(b), "\n", "")) {
					t.Errorf("%q cannot be pasted", b)
				}
			}
		}
	})
}
