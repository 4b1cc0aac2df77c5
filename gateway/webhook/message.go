package webhook

import (
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/tallystick/tallystick/gateway"
)

// A notice is a gateway.Notice as the world outside sees it. It names every field, so that a new one does not leave unseen.
type notice struct {
	Type      string    `json:"type"` // "approval." and the event
	Timestamp time.Time `json:"timestamp"`
	Data      facts     `json:"data"`
}

type facts struct {
	Approval string    `json:"approval"`
	Caller   string    `json:"caller"`
	Route    string    `json:"route"`
	Model    string    `json:"model,omitempty"`
	Rule     string    `json:"rule,omitempty"`
	Message  string    `json:"message,omitempty"`
	Need     int       `json:"need"`
	Got      int       `json:"got"`
	Groups   []string  `json:"groups"`
	Until    time.Time `json:"until"`
	URL      string    `json:"url,omitempty"`
	Actor    string    `json:"actor,omitempty"`
	Reason   string    `json:"reason,omitempty"`
}

// jsonMessage is the body of a Standard Webhook.
func jsonMessage(n *gateway.Notice, now time.Time) ([]byte, error) {
	return json.Marshal(notice{
		Type: "approval." + n.Event, Timestamp: now.UTC(),
		Data: facts{
			Approval: n.Approval.String(), Caller: n.Caller, Route: n.Route, Model: n.Model, Rule: n.Rule, Message: n.Message, Need: n.Need, Got: n.Got,
			Groups: n.Groups, Until: n.Until.UTC(), URL: n.URL, Actor: n.Actor, Reason: n.Reason,
		},
	})
}

// What Slack takes of texts, in characters; more makes it refuse the whole message.
const (
	slackText  = 2000
	slackField = 300
)

type object = map[string]any

// text is what is shown as it is written. Slack reads &, < and > in every text, as the beginning of links and mentions, so
// these are written as entities; no other character means anything in a text of this type. What cannot be seen, or turns
// the direction of writing, is taken out, and there is one line.
func text(s string, most int) object {
	return object{"type": "plain_text", "emoji": false, "text": entities(oneLine(s, most))}
}

func entities(s string) string {
	return strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;").Replace(s)
}

// oneLine is at most so many characters of s, each of which can be seen.
func oneLine(s string, most int) string {
	var b strings.Builder
	n := 0
	for _, r := range s {
		switch {
		case unicode.IsSpace(r):
			r = ' '
		case r == utf8.RuneError, !unicode.IsPrint(r):
			r = '\uFFFD'
		}
		if n++; n > most {
			b.WriteString("…")
			break
		}
		b.WriteRune(r)
	}
	if b.Len() == 0 {
		return "–"
	}
	return b.String()
}

// headline says what happened, in words of our own alone: it also stands where there is no text that is shown as it is.
func headline(n *gateway.Notice) string {
	switch n.Event {
	case "asked":
		return "A call waits for a yes"
	case "agreed":
		return "One yes is there, and another person's is needed"
	case "granted":
		return "A call was approved"
	case "broke_glass":
		return "THE GLASS WAS BROKEN: a call passes on one person's word"
	case "denied":
		return "A call was denied"
	case "expired":
		return "Nobody approved a call in time, so it is refused"
	}
	return "Something happened to an approval"
}

// slackMessage is the body of a message to Slack. buttons are there while there is something to decide.
func slackMessage(n *gateway.Notice, buttons bool) ([]byte, error) {
	head, id := headline(n), n.Approval.String()
	loud := n.Event == "broke_glass"
	title := head
	if loud {
		title = "\U0001F6A8\U0001F6A8\U0001F6A8 " + head + " \U0001F6A8\U0001F6A8\U0001F6A8"
	}
	var fields []object
	field := func(name, value string) {
		if value != "" {
			fields = append(fields, text(name+": "+value, slackField))
		}
	}
	field("Caller", n.Caller)
	field("Model", n.Model)
	field("Route", n.Route)
	field("Rule", n.Rule)
	field("Who decides", strings.Join(n.Groups, ", "))
	open := n.Event == "asked" || n.Event == "agreed"
	if open {
		field("Yeses", fmt.Sprintf("%d of %d", n.Got, n.Need))
		field("Until", n.Until.UTC().Format("2006-01-02 15:04:05 MST"))
	}
	if n.Event != "asked" {
		field("By", n.Actor)
	}
	blocks := []object{{"type": "header", "text": text(title, 150)}, {"type": "section", "fields": fields}}
	say := func(what, words string) {
		if words != "" {
			blocks = append(blocks, object{"type": "section", "text": text(what+": "+words, slackText)})
		}
	}
	say("The rule says", n.Message)
	say("Reason", n.Reason)
	if open {
		// What follows is of our making, so it may be more than text: an id is hexadecimal, the URL is the configuration's.
		look := "Look at the whole request before you say yes: `tally approve " + id + "`"
		if link := slackLink(n.URL); link != "" {
			look += " or " + link
		}
		blocks = append(blocks, object{"type": "context", "elements": []object{{"type": "mrkdwn", "text": look}}})
		if buttons {
			button := func(action, label, style string) object {
				return object{"type": "button", "action_id": action, "value": id, "style": style, "text": text(label, 30)}
			}
			blocks = append(blocks, object{"type": "actions", "elements": []object{button("approve", "Approve", "primary"), button("deny", "Deny", "danger")}})
		}
	} else {
		blocks = append(blocks, object{"type": "context", "elements": []object{text("approval "+id, 100)}})
	}
	return json.Marshal(object{"text": head + " (approval " + id + ")", "blocks": blocks, "unfurl_links": false, "unfurl_media": false})
}

// slackLink writes a URL as a link, or "".
func slackLink(s string) string {
	u, err := url.Parse(s)
	if err != nil || u.Host == "" {
		return ""
	}
	return "<" + strings.NewReplacer("&", "&amp;", "<", "%3C", ">", "%3E", "|", "%7C").Replace(u.String()) + ">"
}
