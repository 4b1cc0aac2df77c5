// Package export turns a bundle of sessions into forms that other programs read: HAR 1.2, a curl command, JSON lines in the shapes of
// the OpenAI and the Anthropic API, asciicast v3, CSV, and a draft certificate of custody to print and sign. FORMATS.md beside
// this file says, form by form, what stands where and what is left out.
//
// What is always true:
//
//   - it is given what a desk has handed out, with the access entry for it, and returns bytes: it reads and writes nothing else;
//   - only what the records say is in them, and no credential is on record; what is withheld or erased is said to be missing;
//   - what a caller or a model said is data in every form: it opens no quote, starts no formula, moves no cursor, runs no script;
//   - a form proves nothing. Each names the session and the log, so that it can be held against the bundle, which does.
package export

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	"github.com/tallystick/tallystick/audit"
	"github.com/tallystick/tallystick/audit/transcript"
	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/record"
	"github.com/tallystick/tallystick/verify"
)

// A Format is a form that sessions are handed out in.
type Format string

// The formats. The words are those that the command and the console take.
const (
	Bundle         Format = "bundle"          // as it is: what tally-verify checks
	HAR            Format = "har"             // HTTP Archive 1.2, for browsers and proxies
	CURL           Format = "curl"            // a command for a POSIX shell; one session
	JSONL          Format = "jsonl"           // a line a session, in the shape of OpenAI's chat completions
	JSONLAnthropic Format = "jsonl-anthropic" // a line a session, in the shape of Anthropic's messages
	Cast           Format = "cast"            // asciicast v3, for asciinema; one session
	CSV            Format = "csv"             // a row a session, for spreadsheets
	Certificate    Format = "certificate"     // HTML to print: a draft certificate of custody
)

// formats has what is known of each, in the order in which they are listed.
var formats = []struct {
	Format
	act         audit.Act
	extension   string
	contentType string
	one         bool // of one session
	write       func(*cargo) ([]byte, error)
}{
	{Bundle, audit.Export, ".bundle", "application/json", false, func(c *cargo) ([]byte, error) { return c.raw, nil }},
	{HAR, audit.ExportHAR, ".har", "application/json", false, (*cargo).har},
	{CURL, audit.ExportCURL, ".sh", "text/plain; charset=utf-8", true, (*cargo).curl},
	{JSONL, audit.ExportJSONL, ".jsonl", "application/jsonl", false, (*cargo).jsonl},
	{JSONLAnthropic, audit.ExportJSONL, ".anthropic.jsonl", "application/jsonl", false, (*cargo).jsonlAnthropic},
	{Cast, audit.ExportCast, ".cast", "application/x-asciicast", true, (*cargo).cast},
	{CSV, audit.ExportCSV, ".csv", "text/csv; charset=utf-8; header=present", false, (*cargo).csv},
	{Certificate, audit.Certify, ".certificate.html", "text/html; charset=utf-8", false, (*cargo).certificate},
}

// Formats returns all formats, in the order in which people are shown them.
func Formats() []Format {
	var all []Format
	for _, f := range formats {
		all = append(all, f.Format)
	}
	return all
}

// ParseFormat reads the word for a format.
func ParseFormat(s string) (Format, error) {
	var words []string
	for _, f := range formats {
		if string(f.Format) == s {
			return f.Format, nil
		}
		words = append(words, string(f.Format))
	}
	return "", fmt.Errorf("export: %.40q is no format; there are %s", s, strings.Join(words, ", "))
}

// Act returns what goes on record of who hands sessions out in this format.
func (f Format) Act() audit.Act {
	for _, k := range formats {
		if k.Format == f {
			return k.act
		}
	}
	return 0
}

// One says whether the format is for one session.
func (f Format) One() bool {
	for _, k := range formats {
		if k.Format == f {
			return k.one
		}
	}
	return false
}

// About is what an export says of itself, which no record does. Only a certificate needs all of it.
type About struct {
	By, Reason string       // who exports, and why, as the access entry has it
	At         time.Time    // when
	Software   string       // name and version of the program that does, such as tallystick/0.1.0
	Policy     *tlog.Policy // whom a certificate's check believes: the log's keys, and its witnesses
	Name       string       // of the bundle's file, which a certificate is about; by default the first session's id and .bundle
}

// As returns the sessions of a bundle in a format: the name that its file might have, without a directory, its media type, and its
// bytes. The bundle is what [audit.Desk.Bundle] returned for the act of the format. Of a format for one session the bundle's
// first is meant: those that follow it are there for its approval.
func As(f Format, bundle []byte, about About) (name, contentType string, b []byte, err error) {
	for _, k := range formats {
		if k.Format != f {
			continue
		}
		c, err := read(bundle, about)
		if err == nil {
			b, err = k.write(c)
		}
		if err != nil {
			return "", "", nil, fmt.Errorf("export as %s: %w", f, err)
		}
		return c.sessions[0].ID.String() + k.extension, k.contentType, b, nil
	}
	_, err = ParseFormat(string(f))
	return "", "", nil, err
}

// A cargo is what is exported.
type cargo struct {
	About
	raw      []byte // the bundle
	origin   string
	tree     tlog.Checkpoint
	signed   []byte // tree, with its cosignatures
	sessions []session
}

// A session is one of a bundle, and what was read of it.
type session struct {
	verify.Session
	*transcript.Transcript
}

func read(bundle []byte, about About) (*cargo, error) {
	b, err := verify.Parse(bundle)
	if err != nil {
		return nil, err
	}
	c := &cargo{About: about, raw: bundle, origin: b.Origin, signed: b.Checkpoint}
	if c.tree, err = tlog.UnverifiedCheckpoint(b.Checkpoint); err != nil {
		return nil, err
	}
	for _, s := range b.Sessions {
		t := transcript.Of(s)
		if len(t.Entries) != len(s.Entries) {
			return nil, fmt.Errorf("session %s has entries that are none of a log of ours; tally-verify says which", s.ID)
		}
		c.sessions = append(c.sessions, session{s, t})
	}
	return c, nil
}

// software splits name and version.
func (c *cargo) software() (name, version string) {
	name, version, _ = strings.Cut(c.Software, "/")
	return cmp.Or(name, "tallystick"), cmp.Or(version, "unknown")
}

// leaf returns the leaf hash of the session's i-th entry.
func (s *session) leaf(i int) tlog.Hash { return tlog.HashLeaf(s.Session.Entries[i].Bytes) }

// began and ended are when the call did, or, where the records do not say, what the first and the last entry of its chain state.
func (s *session) began() time.Time {
	if t := s.Times.Received; !t.IsZero() {
		return t
	}
	return s.Transcript.Entries[0].Time
}

func (s *session) ended() time.Time {
	if t := s.Times.Ended; !t.IsZero() {
		return t
	}
	last := s.began()
	for _, e := range s.Transcript.Entries {
		switch e.Kind {
		case record.Request, record.Approval, record.Response, record.Refused:
			if e.Time.After(last) {
				last = e.Time
			}
		}
	}
	return last
}

// end says in one word how the session ended.
func (s *session) end() string {
	switch {
	case s.Refused != "":
		return "refused"
	case s.Outcome != "":
		return string(s.Outcome)
	}
	return "open"
}
