// Package config reads the file that `tally serve` runs by. The comment on a field is the manual. An unknown key is an
// error; a secret never stands in the file, only a reference to it; relative paths are relative to the file.
package config

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/goccy/go-yaml"

	"github.com/tallystick/tallystick/gateway"
	"github.com/tallystick/tallystick/keys"
	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/record"
)

// Config is the whole file.
type Config struct {
	// Log is the log's address: local:DIR keeps it in this process, in that directory; https://host:port is a log in
	// another process, which has key, anchor and witnesses in a file of its own.
	Log string `yaml:"log"`
	// Origin is the log's name for ever: a schema-less URL such as log.example/2026.
	Origin string `yaml:"origin"`
	// Key is where the log's signing key is: a file, which `tally keys new-log` makes, or a reference such as
	// vault:transit/NAME?version=1, which `tally keys init` sets up.
	Key string `yaml:"key"`
	// PublicKey is the log's verifier key, name+hash+base64. Needed where the key is not in a file: what it does not
	// verify is not published.
	PublicKey string `yaml:"public_key"`
	// AlsoKeys are further keys of the log that sign beside the first: ML-DSA-44 keys, which `tally keys new-log
	// --ml-dsa` makes, and for the overlap of a rotation the key of before.
	AlsoKeys []AlsoKey `yaml:"also_keys"`
	// FormerKeys are public keys that signed for the log before: what they signed then is kept and believed. Those in the
	// policy are known as well.
	FormerKeys []string `yaml:"former_keys"`
	// KeyPassword is that of keys in encrypted PEM files.
	KeyPassword keys.Credential `yaml:"key_password"`
	// Vault says how to reach the Vault that references name, and as whom. Without it the variables that Vault's own tools
	// read do (VAULT_ADDR, VAULT_TOKEN and so on).
	Vault *Vault `yaml:"vault"`
	// VaultAnchor and VaultKeys are other identities, at the same Vault or another, for the anchor and for data keys. One
	// stolen token is then not all of it. By default they are those of vault.
	VaultAnchor *Vault `yaml:"vault_anchor"`
	VaultKeys   *Vault `yaml:"vault_keys"`
	// Anchor is where the newest checkpoint is remembered: dir:DIR, outside the log's disk, or vault:MOUNT/PATH, in a KV v2
	// engine.
	Anchor string `yaml:"anchor"`
	// Head is the path of the head file, which remembers every acknowledged entry; by default HEAD in the anchor's
	// directory, or in the log's where the anchor is none. Best on another disk than the log.
	Head string `yaml:"head"`
	// Interval is the time between checkpoints while the log grows; by default 100ms.
	Interval Duration `yaml:"interval"`
	// MaxUnanchored and MaxUnanchoredAge bound what is durable and not yet anchored, in entries and in time; by default
	// 1048576 and 30s. Beyond, nothing is taken in until the anchor and the key can be reached again: in the mode strict
	// calls are answered 503 then. The age is how long an outage of Vault may last before that.
	MaxUnanchored    uint64   `yaml:"max_unanchored"`
	MaxUnanchoredAge Duration `yaml:"max_unanchored_age"`
	// Policy is a file (c2sp.org/tlog-policy) that names this log's key, its witnesses with their submission URLs, and the
	// quorum of them that must have cosigned a checkpoint before it is published. Without it nobody is asked.
	Policy string `yaml:"policy"`
	// Witnesses says how they are asked.
	Witnesses Witnesses `yaml:"witnesses"`
	// Mirrors are pushed every published checkpoint and its entries (c2sp.org/tlog-mirror, a draft).
	Mirrors []Mirror `yaml:"mirrors"`
	// ServeLog lets gateways in other processes append to this log.
	ServeLog ServeLog `yaml:"serve_log"`
	// LogAccess is how this process shows the log in another process who it is.
	LogAccess LogAccess `yaml:"log_access"`
	// DataKeys is where the keys of records are kept, outside the log.
	DataKeys DataKeys `yaml:"data_keys"`
	// Search is the directory of the index in which sessions are found; by default search, beside the log. It can be deleted, and is
	// made again. With off there is none, and nobody can search: one in the usual place is destroyed; delete one that is elsewhere.
	Search string `yaml:"search"`
	// Retention says how long records are kept and when they are erased, which is done every RetainEvery, by default 24h.
	Retention   []RetentionRule `yaml:"retention"`
	RetainEvery Duration        `yaml:"retain_every"`
	// Listen is the address of the log's read API (c2sp.org/tlog-tiles), for auditors and witnesses.
	Listen string `yaml:"listen"`
	// Operators is a file with the token of those who may export records; by default operator.token beside the log.
	// It is made when it is missing.
	Operators string `yaml:"operators"`
	// Gateway is what stands between callers and models.
	Gateway Gateway `yaml:"gateway"`
	// Console is where people read, in a browser; by default nowhere.
	Console *Console `yaml:"console"`
	// Ops is where this process tells those who run it how it does; by default nowhere.
	Ops Ops `yaml:"ops"`
	// Traces says where spans of calls are sent; by default nowhere.
	Traces *Traces `yaml:"traces"`
	// Ship says where what is new in the log is handed on to; by default nowhere.
	Ship []Ship `yaml:"ship"`

	dir string // what relative paths are relative to
}

