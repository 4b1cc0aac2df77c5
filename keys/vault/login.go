package vault

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"time"

	"github.com/tallystick/tallystick/keys"
)

// Login says how to log in: exactly one of its fields is set. Whatever secret it takes is read anew at each log-in.
type Login struct {
	// Token is a token that was handed out. Where it cannot be renewed any more, it is read again, from a file that an
	// agent keeps up to date, for instance. It must be allowed auth/token/lookup-self.
	Token keys.Credential

	AppRole    *AppRole
	Kubernetes *Kubernetes
	JWT        *JWT
	Cert       *Cert
}

// AppRole is a log-in with a role-id and a secret-id.
type AppRole struct {
	Mount    string // "" means approle
	RoleID   string
	SecretID keys.Credential
	// Wrapped says that SecretID is a token that the secret-id was wrapped in. It opens once: that somebody else was
	// quicker is noticed. The secret-id is kept in memory for the next log-in.
	Wrapped bool
}

// Kubernetes is a log-in with the token of a service account.
type Kubernetes struct {
	Mount string // "" means kubernetes
	Role  string
	Token string // its file; "" is where Kubernetes mounts it
}

// JWT is a log-in with a signed token of another issuer.
type JWT struct {
	Mount string // "" means jwt
	Role  string
	Token keys.Credential
}

// Cert is a log-in with the client certificate of the Config.
type Cert struct {
	Mount string // "" means cert
	Role  string // "" lets Vault choose
}

const serviceAccount = "/var/run/secrets/kubernetes.io/serviceaccount/token"

func (l Login) check(cert bool) error {
	n := 0
	for _, set := range []bool{!l.Token.IsZero(), l.AppRole != nil, l.Kubernetes != nil, l.JWT != nil, l.Cert != nil} {
		if set {
			n++
		}
	}
	switch {
	case n == 0:
		return errors.New("no way to log in to Vault: give a token, an AppRole, or another one")
	case n > 1:
		return errors.New("more than one way to log in to Vault: keep one")
	case l.AppRole != nil && (l.AppRole.RoleID == "" || l.AppRole.SecretID.IsZero()):
		return errors.New("a log-in by AppRole needs a role-id and a reference to its secret-id")
	case l.Kubernetes != nil && l.Kubernetes.Role == "":
		return errors.New("a log-in by Kubernetes needs a role")
	case l.JWT != nil && (l.JWT.Role == "" || l.JWT.Token.IsZero()):
		return errors.New("a log-in by JWT needs a role and a reference to the token")
	case l.Cert != nil && !cert:
		return errors.New("a log-in by certificate needs the client certificate and its key")
	}
	// The rule for mounts is that of references.
	if _, err := keys.ParseReference("vault:auth/" + l.mount()); err != nil {
		return fmt.Errorf("%.100q cannot be the mount of a log-in method", l.mount())
	}
	return nil
}

// method says in a word how it is logged in.
func (l Login) method() string {
	switch {
	case l.AppRole != nil:
		return "approle"
	case l.Kubernetes != nil:
		return "kubernetes"
	case l.JWT != nil:
		return "jwt"
	case l.Cert != nil:
		return "cert"
	}
	return "token"
}

// mount is where the method answers, below auth/.
func (l Login) mount() string {
	mount := ""
	switch {
	case l.AppRole != nil:
		mount = l.AppRole.Mount
	case l.Kubernetes != nil:
		mount = l.Kubernetes.Mount
	case l.JWT != nil:
		mount = l.JWT.Mount
	case l.Cert != nil:
		mount = l.Cert.Mount
	}
	if mount == "" {
		return l.method()
	}
	return mount
}

// A session is a token and how long it lives.
type session struct {
	token     keys.Secret
	serial    uint64    // of the log-in, from 1; a renewal keeps it
	entered   time.Time // when it was logged in
	begun     time.Time // the same, or its last renewal; before Vault was asked
	until     time.Time // zero: for ever
	renewable bool
}

