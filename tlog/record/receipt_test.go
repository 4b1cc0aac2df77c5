package record_test

import (
	"bytes"
	"encoding/json"
	"math"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/tallystick/tallystick/tlog"
	. "github.com/tallystick/tallystick/tlog/record"
)

// exampleReceipts are a receipt as it is given at once, one as it is given later, and one of an erased session.
func exampleReceipts(t testing.TB) map[string]*Receipt {
	t.Helper()
	entry := func(name string) []byte {
		for _, x := range append(exampleLog(t), exampleEntries()...) {
			if x.Name == name {
				b, err := x.Entry.Append(nil)
				if err != nil {
					t.Fatal(err)
				}
				return b
			}
		}
		t.Fatalf("no example %q", name)
		return nil
	}
	fields := func(rec Record) (fs []ReceiptField) {
		for i := range rec {
			switch f := &rec[i]; {
			case f.Name == FieldBody:
				fs = append(fs, f.Kept())
			case f.Name == FieldHeaders:
				fs = append(fs, f.Withheld())
			default:
				fs = append(fs, f.Shown())
			}
		}
		return fs
	}
	private, _ := promiseKey("gw-1")
	p := promiseOf(0, 3, 6)
	signed, err := p.Sign(private)
	if err != nil {
		t.Fatal(err)
	}
	records := exampleRecords()
	proof := tlog.Proof{hashOf("a"), hashOf("b"), hashOf("c")}
	checkpoint := []byte("log.example/2026\n7\n" + hashOf("root").String() + "\n\n— log.example/2026 AAAA\n")
	return map[string]*Receipt{
		"at once": {
			Session: idOf("plain"), Promise: &signed, Start: &ReceiptEntry{Index: 0, Bytes: entry("start")},
			Entries: []ReceiptEntry{
				{Index: 3, Bytes: entry("request"), Fields: fields(records[6])}, {Index: 6, Bytes: entry("response"), Fields: fields(records[8])},
			},
		},
		"half proven": {
			Session: idOf("plain"), Promise: &signed, Checkpoint: checkpoint, Start: &ReceiptEntry{Index: 0, Bytes: entry("start"), Proof: proof},
			Entries: []ReceiptEntry{
				{Index: 3, Bytes: entry("request"), Proof: tlog.Proof{}, Fields: fields(records[6])}, {Index: 6, Bytes: entry("response"), Fields: fields(records[8])},
			},
		},
		"erased": {
			Session: idOf("plain"), Checkpoint: checkpoint,
			Entries: []ReceiptEntry{{Index: math.MaxInt64, Bytes: entry("longest refused"), Proof: proof}},
		},
		"odd values": {
			Session: ID{15: 1}, Checkpoint: []byte{},
			Entries: []ReceiptEntry{{Bytes: []byte("{}"), Proof: slices.Repeat(proof, 21), Fields: fields(Record{
				field2("a", ""), field2("b", "a\"b\\c\nd\re\tf"), field2("c", "<&> é 漢 \u2028 \u2029 \ufeff \u00a0"), field2("d", "\x00"), field2("e", "\x7f"),
				field2("f", "\u0085"), field2("g", "\xff"), field2("h", "\xed\xa0\x80"), field2(strings.Repeat("n", MaxName), "x"),
			})}},
		},
	}
}

func field2(name, value string) Field {
	return Field{Name: name, Salt: saltOf(name), Value: []byte(value)}
}

