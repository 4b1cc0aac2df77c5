package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tallystick/tallystick/gateway/gatewaytest"
	"github.com/tallystick/tallystick/keys/file"
	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/record"
	"github.com/tallystick/tallystick/witness"
)

// An apartment is a gateway and a log in two processes, a witness in the test's, and a fake model.
type apartment struct {
	*place
	dir      string
	log, gw  *running
	cosigned *witness.Witness
	model    *gatewaytest.Model
}

// A running is one of the two processes.
type running struct {
	a      *apartment
	config string
	cmd    *exec.Cmd
	out    *lockedBuffer
	gone   chan struct{} // closed when the process has ended, and end is set
	end    error
}

// newApartment writes two configurations. With tls the gateway shows a client certificate, otherwise a token.
func newApartment(t *testing.T, tls bool) *apartment {
	t.Helper()
	a := &apartment{place: newPlace(t)}
	a.dir = filepath.Dir(a.data)
	run := func(args ...string) string {
		t.Helper()
		stdout, stderr, code := a.tally(args...)
		if code != 0 {
			t.Fatalf("tally %v: exit %d: %s", args, code, stderr)
		}
		return stdout
	}
	const origin = "log.example/apart"
	vkey := regexp.MustCompile(regexp.QuoteMeta(origin) + `\+\S+`).FindString(run("keys", "new-log", origin, "log.key"))
	run("keys", "new-kek", "kek.key")
	caller := run("keys", "new", "alice")
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(a.dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("model.key", "sk-model\n")
	const token = "gw-token-that-is-long-enough-to-be-one"
	sum := sha256.Sum256([]byte(token))
	write("log.token", token+"\n")
	scheme, serve, access, client := "http", "", "token: {file: log.token}", "tokens: ["+hex.EncodeToString(sum[:])+"]"
	if tls {
		scheme, serve, access = "https", "\n  tls: {cert: server.crt, key: server.key}\n  roots: ca.crt", "roots: ca.crt\n  tls: {cert: client.crt, key: client.key}"
		client = "keys: [" + certificates(t, a.dir) + "]"
	}

	a.model = gatewaytest.New(gatewaytest.Config{Key: "sk-model", Keep: 100_000})
	model := a.background("the model", a.model.Run)
	outside := a.witness(vkey, origin)
	policy := fmt.Sprintf("log %s\n%squorum w\n", vkey, outside)
	write("policy", policy)
	appends, reads, desk, calls := freePort(t), freePort(t), freePort(t), freePort(t)
	write("log.yaml", fmt.Sprintf(`log: local:data/log
origin: %s
key: log.key
anchor: dir:%s/anchor
policy: policy
witnesses: {interval: 100ms}
listen: %s
serve_log:
  listen: %s%s
  clients:
    - name: the gateway
      %s
      writers: [gw-1, gw-1.desk]
      payloads: true
`, origin, a.state, reads, appends, serve, client))
	write("gw.yaml", fmt.Sprintf(`log: %s://%s
origin: %s
log_access:
  %s
data_keys: {dir: gwdata/ring, kek: kek.key}
listen: %s
gateway:
  id: gw-1
  listen: %s
  journal: gwdata/journal
  callers:
    - name: alice
      sha256: %s
  routes:
    - name: openai
      api: openai
      upstream: http://%s
      credential: {file: model.key}
`, scheme, appends, origin, access, desk, calls, regexp.MustCompile(`[0-9a-f]{64}`).FindString(caller), model))
	if err := os.MkdirAll(filepath.Join(a.dir, "gwdata"), 0o700); err != nil {
		t.Fatal(err)
	}
	a.vars = map[string]string{
		"GATEWAY_URL": "http://" + calls, "LOG_URL": "http://" + reads, "DESK_URL": "http://" + desk,
		"API_KEY": regexp.MustCompile(`tk-\S+`).FindString(caller), "POLICY": filepath.Join(a.dir, "policy"),
	}
	a.log, a.gw = &running{a: a, config: "log.yaml"}, &running{a: a, config: "gw.yaml"}
	return a
}

// background runs something on a port of its own until the test ends, and returns its address.
func (a *apartment) background(what string, run func(context.Context, net.Listener) error) string {
	a.t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		a.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- run(ctx, ln) }()
	a.t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			a.t.Errorf("%s: %v", what, err)
		}
	})
	return ln.Addr().String()
}

