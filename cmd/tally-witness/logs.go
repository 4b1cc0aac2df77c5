package main

import (
	"bufio"
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/tallystick/tallystick/cmd/internal/cli"
	"github.com/tallystick/tallystick/witness"
)

// A remembered is a log as --json shows it.
type remembered struct {
	Origin    string   `json:"origin"`
	Size      uint64   `json:"size"`
	Root      string   `json:"root"`
	Time      string   `json:"time"` // "" if no cosignature states one
	Cosigners []string `json:"cosigners"`
	Path      string   `json:"path"`
	Error     string   `json:"error"` // "" unless the file is damaged
}

// listLogs shows what a state directory says, also while a witness uses it.
func (v *invocation) listLogs() (int, error) {
	if v.state == "" {
		return 0, cli.Usagef("of which witness? Name its state directory by --state DIR.")
	}
	read, err := witness.ReadStore(v.state)
	if err != nil {
		return 0, err
	}
	code := 0
	logs := []remembered{}
	for _, r := range read {
		l := remembered{Origin: r.Checkpoint.Origin, Size: r.Checkpoint.Size, Cosigners: r.Cosigners, Path: r.Path}
		if r.Err != nil {
			l.Error, code = r.Err.Error(), 1
		} else {
			l.Root = r.Checkpoint.Root.String()
		}
		if r.Time > 0 {
			l.Time = time.Unix(int64(r.Time), 0).UTC().Format(time.RFC3339)
		}
		if l.Cosigners == nil {
			l.Cosigners = []string{}
		}
		logs = append(logs, l)
	}
	slices.SortFunc(logs, func(a, b remembered) int {
		return cmp.Or(strings.Compare(a.Origin, b.Origin), strings.Compare(a.Path, b.Path))
	})
	if v.json {
		return code, cli.WriteJSON(v.stdout, logs)
	}
	w := bufio.NewWriter(v.stdout)
	for _, l := range logs {
		if l.Error != "" {
			fmt.Fprintf(w, "DAMAGED  %s: %s; put the right file back\n", cli.Escape(l.Path), cli.Escape(l.Error))
			continue
		}
		fmt.Fprintf(w, "%12d  %-20s  %s\n", l.Size, cmp.Or(l.Time, "-"), cli.Escape(l.Origin))
	}
	fmt.Fprintf(w, "%d logs\n", len(logs))
	return code, w.Flush()
}
