package record

import (
	"errors"
	"math"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestParseEvents(t *testing.T) {
	for table, want := range map[string][]Event{
		"[]":                     {},
		"[[6,0]]":                {{6, 0}},
		"[[2,1],[4,200000]]":     {{2, time.Microsecond}, {4, 200 * time.Millisecond}},
		"[[0,0],[6,1],[0,12]]":   {{0, 0}, {6, time.Microsecond}, {0, 12 * time.Microsecond}},
		"[[6,9223372036854775]]": {{6, math.MaxInt64 / 1000 * 1000}},
	} {
		total := 0
		for _, e := range want {
			total += e.Bytes
		}
		got, err := ParseEvents([]byte(table), total)
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: %v %v", table, got, err)
		}
	}
	for _, table := range []string{
		"", "[", "]", "{}", "[[5,0]]", "[[7,0]]", "[]", "[[3,0],[3,0]x]", "[[6]]", "[[6,a]]", "[[-1,0],[7,0]]", "[[6,0],]", "[[6 ,0]]", "[[6,0]] ",
		"[[06,0]]", "[[6,00]]", "[[6,-1]]", "[[6,1.5]]", "[[6,1e3]]", "[[6,0,0]]", "[[6,9223372036854776]]", "[[6,99999999999999999999]]", "[[99999999999999999999,0]]", "[[,]]", "[[6,0][0,0]]",
	} {
		if got, err := ParseEvents([]byte(table), 6); !errors.Is(err, ErrEvents) || got != nil {
			t.Errorf("%s: %v %v", table, got, err)
		}
	}
	if got := string(AppendEvent(AppendEvent([]byte("["), Event{1, -5}), Event{2, 1999})); got != "[[1,0],[2,1]" {
		t.Errorf("appended: %s", got)
	}
}

// What is read is written again the same.
func FuzzParseEvents(f *testing.F) {
	f.Add("[[2,1],[4,200000]]", 6)
	f.Add("[[0,0]]", 0)
	f.Add("["+strings.Repeat("[0,0],", 9)+"[1,1]]", 1)
	f.Fuzz(func(t *testing.T, table string, total int) {
		events, err := ParseEvents([]byte(table), total)
		if err != nil {
			return
		}
		again := []byte("[")
		for _, e := range events {
			again = AppendEvent(again, e)
			total -= e.Bytes
		}
		if again = append(again, ']'); string(again) != table || total != 0 {
			t.Fatalf("%s became %s", table, again)
		}
	})
}
