package peers

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	fnote "github.com/transparency-dev/formats/note"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
	"golang.org/x/mod/sumdb/note"
	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/tlogtest"
	"github.com/tallystick/tallystick/witness"
)

// An outsider is a witness that runs: its name in policies, its verifier keys, and its prefixes.
type outsider struct {
	name       string
	keys       []string
	submission string
	monitoring string // "" for none

	mirrorKey, mirror string // of Sunlight: of the mirror, and its monitoring prefix
}

// litewitness starts filippo.io/torchwood/cmd/litewitness. Its logs are rows of its database, its key is in an SSH agent.
func litewitness(t testing.TB, vkeys ...string) outsider {
	t.Helper()
	dir, err := os.MkdirTemp("", "lw-") // short: a socket's name has a limit
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	keyring := agent.NewKeyring()
	if err := keyring.Add(agent.AddedKey{PrivateKey: &key}); err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("unix", filepath.Join(dir, "agent"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				agent.ServeAgent(keyring, conn)
				conn.Close()
			}()
		}
	}()
	pub, err := ssh.NewPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	addr, db := freePort(t), filepath.Join(dir, "witness.db")
	start(t, dir, "litewitness", "-name", "lite.example/w", "-key", ssh.FingerprintSHA256(pub), "-ssh-agent", ln.Addr().String(), "-db", db, "-listen", addr)
	await(t, "http://"+addr+"/")
	conn, err := sqlite.OpenConn(db)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for _, vkey := range vkeys {
		origin, _, _ := strings.Cut(vkey, "+")
		for _, q := range []struct {
			sql  string
			args []any
		}{
			{"INSERT INTO log(origin, tree_size, tree_hash) VALUES (?, 0, ?)", []any{origin, tlog.EmptyRoot().String()}},
			{"INSERT INTO key(origin, key) VALUES (?, ?)", []any{origin, vkey}},
		} {
			if err := sqlitex.Execute(conn, q.sql, &sqlitex.ExecOptions{Args: q.args}); err != nil {
				t.Fatal(err)
			}
		}
	}
	signer, err := tlog.NewCosigner("lite.example/w", key)
	if err != nil {
		t.Fatal(err)
	}
	return outsider{name: "lite", keys: []string{signer.VerifierKey()}, submission: "http://" + addr}
}

// sunlight starts filippo.io/sunlight/cmd/sunlight as a witness and a mirror, and cmd/skylight, which shows what it has to
// monitors. Their prefixes must be https, and are served by HTTP all the same, at the host of the prefix. Sunlight serves for as
// long as it has a certificate log to sequence, so it is given one, which nobody uses.
func sunlight(t testing.TB, vkeys ...string) outsider {
	t.Helper()
	dir := t.TempDir()
	mutable(t, dir)
	put := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	conn, err := sqlite.OpenConn(filepath.Join(dir, "checkpoints.db"))
	if err != nil {
		t.Fatal(err)
	}
	if err := sqlitex.Execute(conn, "CREATE TABLE checkpoints (logID BLOB PRIMARY KEY, body BLOB NOT NULL) STRICT", nil); err != nil {
		t.Fatal(err)
	}
	conn.Close()
	seed := make([]byte, 32)
	rand.Read(seed)
	put("seed", string(seed))
	list := put("logs", "logs/v0\nvkey "+strings.Join(vkeys, "\nvkey ")+"\n")
	submit, monitor := freePort(t), freePort(t)
	start(t, dir, "sunlight", "-c", put("sunlight.yaml", fmt.Sprintf(`listen: [%q]
checkpoints: checkpoints.db
witness:
  name: sunlight.example/w
  submissionprefix: https://127.0.0.1/
  monitoringprefix: https://127.0.0.1/
  secret: seed
  localdirectory: public
  loglists: [%q]
  mirrorname: sunlight.example/m
  mirrorloglists: [%q]
logs:
  - shortname: none
    inception: %q
    submissionprefix: https://ct.invalid/s
    monitoringprefix: https://ct.invalid/m
    roots: %q
    secret: seed
    cache: cache.db
    localdirectory: ct
    notafterstart: 2020-01-01T00:00:00Z
    notafterlimit: 2200-01-01T00:00:00Z
`, submit, list, list, time.Now().Format(time.DateOnly), put("roots.pem", root(t)))))
	await(t, "http://"+submit+"/health")
	var w, m struct {
		Keys []string `json:"verifier_keys"`
	}
	getJSON(t, "http://"+submit+"/witness.v0.json", &w)
	getJSON(t, "http://"+submit+"/mirror/mirror.v0.json", &m)
	if len(w.Keys) != 2 || len(m.Keys) != 1 {
		t.Fatalf("Sunlight has the keys %v and %v", w.Keys, m.Keys)
	}
	start(t, dir, "skylight", "-c", put("skylight.yaml", fmt.Sprintf("listen: [%q]\nwitnesses:\n  - monitoringprefix: https://127.0.0.1/\n    localdirectory: public\n", monitor)))
	await(t, "http://"+monitor+"/")
	return outsider{name: "sunlight", keys: w.Keys, submission: "http://" + submit, monitoring: "http://" + monitor,
		mirrorKey: m.Keys[0], mirror: "http://" + monitor + "/mirror"}
}

