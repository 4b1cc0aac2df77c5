package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"unicode"

	"github.com/tallystick/tallystick/gateway"
	"github.com/tallystick/tallystick/tlog/record"
)

// A session is shown and played back, from a running log and from a closed one: what was asked and answered, masked as it is on record,
// with nothing in it that a terminal obeys, whoever wrote it; and each look is on record.
func TestShowAndReplay(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	p.start("--no-samples")
	run := func(args ...string) string {
		t.Helper()
		stdout, stderr, code := p.tally(append(args, "--data", p.data)...)
		if code != 0 {
			t.Fatalf("tally %s: exit %d: %s", strings.Join(args, " "), code, stderr)
		}
		for i, r := range stdout {
			if r != '\n' && (unicode.IsControl(r) || unicode.Is(unicode.Cf, r)) {
				t.Fatalf("tally %s prints %U at %d", strings.Join(args, " "), r, i)
			}
		}
		return stdout + stderr
	}
	has := func(text string, wants ...string) {
		t.Helper()
		for _, want := range wants {
			if !strings.Contains(text, want) {
				t.Errorf("%q is not in\n%s", want, text)
			}
		}
	}
	hostile := "\u202e\x1b[2Jhello \x1b]0;title\x07 4111 1111 1111 1111"
	call := func(path, prompt string, stream bool) (session string) {
		t.Helper()
		body, err := json.Marshal(map[string]any{"model": "fake-1", "stream": stream, "messages": []any{map[string]string{"role": "user", "content": prompt}}})
		if err != nil {
			t.Fatal(err)
		}
		req, err := p.request(t.Context(), path, string(body))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		io.Copy(io.Discard, resp.Body)
		return resp.Header.Get(gateway.SessionHeader)
	}
	streamed := call("/v1/chat/completions", "/say "+hostile+" there\nand here", true)
	whole := call("/v1/chat/completions", "What is a tally stick?", false)
	turned := call("/v1/nothing", "", false)

	card := regexp.MustCompile(`⟦CARD:[a-z2-7]{20}⟧`)
	shown := run("show", streamed, "--reason", "a complaint")
	has(shown, "caller    demo by key", "call      POST /v1/chat/completions, as a stream", "model     fake-1", "outcome   complete; finish stop",
		"in the request: CARD 1", `\u202e\x1b[2Jhello \x1b]0;title\a ⟦CARD:`, " there\n  and here", "request ", "response  complete")
	if masks := card.FindAllString(shown, -1); len(masks) != 2 || masks[0] != masks[1] {
		t.Errorf("in prompt and answer there is no mask, or not the same:\n%s", shown)
	}
	has(run("show", "--wire", streamed), "Authorization: (left out)", `"content":"/say`, "status 200", "event 1, chat.completion.chunk, ", ", masked", "[DONE]")
	played := run("replay", streamed, "--speed", "50", "--timing")
	has(played, "0.000000  request  demo asks fake-1", "sent     to http://127.0.0.1", "begins: status 200", "text ", "complete; finish stop", "events were played")
	has(run("replay", whole, "--no-delay"), "text     You wrote: What is a tally stick?", "tokens in")
	has(run("replay", "--no-delay", turned), "end      refused: unknown_route; nothing was sent to the model; status 404")
	has(run("show", whole, "--log", p.vars["LOG_URL"]), "You wrote: What is a tally stick?")
	await(t, "all looks are on record", func() bool {
		looks := make(map[string]int)
		p.entries(func(e record.Entry) {
			if e.Kind == record.Access {
				looks[e.Session.String()]++
			}
		})
		return looks[streamed] >= 3 && looks[whole] >= 2 && looks[turned] >= 1 // more, where it was not published yet and was asked for again
	})

	// Step by step: as many moments as there are lines, and no more after a q.
	step := p.command("replay", streamed, "--step", "--data", p.data)
	step.Stdin = strings.NewReader("\n\nq\n\n\n")
	out, err := step.Output()
	if err != nil {
		t.Fatal(err)
	}
	has(string(out), "request ", "answer   begins")
	if strings.Contains(string(out), "text ") {
		t.Errorf("it went on after a q:\n%s", out)
	}

	var parsed struct {
		Session string
		Model   string
		Times   struct {
			First int64 `json:"first_us"`
		}
		Events []struct {
			At  *int64 `json:"at_us"`
			Raw string
		}
		Replies []struct{ Parts []struct{ Text string } }
		Entries []struct{ Kind string }
	}
	raw := run("show", "--json", streamed)
	if err := json.Unmarshal([]byte(raw), &parsed); err != nil || strings.Count(raw, "\n") != 1 {
		t.Fatalf("%v: %s", err, raw)
	}
	if parsed.Session != streamed || parsed.Model != "fake-1" || parsed.Times.First <= 0 || len(parsed.Events) < 3 || parsed.Events[0].At == nil || len(parsed.Entries) != 2 || len(parsed.Replies) != 1 || !card.MatchString(parsed.Replies[0].Parts[0].Text) {
		t.Errorf("%s", raw)
	}

	run("erase", whole, "--reason", "she asked", "--basis", "Art. 17", "--as", "bob")
	await(t, "the erasure is published", func() bool { return strings.Contains(run("show", whole), "erased ") })
	has(run("show", whole), " by bob: she asked; on the ground of Art. 17", "not here", "erasure")
	has(run("replay", whole), "request  who asked what is erased", "end      complete")

	p.stop()
	has(run("show", streamed, "--reason", "a complaint"), "outcome   complete; finish stop", "there\n  and here")
	has(run("replay", streamed, "--speed", "50"), "text ", "complete; finish stop")
	for _, args := range [][]string{
		{"show", "x"}, {"show", streamed, "--json", "--wire"}, {"replay", streamed, "--speed", "NaN"}, {"replay", streamed, "--idle-limit", "-1s"},
	} {
		if _, stderr, code := p.tally(append(args, "--data", p.data)...); code != 64 || stderr == "" {
			t.Errorf("tally %q: exit %d: %s", args, code, stderr)
		}
	}
	nobody := "0198f2c1-667b-7728-960c-f5ec8c385e21"
	for _, command := range []string{"show", "replay"} {
		if _, stderr, code := p.tally(command, nobody, "--data", p.data); code != 1 || !strings.Contains(stderr, "no such session") {
			t.Errorf("%s of a session that is not there: exit %d: %s", command, code, stderr)
		}
	}
}

