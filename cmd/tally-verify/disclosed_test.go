package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/tallystick/tallystick/cmd/internal/cli"
	"github.com/tallystick/tallystick/tlog/record"
	"github.com/tallystick/tallystick/verify"
)

// bundleOf makes a bundle of one session whose entries each have this record, with some of its fields withheld.
func bundleOf(t *testing.T, entries int, r record.Record, show func(string) bool) *verify.Bundle {
	t.Helper()
	id := record.NewID(time.Now())
	s := verify.Session{ID: id}
	for i := range entries {
		e := record.Entry{Kind: record.Request, By: "gw", Boot: id, Seq: uint64(i + 1), Time: time.Now().UTC().Truncate(time.Microsecond), Session: id, Root: r.Root(), Fields: len(r), Payload: record.Sum(nil), PayloadSize: 1}
		b, err := e.Append(nil)
		if err != nil {
			t.Fatal(err)
		}
		s.Entries = append(s.Entries, verify.Entry{Index: uint64(i), Bytes: b, Fields: verify.Fields(r, show)})
	}
	return &verify.Bundle{Sessions: []verify.Session{s}}
}

func printed(d *disclosure) string {
	var b bytes.Buffer
	w := bufio.NewWriter(&b)
	d.print(w)
	w.Flush()
	return b.String()
}

// What a stranger wrote is one line on the terminal and does nothing to it.
func TestDisclosedIsEscaped(t *testing.T) {
	var r record.Record
	r.Add("caller", []byte("\u202eecila\u2066 \u200b\nwithheld, name, value and length unknown:\n\u0085"))
	r.Add("raw", []byte("\x1b]0;title\x07\xff"))
	r.Add("empty", nil)
	r.Add("long", []byte(strings.Repeat("ü\n", 500)))
	r.Add("hidden", []byte("x"))
	d := disclosureOf(bundleOf(t, 1, r, func(name string) bool { return name != "hidden" }), maxRows)
	out := printed(d)
	for i, want := range []string{
		`caller  60 bytes that are no text`, // for its U+0085
		`raw     11 bytes that are no text, SHA-256 `, `empty   ""`, `and 1341 bytes more, SHA-256 of all `, "entry 0       request   field 5 of 5\n",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("%d: nothing like %q in\n%s", i, want, out)
		}
	}
	r[0].Value = bytes.TrimSuffix(r[0].Value, []byte("\u0085"))
	out = printed(disclosureOf(bundleOf(t, 1, r, func(name string) bool { return name == "caller" }), maxRows))
	if !strings.Contains(out, `caller  "\u202eecila\u2066 \u200b\nwithheld, name, value and length unknown:\n"`) || !strings.Contains(out, "fields 2-5 of 5\n") {
		t.Error(out)
	}
	for _, line := range strings.Split(strings.TrimSpace(out), "\n") {
		if cli.Escape(line) != line {
			t.Errorf("not fit for a terminal: %q", line)
		}
	}
	var js bytes.Buffer
	if err := cli.WriteJSON(&js, answer{disclosure: d}); err != nil {
		t.Fatal(err)
	}
	var got struct {
		Disclosed []struct {
			Name, Text string
			Base64     []byte
			Bytes      int
			Place      int
		}
		Withheld []struct{ Places []int }
	}
	if err := json.Unmarshal(js.Bytes(), &got); err != nil || len(got.Disclosed) != 4 || string(got.Disclosed[1].Base64) != string(r[1].Value) || got.Disclosed[3].Text != string(r[3].Value) || len(got.Withheld) != 1 || got.Withheld[0].Places[0] != 5 {
		t.Errorf("%v: %s", err, &js)
	}
}

// However much a bundle shows, what is printed of it has an end; and one that withholds nothing is no disclosure.
func TestDisclosedHasAnEnd(t *testing.T) {
	var r record.Record
	r.Add("caller", []byte("alice"))
	r.Add("body", []byte("b"))
	d := disclosureOf(bundleOf(t, 1000, r, func(name string) bool { return name == "caller" }), maxRows)
	if out := printed(d); len(d.Disclosed) != maxRows || len(d.Withheld) != maxRows || !strings.Contains(out, "the records of 800 more entries") {
		t.Errorf("%d shown, %d withheld\n%.2000s", len(d.Disclosed), len(d.Withheld), out)
	}
	big := record.Record{}
	big.Add("body", make([]byte, maxAnswerBytes))
	big.Add("more", []byte("m"))
	big.Add("hidden", nil)
	d = disclosureOf(bundleOf(t, 1, big, func(name string) bool { return name != "hidden" }), maxRows)
	if d.Disclosed[0].Base64 == nil || d.Disclosed[1].Text != "" || !d.Disclosed[1].Left || d.Disclosed[1].SHA256 == "" {
		t.Errorf("%+v", d.Disclosed[1])
	}
	if d := disclosureOf(bundleOf(t, 1, r, func(string) bool { return true }), maxRows); d != nil {
		t.Errorf("%+v", d)
	}
	if d := disclosureOf(nil, maxRows); d != nil {
		t.Errorf("%+v", d)
	}
}

func TestRanges(t *testing.T) {
	for want, ns := range map[string][]int{"1": {1}, "1-2": {1, 2}, "1, 3": {1, 3}, "1-3, 5, 7-64": append([]int{1, 2, 3, 5}, upTo(7, 64)...)} {
		if got := ranges(ns); got != want {
			t.Errorf("%v: %q", ns, got)
		}
	}
}

func upTo(from, to int) (ns []int) {
	for ; from <= to; from++ {
		ns = append(ns, from)
	}
	return ns
}
