package peers

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
)

// An analyst hears that a card number leaked, and finds in the console the session, its caller, how it went, and hands over proof.
func TestAnalystInTheConsole(t *testing.T) {
	d := theDemo(t)
	const card = "4000 0566 5566 5556"
	session := d.mustAsk(t, map[string]string{"Fake-Model": "/slow 5ms /events 12"},
		chat{Model: d.env["MODEL"], Stream: true, Messages: []message{{"user", "Refund " + card + " at once, please."}}})
	p := d.as(t, "audrey", "")
	// Nothing is shown before she has said why she looks.
	p.visit("/search")
	p.until(`document.querySelector("h1").textContent === "Why are you looking?"`)
	p.fill(`input[name="reason"]`, "Case 4711: a card number leaked")
	p.submit(`form[action="/reason"] button`)
	// The number is typed in, and stands in no address. The index follows the log.
	for deadline := time.Now().Add(patience); ; time.Sleep(200 * time.Millisecond) {
		p.visit("/search")
		p.do(chromedp.Click(chromedp.CSS("details.value summary")))
		p.fill("#value", card)
		p.submit("details.value button")
		if eval[bool](p.tab, fmt.Sprintf(`document.querySelector('a[href="/sessions/%s"]') !== null`, session)) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the card is not found:\n%s", p.text("main"))
		}
	}
	if at := eval[string](p.tab, "location.href"); at != p.base+"/search" {
		t.Errorf("the value is searched at %s", at)
	}
	p.shot("search")
	p.submit(`a.open[href="/sessions/` + session + `"]`)
	if facts := p.text("#facts"); !strings.Contains(facts, "demo") {
		t.Errorf("the session does not name its caller: %s", facts)
	}
	page := eval[string](p.tab, "document.documentElement.outerHTML")
	if strings.Contains(page, card) || strings.Contains(page, strings.ReplaceAll(card, " ", "")) || !strings.Contains(page, "CARD:") {
		t.Error("the page of the session shows the card number, or no mask of it")
	}
	// Its timeline plays.
	events := eval[int](p.tab, `document.querySelectorAll("#events tbody tr").length`)
	if events < 12 {
		t.Fatalf("the timeline has %d events", events)
	}
	p.do(chromedp.Click(chromedp.CSS("#play")))
	p.until(fmt.Sprintf(`document.querySelector("#player").dataset.events === "%d"`, events))
	t.Log(p.text("#late"))
	// The browser itself says that it holds.
	p.do(chromedp.Click(chromedp.CSS("#check")))
	p.until(`document.querySelector("#verdict").textContent.includes("trust on first use")`)
	p.do(chromedp.Click(chromedp.CSS("#pin-served")))
	p.until(`document.querySelector("#pinned")`)
	p.do(chromedp.Click(chromedp.CSS("#check")))
	p.until(`document.querySelector("#verdict").textContent === "Everything in this bundle holds under the policy you pinned."`)
	p.shot("session")
	// And so does tally-verify of what she takes along.
	file := p.download(`form[action="/sessions/` + session + `/export"] button`)
	if out, code := d.run(t, "tally-verify", "bundle", file, "--policy", d.env["POLICY"]); code != 0 || !strings.Contains(out, session) {
		t.Errorf("tally-verify: %d\n%s", code, out)
	}
}

// The same on the command line: found, looked at, played back, handed over, and believed by somebody who believes nobody.
func TestAnalystOnTheCommandLine(t *testing.T) {
	d := theDemo(t)
	const card = "4242 4242 4242 4242"
	session := d.mustAsk(t, map[string]string{"Fake-Model": "/slow 2ms /events 12"},
		chat{Model: d.env["MODEL"], Stream: true, Messages: []message{{"user", "Charge " + card + " once more."}}})
	log := []string{"--data", filepath.Join(d.dir, "data"), "--as", "audrey", "--reason", "case 4711: a card number leaked"}
	do := func(command string, args ...string) string {
		t.Helper()
		out, code := d.run(t, "tally", append(append([]string{command}, args...), log...)...)
		if code != 0 {
			t.Fatalf("tally %s: %d\n%s", command, code, out)
		}
		if strings.Contains(out, card) || strings.Contains(out, strings.ReplaceAll(card, " ", "")) {
			t.Errorf("tally %s shows the card number", command)
		}
		return out
	}
	for deadline := time.Now().Add(patience); ; time.Sleep(200 * time.Millisecond) {
		if out := do("search", `value:"`+card+`"`); strings.Contains(out, session) {
			break
		} else if time.Now().After(deadline) {
			t.Fatalf("the card is not found:\n%s", out)
		}
	}
	if out := do("show", session); !strings.Contains(out, "demo") || !strings.Contains(out, "CARD:") {
		t.Errorf("tally show names no caller, or no mask:\n%s", out)
	}
	if out := do("replay", session, "--speed", "4", "--timing"); !strings.Contains(out, "CARD:") {
		t.Errorf("tally replay does not say what was asked:\n%s", out)
	}
	file := filepath.Join(t.TempDir(), "session.bundle")
	do("export", session, "-o", file)
	if out, code := d.run(t, "tally-verify", "bundle", file, "--policy", d.env["POLICY"]); code != 0 || !strings.Contains(out, session) {
		t.Errorf("tally-verify: %d\n%s", code, out)
	}
	// Who looked, and why, is on record.
	p := d.as(t, "audrey", "who read it")
	p.visit("/trail")
	if trail := p.text("main"); strings.Count(trail, "case 4711: a card number leaked") < 3 {
		t.Errorf("the trail does not have her readings:\n%s", trail)
	}
}
