package replay

import (
	"encoding/json"
	"time"

	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/record"
	"github.com/tallystick/tallystick/verify"
)

// A piece is an entry of a call that is not on record: what a record of it would hold.
type piece struct {
	kind    record.Kind
	outcome record.Outcome
	fields  record.Record
}

// unrecorded puts a call that is not on record into the form of one that is, so that transcript reads both alike. Its entries are in
// no log.
func unrecorded(id record.ID, now time.Time, pieces ...piece) verify.Session {
	s := verify.Session{ID: id}
	for i, p := range pieces {
		p.fields.Add(record.FieldSession, []byte(id.String()))
		e := record.Entry{
			Kind: p.kind, By: "unrecorded", Boot: id, Seq: uint64(i) + 1, Time: now.UTC().Truncate(time.Microsecond), Session: id, Outcome: p.outcome,
			Root: tlog.HashLeaf(nil), Fields: len(p.fields), Payload: tlog.HashLeaf(nil), PayloadSize: 1,
		}
		b, err := e.Append(nil)
		if err != nil {
			continue // as if it were not there
		}
		s.Entries = append(s.Entries, verify.Entry{Index: uint64(i), Bytes: b, Fields: verify.Fields(p.fields, func(string) bool { return true })})
	}
	return s
}

// pairs spells a head as a record has it.
func pairs(head [][2]string) []byte {
	b, err := json.Marshal(head)
	if err != nil {
		return []byte("[]")
	}
	return b
}

// spellTimes spells times by name as a record has them.
func spellTimes(times map[string]time.Time) []byte {
	out := make(map[string]string, len(times))
	for name, t := range times {
		out[name] = t.UTC().Format("2006-01-02T15:04:05.000000Z")
	}
	b, err := json.Marshal(out)
	if err != nil {
		return []byte("{}")
	}
	return b
}
