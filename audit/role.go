package audit

import (
	"errors"
	"fmt"
	"strings"
)

// Roles say what somebody may do at a desk: none, one, or several of them together. The zero value may nothing, and no role
// holds another one: who runs the log need not be let read it. Who may decide about calls that wait is asked by the gateway as
// well, which has groups of its own for each question.
type Roles uint8

const (
	Viewer   Roles = 1 << iota // finds sessions, and sees what their records say, masked as they are
	Approver                   // sees and decides calls that wait for a yes
	Auditor                    // does what a viewer does, hands evidence out, replays, and reads who read
	Admin                      // erases, unseals originals, changes keys, and reads who read

	Operator = Viewer | Approver | Auditor | Admin
)

var roleNames = [...]string{"viewer", "approver", "auditor", "admin"}

// ParseRole reads the name of one role.
func ParseRole(s string) (Roles, error) {
	for i, name := range roleNames {
		if s == name {
			return 1 << i, nil
		}
	}
	return 0, fmt.Errorf("audit: %.40q is no role; there are %s", s, strings.Join(roleNames[:], ", "))
}

// Any says whether somebody with these roles has one of those.
func (r Roles) Any(of Roles) bool { return r&of != 0 }

// String returns the names of the roles with a comma between two, or "nobody".
func (r Roles) String() string {
	var names []string
	for i, name := range roleNames {
		if r&(1<<i) != 0 {
			names = append(names, name)
		}
	}
	if names == nil {
		return "nobody"
	}
	return strings.Join(names, ", ")
}

// An Act is something that is done with records. Its words are those of the access entry.
type Act uint8

const (
	View        Act = iota + 1 // one session is looked at
	Search                     // sessions are looked for
	Play                       // its answer is played back as it came
	Export                     // a bundle is handed out
	ExportHAR                  // and what is made of one
	ExportCURL                 //
	ExportJSONL                //
	ExportCast                 //
	ExportCSV                  //
	Certify                    // a certificate of custody is drawn up
	Mock                       // its answer is served to a sandbox in a model's place
	Compare                    // its request is sent to a sandbox, and the answers are held against each other
	Names                      // the names of fields are read
	Disclose                   // some fields are handed out
	Trail                      // who read what is read
	Derive                     // an index, or another system, is given what records say
	Unseal                     // a sealed original is handed out
	Erase                      // records are destroyed
	Rekey                      // keys change, or data keys are sealed anew
)

// acts has the words of each act, and who may do it.
var acts = [...]struct {
	words string
	may   Roles
}{
	View:        {"view", Viewer | Auditor},
	Search:      {"search", Viewer | Auditor},
	Play:        {"play back", Viewer | Auditor},
	Export:      {"export", Auditor},
	ExportHAR:   {"export as HAR", Auditor},
	ExportCURL:  {"export as a curl command", Auditor},
	ExportJSONL: {"export as JSON lines", Auditor},
	ExportCast:  {"export as asciicast", Auditor},
	ExportCSV:   {"export as CSV", Auditor},
	Certify:     {"certificate of custody", Auditor},
	Mock:        {"serve as a mock model", Auditor},
	Compare:     {"send again and compare", Auditor},
	Names:       {"the names of all fields", Auditor},
	Disclose:    {"disclose", Auditor},
	Trail:       {"who read what", Auditor | Admin},
	Derive:      {"derive", Admin},
	Unseal:      {"unseal", Admin},
	Erase:       {"erase", Admin},
	Rekey:       {"keys", Admin},
}

// String returns an act's words, as they stand in access entries.
func (a Act) String() string {
	if !a.known() {
		return "nothing"
	}
	return acts[a].words
}

// May returns the roles of which one is needed.
func (a Act) May() Roles {
	if !a.known() {
		return 0
	}
	return acts[a].may
}

func (a Act) known() bool { return a > 0 && int(a) < len(acts) }

// ParseAct reads an act's words.
func ParseAct(s string) (Act, error) {
	for a := View; a.known(); a++ {
		if acts[a].words == s {
			return a, nil
		}
	}
	return 0, fmt.Errorf("%w: %.60q is nothing that can be done here", errRequest, s)
}

// ErrRole says that somebody has not the role for what he asks: ask somebody who has, or to be given it.
var ErrRole = errors.New("audit: not in this role")

// may says why somebody may not do something, or nil. What cannot be recorded is nobody's either.
func (a Asker) may(act Act) error {
	if a.nobody() {
		return ErrNobody
	}
	if !a.Roles.Any(act.May()) {
		return fmt.Errorf("%w: %q is for %s, and %s is %s", ErrRole, act, act.May(), a.Name, a.Roles)
	}
	return nil
}
