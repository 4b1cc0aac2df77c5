package replay

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	"github.com/tallystick/tallystick/audit/transcript"
	"github.com/tallystick/tallystick/tlog/record"
)

// The texts below are sentences for people about parts of a transcript. They may hold anything that the transcript does: show them with
// Safe.

// TellRequest says who asked which model how.
func TellRequest(t *transcript.Transcript) string {
	who := cmp.Or(t.Caller.Name, "somebody")
	switch {
	case t.Request.Method == "" && t.Erased:
		return "who asked what is erased"
	case t.Request.Method == "":
		return who + " asks; what, is not here"
	}
	text := fmt.Sprintf("%s asks %s: %s %s", who, cmp.Or(t.Model, t.Route, "something"), t.Request.Method, t.Request.Target)
	if t.Request.Stream {
		text += ", as a stream"
	}
	return text
}

// TellPart is a part as text.
func TellPart(p transcript.Part) string {
	switch {
	case p.Kind == transcript.ToolCall && p.Call != nil:
		return "calls " + cmp.Or(p.Call.Name, "a tool") + " " + p.Call.Arguments
	case p.Kind == transcript.Result && p.Call != nil:
		return "result of " + cmp.Or(p.Call.Name, p.Call.ID, "a call") + ": " + p.Text
	case p.Kind == transcript.Reasoning:
		return "thinks: " + p.Text
	case p.Kind == transcript.Refusal:
		return "refuses: " + p.Text
	case p.Kind == transcript.Media && p.File != nil:
		f := p.File
		text := "[" + f.Type
		if f.Name != "" {
			text += " " + f.Name
		}
		if f.URL != "" {
			text += " at " + f.URL
		}
		if f.Size > 0 {
			text += fmt.Sprintf(", %d B", f.Size)
		}
		return text + "]"
	}
	return p.Text
}

// TellQuestion says who was asked, by which rule, and until when.
func TellQuestion(a *transcript.Approval) string {
	text := "people are asked"
	if len(a.Groups) > 0 {
		text = strings.Join(a.Groups, ", ") + " are asked"
	}
	if a.Rule != "" {
		text += " by the rule " + a.Rule
	}
	if a.Need > 1 {
		text += fmt.Sprintf(", and %d of them must say yes", a.Need)
	}
	if !a.Until.IsZero() {
		text += ", until " + a.Until.UTC().Format(time.RFC3339)
	}
	if a.Message != "" {
		text += ": " + a.Message
	}
	return text
}

// TellWord says what one person said.
func TellWord(w transcript.Word) string {
	what := map[string]string{
		record.Agreed: "says yes, and others are needed", record.Granted: "says yes", record.Glass: "says yes alone, in an emergency", record.No: "says no",
	}[w.Said]
	text := cmp.Or(w.Actor, "somebody") + " " + cmp.Or(what, w.Said)
	if w.Reason != "" {
		text += ": " + w.Reason
	}
	return text
}

// outcomes are what the ends of sessions are called.
var outcomes = map[record.Outcome]string{
	record.Complete:      "complete",
	record.Truncated:     "CUT: the answer stopped before its end",
	record.Denied:        "denied: nothing was sent to the model",
	record.ClientGone:    "CUT: the caller left before the end",
	record.UpstreamError: "failed: the model could not be reached, or its answer not be read",
	record.Limit:         "CUT: a limit of time or size ended it",
	record.Internal:      "CUT: a fault of the gateway ended it",
	record.Interrupted:   "CUT: the gateway died, or stopped",
	record.Waiting:       "nothing was sent to the model: people had not decided yet",
	record.Resumed:       "nothing was sent to the model: another session used its approval",
}

// TellEnd says how a session ended, and what it took.
func TellEnd(t *transcript.Transcript) string {
	var all []string
	switch {
	case t.Open:
		return "it has not ended"
	case t.Refused != "":
		all = append(all, fmt.Sprintf("refused: %s; nothing was sent to the model", t.Refused))
	case t.Outcome == record.Complete && t.Answer.Status >= 400:
		all = append(all, "complete: the model answered with an error")
	default:
		all = append(all, cmp.Or(outcomes[t.Outcome], string(t.Outcome)))
	}
	if t.Answer.Status >= 400 || t.Refused != "" && t.Answer.Status > 0 {
		all = append(all, fmt.Sprintf("status %d", t.Answer.Status))
	}
	for _, r := range t.Replies {
		if r.Finish != "" {
			all = append(all, "finish "+r.Finish)
			break
		}
	}
	if text := TellUsage(t.Usage); text != "" {
		all = append(all, text)
	}
	if text := t.Answer.Error; !strings.Contains(t.Answer.Problem, text) { // the caller was not told more
		all = append(all, text)
	}
	if t.Answer.Kept != "" {
		all = append(all, "kept: "+t.Answer.Kept)
	}
	return strings.Join(all, "; ")
}

// TellUsage says how many tokens were used; "" where the answer does not say.
func TellUsage(u transcript.Usage) string {
	var all []string
	add := func(n int64, what string) {
		if n >= 0 {
			all = append(all, fmt.Sprintf("%d %s", n, what))
		}
	}
	add(u.In, "tokens in")
	if u.CacheRead > 0 {
		add(u.CacheRead, "of them from a cache")
	}
	if u.CacheWrite > 0 {
		add(u.CacheWrite, "into one")
	}
	add(u.Out, "out")
	if u.Reasoning > 0 {
		add(u.Reasoning, "of them for reasoning")
	}
	return strings.Join(all, ", ")
}
