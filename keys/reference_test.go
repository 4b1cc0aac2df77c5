package keys

import (
	"encoding/json"
	"strings"
	"testing"
)

const gcpKey = "projects/p-1/locations/europe-west1/keyRings/r/cryptoKeys/log"

var referenceRows = []struct {
	text string
	want Reference
	err  string // "" where it is read
}{
	{"file:/etc/tallystick/log.key", Reference{Scheme: "file", Path: "/etc/tallystick/log.key"}, ""},
	{"file:log.key", Reference{Scheme: "file", Path: "log.key"}, ""},
	{"file:a b?version=1#c", Reference{Scheme: "file", Path: "a b?version=1#c"}, ""},
	{"file:/schlüssel", Reference{Scheme: "file", Path: "/schlüssel"}, ""},
	{"vault:transit/log?version=3", Reference{Scheme: "vault", Path: "transit/log", Version: "3"}, ""},
	{"vault:team/a/transit/log-1.x_y?version=999999999", Reference{Scheme: "vault", Path: "team/a/transit/log-1.x_y", Version: "999999999"}, ""},
	{"vault:transit/tenant", Reference{Scheme: "vault", Path: "transit/tenant"}, ""},
	{"vault:secret/openai/prod#api_key", Reference{Scheme: "vault", Path: "secret/openai/prod", Field: "api_key"}, ""},
	{"vault:secret/openai?version=2#key", Reference{Scheme: "vault", Path: "secret/openai", Version: "2", Field: "key"}, ""},
	{"awskms:alias/log", Reference{Scheme: "awskms", Path: "alias/log"}, ""},
	{"awskms:arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab", Reference{Scheme: "awskms", Path: "arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"}, ""},
	{"gcpkms:" + gcpKey + "?version=1", Reference{Scheme: "gcpkms", Path: gcpKey, Version: "1"}, ""},
	{"gcpkms:" + gcpKey, Reference{Scheme: "gcpkms", Path: gcpKey}, ""},
	{"azurekms:ours.vault.azure.net/log?version=0123456789abcdef0123456789abcdef", Reference{Scheme: "azurekms", Path: "ours.vault.azure.net/log", Version: "0123456789abcdef0123456789abcdef"}, ""},

	{"", Reference{}, "begins with"},
	{"log.key", Reference{}, "begins with"},
	{"/etc/log.key", Reference{}, "begins with"},
	{canary, Reference{}, "not repeated"},
	{"hvs." + canary + ":x", Reference{}, "not repeated"},
	{"FILE:log.key", Reference{}, "begins with"},
	{" file:log.key", Reference{}, "begins with"},
	{"hashivault://log", Reference{}, "begins with"},
	{"file:", Reference{}, "names no file"},
	{"file:///etc/log.key", Reference{}, "with one slash"},
	{"file:a\nb", Reference{}, "control character"},
	{"file:a\x00", Reference{}, "control character"},
	{"file:\xff", Reference{}, "not UTF-8"},
	{"file:" + strings.Repeat("x", MaxReference), Reference{}, "over the limit"},
	{"vault:", Reference{}, "a segment that is empty"},
	{"vault:transit", Reference{}, "needs a mount and a name"},
	{"vault:/log", Reference{}, "a segment that is empty"},
	{"vault:transit/", Reference{}, "a segment that is empty"},
	{"vault:transit//log", Reference{}, "a segment that is empty"},
	{"vault://transit/log?version=1", Reference{}, "a segment that is empty"},
	{"vault:transit/../sys", Reference{}, `".."`},
	{"vault:transit/./log", Reference{}, `"."`},
	{"vault:transit/log%2e", Reference{}, "other characters"},
	{"vault:transit/a b", Reference{}, "other characters"},
	{"vault:transit/a\nb", Reference{}, "other characters"},
	{"vault:transit/ü", Reference{}, "other characters"},
	{"vault:transit/log?version=", Reference{}, "what follows the path"},
	{"vault:transit/log?", Reference{}, "what follows the path"},
	{"vault:transit/log?version=0", Reference{}, "decimal number"},
	{"vault:transit/log?version=01", Reference{}, "decimal number"},
	{"vault:transit/log?version=+1", Reference{}, "decimal number"},
	{"vault:transit/log?version=1e3", Reference{}, "decimal number"},
	{"vault:transit/log?version=latest", Reference{}, "decimal number"},
	{"vault:transit/log?version=1000000000", Reference{}, "decimal number"},
	{"vault:transit/log?version=1&x=2", Reference{}, "decimal number"},
	{"vault:transit/log?v=1", Reference{}, "what follows the path"},
	{"vault:transit/log?version=1?version=1", Reference{}, "decimal number"},
	{"vault:secret/openai#", Reference{}, "what follows the path"},
	{"vault:secret/openai#a#b", Reference{}, "a field"},
	{"vault:secret/openai#a/b", Reference{}, "a field"},
	{"vault:secret/openai#key?version=2", Reference{}, "a field"},
	{"awskms:", Reference{}, "a segment that is empty"},
	{"awskms:///alias/log", Reference{}, "a segment that is empty"},
	{"awskms:alias/log?version=1", Reference{}, "keys there have none"},
	{"awskms:alias/log#x", Reference{}, "a field"},
	{"gcpkms:projects/p/locations/l/keyRings/r/cryptoKeys/k/cryptoKeyVersions/1", Reference{}, "is not gcpkms:"},
	{"gcpkms:project/p/locations/l/keyRings/r/cryptoKeys/k?version=1", Reference{}, "is not gcpkms:"},
	{"gcpkms:" + gcpKey + "?version=x", Reference{}, "decimal number"},
	{"azurekms:ours/log", Reference{}, "is not azurekms:"},
	{"azurekms:ours.vault.azure.net/log/0123456789abcdef0123456789abcdef", Reference{}, "is not azurekms:"},
	{"azurekms:ours.vault.azure.net/log?version=0123456789ABCDEF0123456789abcdef", Reference{}, "hex digits"},
	{"azurekms:ours.vault.azure.net/log?version=1", Reference{}, "hex digits"},
}