// A call that waits for somebody's yes is shown while it waits, and played back with the wait when it has ended.
func TestShowWhileItWaits(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	p.start("--no-samples")
	answered := make(chan string, 1)
	go func() {
		req, err := p.request(t.Context(), "/v1/chat/completions", fmt.Sprintf(`{"model":%q,"messages":[{"role":"user","content":"Pay everybody."}]}`, askedModel))
		if err == nil {
			var resp *http.Response
			if resp, err = http.DefaultClient.Do(req); err == nil {
				io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
			}
		}
		answered <- fmt.Sprint(err)
	}()
	var id string
	approver := []string{"--gateway", p.vars["GATEWAY_URL"], "--key-file", filepath.Join(p.data, approverFile)}
	await(t, "somebody is asked", func() bool {
		stdout, _, _ := p.tally(append([]string{"approvals"}, approver...)...)
		id = regexp.MustCompile(`(?m)^[0-9a-f-]{36}`).FindString(stdout)
		return id != ""
	})
	shown, stderr, code := p.tally("show", id, "--data", p.data)
	if code != 0 || !strings.Contains(shown, "it has not ended") || !strings.Contains(shown, "approval  it waits") || !strings.Contains(shown, "Pay everybody.") || !strings.Contains(shown, "by the rule risky-model") {
		t.Fatalf("exit %d: %s%s", code, stderr, shown)
	}
	if _, stderr, code := p.tally(append([]string{"deny", id, "--reason", "not today"}, approver...)...); code != 0 {
		t.Fatalf("deny: exit %d: %s", code, stderr)
	}
	if err := <-answered; err != "<nil>" {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"show", id}, {"replay", id, "--idle-limit", "100ms"}} {
		await(t, "its end is published", func() bool {
			shown, stderr, code = p.tally(append(args, "--data", p.data)...)
			return code == 0 && !strings.Contains(shown, "it has not ended")
		})
		if !strings.Contains(shown, "approver says no: not today") || !strings.Contains(shown, "denied: nothing was sent to the model") {
			t.Errorf("%s: %s", args[0], shown)
		}
	}
}