// witness runs a witness of the log, and returns its line of a policy.
func (a *apartment) witness(vkey, origin string) string {
	a.t.Helper()
	key, err := file.CreateCosigner(filepath.Join(a.dir, "witness.key"), "witness.example/w", file.Ed25519Cosigner)
	if err != nil {
		a.t.Fatal(err)
	}
	list, err := witness.ParseLogList([]byte("log " + vkey + "\nquorum none\n"))
	if err != nil {
		a.t.Fatal(err)
	}
	store, err := witness.OpenStore(filepath.Join(a.state, "witness"))
	if err != nil {
		a.t.Fatal(err)
	}
	a.t.Cleanup(func() { store.Close() })
	a.cosigned, err = witness.New(context.Background(), witness.Config{Keys: []*tlog.CosignatureSigner{key}, Logs: list, State: store, Evidence: store, Limits: witness.Limits{Log: -1}})
	if err != nil {
		a.t.Fatal(err)
	}
	addr := a.background("the witness", func(ctx context.Context, ln net.Listener) error {
		srv := &http.Server{Handler: a.cosigned.Handler()}
		defer context.AfterFunc(ctx, func() { srv.Close() })()
		if err := srv.Serve(ln); err != http.ErrServerClosed {
			return err
		}
		return nil
	})
	return fmt.Sprintf("witness w %s http://%s\n", key.VerifierKey(), addr)
}

// freePort returns an address that was free: processes that are killed come back to it.
func freePort(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

// certificates makes an authority, a server's certificate and a client's, and returns the digest of the client's key.
func certificates(t *testing.T, dir string) (digest string) {
	t.Helper()
	put := func(name, kind string, der []byte) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	newKey := func() *ecdsa.PrivateKey {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	template := func(n int64, name string) *x509.Certificate {
		return &x509.Certificate{
			SerialNumber: big.NewInt(n), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
			KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		}
	}
	ca, caKey := template(1, "authority"), newKey()
	ca.IsCA, ca.BasicConstraintsValid, ca.KeyUsage = true, true, x509.KeyUsageCertSign
	der, err := x509.CreateCertificate(rand.Reader, ca, ca, caKey.Public(), caKey)
	if err != nil {
		t.Fatal(err)
	}
	put("ca.crt", "CERTIFICATE", der)
	for i, name := range []string{"server", "client"} {
		key := newKey()
		c := template(int64(i+2), name)
		c.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)}
		der, err := x509.CreateCertificate(rand.Reader, c, ca, key.Public(), caKey)
		if err != nil {
			t.Fatal(err)
		}
		pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		put(name+".crt", "CERTIFICATE", der)
		put(name+".key", "PRIVATE KEY", pkcs8)
		spki, err := x509.MarshalPKIXPublicKey(key.Public())
		if err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256(spki)
		digest = hex.EncodeToString(sum[:]) // the client's comes last
	}
	return digest
}

func (r *running) start() {
	r.a.t.Helper()
	r.cmd = r.a.command("serve", "--config", r.config)
	r.out = &lockedBuffer{}
	r.cmd.Stdout, r.cmd.Stderr = r.out, r.out
	if err := r.cmd.Start(); err != nil {
		r.a.t.Fatal(err)
	}
	cmd, gone := r.cmd, make(chan struct{})
	r.gone = gone
	go func() {
		r.end = cmd.Wait()
		close(gone)
	}()
	r.a.t.Cleanup(r.kill)
}