func TestParseReference(t *testing.T) {
	for _, row := range referenceRows {
		r, err := ParseReference(row.text)
		switch {
		case row.err == "" && err != nil:
			t.Errorf("%q: %v", row.text, err)
		case row.err == "":
			if r != row.want || r.String() != row.text || r.IsZero() {
				t.Errorf("%q is read as %#v and written %q", row.text, r, r)
			}
			b, err := json.Marshal(map[string]Reference{"key": r})
			var back map[string]Reference
			if err == nil {
				err = json.Unmarshal(b, &back)
			}
			if err != nil || back["key"] != r {
				t.Errorf("%q is %v behind JSON, %v", row.text, back["key"], err)
			}
		case err == nil || !strings.Contains(err.Error(), row.err) || !r.IsZero():
			t.Errorf("%q: %v, error %v, want %q", row.text, r, err, row.err)
		default:
			wantNoTrace(t, err.Error())
		}
	}
	for _, r := range []Reference{{}, {Scheme: "vault"}, {Scheme: "file"}, {Scheme: "file", Path: "a", Version: "1"}, {Scheme: "awskms", Path: "a", Version: "1"}, {Scheme: "vault", Path: "a/b?version=1"}} {
		if b, err := r.MarshalText(); err == nil {
			t.Errorf("%#v is written %s", r, b)
		}
	}
	for path, want := range map[string][2]string{"transit/log": {"transit", "log"}, "a/b/log": {"a/b", "log"}, "log": {"", "log"}} {
		if mount, name := (Reference{Path: path}).Split(); mount != want[0] || name != want[1] {
			t.Errorf("%s: %s, %s", path, mount, name)
		}
	}
}

func FuzzParseReference(f *testing.F) {
	for _, row := range referenceRows {
		f.Add(row.text)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := ParseReference(s)
		if err != nil {
			if !r.IsZero() {
				t.Fatal("a reference besides an error")
			}
			if scheme, _, ok := strings.Cut(s, ":"); (!ok || !(Reference{Scheme: scheme}).known()) && err != errScheme {
				t.Fatal("an error that may repeat a secret")
			}
			return
		}
		if r.String() != s {
			t.Fatalf("%q is written %q", s, r)
		}
		if err := r.check(); err != nil {
			t.Fatal(err)
		}
		if r.Scheme != SchemeFile && strings.ContainsAny(s, " \n%\\\"'") {
			t.Fatalf("%q is read", s)
		}
	})
}
