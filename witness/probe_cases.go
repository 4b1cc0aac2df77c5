package witness

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/tallystick/tallystick/tlog"
)

// ProbeCases returns the table of what a probe asks, in the order in which it does. PROBE.md has the same for people.
//
// What the specification demands of clients, a body of a certain form, it does not always say what a witness is to do without.
// Such cases are SHOULD, and want 400, as the specification has it where it is explicit.
func ProbeCases() []ProbeCase {
	return slices.Concat(freshCases(), []ProbeCase{beginCase()}, malformedCases(), orderCases(), proofCases(), cosignatureCases(), monitorCases(), subtreeCases())
}

// wants says a case's answer by its status alone.
func wants(status ...int) string {
	var s []string
	for _, n := range status {
		s = append(s, strconv.Itoa(n))
	}
	return strings.Join(s, " or ")
}

// refuses is a case in which the witness must answer with one of some statuses and store nothing.
func refuses(id string, level Level, says, asks string, body func(*prober) []byte, status ...int) ProbeCase {
	return ProbeCase{ID: id, Level: level, Asks: asks, Says: says, Wants: wants(status...), run: func(ctx context.Context, p *prober) outcome {
		a, err := p.post(ctx, "add-checkpoint", body(p))
		if err != nil {
			return failed(err)
		}
		o := judged(a, slices.Contains(status, a.status))
		if p.sync(ctx) {
			return outcome{o.answered + fmt.Sprintf(", and its size became %d", p.size), Deviates}
		}
		return o
	}}
}

// failed is the outcome of a request without an answer.
func failed(err error) outcome { return outcome{"no answer: " + err.Error(), Deviates} }

func judged(a *probeAnswer, ok bool) outcome {
	if ok {
		return outcome{a.String(), Conforms}
	}
	return outcome{a.String(), Deviates}
}

// because is the outcome of an answer that was looked at more closely: why is "" if nothing is wrong.
func because(a *probeAnswer, why string) outcome {
	if why == "" {
		return outcome{a.String(), Conforms}
	}
	return outcome{a.String() + ": " + why, Deviates}
}

// body makes a request from its parts.
func body(old uint64, proof tlog.Proof, signed []byte) []byte {
	r := addCheckpoint{old: old, proof: proof, signed: signed}
	return r.append(nil)
}

const (
	sayConflict = "If it doesn't match, the witness MUST respond with a \"409 Conflict\""
	sayProof    = "if a Merkle Consistency Proof doesn't verify, the witness MUST respond with a \"422 Unprocessable Entity\""
	sayForm     = "The request body MUST be a sequence of an old size line, zero or more consistency proof lines, an empty line, a checkpoint"
	sayOldLine  = "encoded as an ASCII decimal with no leading zeroes"
	sayProofB64 = "Each consistency proof line MUST encode a single hash in base64"
	sayPass     = "If all the checks above pass, the witness MUST update its record of the latest cosigned checkpoint and respond with a \"200 Success\""
	sayUnknown  = "If the checkpoint origin is unknown, the witness MUST respond with a \"404 Not Found\""
	say403      = "\"403 Forbidden\" if either no signature from a trusted key is present, or a signature line's key name and ID match a trusted key but the signature fails"
	sayOver     = "The old size MUST be equal to or lower than the checkpoint size. Otherwise 400"
)

// unknownOrigin is a name that no witness knows: made up anew, under a domain that never is one.
func unknownOrigin() string { return "probe.invalid/" + strings.ToLower(rand.Text()) }

// stranger returns a checkpoint of the log's trees under the name of another log, whose signature is none, or of the log's
// own name and signed by a key that is not its.
func stranger(c tlog.Checkpoint, origin, key string) []byte {
	c.Origin = origin
	return appendSignatureLine(append(c.Text(), '\n'), key, 1, make([]byte, 64))
}

// misSigned returns the log's checkpoint of size with the signature of another one.
func (p *prober) misSigned(size uint64) []byte {
	line := p.log.sign(p.log.at(size + 1))
	return append(append(p.log.at(size).Text(), '\n'), line[bytes.Index(line, []byte("\n\n"))+2:]...)
}

// beginCase judges the request by which the probe has begun.
func beginCase() ProbeCase {
	return ProbeCase{ID: "begin", Level: Must, Asks: "a tree of size 2 after one of size 1 without a proof, before anything else", Wants: "409, or 422 if size 1 is stored",
		Says: "The witness MUST check that the old size matches the size of the latest checkpoint it cosigned (or zero if it never cosigned a checkpoint for that origin)",
		run:  func(_ context.Context, p *prober) outcome { return judged(p.first, p.first.status != http.StatusOK) }}
}

