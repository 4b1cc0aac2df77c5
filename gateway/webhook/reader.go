package webhook

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/tallystick/tallystick/gateway"
	"github.com/tallystick/tallystick/tlog/record"
)

// How principals are told whose decisions are sent on.
const How = "hook"

const (
	window    = 5 * time.Minute // how far a signature's time may be from ours
	maxSeen   = 10_000          // signatures that are remembered; more within two windows are refused
	maxDigits = 12              // of a time in seconds
	maxID     = 256             // bytes of a message's id
)

// A ReaderConfig is what a Reader is made of.
type ReaderConfig struct {
	Kind   Kind
	Secret gateway.Secret // of JSON: "whsec_" and the base64 of 24 to 64 bytes; of Slack: the app's signing secret
	// People are who decides, by what the other system calls them: for Slack, user ids such as U012AB3CD. A person's Name,
	// Email and Groups are those by which the gateway knows the same person when he calls, for that is how it sees that it
	// was his call, and that he has looked. How becomes "hook".
	People map[string]gateway.Principal
}

// A Reader reads what another system sends on. Of kind JSON that is a Standard Webhook whose body is
//
//	{"approval": "ID", "decision": "approve", "reason": "…", "person": "…"}
//
// with nothing else in it, where decision is approve, deny or break_glass and person is a name in the table. Of kind Slack it
// is a form with a payload of the type block_actions and one action, whose action_id is approve or deny and whose value is
// the approval's id. Safe for concurrent use.
type Reader struct {
	kind   Kind
	key    []byte
	people map[string]*gateway.Principal
	begun  time.Time

	mu    sync.Mutex
	seen  map[[sha256.Size]byte]time.Time // signatures, and when they are too old anyway
	swept time.Time
}

var _ gateway.Hook = (*Reader)(nil)

// NewReader makes a Reader. What was signed before this is not read by it, for it could have been read by the one before.
func NewReader(c ReaderConfig) (*Reader, error) {
	r := &Reader{kind: c.Kind, people: make(map[string]*gateway.Principal, len(c.People)), begun: time.Now().Truncate(time.Second), seen: make(map[[sha256.Size]byte]time.Time)}
	var err error
	switch {
	case c.Secret == nil:
		return nil, errors.New("webhook: a hook without a secret, by which anybody could decide")
	case c.Kind == JSON:
		if r.key, err = standardSecret(c.Secret); err != nil {
			return nil, err
		}
	case c.Kind == Slack:
		if r.key = c.Secret.Reveal(); len(r.key) < 16 {
			return nil, errors.New("webhook: a signing secret of less than 16 bytes is not Slack's; copy it from the app's page, under Basic Information")
		}
	default:
		return nil, fmt.Errorf("webhook: no kind has the number %d", c.Kind)
	}
	if len(c.People) == 0 {
		return nil, errors.New("webhook: a hook by which nobody can decide; name people")
	}
	for id, p := range c.People {
		if id == "" || p.Name == "" || len(p.Groups) == 0 {
			return nil, fmt.Errorf("webhook: the person %q needs a name and groups, those by which the gateway knows the same person", id)
		}
		p.How = How
		r.people[id] = &p
	}
	return r, nil
}

// Read reads one decision; see [gateway.Hook]. An error is for the gateway's log, and has nothing in it that was not signed.
func (r *Reader) Read(header func(name string) string, body []byte) (gateway.HookAnswer, error) {
	now := time.Now()
	sum, at, err := r.verify(header, body)
	if err == nil {
		err = r.fresh(sum, at, now)
	}
	if err != nil {
		return gateway.HookAnswer{}, err
	}
	if r.kind == Slack {
		return r.slack(body)
	}
	return r.json(body)
}

// Why something is not read.
var (
	errUnsigned = errors.New("webhook: it is not signed by this secret over these bytes")
	errStale    = errors.New("webhook: it was not signed within five minutes of now, by the gateway's clock, or before the gateway began")
	errReplayed = errors.New("webhook: the same was read before")
	errMany     = errors.New("webhook: more came in within ten minutes than is remembered")
)

