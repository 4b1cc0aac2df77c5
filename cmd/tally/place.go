package main

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
)

// runningFile, in the data directory, says where the running log is found.
const runningFile = "running.url"

// state is the directory for what this user's programs remember of each other: $XDG_STATE_HOME/tallystick. It is "" where
// there is none to be had.
func (t *tally) state() string {
	dir, ok := t.lookup("XDG_STATE_HOME")
	if !ok || !filepath.IsAbs(dir) {
		home, ok := t.lookup("HOME")
		if !ok || !filepath.IsAbs(home) {
			return ""
		}
		dir = filepath.Join(home, ".local", "state")
	}
	dir = filepath.Join(dir, "tallystick")
	if os.MkdirAll(dir, 0o700) != nil {
		return ""
	}
	return dir
}

// remember notes, for this user's other commands, which file has the operators' token of the log at an address.
func (t *tally) remember(addr, tokenFile string) string {
	dir := t.state()
	abs, err := filepath.Abs(tokenFile)
	if dir == "" || err != nil {
		return ""
	}
	dir = filepath.Join(dir, "running")
	path := filepath.Join(dir, strings.ReplaceAll(addr, ":", "_"))
	if os.MkdirAll(dir, 0o700) != nil || os.WriteFile(path, []byte(abs+"\n"), 0o600) != nil {
		return ""
	}
	return path
}

// operatorToken finds the token for the log at a URL: in the file that is named, in $TALLY_TOKEN, or where the log's own
// process, run by this user, said that it is.
func (t *tally) operatorToken(base, file string) (string, error) {
	if token, ok := t.lookup("TALLY_TOKEN"); ok && file == "" {
		return strings.TrimSpace(token), nil
	}
	if file == "" {
		u, err := url.Parse(base)
		if err != nil {
			return "", fmt.Errorf("--log: %w", err)
		}
		if dir := t.state(); dir != "" {
			if b, err := os.ReadFile(filepath.Join(dir, "running", strings.ReplaceAll(u.Host, ":", "_"))); err == nil {
				file = strings.TrimSpace(string(b))
			}
		}
	}
	if file == "" {
		return "", errors.New("no token for this log; name its file with --token-file, or set TALLY_TOKEN (the log keeps it in operator.token, in its data directory)")
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("operators' token: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}
