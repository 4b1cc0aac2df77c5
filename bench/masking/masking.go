// Package masking measures what the masker finds of others' cases, and how fast it finds nothing. It is apart from the other workloads so that
// libraries which the product does not link can be measured beside it without all that those bring in.
package masking

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"syscall"
	"time"

	"github.com/tallystick/tallystick/tlog/record/mask"
	"github.com/tallystick/tallystick/tlog/record/mask/masktest"
)

// Speed measures how fast nothing is found in what people ask models, against one expression for a part of the kinds: the
// masker reads every escape, checks every digit and knows all kinds and rules that it has. Time is that of the processor, on one core, so that
// a machine that others use shows the same.
type Speed struct {
	JSON   bool   // the prompts are a chat request; otherwise they are one text
	Peer   Finder // what ours is measured against
	Rounds int    // of each, in turns
	Time   time.Duration
}

// Name says what is measured.
func (c Speed) Name() string {
	if c.JSON {
		return "mask JSON against " + c.Peer.Name
	}
	return "mask text against " + c.Peer.Name
}

// A Finder counts what it finds in a text.
type Finder struct {
	Name string
	Find func(text []byte) int
}

// Expression is what one may write to find the commonest kinds, each as its own alternative, without any check of what it matches:
// e-mail, payment card, IBAN, US SSN, telephone, IPv4 and IPv6, MAC, UK NINO and NHS, dates with a word of birth before them, security
// codes, Bitcoin and Ethereum addresses, and the commonest keys and tokens.
const Expression = `[A-Za-z0-9._%+-]+@[A-Za-z0-9.-]+\.[A-Za-z]{2,}` +
	`|\b(?:\d[ -]?){13,19}\b` +
	`|\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b` +
	`|\b\d{3}-\d{2}-\d{4}\b` +
	`|(?:\+\d{1,3}[ .-]?)?\(?\d{3}\)?[ .-]\d{3}[ .-]\d{4}\b` +
	`|\b(?:\d{1,3}\.){3}\d{1,3}\b` +
	`|\b(?:[0-9a-fA-F]{1,4}:){7}[0-9a-fA-F]{1,4}\b` +
	`|\b(?:[0-9A-Fa-f]{2}[:-]){5}[0-9A-Fa-f]{2}\b` +
	`|\b[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z] ?\d{2} ?\d{2} ?\d{2} ?[A-D]\b` +
	`|\b\d{3} \d{3} \d{4}\b` +
	`|(?i:\b(?:born|dob|birth(?:day|date)?)\b\W{0,5}(?:on |is )?\d{1,4}[./-]\d{1,2}[./-]\d{1,4})` +
	`|(?i:\b(?:cvv2?|cvc2?|security code)\W{0,5}(?:is )?\d{3,4}\b)` +
	`|\b(?:bc1[a-z0-9]{39,59}|[13][1-9A-HJ-NP-Za-km-z]{25,34}|0x[0-9a-fA-F]{40})\b` +
	`|\b(?:AKIA|ASIA)[A-Z2-7]{16}\b|\bgh[pousr]_[A-Za-z0-9]{36}\b|\bsk-[A-Za-z0-9_-]{20,}|\bxox[abeoprs]-[A-Za-z0-9-]{10,}|\bAIza[\w-]{35}\b` +
	`|\beyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{4,}\.[A-Za-z0-9_-]*|-----BEGIN [A-Z ]*PRIVATE KEY-----` +
	`|(?i:(?:api[_-]?key|secret|token|password)["']?\s{0,3}[:=]\s{0,3}["']?[\w.=-]{10,})`

// Regexp is Expression in the standard library's machine.
func Regexp() Finder {
	x := regexp.MustCompile(Expression)
	return Finder{"regexp", func(b []byte) int { return len(x.FindAllIndex(b, -1)) }}
}

func masker() (*mask.Masker, error) {
	s, err := mask.DefaultSecrets()
	if err != nil {
		return nil, err
	}
	return mask.New(mask.Config{Key: []byte("the key of a tenant that is measured"), Secrets: s})
}

// Run returns megabytes a second of processor time, of each round.
func (c Speed) Run(ctx context.Context) (ours, peer []float64, err error) {
	m, err := masker()
	if err != nil {
		return nil, nil, err
	}
	body := masktest.Prompts(64 << 10)
	run := m.Text
	if c.JSON {
		if body, err = json.Marshal(map[string]any{"model": "m", "messages": []map[string]string{{"role": "user", "content": string(body)}}}); err != nil {
			return nil, nil, err
		}
		run = m.JSON
	}
	var dst []byte
	var found mask.Findings
	mine := func() { dst, found = run(dst[:0], body) }
	theirs := func() { c.Peer.Find(body) }
	if mine(); len(found) > 0 {
		return nil, nil, fmt.Errorf("masking: there is %v in the prompts", found)
	}
	for range c.Rounds {
		for _, arm := range []struct {
			f    func()
			into *[]float64
		}{{theirs, &peer}, {mine, &ours}} {
			rate, err := perCore(ctx, c.Time, len(body), arm.f)
			if err != nil {
				return nil, nil, err
			}
			*arm.into = append(*arm.into, rate)
		}
	}
	return ours, peer, nil
}

// perCore runs f for the time, and returns megabytes a second of the processor's time, n bytes each time.
func perCore(ctx context.Context, d time.Duration, n int, f func()) (float64, error) {
	begin, used := time.Now(), processorTime()
	times := 0
	for times == 0 || time.Since(begin) < d {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		f()
		times++
	}
	took := processorTime() - used
	if took <= 0 {
		return 0, errors.New("masking: a round took no time; make rounds longer")
	}
	return float64(times) * float64(n) / 1e6 / took.Seconds(), nil
}

func processorTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// WriteTable runs the cases of others and prints, for each label that they use, how many values there are and how many are masked,
// and how much is taken for one that is none.
func WriteTable(w io.Writer) error {
	m, err := masker()
	if err != nil {
		return err
	}
	cases, err := masktest.Cases()
	if err != nil {
		return err
	}
	rows, _ := masktest.Score(m, cases)
	fmt.Fprintf(w, "%-28s %7s %7s %7s %9s   %s\n", "label", "values", "masked", "recall", "precision", "none: taken for one, for another")
	for _, r := range rows {
		fmt.Fprintf(w, "%-28s %7d %7d %6.1f%% %8.1f%%   %d: %d, %d\n", r.Label, r.Values, r.Masked, 100*r.Recall(), 100*r.Precision(), r.Clean, r.Wrong+r.Beside, r.Other)
	}
	return nil
}
