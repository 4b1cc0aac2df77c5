package witness

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
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
	perDay uint64          // how often it may submit; 0 for what the witness gives everybody
}

// ParseLogList reads a list of logs in one of two forms:
//
//   - a policy of c2sp.org/tlog-policy with a line "log <vkey>" for every key of every log and, at its end, "quorum none".
//     It is the form in which logs hand out their keys anyway, it has a strict reader, and its last line
//     says that the file is whole. Witnesses and groups have no meaning here and are refused;
//   - the log list of the public witness network, whose first line is "logs/v0", with vkey, origin, bastion, qpd
//     and contact for each log. Others write it, so a log in it that cannot be witnessed here, for its kind of key or
//     because it is called otherwise than its key, is left out: see Skipped. Bastions are not used.
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

func (l *LogList) add(vkey string, perDay uint64) error {
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

// readNetworkList reads the rest of such a list. Its lines have an order, which begins anew with each log.
func (l *LogList) readNetworkList(data []byte) error {
	if len(data) > tlog.MaxPolicy {
		return fmt.Errorf("list of logs: %d bytes are over the limit of %d", len(data), tlog.MaxPolicy)
	}
	words := []string{"vkey", "origin", "bastion", "qpd", "contact"}
	var vkey, origin string
	var perDay uint64
	seen := make(map[string]bool)
	n, next, header := 0, 0, false
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
		if word != words[next] || value == "" {
			return fmt.Errorf("list of logs: line %d is not %q and a value", n, words[next])
		}
		switch word {
		case "vkey":
			vkey = value
			if seen[vkey] {
				return fmt.Errorf("list of logs: line %d: the key stands twice", n)
			}
			seen[vkey] = true
		case "origin":
			origin = value
		case "qpd":
			var err error
			if perDay, err = parseSize(value); err != nil || perDay == 0 {
				return fmt.Errorf("list of logs: line %d: the number of submissions a day is a positive decimal number", n)
			}
		case "contact":
			if name, _, _ := strings.Cut(vkey, "+"); origin != "none" && origin != name {
				l.skipped = append(l.skipped, fmt.Sprintf("line %d: the log %q is called otherwise than its key, %q", n, origin, name))
			} else if err := l.add(vkey, perDay); err != nil {
				l.skipped = append(l.skipped, fmt.Sprintf("line %d: %v", n, err))
			}
		}
		next = (next + 1) % len(words)
	}
	if next != 0 {
		return fmt.Errorf("list of logs: the last log has no line %q; the file may be cut off", words[next])
	}
	return nil
}