// freshCases can be asked once for each log, before anything of it was cosigned.
func freshCases() []ProbeCase {
	cases := []ProbeCase{
		{ID: "fresh-monitor", Level: Must, Asks: "the checkpoint of a log that was never cosigned, of the monitoring prefix", Wants: "404",
			Says: "If the witness has never cosigned a checkpoint for that log, it MUST respond with a \"404 Not Found\"",
			run: func(ctx context.Context, p *prober) outcome {
				a, err := p.get(ctx, originSum(p.log.origin))
				if err != nil {
					return failed(err)
				}
				return judged(a, a.status == http.StatusNotFound)
			}},
		refuses("fresh-empty-root", Must, "A checkpoint of size zero MUST have the root hash of the empty tree. Otherwise 422", "size 0 with another root",
			func(p *prober) []byte {
				return body(0, nil, p.log.sign(tlog.Checkpoint{Origin: p.log.origin, Root: tlog.Hash{1}}))
			}, 422),
		refuses("fresh-proof", Must, "If the proof is not empty when the old size is zero, the witness MUST respond with a \"422 Unprocessable Entity\"", "old 0 with a hash of proof",
			func(p *prober) []byte { return p.request(0, 3, tlog.Proof{{1}}) }, 422),
		{ID: "fresh-size-zero", Level: Must, Asks: "the empty tree", Says: sayPass, Wants: "200", run: func(ctx context.Context, p *prober) outcome {
			a, err := p.grow(ctx, 0)
			if err != nil {
				return failed(err)
			}
			return judged(a, a.status == http.StatusOK)
		}},
		{ID: "fresh-first", Level: Must, Asks: "the first tree that is not empty, from old 0", Wants: "200",
			Says: "If the old size is zero, the consistency proof MUST be empty, because the empty tree is consistent with any tree",
			run: func(ctx context.Context, p *prober) outcome {
				a, err := p.grow(ctx, 5)
				if err != nil {
					return failed(err)
				}
				return judged(a, a.status == http.StatusOK)
			}},
	}
	for i := range cases {
		cases[i].fresh = true
	}
	return cases
}

