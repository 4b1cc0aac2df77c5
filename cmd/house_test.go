// Package cmd holds the commands, and the test that keeps the arrows of the house: which room may know which.
package cmd

import (
	"bufio"
	"bytes"
	"fmt"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/tallystick/tallystick"

// may says, for each room by its top-level name, which other rooms its packages may import. cmd sees all.
var may = map[string][]string{
	"tlog":    {},
	"gateway": {"tlog"},
	"keys":    {"tlog"},
	"witness": {"tlog"},
	"verify":  {"tlog"},
	"audit":   {"tlog", "verify"},
	"bench":   {"tlog", "gateway", "keys", "witness", "verify", "audit"}, // audit: how fast the index is that follows the log is promised, too
}

// homes says where a heavy dependency may be imported. Tests may import it anywhere in the named rooms too.
var homes = map[string][]string{
	"github.com/valyala/fasthttp":     {"gateway"},
	"github.com/cockroachdb/pebble":   {"tlog/local", "bench"}, // bench measures against it
	"github.com/hashicorp/vault":      {"keys/vault"},
	"github.com/sigstore/sigstore":    {"keys/kms"},
	"github.com/aws":                  {"keys/kms"}, // these four only with the tag kms_cloud
	"google.golang.org/api":           {"keys/kms"},
	"google.golang.org/grpc":          {"keys/kms"},
	"github.com/Azure":                {"keys/kms"},
	"github.com/goccy/go-yaml":        {"cmd/internal/config", "gateway/cel"},
	"cel.dev/cel-go":                  {"gateway/cel"},
	"github.com/klauspost/compress":   {"tlog/record"},
	"github.com/go-json-experiment":   {"gateway"},
	"github.com/transparency-dev":     {"tlog", "tlog/record", "tlog/local", "tlog/tlogtest"},
	"golang.org/x/mod":                {"tlog", "tlog/local", "tlog/tlogtest", "keys", "witness", "verify", "cmd"},
	"filippo.io/mldsa":                {"tlog"},
	"filippo.io/age":                  {"tlog/record/original"},
	"golang.org/x/text":               {"tlog/record/mask", "audit/search"},
	"github.com/ncruces/go-sqlite3":   {"audit/search"},
	"github.com/nyaruka/phonenumbers": {"tlog/record/mask"},
	"github.com/BurntSushi/toml":      {"tlog/record/mask"}, // the format of rules for secrets
	"golang.org/x/sys":                {"tlog/local", "tlog/latest", "keys/file", "keys/ring", "witness", "gateway", "cmd/tally"},
	"github.com/prometheus":           {"witness", "cmd"},
	"github.com/coreos/go-oidc":       {"gateway/oidc"},
	"github.com/go-jose/go-jose":      {"gateway/oidc"}, // what go-oidc reads keys with
	"golang.org/x/oauth2":             {"gateway/oidc"},
	"github.com/crewjam/saml":         {"gateway/saml"},
	"github.com/beevik/etree":         {"gateway/saml"}, // what it reads XML with; in its kit for tests
	"github.com/russellhaering":       {"gateway/saml"},
	"go.opentelemetry.io":             {"gateway/otel"},
	"github.com/rogpeppe/go-internal": {}, // testscript: tests only
}

// An imported is one import line of one file.
type imported struct {
	file string // slashed, relative to the root
	test bool
	path string
}

func (i imported) String() string { return i.file + " imports " + i.path }

// room is the directory of a file, relative to the root.
func (i imported) room() string { return path.Dir(i.file) }

// top is the first element of a path.
func top(p string) string { first, _, _ := strings.Cut(p, "/"); return first }

// imports reads the tree itself: what the go command would say is served from a cache that does not know this test reads it.
func imports(t *testing.T, root string) []imported {
	t.Helper()
	var all []imported
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(root, p)
		if d.IsDir() {
			if name := d.Name(); p != root && (strings.HasPrefix(name, ".") || name == "testdata" || name == "bin") {
				return filepath.SkipDir
			}
			if _, err := os.Stat(filepath.Join(p, "go.mod")); err == nil && p != root {
				return filepath.SkipDir // a module of its own
			}
			return nil
		}
		if !strings.HasSuffix(p, ".go") {
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), p, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		for _, im := range f.Imports {
			ip, err := strconv.Unquote(im.Path.Value)
			if err != nil {
				return err
			}
			all = append(all, imported{filepath.ToSlash(rel), strings.HasSuffix(p, "_test.go"), ip})
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// wrong says what is wrong with one import, or "".
func wrong(i imported) string {
	from := top(i.room())
	if to, ours := strings.CutPrefix(i.path, module+"/"); ours {
		if strings.Contains(i.path, "/internal/") && from != "cmd" {
			return "only cmd has internal rooms"
		}
		known, listed := may[from]
		switch {
		case from == "cmd":
		case !listed:
			return "no such room in the plan of the house"
		case top(to) == from:
			// Within a room: a child knows its root, never the reverse. Kits for tests are for tests.
			if i.room() == from && to != from && !i.test {
				return "a room's root does not know its children"
			}
			if strings.HasSuffix(to, "test") && !i.test && !strings.HasSuffix(i.room(), "test") {
				return "a kit for tests is for tests"
			}
		case !slices.Contains(known, top(to)):
			return fmt.Sprintf("%s may know %v", from, known)
		}
		return ""
	}
	for dep, rooms := range homes {
		if i.path != dep && !strings.HasPrefix(i.path, dep+"/") || i.test {
			continue
		}
		for _, r := range rooms {
			if i.room() == r || strings.HasPrefix(i.room(), r+"/") {
				return ""
			}
		}
		return fmt.Sprintf("its homes are %v", rooms)
	}
	if strings.Contains(i.path, ".") && !i.test && !slices.ContainsFunc(keysOf(homes), func(d string) bool { return i.path == d || strings.HasPrefix(i.path, d+"/") }) {
		return "a dependency without a home; name one in this test, or do without"
	}
	return ""
}

func keysOf(m map[string][]string) []string {
	var ks []string
	for k := range m {
		ks = append(ks, k)
	}
	return ks
}

func TestArrows(t *testing.T) {
	seen := make(map[string]bool)
	for _, i := range imports(t, "..") {
		seen[top(i.room())] = true
		if why := wrong(i); why != "" {
			t.Errorf("%s: %s", i, why)
		}
	}
	for _, room := range []string{"tlog", "gateway", "keys", "verify", "audit", "bench", "cmd"} {
		if !seen[room] {
			t.Errorf("no file of %s was read: this test sees nothing", room)
		}
	}
}

// The rules themselves: each of these must be refused, or allowed.
func TestArrowsNotice(t *testing.T) {
	for _, c := range []struct {
		i  imported
		ok bool
	}{
		{imported{"tlog/tlog.go", false, module + "/keys"}, false},
		{imported{"tlog/tlog.go", false, module + "/tlog/record"}, false},
		{imported{"tlog/record/entry.go", false, module + "/tlog"}, true},
		{imported{"gateway/serve.go", false, module + "/verify"}, false},
		{imported{"gateway/serve.go", false, module + "/keys/ring"}, false},
		{imported{"gateway/serve.go", false, "github.com/cockroachdb/pebble/v2"}, false},
		{imported{"verify/check.go", false, "github.com/valyala/fasthttp"}, false},
		{imported{"verify/check.go", false, module + "/audit"}, false},
		{imported{"audit/audit.go", false, module + "/verify"}, true},
		{imported{"audit/audit.go", false, module + "/gateway"}, false},
		{imported{"cmd/tally/main.go", false, module + "/cmd/internal/cli"}, true},
		{imported{"gateway/serve.go", false, module + "/cmd/internal/cli"}, false},
		{imported{"gateway/x_test.go", true, module + "/tlog/tlogtest"}, true},
		{imported{"gateway/x.go", false, module + "/tlog/tlogtest"}, true}, // another room's kit: kept by the closures below
		{imported{"util/x.go", false, module + "/tlog"}, false},
		{imported{"gateway/x.go", false, "example.com/new"}, false},
	} {
		if why := wrong(c.i); (why == "") != c.ok {
			t.Errorf("%s: %q", c.i, why)
		}
	}
}

// closures says which of our rooms, and which modules beside the standard library, may be linked into a command that
// others must be able to trust or audit.
var closures = map[string]struct{ rooms, modules []string }{
	"./tally-verify": {
		[]string{"tlog", "verify", "cmd"},
		[]string{"filippo.io/mldsa", "github.com/klauspost/compress", "github.com/transparency-dev/merkle", "golang.org/x/mod"},
	},
	"./tally-witness": {
		[]string{"tlog", "witness", "keys", "cmd"},
		[]string{
			"filippo.io/mldsa", "github.com/transparency-dev/merkle", "golang.org/x/mod", "golang.org/x/sys",
			// what the metrics are written with
			"github.com/prometheus", "github.com/beorn7/perks", "github.com/cespare/xxhash", "github.com/golang/protobuf",
			"github.com/matttproud/golang_protobuf_extensions", "google.golang.org/protobuf",
		},
	},
}

// TestClosures asks the go command what is linked. It is told the files' state by TestArrows having read the tree.
func TestClosures(t *testing.T) {
	for command, allowed := range closures {
		for _, pkg := range deps(t, command) {
			if rest, ours := strings.CutPrefix(pkg, module+"/"); ours {
				if !slices.Contains(allowed.rooms, top(rest)) || rest == "tlog/local" || path.Base(rest) == top(rest)+"test" {
					t.Errorf("%s links %s", command, pkg)
				}
				continue
			}
			if strings.Contains(top(pkg), ".") && !slices.ContainsFunc(allowed.modules, func(m string) bool { return pkg == m || strings.HasPrefix(pkg, m+"/") }) {
				t.Errorf("%s links %s", command, pkg)
			}
		}
	}
	for _, pkg := range deps(t, "./tally") {
		if strings.HasSuffix(pkg, "/tlogtest") {
			t.Errorf("tally links %s", pkg)
		}
	}
}

func deps(t *testing.T, command string) []string {
	t.Helper()
	out, err := exec.Command("go", "list", "-deps", command).Output()
	if err != nil {
		t.Fatalf("go list -deps %s: %v", command, err)
	}
	var pkgs []string
	for s := bufio.NewScanner(bytes.NewReader(out)); s.Scan(); {
		pkgs = append(pkgs, s.Text())
	}
	if len(pkgs) < 10 {
		t.Fatalf("go list names %d packages: this test sees nothing", len(pkgs))
	}
	return pkgs
}
