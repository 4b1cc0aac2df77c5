package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/verify"
)

// kept reads the checkpoints that --checkpoint names: files, and all files of directories but those whose names begin with a
// dot. One that is no checkpoint at all is an error: who hands over evidence wants all of it used.
func (v *invocation) kept() ([]verify.Kept, error) {
	var files []string
	for _, name := range v.checkpoints {
		st, err := os.Stat(name)
		if err != nil && name != "-" {
			return nil, err
		}
		if name == "-" || !st.IsDir() {
			files = append(files, name)
			continue
		}
		list, err := os.ReadDir(name)
		if err != nil {
			return nil, err
		}
		for _, f := range list {
			if !strings.HasPrefix(f.Name(), ".") {
				files = append(files, filepath.Join(name, f.Name()))
			}
		}
	}
	kept := make([]verify.Kept, len(files))
	for i, name := range files {
		signed, err := v.read(name, tlog.MaxCheckpoint)
		if err != nil {
			return nil, err
		}
		if _, err := tlog.UnverifiedCheckpoint(signed); err != nil {
			return nil, fmt.Errorf("%s is not a signed checkpoint: %w", name, err)
		}
		kept[i] = verify.Kept{Name: name, Signed: signed}
	}
	return kept, nil
}
