package main

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strconv"
	"unicode/utf8"

	"github.com/tallystick/tallystick/tlog/record"
	"github.com/tallystick/tallystick/verify"
)

const (
	// maxValue is how many bytes of a value are printed.
	maxValue = 160
	// maxRows is how many fields are printed, and maxAnswerRows how many are in the JSON; a bundle can hold millions.
	maxRows, maxAnswerRows = 200, 10000
	// maxAnswerBytes is how many bytes of values are in the JSON.
	maxAnswerBytes = 16 << 20
)

// A disclosure is what a bundle that withholds something shows, and what it withholds.
type disclosure struct {
	Disclosed []disclosedField `json:"disclosed"`
	Withheld  []withheldFields `json:"withheld"`
	More      int              `json:"more,omitempty"` // entries that are not listed any more
}

// A disclosedField is one field that is shown and proven.
type disclosedField struct {
	Session string `json:"session"`
	Entry   uint64 `json:"entry"`
	Kind    string `json:"kind"`
	Place   int    `json:"place"` // in its record, from 1
	Name    string `json:"name"`
	Bytes   int    `json:"bytes"`
	SHA256  string `json:"sha256"`
	Text    string `json:"text,omitempty"`   // the value, if it is text
	Base64  []byte `json:"base64,omitempty"` // the value, if it is not
	Left    bool   `json:"left_out,omitempty"`

	value []byte
}

// withheldFields are those of one record that are withheld. Nobody knows their names.
type withheldFields struct {
	Session string `json:"session"`
	Entry   uint64 `json:"entry"`
	Kind    string `json:"kind"`
	Places  []int  `json:"places"` // in the record, from 1
	Of      int    `json:"of"`     // how many fields it has
}

// disclosureOf lists what a bundle shows and withholds, at most so many rows of each; nil if it withholds nothing.
func disclosureOf(b *verify.Bundle, rows int) *disclosure {
	if b == nil {
		return nil
	}
	d := &disclosure{Disclosed: []disclosedField{}}
	room := maxAnswerBytes
	for _, s := range b.Sessions {
		for _, e := range s.Entries {
			st, err := record.ParseEntry(e.Bytes)
			if err != nil {
				continue // of a bundle whose claims hold there is none
			}
			hidden := withheldFields{Session: s.ID.String(), Entry: e.Index, Kind: string(st.Kind), Of: st.Fields}
			full := len(d.Disclosed) >= rows || len(d.Withheld) >= rows
			for i, f := range e.Fields {
				switch {
				case f.Shown == nil:
					hidden.Places = append(hidden.Places, i+1)
				case !full:
					row := disclosedField{Session: hidden.Session, Entry: e.Index, Kind: hidden.Kind, Place: i + 1, Name: f.Shown.Name, Bytes: len(f.Shown.Value), value: f.Shown.Value}
					sum := sha256.Sum256(row.value)
					row.SHA256 = hex.EncodeToString(sum[:])
					switch room -= len(row.value); {
					case room < 0:
						row.Left = true
					case record.IsText(row.value):
						row.Text = string(row.value)
					default:
						row.Base64 = row.value
					}
					d.Disclosed = append(d.Disclosed, row)
				}
			}
			switch {
			case full:
				d.More++
			case len(hidden.Places) > 0:
				d.Withheld = append(d.Withheld, hidden)
			}
		}
	}
	if len(d.Withheld) == 0 {
		return nil
	}
	return d
}

// print writes two tables: what is shown, with its name, and what is withheld, by its place alone.
func (d *disclosure) print(w *bufio.Writer) {
	session := func(last *string, now string) {
		if *last != now {
			fmt.Fprintf(w, "  session %s\n", now)
			*last = now
		}
	}
	fmt.Fprint(w, "\ndisclosed, and proven to be what was recorded:\n")
	if len(d.Disclosed) == 0 {
		fmt.Fprint(w, "  nothing\n")
	}
	wide := 0
	for _, f := range d.Disclosed {
		wide = max(wide, len(f.Name))
	}
	last := ""
	for _, f := range d.Disclosed {
		session(&last, f.Session)
		fmt.Fprintf(w, "    entry %-6d  %-8s  %-*s  %s\n", f.Entry, f.Kind, wide, f.Name, shorten(f.value, f.SHA256))
	}
	fmt.Fprint(w, "\nwithheld, name, value and length unknown:\n")
	last = ""
	for _, f := range d.Withheld {
		session(&last, f.Session)
		word := "fields"
		if len(f.Places) == 1 {
			word = "field"
		}
		fmt.Fprintf(w, "    entry %-6d  %-8s  %s %s of %d\n", f.Entry, f.Kind, word, ranges(f.Places), f.Of)
	}
	if d.More > 0 {
		fmt.Fprintf(w, "  and the records of %d more entries, shown or withheld\n", d.More)
	}
}

// shorten returns a value as one quoted line that does nothing to a terminal. What is long, or no text, is told by length and digest.
func shorten(v []byte, sum string) string {
	if !record.IsText(v) {
		return fmt.Sprintf("%d bytes that are no text, SHA-256 %s", len(v), sum)
	}
	if len(v) <= maxValue {
		return strconv.Quote(string(v))
	}
	n := maxValue
	for !utf8.RuneStart(v[n]) {
		n--
	}
	return fmt.Sprintf("%s and %d bytes more, SHA-256 of all %s", strconv.Quote(string(v[:n])), len(v)-n, sum)
}

// ranges writes rising numbers as 1-3, 5.
func ranges(ns []int) string {
	var b []byte
	for i := 0; i < len(ns); {
		k := i
		for k+1 < len(ns) && ns[k+1] == ns[k]+1 {
			k++
		}
		if i > 0 {
			b = append(b, ", "...)
		}
		b = strconv.AppendInt(b, int64(ns[i]), 10)
		if k > i {
			b = strconv.AppendInt(append(b, '-'), int64(ns[k]), 10)
		}
		i = k + 1
	}
	return string(b)
}
