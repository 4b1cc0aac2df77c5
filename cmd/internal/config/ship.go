package config

import (
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/tallystick/tallystick/audit/ship"
)

// Ship says where what is new in the log is handed on to, for as long as this process runs; see audit/ship, which has the format. Each
// entry arrives at least once and in its order, and a receiver drops by its id what comes again:
//
//	ship:
//	  - name: siem
//	    to: https://siem.example/ingest
//	    content: metadata
//	    token: {file: siem.token}
//	  - name: archive
//	    to: file:/var/log/tallystick.jsonl
type Ship struct {
	Name string `yaml:"name"` // of the follower: 1 to 40 of a-z, 0-9, '-'; stands in its mark's name and in messages
	// To is file:PATH, https://host/path, syslog+tls://host:port, syslog+unix:PATH, or, on the loopback alone, http:// and syslog+tcp://.
	To string `yaml:"to"`
	// Content is entries, the public log alone, or metadata: also who called which model by which route and how that went, of records
	// that this process has the keys of. By default entries. That metadata is handed on is on record each time this process starts.
	Content string   `yaml:"content"`
	Fields  []string `yaml:"fields"` // which metadata; by default all that audit/ship names
	From    uint64   `yaml:"from"`   // the index to begin at, the first time; by default the first
	Mark    string   `yaml:"mark"`   // the file that remembers how far it came; by default ship-NAME.mark in the data directory
	// Token is sent to an HTTPS endpoint in Header, by default Authorization, behind Scheme, by default Bearer.
	Token  Credential `yaml:"token"`
	Header string     `yaml:"header"`
	Scheme string     `yaml:"scheme"`
	Roots  string     `yaml:"roots"` // a PEM file of the authorities that its certificate comes from; by default the system's
	TLS    TLS        `yaml:"tls"`   // a client certificate to show
}

// Metadata says whether metadata of records is shipped, too.
func (s Ship) Metadata() bool { return s.Content == "metadata" }

var shipName = regexp.MustCompile(`^[a-z0-9-]{1,40}$`)

func (c *Config) checkShip() error {
	names := make(map[string]bool)
	for i, s := range c.Ship {
		at := fmt.Sprintf("ship, number %d", i+1)
		if !shipName.MatchString(s.Name) || names[s.Name] {
			return fmt.Errorf("%s: its name is %q; give it one of its own, of 1 to 40 of a-z, 0-9 and '-'", at, s.Name)
		}
		names[s.Name] = true
		at = "ship." + s.Name
		if err := missing(need{at + ".to", s.To, "https://siem.example/ingest"}); err != nil {
			return err
		}
		if _, err := ship.Open(s.To, ship.Options{}); err != nil {
			return fmt.Errorf("%s: %w", at, err)
		}
		if err := ship.CheckFields(s.Fields); err != nil {
			return fmt.Errorf("%s: %w", at, err)
		}
		web := strings.HasPrefix(s.To, "http")
		switch {
		case s.Content != "" && s.Content != "entries" && !s.Metadata():
			return fmt.Errorf("%s.content is %q; it is entries or metadata", at, s.Content)
		case s.Metadata() && !c.HasGateway():
			return fmt.Errorf("%s.content is metadata, and this process has no keys of records; it belongs in the gateway's file", at)
		case len(s.Fields) > 0 && !s.Metadata():
			return fmt.Errorf("%s has fields, and ships no metadata; give it content: metadata", at)
		case !web && (!s.Token.IsZero() || s.Header != "" || s.Scheme != ""):
			return fmt.Errorf("%s has a token, header or scheme, which are for https://", at)
		case s.Token.IsZero() && (s.Header != "" || s.Scheme != ""):
			return fmt.Errorf("%s says how to send a token, and has none", at)
		case (s.TLS.Cert == "") != (s.TLS.Key == ""):
			return errors.New(at + ".tls needs both cert and key")
		}
	}
	return nil
}

// resolveShip makes paths absolute and finds the marks a place.
func (c *Config) resolveShip(at func(*string)) {
	for i := range c.Ship {
		s := &c.Ship[i]
		for _, scheme := range []string{"file:", "syslog+unix:"} {
			if path, ok := strings.CutPrefix(s.To, scheme); ok {
				at(&path)
				s.To = scheme + path
			}
		}
		if s.Mark == "" {
			s.Mark = filepath.Join(c.Dir(), "ship-"+s.Name+".mark") // which has been resolved
		} else {
			at(&s.Mark)
		}
		for _, p := range []*string{&s.Token.File, &s.Roots, &s.TLS.Cert, &s.TLS.Key} {
			at(p)
		}
	}
}
