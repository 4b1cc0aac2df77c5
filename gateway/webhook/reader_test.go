package webhook

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tallystick/tallystick/gateway"
	"github.com/tallystick/tallystick/tlog/record"
)

// plain is a Secret in the clear.
type plain string

func (p plain) Reveal() []byte { return []byte(p) }

const (
	ourSecret   = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
	otherSecret = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYX"
	slackSecret = "8f742231b10e8888abcd99yyyzzz85a5"
)

var people = map[string]gateway.Principal{
	"U012AB3CD": {Name: "carol", Email: "carol@example.org", Groups: []string{"approvers"}},
	"U0MALLORY": {Name: "alice", Groups: []string{"approvers"}},
}

func newReader(t testing.TB, kind Kind) *Reader {
	t.Helper()
	secret := plain(ourSecret)
	if kind == Slack {
		secret = slackSecret
	}
	r, err := NewReader(ReaderConfig{Kind: kind, Secret: secret, People: people})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// A sent is what comes in.
type sent struct {
	head map[string]string
	body string
}

func (s sent) header(name string) string { return s.head[name] }

func (s sent) with(name, value string) sent {
	out := sent{make(map[string]string), s.body}
	for k, v := range s.head {
		out.head[k] = v
	}
	out.head[name] = value
	return out
}

// standard signs a body as a Standard Webhook.
func standard(secret, id string, at time.Time, body string) sent {
	key, _ := base64.StdEncoding.DecodeString(secret[len(secretPrefix):])
	return sent{map[string]string{HeaderID: id, HeaderTimestamp: strconv.FormatInt(at.Unix(), 10), HeaderSignature: sign(key, id, at.Unix(), []byte(body))}, body}
}

// inOtherDigits is signed over a time that is written in another way.
func inOtherDigits(at time.Time, body string) sent {
	key, _ := base64.StdEncoding.DecodeString(ourSecret[len(secretPrefix):])
	stamp := "0" + strconv.FormatInt(at.Unix(), 10)
	return sent{map[string]string{HeaderID: "msg_1", HeaderTimestamp: stamp, HeaderSignature: "v1," + base64.StdEncoding.EncodeToString(standardSum(key, "msg_1", stamp, []byte(body)))}, body}
}

// slacked signs a body as Slack does.
func slacked(secret string, at time.Time, body string) sent {
	stamp := strconv.FormatInt(at.Unix(), 10)
	h := hmac.New(sha256.New, []byte(secret))
	fmt.Fprintf(h, "v0:%s:%s", stamp, body)
	return sent{map[string]string{"X-Slack-Request-Timestamp": stamp, "X-Slack-Signature": "v0=" + hex.EncodeToString(h.Sum(nil))}, body}
}

func decision(id, what, person string) string {
	return fmt.Sprintf(`{"approval":%q,"decision":%q,"reason":"seen","person":%q}`, id, what, person)
}

// pressed is the form that a button makes Slack send.
func pressed(id, action, user string) string {
	b, _ := json.Marshal(object{
		"type": "block_actions", "user": object{"id": user, "username": "carol", "team_id": "T9TK3CUKW"}, "team": object{"id": "T9TK3CUKW"},
		"container": object{"type": "message"}, "trigger_id": "12321423423.333649436676.d8c1bb837935619ccad0f624c448ffb3",
		"actions": []object{{"type": "button", "action_id": action, "block_id": "=qXel", "value": id, "action_ts": "1548426417.840180", "text": object{"type": "plain_text", "text": "x"}}},
	})
	return "payload=" + url.QueryEscape(string(b))
}

// The signatures are those of the specifications.
func TestVectors(t *testing.T) {
	key, err := standardSecret(plain(ourSecret))
	if err != nil {
		t.Fatal(err)
	}
	// Of the reference libraries of standard-webhooks.
	if got := sign(key, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, []byte(`{"test": 2432232314}`)); got != "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=" {
		t.Error(got)
	}
	// Of Slack's page on verifying requests.
	r := newReader(t, Slack)
	s := sent{map[string]string{"X-Slack-Request-Timestamp": "1531420618", "X-Slack-Signature": "v0=a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503"},
		"token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow&channel_id=G8PSS9T3V&channel_name=foobar&user_id=U2CERLKJA&user_name=roadrunner&command=%2Fwebhook-collect&text=&response_url=https%3A%2F%2Fhooks.slack.com%2Fcommands%2FT1DC2JH3J%2F397700885554%2F96rGlfmibIGlgcZRskXaIFfN&trigger_id=398738663015.47445629121.803a0bc887a14d10d2c447fce8b6703c"}
	if _, _, err := r.verify(s.header, []byte(s.body)); err != nil {
		t.Error(err)
	}
}

// What was signed is read, once, and tells whose decision it is by the table.
func TestRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		id := record.NewID(time.Now())
		std, slk := newReader(t, JSON), newReader(t, Slack)
		time.Sleep(time.Minute)
		rows := []struct {
			name string
			r    *Reader
			s    sent
			want string
		}{
			{"approve", std, standard(ourSecret, "msg_1", time.Now(), decision(id.String(), "approve", "U012AB3CD")), "approve"},
			{"deny", std, standard(ourSecret, "msg_2", time.Now(), decision(id.String(), "deny", "U012AB3CD")), "deny"},
			{"break the glass", std, standard(ourSecret, "msg_3", time.Now(), decision(id.String(), "break_glass", "U012AB3CD")), "break_glass"},
			{"two secrets at the other end", std, standard(ourSecret, "msg_4", time.Now(), decision(id.String(), "deny", "U012AB3CD")).with(HeaderSignature,
				standard(otherSecret, "msg_4", time.Now(), decision(id.String(), "deny", "U012AB3CD")).head[HeaderSignature]+" "+
					standard(ourSecret, "msg_4", time.Now(), decision(id.String(), "deny", "U012AB3CD")).head[HeaderSignature]), "deny"},
			{"the same message tried again a second later", std, standard(ourSecret, "msg_1", time.Now().Add(time.Second), decision(id.String(), "approve", "U012AB3CD")), "approve"},
			{"a clock that is fast", std, standard(ourSecret, "msg_5", time.Now().Add(4*time.Minute), decision(id.String(), "deny", "U012AB3CD")), "deny"},
			{"a button", slk, slacked(slackSecret, time.Now(), pressed(id.String(), "approve", "U012AB3CD")), "approve"},
			{"the other button", slk, slacked(slackSecret, time.Now(), pressed(id.String(), "deny", "U012AB3CD")), "deny"},
		}
		for _, c := range rows {
			a, err := c.r.Read(c.s.header, []byte(c.s.body))
			if err != nil || a.Approval != id || a.Decision != c.want || a.Reason == "" || a.Who == nil || a.Who.Name != "carol" || a.Who.How != "hook" || a.Who.Email != "carol@example.org" || a.Who.Groups[0] != "approvers" {
				t.Errorf("%s: %+v, %v", c.name, a, err)
			}
		}
		for _, later := range []time.Duration{0, time.Second, 4*time.Minute + 58*time.Second, time.Second, time.Second, 4 * time.Minute, time.Hour} {
			time.Sleep(later)
			for _, c := range rows {
				if _, err := c.r.Read(c.s.header, []byte(c.s.body)); !errors.Is(err, errReplayed) && !errors.Is(err, errStale) {
					t.Errorf("%s, the same again: %v", c.name, err)
				}
			}
		}
		// What is remembered does not grow for ever.
		time.Sleep(time.Hour)
		s := slacked(slackSecret, time.Now(), pressed(id.String(), "approve", "U012AB3CD"))
		if _, err := slk.Read(s.header, []byte(s.body)); err != nil || len(slk.seen) != 1 {
			t.Errorf("%v, and %d are remembered", err, len(slk.seen))
		}
		// And what there is no room to remember is not read.
		for i := range maxSeen {
			slk.seen[sha256.Sum256([]byte(strconv.Itoa(i)))] = time.Now().Add(window)
		}
		s = slacked(slackSecret, time.Now(), pressed(id.String(), "deny", "U012AB3CD"))
		if _, err := slk.Read(s.header, []byte(s.body)); !errors.Is(err, errMany) {
			t.Error(err)
		}
	})
}

