// Package console is the desk for people: pages in a browser, over net/http and html/template, with style sheets and ES modules that
// are in the binary, and nothing to build.
//
// What is always true of it:
//
//   - content comes from the [audit.Desk], and that of a call which waits from the gateway, so whatever page shows any has its
//     access entry, with who and why; nobody's reason is made up for him: who has given none is asked for one, and shown nothing
//     until then;
//   - which role a page or a deed needs stands in one table, routes, and nothing is served that is not in it;
//   - recorded content is text in every page: html/template writes it, no script may turn it into anything else (Trusted Types),
//     and what cannot be seen in it, or turns writing round, is made visible;
//   - no page needs a script: what is read is read, and what is done is done, without any;
//   - what changes something is a POST which a page of another site cannot have sent ([http.CrossOriginProtection]: a browser says
//     where a request comes from, which needs no words in forms and nothing to keep; cookies with SameSite stand beside it);
//   - it answers only to the names it was told, so that no name of somebody else's leads to it.
//
// Beyond this machine it is reached by https, by itself or behind whoever passes requests on: only there does a browser say of a page
// that tells nobody where it came from, as these do, that a request comes from it.
//
// It has no log of its own, no users, no session of who is signed in, and no listener: [Config] brings them.
//
// # What the modules find in a page
//
// The page of a session is whole without them. They find
//
//	<section id="timeline" data-session="ID">                the player's place: a module adds its buttons to
//	  <div id="player"></div>                                this, which is empty,
//	  <table id="events"><tbody>                             and moves through these rows
//	    <tr id="e17" data-at="12345" data-bytes="93">        event 17 of the answer, counted from 0: microseconds since the answer
//	      <td class="says">…</td>                            began, -1 where that is not on record; bytes; the words that it adds;
//	                                                         with the class mark where it is masked, cut off, faulty, or long in coming
//	<section id="proof" data-session="ID" data-bundle="/sessions/ID/bundle" data-policy="/policy">
//	  <div id="verdict" aria-live="polite"></div>            empty; a module puts the button here, and what it found
//
// and GET /sessions/ID/bundle answers with a bundle (verify/BUNDLE.md) as application/json, GET /policy with the tlog-policy file as
// text/plain. To get a bundle is a reading of its own, and recorded: it is fetched when somebody asks for it, not before.
package console

import (
	"context"
	"log/slog"
	"net/http"
	"time"

	"github.com/tallystick/tallystick/audit"
	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/record"
)

// A Config is what a console shows, and to whom.
type Config struct {
	// Desk is where all content comes from.
	Desk *audit.Desk
	// Log is read for checkpoints and entries, which are public: no reading of it is recorded.
	Log tlog.Reader
	// Hosts are the names by which the console is reached, as a browser sends them: host, or host:port where the port is not that of
	// the scheme. A request for any other is refused. At least one.
	Hosts []string
	// Secure says that people come by https, to here or to whoever passes their requests on, so that cookies are for https alone.
	Secure bool
	// SignIn says who is there.
	SignIn SignIn
	// Approvals are the calls that wait for a yes; nil for a console without them.
	Approvals Approvals
	// Policy is the tlog-policy file by which the log's checkpoints are judged here, and in the browser. It can be empty: then
	// nothing is judged, and the pages say so.
	Policy []byte
	// Health is asked for the overview and for the page of the log; nil for none.
	Health func(ctx context.Context) []Check
	// Numbers are counters beside those that the console takes from the log and the index; nil for none.
	Numbers func(ctx context.Context) []Number
	// Settings are shown as they stand, to admins and auditors: whoever gives them leaves out secrets. Nil for none.
	Settings func() []Setting
	// Demonstration says, where anybody is let in, that it is so: it stands on every page, beside the way to be somebody else. Why is then
	// the reason that the question for one begins with.
	Demonstration, Why string
	// Software is the name and version of the program, for what is handed out: tallystick/0.1.0.
	Software string
	// Logger is told of what fails; nil for nobody.
	Logger *slog.Logger
}