// Witnesses says how the witnesses of the policy are asked; what is left out has the default of witness.QuorumConfig.
type Witnesses struct {
	Wait     Duration `yaml:"wait"`     // the longest that a checkpoint waits for cosignatures; by default 10s
	Grace    Duration `yaml:"grace"`    // for the other witnesses when the quorum is met; by default 200ms
	All      bool     `yaml:"all"`      // wait for all witnesses, whatever the quorum is
	Interval Duration `yaml:"interval"` // between two submissions to one witness; by default 1s
	Timeout  Duration `yaml:"timeout"`  // of one request; by default 10s
	Skew     Duration `yaml:"skew"`     // how far a cosignature's time may be from ours; by default 10m
	// Start is how many witnesses must have said what they last saw before anything is signed after a start; by default
	// those that are enough for the policy.
	Start int `yaml:"start"`
	// Unwitnessed signs after a start without having asked, and Uncosigned publishes what too few have cosigned. Both are
	// for logs whose witnesses are often away, and give up what witnesses are for.
	Unwitnessed bool `yaml:"unwitnessed"`
	Uncosigned  bool `yaml:"uncosigned"`
	// Monitoring has the monitoring URLs of witnesses, by their names in the policy, where they are not the submission URLs.
	Monitoring map[string]string `yaml:"monitoring"`
	// Roots is a PEM file of the authorities that witnesses' and mirrors' certificates come from; by default the system's.
	Roots string `yaml:"roots"`
}

// Mirror is somebody who keeps a copy of the whole log, and cosigns that he does.
type Mirror struct {
	Keys       []string `yaml:"keys"`       // the mirror's verifier keys
	Submission string   `yaml:"submission"` // its submission URL
	Monitoring string   `yaml:"monitoring"` // where its copy is read; by default the submission URL
	Interval   Duration `yaml:"interval"`   // between two looks at what was published; by default 10s
}

// ServeLog is a log for gateways in other processes.
type ServeLog struct {
	Listen  string   `yaml:"listen"`  // where gateways append; the public log is read there, too
	TLS     TLS      `yaml:"tls"`     // plain HTTP is for the loopback only
	Roots   string   `yaml:"roots"`   // a PEM file of the authorities that may give clients the names in their certificates
	Clients []Client `yaml:"clients"` // who may append, and as which writers
}

// Client is a process that appends to this log. Any one of its credentials is enough.
type Client struct {
	Name     string   `yaml:"name"`
	Tokens   []string `yaml:"tokens"`   // SHA-256 of bearer tokens, in hex
	Keys     []string `yaml:"keys"`     // SHA-256 of the public keys (SubjectPublicKeyInfo) of client certificates, in hex
	Names    []string `yaml:"names"`    // DNS names or URIs in client certificates by one of the roots
	Writers  []string `yaml:"writers"`  // the ids under which it may append: a gateway's, and that with .desk behind it
	Payloads bool     `yaml:"payloads"` // it may read payloads, which exports and receipts need
	Discard  bool     `yaml:"discard"`  // it may discard payloads
}

// LogAccess is how a gateway shows who it is: a token, a certificate, or both.
type LogAccess struct {
	Token keys.Credential `yaml:"token"` // env: NAME or file: PATH
	TLS   TLS             `yaml:"tls"`   // a client certificate
	Roots string          `yaml:"roots"` // a PEM file of the authorities that the log's certificate comes from; by default the system's
}