func (r *running) kill() {
	r.cmd.Process.Kill()
	<-r.gone
}

// stop ends the process in order.
func (r *running) stop() {
	r.a.t.Helper()
	r.cmd.Process.Signal(os.Interrupt)
	if <-r.gone; r.end != nil {
		r.a.t.Fatalf("%s ended with %v\n%s", r.config, r.end, r.out)
	}
}

// ended says whether the process has ended by itself.
func (r *running) ended() bool {
	select {
	case <-r.gone:
		return true
	default:
		return false
	}
}

// answers waits until a call passes.
func (a *apartment) answers() {
	a.t.Helper()
	deadline := time.Now().Add(60 * time.Second)
	for {
		_, _, err := a.chat(http.DefaultClient, "are you there", false)
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			a.t.Fatalf("no call passes: %v\nthe log said:\n%s\nthe gateway said:\n%s", err, a.log.out, a.gw.out)
		}
		time.Sleep(20 * time.Millisecond) // other processes come up
	}
}

// settled waits until no session is open, and returns how they ended.
func (a *apartment) settled() map[string]record.Outcome {
	a.t.Helper()
	deadline := time.Now().Add(60 * time.Second)
	for {
		outcomes, open := a.outcomes(), 0
		for _, o := range outcomes {
			if o == "" {
				open++
			}
		}
		if open == 0 {
			return outcomes
		}
		if time.Now().After(deadline) {
			stories := map[string]string{}
			a.entries(func(e record.Entry) {
				if s := e.Session.String(); !e.Session.IsZero() {
					stories[s] += fmt.Sprintf(" %s:%s%s", e.Kind, e.Reason, e.Outcome)
				}
			})
			for s, o := range outcomes {
				if o == "" {
					a.t.Logf("open: %s%s", s, stories[s])
				}
			}
			a.t.Fatalf("%d sessions are still open\n%s", open, a.gw.out)
		}
		time.Sleep(50 * time.Millisecond) // another process closes them
	}
}

