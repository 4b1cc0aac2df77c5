package config

import (
	"fmt"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/tallystick/tallystick/tlog/record/mask"
)

// Masking says what must not be written down. Without it records have what was said as it was said.
type Masking struct {
	// Key is 64 hex digits, under which masked values become tokens: whoever searches for a value needs it, and the gateways
	// of one tenant have the same. By default mask.key in the data directory, which is made when it is missing.
	Key Credential `yaml:"key"`
	// Sets are sets of rules by name. Routes that name none have the one named default, which is what is built in unless it is
	// written here; the set none masks nothing.
	Sets map[string]MaskSet `yaml:"sets"`
}

// MaskSet is a set of rules. An empty one is everything that is built in, but for kinds that are too common in innocent text.
type MaskSet struct {
	Only    []string            `yaml:"only"`    // no other built-in kinds
	Without []string            `yaml:"without"` // built-in kinds that are not looked for
	With    []string            `yaml:"with"`    // built-in kinds that are not looked for unasked
	Actions map[string]string   `yaml:"actions"` // by kind: token (the default), last4, drop or keep
	Lists   map[string][]string `yaml:"lists"`   // by kind: words and names that are values by themselves
	Files   map[string]string   `yaml:"files"`   // by kind: a file of such words and names, one a line
	Words   map[string][]string `yaml:"words"`   // by kind: more words of context
	Regions []string            `yaml:"regions"` // of telephone numbers without a country code: US, DE, …
	Secrets []string            `yaml:"secrets"` // files of rules in gitleaks' format, beside those that are built in
	Rules   []MaskRule          `yaml:"rules"`
	// Originals are age recipients to whom what was masked is sealed as it was, beside the mask: age1…, as age-keygen prints
	// them. Nobody here can open it; tally unseal does, with the identity. By default nothing is kept.
	Originals []string `yaml:"originals"`
}

// MaskRule is a rule of one's own.
type MaskRule struct {
	Name   string `yaml:"name"`
	Kind   string `yaml:"kind"`   // 2 to 32 of A-Z and _
	Expr   string `yaml:"expr"`   // RE2: what it matches, or its first group
	Path   string `yaml:"path"`   // a JSON path, such as $.user or $.messages[*].name
	Action string `yaml:"action"` // token, last4, drop or keep
}

// NoMask and DefaultMask are names of sets.
const (
	NoMask      = "none"
	DefaultMask = "default"
)

// MaskKey is the file in which the key of masks is made where none is named.
func (c *Config) MaskKey() string { return filepath.Join(c.Dir(), "mask.key") }

// MaskAction reads an action's word.
func MaskAction(s string) (mask.Action, error) {
	switch s {
	case "", "token":
		return mask.Token, nil
	case "last4":
		return mask.Last4, nil
	case "drop":
		return mask.Drop, nil
	case "keep":
		return mask.Keep, nil
	}
	return mask.Drop, fmt.Errorf("the action %q is none of token, last4, drop, keep", s)
}

var maskSetName = regexp.MustCompile(`^[a-z0-9][a-z0-9.-]{0,63}$`)

// checkMasking says what is wrong with the sets, and with what routes say of them.
func (g *Gateway) checkMasking() error {
	if g.Masking == nil {
		for _, r := range g.Routes {
			if r.Mask != "" && r.Mask != NoMask {
				return fmt.Errorf("the route %q is to be masked by %q, and there is no gateway.masking; write masking: {} for what is built in", r.Name, r.Mask)
			}
			if r.Live {
				return fmt.Errorf("the route %q is to mask its answers live, and there is no gateway.masking; write masking: {} for what is built in", r.Name)
			}
		}
		return nil
	}
	for _, name := range slices.Sorted(maps.Keys(g.Masking.Sets)) {
		s, at := g.Masking.Sets[name], "gateway.masking.sets."+name
		if name == NoMask || !maskSetName.MatchString(name) {
			return fmt.Errorf("%s: a set has a name of a-z, 0-9, '-', '.', and none is the one that masks nothing", at)
		}
		for kind, action := range s.Actions {
			if _, err := MaskAction(action); err != nil {
				return fmt.Errorf("%s.actions.%s: %w", at, kind, err)
			}
		}
		for _, r := range s.Rules {
			if _, err := MaskAction(r.Action); err != nil {
				return fmt.Errorf("%s, rule %q: %w", at, r.Name, err)
			}
		}
		for kind := range s.Files {
			if kind == "" || strings.ToUpper(kind) != kind {
				return fmt.Errorf("%s.files: the kind %q is not in capitals", at, kind)
			}
		}
	}
	for _, r := range g.Routes {
		if r.Live && r.Mask == NoMask {
			return fmt.Errorf("the route %q is to mask its answers live, and by none", r.Name)
		}
		if _, ok := g.Masking.Sets[r.Mask]; !ok && r.Mask != "" && r.Mask != NoMask && r.Mask != DefaultMask {
			return fmt.Errorf("the route %q is to be masked by %q, which gateway.masking.sets has not", r.Name, r.Mask)
		}
	}
	return nil
}

func (m *Masking) resolve(at func(*string)) {
	if m == nil {
		return
	}
	at(&m.Key.File)
	for name, s := range m.Sets {
		for kind, file := range s.Files {
			at(&file)
			s.Files[kind] = file
		}
		for i := range s.Secrets {
			at(&s.Secrets[i])
		}
		m.Sets[name] = s
	}
}