// AlsoKey is a further key of the log.
type AlsoKey struct {
	Key       string `yaml:"key"`        // as the first one's
	PublicKey string `yaml:"public_key"` // as the first one's
}

// Vault is one identity at a Vault.
type Vault struct {
	Address    string     `yaml:"address"`     // https://vault.example:8200
	Namespace  string     `yaml:"namespace"`   // by default none
	CA         string     `yaml:"ca"`          // a PEM file of authorities; by default the system's
	CAPath     string     `yaml:"ca_path"`     // a directory of such files
	ClientCert string     `yaml:"client_cert"` // a PEM file to show
	ClientKey  string     `yaml:"client_key"`  // and its key
	ServerName string     `yaml:"server_name"` // in Vault's certificate, where it is not the address's
	SkipVerify bool       `yaml:"skip_verify"` // believe any certificate
	AllowHTTP  bool       `yaml:"allow_http"`  // speak plain HTTP to another machine
	Timeout    Duration   `yaml:"timeout"`     // of one request; by default 3s
	Proxy      string     `yaml:"proxy"`       // by default what HTTPS_PROXY says
	Login      VaultLogin `yaml:"login"`
}

// VaultLogin has exactly one way to log in: token: {file: PATH}; approle: {role_id: ID, secret_id: {file: PATH}};
// kubernetes: {role: NAME}; jwt: {role: NAME, token: {file: PATH}}; or cert: {role: NAME}, with client_cert and client_key
// beside login. Secrets are read anew at each log-in.
type VaultLogin struct {
	Token   keys.Credential `yaml:"token"`
	AppRole *struct {
		Mount    string          `yaml:"mount"`
		RoleID   string          `yaml:"role_id"`
		SecretID keys.Credential `yaml:"secret_id"`
		Wrapped  bool            `yaml:"wrapped"` // the secret-id is a token that it was wrapped in
	} `yaml:"approle"`
	Kubernetes *struct {
		Mount string `yaml:"mount"`
		Role  string `yaml:"role"`
		Token string `yaml:"token"` // its file; by default where Kubernetes mounts it
	} `yaml:"kubernetes"`
	JWT *struct {
		Mount string          `yaml:"mount"`
		Role  string          `yaml:"role"`
		Token keys.Credential `yaml:"token"`
	} `yaml:"jwt"`
	Cert *struct {
		Mount string `yaml:"mount"`
		Role  string `yaml:"role"`
	} `yaml:"cert"`
}

// Credential is a secret for another service: env: NAME, file: PATH, or vault: MOUNT/PATH#FIELD in a KV v2 engine.
type Credential struct {
	keys.Credential `yaml:",inline"`
	Vault           string `yaml:"vault"`
}

// IsZero says whether there is none.
func (c Credential) IsZero() bool { return c == Credential{} }

// DataKeys says where data keys are kept.
type DataKeys struct {
	Dir string `yaml:"dir"` // the ring's directory
	KEK string `yaml:"kek"` // the key that wraps them: a file, which `tally keys new-kek` makes, or vault:MOUNT/NAME in a transit engine
	// Former are keys that wrapped them before kek did. After tally keys rewrap none of them is needed.
	Former []string `yaml:"former"`
}

// Gateway is the gateway's part of the file.
type Gateway struct {
	ID        string   `yaml:"id"`        // stands in every entry: a-z, 0-9, '-', '.'
	Listen    string   `yaml:"listen"`    // where callers call
	Mode      string   `yaml:"mode"`      // strict, overlap or open; by default strict
	Journal   string   `yaml:"journal"`   // a directory for what streams have brought so far
	Hosts     []string `yaml:"hosts"`     // the names callers may use for it; by default any
	TLS       TLS      `yaml:"tls"`       // by default plain HTTP
	Roots     string   `yaml:"roots"`     // a PEM file of the authorities that models' certificates come from; by default the system's
	Linger    bool     `yaml:"linger"`    // see a call through when its caller has left
	Heartbeat Duration `yaml:"heartbeat"` // between heartbeat entries; by default 10s
	Limits    Limits   `yaml:"limits"`
	Callers   []Caller `yaml:"callers"`
	Identity  Identity `yaml:"identity"` // how callers are known by other things than static keys
	Routes    []Route  `yaml:"routes"`
	// Policy is a file of rules that judge calls; see gateway/cel/POLICY.md. It is read again when it changes, and on
	// SIGHUP; one with a mistake in it changes nothing. By default every call of a known caller passes.
	Policy    string     `yaml:"policy"`
	Approvals *Approvals `yaml:"approvals"` // how people are asked, where the policy wants a yes
	Masking   *Masking   `yaml:"masking"`   // what must not be written down
}

