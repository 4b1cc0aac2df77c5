package config

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
)

// KeysOf is what a configuration says of the log's keys.
type KeysOf struct {
	Key       string
	PublicKey string
	Also      []AlsoKey
	Former    []string
}

// Keys returns what the configuration says of the log's keys.
func (c *Config) Keys() KeysOf {
	return KeysOf{c.Key, c.PublicKey, c.AlsoKeys, c.FormerKeys}
}

// EditKeys returns the text of a configuration that says k of the log's keys, and everything else, comments included, as
// before. A file in which these keys are written in a way that is not understood is an error; edit it by hand then.
func EditKeys(text []byte, dir string, k KeysOf) ([]byte, error) {
	before, err := Parse(text, dir)
	if err != nil {
		return nil, err
	}
	also := ""
	for _, a := range k.Also {
		also += fmt.Sprintf("  - key: %s\n", a.Key)
		if a.PublicKey != "" {
			also += fmt.Sprintf("    public_key: %s\n", a.PublicKey)
		}
	}
	former := ""
	for _, f := range k.Former {
		former += fmt.Sprintf("  - %s\n", f)
	}
	out := text
	// From below upwards: what is new goes behind the line that is there for sure.
	for _, b := range []struct{ name, value string }{{"former_keys", former}, {"also_keys", also}} {
		block := ""
		if b.value != "" {
			block = b.name + ":\n" + b.value
		}
		out = setBlock(out, b.name, block)
	}
	public := ""
	if k.PublicKey != "" {
		public = "public_key: " + k.PublicKey + "\n"
	}
	out = setBlock(out, "public_key", public)
	out = setBlock(out, "key", "key: "+k.Key+"\n")
	after, err := Parse(out, dir)
	if err != nil {
		return nil, fmt.Errorf("the file's keys cannot be edited, for then it could not be read: %w", err)
	}
	got := after.Keys()
	after.Key, after.PublicKey, after.AlsoKeys, after.FormerKeys = before.Key, before.PublicKey, before.AlsoKeys, before.FormerKeys
	if !reflect.DeepEqual(got, k) || !reflect.DeepEqual(after, before) {
		return nil, errors.New("the file's keys are written in a way that is not understood here; edit it by hand")
	}
	return out, nil
}

// setBlock replaces a top-level key and what belongs to it, or puts it behind the key "key".
func setBlock(text []byte, name, block string) []byte {
	at := func(name string) []int {
		return regexp.MustCompile(`(?m)^` + name + `:.*\n((?:[ \t-].*\n|\n)*)`).FindIndex(text)
	}
	where := at(name)
	if where == nil {
		if block == "" {
			return text
		}
		if where = at("key"); where == nil {
			return text
		}
		where[0] = where[1]
	} else if rest := bytes.TrimRight(text[where[0]:where[1]], "\n"); len(rest) > 0 {
		where[1] = where[0] + len(rest) + 1 // empty lines behind it stay
	}
	return append(append(bytes.Clone(text[:where[0]]), block...), text[where[1]:]...)
}

// WriteFile replaces a file by another text, all of it or nothing.
func WriteFile(path string, text []byte) error {
	mode := os.FileMode(0o600)
	if st, err := os.Stat(path); err == nil {
		mode = st.Mode().Perm()
	}
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(text)
	err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// AddLogKey returns the text of a policy file with a line for another key of a log, behind that of one it has.
func AddLogKey(policy []byte, has, another string) ([]byte, error) {
	if bytes.Contains(policy, []byte(another)) {
		return policy, nil
	}
	var out []byte
	done := false
	for line := range strings.Lines(string(policy)) {
		out = append(out, line...)
		if items := strings.Fields(line); !done && len(items) >= 2 && items[0] == "log" && items[1] == has {
			items[1], done = another, true
			out = append(out, strings.Join(items, " ")+"\n"...)
		}
	}
	if !done {
		return nil, fmt.Errorf("the policy does not have the log's key %s", has)
	}
	return out, nil
}
