package main

import (
	"encoding/json"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/record"
)

// asks makes the gateway of an apartment ask people about every call, and returns the key of one who decides.
func (a *apartment) asks(hold string) (key string) {
	a.t.Helper()
	stdout, stderr, code := a.tally("keys", "new", "carol")
	if code != 0 {
		a.t.Fatalf("%s", stderr)
	}
	b, err := os.ReadFile(filepath.Join(a.dir, "gw.yaml"))
	if err != nil {
		a.t.Fatal(err)
	}
	text := strings.Replace(string(b), "  callers:\n", fmt.Sprintf(`  policy: rules.yaml
  approvals: {groups: [approvers], within: 10m, hold: %s, again: 1s, shared: false}
  callers:
    - name: carol
      sha256: %s
      groups: [approvers]
`, hold, regexp.MustCompile(`[0-9a-f]{64}`).FindString(stdout)), 1)
	for name, text := range map[string]string{
		"gw.yaml": text,
		"rules.yaml": `otherwise: allow
rules:
  - name: needs-a-yes
    when: "request.messages.exists(m, m.size > 20)"
    then: ask
`,
	} {
		if err := os.WriteFile(filepath.Join(a.dir, name), []byte(text), 0o600); err != nil {
			a.t.Fatal(err)
		}
	}
	return regexp.MustCompile(`tk-\S+`).FindString(stdout)
}

// own calls the gateway's endpoint for approvals; 0 where nobody answers.
func (a *apartment) own(key, method, path, body string) (int, string) {
	req, err := http.NewRequest(method, a.vars["GATEWAY_URL"]+"/.tallystick/approvals"+path, strings.NewReader(body))
	if err != nil {
		a.t.Error(err)
		return 0, ""
	}
	req.Header.Set("Authorization", "Bearer "+key)
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, ""
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, ""
	}
	return resp.StatusCode, string(b)
}