// TLS names a certificate and its key.
type TLS struct {
	Cert string `yaml:"cert"` // PEM file, chain included
	Key  string `yaml:"key"`  // PEM file
}

// Limits are the gateway's; what is left out has the default of gateway.Limits.
type Limits struct {
	Head        int      `yaml:"head"`
	Body        int64    `yaml:"body"`
	Answer      int64    `yaml:"answer"`
	Event       int      `yaml:"event"`
	HeadTime    Duration `yaml:"head_time"`
	BodyTime    Duration `yaml:"body_time"`
	IdleTime    Duration `yaml:"idle_time"`
	FirstByte   Duration `yaml:"first_byte"`
	Silence     Duration `yaml:"silence"`
	Total       Duration `yaml:"total"`
	WriteTime   Duration `yaml:"write_time"`
	Drain       Duration `yaml:"drain"`
	Connections int      `yaml:"connections"`
}

// Caller is one key of a principal. `tally keys new NAME` makes a key and prints what to put here.
type Caller struct {
	Name   string   `yaml:"name"`
	Key    string   `yaml:"key"`    // the key's own name, where a principal has several
	SHA256 string   `yaml:"sha256"` // of the key, in hex
	Routes []string `yaml:"routes"` // by default all
	Groups []string `yaml:"groups"` // what rules know it by, and who asks for approvals
	Email  string   `yaml:"email"`  // by which it is known to be the same person when it logs in otherwise; by default none
}

// Route leads to one model API.
type Route struct {
	Name       string     `yaml:"name"`
	API        string     `yaml:"api"`        // openai, anthropic or http
	Prefix     string     `yaml:"prefix"`     // needed for http: /name/
	Upstream   string     `yaml:"upstream"`   // https://api.example.com
	Credential Credential `yaml:"credential"` // env: NAME, file: PATH or vault: MOUNT/PATH#FIELD
	Header     string     `yaml:"header"`     // the credential's header; by default what the API uses
	Scheme     string     `yaml:"scheme"`     // what goes before it, such as Bearer
	Forward    []string   `yaml:"forward"`    // further request headers to pass to the model
	Return     []string   `yaml:"return"`     // further response headers to pass to the caller
	Live       bool       `yaml:"live"`       // give callers answers as they are written down, masked; each is held until it is whole
	Mask       string     `yaml:"mask"`       // the name of a set of gateway.masking; by default default. none masks nothing
}

// Duration is a length of time as 100ms, 30s or 1h.
type Duration time.Duration

// UnmarshalText reads a duration.
func (d *Duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	if err != nil || v < 0 {
		return fmt.Errorf("%q is not a length of time such as 100ms, 30s or 1h", b)
	}
	*d = Duration(v)
	return nil
}

// Load reads and checks a file.
func Load(path string) (*Config, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("config: %w", err)
	}
	c, err := Parse(b, filepath.Dir(path))
	if err != nil {
		return nil, fmt.Errorf("config %s: %w", path, err)
	}
	return c, nil
}

// Parse reads and checks a configuration whose relative paths are relative to dir.
func Parse(b []byte, dir string) (*Config, error) {
	c := &Config{}
	if err := yaml.NewDecoder(bytes.NewReader(b), yaml.Strict()).Decode(c); err != nil {
		return nil, errors.New(strings.TrimSpace(yaml.FormatError(err, false, true)))
	}
	if err := c.check(); err != nil {
		return nil, err
	}
	c.resolve(dir)
	return c, nil
}

// A need is a key that must be there, with an example of its value.
type need struct{ key, value, example string }

