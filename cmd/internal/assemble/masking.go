package assemble

import (
	"encoding/hex"
	"fmt"
	"os"
	"strings"

	"github.com/tallystick/tallystick/cmd/internal/config"
	"github.com/tallystick/tallystick/tlog/record/mask"
	"github.com/tallystick/tallystick/tlog/record/original"
)

// A masker is what masks the records of routes, and what keeps what was masked for others; nil for nothing.
type masker struct {
	mask      *mask.Masker
	originals *original.Sealer
}

// A maskers is what masks the records of routes, by the names of sets.
type maskers map[string]masker

// of returns what masks a route's records.
func (m maskers) of(r *config.Route) masker {
	if r.Mask == "" {
		return m[config.DefaultMask]
	}
	return m[r.Mask] // of the set none there is none
}

// readMaskers makes the maskers that a configuration describes, and their key where it is missing.
func readMaskers(c *config.Config, refs *Keyring) (maskers, error) {
	g := c.Gateway.Masking
	if g == nil {
		return nil, nil
	}
	key, err := readKey(g.Key, c.MaskKey(), CreateMaskKey, refs, "tally keys new-mask")
	if err != nil {
		return nil, fmt.Errorf("gateway.masking.key: %w", err)
	}
	sets := map[string]config.MaskSet{config.DefaultMask: {}}
	for name, s := range g.Sets {
		sets[name] = s
	}
	out := make(maskers)
	for name, s := range sets {
		mc, err := maskConfig(&s)
		if err == nil {
			mc.Key = key
			out[name], err = newMasker(mc, s.Originals)
		}
		if err != nil {
			return nil, fmt.Errorf("gateway.masking.sets.%s: %w", name, err)
		}
	}
	return out, nil
}

func newMasker(c mask.Config, recipients []string) (m masker, err error) {
	if len(recipients) > 0 {
		if m.originals, err = original.NewSealer(recipients); err != nil {
			return m, err
		}
	}
	m.mask, err = mask.New(c)
	return m, err
}

func maskConfig(s *config.MaskSet) (mask.Config, error) {
	out := mask.Config{
		Only: kindsOf(s.Only), Without: kindsOf(s.Without), With: kindsOf(s.With), Regions: s.Regions,
		Actions: make(map[mask.Kind]mask.Action), Lists: make(map[mask.Kind][]string), Words: make(map[mask.Kind][]string),
	}
	var err error
	for kind, word := range s.Actions {
		if out.Actions[mask.Kind(kind)], err = config.MaskAction(word); err != nil {
			return out, err
		}
	}
	for kind, words := range s.Lists {
		out.Lists[mask.Kind(kind)] = words
	}
	for kind, words := range s.Words {
		out.Words[mask.Kind(kind)] = words
	}
	for kind, path := range s.Files {
		b, err := os.ReadFile(path)
		if err != nil {
			return out, err
		}
		for line := range strings.Lines(string(b)) {
			if line = strings.TrimSpace(line); line != "" {
				out.Lists[mask.Kind(kind)] = append(out.Lists[mask.Kind(kind)], line)
			}
		}
	}
	for _, r := range s.Rules {
		action, err := config.MaskAction(r.Action)
		if err != nil {
			return out, err
		}
		out.Rules = append(out.Rules, mask.Rule{Name: r.Name, Kind: mask.Kind(r.Kind), Expr: r.Expr, Path: r.Path, Action: action})
	}
	var files [][]byte
	for _, path := range s.Secrets {
		b, err := os.ReadFile(path)
		if err != nil {
			return out, err
		}
		files = append(files, b)
	}
	out.Secrets, err = mask.DefaultSecrets(files...)
	return out, err
}

func kindsOf(words []string) (out []mask.Kind) {
	for _, w := range words {
		out = append(out, mask.Kind(w))
	}
	return out
}

// CreateMaskKey makes a key for masks in a file, which must not be there.
func CreateMaskKey(path string) error {
	return createSecret(path, hex.EncodeToString(random(32)))
}