func (s session) alive() bool {
	return s.serial != 0 && (s.until.IsZero() || time.Now().Before(s.until))
}

// trouble is why there is no session, and when to try for one again.
type trouble struct {
	err   error
	times int
	until time.Time
}

func (c *Client) current() (session, <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now, c.changed
}

func (c *Client) become(s session) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now, c.trouble = s, trouble{}
	close(c.changed)
	c.changed = make(chan struct{})
}

// session returns the session there is, or logs in.
func (c *Client) session(ctx context.Context) (session, error) {
	s, _ := c.current()
	if s.alive() {
		return s, nil
	}
	return c.enter(ctx, s.serial)
}

// enter logs in, unless somebody else has since the log-in with that serial, and returns the new session. After a log-in
// that failed, nobody tries again for a while, half a second at first and half a minute at most, and everybody is told
// why it failed.
func (c *Client) enter(ctx context.Context, stale uint64) (session, error) {
	select {
	case c.entering <- struct{}{}:
		defer func() { <-c.entering }()
	case <-ctx.Done():
		return session{}, fmt.Errorf("log in to Vault: %w", ctx.Err())
	}
	c.mu.Lock()
	s, t := c.now, c.trouble
	c.mu.Unlock()
	if s.serial != stale && s.alive() {
		return s, nil
	}
	if wait := time.Until(t.until); wait > 0 {
		return session{}, fmt.Errorf("log in to Vault: not before %v: %w", wait.Round(time.Millisecond), t.err)
	}
	begun := time.Now()
	fresh, err := c.logIn(ctx)
	if err == nil && !fresh.until.IsZero() && !time.Now().Before(fresh.until) {
		err = fmt.Errorf("a token that has ended already: %w", keys.ErrDenied)
	}
	if err != nil {
		err = fmt.Errorf("log in to Vault: by %s: %w", c.login.method(), err)
		if ctx.Err() != nil { // whoever asked did not wait for the answer
			return session{}, err
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		c.trouble = trouble{err, t.times + 1, time.Now().Add(pause(t.times))}
		return session{}, err
	}
	fresh.serial, fresh.entered, fresh.begun = s.serial+1, begun, begun
	c.become(fresh)
	c.log.Info("logged in to Vault", "vault", c.where, "by", c.login.method(), "until", fresh.until, "renewable", fresh.renewable)
	if c.warn != "" {
		c.log.Warn(c.warn, "vault", c.where)
	}
	return fresh, nil
}

// pause is how long to wait after the n-th failure, counted from 0.
func pause(n int) time.Duration {
	d := 500 * time.Millisecond << min(n, 6)
	return min(d, 30*time.Second)*3/4 + rand.N(min(d, 30*time.Second)/4)
}

// Run keeps the client logged in until ctx is done, and then returns nil. A token is renewed when two thirds of its life are
// over. Where that does not succeed before nine tenths are, where it has reached its greatest age, and where Vault does not
// know it any more, there is a fresh log-in. What fails is tried again for as long as it takes, and written to the log.
// Without Run, a token is used until it ends, and then there is a fresh log-in.
func (c *Client) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		s, changed := c.current()
		if !s.alive() {
			if _, err := c.enter(ctx, s.serial); err != nil {
				c.warnOf(ctx, "no log-in to Vault", err)
				sleep(ctx, nil, max(c.untilNext(), 100*time.Millisecond))
			}
			continue
		}
		if s.until.IsZero() {
			sleep(ctx, changed, 0)
			continue
		}
		life := s.until.Sub(s.begun)
		at := s.begun.Add(life*2/3 - rand.N(life/20+1))
		if sleep(ctx, changed, max(time.Until(at), time.Second)) {
			c.prolong(ctx, s)
		}
	}
	return nil
}

// sleep waits until d is over, and for ever where it is 0. It returns whether that is why it returned.
func sleep(ctx context.Context, changed <-chan struct{}, d time.Duration) bool {
	var over <-chan time.Time
	if d > 0 {
		t := time.NewTimer(d)
		defer t.Stop()
		over = t.C
	}
	select {
	case <-over:
		return true
	case <-changed:
	case <-ctx.Done():
	}
	return false
}