// Every forgery is refused. That of a caller who decides about a call of his own is the gateway's to refuse: see TestStory.
func TestForged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		id := record.NewID(time.Now()).String()
		readers := [...]*Reader{JSON: newReader(t, JSON), Slack: newReader(t, Slack)}
		time.Sleep(10 * time.Minute)
		now := time.Now()
		body := decision(id, "approve", "U012AB3CD")
		good := standard(ourSecret, "msg_1", now, body)
		form := pressed(id, "approve", "U012AB3CD")
		goodSlack := slacked(slackSecret, now, form)
		payload := func(s string) sent { return slacked(slackSecret, now, "payload="+url.QueryEscape(s)) }
		replace := func(old, new string) sent {
			p, _ := url.QueryUnescape(strings.TrimPrefix(form, "payload="))
			if !strings.Contains(p, old) {
				t.Fatalf("no %q in %s", old, p)
			}
			return payload(strings.Replace(p, old, new, 1))
		}
		for _, c := range []struct {
			name string
			kind Kind
			s    sent
			want string
		}{
			{"nothing at all", JSON, sent{}, "not signed"},
			{"no signature", JSON, good.with(HeaderSignature, ""), "not signed"},
			{"no id", JSON, good.with(HeaderID, ""), "not signed"},
			{"signed without an id", JSON, standard(ourSecret, "", now, body), "not signed"},
			{"signed over other digits", JSON, inOtherDigits(now, body), "not signed"},
			{"another id", JSON, good.with(HeaderID, "msg_2"), "not signed"},
			{"an id that moves the dot", JSON, standard(ourSecret, "msg_1."+strconv.FormatInt(now.Unix(), 10), now, body), "not signed"},
			{"no time", JSON, good.with(HeaderTimestamp, ""), "not signed"},
			{"another time", JSON, good.with(HeaderTimestamp, strconv.FormatInt(now.Unix()+1, 10)), "not signed"},
			{"the time in other digits", JSON, good.with(HeaderTimestamp, "0"+strconv.FormatInt(now.Unix(), 10)), "not signed"},
			{"a time with a sign", JSON, good.with(HeaderTimestamp, "+"+strconv.FormatInt(now.Unix(), 10)), "not signed"},
			{"the body changed", JSON, sent{good.head, decision(id, "approve", "U0MALLORY")}, "not signed"},
			{"a byte more", JSON, sent{good.head, body + " "}, "not signed"},
			{"another secret", JSON, standard(otherSecret, "msg_1", now, body), "not signed"},
			{"a signature of another version", JSON, good.with(HeaderSignature, strings.Replace(good.head[HeaderSignature], "v1,", "v2,", 1)), "not signed"},
			{"a signature of the asymmetric version", JSON, good.with(HeaderSignature, strings.Replace(good.head[HeaderSignature], "v1,", "v1a,", 1)), "not signed"},
			{"a signature without version", JSON, good.with(HeaderSignature, strings.TrimPrefix(good.head[HeaderSignature], "v1,")), "not signed"},
			{"half a signature", JSON, good.with(HeaderSignature, good.head[HeaderSignature][:20]), "not signed"},
			{"an empty signature", JSON, good.with(HeaderSignature, "v1,"), "not signed"},
			{"signed as Slack does", JSON, goodSlack, "not signed"},
			{"stale", JSON, standard(ourSecret, "msg_1", now.Add(-window-time.Second), body), "not signed within"},
			{"of the future", JSON, standard(ourSecret, "msg_1", now.Add(window+time.Second), body), "not signed within"},
			{"nobody in the table", JSON, standard(ourSecret, "msg_1", now, decision(id, "approve", "U999")), "U999"},
			{"nobody", JSON, standard(ourSecret, "msg_1", now, decision(id, "approve", "")), "nobody"},
			{"by name, not by what they are called there", JSON, standard(ourSecret, "msg_1", now, decision(id, "approve", "carol")), "nobody"},
			{"no approval", JSON, standard(ourSecret, "msg_1", now, decision("x", "approve", "U012AB3CD")), "no id"},
			{"no decision", JSON, standard(ourSecret, "msg_1", now, decision(id, "maybe", "U012AB3CD")), "maybe"},
			{"a decision in capitals", JSON, standard(ourSecret, "msg_1", now, decision(id, "APPROVE", "U012AB3CD")), "APPROVE"},
			{"two persons", JSON, standard(ourSecret, "msg_1", now, strings.Replace(body, "{", `{"person":"U0MALLORY",`, 1)), "duplicate"},
			{"a member in capitals", JSON, standard(ourSecret, "msg_1", now, strings.Replace(body, "person", "Person", 1)), "Person"},
			{"an unknown member", JSON, standard(ourSecret, "msg_1", now, strings.Replace(body, "{", `{"groups":["oncall"],`, 1)), "groups"},
			{"two decisions", JSON, standard(ourSecret, "msg_1", now, body+body), "no decision"},
			{"no JSON", JSON, standard(ourSecret, "msg_1", now, "decision=approve"), "no decision"},

			{"Slack: nothing at all", Slack, sent{}, "not signed"},
			{"Slack: no signature", Slack, goodSlack.with("X-Slack-Signature", ""), "not signed"},
			{"Slack: another version", Slack, goodSlack.with("X-Slack-Signature", strings.Replace(goodSlack.head["X-Slack-Signature"], "v0=", "v1=", 1)), "not signed"},
			{"Slack: another secret", Slack, slacked("another-secret-of-slacks", now, form), "not signed"},
			{"Slack: another time", Slack, goodSlack.with("X-Slack-Request-Timestamp", strconv.FormatInt(now.Unix()-1, 10)), "not signed"},
			{"Slack: the body changed", Slack, sent{goodSlack.head, strings.Replace(form, "U012AB3CD", "U0MALLORY", 1)}, "not signed"},
			{"Slack: a second payload", Slack, sent{goodSlack.head, form + "&" + form}, "not signed"},
			{"Slack: signed as a Standard Webhook", Slack, standard(ourSecret, "msg_1", now, form), "not signed"},
			{"Slack: stale", Slack, slacked(slackSecret, now.Add(-window-time.Second), form), "not signed within"},
			{"Slack: two payloads", Slack, slacked(slackSecret, now, form+"&"+form), "one payload"},
			{"Slack: no payload", Slack, slacked(slackSecret, now, "ssl_check=1"), "one payload"},
			{"Slack: no form", Slack, slacked(slackSecret, now, "payload=%zz"), "one payload"},
			{"Slack: no JSON", Slack, payload("x"), "not Slack's"},
			{"Slack: another type", Slack, replace(`"type":"block_actions"`, `"type":"view_submission"`), "one button"},
			{"Slack: another button", Slack, replace(`"action_id":"approve"`, `"action_id":"break_glass"`), "break_glass"},
			{"Slack: what is no button", Slack, replace(`"type":"button"`, `"type":"static_select"`), "one button"},
			{"Slack: nobody in the table", Slack, replace(`"id":"U012AB3CD"`, `"id":"U012AB3CE"`), "U012AB3CE"},
			{"Slack: two users", Slack, replace(`"id":"U012AB3CD"`, `"id":"U012AB3CD","id":"U0MALLORY"`), "duplicate"},
			{"Slack: no approval", Slack, replace(id, "x"), "no id"},
			{"Slack: two actions", Slack, replace(`"actions":[`, `"actions":[{"type":"button","action_id":"approve","value":"`+id+`"},`), "one button"},
			{"Slack: no action", Slack, payload(`{"type":"block_actions","user":{"id":"U012AB3CD"},"actions":[]}`), "one button"},
		} {
			if _, err := readers[c.kind].Read(c.s.header, []byte(c.s.body)); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s: %v", c.name, err)
			}
			clear(readers[c.kind].seen) // what is signed rightly in another way is not to be a replay
		}
	})
}

