package record_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	"github.com/tallystick/tallystick/tlog"
	. "github.com/tallystick/tallystick/tlog/record"
)

func benchEntry(b *testing.B) (Entry, []byte) {
	for _, x := range exampleLog(b) {
		if x.Name == "response" {
			text, err := x.Entry.Append(nil)
			if err != nil {
				b.Fatal(err)
			}
			return x.Entry, text
		}
	}
	panic("no response")
}

func BenchmarkEntryAppend(b *testing.B) {
	e, text := benchEntry(b)
	buf := make([]byte, 0, 1024)
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := e.Append(buf); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkParseEntry(b *testing.B) {
	_, text := benchEntry(b)
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ParseEntry(text); err != nil {
			b.Fatal(err)
		}
	}
}

// prose is n bytes of what people write, from somewhere in FORMAT.md, fit to stand in a JSON string.
func prose(n int, rnd *rand.Rand) []byte {
	doc, err := os.ReadFile("FORMAT.md")
	if err != nil {
		panic(err)
	}
	from := bytes.Index(doc, []byte("## 6. The writer"))
	doc = []byte(strings.NewReplacer("\n", " ", "\"", "'", "\\", "/").Replace(string(doc[from:])))
	at := rnd.IntN(len(doc) - n)
	return doc[at : at+n]
}

// jsonCall is a record of about 6 KB: a request in JSON, and what stands around it.
func jsonCall() Record {
	rnd := rand.New(rand.NewPCG(1, 2))
	var r Record
	r.Add(FieldSession, []byte(idOf("bench").String()))
	r.Add(FieldCaller, []byte("team-a"))
	r.Add(FieldModel, []byte("gpt-x"))
	r.Add(FieldRoute, []byte("chat"))
	r.Add(FieldUpstream, []byte("https://api.example/v1/chat/completions"))
	r.Add(FieldHeaders, []byte(`[["content-type","application/json"],["user-agent","OpenAI/Python 2.1.0"],["accept","application/json"],["x-stainless-lang","python"]]`))
	r.Add(FieldTimes, []byte(`{"begin":"2026-01-02T15:04:05.000000Z","sent":"2026-01-02T15:04:05.000400Z"}`))
	var body bytes.Buffer
	body.WriteString(`{"model":"gpt-x","temperature":0.2,"messages":[`)
	for i := 0; body.Len() < 5300; i++ {
		fmt.Fprintf(&body, `{"role":"%s","content":"%s"},`, []string{"user", "assistant"}[i%2], prose(700, rnd))
	}
	body.WriteString(`{"role":"user","content":"Go on."}]}`)
	r.Add(FieldBody, body.Bytes())
	return r
}

// sseCall is a record of about 100 KB: a streamed answer and the table of its events.
func sseCall() Record {
	rnd := rand.New(rand.NewPCG(3, 4))
	text := bytes.Fields(prose(4000, rnd))
	var body, events bytes.Buffer
	events.WriteByte('[')
	for i := 0; body.Len() < 100_000; i++ {
		from := body.Len()
		fmt.Fprintf(&body, "data: {\"id\":\"chatcmpl-9xKq3\",\"object\":\"chat.completion.chunk\",\"created\":1767366245,\"model\":\"gpt-x\",\"system_fingerprint\":\"fp_1\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\" %s\"},\"logprobs\":null,\"finish_reason\":null}]}\n\n", text[i%len(text)])
		if i > 0 {
			events.WriteByte(',')
		}
		fmt.Fprintf(&events, "[%d,%d]", body.Len()-from, 10_000+rnd.IntN(9000))
	}
	events.WriteByte(']')
	var r Record
	r.Add(FieldSession, []byte(idOf("bench").String()))
	r.Add(FieldStatus, []byte("200"))
	r.Add(FieldHeaders, []byte(`[["content-type","text/event-stream"]]`))
	r.Add(FieldBody, body.Bytes())
	r.Add(FieldEvents, events.Bytes())
	return r
}

func benchCalls(b *testing.B, f func(b *testing.B, r Record, plain int)) {
	for _, c := range []struct {
		name string
		r    Record
	}{{"json", jsonCall()}, {"sse", sseCall()}} {
		plain, err := c.r.Append(nil)
		if err != nil {
			b.Fatal(err)
		}
		b.Run(c.name, func(b *testing.B) { f(b, c.r, len(plain)) })
	}
}

func BenchmarkSeal(b *testing.B) {
	c := newCoder(b)
	benchCalls(b, func(b *testing.B, r Record, plain int) {
		bind := Binding{Kind: Response, Session: idOf("bench"), Root: r.Root()}
		sealed := 0
		b.SetBytes(int64(plain))
		b.ReportAllocs()
		for b.Loop() {
			p, err := c.Seal(r, testKey, "ring-1/1", bind)
			if err != nil {
				b.Fatal(err)
			}
			sealed = len(p)
		}
		b.ReportMetric(float64(plain)/float64(sealed), "ratio")
		b.ReportMetric(float64(plain), "record-bytes")
	})
}

func BenchmarkOpen(b *testing.B) {
	c := newCoder(b)
	benchCalls(b, func(b *testing.B, r Record, plain int) {
		bind := Binding{Kind: Response, Session: idOf("bench"), Root: r.Root()}
		p, err := c.Seal(r, testKey, "ring-1/1", bind)
		if err != nil {
			b.Fatal(err)
		}
		b.SetBytes(int64(plain))
		b.ReportAllocs()
		for b.Loop() {
			if _, err := c.Open(p, testKey, bind); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkFieldHash(b *testing.B) {
	for _, size := range []int{30, 6000, 100_000} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			f := Field{Name: FieldBody, Value: make([]byte, size)}
			b.SetBytes(int64(size))
			b.ReportAllocs()
			var h tlog.Hash
			for b.Loop() {
				h = f.Hash()
			}
			_ = h
		})
	}
}

func BenchmarkRecordRoot(b *testing.B) {
	benchCalls(b, func(b *testing.B, r Record, plain int) {
		b.SetBytes(int64(plain))
		b.ReportAllocs()
		for b.Loop() {
			r.Root()
		}
	})
}