// A Person is somebody who is signed in.
type Person struct {
	Name   string // as it goes on record
	Email  string // "" for none
	Groups []string
	How    string // how he signed in, in a few words: "OIDC at https://idp.example"
	Roles  audit.Roles
	// Session names the sign-in for those who let him in: the console hands it on to Approvals and shows it to nobody.
	Session string
	Until   time.Time // when the sign-in ends; zero for not known
}

// SignIn lets people in. Its pages, everything under /login/ and POST /logout, are served by its own handler without any role, with
// the console's headers already set (a page that needs more than they allow sets its own), and guard themselves against other sites:
// a POST under /login/ may come from another site, where an identity provider answers with one; a POST to /logout may not, and is
// not let through.
type SignIn interface {
	// Who says who is there; false for nobody.
	Who(req *http.Request) (Person, bool)
	// Way returns where somebody who is not signed in is sent, a path under /login/, so that he comes back to a path of the
	// console's own, which may have a query.
	Way(back string) string
	http.Handler
}

// Approvals are calls that wait for people. Errors are shown to people as they are: ErrGone, ErrNotYours, ErrNotTaken and those
// that wrap them as what they say, all others as a failure.
type Approvals interface {
	// List returns what waits that is somebody's to decide, or his own, the oldest first, without content.
	List(ctx context.Context, who Person) ([]Approval, error)
	// Look returns one with the whole request; that it was looked at is on record, at the gateway, before.
	Look(ctx context.Context, who Person, id record.ID) (Approval, error)
	// Decide takes a decision, Approve, Deny or BreakGlass, and returns how it stands now.
	Decide(ctx context.Context, who Person, id record.ID, decision, reason string) (Approval, error)
	// Changes returns a channel on which something comes whenever what waits may have changed, until ctx ends. It may come too often,
	// and changes that come together may come as one.
	Changes(ctx context.Context) <-chan struct{}
}

// The decisions.
const (
	Approve    = "approve"
	Deny       = "deny"
	BreakGlass = "break_glass"
)

// An Approval is a call that waits, or waited.
type Approval struct {
	ID      record.ID // the session's
	State   string    // in a word: open while it waits
	Open    bool      // it can be decided
	Yours   bool      // who asks is who called: others decide
	Caller  string
	Email   string
	Route   string
	Model   string
	Method  string
	Target  string
	Rule    string   // which asks
	Message string   // what the rule says to approvers
	Need    int      // how many people must say yes
	Yes     []string // who has
	Groups  []string // who is asked; none for all who approve
	Glass   bool     // who looks may let it pass alone, in an emergency
	Asked   time.Time
	Until   time.Time // when no answer becomes no
	Request *Request  // nil where the request is not shown: in a list, one's own, or one that is decided
}

// A Request is a call as it will be sent.
type Request struct {
	Leaf    tlog.Hash // of its entry in the log
	Fields  []NamedText
	Headers [][2]string
	Body    []byte
}

// A NamedText is a name and a text.
type NamedText struct{ Name, Text string }

// A State says how something is.
type State uint8

const (
	Unknown State = iota
	Well
	Warning
	Failing
)

// String returns the word that pages show.
func (s State) String() string {
	switch s {
	case Well:
		return "well"
	case Warning:
		return "warning"
	case Failing:
		return "failing"
	}
	return "not known"
}

// A Check is one thing that is looked after: the log, the age of the checkpoint, a witness, the index, the disk.
type Check struct {
	Name  string
	State State
	Says  string    // a sentence, and what to do where it is not well
	At    time.Time // of what it speaks of; zero for now
}

// A Number is a counter or a measure.
type Number struct {
	Name  string // in words
	Value float64
	Unit  string // "", "bytes", "seconds"
}

// A Setting is shown as it stands.
type Setting struct {
	Name  string // as in the configuration: "log.witness.quorum"
	Value string
	Help  string // "" for none
}