// malformedCases send what one who follows the specification would not write, next to what would be cosigned.
func malformedCases() []ProbeCase {
	form := func(id, says, asks string, change func(good string, p *prober) string) ProbeCase {
		return refuses(id, Should, says, asks, func(p *prober) []byte {
			return []byte(change(string(p.log.body(p.size, p.size+5)), p))
		}, 400)
	}
	old := func(write func(n uint64) string) func(string, *prober) string {
		return func(good string, p *prober) string {
			_, rest, _ := strings.Cut(good, "\n")
			return write(p.size) + "\n" + rest
		}
	}
	hash := func(change func(h string) string) func(string, *prober) string {
		return func(_ string, p *prober) string {
			r := string(body(p.size, tlog.Proof{{0xfb, 0xff}}, p.log.sign(p.log.at(p.size+5))))
			first, rest, _ := strings.Cut(r, "\n")
			h, rest, _ := strings.Cut(rest, "\n")
			return first + "\n" + change(h) + "\n" + rest
		}
	}
	text := func(change func(text string) string) func(string, *prober) string {
		return func(_ string, p *prober) string {
			return string(body(p.size, p.log.prove(p.size, p.size+5), p.log.signText(change(string(p.log.at(p.size+5).Text())))))
		}
	}
	return []ProbeCase{
		form("form-empty", sayForm, "an empty body", func(string, *prober) string { return "" }),
		form("form-no-old", sayForm, "no old line", old(func(uint64) string { return "" })),
		form("form-old-word", "The old size line MUST consist of the string old, a single space, and the tree size", "another word than old", old(func(n uint64) string { return fmt.Sprintf("size %d", n) })),
		form("form-old-zeros", sayOldLine, "old with a leading zero", old(func(n uint64) string { return fmt.Sprintf("old 0%d", n) })),
		form("form-old-plus", sayOldLine, "old with a plus sign", old(func(n uint64) string { return fmt.Sprintf("old +%d", n) })),
		form("form-old-minus", sayOldLine, "old with a minus sign", old(func(n uint64) string { return fmt.Sprintf("old -%d", n) })),
		form("form-old-hex", sayOldLine, "old in hexadecimal", old(func(n uint64) string { return fmt.Sprintf("old 0x%x", n) })),
		form("form-old-spaces", "a single space (0x20)", "old and two spaces", old(func(n uint64) string { return fmt.Sprintf("old  %d", n) })),
		form("form-old-space-behind", sayOldLine, "old with a space behind it", old(func(n uint64) string { return fmt.Sprintf("old %d ", n) })),
		form("form-old-overflow", sayOldLine, "old over 2^64", old(func(n uint64) string { return fmt.Sprintf("old 18446744073709551616%d", n) })),
		form("form-crlf", "Each line MUST terminate in a newline character (U+000A)", "CRLF line ends", func(good string, _ *prober) string { return strings.ReplaceAll(good, "\n", "\r\n") }),
		form("form-crlf-old", "Each line MUST terminate in a newline character (U+000A)", "CRLF at the end of the old line", func(good string, _ *prober) string { return strings.Replace(good, "\n", "\r\n", 1) }),
		form("form-crlf-proof", "Each line MUST terminate in a newline character (U+000A)", "CRLF at the end of a proof line", hash(func(h string) string { return h + "\r" })),
		form("form-hash-unpadded", sayProofB64, "a hash without its padding", hash(func(h string) string { return strings.TrimRight(h, "=") })),
		form("form-hash-urlsafe", "the standard Base 64 encoding specified in RFC 4648, Section 4", "a hash in the alphabet for URLs", hash(func(h string) string { return strings.NewReplacer("+", "-", "/", "_").Replace(h) })),
		form("form-hash-loose-bits", sayProofB64, "a hash with bits set that no byte has", hash(func(h string) string { return h[:len(h)-2] + "B=" })),
		form("form-hash-short", sayProofB64, "a hash of 30 bytes", hash(func(h string) string { return h[:40] })),
		form("form-hash-long", sayProofB64, "a hash of 33 bytes", hash(func(h string) string { return "AAAA" + h[:40] })),
		form("form-proof-64", "The client MUST NOT send more than 63 consistency proof lines", "64 lines of proof", func(_ string, p *prober) string { return string(p.request(p.size, p.size+5, make(tlog.Proof, 64))) }),
		form("form-no-empty-line", sayForm, "no empty line before the checkpoint", func(good string, _ *prober) string { return strings.Replace(good, "\n\n", "\n", 1) }),
		form("form-no-checkpoint", sayForm, "nothing after the empty line", func(good string, _ *prober) string { return good[:strings.Index(good, "\n\n")+2] }),
		form("form-cut", sayForm, "a body cut off before its last line break", func(good string, _ *prober) string { return good[:len(good)-1] }),
		form("form-junk", sayForm, "a line behind the signatures that is none", func(good string, _ *prober) string { return good + "junk\n" }),
		form("form-no-signatures", "followed by one or more signature lines (signed-note)", "a checkpoint without signature lines", func(good string, _ *prober) string {
			return good[:strings.LastIndex(good, "\n\n")+2]
		}),
		form("form-control", "MUST NOT contain any ASCII control characters (signed-note)", "a control character in an extension line", text(func(s string) string { return s + "a\tb\n" })),
		form("form-size-zeros", "the ASCII decimal representation of the number of leaves in the tree, with no leading zeroes (tlog-checkpoint)", "a checkpoint whose size has a leading zero", text(func(s string) string {
			return strings.Replace(s, "\n", "\n0", 1)
		})),
		form("form-root-short", "the base64 encoding of the root of the Merkle hash tree (tlog-checkpoint)", "a checkpoint whose root has 30 bytes", text(func(s string) string { return s[:len(s)-5] + "\n" })),
		{ID: "form-large", Level: Should, Asks: "a body of a mebibyte", Wants: "400 or 413, or a closed connection", Says: "SHOULD apply a maximum limit to the number of signatures, or the overall size (signed-note)",
			run: func(ctx context.Context, p *prober) outcome {
				a, err := p.post(ctx, "add-checkpoint", append(p.log.body(p.size, p.size+5), bytes.Repeat([]byte("A"), 1<<20)...))
				if err == nil && a.status != http.StatusBadRequest && a.status != http.StatusRequestEntityTooLarge {
					return judged(a, false)
				}
				moved := p.sync(ctx)
				switch {
				case moved:
					return outcome{fmt.Sprintf("its size became %d", p.size), Deviates}
				case err != nil:
					return outcome{"it closed the connection", Conforms}
				}
				return judged(a, true)
			}},
		{ID: "form-get", Level: Should, Asks: "GET add-checkpoint with a body that would be cosigned", Wants: "405", Says: "The request MUST be an HTTP POST",
			run: func(ctx context.Context, p *prober) outcome {
				a, err := p.send(ctx, http.MethodGet, p.c.URL+"/add-checkpoint", p.log.body(p.size, p.size+5))
				if err != nil {
					return failed(err)
				}
				o := judged(a, a.status == http.StatusMethodNotAllowed)
				if p.sync(ctx) {
					return outcome{o.answered + fmt.Sprintf(", and its size became %d", p.size), Deviates}
				}
				return o
			}},
	}
}

