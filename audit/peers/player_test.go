package peers

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
)

// timeline is a page with the rows that the player finds, the microseconds of each.
func timeline(micros []int) string {
	var b strings.Builder
	b.WriteString(`<!doctype html><meta charset="utf-8"><title>player</title><script type="module" src="/static/player.js"></script>
<section id="timeline"><div id="player"></div><table id="events"><tbody>`)
	for i, at := range micros {
		badge := ""
		if i%10 == 9 {
			badge = `<span class="badge mask">masked</span>`
		}
		fmt.Fprintf(&b, `<tr id="e%d" data-at="%d"><td class="type">%s</td><td class="says">w%d </td></tr>`, i, at, badge, i)
	}
	b.WriteString(`</tbody></table></section>`)
	return b.String()
}

func playing(t *testing.T, micros []int) *tab {
	t.Helper()
	b := open(t)
	mux := http.NewServeMux()
	mux.Handle("GET /static/", http.StripPrefix("/static/", http.FileServerFS(static())))
	mux.HandleFunc("GET /favicon.ico", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte(timeline(micros))) })
	b.goTo(site(t, strict(mux)) + "/")
	b.until(`document.querySelector("#play")`)
	return b
}

// Every event is shown within ten milliseconds of its time, however many went before it.
func TestPlayerKeepsTime(t *testing.T) {
	dice := rand.New(rand.NewPCG(1, 1))
	var micros []int
	at := 0
	for range 300 {
		micros = append(micros, at)
		at += dice.IntN(10_000)
	}
	b := playing(t, micros)
	dues := strings.ReplaceAll(fmt.Sprint(micros), " ", ",")
	// A machine that does other things is late by itself, at times: by how much, timers tell that do nothing else and are due with
	// the events. A moment may come between the two; one that comes each time is not the reason.
	for try := range 6 {
		got := eval[struct{ Took, Bare float64 }](b, `new Promise((done) => {
			const began = performance.now(), play = document.querySelector("#play");
			let bare = 0;
			for (const due of `+dues+`) setTimeout(() => { bare = Math.max(bare, performance.now() - began - due / 1000); }, due / 1000);
			new MutationObserver((_, seen) => {
				if (play.textContent === "Play") {
					seen.disconnect();
					done({ Took: performance.now() - began, Bare: bare });
				}
			}).observe(play, { childList: true });
			play.click();
		})`)
		worst := eval[float64](b, `Number(document.querySelector("#player").dataset.late)`)
		events := eval[int](b, `Number(document.querySelector("#player").dataset.events)`)
		long := float64(micros[len(micros)-1]) / 1000
		t.Logf("%d events in %.1f ms, which took %.1f ms when they came; the latest was %.2f ms after its time, and of bare timers %.2f", events, got.Took, long, worst, got.Bare)
		if events != len(micros) {
			t.Fatalf("%d events were played of %d", events, len(micros))
		}
		if text := b.text("#playing"); !strings.HasPrefix(text, "w0 w1 w2 ") || !strings.HasSuffix(strings.TrimSpace(text), "w299") {
			t.Fatalf("it says %q", text)
		}
		if worst <= max(10, got.Bare+10) && got.Took >= long-1 && got.Took <= long+worst+30 {
			return
		}
		if try == 5 {
			t.Error("no try kept time within 10 ms")
		}
	}
}

// Everything is done by keys: begin, stop, step, jump to a mark, and to either end.
func TestPlayerByKeys(t *testing.T) {
	micros := make([]int, 50)
	for i := range micros {
		micros[i] = i * 1_000_000
	}
	micros[3], micros[4] = -1, -1 // not on record
	b := playing(t, micros)
	is := func(what, want string) {
		t.Helper()
		if got := b.text("#clock"); !strings.HasPrefix(got, want+" ") {
			t.Errorf("after %s: %q and not %q", what, got, want)
		}
	}
	press := func(keys string) { b.do(chromedp.KeyEvent(keys)) }
	is("nothing", "event 50")
	b.do(chromedp.Focus(chromedp.CSS("#play")))
	press(kb.Home)
	is("Home", "event 0")
	press(kb.ArrowRight)
	press(kb.ArrowRight)
	is("two steps", "event 2")
	press(kb.ArrowLeft)
	is("a step back", "event 1")
	if got := strings.TrimSpace(b.text("#playing")); got != "w0" {
		t.Errorf("after one event it says %q", got)
	}
	press("]")
	is("]", "event 10")
	press("]")
	is("]]", "event 20")
	press("[")
	is("[", "event 10")
	if eval[string](b, `document.querySelector("[aria-current]").id`) != "e9" {
		t.Error("the row of the event is not the current one")
	}
	press(" ")
	b.until(`document.querySelector("#play").textContent === "Pause"`)
	press(" ")
	b.until(`document.querySelector("#play").textContent === "Play"`)
	press(kb.End)
	is("End", "event 50")
	// With idle time left out and at the greatest speed, 49 seconds are over at once.
	b.do(chromedp.SetValue(chromedp.CSS("#speed"), "32"))
	eval[any](b, `(document.querySelector("#speed").dispatchEvent(new Event("change")), 0)`)
	b.do(chromedp.Click(chromedp.CSS("#idle")), chromedp.Click(chromedp.CSS("#play")))
	b.until(`document.querySelector("#player").dataset.events === "50"`)
}