// root returns the certificate of an authority.
func root(t testing.TB) string {
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	cert := x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "root"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, &cert, &cert, pub, key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

func getJSON(t testing.TB, url string, into any) {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil {
		err = json.Unmarshal(body, into)
	}
	if err != nil {
		t.Fatalf("%s: %v\n%s", url, err, body)
	}
}

// omniwitness starts github.com/transparency-dev/witness/cmd/omniwitness, with keys of both kinds.
func omniwitness(t testing.TB, vkeys ...string) outsider {
	t.Helper()
	dir := t.TempDir()
	put := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	const name = "omni.example/w"
	ed, edVerifier, err := note.GenerateKey(rand.Reader, name)
	if err != nil {
		t.Fatal(err)
	}
	edVerifier, err = fnote.VKeyToCosignatureV1(edVerifier)
	if err != nil {
		t.Fatal(err)
	}
	mldsa, mldsaVerifier, err := fnote.GenerateMLDSAKey(name)
	if err != nil {
		t.Fatal(err)
	}
	logs := "Logs:\n"
	for _, vkey := range vkeys {
		origin, _, _ := strings.Cut(vkey, "+")
		logs += fmt.Sprintf("  - Origin: %s\n    URL: http://%s/\n    PublicKey: %s\n", origin, origin, vkey)
	}
	addr := freePort(t)
	start(t, dir, "omniwitness", "-listen", addr, "-metrics_listen", "", "-db_file", filepath.Join(dir, "witness.db"),
		"-private_key_path", put("ed25519", ed), "-private_key_path", put("mldsa", mldsa), "-additional_logs", put("logs.yaml", logs), "-logtostderr")
	await(t, "http://"+addr+"/")
	return outsider{name: "omni", keys: []string{edVerifier, mldsaVerifier}, submission: "http://" + addr}
}

// ours starts our own witness, with keys of both kinds.
func ours(t testing.TB, vkeys ...string) outsider {
	t.Helper()
	seed := sha256.Sum256([]byte("our witness"))
	ed, err := tlog.NewCosigner("ours.example/w", ed25519.NewKeyFromSeed(seed[:]))
	if err != nil {
		t.Fatal(err)
	}
	mldsa, err := tlog.NewMLDSACosigner("ours.example/w", seed[:])
	if err != nil {
		t.Fatal(err)
	}
	store, err := witness.OpenStore(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	list := ""
	for _, vkey := range vkeys {
		list += "log " + vkey + "\n"
	}
	logs, err := witness.ParseLogList([]byte(list + "quorum none\n"))
	if err != nil {
		t.Fatal(err)
	}
	w, err := witness.New(context.Background(), witness.Config{Keys: []*tlog.CosignatureSigner{ed, mldsa}, Logs: logs, State: store, Evidence: store,
		Limits: witness.Limits{Overall: -1, Log: -1}})
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(w.Handler())
	t.Cleanup(s.Close)
	return outsider{name: "ours", keys: w.VerifierKeys(), submission: s.URL, monitoring: s.URL}
}

// policyOf is a policy file in which each outsider counts once, by any of its keys, and so many of them are enough.
func policyOf(logKey string, enough string, all ...outsider) []byte {
	var b strings.Builder
	fmt.Fprintf(&b, "log %s\n", logKey)
	var groups []string
	for _, o := range all {
		var names []string
		for i, k := range o.keys {
			names = append(names, fmt.Sprintf("%s-%d", o.name, i))
			fmt.Fprintf(&b, "witness %s-%d %s %s\n", o.name, i, k, o.submission)
		}
		fmt.Fprintf(&b, "group %s any %s\n", o.name, strings.Join(names, " "))
		groups = append(groups, o.name)
	}
	fmt.Fprintf(&b, "group q %s %s\nquorum q\n", enough, strings.Join(groups, " "))
	return []byte(b.String())
}

// monitoring is where the witnesses of a policy of policyOf show what they have.
func monitoring(all ...outsider) map[string]string {
	m := make(map[string]string)
	for _, o := range all {
		if o.monitoring != "" {
			m[o.name+"-0"] = o.monitoring
		}
	}
	return m
}

// grow appends entries to a memory log and returns its checkpoint.
func grow(t testing.TB, l *tlogtest.Log, n int, words string) []byte {
	t.Helper()
	var leaves []tlog.Leaf
	for i := range n {
		leaves = append(leaves, tlog.Leaf{Entry: fmt.Appendf(nil, "entry %d %s", l.Size()+uint64(i), words)})
	}
	if n > 0 {
		if _, err := l.Append(t.Context(), leaves...); err != nil {
			t.Fatal(err)
		}
	}
	signed, err := l.Publish()
	if err != nil {
		t.Fatal(err)
	}
	return signed
}

// prover proves a checkpoint of a log to continue earlier ones.
func prover(t testing.TB, r tlog.Reader, signed []byte) func(context.Context, uint64) (tlog.Proof, error) {
	t.Helper()
	c, err := tlog.UnverifiedCheckpoint(signed)
	if err != nil {
		t.Fatal(err)
	}
	return tlog.Tiles{Reader: r, Size: c.Size}.Consistency
}