func appendReceipt(t testing.TB, r *Receipt) []byte {
	t.Helper()
	b, err := r.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// receiptForm is the spelling of a receipt, but for what an entry may be.
var receiptForm = func() *regexp.Regexp {
	text := `"(?:[^"\\\x00-\x1f\x7f-\x{9f}\x{2028}\x{2029}]|\\["\\nrt]|\\u202[89])*"`
	base64 := func(n string) string {
		return `"(?:[A-Za-z0-9+/]{4}){` + n + `}(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=|)"`
	}
	salt := `","salt":"[A-Za-z0-9+/]{21}[AQgw]==","`
	field := `\{(?:"name":"[a-z0-9._-]{1,64}` + salt + `(?:text":` + text + `|base64":` + base64("0,") + `)|"name":"body` + salt + `leaf":"` + hash + `"|"withheld":"` + hash + `")\}`
	entry := func(fields string) string {
		return `\{"index":(?:` + num + `),"entry":\{.*\},"proof":(?:null|\[(?:"` + hash + `"(?:,"` + hash + `")*)?\]),"fields":\[` + fields + `\]\}`
	}
	e := entry(`(?:` + field + `(?:,` + field + `)*)?`)
	return regexp.MustCompile(`\A\{"format":"tallystick-receipt/v1","session":"` + uuid + `","checkpoint":(?:null|` + text + `)` +
		`,(?:"promise":null,"start":null|"promise":\{"text":` + text + `,"signature":"[A-Za-z0-9+/]{85}[AQgw]=="\},"start":` + entry("") + `)` +
		`,"entries":\[` + e + `(?:,` + e + `)*\]\}\n\z`)
}()

func TestReceiptsAreReadAsTheyWereWritten(t *testing.T) {
	for name, r := range exampleReceipts(t) {
		b := appendReceipt(t, r)
		back, err := ParseReceipt(b)
		if err != nil {
			t.Errorf("%s: %v\n%s", name, err, b)
			continue
		}
		if !reflect.DeepEqual(back, r) {
			t.Errorf("%s: read back as %+v, was %+v", name, back, r)
		}
		if !receiptForm.Match(b) || !json.Valid(b) {
			t.Errorf("%s: not the form of a receipt: %s", name, b)
		}
		if more, err := r.Append([]byte("x")); err != nil || string(more) != "x"+string(b) {
			t.Errorf("%s: appended as %s, %v", name, more, err)
		}
	}
}

// What a field's leaf is does not depend on how much of the field is told.
func TestReceiptFieldsHash(t *testing.T) {
	for _, r := range exampleRecords() {
		for i := range r {
			f := &r[i]
			shown, kept, withheld := f.Shown(), f.Kept(), f.Withheld()
			if h := f.Hash(); shown.Hash() != h || kept.Hash() != h || withheld.Hash() != h || kept.Holding(f.Value) != h {
				t.Errorf("the field %s has several leaves", f.Name)
			}
			if kept.Holding(append(slices.Clone(f.Value), 'x')) == f.Hash() {
				t.Errorf("the field %s holds anything", f.Name)
			}
		}
	}
}

// JSON that means the same is not a receipt.
func TestReceiptHasOneForm(t *testing.T) {
	good := string(appendReceipt(t, exampleReceipts(t)["half proven"]))
	odd := string(appendReceipt(t, exampleReceipts(t)["odd values"]))
	for name, c := range map[string]struct{ of, old, new string }{
		"another order":            {good, `{"index":3,"entry":`, `{"entry":3,"index":`},
		"a space":                  {good, `"entries":[`, `"entries": [`},
		"an unknown member":        {good, `{"index":3,`, `{"note":"x","index":3,`},
		"a member twice":           {good, `{"index":3,`, `{"index":4,"index":3,`},
		"another case":             {good, `{"index":3,`, `{"Index":3,`},
		"a leading zero":           {good, `"index":3,`, `"index":03,`},
		"a fraction":               {good, `"index":3,`, `"index":3.0,`},
		"an exponent":              {good, `"index":3,`, `"index":3e0,`},
		"an index of 2^63":         {good, `"index":3,`, `"index":9223372036854775808,`},
		"another format":           {good, `receipt/v1`, `receipt/v2`},
		"a session in capitals":    {good, idOf("plain").String(), strings.ToUpper(idOf("plain").String())},
		"no line break":            {good, "}]}]}\n", "}]}]}"},
		"a line break more":        {good, "}]}]}\n", "}]}]}\n\n"},
		"more behind it":           {good, "}]}]}\n", "}]}]}\n{}"},
		"a byte order mark":        {good, `{"format"`, "\ufeff" + `{"format"`},
		"no promise with a start":  {good, good[strings.Index(good, `"promise":`):strings.Index(good, `,"start"`)], `"promise":null`},
		"a promise left out":       {good, good[strings.Index(good, `"promise":`):strings.Index(good, `,"start"`)], `"x":1`},
		"no entries":               {odd, odd[strings.Index(odd, `"entries":`):], `"entries":[]}` + "\n"},
		"entries null":             {odd, odd[strings.Index(odd, `"entries":`):], `"entries":null}` + "\n"},
		"fields null":              {good, `"fields":[]`, `"fields":null`},
		"fields of a start":        {good, `"fields":[]`, `"fields":[{"withheld":"` + hashOf("x").String() + `"}]`},
		"a salt cut short":         {odd, `"salt":"` + b64(saltOf("a")), `"salt":"` + b64([16]byte(saltOf("a")))[:20]},
		"no salt":                  {odd, `"name":"a","salt":"` + b64(saltOf("a")) + `",`, `"name":"a",`},
		"a text escaped otherwise": {odd, `\n`, `\u000a`},
		"an escape too many":       {odd, `<&>`, `\u003c&>`},
		"a separator unescaped":    {odd, `\u2028`, "\u2028"},
		"text in base64":           {odd, `"text":"x"`, `"base64":"eA=="`},
		"base64 of loose bits":     {odd, `"base64":"AA=="`, `"base64":"AB=="`},
		"base64 with a line break": {odd, `"base64":"AA=="`, `"base64":"AA==\n"`},
		"a kept field not a body":  {good, `"name":"body"`, `"name":"bodz"`},
		"a value and a leaf":       {odd, `"text":"x"`, `"text":"x","leaf":"` + hashOf("x").String() + `"`},
		"neither value nor leaf":   {odd, `,"text":"x"`, ``},
		"a name and withheld":      {odd, `"text":"x"`, `"withheld":"` + hashOf("x").String() + `"`},
		"a name in capitals":       {odd, `"name":"a"`, `"name":"A"`},
		"white space in an entry":  {odd, `"entry":{}`, `"entry":{ }`},
		"an entry that is a list":  {odd, `"entry":{}`, `"entry":[]`},
		"an entry that is null":    {odd, `"entry":{}`, `"entry":null`},
		"an entry not UTF-8":       {odd, `"entry":{}`, `"entry":{"a":"` + "\xff" + `"}`},
		"a long entry":             {odd, `"entry":{}`, `"entry":{"a":"` + strings.Repeat("a", tlog.MaxEntry) + `"}`},
		"64 hashes":                {odd, `"proof":[`, `"proof":["` + hashOf("x").String() + `",`},
		"a checkpoint not text":    {odd, `"checkpoint":""`, `"checkpoint":"\u0000"`},
	} {
		if strings.Count(c.of, c.old) < 1 {
			t.Fatalf("%s: %q is not there in %s", name, c.old, c.of)
		}
		if r, err := ParseReceipt([]byte(strings.Replace(c.of, c.old, c.new, 1))); err == nil {
			t.Errorf("%s: read as %+v", name, r)
		} else if !strings.Contains(err.Error(), "record: ") || len(err.Error()) > 300 {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, s := range []string{"", "{}", "null", "[]", "receipt", strings.Repeat("[", 1<<20), strings.Repeat(" ", MaxReceipt+1)} {
		if _, err := ParseReceipt([]byte(s)); err == nil {
			t.Errorf("%.20q is read", s)
		}
	}
}

func b64(salt [SaltBytes]byte) string {
	b, _ := json.Marshal(salt[:])
	return strings.Trim(string(b), `"`)
}

func TestReceiptIsNotWritten(t *testing.T) {
	for name, change := range map[string]func(*Receipt){
		"without a session":       func(r *Receipt) { r.Session = ID{} },
		"without entries":         func(r *Receipt) { r.Entries = nil },
		"of 65 entries":           func(r *Receipt) { r.Entries = slices.Repeat(r.Entries[:1], 65) },
		"without the start":       func(r *Receipt) { r.Start = nil },
		"with a start's fields":   func(r *Receipt) { r.Start.Fields = r.Entries[0].Fields },
		"with a checkpoint's NUL": func(r *Receipt) { r.Checkpoint = []byte{0} },
		"with a promise's NUL":    func(r *Receipt) { r.Promise.Text = []byte{0} },
		"of an index of 2^63":     func(r *Receipt) { r.Entries[0].Index = 1 << 63 },
		"of an entry not JSON":    func(r *Receipt) { r.Entries[0].Bytes = []byte("{") },
		"of no entry":             func(r *Receipt) { r.Start.Bytes = nil },
		"of a field's bad name":   func(r *Receipt) { r.Entries[0].Fields[0].Name = "A" },
		"of a name and nothing":   func(r *Receipt) { r.Entries[0].Fields[0] = ReceiptField{Name: "x"} },
		"of 65 fields":            func(r *Receipt) { r.Entries[0].Fields = slices.Repeat(r.Entries[0].Fields[:1], 65) },
		"that is too large": func(r *Receipt) {
			r.Entries[0].Fields[0] = (&Field{Name: "x", Value: make([]byte, MaxReceipt)}).Shown()
		},
	} {
		r := exampleReceipts(t)["at once"]
		change(r)
		if b, err := r.Append(nil); err == nil {
			t.Errorf("%s: %.200s", name, b)
		}
	}
}

func FuzzReceipt(f *testing.F) {
	for _, r := range exampleReceipts(f) {
		f.Add(appendReceipt(f, r))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := ParseReceipt(b)
		if err != nil {
			return
		}
		if again := appendReceipt(t, r); !bytes.Equal(again, b) {
			t.Fatalf("written again as %s", again)
		}
		if !receiptForm.Match(b) {
			t.Fatalf("not the form of a receipt")
		}
	})
}

// A nonce stands beside the value of the field exact, whole, and nowhere else.
func TestReceiptNonce(t *testing.T) {
	nonce := bytes.Repeat([]byte{7}, NonceBytes)
	with := func(f ReceiptField) *Receipt {
		return &Receipt{Session: idOf("nonce"), Entries: []ReceiptEntry{{Index: 1, Bytes: []byte(`{"v":1}`), Fields: []ReceiptField{f}}}}
	}
	exact := ReceiptField{Name: FieldExact, Value: Exactly(nonce, []byte("body")), Nonce: nonce}
	b, err := with(exact).Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	r, err := ParseReceipt(b)
	if err != nil || !bytes.Equal(r.Entries[0].Fields[0].Nonce, nonce) {
		t.Fatalf("%+v, %v", r, err)
	}
	exact.Nonce = nil
	if _, err := with(exact).Append(nil); err != nil {
		t.Error(err)
	}
	for name, f := range map[string]ReceiptField{
		"short":         {Name: FieldExact, Value: []byte("v"), Nonce: nonce[1:]},
		"another field": {Name: FieldStatus, Value: []byte("200"), Nonce: nonce},
		"the body":      {Name: FieldBody, Nonce: nonce},
	} {
		if _, err := with(f).Append(nil); err == nil {
			t.Errorf("%s: it is written", name)
		}
	}
}