// Gateway and log are killed in every state of approvals, while callers ask again until they get an answer and people decide.
// Nothing is sent to the model without a yes of its own, no yes is used twice, and a yes that was acknowledged is not asked for
// again.
func TestKilledAsking(t *testing.T) {
	kills := 5
	if s := os.Getenv("CRASHES"); s != "" {
		var err error
		if kills, err = strconv.Atoi(s); err != nil {
			t.Fatalf("CRASHES: %v", err)
		}
	}
	seed := uint64(time.Now().UnixNano())
	rnd := mathrand.New(mathrand.NewPCG(seed, 0))
	t.Logf("%d kills, seed %d", kills, seed)
	a := newApartment(t, false)
	carol := a.asks("300ms")
	a.log.start()
	a.gw.start()
	a.answers()

	var mu sync.Mutex
	done := map[string]int{}  // by prompt: the status of its last answer
	said := map[string]bool{} // approvals on which carol's yes was acknowledged
	noes := 0
	stop := make(chan struct{})
	stopped := func() bool {
		select {
		case <-stop:
			return true
		default:
			return false
		}
	}
	// Each caller sends one request after the other, each until it has an answer that is for good.
	var callers, approver sync.WaitGroup
	for n := range 6 {
		callers.Go(func() {
			client := &http.Client{Transport: &http.Transport{}, Timeout: 20 * time.Second}
			defer client.CloseIdleConnections()
			for i := 0; !stopped(); i++ {
				prompt := fmt.Sprintf("please do the thing number %d of %d", i, n)
				if i%5 == 4 {
					prompt = "deny " + prompt
				}
				body := fmt.Sprintf(`{"model":"fake-1","stream":%v,"messages":[{"role":"user","content":%q}]}`, i%3 == 1, "/say "+prompt)
				status := 0
				for deadline := time.Now().Add(2 * time.Minute); status != 200 && status != 403; {
					if time.Now().After(deadline) {
						t.Errorf("%q has no answer", prompt)
						return
					}
					status = a.send(client, body)
					time.Sleep(20 * time.Millisecond)
				}
				mu.Lock()
				done[prompt] = status
				mu.Unlock()
			}
		})
	}
	over := make(chan struct{})
	approver.Go(func() {
		for {
			select {
			case <-over:
				return
			case <-time.After(30 * time.Millisecond):
			}
			_, list := a.own(carol, "GET", "", "")
			var l struct{ Approvals []struct{ ID, State string } }
			json.Unmarshal([]byte(list), &l)
			for _, q := range l.Approvals {
				if q.State != "waiting" {
					continue
				}
				code, text := a.own(carol, "GET", "/"+q.ID, "")
				if code != 200 {
					continue
				}
				what := "approve"
				if strings.Contains(text, "deny please") {
					what = "deny"
				}
				if code, _ := a.own(carol, "POST", "/"+q.ID, fmt.Sprintf(`{"decision":%q,"reason":"as it says"}`, what)); code == 200 {
					mu.Lock()
					if what == "approve" {
						said[q.ID] = true
					} else {
						noes++
					}
					mu.Unlock()
				}
			}
		}
	})
	killed := map[string]int{}
	for range kills {
		time.Sleep(time.Duration(100+rnd.IntN(900)) * time.Millisecond)
		victims := [][]*running{{a.log}, {a.gw}, {a.gw}, {a.log, a.gw}}[rnd.IntN(4)]
		for _, v := range victims {
			v.kill()
			killed[v.config]++
		}
		time.Sleep(time.Duration(rnd.IntN(200)) * time.Millisecond)
		for _, v := range victims {
			v.start()
		}
		// A gateway that cannot read the log ends by itself, maybe only now, and whoever runs it starts it again.
		for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
			for _, r := range []*running{a.log, a.gw} {
				if r.ended() {
					killed[r.config+" by itself"]++
					r.start()
				}
			}
			if _, _, err := a.chat(http.DefaultClient, "are you there", false); err == nil {
				break
			}
			if time.Now().After(deadline) {
				a.answers() // says what is wrong
			}
		}
	}
	close(stop)
	callers.Wait()
	outcomes := a.settled()
	close(over)
	approver.Wait()

	// What the log says, by session.
	used, first := map[tlog.Hash]string{}, map[string]bool{}
	yes := map[tlog.Hash]string{}
	granted := map[string]bool{}
	a.entries(func(e record.Entry) {
		b, err := e.Append(nil)
		if err != nil {
			t.Fatal(err)
		}
		s := e.Session.String()
		switch {
		case e.Kind != record.Approval:
		case e.Reason == record.Granted:
			yes[tlog.HashLeaf(b)], granted[s] = s, true
		case e.Reason == record.Used:
			if yes[e.Grant] == "" {
				t.Errorf("the session %s uses a yes that is none", s)
			}
			if used[e.Grant] != "" {
				t.Errorf("the sessions %s and %s use one yes", used[e.Grant], s)
			}
			used[e.Grant], first[s] = s, true
		}
	})
	sent := 0
	for _, r := range a.model.Requests() {
		if strings.Contains(string(r.Body), "the thing number") {
			sent++
		}
		if strings.Contains(string(r.Body), "deny please") {
			t.Errorf("the model was sent what was denied: %s", r.Body)
		}
	}
	if sent > len(used) {
		t.Errorf("%d calls went to the model, and %d yeses were used", sent, len(used))
	}
	complete := 0
	for s, o := range outcomes {
		if o == record.Complete && first[s] {
			complete++
		}
	}
	for id := range said {
		if !granted[id] {
			t.Errorf("the yes to %s was acknowledged, and is not in the log", id)
		}
	}
	if unused := len(yes) - len(used); unused > 0 {
		t.Errorf("%d yeses were given and never used, though everybody asked until there was an answer", unused)
	}
	passed := 0
	for _, status := range done {
		if status == 200 {
			passed++
		}
	}
	out, errs, code := a.verify("log", "--url", a.vars["LOG_URL"], "--policy", a.vars["POLICY"])
	if code != 0 {
		t.Errorf("tally-verify log: exit %d\n%s%s", code, out, errs)
	}
	a.gw.stop()
	a.log.stop()
	t.Logf("killed: %v; %d calls passed, %d were denied; %d yeses, %d of them acknowledged, %d used; the model got %d calls; %d sessions",
		killed, passed, len(done)-passed, len(yes), len(said), len(used), sent, len(outcomes))
	if passed == 0 || len(done) == passed {
		t.Error("nothing passed, or nothing was denied: this run has shown nothing")
	}
}

// send makes one call and returns its status once its answer has come to its end; 0 where there is none.
func (a *apartment) send(client *http.Client, body string) int {
	req, err := http.NewRequest("POST", a.vars["GATEWAY_URL"]+"/v1/chat/completions", strings.NewReader(body))
	if err != nil {
		a.t.Error(err)
		return 0
	}
	req.Header.Set("Authorization", "Bearer "+a.vars["API_KEY"])
	req.Header.Set("Content-Type", "application/json")
	resp, err := client.Do(req)
	if err != nil {
		return 0
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	switch text := string(b); {
	case err != nil:
		return 0
	case strings.Contains(text, `"approval_denied"`):
		return http.StatusForbidden // in a stream, too
	case resp.StatusCode == 200 && strings.Contains(body, `"stream":true`) && !strings.Contains(text, "data: [DONE]"):
		return 0
	}
	return resp.StatusCode
}