// orderCases go through the checks before the proof, and through two wrongs at once, of which the first is to be answered.
func orderCases() []ProbeCase {
	conflict := func(id, says, asks, want string, look func(a *probeAnswer, p *prober) string) ProbeCase {
		return ProbeCase{ID: id, Level: Must, Asks: asks, Says: says, Wants: want, run: func(ctx context.Context, p *prober) outcome {
			a, err := p.post(ctx, "add-checkpoint", p.log.body(0, p.size+5))
			if err != nil {
				return failed(err)
			}
			return because(a, look(a, p))
		}}
	}
	return []ProbeCase{
		refuses("unknown-log", Must, sayUnknown, "a log that no witness knows", func(p *prober) []byte {
			unknown := unknownOrigin()
			return body(p.size, p.log.prove(p.size, p.size+5), stranger(p.log.at(p.size+5), unknown, unknown))
		}, 404),
		refuses("unsigned", Must, say403, "a signature by an unknown key alone", func(p *prober) []byte {
			return body(p.size, p.log.prove(p.size, p.size+5), stranger(p.log.at(p.size+5), p.log.origin, "probe.invalid/somebody"))
		}, 403),
		refuses("signature-fails", Must, say403, "the log's signature of another checkpoint", func(p *prober) []byte {
			return body(p.size, p.log.prove(p.size, p.size+5), p.misSigned(p.size+5))
		}, 403),
		refuses("signature-fails-second", Must, say403, "the log's signature, and behind it one that fails", func(p *prober) []byte {
			good, bad := p.log.sign(p.log.at(p.size+5)), p.misSigned(p.size+5)
			return body(p.size, p.log.prove(p.size, p.size+5), append(good, bad[bytes.Index(bad, []byte("\n\n"))+2:]...))
		}, 403),
		refuses("old-over-size", Must, sayOver, "an old size over the checkpoint's", func(p *prober) []byte { return p.request(p.size+6, p.size+5, nil) }, 400),
		refuses("conflict-behind", Must, sayConflict, "an old size below the stored one, with its proof", func(p *prober) []byte { return p.log.body(p.size-1, p.size+5) }, 409),
		refuses("conflict-ahead", Must, sayConflict, "an old size over the stored one, with its proof", func(p *prober) []byte { return p.log.body(p.size+2, p.size+5) }, 409),
		refuses("conflict-smaller", Must, sayConflict, "a smaller tree than is stored, from itself", func(p *prober) []byte { return p.log.body(p.size-1, p.size-1) }, 409),
		refuses("conflict-empty", Must, sayConflict, "the empty tree, from itself", func(p *prober) []byte { return p.log.body(0, 0) }, 409),
		conflict("conflict-old-zero", "If a client doesn't have information on the latest cosigned checkpoint, it MAY initially make a request with a old size of zero", "old 0, with a tree that is not stored", "409",
			func(a *probeAnswer, p *prober) string {
				if a.status != http.StatusConflict {
					return "not 409"
				}
				return ""
			}),
		conflict("conflict-body", "The response body MUST consist of the tree size of the latest cosigned checkpoint in decimal, followed by a newline", "the same, for its body", "the size and a newline",
			func(a *probeAnswer, p *prober) string {
				if want := fmt.Sprintf("%d\n", p.size); string(a.body) != want {
					return fmt.Sprintf("not %q", want)
				}
				return ""
			}),
		conflict("conflict-type", "The response MUST have a Content-Type of text/x.tlog.size", "the same, for its type", "text/x.tlog.size",
			func(a *probeAnswer, p *prober) string {
				if ct := a.header.Values("Content-Type"); len(ct) != 1 || ct[0] != "text/x.tlog.size" {
					return fmt.Sprintf("Content-Type %q", ct)
				}
				return ""
			}),
		refuses("order-log-signature", Should, sayUnknown, "an unknown log, and an old size over the checkpoint's", func(p *prober) []byte {
			unknown := unknownOrigin()
			return body(p.size+6, nil, stranger(p.log.at(p.size+5), unknown, unknown))
		}, 404),
		refuses("order-signature-old", Should, say403, "a signature that fails, and an old size over the checkpoint's", func(p *prober) []byte {
			return body(p.size+6, nil, p.misSigned(p.size+5))
		}, 403),
		refuses("order-old-conflict", Should, sayOver, "an old size over the checkpoint's, and neither is stored", func(p *prober) []byte { return p.request(p.size-1, p.size-2, nil) }, 400),
		refuses("order-conflict-proof", Should, sayConflict, "an old size that is not stored, and a proof that is none", func(p *prober) []byte { return p.request(p.size-1, p.size+5, tlog.Proof{{1}}) }, 409),
	}
}

// proofCases are of the log's own signed trees and of one that is not its own.
func proofCases() []ProbeCase {
	return []ProbeCase{
		refuses("proof-none", Must, sayProof, "no proof where there must be one", func(p *prober) []byte { return p.request(p.size, p.size+5, nil) }, 422),
		refuses("proof-wrong", Must, sayProof, "the proof from another size", func(p *prober) []byte {
			return p.request(p.size, p.size+5, p.log.prove(p.size-1, p.size+5))
		}, 422),
		refuses("proof-cut", Must, sayProof, "the proof without its last hash", func(p *prober) []byte {
			right := p.log.prove(p.size, p.size+5)
			return p.request(p.size, p.size+5, right[:len(right)-1])
		}, 422),
		refuses("proof-long", Must, sayProof, "the proof and one hash more", func(p *prober) []byte {
			return p.request(p.size, p.size+5, append(p.log.prove(p.size, p.size+5), tlog.Hash{1}))
		}, 422),
		refuses("proof-63", Must, "The client MUST NOT send more than 63 consistency proof lines", "63 lines of proof that prove nothing", func(p *prober) []byte {
			return p.request(p.size, p.size+5, make(tlog.Proof, 63))
		}, 422),
		refuses("fork", Must, sayProof, "another tree of a larger size", func(p *prober) []byte {
			return body(p.size, p.log.prove(p.size, p.size+5), p.log.sign(p.log.fork(p.size+5)))
		}, 422),
		refuses("fork-equal", Must, "If the old size matches the checkpoint size, the witness MUST check that the root hashes are also identical. If they don't match, 422", "another tree of the stored size", func(p *prober) []byte {
			return body(p.size, nil, p.log.sign(p.log.fork(p.size)))
		}, 422),
		refuses("proof-equal", Must, sayProof, "the stored tree again, with a hash of proof", func(p *prober) []byte { return p.request(p.size, p.size, tlog.Proof{{1}}) }, 422),
	}
}