func (c *Client) untilNext() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Until(c.trouble.until)
}

func (c *Client) warnOf(ctx context.Context, what string, err error) {
	if ctx.Err() == nil {
		c.log.Warn(what, "vault", c.where, "by", c.login.method(), "error", err)
	}
}

// prolong renews the session s, or logs in afresh. It returns when either is done, or s has ended, and Run goes on.
func (c *Client) prolong(ctx context.Context, s session) {
	last := s.until.Add(-s.until.Sub(s.begun) / 10)
	for n := 0; s.renewable && time.Now().Before(last); n++ {
		renewed, err := c.renew(ctx, s)
		// A lease of 0 seconds, which ends never elsewhere, is a last second here, and not later either.
		if err == nil && renewed.until.Sub(s.until) > s.until.Sub(s.begun)/10 {
			c.mu.Lock()
			same := c.now.serial == s.serial
			c.mu.Unlock()
			if same {
				c.become(renewed)
			}
			return
		}
		if err == nil { // it has reached its greatest age
			break
		}
		c.warnOf(ctx, "the token of Vault was not renewed", err)
		if errors.Is(err, keys.ErrDenied) || says(err, "lease is not renewable", "token not found") {
			break
		}
		if !sleep(ctx, nil, min(pause(n), time.Until(last)+time.Millisecond)) {
			return
		}
	}
	for ctx.Err() == nil && s.alive() {
		if _, err := c.enter(ctx, s.serial); err == nil {
			return
		} else {
			c.warnOf(ctx, "no fresh log-in to Vault yet", err)
		}
		sleep(ctx, nil, max(c.untilNext(), 100*time.Millisecond))
	}
}

func (c *Client) renew(ctx context.Context, s session) (session, error) {
	select {
	case c.entering <- struct{}{}:
		defer func() { <-c.entering }()
	case <-ctx.Done():
		return session{}, ctx.Err()
	}
	begun := time.Now()
	r := request{method: http.MethodPut, path: "auth/token/renew-self", body: map[string]any{}}
	a, err := c.send(ctx, s.token, r)
	if err != nil {
		return session{}, err
	}
	if a.Auth == nil {
		return session{}, r.senseless("no token in it")
	}
	s.begun, s.until, s.renewable = begun, ends(begun, a.Auth.LeaseDuration), a.Auth.Renewable
	return s, nil
}

// ends is when a lease of so many seconds does; 0 seconds are for ever.
func ends(begun time.Time, seconds int64) time.Time {
	if seconds <= 0 {
		return time.Time{}
	}
	return begun.Add(time.Duration(min(seconds, 1<<32)) * time.Second)
}

// logIn gets a token. The caller holds entering.
func (c *Client) logIn(ctx context.Context) (session, error) {
	body := make(map[string]any)
	switch l := c.login; {
	case l.AppRole != nil:
		secret, err := c.secretID(ctx, *l.AppRole)
		if err != nil {
			return session{}, err
		}
		body["role_id"], body["secret_id"] = l.AppRole.RoleID, string(secret.Reveal())
	case l.Kubernetes != nil:
		path := l.Kubernetes.Token
		if path == "" {
			path = serviceAccount
		}
		token, err := keys.Credential{File: path}.Load(nil)
		if err != nil {
			return session{}, err
		}
		body["role"], body["jwt"] = l.Kubernetes.Role, string(token.Reveal())
	case l.JWT != nil:
		token, err := l.JWT.Token.Load(c.lookup)
		if err != nil {
			return session{}, err
		}
		body["role"], body["jwt"] = l.JWT.Role, string(token.Reveal())
	case l.Cert != nil:
		c.idle() // a connection keeps the certificate that it began with
		if l.Cert.Role != "" {
			body["name"] = l.Cert.Role
		}
	default:
		return c.ownToken(ctx)
	}
	begun := time.Now()
	r := request{method: http.MethodPut, path: "auth/" + c.login.mount() + "/login", body: body}
	a, err := c.send(ctx, keys.Secret{}, r)
	if err != nil {
		return session{}, err
	}
	if a.Auth == nil || a.Auth.ClientToken == "" {
		return session{}, r.senseless("no token in it")
	}
	return session{token: keys.NewSecret([]byte(a.Auth.ClientToken)), until: ends(begun, a.Auth.LeaseDuration), renewable: a.Auth.Renewable}, nil
}

