package witness

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"

	"github.com/tallystick/tallystick/tlog"
)

// A LogList is the logs that a witness knows, each with its keys. It comes from [ParseLogList] and never changes. The
// zero LogList has no log.
type LogList struct {
	logs    map[string]listedLog // by origin
	skipped []string
}

type listedLog struct {
	keys   []note.Verifier // 1 to MaxKeys
	perDay float64         // how often it may submit; 0 for what the witness gives everybody
}

// ParseLogList reads a list of logs in one of two forms:
//
//   - a policy of c2sp.org/tlog-policy with a line "log <vkey>" for every key of every log and, at its end, "quorum none".
//     It is the form in which logs hand out their keys anyway, it has a strict reader, and its last line
//     says that the file is whole. Witnesses and groups have no meaning here and are refused;
//   - the log list of the public witness network, whose first line is "logs/v0". A line "vkey" begins a log, and lines
//     "origin", "qpd" (submissions a day) and others may follow, of which the others are not used. Strangers write it, so a
//     log in it that cannot be witnessed here, for its kind of key or because it is called otherwise than its
//     key, is left out: see Skipped.
//
// Names of keys are the logs' origins. A log has at most MaxKeys keys, Ed25519 (type 0x01) or ML-DSA-44 (0x06).
func ParseLogList(data []byte) (*LogList, error) {
	l := &LogList{logs: make(map[string]listedLog)}
	if isNetworkList(data) {
		return l, l.readNetworkList(data)
	}
	p, err := tlog.ParsePolicy(data)
	if err != nil {
		return nil, fmt.Errorf("list of logs: %w", err)
	}
	if len(p.Witnesses()) > 0 || !strings.HasSuffix(string(p.Text()), "quorum none\n") {
		return nil, errors.New("list of logs: it has a witness or a quorum; a witness's list has lines of logs, and last \"quorum none\"")
	}
	for _, log := range p.Logs() {
		if err := l.add(log.Key, 0); err != nil {
			return nil, fmt.Errorf("list of logs: %w", err)
		}
	}
	return l, nil
}

func (l *LogList) add(vkey string, perDay float64) error {
	v, err := tlog.NewLogVerifier(vkey)
	if err != nil {
		return err
	}
	log := l.logs[v.Name()]
	if len(log.keys) == MaxKeys {
		return fmt.Errorf("the log %q has more than %d keys", v.Name(), MaxKeys)
	}
	l.logs[v.Name()] = listedLog{keys: append(log.keys, v), perDay: max(log.perDay, perDay)}
	return nil
}

// Origins returns the names of the logs, sorted.
func (l *LogList) Origins() []string { return slices.Sorted(maps.Keys(l.logs)) }

// Skipped says which logs of the file are not in the list, and why.
func (l *LogList) Skipped() []string { return slices.Clone(l.skipped) }

// networkHeader begins a log list of the public witness network.
const networkHeader = "logs/v0"

// isNetworkList says whether the first line with content is that list's.
func isNetworkList(data []byte) bool {
	for line := range bytes.Lines(data) {
		if line = bytes.TrimSuffix(line, []byte("\n")); len(line) > 0 && line[0] != '#' {
			return string(line) == networkHeader
		}
	}
	return false
}

// readNetworkList reads such a list.
func (l *LogList) readNetworkList(data []byte) error {
	if len(data) > tlog.MaxPolicy {
		return fmt.Errorf("list of logs: %d bytes are over the limit of %d", len(data), tlog.MaxPolicy)
	}
	var vkey, origin string // of the log that is being read
	var perDay float64
	seen := make(map[string]bool)
	n, at, header := 0, 0, false
	finish := func() {
		name, _, _ := strings.Cut(vkey, "+")
		switch {
		case vkey == "":
		case seen[vkey]:
			l.skipped = append(l.skipped, fmt.Sprintf("line %d: the key stands twice", at))
		case origin != "" && origin != "none" && origin != name:
			l.skipped = append(l.skipped, fmt.Sprintf("line %d: the log %q is called otherwise than its key, %q", at, origin, name))
		default:
			if err := l.add(vkey, perDay); err != nil {
				l.skipped = append(l.skipped, fmt.Sprintf("line %d: %v", at, err))
			}
		}
		seen[vkey] = true
		vkey, origin, perDay = "", "", 0
	}
	for line := range bytes.Lines(data) {
		n++
		line, ok := bytes.CutSuffix(line, []byte("\n"))
		if !ok {
			return fmt.Errorf("list of logs: line %d does not end in a line break; the file may be cut off", n)
		}
		if len(line) == 0 || line[0] == '#' {
			continue
		}
		if !header {
			header = true
			continue
		}
		word, value, _ := strings.Cut(string(line), " ")
		if word == "vkey" {
			finish()
			vkey, at = value, n
		}
		if vkey == "" {
			return fmt.Errorf("list of logs: line %d is not \"vkey\" and a key, by which a log begins", n)
		}
		switch word {
		case "origin":
			origin = value
		case "qpd":
			var err error
			if perDay, err = strconv.ParseFloat(value, 64); err != nil || !(perDay > 0 && perDay < 1e12) {
				return fmt.Errorf("list of logs: line %d: %.40q is not a number of submissions a day", n, value)
			}
		}
	}
	finish()
	return nil
}