// accepts is a case in which the witness must cosign the log's tree of n entries more. look says what is wrong with the answer.
func accepts(id string, level Level, says, asks, want string, n uint64, change func(p *prober, signed []byte) []byte, look func(p *prober, a *probeAnswer) string) ProbeCase {
	return ProbeCase{ID: id, Level: level, Asks: asks, Says: says, Wants: want, run: func(ctx context.Context, p *prober) outcome {
		size := p.size + n
		signed := p.log.sign(p.log.at(size))
		if change != nil {
			signed = change(p, signed)
		}
		a, err := p.submit(ctx, size, body(p.size, p.log.prove(p.size, size), signed), signed)
		if err != nil {
			return failed(err)
		}
		if a.status != http.StatusOK {
			return judged(a, false)
		}
		if look != nil {
			return because(a, look(p, a))
		}
		return judged(a, true)
	}}
}

// racers is how many submit at once.
const racers = 8

func cosignatureCases() []ProbeCase {
	unknownLines := func(n, size int) func(*prober, []byte) []byte {
		return func(p *prober, signed []byte) []byte {
			for i := range n {
				signed = appendSignatureLine(signed, fmt.Sprintf("probe.invalid/%d", i), uint32(i+1), make([]byte, size))
			}
			return signed
		}
	}
	// closer is a case that looks at the newest cosignatures, from a growth of its own.
	closer := func(id string, level Level, says, asks, want string, look func(lines []probeLine, p *prober) string) ProbeCase {
		return accepts(id, level, says, asks, want, 1, nil, func(p *prober, a *probeAnswer) string {
			lines, _ := cosignatureLines(string(a.body))
			if len(lines) == 0 {
				return "there is no cosignature in it"
			}
			return look(lines, p)
		})
	}
	return []ProbeCase{
		accepts("grow", Must, sayPass, "five entries more", "200", 5, nil, nil),
		accepts("grow-not", Must, sayPass, "the stored tree again", "200", 0, nil, nil),
		accepts("grow-far", Must, sayPass, "three hundred entries more", "200", 300, nil, nil),
		accepts("unknown-signatures", Must, "it MUST ignore signatures from unknown keys", "signatures by others, by another key of the log's name, and by another name with the log's key id", "200", 1,
			func(p *prober, signed []byte) []byte {
				signed = appendSignatureLine(signed, "probe.invalid/somebody", 1, make([]byte, 64))
				signed = appendSignatureLine(signed, p.log.origin, p.c.Log.KeyHash()^1, make([]byte, 64))
				return appendSignatureLine(signed, "probe.invalid/somebody", p.c.Log.KeyHash(), make([]byte, 64))
			}, nil),
		accepts("signatures-16", Must, "MUST accept at least up to 16 signatures (signed-note)", "16 signatures, of which 15 are unknown", "200", 1, unknownLines(15, 64), nil),
		accepts("signatures-16-large", Should, "Remember that post-quantum signatures can be up to nearly 5kB in size (signed-note)", "16 signatures, of which 15 are unknown ML-DSA-44 ones", "200", 1, unknownLines(15, mldsaCosignature), nil),
		{ID: "extension-lines", Level: Should, Asks: "a checkpoint with extension lines", Wants: "200, and the cosignatures cover them",
			Says: "Extension lines MAY be included in the checkpoint by the log, and if present MUST be included in the cosigned message (tlog-cosignature)",
			run: func(ctx context.Context, p *prober) outcome {
				size := p.size + 1
				signed := p.log.sign(p.log.at(size), "an extension", "and another")
				a, err := p.submit(ctx, size, body(p.size, p.log.prove(p.size, size), signed), signed)
				if err != nil {
					return failed(err)
				}
				if a.status != http.StatusOK {
					return judged(a, false)
				}
				if _, not := p.verified(signed, string(a.body)); len(not) > 0 {
					return because(a, "not by "+strings.Join(not, ", "))
				}
				return judged(a, true)
			}},
		accepts("answer-lines", Must, "a sequence of one or more note signature lines, each starting with the — character and ending with a newline", "one entry more, for the form of the answer", "signature lines and nothing else", 1, nil,
			func(p *prober, a *probeAnswer) string {
				if _, whole := cosignatureLines(string(a.body)); !whole {
					return "not signature lines alone"
				}
				return ""
			}),
		closer("answer-cosignature", Must, "The signatures MUST be cosignatures from the witness key(s) on the checkpoint", "the same, for its kind", "timestamped Ed25519 or ML-DSA-44 signatures",
			func([]probeLine, *prober) string { return "" }),
		closer("answer-time-zero", Must, "The cosignature MUST NOT omit the timestamp, i.e. the timestamp MUST NOT be zero", "the same, for the times it states", "no time of zero, none over 2^63-1",
			func(lines []probeLine, _ *prober) string {
				for _, l := range lines {
					if t := l.time(); t == 0 || t > 1<<63-1 {
						return fmt.Sprintf("%s states %d", l.name, t)
					}
				}
				return ""
			}),
		closer("answer-time-now", Should, "timestamp is the time at which the cosignature was generated (tlog-cosignature)", "the same, for how near to now they are", "within ten minutes",
			func(lines []probeLine, _ *prober) string {
				now := time.Now().Unix()
				for _, l := range lines {
					if t := int64(l.time()); t < now-600 || t > now+600 {
						return fmt.Sprintf("%s states %d, and now is %d", l.name, t, now)
					}
				}
				return ""
			}),
		{ID: "answer-verifies", Level: Must, Asks: "the same, for its signatures", Wants: "one that verifies for every key of the witness", Says: "The signatures MUST be cosignatures from the witness key(s) on the checkpoint",
			run: func(ctx context.Context, p *prober) outcome {
				if len(p.verifiers) == 0 {
					return outcome{"no key of the witness was named", Skipped}
				}
				a, err := p.grow(ctx, 1)
				if err != nil {
					return failed(err)
				}
				if a.status != http.StatusOK {
					return judged(a, false)
				}
				did, not := p.verified(p.signed, p.lines)
				if len(not) > 0 {
					return because(a, "not by "+strings.Join(not, ", "))
				}
				return outcome{"by " + strings.Join(did, ", "), Conforms}
			}},
		closer("answer-ml-dsa", Should, "Witnesses SHOULD use ML-DSA-44 cosignatures", "the same, for an ML-DSA-44 signature", "one at least", func(lines []probeLine, _ *prober) string {
			if !slices.ContainsFunc(lines, func(l probeLine) bool { return len(l.blob) == mldsaCosignature }) {
				return "there is none"
			}
			return ""
		}),
		{ID: "time-order", Level: Should, Asks: "two trees, one after the other", Wants: "times that do not go back", Says: "as of the specified time, the consistent tree head with the largest size the cosigner has observed (tlog-cosignature)",
			run: func(ctx context.Context, p *prober) outcome {
				latest := make(map[string]uint64)
				var a *probeAnswer
				for range 2 {
					var err error
					if a, err = p.grow(ctx, 1); err != nil {
						return failed(err)
					}
					if a.status != http.StatusOK {
						return judged(a, false)
					}
					lines, _ := cosignatureLines(string(a.body))
					for _, l := range lines {
						key := fmt.Sprint(l.name, l.id)
						if l.time() < latest[key] {
							return because(a, fmt.Sprintf("%s states %d after %d", l.name, l.time(), latest[key]))
						}
						latest[key] = l.time()
					}
				}
				return judged(a, true)
			}},
		{ID: "replay", Level: Must, Asks: "a request that was cosigned, once more", Wants: "409", Says: sayConflict, run: func(ctx context.Context, p *prober) outcome {
			request := p.log.body(p.size, p.size+1)
			if a, err := p.grow(ctx, 1); err != nil {
				return failed(err)
			} else if a.status != http.StatusOK {
				return judged(a, false)
			}
			a, err := p.post(ctx, "add-checkpoint", request)
			if err != nil {
				return failed(err)
			}
			o := judged(a, a.status == http.StatusConflict)
			if p.sync(ctx) {
				return outcome{o.answered + fmt.Sprintf(", and its size became %d", p.size), Deviates}
			}
			return o
		}},
		{ID: "race", Level: Must, Asks: fmt.Sprintf("%d larger trees from one size, at once", racers), Wants: "200 for one, 409 for the others, and the one is stored",
			Says: "checking the old size against the latest checkpoint and persisting the new checkpoint must be performed atomically", run: race},
		{ID: "keep-alive", Level: Should, Asks: "two requests, one after the other", Wants: "both over one connection", Says: "Clients SHOULD use, and witnesses SHOULD support, HTTP keep-alive", run: func(ctx context.Context, p *prober) outcome {
			for range 2 {
				if a, err := p.grow(ctx, 1); err != nil {
					return failed(err)
				} else if a.status != http.StatusOK {
					return judged(a, false)
				}
			}
			if !p.reused {
				return outcome{"the connection was not used again", Deviates}
			}
			return outcome{"over one connection", Conforms}
		}},
	}
}