// TestApart runs the gateway and the log as two processes that know each other by certificates: a call passes, is recorded,
// cosigned, exported and verified.
func TestApart(t *testing.T) {
	a := newApartment(t, true)
	a.log.start()
	a.gw.start()
	a.answers()
	session, answer, err := a.chat(http.DefaultClient, "hello", true)
	if err != nil || !strings.Contains(answer, "[DONE]") {
		t.Fatalf("%v: %s", err, answer)
	}
	bundle := filepath.Join(a.dir, "session.bundle")
	if _, errs, code := a.tally("export", session, "--log", a.vars["DESK_URL"], "--token-file", "gwdata/operator.token", "-o", bundle); code != 0 {
		t.Fatalf("export: %s", errs)
	}
	if out, errs, code := a.verify("bundle", bundle, "--policy", a.vars["POLICY"]); code != 0 {
		t.Errorf("bundle: exit %d\n%s%s", code, out, errs)
	}
	receipt := filepath.Join(a.dir, "session.receipt")
	req, err := a.request(t.Context(), "/.tallystick/receipts/"+session, "")
	if err != nil {
		t.Fatal(err)
	}
	req.Method = http.MethodGet
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("receipt: %s, %v: %s", resp.Status, err, raw)
	}
	if err := os.WriteFile(receipt, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, errs, code := a.verify("receipt", receipt, "--policy", a.vars["POLICY"], "--url", a.vars["LOG_URL"]); code != 0 || !strings.Contains(out, "entry-in-tree") {
		t.Errorf("receipt: exit %d\n%s%s", code, out, errs)
	}
	for _, url := range []string{a.vars["LOG_URL"], a.vars["DESK_URL"]} {
		if out, errs, code := a.verify("log", "--url", url, "--policy", a.vars["POLICY"]); code != 0 {
			t.Errorf("log at %s: exit %d\n%s%s", url, code, out, errs)
		}
	}
	a.gw.stop()
	a.log.stop()

	// A gateway that shows something else is not let in, and says so.
	gw, err := os.ReadFile(filepath.Join(a.dir, "gw.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	other := strings.Replace(string(gw), "tls: {cert: client.crt, key: client.key}", "token: {file: log.token}", 1)
	if err := os.WriteFile(filepath.Join(a.dir, "gw.yaml"), []byte(other), 0o600); err != nil {
		t.Fatal(err)
	}
	a.log.start()
	a.gw.start()
	await(t, "the gateway to say that it is not known", func() bool { return strings.Contains(a.gw.out.String(), "401") || a.gw.ended() })
	if _, _, err := a.chat(http.DefaultClient, "hello", false); err == nil {
		t.Error("a call passes that nobody can have recorded")
	}
	if strings.Contains(a.gw.out.String(), "gw-token-that") || strings.Contains(a.log.out.String(), "gw-token-that") {
		t.Error("the token is said aloud")
	}
}

// TestKilledApart kills the gateway, the log, or both, again and again under load. Whatever is left goes on, and waits or
// refuses; nothing acknowledged is lost, nothing is there twice, and what was open ends as interrupted.
func TestKilledApart(t *testing.T) {
	kills := 6
	if s := os.Getenv("CRASHES"); s != "" {
		var err error
		if kills, err = strconv.Atoi(s); err != nil {
			t.Fatalf("CRASHES: %v", err)
		}
	}
	seed := uint64(time.Now().UnixNano())
	rnd := mathrand.New(mathrand.NewPCG(seed, 0))
	t.Logf("%d kills, seed %d", kills, seed)
	a := newApartment(t, false)
	l := &ledger{whole: make(map[string]bool), begun: make(map[string]bool), kill: func() {}}
	a.log.start()
	a.gw.start()
	killed := map[string]int{}
	for range kills {
		a.answers()
		stop := make(chan struct{})
		var callers sync.WaitGroup
		for n := range 10 {
			callers.Go(func() {
				for again := true; again; {
					l.call(a.place, n, stop)
					select {
					case <-stop:
						again = false
					case <-time.After(20 * time.Millisecond): // nobody answered
					}
				}
			})
		}
		time.Sleep(time.Duration(20+rnd.IntN(500)) * time.Millisecond)
		victims := [][]*running{{a.log}, {a.gw}, {a.log, a.gw}}[rnd.IntN(3)]
		for _, v := range victims {
			v.kill()
			killed[v.config]++
		}
		time.Sleep(time.Duration(rnd.IntN(300)) * time.Millisecond)
		for _, v := range victims {
			v.start()
		}
		// What was not killed may have ended by itself, for a supervisor to start again; and may not have ended otherwise.
		for _, r := range []*running{a.log, a.gw} {
			if r.ended() {
				killed[r.config+" by itself"]++
				r.start()
			}
		}
		if rnd.IntN(2) == 0 {
			a.answers() // the callers go on over it
		}
		close(stop)
		callers.Wait()
	}
	a.answers()
	outcomes := a.settled()
	for s := range l.whole {
		if o := outcomes[s]; o != record.Complete {
			t.Errorf("the session %s was answered whole and is on record as %q", s, o)
		}
	}
	interrupted := 0
	for _, o := range outcomes {
		if o == record.Interrupted {
			interrupted++
		}
	}
	out, errs, code := a.verify("log", "--url", a.vars["LOG_URL"], "--policy", a.vars["POLICY"])
	if code != 0 {
		t.Errorf("tally-verify log: exit %d\n%s%s", code, out, errs)
	}
	a.gw.stop()
	a.log.stop()
	t.Logf("killed: %v; %d sessions answered whole, %d begun, %d on record, %d interrupted", killed, len(l.whole), len(l.begun), len(outcomes), interrupted)
	if len(l.whole) == 0 {
		t.Error("nothing was answered: this run has shown nothing")
	}
}
