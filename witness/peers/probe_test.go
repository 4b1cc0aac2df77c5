package peers

import (
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/tallystick/tallystick/tlog/tlogtest"
	"github.com/tallystick/tallystick/witness"
)

// gunzips reads what Sunlight's skylight sends, which is compressed whether one asked for it or not.
var gunzips = &http.Client{Transport: gunzip{}}

type gunzip struct{}

func (gunzip) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil || resp.Header.Get("Content-Encoding") != "gzip" {
		return resp, err
	}
	zip, err := gzip.NewReader(resp.Body)
	if err != nil {
		resp.Body.Close()
		return nil, err
	}
	resp.Header.Del("Content-Encoding")
	resp.Body = struct {
		io.Reader
		io.Closer
	}{zip, resp.Body}
	return resp, nil
}

// originHash names a log at a monitoring prefix.
func originHash(origin string) string {
	sum := sha256.Sum256([]byte(origin))
	return hex.EncodeToString(sum[:])
}

// deviations are what our probe finds in others that is not as the specification has it: the case, and the status that they
// answer. With a question mark they may also do as they should. A row that goes is as good a reason to look as one that comes.
var deviations = map[string]map[string]string{
	"litewitness": {
		"fresh-empty-root":       "200",
		"fresh-proof":            "200",
		"form-old-zeros":         "200",
		"form-old-plus":          "200",
		"form-crlf-proof":        "422",
		"form-hash-loose-bits":   "422",
		"form-large":             "500?",
		"signature-fails-second": "200",
		"signatures-16-large":    "500",
		"answer-ml-dsa":          "200",
		"monitor":                "404",
	},
	"sunlight": {
		"form-crlf-proof":        "422",
		"form-hash-loose-bits":   "422",
		"form-proof-64":          "422",
		"form-no-checkpoint":     "404",
		"form-large":             "500?",
		"signature-fails-second": "200",
		"extension-lines":        "400",
	},
	"omniwitness": {
		"begin":                  "200",
		"form-old-zeros":         "200",
		"form-old-hex":           "409",
		"form-old-spaces":        "200",
		"form-old-space-behind":  "200",
		"form-crlf":              "500",
		"form-crlf-old":          "200",
		"form-crlf-proof":        "422",
		"form-hash-loose-bits":   "422",
		"form-hash-short":        "422",
		"form-hash-long":         "422",
		"form-proof-64":          "422",
		"form-no-checkpoint":     "500",
		"form-cut":               "500",
		"form-junk":              "500",
		"form-no-signatures":     "500",
		"form-control":           "500",
		"form-size-zeros":        "200",
		"form-root-short":        "422",
		"unknown-log":            "500",
		"unsigned":               "500",
		"signature-fails":        "500",
		"signature-fails-second": "200",
		"order-log-signature":    "500",
		"order-signature-old":    "500",
		"signatures-16-large":    "400",
		"monitor":                "404",
	},
	"ours": {},
}

// notAsked are the cases that cannot be put to a witness, by the beginning of their names: litewitness and omniwitness show no
// checkpoints and cosign no subtrees; and omniwitness takes the first tree that it sees, whatever is said to be before it.
var notAsked = map[string][]string{
	"litewitness": {"monitor-", "subtree"},
	"omniwitness": {"monitor-", "subtree", "fresh-"},
}

// Our probe puts its whole table to every witness here. Ours has no deviations.
func TestProbe(t *testing.T) {
	for _, c := range []struct {
		name  string
		start func(testing.TB, ...string) outsider
	}{{"litewitness", litewitness}, {"sunlight", sunlight}, {"omniwitness", omniwitness}, {"ours", ours}} {
		t.Run(c.name, func(t *testing.T) {
			signer, vkey := tlogtest.Key("log.example/probe-" + c.name)
			o := c.start(t, vkey)
			results, err := witness.Probe(t.Context(), witness.ProbeConfig{URL: o.submission, Monitor: o.monitoring, Log: signer, Keys: o.keys})
			if err != nil {
				t.Fatal(err)
			}
			if len(results) != len(witness.ProbeCases()) {
				t.Errorf("%d of %d cases were asked", len(results), len(witness.ProbeCases()))
			}
			known := maps.Clone(deviations[c.name])
			for _, r := range results {
				want, deviates := known[r.ID]
				delete(known, r.ID)
				status, maybe := strings.CutSuffix(want, "?")
				switch {
				case r.Verdict == witness.Skipped:
					if !slices.ContainsFunc(notAsked[c.name], func(begin string) bool { return strings.HasPrefix(r.ID, begin) }) {
						t.Errorf("%s was not asked: %s", r.ID, r.Answered)
					}
				case r.Verdict == witness.Deviates && (!deviates || !strings.HasPrefix(r.Answered, status)):
					t.Errorf("%s %s (%s): wanted %s, and %q was known; it answers %s", r.Level, r.ID, r.Asks, r.Wants, want, r.Answered)
				case r.Verdict == witness.Conforms && deviates && !maybe:
					t.Errorf("%s was known to deviate with %s, and is now right: %s", r.ID, want, r.Answered)
				}
			}
			for id := range known {
				t.Errorf("%s is no case of the probe", id)
			}
		})
	}
}
