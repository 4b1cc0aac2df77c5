package config

import (
	"errors"
	"fmt"
	"time"

	"github.com/tallystick/tallystick/audit"
	"github.com/tallystick/tallystick/tlog/record"
)

// RetentionRule says how long the records of some sessions are kept, and when they are erased. Of a session all rules that match
// count, whatever their order: a hold above everything, then the longest keep, then the shortest erase_after. Lengths of time are
// a number and d, w, mo or y, such as 90d or 2y, and are counted from the end of the session.
type RetentionRule struct {
	Name       string    `yaml:"name"`        // stands in the record of what is erased, or refused, by it
	Routes     []string  `yaml:"routes"`      // of these routes, which need not be there any more; by default of all
	Callers    []string  `yaml:"callers"`     // of these callers; by default of all
	Sessions   []string  `yaml:"sessions"`    // these; by default all
	Keep       audit.Age `yaml:"keep"`        // so long it must be kept, and `tally erase` is refused; by default not at all
	EraseAfter audit.Age `yaml:"erase_after"` // then it is erased; by default never
	Hold       string    `yaml:"hold"`        // the name of a legal hold: while it stands here, nothing is erased
	Basis      string    `yaml:"basis"`       // the ground on which it is erased, for the record; by default the rule's name
}

// Rules returns the rules of retention. Those of a configuration that was read have no faults.
func (c *Config) Rules() (audit.Retention, error) {
	var all audit.Retention
	names := make(map[string]bool)
	for i, r := range c.Retention {
		at := fmt.Sprintf("retention, rule %q", r.Name)
		switch {
		case r.Name == "":
			return nil, fmt.Errorf("retention, number %d: name is missing; give it, for example name: chats", i+1)
		case names[r.Name]:
			return nil, fmt.Errorf("%s is there twice", at)
		case r.Keep == audit.Age{} && r.EraseAfter == audit.Age{} && r.Hold == "":
			return nil, fmt.Errorf("%s says nothing; give it keep, erase_after or hold, for example erase_after: 90d", at)
		case r.Basis != "" && r.EraseAfter == audit.Age{}:
			return nil, fmt.Errorf("%s has a basis, and erases nothing; give it erase_after, or take it out", at)
		case r.EraseAfter != audit.Age{} && r.EraseAfter.After(someDay).Before(r.Keep.After(someDay)):
			return nil, fmt.Errorf("%s: erase_after is shorter than keep", at)
		}
		names[r.Name] = true
		out := audit.Rule{Name: r.Name, Routes: r.Routes, Callers: r.Callers, Keep: r.Keep, EraseAfter: r.EraseAfter, Hold: r.Hold, Basis: r.Basis}
		for _, s := range r.Sessions {
			id, err := record.ParseID(s)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", at, err)
			}
			out.Sessions = append(out.Sessions, id)
		}
		all = append(all, out)
	}
	return all, nil
}

// someDay is one to compare ages by.
var someDay = time.Date(2001, 1, 1, 0, 0, 0, 0, time.UTC)

// RetainPeriod is the time between two applications of the rules.
func (c *Config) RetainPeriod() time.Duration {
	if c.RetainEvery == 0 {
		return 24 * time.Hour
	}
	return time.Duration(c.RetainEvery)
}

// checkRetention says what is wrong with the rules of retention.
func (c *Config) checkRetention() error {
	if c.RetainEvery != 0 && len(c.Retention) == 0 {
		return errors.New("retain_every is here and no retention; give the rules, for example retention: [{name: chats, erase_after: 90d}]")
	}
	_, err := c.Rules()
	return err
}
