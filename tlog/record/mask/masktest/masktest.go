// Package masktest holds what others say a masker must find and must leave, and counts how much of it one does. It is for tests
// and for measurements.
package masktest

import (
	"bufio"
	"bytes"
	_ "embed"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/tallystick/tallystick/tlog/record/mask"
)

//go:embed testdata/cases.jsonl
var cases []byte

//go:embed testdata/bypass.json
var bypass []byte

//go:embed testdata/prompts.txt
var prompts []byte

// A Case is a text and the values in it.
type Case struct {
	Source string // presidio, gitleaks or presidio-research
	Rule   string // of gitleaks
	Label  string // what the text is a case of; empty where all its values are labelled
	Text   string
	Want   bool    // there is at least one value
	Values []Value // in order; empty where the source does not say where they are
}

// A Value is where in the text, in bytes, a value of a label is.
type Value struct {
	From, To int
	Label    string
}

// Cases returns the cases of others. testdata/README.md says whose.
func Cases() ([]Case, error) {
	var all []Case
	for s := bufio.NewScanner(bytes.NewReader(cases)); s.Scan(); {
		var r struct {
			Source, Rule, Label, Text string
			N                         int
			Spans                     [][2]int
			Labelled                  [][3]any
		}
		if err := json.Unmarshal(s.Bytes(), &r); err != nil {
			return nil, fmt.Errorf("masktest: %w", err)
		}
		c := Case{Source: r.Source, Rule: r.Rule, Label: r.Label, Text: r.Text, Want: r.N > 0}
		at := offsets(r.Text)
		for _, sp := range r.Spans {
			c.Values = append(c.Values, Value{at[sp[0]], at[sp[1]], r.Label})
		}
		for _, l := range r.Labelled {
			from, to := l[0].(float64), l[1].(float64)
			c.Values = append(c.Values, Value{at[int(from)], at[int(to)], l[2].(string)})
		}
		slices.SortFunc(c.Values, func(a, b Value) int { return a.From - b.From })
		all = append(all, c)
	}
	return all, nil
}

// offsets returns where in s each character begins, and the end.
func offsets(s string) []int {
	var at []int
	for i := range s {
		at = append(at, i)
	}
	return append(at, len(s))
}

// A Bypass is one value in one spelling.
type Bypass struct {
	ID, Kind, Encoding, Secret, Text string
	MustMask                         bool `json:"must_mask"`
}

// Bypasses returns the spellings that are tried to get a value past a masker.
func Bypasses() ([]Bypass, error) {
	var f struct{ Cases []Bypass }
	if err := json.Unmarshal(bypass, &f); err != nil {
		return nil, fmt.Errorf("masktest: %w", err)
	}
	return f.Cases, nil
}

// Prompts returns at least n bytes of what people ask models, without anything to find in it, in lines of one prompt or a part
// of one.
func Prompts(n int) []byte { return bytes.Repeat(prompts, max(1, (n+len(prompts)-1)/len(prompts))) }

// kindOf names our kind for a label where the names differ.
var kindOf = map[string]mask.Kind{
	"CREDIT_CARD": mask.Card, "IBAN_CODE": mask.IBAN, "EMAIL_ADDRESS": mask.Email, "PHONE_NUMBER": mask.Phone, "TR_PHONE_NUMBER": mask.Phone,
	"PH_MOBILE_NUMBER": mask.Phone, "IP_ADDRESS": mask.IP, "MAC_ADDRESS": mask.MAC, "US_BANK_NUMBER": mask.Account,
	"US_DRIVER_LICENSE": mask.Licence, "US_PASSPORT": mask.Passport, "DATE_TIME": mask.Birth,
}

// Kind returns the kind of a label.
func Kind(label string) mask.Kind {
	if k, ok := kindOf[label]; ok {
		return k
	}
	return mask.Kind(label)
}

// labelOf returns the label of a kind that the labelled sentences use.
func labelOf(k mask.Kind) string {
	for _, l := range [...]string{"CREDIT_CARD", "IBAN_CODE", "EMAIL_ADDRESS", "PHONE_NUMBER", "IP_ADDRESS", "US_DRIVER_LICENSE", "US_PASSPORT", "DATE_TIME"} {
		if kindOf[l] == k {
			return l
		}
	}
	return string(k)
}

// A Row says how much of the cases of one label is masked.
type Row struct {
	Label  string
	Values int // there are
	Masked int // of them, whole, as whatever kind
	Clean  int // texts that are no case of the label, as its source says
	Wrong  int // of them, in which something was taken for one
	Other  int // of them, in which something else was found
	Beside int // finds of the label's kind where no value was, in texts whose values are all labelled
}

// Recall is the part of the values that is masked.
func (r Row) Recall() float64 { return part(r.Masked, r.Values) }

// Precision is the part of what was taken for a value of the label that was one.
func (r Row) Precision() float64 { return part(r.Masked, r.Masked+r.Wrong+r.Beside) }

func part(n, of int) float64 {
	if of == 0 {
		return 1
	}
	return float64(n) / float64(of)
}

// Add adds the counts of another row.
func (r *Row) Add(o Row) {
	r.Values += o.Values
	r.Masked += o.Masked
	r.Clean += o.Clean
	r.Wrong += o.Wrong
	r.Other += o.Other
	r.Beside += o.Beside
}

// A Miss is a case that a masker did not do as its source says.
type Miss struct {
	Case  Case
	Label string
	Text  string // the value that was missed, or what was found where nothing was
	Found bool
}

// Score runs the cases, and returns a row for each label, in order.
func Score(m *mask.Masker, cases []Case) ([]Row, []Miss) {
	rows := make(map[string]*Row)
	row := func(label string) *Row {
		if rows[label] == nil {
			rows[label] = &Row{Label: label}
		}
		return rows[label]
	}
	var misses []Miss
	for _, c := range cases {
		found := m.Find([]byte(c.Text))
		switch {
		case !c.Want && c.Label != "":
			r := row(c.Label)
			r.Clean++
			if i := slices.IndexFunc(found, func(f mask.Found) bool { return f.Kind == Kind(c.Label) }); i >= 0 {
				r.Wrong++
				misses = append(misses, Miss{c, c.Label, c.Text[found[i].From:found[i].To], true})
			} else if len(found) > 0 {
				r.Other++
			}
		case c.Want && len(c.Values) == 0:
			r := row(c.Label)
			r.Values++
			if slices.ContainsFunc(found, func(f mask.Found) bool { return c.Source != "gitleaks" || f.Kind == mask.Secret }) {
				r.Masked++
			} else {
				misses = append(misses, Miss{c, c.Label, c.Text, false})
			}
		}
		for _, v := range c.Values {
			r := row(v.Label)
			r.Values++
			if slices.ContainsFunc(found, func(f mask.Found) bool { return f.From <= v.From && v.To <= f.To }) {
				r.Masked++
			} else {
				misses = append(misses, Miss{c, v.Label, c.Text[v.From:v.To], false})
			}
		}
		if c.Label != "" {
			continue
		}
		for _, f := range found {
			if !slices.ContainsFunc(c.Values, func(v Value) bool { return v.From < f.To && f.From < v.To }) {
				label := labelOf(f.Kind)
				row(label).Beside++
				misses = append(misses, Miss{c, label, c.Text[f.From:f.To], true})
			}
		}
	}
	var all []Row
	for _, r := range rows {
		all = append(all, *r)
	}
	slices.SortFunc(all, func(a, b Row) int { return strings.Compare(a.Label, b.Label) })
	return all, misses
}