func missing(needs ...need) error {
	for _, n := range needs {
		if n.value == "" {
			return fmt.Errorf("%s is missing; give it, for example %s: %s", n.key, n.key[strings.LastIndexByte(n.key, '.')+1:], n.example)
		}
	}
	return nil
}

// misplaced says that a key belongs into the file of another process.
func misplaced(why string, keys map[string]bool) error {
	for _, key := range slices.Sorted(maps.Keys(keys)) {
		if keys[key] {
			return fmt.Errorf("%s is here, but %s; take it out", key, why)
		}
	}
	return nil
}

// HasGateway says whether this process stands between callers and models; HasLog, whether the log is kept in it.
func (c *Config) HasGateway() bool {
	return c.Gateway.ID != "" || c.Gateway.Listen != "" || len(c.Gateway.Routes) > 0
}

// HasLog says whether the log is kept in this process.
func (c *Config) HasLog() bool { return strings.HasPrefix(c.Log, "local:") }

func (c *Config) check() error {
	if err := missing(need{"log", c.Log, "local:data/log"}, need{"origin", c.Origin, "log.example/2026"}); err != nil {
		return err
	}
	if err := tlog.CheckOrigin(c.Origin); err != nil {
		return fmt.Errorf("origin: %w", err)
	}
	check := c.checkLog
	if d, ok := strings.CutPrefix(c.Log, "local:"); !ok || d == "" {
		if !strings.HasPrefix(c.Log, "https://") && !strings.HasPrefix(c.Log, "http://") {
			return fmt.Errorf("log is %q; the address of a log is local:DIR, or https://host:port", c.Log)
		}
		check = c.checkRemote
	}
	if err := check(); err != nil {
		return err
	}
	if err := c.checkConsole(); err != nil {
		return err
	}
	if err := c.checkOps(); err != nil {
		return err
	}
	if err := c.checkShip(); err != nil {
		return err
	}
	if !c.HasGateway() && c.HasLog() && c.ServeLog.Listen != "" {
		return misplaced("this process has no data keys; it belongs in the gateway's file", map[string]bool{
			"retention": len(c.Retention) > 0, "retain_every": c.RetainEvery != 0, "search": c.Search != "",
		})
	}
	return c.checkGateway()
}

// checkLog checks what a log in this process needs.
func (c *Config) checkLog() error {
	err := missing(need{"key", c.Key, "keys/log.key"}, need{"anchor", c.Anchor, "dir:/var/lib/tallystick-anchor"}, need{"listen", c.Listen, "127.0.0.1:8081"})
	if err != nil {
		return err
	}
	if d, ok := strings.CutPrefix(c.Anchor, "dir:"); ok && d == "" || !ok && !strings.HasPrefix(c.Anchor, "vault:") {
		return fmt.Errorf("anchor is %q; the address of an anchor is dir:DIR, or vault:MOUNT/PATH", c.Anchor)
	} else if !ok {
		if ref, err := keys.ParseReference(c.Anchor); err != nil {
			return fmt.Errorf("anchor: %w", err)
		} else if ref.Version != "" || ref.Field != "" {
			return fmt.Errorf("anchor is %s; it is vault:MOUNT/PATH, without version and field", ref)
		}
	}
	for i, k := range append([]AlsoKey{{c.Key, c.PublicKey}}, c.AlsoKeys...) {
		name := "key"
		if i > 0 {
			name = fmt.Sprintf("also_keys, number %d", i)
		}
		ref, err := reference(k.Key, "/")
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if ref.Scheme != keys.SchemeFile && k.PublicKey == "" {
			return fmt.Errorf("%s: %s is not in a file, and there is no public_key to hold its signatures against; `tally keys init` prints it", name, ref)
		}
	}
	if err := misplaced("log is in this process, and log_access is for one in another", map[string]bool{"log_access": c.LogAccess != LogAccess{}}); err != nil {
		return err
	}
	s := c.ServeLog
	switch {
	case (s.TLS.Cert == "") != (s.TLS.Key == ""):
		return errors.New("serve_log.tls needs both cert and key")
	case s.Listen == "" && len(s.Clients) > 0:
		return errors.New("serve_log.listen is missing; give it, for example listen: 127.0.0.1:8082")
	case s.Listen != "" && len(s.Clients) == 0:
		return errors.New("serve_log.clients is empty, so nobody could append; make a token with `tally keys new NAME` and name its hash here")
	case c.Policy == "" && (c.Witnesses.Start > 0 || c.Witnesses.All || len(c.Witnesses.Monitoring) > 0):
		return errors.New("witnesses is here and no policy; the policy names them: give it, for example policy: witness.policy")
	}
	for i, m := range c.Mirrors {
		if len(m.Keys) == 0 || m.Submission == "" {
			return fmt.Errorf("mirrors: number %d needs keys and submission", i+1)
		}
	}
	return nil
}