// race submits different trees from one size at once. Whichever is cosigned, no other may be, and it is what is stored.
func race(ctx context.Context, p *prober) outcome {
	type result struct {
		size uint64
		*probeAnswer
		error
	}
	bodies := make([][]byte, racers) // made before, so that they leave together
	for i := range bodies {
		bodies[i] = p.log.body(p.size, p.size+1+uint64(i))
	}
	results := make([]result, racers)
	var wg sync.WaitGroup
	for i := range results {
		wg.Go(func() {
			// Not by send, which writes down what is one request's own.
			a, err := p.once(ctx, http.MethodPost, p.c.URL+"/add-checkpoint", bodies[i])
			results[i] = result{p.size + 1 + uint64(i), a, err}
		})
	}
	wg.Wait()
	var won []string
	var winner uint64
	other := make(map[int]int)
	for _, r := range results {
		switch {
		case r.error != nil:
			return failed(r.error)
		case r.status == http.StatusOK:
			won, winner = append(won, strconv.FormatUint(r.size, 10)), max(winner, r.size)
		case r.status != http.StatusConflict && r.status != http.StatusTooManyRequests:
			other[r.status]++
		}
	}
	p.sync(ctx)
	answered := fmt.Sprintf("cosigned %s, stored %d", strings.Join(won, " and "), p.size)
	for status, n := range other {
		answered += fmt.Sprintf(", %d times %d", n, status)
	}
	if len(won) != 1 || p.size != winner || len(other) > 0 {
		return outcome{answered, Deviates}
	}
	return outcome{answered, Conforms}
}

