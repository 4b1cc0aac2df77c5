// Package config reads the file that `tally serve` runs by. The comment on a field is the manual. An unknown key is an
// error; a secret never stands in the file, only a reference to it; relative paths are relative to the file.
package config

import (
	"bytes"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
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
	// Log is the log's address: local:DIR keeps it in this process, in that directory.
	Log string `yaml:"log"`
	// Origin is the log's name for ever: a schema-less URL such as log.example/2026.
	Origin string `yaml:"origin"`
	// Key is the file of the log's signing key. `tally keys new-log` makes one.
	Key string `yaml:"key"`
	// Anchor is where the newest checkpoint is remembered: dir:DIR, outside the log's disk.
	Anchor string `yaml:"anchor"`
	// Head is the path of the head file, which remembers every acknowledged entry; by default HEAD in the anchor's
	// directory. Best on another disk than the log.
	Head string `yaml:"head"`
	// Interval is the time between checkpoints while the log grows; by default 100ms.
	Interval Duration `yaml:"interval"`
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

func (c *Config) check() error {
	for _, need := range []struct{ key, value, example string }{
		{"log", c.Log, "local:data/log"},
		{"origin", c.Origin, "log.example/2026"},
		{"key", c.Key, "keys/log.key"},
		{"anchor", c.Anchor, "dir:/var/lib/tallystick-anchor"},
		{"data_keys.dir", c.DataKeys.Dir, "data/ring"},
		{"data_keys.kek", c.DataKeys.KEK, "keys/kek.key"},
		{"listen", c.Listen, "127.0.0.1:8081"},
		{"gateway.id", c.Gateway.ID, "gw-1"},
		{"gateway.listen", c.Gateway.Listen, "127.0.0.1:8080"},
		{"gateway.journal", c.Gateway.Journal, "data/journal"},
	} {
		if need.value == "" {
			return fmt.Errorf("%s is missing; give it, for example %s: %s", need.key, need.key[strings.LastIndexByte(need.key, '.')+1:], need.example)
		}
	}
	if d, ok := strings.CutPrefix(c.Log, "local:"); !ok || d == "" {
		return fmt.Errorf("log is %q; the address of a log is local:DIR", c.Log)
	}
	if d, ok := strings.CutPrefix(c.Anchor, "dir:"); !ok || d == "" {
		return fmt.Errorf("anchor is %q; the address of an anchor is dir:DIR", c.Anchor)
	}
	if err := tlog.CheckOrigin(c.Origin); err != nil {
		return fmt.Errorf("origin: %w", err)
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
	c.Log = strings.TrimPrefix(c.Log, "local:")
	c.Anchor = strings.TrimPrefix(c.Anchor, "dir:")
	at(&c.Log)
	at(&c.Anchor)
	if c.Head == "" {
		c.Head = filepath.Join(c.Anchor, "HEAD")
	}
	if c.Operators == "" {
		c.Operators = filepath.Join(filepath.Dir(c.Log), "operator.token")
	}
	for _, p := range []*string{&c.Key, &c.Head, &c.DataKeys.Dir, &c.DataKeys.KEK, &c.Operators, &c.Gateway.Journal, &c.Gateway.Roots, &c.Gateway.TLS.Cert, &c.Gateway.TLS.Key} {
		at(p)
	}
	for i := range c.Gateway.Routes {
		at(&c.Gateway.Routes[i].Credential.File)
	}
	c.Log, c.Anchor = "local:"+c.Log, "dir:"+c.Anchor
}

// LogDir returns the directory of a local log.
func (c *Config) LogDir() string { return strings.TrimPrefix(c.Log, "local:") }

// AnchorDir returns the directory of the anchor.
func (c *Config) AnchorDir() string { return strings.TrimPrefix(c.Anchor, "dir:") }
