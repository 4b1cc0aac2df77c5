package mask_test

import (
	"encoding/json"
	"fmt"
	"log"

	"github.com/tallystick/tallystick/tlog/record/mask"
)

// A recorder makes one masker for each route when it starts, and masks each field of a record as what it is, before the record is
// sealed. What was found goes into the field findings.
func Example() {
	secrets, err := mask.DefaultSecrets() // once, for all routes
	if err != nil {
		log.Fatal(err)
	}
	route, err := mask.New(mask.Config{
		Key:     []byte("of the tenant, from where its data keys are"),
		Secrets: secrets,
		Actions: map[mask.Kind]mask.Action{mask.Card: mask.Last4, mask.Email: mask.Drop, mask.Secret: mask.Drop},
		Lists:   map[mask.Kind][]string{mask.Person: {"Jane Doe"}},
	})
	if err != nil {
		log.Fatal(err)
	}
	var all mask.Findings

	// The request: target, headers and body.
	target, f := route.Target(nil, []byte("/v1/chat/completions?user=jane%40example.com"))
	all.Add(f)
	headers, f := route.Headers(nil, []byte(`[["Content-Type","application/json"],["X-User","jane@example.com"]]`))
	all.Add(f)
	request, f := route.Body(nil, "application/json", []byte(`{"messages":[{"role":"user","content":"I am Jane Doe, cvv 123"}],"card":4111111111111111}`))
	all.Add(f)

	// The response: a stream as it was recorded, with its table of [bytes, microseconds].
	first := `data: {"choices":[{"index":0,"delta":{"content":"Card 4111 1111 "}}]}` + "\n\n"
	second := `data: {"choices":[{"index":0,"delta":{"content":"1111 1111 it is."}}]}` + "\n\n"
	events := fmt.Sprintf("[[%d,0],[%d,21000]]", len(first), len(second))
	response, table, f, err := route.Stream(nil, []byte(first+second), []byte(events))
	if err != nil {
		log.Fatal(err) // the table is not the body's: the record stays sealed as it is
	}
	all.Add(f)

	findings, err := json.Marshal(all)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s\n%s\n%s\n%s%s\n%s\n", target, headers, request, response, table, findings)
	// Output:
	// /v1/chat/completions?user=⟦EMAIL⟧
	// [["Content-Type","application/json"],["X-User","⟦EMAIL⟧"]]
	// {"messages":[{"role":"user","content":"I am ⟦PERSON:v66gmkajotpkexarl4eb⟧, cvv ⟦CVV⟧"}],"card":"⟦CARD:…1111⟧"}
	// data: {"choices":[{"index":0,"delta":{"content":"Card ⟦CARD:…1111⟧"}}]}
	//
	// data: {"choices":[{"index":0,"delta":{"content":" it is."}}]}
	//
	// [[79,0],[63,21000]]
	// [["EMAIL","",2],["PERSON","",1],["CVV","",1],["CARD","",2]]
}