// monitorCases ask the monitoring prefix.
func monitorCases() []ProbeCase {
	look := func(id string, level Level, says, asks, want string, look func(p *prober, b []byte) string) ProbeCase {
		return ProbeCase{ID: id, Level: level, Asks: asks, Says: says, Wants: want, run: func(ctx context.Context, p *prober) outcome {
			if a, err := p.grow(ctx, 1); err != nil {
				return failed(err)
			} else if a.status != http.StatusOK {
				return outcome{"nothing could be cosigned before", Skipped}
			}
			a, err := p.get(ctx, originSum(p.log.origin))
			if err != nil {
				return failed(err)
			}
			if a.status != http.StatusOK {
				if id == "monitor" {
					return judged(a, false)
				}
				return outcome{"it shows no checkpoint", Skipped}
			}
			return because(a, look(p, a.body))
		}}
	}
	return []ProbeCase{
		look("monitor", Should, "A witness SHOULD serve a recent checkpoint for each log it cosigned", "the log's checkpoint, of the monitoring prefix", "200 and a checkpoint of the log; it may be an hour late", func(p *prober, b []byte) string {
			c, err := tlog.UnverifiedCheckpoint(b)
			if err != nil {
				return err.Error()
			}
			if c.Origin != p.log.origin || c != p.log.at(min(c.Size, p.size)) {
				return "a tree that is not the log's"
			}
			return ""
		}),
		look("monitor-log-signature", Must, "it MUST include [...] the cosignature from the log key(s) that the witness verified", "the same, for the log's signature", "one that was submitted", func(p *prober, b []byte) string {
			c, err := tlog.UnverifiedCheckpoint(b)
			if err != nil {
				return err.Error()
			}
			if c.Size > p.size {
				return "a tree that the log has not signed"
			}
			signed := p.log.sign(p.log.at(c.Size)) // Ed25519 signs alike each time
			if line := signed[bytes.Index(signed, []byte("\n\n"))+1:]; !bytes.Contains(b, line) {
				return "the log's signature is not there"
			}
			return ""
		}),
		look("monitor-cosignatures", Must, "it MUST include the cosignature(s) from the witness's key(s) that were returned from add-checkpoint", "the same, for the witness's", "those that were answered", func(p *prober, b []byte) string {
			if c, err := tlog.UnverifiedCheckpoint(b); err == nil && c.Size != p.size {
				return "" // of an older answer: it may be late
			}
			for line := range strings.Lines(p.lines) {
				if !strings.Contains(string(b), "\n"+line) {
					return fmt.Sprintf("%.60q is not there", line)
				}
			}
			return ""
		}),
		{ID: "monitor-unknown", Level: Must, Asks: "the checkpoint of a log that no witness knows", Wants: "404", Says: "If the witness has never cosigned a checkpoint for that log, it MUST respond with a \"404 Not Found\"",
			run: func(ctx context.Context, p *prober) outcome {
				a, err := p.get(ctx, originSum(unknownOrigin()))
				if err != nil {
					return failed(err)
				}
				return judged(a, a.status == http.StatusNotFound)
			}},
	}
}

