package peers

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/anthropics/anthropic-sdk-go"
	anthropicoption "github.com/anthropics/anthropic-sdk-go/option"
	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"

	"github.com/tallystick/tallystick/audit"
	"github.com/tallystick/tallystick/gateway"
	"github.com/tallystick/tallystick/gateway/cel"
	"github.com/tallystick/tallystick/gateway/gatewaytest"
	"github.com/tallystick/tallystick/keys/ring"
	"github.com/tallystick/tallystick/tlog/record"
	"github.com/tallystick/tallystick/verify"
)

const approverKey = "tk-test-key-of-the-approver"

const rules = `
otherwise: allow
rules:
  - name: needs-a-yes
    when: "true"
    then: ask
    message: every call needs a yes here
    approval:
      groups: [approvers]
      within: %s
`

// readOnly are keys that nobody seals anew.
type readOnly struct{ ring.ByName }

func (readOnly) Rewrap(context.Context) (string, error) { return "", errors.ErrUnsupported }

// An approver decides at a gateway, as people do: he looks, and then says what he says.
type approver struct {
	t    *testing.T
	base string
}

func (a *approver) do(method, path, body string) (int, []byte) {
	a.t.Helper()
	req, err := http.NewRequest(method, a.base+"/.tallystick/"+path, strings.NewReader(body))
	if err != nil {
		a.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+approverKey)
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		a.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		a.t.Fatal(err)
	}
	return resp.StatusCode, b
}

// decide awaits a question and decides, after pause.
func (a *approver) decide(what string, pause time.Duration) (id string) {
	a.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		var l struct{ Approvals []struct{ ID string } }
		code, b := a.do("GET", "approvals", "")
		if err := json.Unmarshal(b, &l); err != nil || code != 200 {
			a.t.Errorf("%d %s", code, b)
			return ""
		}
		if len(l.Approvals) > 0 {
			id = l.Approvals[0].ID
			break
		}
		if time.Now().After(deadline) {
			a.t.Error("nobody is asked")
			return ""
		}
	}
	time.Sleep(pause)
	if what == "" {
		return id
	}
	if code, b := a.do("GET", "approvals/"+id, ""); code != 200 || !bytes.Contains(b, []byte("/say it is done")) {
		a.t.Errorf("%d %s", code, b)
	}
	if code, b := a.do("POST", "approvals/"+id, fmt.Sprintf(`{"decision":%q,"reason":"for a test"}`, what)); code != 200 {
		a.t.Errorf("%d %s", code, b)
	}
	return id
}

