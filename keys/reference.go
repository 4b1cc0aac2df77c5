package keys

import (
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// MaxReference is the longest reference that is read, in bytes.
const MaxReference = 4096

// The schemes of references, each the name of the place where the key lies.
const (
	SchemeFile  = "file"
	SchemeVault = "vault"
	SchemeAWS   = "awskms"
	SchemeGCP   = "gcpkms"
	SchemeAzure = "azurekms"
)

var errScheme = errors.New("keys: a reference begins with file:, vault:, awskms:, gcpkms: or azurekms:; what stands there is not repeated here")

// A Reference says where a key, or another secret, lies. It holds no secret and may be printed. There is one spelling of
// each, which is what [ParseReference] reads and String writes:
//
//	file:PATH                                   a file on this machine; PATH is all that follows
//	vault:MOUNT/NAME?version=N                  a key of a transit engine; MOUNT may have slashes, NAME has none
//	vault:MOUNT/PATH#FIELD                      a field of a KV v2 secret, for what is not a key; MOUNT has no slash.
//	                                            Without #FIELD, where the anchors of logs lie
//	awskms:KEY                                  a key's id or ARN, or alias/NAME; keys there have no versions
//	gcpkms:projects/P/locations/L/keyRings/R/cryptoKeys/K?version=N
//	azurekms:NAME.vault.azure.net/KEY?version=V V is 32 hex digits
//
// A version is what a signature is pinned to: [Pin] wants one wherever there are versions. For what only wraps other
// keys it may be left out.
//
// Outside of file:, the characters are letters, digits and "._~:@=+,-" in segments between single slashes, none of which is
// "." or "..".
type Reference struct {
	Scheme  string // one of the Scheme constants
	Path    string // what stands between the scheme and the version
	Version string // "" for none
	Field   string // "" for none
}

// ParseReference reads a reference. What does not begin with a known scheme is not repeated in the error: it may be the
// secret itself, put in the wrong place.
func ParseReference(s string) (Reference, error) {
	scheme, rest, ok := strings.Cut(s, ":")
	r := Reference{Scheme: scheme, Path: rest}
	if !ok || !r.known() {
		return Reference{}, errScheme
	}
	if len(s) > MaxReference {
		return Reference{}, fmt.Errorf("keys: a reference of %d bytes is over the limit of %d", len(s), MaxReference)
	}
	if scheme != SchemeFile {
		rest, field, hasField := strings.Cut(rest, "#")
		path, query, hasQuery := strings.Cut(rest, "?")
		version, isVersion := strings.CutPrefix(query, "version=")
		if hasField && field == "" || hasQuery && (!isVersion || version == "") {
			return Reference{}, fmt.Errorf("keys: %q: what follows the path is ?version=V, or #FIELD, or both in that order", s)
		}
		r.Path, r.Version, r.Field = path, version, field
	}
	if err := r.check(); err != nil {
		return Reference{}, err
	}
	return r, nil
}

// String returns the reference as ParseReference reads it.
func (r Reference) String() string {
	s := r.Scheme + ":" + r.Path
	if r.Version != "" {
		s += "?version=" + r.Version
	}
	if r.Field != "" {
		s += "#" + r.Field
	}
	return s
}

// MarshalText returns what String does, if it can be read back.
func (r Reference) MarshalText() ([]byte, error) {
	if err := r.check(); err != nil {
		return nil, err
	}
	return []byte(r.String()), nil
}

// UnmarshalText reads what [ParseReference] does.
func (r *Reference) UnmarshalText(b []byte) error {
	p, err := ParseReference(string(b))
	if err == nil {
		*r = p
	}
	return err
}

// IsZero reports whether r refers to nothing.
func (r Reference) IsZero() bool { return r == Reference{} }

// Split cuts the path at its last slash, as the mount of a transit engine and the name of a key in it are.
func (r Reference) Split() (mount, name string) {
	i := strings.LastIndexByte(r.Path, '/')
	return r.Path[:max(i, 0)], r.Path[i+1:]
}

func (r Reference) known() bool {
	switch r.Scheme {
	case SchemeFile, SchemeVault, SchemeAWS, SchemeGCP, SchemeAzure:
		return true
	}
	return false
}

// versioned says whether keys of the scheme have versions.
func (r Reference) versioned() bool { return r.Scheme != SchemeFile && r.Scheme != SchemeAWS }

func (r Reference) check() error {
	if !r.known() {
		return errScheme
	}
	bad := func(why string) error { return fmt.Errorf("keys: the reference %.200q %s", r.String(), why) }
	if r.Scheme == SchemeFile {
		switch {
		case r.Version != "" || r.Field != "":
			return bad("has a version or a field, and a file has none")
		case r.Path == "":
			return bad("names no file")
		case strings.HasPrefix(r.Path, "//"):
			return bad("is no URL: write file:/etc/key, with one slash")
		case !utf8.ValidString(r.Path) || strings.IndexFunc(r.Path, unicode.IsControl) >= 0:
			return bad("has a control character, or is not UTF-8")
		}
		return nil
	}
	segments := strings.Split(r.Path, "/")
	for _, s := range segments {
		if s == "." || s == ".." || !isSegment(s) {
			return bad(`has a segment that is empty, "." or "..", or has other characters than letters, digits and ._~:@=+,-`)
		}
	}
	if r.Version != "" && !r.versioned() {
		return bad("has a version, and keys there have none")
	}
	if r.Field != "" && (r.Scheme != SchemeVault || !isSegment(r.Field)) {
		return bad("has a field; only a secret of Vault has one, of letters, digits and ._~:@=+,-")
	}
	decimal := r.Version == "" || r.Version[0] != '0' && len(r.Version) <= 9 && strings.Trim(r.Version, "0123456789") == ""
	switch r.Scheme {
	case SchemeVault:
		if len(segments) < 2 {
			return bad("needs a mount and a name: vault:transit/NAME?version=N")
		}
		if !decimal {
			return bad("has a version that is not a decimal number from 1 to 999999999")
		}
	case SchemeGCP:
		want := []string{"projects", "locations", "keyRings", "cryptoKeys"}
		if len(segments) != 2*len(want) {
			return bad("is not gcpkms:projects/P/locations/L/keyRings/R/cryptoKeys/K?version=N")
		}
		for i, w := range want {
			if segments[2*i] != w {
				return bad("is not gcpkms:projects/P/locations/L/keyRings/R/cryptoKeys/K?version=N")
			}
		}
		if !decimal {
			return bad("has a version that is not a decimal number from 1 to 999999999")
		}
	case SchemeAzure:
		if len(segments) != 2 || !strings.Contains(segments[0], ".") {
			return bad("is not azurekms:NAME.vault.azure.net/KEY?version=V")
		}
		if r.Version != "" && (len(r.Version) != 32 || strings.Trim(r.Version, "0123456789abcdef") != "") {
			return bad("has a version that is not 32 hex digits in lower case")
		}
	}
	return nil
}

func isSegment(s string) bool {
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', strings.IndexByte("._~:@=+,-", c) >= 0:
		default:
			return false
		}
	}
	return s != ""
}
