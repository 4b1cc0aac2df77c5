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
	// Key is the file of the log's signing key. `tally keys new-log` makes one.
	Key string `yaml:"key"`
	// AlsoKeys are files of further keys of the log that sign beside it: ML-DSA-44 keys, which
	// `tally keys new-log --ml-dsa` makes.
	AlsoKeys []string `yaml:"also_keys"`
	// Anchor is where the newest checkpoint is remembered: dir:DIR, outside the log's disk.
	Anchor string `yaml:"anchor"`
	// Head is the path of the head file, which remembers every acknowledged entry; by default HEAD in the anchor's
	// directory. Best on another disk than the log.
	Head string `yaml:"head"`
	// Interval is the time between checkpoints while the log grows; by default 100ms.
	Interval Duration `yaml:"interval"`
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
	// Listen is the address of the log's read API (c2sp.org/tlog-tiles), for auditors and witnesses.
	Listen string `yaml:"listen"`
	// Operators is a file with the token of those who may export records; by default operator.token beside the log.
	// It is made when it is missing.
	Operators string `yaml:"operators"`
	// Gateway is what stands between callers and models.
	Gateway Gateway `yaml:"gateway"`
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

// DataKeys says where data keys are kept.
type DataKeys struct {
	Dir string `yaml:"dir"` // the ring's directory
	KEK string `yaml:"kek"` // the file of the key that wraps them; `tally keys new-kek` makes one
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
	Routes    []Route  `yaml:"routes"`
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
}

// Route leads to one model API.
type Route struct {
	Name       string          `yaml:"name"`
	API        string          `yaml:"api"`        // openai, anthropic or http
	Prefix     string          `yaml:"prefix"`     // needed for http: /name/
	Upstream   string          `yaml:"upstream"`   // https://api.example.com
	Credential keys.Credential `yaml:"credential"` // env: NAME or file: PATH
	Header     string          `yaml:"header"`     // the credential's header; by default what the API uses
	Scheme     string          `yaml:"scheme"`     // what goes before it, such as Bearer
	Forward    []string        `yaml:"forward"`    // further request headers to pass to the model
	Return     []string        `yaml:"return"`     // further response headers to pass to the caller
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
	if !c.HasGateway() && c.HasLog() && c.ServeLog.Listen != "" {
		return nil
	}
	return c.checkGateway()
}

// checkLog checks what a log in this process needs.
func (c *Config) checkLog() error {
	err := missing(need{"key", c.Key, "keys/log.key"}, need{"anchor", c.Anchor, "dir:/var/lib/tallystick-anchor"}, need{"listen", c.Listen, "127.0.0.1:8081"})
	if err != nil {
		return err
	}
	if d, ok := strings.CutPrefix(c.Anchor, "dir:"); !ok || d == "" {
		return fmt.Errorf("anchor is %q; the address of an anchor is dir:DIR", c.Anchor)
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
	if err := record.CheckWriter(c.Gateway.ID); err != nil {
		return fmt.Errorf("gateway.id: %w", err)
	}
	if (c.Gateway.TLS.Cert == "") != (c.Gateway.TLS.Key == "") {
		return errors.New("gateway.tls needs both cert and key")
	}
	if len(c.Gateway.Routes) == 0 {
		return errors.New("gateway.routes is empty; name at least one route")
	}
	if len(c.Gateway.Callers) == 0 {
		return errors.New("gateway.callers is empty, so nobody could call; make a key with `tally keys new NAME` and name its hash here")
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
		at(&anchor)
		c.Log, c.Anchor = "local:"+log, "dir:"+anchor
		if c.Head == "" {
			c.Head = filepath.Join(anchor, "HEAD")
		}
	}
	at(&c.DataKeys.Dir)
	if c.Operators == "" {
		c.Operators = filepath.Join(c.Dir(), "operator.token")
	}
	for _, p := range []*string{
		&c.Key, &c.Head, &c.Policy, &c.DataKeys.KEK, &c.Operators, &c.Gateway.Journal, &c.Gateway.Roots, &c.Gateway.TLS.Cert, &c.Gateway.TLS.Key,
		&c.Witnesses.Roots, &c.ServeLog.TLS.Cert, &c.ServeLog.TLS.Key, &c.ServeLog.Roots,
		&c.LogAccess.TLS.Cert, &c.LogAccess.TLS.Key, &c.LogAccess.Roots, &c.LogAccess.Token.File,
	} {
		at(p)
	}
	for i := range c.AlsoKeys {
		at(&c.AlsoKeys[i])
	}
	for i := range c.Gateway.Routes {
		at(&c.Gateway.Routes[i].Credential.File)
	}
}

// Dir returns the directory of this process's own data: the one with the log in it, or, without a log, with the ring.
func (c *Config) Dir() string {
	if c.HasLog() {
		return filepath.Dir(c.LogDir())
	}
	return filepath.Dir(c.DataKeys.Dir)
}

// LogDir returns the directory of a local log.
func (c *Config) LogDir() string { return strings.TrimPrefix(c.Log, "local:") }

// AnchorDir returns the directory of the anchor.
func (c *Config) AnchorDir() string { return strings.TrimPrefix(c.Anchor, "dir:") }
