package audit

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/tallystick/tallystick/tlog/record"
)

// A Rule says how long the records of some sessions are kept, and when they are erased.
type Rule struct {
	Name     string
	Routes   []string    // of these routes; none for all
	Callers  []string    // of these callers; none for all
	Sessions []record.ID // these; none for all
	// Keep is how long a record must be kept after its session ended: until then nothing erases it. Zero for no time.
	Keep Age
	// EraseAfter is when it is erased, counted likewise. Zero for never.
	EraseAfter Age
	// Hold names a legal hold. While there is one, nothing that it covers is erased.
	Hold string
	// Basis is the ground on which it is erased, for the record.
	Basis string
}

func (r *Rule) basis() string {
	if r.Basis != "" {
		return r.Basis
	}
	return "retention rule " + r.Name
}

func (r *Rule) matches(session record.ID, caller, route string) bool {
	return (len(r.Routes) == 0 || slices.Contains(r.Routes, route)) &&
		(len(r.Callers) == 0 || slices.Contains(r.Callers, caller)) &&
		(len(r.Sessions) == 0 || slices.Contains(r.Sessions, session))
}

// Retention is a set of rules. Of a session all that match count, whatever their order: a hold above everything, then the
// longest Keep, then the shortest EraseAfter.
type Retention []Rule

// A judgement is what rules say of one session.
type judgement struct {
	hold   *Rule // nil for none
	keptBy *Rule // nil for none
	until  time.Time
	dueBy  *Rule // nil for none
	due    time.Time
}

func (r Retention) judge(session record.ID, caller, route string, ended time.Time) (j judgement) {
	for i := range r {
		rule := &r[i]
		if !rule.matches(session, caller, route) {
			continue
		}
		if rule.Hold != "" && j.hold == nil {
			j.hold = rule
		}
		if until := rule.Keep.After(ended); rule.Keep.set() && until.After(j.until) {
			j.keptBy, j.until = rule, until
		}
		if due := rule.EraseAfter.After(ended); rule.EraseAfter.set() && (j.dueBy == nil || due.Before(j.due)) {
			j.dueBy, j.due = rule, due
		}
	}
	return j
}

// forbids returns the rule that forbids to erase now, nil for none, and what it says.
func (j *judgement) forbids(now time.Time) (why string, by *Rule) {
	switch {
	case j.hold != nil:
		return fmt.Sprintf("the legal hold %s is on it, by the rule %s", j.hold.Hold, j.hold.Name), j.hold
	case j.keptBy != nil && now.Before(j.until):
		return fmt.Sprintf("it must be kept until %s, by the rule %s", j.until.Format(time.RFC3339), j.keptBy.Name), j.keptBy
	}
	return "", nil
}

func (j *judgement) isDue(now time.Time) bool { return j.dueBy != nil && !now.Before(j.due) }

// due returns the time before which a session must have ended for any rule to want it erased by now; false where none ever
// does.
func (r Retention) due(now time.Time) (before time.Time, any bool) {
	for i := range r {
		if a := r[i].EraseAfter; a.set() {
			// A day more: counted back in months it may come out a little earlier than counted forward.
			if t := a.Before(now).AddDate(0, 0, 4); !any || t.After(before) {
				before, any = t, true
			}
		}
	}
	return before, any
}

// An Age is a length of time as people and laws count it: years and months of the calendar, and days of 24 hours. The zero value is
// none at all; an age of no length has Given set.
type Age struct {
	Years, Months, Days int
	Given               bool
}

func (a Age) set() bool { return a != Age{} }

// After returns when something that was at t has that age. Where the month has no such day it is the first of the next.
func (a Age) After(t time.Time) time.Time {
	return t.UTC().AddDate(a.Years, a.Months, 0).Add(time.Duration(a.Days) * 24 * time.Hour)
}

// Before returns when something was that has that age at t, counted back.
func (a Age) Before(t time.Time) time.Time {
	return t.UTC().AddDate(-a.Years, -a.Months, 0).Add(-time.Duration(a.Days) * 24 * time.Hour)
}

// maxAge is the largest number in front of a unit, and some centuries at most.
const maxAge = 36500

var errAge = errors.New("a length of time is a number and a unit, such as 90d, 26w, 6mo or 2y")

// ParseAge reads a number, without sign and leading zeros, and one of the units d, w, mo and y.
func ParseAge(s string) (Age, error) {
	n := 0
	for n < len(s) && '0' <= s[n] && s[n] <= '9' {
		n++
	}
	v, err := strconv.Atoi(s[:n])
	if err != nil || n > 1 && s[0] == '0' || v > maxAge {
		return Age{}, fmt.Errorf("%.40q: %w", s, errAge)
	}
	a := Age{Given: true}
	switch s[n:] {
	case "d":
		a.Days = v
	case "w":
		a.Days = 7 * v
	case "mo":
		a.Months = v
	case "y":
		a.Years = v
	default:
		return Age{}, fmt.Errorf("%.40q: %w", s, errAge)
	}
	if a.Years > 1000 || a.Months > 12000 || a.Days > maxAge {
		return Age{}, fmt.Errorf("%.40q: it is longer than anything is kept", s)
	}
	return a, nil
}

// UnmarshalText is ParseAge.
func (a *Age) UnmarshalText(b []byte) (err error) {
	*a, err = ParseAge(string(b))
	return err
}

// String returns an age as ParseAge reads it, or "" for none.
func (a Age) String() string {
	switch {
	case a.Years != 0:
		return strconv.Itoa(a.Years) + "y"
	case a.Months != 0:
		return strconv.Itoa(a.Months) + "mo"
	case a.Given:
		return strconv.Itoa(a.Days) + "d"
	}
	return ""
}
