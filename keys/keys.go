// Package keys holds what every kind of key here shares: a key is used by reference, and
// a secret that was read does not find its way into anything that is printed.
//
// Where a key lies stands in the configuration; the key itself never does. A [Reference]
// names it, and the [Provider] for that place makes a [Signer] of it. [Credential] is a
// reference for what is sent to others (an upstream's API key, a token), and [Secret] is
// what comes of reading it. The children are named after the place that makes them
// necessary: file is a file on this machine, vault is HashiCorp Vault, kms is what sigstore
// signs with, PEM files and the clouds' key services, ring is the directory of data keys.
//
// What is always true: no error of this package and its children contains a byte of a
// key, and no way of printing a Secret shows it. Only Reveal does. A Signer is pinned to one
// public key, of one version, and hands out nothing that this key does not verify.
package keys

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"unicode"
	"unicode/utf8"
)

// ErrWrongKey is what a key-encryption key answers to a wrapped key it did not wrap, or
// not with this associated data. Give the right key; trying again will not help.
var ErrWrongKey = errors.New("keys: this key did not wrap that one")

// MaxCredential is the longest credential that is read, in bytes, without its newline.
const MaxCredential = 64 << 10

// redacted stands wherever a Secret would have been shown.
const redacted = "[redacted]"

// Secret is a value that must not be shown. Printed with any verb, logged, or marshalled,
// it is the word "[redacted]", also as an unexported field of something else. The zero
// Secret is empty. A Secret is immutable and safe for concurrent use.
type Secret struct {
	// A closure, because fmt reaches into unexported fields without asking for
	// methods: it follows a slice, and a pointer too when the verb does not fit.
	reveal func() []byte
}

// NewSecret returns a Secret that holds a copy of b.
func NewSecret(b []byte) Secret {
	b = bytes.Clone(b)
	return Secret{func() []byte { return b }}
}

// Reveal returns the secret bytes themselves, nil for the zero Secret. The caller must not
// change them, and answers for where they go.
func (s Secret) Reveal() []byte {
	if s.reveal == nil {
		return nil
	}
	return s.reveal()
}

// String returns "[redacted]".
func (s Secret) String() string { return redacted }

// GoString returns "[redacted]".
func (s Secret) GoString() string { return redacted }

// Format writes "[redacted]", whatever the verb.
func (s Secret) Format(f fmt.State, verb rune) { io.WriteString(f, redacted) }

// MarshalText returns "[redacted]". There is no UnmarshalText: a secret does not stand in
// a file, a reference to it does.
func (s Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// MarshalJSON returns the JSON string "[redacted]".
func (s Secret) MarshalJSON() ([]byte, error) { return []byte(`"` + redacted + `"`), nil }

// LogValue returns the value "[redacted]".
func (s Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

// Credential says where a secret is to be read: exactly one of its fields is set. It holds
// no secret and may be printed.
type Credential struct {
	// Env names an environment variable: capitals, digits and underscores, not
	// beginning with a digit. Anything else is refused without being repeated, since
	// it may be the secret itself, put in the wrong place.
	Env string `json:"env,omitempty" yaml:"env,omitempty"`

	// File is the path of a file that holds the secret and at most one newline after
	// it. Its mode is not judged: orchestrators mount such files readable.
	File string `json:"file,omitempty" yaml:"file,omitempty"`
}

// IsZero reports whether c refers to nothing.
func (c Credential) IsZero() bool { return c == Credential{} }

// Load reads the secret c refers to. lookup finds an environment variable, as os.LookupEnv
// does; it may be nil if c.Env is empty. One trailing newline is taken off. What is empty,
// longer than [MaxCredential], on more than one line, not UTF-8, or holds a control
// character is refused.
func (c Credential) Load(lookup func(name string) (string, bool)) (Secret, error) {
	switch {
	case c.Env != "" && c.File != "":
		return Secret{}, errors.New("keys: credential has both env and file: keep one")
	case c.Env != "":
		return c.fromEnv(lookup)
	case c.File != "":
		return c.fromFile()
	}
	return Secret{}, errors.New("keys: credential refers to nothing: set env to a variable's name, or file to a path")
}

func (c Credential) fromEnv(lookup func(string) (string, bool)) (Secret, error) {
	if !isEnvName(c.Env) {
		return Secret{}, errors.New("keys: env must be the name of a variable (capitals, digits and underscores), not its value; what stands there is not repeated here")
	}
	if lookup == nil {
		return Secret{}, fmt.Errorf("keys: environment variable %s: there is no environment to look in", c.Env)
	}
	v, ok := lookup(c.Env)
	if !ok {
		return Secret{}, fmt.Errorf("keys: environment variable %s is not set", c.Env)
	}
	s, err := ParseCredential([]byte(v))
	if err != nil {
		return Secret{}, fmt.Errorf("keys: environment variable %s %w", c.Env, err)
	}
	return s, nil
}

func (c Credential) fromFile() (Secret, error) {
	f, err := os.Open(c.File)
	if err != nil {
		return Secret{}, fmt.Errorf("keys: credential: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, MaxCredential+2))
	if err != nil {
		return Secret{}, fmt.Errorf("keys: credential: %w", err)
	}
	s, err := ParseCredential(b)
	if err != nil {
		return Secret{}, fmt.Errorf("keys: credential file %s %w", c.File, err)
	}
	return s, nil
}

// isEnvName reports whether s is a variable's name in the usual, narrow sense.
func isEnvName(s string) bool {
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c >= 'A' && c <= 'Z', c == '_':
		case c >= '0' && c <= '9' && i > 0:
		default:
			return false
		}
	}
	return s != ""
}

// ParseCredential makes a Secret of what was read of a credential, by the rules of
// Credential.Load. Its errors continue a sentence whose subject is the place b was read
// from, and tell positions, never content.
func ParseCredential(b []byte) (Secret, error) {
	b = bytes.TrimSuffix(b, []byte("\n"))
	switch {
	case len(b) == 0:
		return Secret{}, errors.New("is empty")
	case len(b) > MaxCredential:
		return Secret{}, fmt.Errorf("is longer than %d bytes", MaxCredential)
	case bytes.IndexByte(b, '\n') >= 0:
		return Secret{}, errors.New("has more than one line: keep the secret alone, with at most one newline after it")
	case !utf8.Valid(b):
		return Secret{}, errors.New("is not UTF-8 text")
	}
	if i := bytes.IndexFunc(b, unicode.IsControl); i >= 0 {
		return Secret{}, fmt.Errorf("has a control character at byte %d: was it saved with carriage returns or tabs?", i)
	}
	return NewSecret(b), nil
}