// What was signed before the gateway began may have been read by the gateway before it.
func TestReadOfAnEarlierLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		id := record.NewID(time.Now()).String()
		s := slacked(slackSecret, time.Now(), pressed(id, "approve", "U012AB3CD"))
		time.Sleep(2 * time.Second)
		if _, err := newReader(t, Slack).Read(s.header, []byte(s.body)); !errors.Is(err, errStale) {
			t.Error(err)
		}
	})
}

// A Reader that would believe anybody cannot be made.
func TestReaderRefuses(t *testing.T) {
	for _, c := range []struct {
		name, want string
		c          ReaderConfig
	}{
		{"no secret", "without a secret", ReaderConfig{People: people}},
		{"a secret of another form", "whsec_", ReaderConfig{Secret: plain("0123456789abcdef0123456789abcdef"), People: people}},
		{"a short one", "whsec_", ReaderConfig{Secret: plain("whsec_AAAA"), People: people}},
		{"one that is not base64", "whsec_", ReaderConfig{Secret: plain(ourSecret + "!"), People: people}},
		{"a short one of Slack's", "signing secret", ReaderConfig{Kind: Slack, Secret: plain("short"), People: people}},
		{"nobody", "nobody can decide", ReaderConfig{Secret: plain(ourSecret)}},
		{"somebody without groups", "needs a name and groups", ReaderConfig{Secret: plain(ourSecret), People: map[string]gateway.Principal{"U1": {Name: "carol"}}}},
		{"somebody without a name", "needs a name and groups", ReaderConfig{Secret: plain(ourSecret), People: map[string]gateway.Principal{"U1": {Groups: []string{"x"}}}}},
		{"another kind", "no kind", ReaderConfig{Kind: 9, Secret: plain(ourSecret), People: people}},
	} {
		if _, err := NewReader(c.c); err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "0123456789abcdef") {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

func FuzzReadJSON(f *testing.F) {
	id := record.NewID(time.Now()).String()
	f.Add("msg_1", []byte(decision(id, "approve", "U012AB3CD")), "v1,", false)
	f.Add("msg_1", []byte(decision(id, "deny", "U012AB3CD")), "v1,AA== v1a,", true)
	f.Add("", []byte(`{"approval":{}}`), "", true)
	r := newReader(f, JSON)
	f.Fuzz(func(t *testing.T, msg string, body []byte, signature string, signed bool) {
		s := standard(ourSecret, msg, time.Now(), string(body))
		if !signed {
			s = s.with(HeaderSignature, signature)
		}
		fuzzed(t, r, s, body, signed, signature == standard(ourSecret, msg, time.Now(), string(body)).head[HeaderSignature])
	})
}

func FuzzReadSlack(f *testing.F) {
	id := record.NewID(time.Now()).String()
	f.Add([]byte(pressed(id, "approve", "U012AB3CD")), "v0=", false)
	f.Add([]byte(pressed(id, "deny", "U012AB3CD")), "v0=00", true)
	f.Add([]byte("payload=%7B%22actions%22%3Anull%7D"), "", true)
	r := newReader(f, Slack)
	f.Fuzz(func(t *testing.T, body []byte, signature string, signed bool) {
		s := slacked(slackSecret, time.Now(), string(body))
		right := s.head["X-Slack-Signature"]
		if !signed {
			s = s.with("X-Slack-Signature", signature)
		}
		fuzzed(t, r, s, body, signed, strings.EqualFold(signature, right))
	})
}

// fuzzed reads anything: what was not signed is never read, and what is read is whole and of somebody in the table.
func fuzzed(t *testing.T, r *Reader, s sent, body []byte, signed, right bool) {
	before := bytes.Clone(body)
	a, err := r.Read(s.header, body)
	if !bytes.Equal(body, before) {
		t.Fatal("the body was changed")
	}
	r.mu.Lock()
	clear(r.seen)
	r.mu.Unlock()
	if err != nil {
		return
	}
	if !signed && !right {
		t.Fatalf("read, and nobody signed it: %+v", a)
	}
	if a.Approval.IsZero() || a.Who == nil || a.Who.How != How || a.Decision != "approve" && a.Decision != "deny" && a.Decision != "break_glass" {
		t.Fatalf("%+v", a)
	}
}
