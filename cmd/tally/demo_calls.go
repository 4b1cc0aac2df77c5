package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"

	"github.com/tallystick/tallystick/audit"
	"github.com/tallystick/tallystick/cmd/internal/assemble"
	"github.com/tallystick/tallystick/gateway"
	"github.com/tallystick/tallystick/gateway/gatewaytest"
	"github.com/tallystick/tallystick/tlog/record"
)

// The sample calls' other callers.
const (
	supportCaller  = "support"
	researchCaller = "research"
)

// demoPersonas are whom somebody can be in the demo's console: the first unless he says otherwise. One of them is the caller of the
// calls that people try, who decides about none of them.
var demoPersonas = []assemble.Persona{
	{Name: "ada", Groups: []string{"approvers", "leads"}, Roles: audit.Operator, About: "may do everything"},
	{Name: "victor", Roles: audit.Viewer, About: "looks at sessions"},
	{Name: "paula", Groups: []string{"approvers"}, Roles: audit.Approver, About: "decides about calls that wait"},
	{Name: "audrey", Roles: audit.Auditor, About: "hands evidence out, and sees who read what"},
	{Name: "adam", Roles: audit.Admin, About: "erases, and sees how everything is set"},
	{Name: "demo", Groups: []string{"approvers"}, Roles: audit.Viewer | audit.Approver, About: "is who makes the demo's calls, and does not decide about his own"},
}

// A sample is a call that the demo makes.
type sample struct {
	what, path, caller, body string // the caller "" is the demo itself
	orders                   string // to the fake model, that do not stand in the prompt
}

// samples are made before the demo says that it is ready; each takes a moment.
func samples() []sample {
	chat := func(prompt string, stream bool) string {
		return fmt.Sprintf(`{"model":%q,"stream":%t,"messages":[{"role":"user","content":%q}]}`, gatewaytest.ChatModel, stream, prompt)
	}
	const openai = "/v1/chat/completions"
	return []sample{
		{what: "a question, answered at once", path: openai, body: chat("What is a tally stick?", false)},
		{what: "the same as a stream", path: openai, body: chat("/slow 20ms What is a tally stick?", true)},
		{what: "a stream of the other kind", path: "/v1/messages", body: fmt.Sprintf(`{"model":%q,"max_tokens":64,"stream":true,"messages":[{"role":"user","content":"Who split it, and why?"}]}`, gatewaytest.ChatModel)},
		{what: "a call the model refuses", path: openai, body: chat("/error 429 Once more.", false)},
		{what: "a stream that is cut", path: openai, body: chat("/cut 4 Tell me everything about it.", true)},
		{what: "with a card number in it", path: openai, caller: supportCaller, body: chat("Jane was charged twice on 4111 1111 1111 1111. Write to jane.doe@example.com that she gets it back.", false)},
		{what: "a model that calls a tool", path: openai, caller: supportCaller, orders: "/tool find_order", body: withTools("Where is order 4711?", "find_order", "the order's number")},
		{what: "a call that a rule refuses", path: openai, caller: researchCaller, body: chat("Cluster these customers by card: 5500 0055 5555 5559, 4111 1111 1111 1111.", false)},
	}
}

// slowSamples are made beside each other when everything has been said. The first takes seconds, and the second until somebody decides.
func slowSamples() []sample {
	return []sample{
		{path: "/v1/chat/completions", caller: researchCaller, orders: "/slow 400ms /events 24",
			body: fmt.Sprintf(`{"model":%q,"stream":true,"messages":[{"role":"user","content":"Tell the story of the Exchequer's tallies, slowly."}]}`, gatewaytest.ChatModel)},
		{path: "/v1/chat/completions", caller: supportCaller, orders: "/tool refund", body: withTools("Give Jane back what she was charged twice, 59.90.", "refund", "what is given back, and to whom")},
	}
}

func withTools(prompt, tool, about string) string {
	return fmt.Sprintf(`{"model":%q,"messages":[{"role":"user","content":%q}],"tools":[{"type":"function","function":{"name":%q,"parameters":{"type":"object","properties":{"about":{"type":"string","description":%q}}}}}]}`,
		gatewaytest.ChatModel, prompt, tool, about)
}

// call makes the sample calls and returns the session of the first.
func (d *demonstration) call(ctx context.Context, base string) (first string, err error) {
	fmt.Fprintf(d.stdout, "\nA few calls, each through the gateway to a fake model:\n\n")
	for _, s := range samples() {
		resp, err := d.make(ctx, base, s)
		if err != nil {
			return first, fmt.Errorf("a sample call: %w", err)
		}
		id := resp.Header.Get(gateway.SessionHeader)
		if _, err := record.ParseID(id); err != nil {
			return first, fmt.Errorf("a sample call was answered %s without a session", resp.Status)
		}
		if first == "" {
			first = id
		}
		end := "whole"
		if _, err := io.Copy(io.Discard, bufio.NewReader(resp.Body)); err != nil {
			end = "cut: " + err.Error()
		}
		resp.Body.Close()
		fmt.Fprintf(d.stdout, "  %s  %d  %-30s %s\n", id, resp.StatusCode, s.what, end)
	}
	return first, nil
}

// callSlowly makes the calls that take their time, until ctx ends. Nobody waits for what they bring.
func (d *demonstration) callSlowly(ctx context.Context, base string, log *slog.Logger) {
	done := make(chan struct{})
	all := slowSamples()
	for _, s := range all {
		go func() {
			defer func() { done <- struct{}{} }()
			resp, err := d.make(ctx, base, s)
			if err != nil {
				log.Debug("a sample call ended", "err", err)
				return
			}
			io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
		}()
	}
	for range all {
		<-done
	}
}

// make makes one call.
func (d *demonstration) make(ctx context.Context, base string, s sample) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, base+s.path, strings.NewReader(s.body))
	if err != nil {
		return nil, err
	}
	key := d.apiKey
	if s.caller != "" {
		key = d.others[s.caller]
	}
	req.Header.Set("Authorization", "Bearer "+key)
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Anthropic-Version", "2023-06-01")
	if s.orders != "" {
		req.Header.Set("Fake-Model", s.orders)
	}
	return http.DefaultClient.Do(req)
}