// subtreeCases ask for the cosignature of a subtree of a checkpoint that was just cosigned. Nobody has to offer that.
func subtreeCases() []ProbeCase {
	good := func(ctx context.Context, p *prober) (*signSubtree, outcome, bool) {
		a, err := p.grow(ctx, 1)
		if err != nil {
			return nil, failed(err), false
		}
		if a.status != http.StatusOK {
			return nil, outcome{"nothing could be cosigned before", Skipped}, false
		}
		if did, _ := p.verified(p.signed, p.lines); len(did) == 0 && len(p.verifiers) > 0 {
			return nil, outcome{"the witness has not cosigned what it is to be shown", Skipped}, false
		}
		// A span within the first perfect tree whose proof is not empty.
		tree := p.log.tree(p.size)
		r := &signSubtree{start: 2, end: 4, signed: []byte(string(p.log.at(p.size).Text()) + "\n" + p.lines)}
		r.root = must(tree.SubtreeRoot(ctx, r.start, r.end))
		r.proof = must(tree.SubtreeConsistency(ctx, r.start, r.end))
		if a, err = p.post(ctx, "sign-subtree", r.append(nil)); err != nil {
			return nil, failed(err), false
		}
		switch a.status {
		case http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusNotImplemented:
			return nil, outcome{"not offered, which is free to it: " + a.String(), Skipped}, false
		}
		return r, judged(a, a.status == http.StatusOK), true
	}
	refuses := func(id, says, asks string, status int, change func(p *prober, r *signSubtree) []byte) ProbeCase {
		return ProbeCase{ID: id, Level: Must, Asks: asks, Says: says, Wants: wants(status), run: func(ctx context.Context, p *prober) outcome {
			r, o, offered := good(ctx, p)
			if !offered || o.verdict != Conforms {
				return outcome{o.answered, Skipped}
			}
			a, err := p.post(ctx, "sign-subtree", change(p, r))
			if err != nil {
				return failed(err)
			}
			return judged(a, a.status == status)
		}}
	}
	return []ProbeCase{
		{ID: "subtree", Level: May, Asks: "the cosignature of a subtree of a checkpoint just cosigned", Wants: "200, if it is offered at all", Says: "It is OPTIONAL for a witness to support this API",
			run: func(ctx context.Context, p *prober) outcome {
				_, o, _ := good(ctx, p)
				return o
			}},
		{ID: "subtree-signature", Level: Must, Asks: "the same, for its signatures", Wants: "ML-DSA-44 cosignatures that state no time, and verify if the key is known",
			Says: "The cosignature format MUST support subtree cosigning. If it supports timestamps, the timestamp MUST be zero",
			run: func(ctx context.Context, p *prober) outcome {
				r, o, offered := good(ctx, p)
				if !offered || o.verdict != Conforms {
					return outcome{o.answered, Skipped}
				}
				a, err := p.post(ctx, "sign-subtree", r.append(nil))
				if err != nil {
					return failed(err)
				}
				lines, _ := cosignatureLines(string(a.body))
				if len(lines) == 0 {
					return because(a, "there is no cosignature in it")
				}
				for _, l := range lines {
					if len(l.blob) != mldsaCosignature || l.time() != 0 {
						return because(a, fmt.Sprintf("%s signed with %d bytes and states %d", l.name, len(l.blob), l.time()))
					}
					for i, v := range p.verifiers {
						if v.Name() == l.name && v.KeyHash() == l.id {
							if err := tlog.VerifySubtreeCosignature(p.c.Keys[i], p.log.origin, r.start, r.end, r.root, l.blob); err != nil {
								return because(a, err.Error())
							}
						}
					}
				}
				return judged(a, true)
			}},
		refuses("subtree-range", "The half-open interval [start, end) MUST be a valid subtree. If the request is invalid, 400", "an interval that is no subtree", 400, func(p *prober, r *signSubtree) []byte {
			r.start, r.end = 1, 4
			return r.append(nil)
		}),
		refuses("subtree-outside", "end MUST be less than or equal to the checkpoint size. If the request is invalid, 400", "a subtree past the checkpoint's size", 400, func(p *prober, r *signSubtree) []byte {
			r.start, r.end = 1<<20, 1<<20+4
			return r.append(nil)
		}),
		refuses("subtree-form", "each encoded as an ASCII decimal with no leading zeroes. If the request is invalid, 400", "a leading zero", 400, func(p *prober, r *signSubtree) []byte {
			return bytes.Replace(r.append(nil), []byte("subtree "), []byte("subtree 0"), 1)
		}),
		refuses("subtree-unknown-log", sayUnknown, "a log that no witness knows", 404, func(p *prober, r *signSubtree) []byte {
			unknown := unknownOrigin()
			r.signed = append(stranger(p.log.at(p.size), unknown, unknown), p.lines...)
			return r.append(nil)
		}),
		refuses("subtree-not-cosigned", "The witness MUST verify that the checkpoint includes a valid cosignature from one of its own keys. If not, 403", "a checkpoint that only the log signed", 403, func(p *prober, r *signSubtree) []byte {
			r.signed = p.log.sign(p.log.at(p.size))
			return r.append(nil)
		}),
		refuses("subtree-cosigned-other", "The witness MUST verify that the checkpoint includes a valid cosignature from one of its own keys. If not, 403", "cosignatures of another checkpoint", 403, func(p *prober, r *signSubtree) []byte {
			r.signed = []byte(string(p.log.fork(p.size).Text()) + "\n" + p.lines)
			return r.append(nil)
		}),
		refuses("subtree-proof", "If the Merkle Consistency Proof doesn't verify, the witness MUST respond with a \"422 Unprocessable Entity\"", "another root than the subtree's", 422, func(p *prober, r *signSubtree) []byte {
			r.root[0] ^= 1
			return r.append(nil)
		}),
	}
}