// checkRemote checks what a gateway before a log in another process needs.
func (c *Config) checkRemote() error {
	if err := missing(need{"listen", c.Listen, "127.0.0.1:8081"}); err != nil {
		return err
	}
	if err := misplaced("the log is in another process; it belongs in that one's file", map[string]bool{
		"key": c.Key != "", "also_keys": len(c.AlsoKeys) > 0, "anchor": c.Anchor != "", "head": c.Head != "", "policy": c.Policy != "",
		"mirrors": len(c.Mirrors) > 0, "serve_log": c.ServeLog.Listen != "" || len(c.ServeLog.Clients) > 0, "interval": c.Interval != 0,
		"max_unanchored": c.MaxUnanchored != 0, "max_unanchored_age": c.MaxUnanchoredAge != 0,
	}); err != nil {
		return err
	}
	switch {
	case (c.LogAccess.TLS.Cert == "") != (c.LogAccess.TLS.Key == ""):
		return errors.New("log_access.tls needs both cert and key")
	case c.LogAccess.Token.IsZero() && c.LogAccess.TLS.Cert == "":
		return errors.New("log_access is missing; give the log a token or a client certificate to know this gateway by, for example log_access: {token: {file: log.token}}")
	}
	return nil
}

func (c *Config) checkGateway() error {
	if err := missing(
		need{"data_keys.dir", c.DataKeys.Dir, "data/ring"}, need{"data_keys.kek", c.DataKeys.KEK, "keys/kek.key"},
		need{"gateway.id", c.Gateway.ID, "gw-1"}, need{"gateway.listen", c.Gateway.Listen, "127.0.0.1:8080"}, need{"gateway.journal", c.Gateway.Journal, "data/journal"},
	); err != nil {
		return err
	}
	for i, key := range append([]string{c.DataKeys.KEK}, c.DataKeys.Former...) {
		name := "data_keys.kek"
		if i > 0 {
			name = "data_keys.former"
		}
		if ref, err := reference(key, "/"); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		} else if ref.Scheme != keys.SchemeFile && ref.Scheme != keys.SchemeVault {
			return fmt.Errorf("%s is %s; data keys are wrapped by a key in a file, or by one in Vault", name, ref)
		}
	}
	if err := record.CheckWriter(c.Gateway.ID); err != nil {
		return fmt.Errorf("gateway.id: %w", err)
	}
	if (c.Gateway.TLS.Cert == "") != (c.Gateway.TLS.Key == "") {
		return errors.New("gateway.tls needs both cert and key")
	}
	if len(c.Gateway.Routes) == 0 {
		return errors.New("gateway.routes is empty; name at least one route")
	}
	if err := c.Gateway.checkIdentity(); err != nil {
		return err
	}
	if err := c.Gateway.checkMasking(); err != nil {
		return err
	}
	if err := c.checkApprovals(); err != nil {
		return err
	}
	if err := c.checkRetention(); err != nil {
		return err
	}
	if _, err := gateway.ParseMode(c.Gateway.Mode); err != nil {
		return err
	}
	for _, r := range c.Gateway.Routes {
		if _, err := gateway.ParseAPI(r.API); err != nil {
			return fmt.Errorf("route %q: %w", r.Name, err)
		}
		if _, err := url.Parse(r.Upstream); err != nil {
			return fmt.Errorf("route %q: %w", r.Name, err)
		}
	}
	return nil
}