// The official SDKs, at once and streaming, with no code of their own for it, get through a call that people approve, whether
// their connection was held until then, or they were told to come back and did, or heard comments in a stream; and they raise their permission error where
// people deny, or nobody answers. Who exports the session has the proof that another person approved these bytes first.
func TestApprovals(t *testing.T) {
	if direct {
		t.Skip("a model asks nobody")
	}
	ln := listen(t)
	fake := gatewaytest.New(gatewaytest.Config{Key: modelKey})
	run(t, func(ctx context.Context) error { return fake.Run(ctx, ln) })
	l, policy := openLog(t)
	keys := openRing(t)
	sum := sha256.Sum256([]byte(approverKey))
	with := func(id, within string, hold time.Duration) string {
		p, err := cel.Parse("rules", fmt.Appendf(nil, rules, within), cel.Names{})
		if err != nil {
			t.Fatal(err)
		}
		return through(t, "http://"+ln.Addr().String(), l, keys, func(c *gateway.Config) {
			c.ID, c.Policy = id, p
			c.Approvals = gateway.Approvals{Key: bytes.Repeat([]byte("k"), 32), Groups: []string{"approvers"}, Hold: hold, Again: time.Second}
			c.Callers = append(c.Callers, gateway.Caller{Name: "approver", SHA256: hex.EncodeToString(sum[:]), Groups: []string{"approvers"}})
		})
	}
	held, brief, short := with("gw-peers", "1m", 20*time.Second), with("gw-brief", "1m", 300*time.Millisecond), with("gw-short", "1500ms", 20*time.Second)
	pen, err := record.NewWriter(record.WriterConfig{ID: "desk", Log: l, Software: "tallystick/peers", Mode: "none"})
	if err != nil {
		t.Fatal(err)
	}
	run(t, pen.Run)
	desk, err := audit.NewDesk(l, readOnly{keys}, pen)
	if err != nil {
		t.Fatal(err)
	}

	type sdk struct {
		name string
		call func(base string, client *http.Client) (text string, err error)
		code func(error) int // of the SDK's own typed error
	}
	oa := func(base string, client *http.Client) openai.Client {
		return openai.NewClient(option.WithBaseURL(base+"/v1"), option.WithAPIKey(callerKey), option.WithHTTPClient(client))
	}
	an := func(base string, client *http.Client) anthropic.Client {
		return anthropic.NewClient(anthropicoption.WithoutEnvironmentDefaults(), anthropicoption.WithBaseURL(base+"/anthropic"),
			anthropicoption.WithAPIKey(callerKey), anthropicoption.WithHTTPClient(client))
	}
	openaiCode := func(err error) int {
		var e *openai.Error
		if errors.As(err, &e) {
			return e.StatusCode
		}
		return 0
	}
	anthropicCode := func(err error) int {
		var e *anthropic.Error
		if errors.As(err, &e) {
			return e.StatusCode
		}
		return 0
	}
	n := 0
	prompt := func() string { n++; return fmt.Sprintf("/say it is done %d", n) }
	sdks := []sdk{
		{"OpenAI", func(base string, client *http.Client) (string, error) {
			c := oa(base, client)
			got, err := c.Chat.Completions.New(t.Context(), chat(prompt()))
			if err != nil {
				return "", err
			}
			return got.Choices[0].Message.Content, nil
		}, openaiCode},
		{"OpenAI, streaming", func(base string, client *http.Client) (string, error) {
			c := oa(base, client)
			s := c.Chat.Completions.NewStreaming(t.Context(), chat(prompt()))
			var acc openai.ChatCompletionAccumulator
			for s.Next() {
				acc.AddChunk(s.Current())
			}
			if s.Err() != nil {
				return "", s.Err()
			}
			return acc.Choices[0].Message.Content, nil
		}, openaiCode},
		{"Anthropic", func(base string, client *http.Client) (string, error) {
			c := an(base, client)
			got, err := c.Messages.New(t.Context(), message(prompt()))
			if err != nil {
				return "", err
			}
			return got.Content[0].Text, nil
		}, anthropicCode},
		{"Anthropic, streaming", func(base string, client *http.Client) (string, error) {
			c := an(base, client)
			m, _, err := gather(t, c.Messages.NewStreaming(t.Context(), message(prompt())))
			if err != nil {
				return "", err
			}
			return m.Content[0].Text, nil
		}, anthropicCode},
	}
	for _, c := range sdks {
		for _, row := range []struct {
			name, base, decision string
			pause                time.Duration
		}{
			{"approved while held", held, "approve", 0},
			{"approved after a while", brief, "approve", 900 * time.Millisecond},
			{"denied while held", held, "deny", 0},
			{"denied after a while", brief, "deny", 900 * time.Millisecond},
			{"nobody answers", short, "", 0},
		} {
			t.Run(c.name+", "+row.name, func(t *testing.T) {
				before := fake.Count()
				k := &keeper{}
				var asked string
				var decided sync.WaitGroup
				decided.Go(func() { asked = (&approver{t, row.base}).decide(row.decision, row.pause) })
				text, err := c.call(row.base, &http.Client{Transport: k, Timeout: 30 * time.Second})
				decided.Wait()
				inStream := row.base == brief && strings.HasSuffix(c.name, "streaming") // it waited there, and was not told to come back
				if row.decision != "approve" {
					if inStream && err != nil && strings.Contains(err.Error(), "approval_denied") {
						return // once a stream has begun, no SDK has an error of a kind for it
					}
					if c.code(err) != http.StatusForbidden || fake.Count() != before {
						t.Errorf("%q, %v, %d calls at the model", text, err, fake.Count()-before)
					}
					return
				}
				if err != nil || !strings.HasPrefix(text, "it is done") || fake.Count() != before+1 {
					t.Fatalf("%q, %v, %d calls at the model", text, err, fake.Count()-before)
				}
				id, err := record.ParseID(k.session)
				if err != nil {
					t.Fatal(err)
				}
				var raw []byte
				for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
					raw, err = desk.Export(t.Context(), audit.Asker{Name: "auditor", Reason: "a test", Roles: audit.Auditor}, id)
					if err == nil {
						break
					}
					if time.Now().After(deadline) {
						t.Fatal(err)
					}
				}
				if (k.session == asked) != (row.base == held || inStream) {
					t.Errorf("session %s, and %s asked", k.session, asked)
				}
				r, err := verify.Check(raw, verify.Trust{Policy: policy})
				if err != nil || !r.OK() {
					t.Fatalf("%v %+v", err, r)
				}
				said := false
				for _, f := range r.Findings {
					said = said || f.Claim == verify.ApprovalGiven && f.OK && strings.Contains(f.Detail, `by "approver"`)
				}
				if !said {
					t.Errorf("nobody is shown to have approved: %+v", r.Findings)
				}
			})
		}
	}
}
