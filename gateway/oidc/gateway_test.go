package oidc

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/tallystick/tallystick/gateway"
	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/record"
	"github.com/tallystick/tallystick/tlog/tlogtest"
)

// oneDataKey gives every session the same data key.
type oneDataKey [record.KeyBytes]byte

func (k *oneDataKey) New(context.Context) (string, []byte, error) { return "k", bytes.Clone(k[:]), nil }
func (k *oneDataKey) Open(context.Context, string) ([]byte, error) {
	return bytes.Clone(k[:]), nil
}

// Each of the recipes, shown to a gateway, is answered with 401, or is no header at all and answered with 400. That a token was
// not good is on record, and nothing of the token.
func TestRecipesAtTheGateway(t *testing.T) {
	id, _ := known(t, []*idp{newIDP(url0)}, nil)
	log, said := tlogtest.NewLog(t), new(bytes.Buffer)
	keys := new(oneDataKey)
	rand.Read(keys[:])
	up := must(url.Parse("http://127.0.0.1:1"))
	g, err := gateway.New(gateway.Config{
		ID: "gw", Software: "test", Log: log, Origin: tlogtest.Origin, Keys: keys, Journal: t.TempDir(),
		Routes: []gateway.Route{{Name: "openai", API: gateway.OpenAI, Upstream: up}}, Identifiers: []gateway.Identifier{id},
		Logger: slog.New(slog.NewTextHandler(said, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	ln := must(net.Listen("tcp", "127.0.0.1:0"))
	at := ln.Addr().String()
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- g.Run(ctx, ln) }()

	refused, unreadable, tokens := 0, 0, make(map[string]string)
	for name, r := range recipes() {
		if r.where != "" || r.why == "" {
			continue
		}
		token := r.tokens[0]
		conn := must(net.Dial("tcp", at))
		conn.SetDeadline(time.Now().Add(time.Minute))
		go fmt.Fprintf(conn, "POST /v1/chat/completions HTTP/1.1\r\nHost: g\r\nAuthorization: Bearer %s\r\nContent-Length: 2\r\n\r\n{}", token)
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		b, _ := io.ReadAll(resp.Body)
		conn.Close()
		switch {
		case resp.StatusCode == 401 && strings.Contains(string(b), `"invalid_api_key"`):
			refused++
			tokens[resp.Header.Get(gateway.SessionHeader)] = r.why
		case resp.StatusCode == 431 && name == "many-dots":
			unreadable++
		default:
			t.Errorf("%s: %s %s", name, resp.Status, b)
		}
		if leaks(string(b), token) {
			t.Errorf("%s: the answer says something of the token: %s", name, b)
		}
	}
	stop()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if leaks(said.String(), rs256(good(nil))) {
		t.Errorf("the gateway says something of a token: %s", said)
	}

	// What is on record: each refusal, with why, and without words of the token.
	signed := must(log.Publish())
	c, _, err := tlog.OpenCheckpoint(signed, log.Verifier())
	if err != nil {
		t.Fatal(err)
	}
	coder := must(record.NewCoder(1))
	kept := 0
	for i := range c.Size {
		tile := tlog.TileAt(tlog.EntriesLevel, i, c.Size)
		bundle := must(tlog.ParseBundle(must(tlog.ReadTile(context.Background(), log, tile)), tile.Width))
		e := must(record.ParseEntry(bundle[i%tlog.TileWidth]))
		if e.Kind != record.Refused {
			continue
		}
		kept++
		r := must(coder.Open(must(log.Payload(context.Background(), e.Payload)), keys[:], record.Binding{Kind: e.Kind, Session: e.Session, Root: e.Root}))
		text, _ := r.Get(record.FieldError)
		if why := tokens[e.Session.String()]; why == "" || !strings.HasSuffix(string(text), "("+why+")") || e.Reason != "invalid_api_key" {
			t.Errorf("%s is on record as %s: %s, want %q", e.Session, e.Reason, text, why)
		}
		for _, f := range r {
			if leaks(string(f.Value), rs256(good(nil))) {
				t.Errorf("the field %s has something of a token: %q", f.Name, f.Value)
			}
		}
	}
	if kept != refused || refused < 50 || unreadable != 1 {
		t.Errorf("%d were refused, and %d are on record; %d could not be read", refused, kept, unreadable)
	}
	t.Logf("%d refused and on record, %d not read", refused, unreadable)
}
