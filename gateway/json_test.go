package gateway

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tallystick/tallystick/tlog/record"
)

type jsonCase struct {
	Name string `json:"name"`
	Raw  []byte `json:"raw_b64"`
}

// jsonCases are the cases of JSONTestSuite.
func jsonCases(t testing.TB) []jsonCase {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", "json", "cases.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	var cases []jsonCase
	for lines := bufio.NewScanner(bytes.NewReader(b)); lines.Scan(); {
		var c jsonCase
		if err := json.Unmarshal(lines.Bytes(), &c); err != nil {
			t.Fatal(err)
		}
		cases = append(cases, c)
	}
	return append(cases,
		jsonCase{"n_structure_100000_opening_arrays", bytes.Repeat([]byte("["), 100_000)},
		jsonCase{"n_structure_open_array_object", append(bytes.Repeat([]byte(`[{"":`), 50_000), '\n')},
	)
}

// readsOtherwise are the cases that a body is read otherwise than the suite asks, and why.
var readsOtherwise = map[string]string{
	"y_object_duplicated_key":           "a name is said twice",
	"y_object_duplicated_key_and_value": "a name is said twice",
}

// A body that is not JSON does not reach a model that reads JSON, and one that is passes byte for byte.
func TestJSONBodies(t *testing.T) {
	t.Parallel()
	w := newRawWorld(t, answerOK, nil)
	passed := make(map[byte]int)
	total := make(map[byte]int)
	refused := make(map[string]jsonCase)
	for _, c := range jsonCases(t) {
		before := w.model.Count()
		resp := w.post("/v1/chat/completions", string(c.Raw))
		body := slurp(t, resp.Body)
		sent := w.model.Count() - before
		kind := c.Name[0]
		total[kind]++
		want := kind == 'y'
		if readsOtherwise[c.Name] != "" {
			want = !want
		}
		if len(c.Raw) == 0 {
			want = true // no body is nobody's JSON
		}
		switch {
		case resp.StatusCode == 200 && sent == 1:
			passed[kind]++
			if last, _ := w.model.Last(); !bytes.Equal(last.Body, c.Raw) {
				t.Errorf("%s reached the model as %q", c.Name, last.Body)
			}
			if !want && kind != 'i' {
				t.Errorf("%s passed: %.100q", c.Name, c.Raw)
			}
		case resp.StatusCode == 400 && sent == 0 && strings.Contains(body, `"invalid_json"`):
			if want && kind != 'i' {
				t.Errorf("%s was refused: %s: %.100q", c.Name, body, c.Raw)
			}
			refused[resp.Header.Get(SessionHeader)] = c
		default:
			t.Errorf("%s: status %d, sent %d times: %s", c.Name, resp.StatusCode, sent, body)
		}
	}
	t.Logf("passed: %d of %d y_, %d of %d n_, %d of %d i_", passed['y'], total['y'], passed['n'], total['n'], passed['i'], total['i'])

	w.session(w.post("/v1/chat/completions", "").Header.Get(SessionHeader)) // the refusals before it are on record
	for id, k := range w.sessions() {
		c, ok := refused[id.String()]
		if e, r := k.last(); ok && (e.Kind != record.Refused || e.Reason != "invalid_json" || get(r, record.FieldBody) != string(c.Raw)) {
			t.Errorf("%s is on record as %s %s with %d bytes", c.Name, e.Kind, e.Reason, len(get(r, record.FieldBody)))
		}
		delete(refused, id.String())
	}
	if len(refused) > 0 {
		t.Errorf("%d refusals are not on record", len(refused))
	}

	// Another API's bodies are nobody's business, and a packed one cannot be read.
	for _, c := range []struct{ path, body, coding string }{{"/any/x", "not JSON", ""}, {"/v1/chat/completions", "\x1f\x8b", "gzip"}} {
		resp := w.raw("POST", c.path, c.body, "content-encoding: "+c.coding)
		if got := slurp(t, resp.Body); resp.StatusCode != 200 {
			t.Errorf("%q: status %d: %s", c, resp.StatusCode, got)
		}
		if last, _ := w.model.Last(); string(last.Body) != c.body || strings.Join(fields(last.Head)["content-encoding"], ",") != c.coding {
			t.Errorf("%q reached the model as %q\n%s", c, last.Body, last.Head)
		}
	}
}

// saidOnce reads a value and says if an object in it has a name twice.
func saidOnce(dec *json.Decoder) error {
	tok, err := dec.Token()
	if err != nil {
		return err
	}
	d, ok := tok.(json.Delim)
	if !ok {
		return nil
	}
	seen := make(map[string]bool)
	for dec.More() {
		if d == '{' {
			tok, err := dec.Token()
			if err != nil {
				return err
			}
			if name := tok.(string); seen[name] {
				return fmt.Errorf("the name %q twice", name)
			} else {
				seen[name] = true
			}
		}
		if err := saidOnce(dec); err != nil {
			return err
		}
	}
	_, err = dec.Token()
	return err
}
