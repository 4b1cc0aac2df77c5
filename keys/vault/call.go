package vault

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
	"unicode"

	"github.com/hashicorp/vault/api"

	"github.com/tallystick/tallystick/keys"
)

// A request is a question to Vault. Its fields hold what may be printed, but for the strings in body.
type request struct {
	method string
	path   string // below /v1/
	query  url.Values
	body   map[string]any
}

// An answer is what all of Vault's answers have in common.
type answer struct {
	Data json.RawMessage `json:"data"`
	Auth *auth           `json:"auth"`
}

type auth struct {
	ClientToken   string `json:"client_token"`
	LeaseDuration int64  `json:"lease_duration"` // seconds
	Renewable     bool   `json:"renewable"`
}

// patience is the context of a call that was given none: time for a log-in and a question, or for two questions.
func (c *Client) patience() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), 2*c.timeout)
}

// call asks once as whoever the client is logged in as. After a 403 it logs in afresh, once, unless that was only just done,
// and asks again: nothing was done where that is answered. data, unless nil, is filled from the answer's field of that name.
func (c *Client) call(ctx context.Context, r request, data any) error {
	s, err := c.session(ctx)
	if err != nil {
		return strange{err}
	}
	a, err := c.send(ctx, s.token, r)
	if errors.Is(err, keys.ErrDenied) && s.mayReenter(err) {
		again, lerr := c.enter(ctx, s.serial)
		if lerr != nil {
			return fmt.Errorf("%w; and a fresh log-in: %v", err, lerr)
		}
		a, err = c.send(ctx, again.token, r)
	}
	if err != nil {
		return err
	}
	return r.decode(a, data)
}

// strange is the error where nobody was logged in, and nothing was asked.
type strange struct{ error }

func (s strange) Unwrap() error { return s.error }

// forbids says whether err is that a policy does not allow what was asked.
func forbids(err error) bool {
	return errors.Is(err, keys.ErrDenied) && !errors.As(err, new(strange))
}

func (r request) decode(a answer, data any) error {
	if data == nil {
		return nil
	}
	if len(a.Data) == 0 || bytes.Equal(a.Data, []byte("null")) {
		return r.senseless("no data in it")
	}
	if err := json.Unmarshal(a.Data, data); err != nil {
		return r.senseless("data of another shape")
	}
	return nil
}

// How old a session must be for a 403 to lead to a fresh log-in. What a policy forbids, no log-in allows; newer Vaults say
// when it is the token that they do not know.
const (
	reenterAfter        = 30 * time.Second
	reenterUnknownAfter = time.Second
)

func (s session) mayReenter(err error) bool {
	age := time.Since(s.entered)
	return age >= reenterAfter || age >= reenterUnknownAfter && says(err, "invalid token")
}

// send asks once with this token. It ends within Config.Timeout.
func (c *Client) send(ctx context.Context, token keys.Secret, r request) (answer, error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	req := c.api.NewRequest(r.method, "/v1/"+r.path)
	req.ClientToken = string(token.Reveal())
	req.Params = r.query
	if r.body != nil {
		if err := req.SetJSONBody(r.body); err != nil {
			return answer{}, r.failed(err)
		}
	}
	resp, err := c.api.RawRequestWithContext(ctx, req)
	if resp != nil {
		defer resp.Body.Close()
	}
	if err != nil {
		return answer{}, c.explain(r, token, resp, err)
	}
	if resp.StatusCode >= 300 {
		return answer{}, r.failed(fmt.Errorf("Vault redirects to %.200q, and redirects are not followed: set the address that answers", resp.Header.Get("Location")))
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return answer{}, r.failed(fmt.Errorf("reading the answer: %w", err))
	}
	if len(body) == 0 {
		return answer{}, nil
	}
	var a answer
	if err := json.Unmarshal(body, &a); err != nil {
		return answer{}, r.senseless("no JSON in it")
	}
	return a, nil
}

// A refusal is an answer of Vault that is not a success.
type refusal struct {
	request string // method and path
	status  int
	says    string          // Vault's words, safe to print; "" for none
	data    json.RawMessage // what a 404 tells besides
}

func (e *refusal) Error() string {
	s := fmt.Sprintf("%s: Vault answered %d", e.request, e.status)
	switch e.status {
	case http.StatusServiceUnavailable:
		s += ", sealed or not ready: unseal it"
	case http.StatusTooManyRequests:
		s += ", too many requests"
	}
	if e.says != "" {
		s += ": " + e.says
	}
	return s
}

func (e *refusal) Unwrap() error {
	if e.status == http.StatusForbidden || e.status == http.StatusUnauthorized {
		return keys.ErrDenied
	}
	return nil
}

// isNothing says whether there is nothing at the path, and the engine itself says so: a 404 without a word. Where there is
// no engine, or no Vault, there are words.
func isNothing(err error) bool {
	var e *refusal
	return errors.As(err, &e) && e.status == http.StatusNotFound && e.says == "" && e.data == nil
}

// explain makes an error of what the client's library returned, which may hold all that was sent.
func (c *Client) explain(r request, token keys.Secret, resp *api.Response, err error) error {
	var re *api.ResponseError
	if !errors.As(err, &re) {
		var ue *url.Error
		if errors.As(err, &ue) { // it repeats the address
			err = ue.Err
		}
		return r.failed(err)
	}
	e := &refusal{request: r.method + " " + r.path, status: re.StatusCode}
	if !re.RawError { // else it is a proxy's page, or whatever it is
		e.says = r.safe(token, strings.Join(re.Errors, "; "))
	}
	if re.StatusCode == http.StatusNotFound && e.says == "" {
		var a struct {
			Errors *[]string
			Data   json.RawMessage
		}
		body, err := io.ReadAll(resp.Body)
		if err == nil {
			err = json.Unmarshal(body, &a)
		}
		e.data = a.Data
		if e.data == nil && (err != nil || a.Errors == nil) {
			e.says = "not in Vault's own words: is this the address of a Vault?"
		}
	}
	return e
}

// safe returns what a server says, on one line and not too long, and nothing of it when it repeats what it was sent.
func (r request) safe(token keys.Secret, says string) string {
	secrets := []string{string(token.Reveal())}
	for k, v := range r.body {
		if s, ok := v.(string); ok && k != "role" && k != "name" && k != "type" { // names that people need to see
			secrets = append(secrets, s)
		}
	}
	for _, s := range secrets {
		if len(s) >= 4 && strings.Contains(says, s) {
			return "(what it says repeats what it was sent, and is left out)"
		}
	}
	says = strings.Join(strings.FieldsFunc(says, func(c rune) bool { return !unicode.IsPrint(c) }), " ")
	if len(says) > 300 {
		says = strings.ToValidUTF8(says[:300], "") + "…"
	}
	return says
}

func (r request) failed(err error) error { return fmt.Errorf("%s %s: %w", r.method, r.path, err) }

func (r request) senseless(why string) error {
	return r.failed(fmt.Errorf("the answer makes no sense: %s", why))
}

// says tells whether err is Vault's refusal in one of these words, whatever its status: the engine answers 500 to
// some questions that will never be answered otherwise.
func says(err error, words ...string) bool {
	var e *refusal
	if !errors.As(err, &e) {
		return false
	}
	for _, w := range words {
		if strings.Contains(e.says, w) {
			return true
		}
	}
	return false
}