// resolve makes every path absolute or relative to where the program runs.
func (c *Config) resolve(dir string) {
	at := func(p *string) {
		if *p != "" && !filepath.IsAbs(*p) {
			*p = filepath.Join(dir, *p)
		}
	}
	if c.HasLog() {
		log, anchor := c.LogDir(), c.AnchorDir()
		at(&log)
		c.Log = "local:" + log
		if strings.HasPrefix(c.Anchor, "dir:") {
			at(&anchor)
			c.Anchor = "dir:" + anchor
		}
	}
	c.dir = dir
	at(&c.DataKeys.Dir)
	for _, p := range []*string{
		&c.Head, &c.Policy, &c.Operators, &c.KeyPassword.File, &c.Gateway.Journal, &c.Gateway.Roots, &c.Gateway.TLS.Cert, &c.Gateway.TLS.Key,
		&c.Witnesses.Roots, &c.ServeLog.TLS.Cert, &c.ServeLog.TLS.Key, &c.ServeLog.Roots,
		&c.LogAccess.TLS.Cert, &c.LogAccess.TLS.Key, &c.LogAccess.Roots, &c.LogAccess.Token.File,
	} {
		at(p)
	}
	if c.Search != searchOff {
		at(&c.Search)
	}
	// These are where others are, which have been resolved.
	if c.Head == "" && c.AnchorDir() != "" && c.HasLog() {
		c.Head = filepath.Join(c.AnchorDir(), "HEAD")
	}
	if c.Operators == "" {
		c.Operators = filepath.Join(c.Dir(), "operator.token")
	}
	for _, v := range []*Vault{c.Vault, c.VaultAnchor, c.VaultKeys} {
		if v == nil {
			continue
		}
		for _, p := range []*string{&v.CA, &v.CAPath, &v.ClientCert, &v.ClientKey, &v.Login.Token.File} {
			at(p)
		}
		if v.Login.AppRole != nil {
			at(&v.Login.AppRole.SecretID.File)
		}
		if v.Login.Kubernetes != nil {
			at(&v.Login.Kubernetes.Token)
		}
		if v.Login.JWT != nil {
			at(&v.Login.JWT.Token.File)
		}
	}
	for i := range c.Gateway.Routes {
		at(&c.Gateway.Routes[i].Credential.File)
	}
	c.Gateway.Identity.resolve(at)
	at(&c.Gateway.Policy)
	c.Gateway.Approvals.resolve(at)
	c.Gateway.Masking.resolve(at)
	c.Console.resolve(at)
	c.Traces.resolve(at)
	c.resolveShip(at)
}

// reference reads where a key is: a reference, or the path of a file, which is relative to dir.
func reference(s, dir string) (keys.Reference, error) {
	for _, scheme := range []string{keys.SchemeFile, keys.SchemeVault, keys.SchemeAWS, keys.SchemeGCP, keys.SchemeAzure} {
		if strings.HasPrefix(s, scheme+":") {
			ref, err := keys.ParseReference(s)
			if err == nil && ref.Scheme == keys.SchemeFile && !filepath.IsAbs(ref.Path) {
				ref.Path = filepath.Join(dir, ref.Path)
			}
			return ref, err
		}
	}
	if !filepath.IsAbs(s) {
		s = filepath.Join(dir, s)
	}
	return keys.Reference{Scheme: keys.SchemeFile, Path: s}, nil
}

// Reference reads where a key of this configuration is.
func (c *Config) Reference(key string) (keys.Reference, error) { return reference(key, c.dir) }

// Dir returns the directory of this process's own data: the one with the log in it, or, without a log, with the ring.
func (c *Config) Dir() string {
	if c.HasLog() {
		return filepath.Dir(c.LogDir())
	}
	return filepath.Dir(c.DataKeys.Dir)
}

// searchOff is the setting of a process in which nobody searches.
const searchOff = "off"

// SearchDir returns the directory of the index of sessions, or "" where there is to be none.
func (c *Config) SearchDir() string {
	switch {
	case c.Search == searchOff || !c.HasGateway():
		return ""
	case c.Search == "":
		return c.UsualSearchDir()
	}
	return c.Search
}

// UsualSearchDir returns where the index is if nobody says where.
func (c *Config) UsualSearchDir() string { return filepath.Join(c.Dir(), "search") }

// LogDir returns the directory of a local log.
func (c *Config) LogDir() string { return strings.TrimPrefix(c.Log, "local:") }

// AnchorDir returns the directory of the anchor, or "" where it is elsewhere.
func (c *Config) AnchorDir() string {
	dir, ok := strings.CutPrefix(c.Anchor, "dir:")
	if !ok {
		return ""
	}
	return dir
}