// ownToken asks about the token that was handed out.
func (c *Client) ownToken(ctx context.Context) (session, error) {
	token, err := c.login.Token.Load(c.lookup)
	if err != nil {
		return session{}, err
	}
	begun := time.Now()
	r := request{method: http.MethodGet, path: "auth/token/lookup-self"}
	a, err := c.send(ctx, token, r)
	if err != nil {
		return session{}, fmt.Errorf("the token is not valid here, or may not ask about itself: %w", err)
	}
	var data struct {
		TTL       int64   `json:"ttl"` // whole seconds, so also 0 in the last one
		Expires   *string `json:"expire_time"`
		Renewable bool    `json:"renewable"`
	}
	if err := r.decode(a, &data); err != nil {
		return session{}, err
	}
	s := session{token: token, until: ends(begun, data.TTL), renewable: data.Renewable}
	if data.Expires != nil && s.until.IsZero() {
		s.until = begun
	}
	return s, nil
}

// unwrapped is the last secret-id that came out of a wrapping token.
type unwrapped struct {
	from   [sha256.Size]byte // of the wrapping token
	secret keys.Secret
}

// secretID returns the secret-id. The caller holds entering.
func (c *Client) secretID(ctx context.Context, role AppRole) (keys.Secret, error) {
	s, err := role.SecretID.Load(c.lookup)
	if err != nil || !role.Wrapped {
		return s, err
	}
	from := sha256.Sum256(s.Reveal())
	if c.unwrapped.from == from {
		return c.unwrapped.secret, nil
	}
	// Whoever puts another wrapping token in its place would have us log in with a secret-id of theirs.
	r := request{method: http.MethodPut, path: "sys/wrapping/lookup", body: map[string]any{"token": string(s.Reveal())}}
	a, err := c.send(ctx, keys.Secret{}, r)
	if err != nil {
		return keys.Secret{}, spent(err)
	}
	var wrap struct {
		Path string `json:"creation_path"`
	}
	if err := r.decode(a, &wrap); err != nil {
		return keys.Secret{}, err
	}
	if !strings.HasPrefix(wrap.Path, "auth/"+c.login.mount()+"/role/") || !strings.HasSuffix(wrap.Path, "/secret-id") && !strings.HasSuffix(wrap.Path, "/custom-secret-id") {
		return keys.Secret{}, fmt.Errorf("the wrapping token was made by %.200q, which makes no secret-id of this AppRole: somebody has replaced it", wrap.Path)
	}
	// It opens once, so whoever does not wait for the answer does not keep it from us.
	r = request{method: http.MethodPut, path: "sys/wrapping/unwrap", body: map[string]any{}}
	if a, err = c.send(context.WithoutCancel(ctx), s, r); err != nil {
		return keys.Secret{}, spent(err)
	}
	var data struct {
		SecretID string `json:"secret_id"`
	}
	if err := r.decode(a, &data); err != nil {
		return keys.Secret{}, err
	}
	if data.SecretID == "" {
		return keys.Secret{}, r.senseless("no secret-id in it")
	}
	c.unwrapped = unwrapped{from, keys.NewSecret([]byte(data.SecretID))}
	return c.unwrapped.secret, nil
}

func spent(err error) error {
	if says(err, "wrapping token is not valid") {
		return fmt.Errorf("the wrapping token has been opened before, or has expired. If nobody here opened it, somebody else has: revoke its secret-id: %w", err)
	}
	return err
}
