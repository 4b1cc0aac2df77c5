package main

import (
	"bytes"
	"encoding/json"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/tallystick/tallystick/audit"
	"github.com/tallystick/tallystick/tlog/record"
)

// An analyst finds who sent a card's number, by the number, in a log that runs and in one that does not; what is erased is found no
// more, and an index that is made again finds the same. The number is nowhere.
func TestSearch(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	p.start("--no-samples")
	const card = "4111 1111 1111 1111"
	var ids []string
	for _, prompt := range []string{"my card is " + card + " and it leaked", "marzipan heliotrope", "marzipan without flowers", "nothing of the kind"} {
		id, _, err := p.chat(http.DefaultClient, prompt, false)
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, id)
	}
	search := func(args ...string) (found []string, page audit.Page) {
		t.Helper()
		stdout, stderr, code := p.tally(append([]string{"search", "--data", p.data, "--json"}, args...)...)
		if code != 0 {
			t.Fatalf("search %q: exit %d: %s", args, code, stderr)
		}
		for line := range strings.Lines(stdout) {
			page = audit.Page{}
			if err := json.Unmarshal([]byte(line), &page); err != nil {
				t.Fatalf("%q: %v", line, err)
			}
			for _, h := range page.Hits {
				found = append(found, h.Session.String())
			}
		}
		return found, page
	}
	await(t, "all are indexed", func() bool { found, _ := search("outcome:complete"); return len(found) == len(ids) })
	check := func(when string, all ...string) {
		t.Helper()
		for _, c := range []struct {
			query []string
			want  []string
		}{
			{[]string{card}, ids[:1]},
			{[]string{`value:"4111-1111-1111-1111"`}, ids[:1]},
			{[]string{"leaked finding:CARD caller:demo"}, ids[:1]},
			{[]string{"marzipan"}, []string{ids[2], ids[1]}},
			{[]string{`"marzipan heliotrope"`}, ids[1:2]},
			{[]string{"marzipan", "--", "-heliotrope"}, ids[2:3]},
			{[]string{"session:" + ids[3]}, ids[3:]},
			{[]string{"status:200 since:1h tokens:>0", "--most", "1", "--all"}, []string{ids[3], ids[2], ids[1], ids[0]}},
			{[]string{"status:>=400"}, nil},
		} {
			want := slices.DeleteFunc(slices.Clone(c.want), func(id string) bool { return !slices.Contains(all, id) })
			if found, _ := search(c.query...); !slices.Equal(found, want) {
				t.Errorf("%s: %q finds %v, want %v", when, c.query, found, want)
			}
		}
	}
	check("running", ids...)
	_, page := search("marzipan", "--most", "1")
	if s := page.Hits[0].Snippet; !strings.Contains(s, "marzipan without flowers") || page.Next == "" {
		t.Errorf("%+v", page)
	}
	if found, _ := search("marzipan", "--most", "1", "--after", page.Next); !slices.Equal(found, ids[1:2]) {
		t.Errorf("the next page has %v", found)
	}
	stdout, stderr, code := p.tally("search", "--data", p.data, "marzipan", "--most", "1")
	if code != 0 || !strings.Contains(stdout, ids[2]) || !strings.Contains(stdout, "200 complete") || !strings.Contains(stderr, "go on with --after "+page.Next) {
		t.Errorf("exit %d\n%s%s", code, stdout, stderr)
	}
	if _, stderr, code := p.tally("search", "--data", p.data, "colour:red"); code != 64 || !strings.Contains(stderr, "no field") {
		t.Errorf("exit %d: %s", code, stderr)
	}
	if _, stderr, code := p.tally("search", "--data", p.data, "--after", "soon", "marzipan"); code != 1 || !strings.Contains(stderr, "no page's next") {
		t.Errorf("exit %d: %s", code, stderr)
	}
	if stdout, stderr, code := p.tally("reindex", "--data", p.data); code != 0 || !strings.Contains(stdout, "has all") {
		t.Errorf("exit %d\n%s%s", code, stdout, stderr)
	}
	check("made again while it runs", ids...)
	if _, stderr, code := p.tally("erase", ids[1], "--data", p.data, "--reason", "asked", "--basis", "b", "--now"); code != 0 {
		t.Fatalf("exit %d: %s", code, stderr)
	}
	left := []string{ids[0], ids[2], ids[3]}
	check("erased", left...)
	p.stop()
	check("closed", left...)
	if _, stderr, code := p.tally("erase", ids[2], "--data", p.data, "--reason", "asked", "--basis", "b", "--now"); code != 0 {
		t.Fatalf("exit %d: %s", code, stderr)
	}
	left = []string{ids[0], ids[3]}
	check("erased while closed", left...)
	if stdout, stderr, code := p.tally("reindex", "--data", p.data); code != 0 || !strings.Contains(stdout, "has all") {
		t.Errorf("exit %d\n%s%s", code, stdout, stderr)
	}
	check("made again while closed", left...)
	p.start("--no-samples")
	check("again", left...)
	p.stop()
	for path, b := range readTree(t, p.data) {
		for _, never := range []string{"4111 1111", "4111-1111", "41111111", "heliotrope", "without flowers"} {
			if bytes.Contains(b, []byte(never)) {
				t.Errorf("%s has %q", filepath.Base(path), never)
			}
		}
	}
}

// Whatever strangers call themselves and say, a table keeps to its lines and to the terminal's width, and nothing in it does anything
// to the terminal.
func TestHitsAreFitToBeShown(t *testing.T) {
	evil := "\x1b[2J\x1b]0;owned\x07‮ereht 東京東京東京東京 \u200b\r\n" + strings.Repeat("wide", 30)
	hits := []audit.Hit{
		{Session: record.ID{1}, Began: time.Unix(1, 0), Ended: time.Unix(2, 0), Duration: time.Second, Caller: evil, Model: evil, Route: evil, Outcome: "complete", Status: 200, In: 12, Out: -1,
			Findings: []string{evil, evil}, Snippet: "before " + evil + " after", Marks: [][2]int{{7, 9}, {9, 8}, {500000, 3}, {12, 20}}},
		{Session: record.ID{2}, Began: time.Unix(1, 0), Outcome: "open", In: -1, Out: -1, Approval: "asked"},
		{Session: record.ID{3}, Began: time.Unix(1, 0), Ended: time.Unix(1, 0), Caller: "bob", Model: "m", Route: "r", Outcome: "refused", Refusal: "policy_denied", Status: 403, In: -1, Out: -1},
	}
	for _, wide := range []int{80, 100, 200} {
		var b bytes.Buffer
		showHits(&b, hits, wide, true)
		if n := strings.Count(b.String(), "\n"); n != 1+2*3+1 {
			t.Errorf("%d lines:\n%s", n, b.String())
		}
		for line := range strings.Lines(b.String()) {
			line = strings.ReplaceAll(strings.ReplaceAll(strings.TrimSuffix(line, "\n"), "\x1b[1m", ""), "\x1b[0m", "")
			if breadth(line) > wide {
				t.Errorf("%d columns of %d: %s", breadth(line), wide, line)
			}
			for _, r := range line {
				if !unicode.IsPrint(r) {
					t.Errorf("%q in %q", r, line)
				}
			}
		}
	}
	for in, want := range map[string]string{"abc": "abc", "abcd": "ab…", "東京都": "東…", "": ""} {
		if got := fit(in, 3); got != want || breadth(got) > 3 {
			t.Errorf("%q: %q", in, got)
		}
	}
}
