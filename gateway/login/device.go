package login

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/tallystick/tallystick/gateway"
	"github.com/tallystick/tallystick/gateway/token"
)

// A device is a program that waits for a token (RFC 8628).
type device struct {
	name, from, code string

	mu      sync.Mutex
	polled  time.Time    // under mu
	decided bool         // under mu
	by      *token.Token // under mu: the session of who said yes; nil for no
}

func (d *device) waits() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return !d.decided
}

// decide takes note of a yes or a no, the first one.
func (d *device) decide(t *token.Token, yes bool) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.decided {
		return false
	}
	if d.decided = true; yes {
		d.by = t
	}
	return true
}

// Codes have no vowels, so that they make no words, and nothing that looks like a digit.
const codeLetters = "BCDFGHJKLMNPQRSTVWXZ"

func newCode() string {
	var b strings.Builder
	for b.Len() < 8 {
		var c [1]byte
		rand.Read(c[:])
		if int(c[0]) < 256/len(codeLetters)*len(codeLetters) {
			b.WriteByte(codeLetters[int(c[0])%len(codeLetters)])
		}
	}
	return b.String()
}

// normal is a code as it is kept, however people write it; "" for what is none.
func normal(code string) string {
	code = strings.ToUpper(strings.NewReplacer("-", "", " ", "").Replace(code))
	if len(code) != 8 || strings.Trim(code, codeLetters) != "" {
		return ""
	}
	return code
}

func shown(code string) string { return code[:4] + "-" + code[4:] }

// Begun is what a program is told at first (RFC 8628 §3.2).
type Begun struct {
	Device   string `json:"device_code"`
	Code     string `json:"user_code"`
	URL      string `json:"verification_uri"`
	Complete string `json:"verification_uri_complete"`
	Expires  int    `json:"expires_in"` // seconds
	Interval int    `json:"interval"`   // seconds
}

// Given is what a program is told at last (RFC 6749 §5.1).
type Given struct {
	Token   string `json:"access_token"`
	Type    string `json:"token_type"`
	Expires int    `json:"expires_in"` // seconds
	ID      string `json:"id"`
	Who     string `json:"principal"`
}

// begin gives a program a code.
func (p *Pages) begin(w http.ResponseWriter, r *http.Request) {
	name := r.PostForm.Get("name")
	if !plain(name) {
		p.api(w, http.StatusBadRequest, map[string]string{"error": "invalid_request"})
		return
	}
	secret := rand.Text() + rand.Text()
	d := &device{name: name, from: from(r), code: newCode()}
	if !p.byCode.put(d.code, d, d.from) {
		w.Header().Set("Retry-After", "60")
		p.api(w, http.StatusTooManyRequests, map[string]string{"error": "slow_down"})
		return
	}
	if !p.devices.put(sum(secret), d, "") {
		p.byCode.takeIf(d.code, nil)
		w.Header().Set("Retry-After", "60")
		p.api(w, http.StatusTooManyRequests, map[string]string{"error": "slow_down"})
		return
	}
	p.api(w, http.StatusOK, Begun{
		Device: secret, Code: shown(d.code), URL: p.origin + p.at, Complete: p.origin + p.at + "?code=" + shown(d.code),
		Expires: int(underWay.Seconds()), Interval: int(interval.Seconds()),
	})
}

// from is the address a request came from, without its port.
func from(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	return host
}

func sum(s string) string {
	b := sha256.Sum256([]byte(s))
	return hex.EncodeToString(b[:])
}

// poll gives a program its token, once a person said yes, and once.
func (p *Pages) poll(w http.ResponseWriter, r *http.Request, note gateway.Note) {
	no := func(word string) { p.api(w, http.StatusBadRequest, map[string]string{"error": word}) }
	key := sum(r.PostForm.Get("device_code"))
	d, ok := p.devices.get(key)
	if !ok {
		no("expired_token")
		return
	}
	d.mu.Lock()
	soon := time.Since(d.polled) < interval/2
	d.polled = time.Now()
	decided, by := d.decided, d.by
	d.mu.Unlock()
	switch {
	case !decided && soon:
		no("slow_down")
		return
	case !decided:
		no("authorization_pending")
		return
	}
	if _, ok := p.devices.takeIf(key, nil); !ok {
		no("expired_token") // another poll was faster
		return
	}
	p.byCode.takeIf(d.code, nil)
	if by == nil {
		no("access_denied")
		return
	}
	// The person may have signed out since.
	life := time.Until(by.Expires)
	if !p.lives(by.ID) || life <= 0 {
		no("access_denied")
		return
	}
	value, t, err := p.mint(by.Principal, token.Bearer, d.name, life, "token", note)
	if err != nil {
		p.log.Error("a token could not be given", "err", err)
		p.api(w, http.StatusServiceUnavailable, map[string]string{"error": "temporarily_unavailable"})
		return
	}
	p.log.Info("a token was given", "principal", by.Principal.Name, "token", t.ID, "name", d.name)
	p.api(w, http.StatusOK, Given{Token: value, Type: "Bearer", Expires: int(time.Until(t.Expires).Seconds()), ID: t.ID, Who: by.Principal.Name})
}

// lives says whether a token is there still.
func (p *Pages) lives(id string) bool {
	for _, t := range p.cfg.Tokens.List() {
		if t.ID == id {
			return true
		}
	}
	return false
}

// A table keeps what is under way, so much of it, so much of one owner's, and so long.
type table[T any] struct {
	most, each int

	mu   sync.Mutex
	rows map[string]row[T] // under mu
	of   map[string]int    // under mu: how many rows have an owner
}

type row[T any] struct {
	value T
	owner string
	until time.Time
}

func newTable[T any](most, each int) *table[T] {
	return &table[T]{most: most, each: each, rows: make(map[string]row[T]), of: make(map[string]int)}
}

// put adds a row, if there is room for it, and if its owner has not too many.
func (t *table[T]) put(key string, value T, owner string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.rows) >= t.most || t.of[owner] >= t.each {
		now := time.Now()
		for k, r := range t.rows {
			if !now.Before(r.until) {
				t.drop(k)
			}
		}
		if len(t.rows) >= t.most || t.of[owner] >= t.each {
			return false
		}
	}
	if _, ok := t.rows[key]; ok {
		return false
	}
	t.rows[key] = row[T]{value, owner, time.Now().Add(underWay)}
	t.of[owner]++
	return true
}

// drop takes a row out. The caller holds mu.
func (t *table[T]) drop(key string) {
	owner := t.rows[key].owner
	if t.of[owner]--; t.of[owner] <= 0 {
		delete(t.of, owner)
	}
	delete(t.rows, key)
}

func (t *table[T]) get(key string) (v T, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	r, ok := t.rows[key]
	if !ok || !time.Now().Before(r.until) {
		return v, false
	}
	return r.value, true
}

// takeIf takes a row out and returns it, if good says so of it; nil is good.
func (t *table[T]) takeIf(key string, good func(T) bool) (v T, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	r, ok := t.rows[key]
	if !ok || !time.Now().Before(r.until) || good != nil && !good(r.value) {
		return v, false
	}
	t.drop(key)
	return r.value, true
}