// verify checks the signature and returns what tells it from others, and its time.
func (r *Reader) verify(header func(string) string, body []byte) (sum [sha256.Size]byte, at time.Time, err error) {
	stamp, given := HeaderTimestamp, HeaderSignature
	if r.kind == Slack {
		stamp, given = "X-Slack-Request-Timestamp", "X-Slack-Signature"
	}
	timestamp := header(stamp)
	seconds, err := strconv.ParseInt(timestamp, 10, 64)
	if err != nil || len(timestamp) > maxDigits || strconv.FormatInt(seconds, 10) != timestamp {
		return sum, at, errUnsigned
	}
	at = time.Unix(seconds, 0)
	if r.kind == Slack {
		h := hmac.New(sha256.New, r.key)
		h.Write([]byte("v0:" + timestamp + ":"))
		h.Write(body)
		h.Sum(sum[:0])
		hexed, ok := strings.CutPrefix(header(given), "v0=")
		got, err := hex.DecodeString(hexed)
		if !ok || err != nil || !hmac.Equal(got, sum[:]) {
			return sum, at, errUnsigned
		}
		return sum, at, nil
	}
	id := header(HeaderID)
	if id == "" || len(id) > maxID || strings.Contains(id, ".") {
		return sum, at, errUnsigned
	}
	copy(sum[:], standardSum(r.key, id, timestamp, body))
	for s := range strings.SplitSeq(header(given), " ") {
		b64, ok := strings.CutPrefix(s, "v1,")
		got, err := base64.StdEncoding.DecodeString(b64)
		if ok && err == nil && hmac.Equal(got, sum[:]) {
			return sum, at, nil
		}
	}
	return sum, at, errUnsigned
}

// fresh says whether what was signed at that time is read for the first time, and remembers it.
func (r *Reader) fresh(sum [sha256.Size]byte, at, now time.Time) error {
	if d := now.Sub(at); d > window || d < -window || at.Before(r.begun) {
		return errStale
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if now.Sub(r.swept) > window {
		r.swept = now
		for s, end := range r.seen {
			if now.After(end) {
				delete(r.seen, s)
			}
		}
	}
	if _, ok := r.seen[sum]; ok {
		return errReplayed
	}
	if len(r.seen) >= maxSeen {
		return errMany
	}
	r.seen[sum] = at.Add(window + time.Second)
	return nil
}

// answer puts together what was decided.
func (r *Reader) answer(approval, decision, reason, person string) (a gateway.HookAnswer, err error) {
	if a.Who = r.people[person]; a.Who == nil {
		return gateway.HookAnswer{}, fmt.Errorf("webhook: nobody in the table is called %q", person)
	}
	if a.Approval, err = record.ParseID(approval); err != nil {
		return gateway.HookAnswer{}, errors.New("webhook: it is about no approval: there is no id in it")
	}
	a.Decision, a.Reason = decision, reason
	return a, nil
}

// json reads the body of a Standard Webhook.
func (r *Reader) json(body []byte) (gateway.HookAnswer, error) {
	var in struct {
		Approval string `json:"approval"`
		Decision string `json:"decision"`
		Reason   string `json:"reason"`
		Person   string `json:"person"`
	}
	if err := json.Unmarshal(body, &in, json.RejectUnknownMembers(true)); err != nil {
		return gateway.HookAnswer{}, fmt.Errorf("webhook: the body is no decision: %w", err)
	}
	switch in.Decision {
	case "approve", "deny", "break_glass":
	default:
		return gateway.HookAnswer{}, fmt.Errorf("webhook: %q is none of approve, deny, break_glass", in.Decision)
	}
	return r.answer(in.Approval, in.Decision, in.Reason, in.Person)
}

// slack reads the form that Slack sends when somebody presses a button.
func (r *Reader) slack(body []byte) (gateway.HookAnswer, error) {
	form, err := url.ParseQuery(string(body))
	if err != nil || len(form["payload"]) != 1 {
		return gateway.HookAnswer{}, errors.New("webhook: the body is not a form with one payload")
	}
	var in struct {
		Type string `json:"type"`
		User struct {
			ID string `json:"id"`
		} `json:"user"`
		Actions []struct {
			Type   string `json:"type"`
			Action string `json:"action_id"`
			Value  string `json:"value"`
		} `json:"actions"`
	}
	if err := json.Unmarshal([]byte(form["payload"][0]), &in, jsontext.AllowDuplicateNames(false)); err != nil {
		return gateway.HookAnswer{}, fmt.Errorf("webhook: the payload is not Slack's: %w", err)
	}
	if in.Type != "block_actions" || len(in.Actions) != 1 || in.Actions[0].Type != "button" {
		return gateway.HookAnswer{}, errors.New("webhook: the payload is not of one button that was pressed")
	}
	reason := "approved by a button in Slack"
	switch in.Actions[0].Action {
	case "approve":
	case "deny":
		reason = "denied by a button in Slack"
	default:
		return gateway.HookAnswer{}, fmt.Errorf("webhook: the button %q is neither approve nor deny", in.Actions[0].Action)
	}
	return r.answer(in.Actions[0].Value, in.Actions[0].Action, reason, in.User.ID)
}
