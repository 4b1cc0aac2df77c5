// Package webhook tells other systems what people are asked, and takes from them what people said. Out go messages, signed as
// Standard Webhooks are (standardwebhooks.com), or as Slack and what is like it takes them; in come decisions, signed the
// same way, or as Slack signs the buttons that somebody pressed.
//
// What is always true:
//
//   - nothing of a call's content is in a message: who asks, for which route and model, by which rule, and until when;
//   - what a caller or a rule wrote is text to whoever reads the message, and neither a link, nor a mention, nor another
//     line of the message;
//   - who asks the gateway never waits for a message: what cannot be queued, or delivered in time, is lost, said and
//     counted, and the approval is where it was;
//   - a message goes to the address that was named: no redirect is followed, and no address of the link, where clouds keep
//     their metadata, is spoken to, whatever a name resolves to;
//   - a decision that comes in was signed, less than five minutes ago and after this gateway began, over its time and all of
//     its bytes, and is read once: the same bytes a second time are refused;
//   - whose decision it is stands in a table of the configuration, and nowhere in what comes in; whoever is not in the table
//     is refused.
//
// That a decision was read does not mean that it counts. The gateway refuses that of whoever made the call (self_approval), and
// a yes of somebody who has not looked at the whole request there (look_first, 428): a button can be pressed by habit, so
// `tally approve ID`, or a GET of the approval, goes before it. A no needs no look.
package webhook

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/tallystick/tallystick/gateway"
)

// A Kind is the way in which another system is spoken with.
type Kind uint8

const (
	JSON  Kind = iota // signed as Standard Webhooks are
	Slack             // Slack's incoming webhooks and block actions, and what is like them
)

// ParseKind reads the name of a kind: json or slack.
func ParseKind(s string) (Kind, error) {
	switch s {
	case "json":
		return JSON, nil
	case "slack":
		return Slack, nil
	}
	return JSON, fmt.Errorf("webhook: the kind %q is none of json, slack", s)
}

// The headers of a Standard Webhook. The signature is "v1," and the base64 of the HMAC-SHA256, under the secret's bytes, of
// id, timestamp and body with dots between them. A header has several of them, with spaces between, while a secret is
// changed; one that fits is enough.
const (
	HeaderID        = "Webhook-Id"        // the same for each attempt at one message
	HeaderTimestamp = "Webhook-Timestamp" // of the attempt, in seconds since 1970
	HeaderSignature = "Webhook-Signature"
)

// What a secret of a Standard Webhook begins with, and how many bytes follow in base64.
const (
	secretPrefix   = "whsec_"
	minSecretBytes = 24
	maxSecretBytes = 64
)

// standardSecret returns the bytes of a secret of the form whsec_ and base64.
func standardSecret(s gateway.Secret) ([]byte, error) {
	if s == nil {
		return nil, errors.New("webhook: there is no secret")
	}
	text, ok := strings.CutPrefix(string(s.Reveal()), secretPrefix)
	key, err := base64.StdEncoding.Strict().DecodeString(text)
	if !ok || err != nil || len(key) < minSecretBytes || len(key) > maxSecretBytes {
		return nil, fmt.Errorf("webhook: the secret is not %s and the base64 of %d to %d bytes; `tally keys new-webhook FILE` makes one", secretPrefix, minSecretBytes, maxSecretBytes)
	}
	return key, nil
}

// standardSum is what a Standard Webhook's signature is of.
func standardSum(key []byte, id, timestamp string, body []byte) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(id + "." + timestamp + "."))
	h.Write(body)
	return h.Sum(nil)
}

// sign returns a Standard Webhook's signature.
func sign(key []byte, id string, timestamp int64, body []byte) string {
	return "v1," + base64.StdEncoding.EncodeToString(standardSum(key, id, strconv.FormatInt(timestamp, 10), body))
}
