package main

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/tallystick/tallystick/cmd/internal/assemble"
	"github.com/tallystick/tallystick/cmd/internal/config"
	"github.com/tallystick/tallystick/gateway"
	"github.com/tallystick/tallystick/gateway/gatewaytest"
	"github.com/tallystick/tallystick/keys/file"
)

const (
	configFile = "tally.yaml"
	policyFile = "policy"
	demoEnv    = "demo.env"
	apiKeyFile = "api.key"
	// Who says yes to calls that need it, and the rules that say which do.
	approverFile = "approver.key"
	rulesFile    = "rules.yaml"
	// askedModel is the model that the rules ask about.
	askedModel = "fake-risky"
	// consoleAddress is the console's where nobody says another.
	consoleAddress = "127.0.0.1:8082"
)

func (t *tally) demo(ctx context.Context, args []string) error {
	fs := t.flags("demo [--data DIR]", `Runs the gateway, the log, the console, a witness and a fake model in this process, with everything in one
directory but the anchor and the witness's memory, which belong elsewhere: they remember the
newest checkpoint when the directory is lost or put back to an older copy. A few calls are made,
and what to try is shown.

With OPENAI_API_KEY set (and OPENAI_BASE_URL, if it is not OpenAI's) the gateway stands before
that model instead of the fake one, and no call is made.

The console has no log-in here: it lets in anybody on this machine, and nobody else.

With --vault the log's key, the key that wraps data keys, and the anchor are in the Vault that
VAULT_ADDR and VAULT_TOKEN name, in its engines transit/ and secret/ (KV v2).
`)
	data := fs.String("data", defaultData, "the `directory` for everything")
	calls := fs.String("gateway", "127.0.0.1:8080", "the gateway's `address`; port 0 takes a free one")
	reads := fs.String("log", "127.0.0.1:8081", "the log's `address`; port 0 takes a free one")
	console := fs.String("console", consoleAddress, "the console's `address` on this machine; port 0 takes a free one, as does the usual one if it is in use")
	ops := fs.String("ops", "", "where metrics and readiness are told, an `address` on this machine; port 0 takes a free one")
	noSamples := fs.Bool("no-samples", false, "make no calls")
	inVault := fs.Bool("vault", false, "keep keys and anchor in Vault")
	if _, err := parse(fs, args, 0, 0); err != nil {
		return err
	}
	dir, err := filepath.Abs(*data)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("--data: %w", err)
	}
	// What the last run left says where nothing answers any more.
	os.Remove(filepath.Join(dir, demoEnv))
	d := &demonstration{tally: t, dir: dir, samples: !*noSamples, inVault: *inVault, console: *console, ops: *ops, others: make(map[string]string)}
	if err := d.settle(ctx, *calls, *reads); err != nil {
		return err
	}
	return d.run(ctx)
}

// A demonstration is the demo's own part of the world: its files, its fake model, its calls.
type demonstration struct {
	*tally
	dir     string
	samples bool
	inVault bool
	real    string // the base URL of a real model; "" for the fake one
	apiKey  string
	yesKey  string            // of who says yes
	others  map[string]string // keys of the sample calls' other callers, which live as long as the process
	console string            // where it is to listen
	ops     string            // where metrics are told; "" for nowhere
	model   net.Listener      // the fake model's
	witness *onlooker
	logKey  string // the log's verifier key
	c       *config.Config
}

// settle makes, on the first run, the keys and the configuration, and reads them on every run.
func (d *demonstration) settle(ctx context.Context, calls, reads string) error {
	path := filepath.Join(d.dir, configFile)
	origin, err := d.origin()
	if err != nil {
		return err
	}
	kept, err := d.keep(ctx, origin)
	if err != nil {
		return err
	}
	for name, create := range map[string]func(string) error{
		apiKeyFile: func(p string) error {
			return os.WriteFile(p, []byte("tk-"+assemble.NewSecret()+"\n"), 0o600)
		},
		approverFile: func(p string) error {
			return os.WriteFile(p, []byte("tk-"+assemble.NewSecret()+"\n"), 0o600)
		},
		rulesFile: func(p string) error { return os.WriteFile(p, []byte(demoRules), 0o600) },
		"model.key": func(p string) error {
			return os.WriteFile(p, []byte("sk-fake-"+assemble.NewSecret()+"\n"), 0o600)
		},
	} {
		if err := once(filepath.Join(d.dir, name), create); err != nil {
			return err
		}
	}
	for name, key := range map[string]*string{apiKeyFile: &d.apiKey, approverFile: &d.yesKey} {
		b, err := os.ReadFile(filepath.Join(d.dir, name))
		if err != nil {
			return err
		}
		*key = strings.TrimSpace(string(b))
	}
	if d.model, err = listen("the fake model", "127.0.0.1:0"); err != nil {
		return err
	}
	if d.witness, err = onlook(d.elsewhere("witness", origin), "witness."+origin); err != nil {
		return err
	}
	upstream, credential := "http://"+d.model.Addr().String(), "file: model.key"
	if key, ok := d.lookup("OPENAI_API_KEY"); ok && key != "" {
		d.real = "https://api.openai.com"
		if base, ok := d.lookup("OPENAI_BASE_URL"); ok && base != "" {
			d.real = base
		}
		credential = "env: OPENAI_API_KEY"
	}
	openai := upstream
	if d.real != "" {
		// The SDKs' base URL ends in /v1; the gateway's upstream is what goes before it.
		openai = strings.TrimSuffix(strings.TrimSuffix(d.real, "/"), "/v1")
	}
	var callers strings.Builder
	for _, name := range []string{supportCaller, researchCaller} {
		d.others[name] = "tk-" + assemble.NewSecret()
		fmt.Fprintf(&callers, "    - name: %s\n      sha256: %x\n", name, sha256.Sum256([]byte(d.others[name])))
	}
	sum, yes := sha256.Sum256([]byte(d.apiKey)), sha256.Sum256([]byte(d.yesKey))
	text := fmt.Sprintf(`# Written anew at every start of the demo, as an example of what "tally serve" takes.
log: local:log
origin: %s
%spolicy: %s
witnesses:
  interval: 200ms
listen: %q
gateway:
  id: demo
  listen: %q
  journal: journal
  policy: %s
  approvals: {groups: [approvers], hold: 2m}
  masking: {}
  callers:
    - name: demo
      sha256: %s
    - name: approver
      sha256: %s
      groups: [approvers]
%s  routes:
    - name: openai
      api: openai
      upstream: %q
      forward: [Fake-Model]
      credential:
        %s
    - name: anthropic
      api: anthropic
      upstream: %q
      credential:
        file: model.key
`, origin, kept, policyFile, reads, calls, rulesFile, hex.EncodeToString(sum[:]), hex.EncodeToString(yes[:]), callers.String(), openai, credential, upstream)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		return err
	}
	if d.c, err = config.Load(path); err != nil {
		return err
	}
	if d.inVault {
		d.logKey = d.c.PublicKey
	}
	return nil
}

// demoRules is the policy that the demo begins with.
const demoRules = `# Which calls pass, and which must wait for somebody's yes. Change it while the demo runs; "tally policy check" reads it
# as the gateway does, and gateway/cel/POLICY.md tells how rules are written.
otherwise: allow

rules:
  - name: risky-model
    when: has(request.model) && request.model == '` + askedModel + `'
    then: ask
    message: calls of this model need another person's yes

  - name: refunds
    when: caller.name == '` + supportCaller + `' && 'refund' in request.tools
    then: ask
    approval: {groups: [leads]}
    message: a lead looks before a model can give money back

  - name: no-cards-in-research
    when: caller.name == '` + researchCaller + `' && findings.has('CARD')
    then: refuse
    message: card numbers are not for research
`

// once makes a file that is not there yet.
func once(path string, create func(string) error) error {
	if _, err := os.Stat(path); err == nil {
		return nil
	}
	return create(path)
}

// keep makes the log's keys, or finds them, and returns what the configuration says of them and of the anchor.
func (d *demonstration) keep(ctx context.Context, origin string) (string, error) {
	key, kek, there := filepath.Join(d.dir, "log.key"), filepath.Join(d.dir, "kek.key"), filepath.Join(d.dir, vaultFile)
	has := func(path string) bool { _, err := os.Stat(path); return err == nil }
	switch {
	case d.inVault && has(key):
		return "", fmt.Errorf("%s was begun with its keys in files: name another directory with --data, or leave --vault out", d.dir)
	case d.inVault:
		return d.keepInVault(ctx, origin, there)
	case has(there):
		return "", fmt.Errorf("%s was begun with its keys in Vault: start it with --vault, or name another directory with --data", d.dir)
	}
	if err := once(key, func(p string) error { _, err := file.Create(p, origin); return err }); err != nil {
		return "", err
	}
	if err := once(kek, func(p string) error { _, err := file.CreateKEK(p); return err }); err != nil {
		return "", err
	}
	signer, err := file.Load(key, origin)
	if err != nil {
		return "", err
	}
	d.logKey = signer.VerifierKey()
	return fmt.Sprintf("key: log.key\nanchor: dir:%s\ndata_keys: {dir: ring, kek: kek.key}\n", d.elsewhere("anchor", origin)), nil
}

// origin returns the log's name. It is made once for a directory and never again: the anchor knows the log by it.
func (d *demonstration) origin() (string, error) {
	path := filepath.Join(d.dir, "origin")
	b, err := os.ReadFile(path)
	if err == nil {
		return strings.TrimSpace(string(b)), nil
	}
	var id [5]byte
	rand.Read(id[:])
	origin := "demo.tallystick.example/" + hex.EncodeToString(id[:])
	return origin, os.WriteFile(path, []byte(origin+"\n"), 0o600)
}

// elsewhere returns where something lies that is to outlive the log: outside the data directory where there is such a place.
func (d *demonstration) elsewhere(what, origin string) string {
	if state := d.state(); state != "" {
		return filepath.Join(state, what, filepath.Base(origin))
	}
	return filepath.Join(d.dir, what)
}

func (d *demonstration) run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	log, err := os.OpenFile(filepath.Join(d.dir, "demo.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	logger := slog.New(slog.NewTextHandler(log, nil))
	at, err := d.ports()
	if err != nil {
		return err
	}
	calls, reads := at.Calls, at.Reads
	// The policy names the address of the log, so it is written when there is one.
	policy := filepath.Join(d.dir, policyFile)
	if err := os.WriteFile(policy, d.witness.policy(d.logKey, d.url(reads)), 0o600); err != nil {
		return err
	}
	env := d.env(logger)
	console := ""
	if at.Console != nil {
		console = d.url(at.Console)
		_, port, _ := net.SplitHostPort(at.Console.Addr().String())
		d.c.Console = &config.Console{Listen: at.Console.Addr().String(), Public: console, Hosts: []string{"localhost:" + port}}
		env.Personas = demoPersonas
	}
	if at.Ops != nil {
		d.c.Ops = config.Ops{Listen: at.Ops.Addr().String(), Models: []string{gatewaytest.ChatModel, gatewaytest.EmbeddingModel, askedModel}}
	}
	h, err := assemble.Build(d.c, env)
	if err != nil {
		return err
	}
	defer d.announce(d.c, reads)()
	quarantined := h.Vault.Quarantined()

	key, err := os.ReadFile(filepath.Join(d.dir, "model.key"))
	if err != nil {
		return err
	}
	model := gatewaytest.New(gatewaytest.Config{Key: strings.TrimSpace(string(key)), Models: []string{gatewaytest.ChatModel, gatewaytest.EmbeddingModel, askedModel}})
	modelled, witnessed, served := make(chan error, 1), make(chan error, 1), make(chan error, 1)
	mctx, stopModel := context.WithCancel(context.WithoutCancel(ctx))
	defer stopModel()
	go func() { modelled <- model.Run(mctx, d.model) }()
	go func() {
		err := d.witness.run(mctx, d.logKey, logger)
		if err != nil {
			cancel()
		}
		witnessed <- err
	}()
	go func() {
		err := h.Run(ctx, at)
		if err != nil {
			cancel()
		}
		served <- err
	}()

	vars := []struct{ key, value string }{
		{"GATEWAY_URL", d.url(calls)}, {"LOG_URL", d.url(reads)}, {"CONSOLE_URL", console}, {"API_KEY", d.apiKey}, {"APPROVER_KEY", d.yesKey}, {"POLICY", policy},
	}
	if at.Ops != nil {
		vars = append(vars, struct{ key, value string }{"OPS_URL", d.url(at.Ops)})
	}
	if d.real == "" {
		vars = append(vars, struct{ key, value string }{"MODEL", gatewaytest.ChatModel})
	}
	var session string
	samples := d.samples && d.real == "" && quarantined == nil
	if quarantined == nil {
		err = d.answers(ctx, d.url(calls))
	}
	if err == nil && samples {
		session, err = d.call(ctx, d.url(calls))
	}
	if err == nil {
		// Said before it is written: who waits for the file finds everything said.
		d.show(d.url(calls), d.url(reads), console, policy, session, quarantined)
		var text strings.Builder
		for _, e := range vars {
			fmt.Fprintf(&text, "%s=%s\n", e.key, e.value)
		}
		// Written aside and then renamed: who waits for it finds it whole.
		tmp := filepath.Join(d.dir, demoEnv+".new")
		if err = os.WriteFile(tmp, []byte(text.String()), 0o600); err == nil {
			err = os.Rename(tmp, filepath.Join(d.dir, demoEnv))
		}
	}
	var later sync.WaitGroup
	if err == nil && samples {
		later.Go(func() { d.callSlowly(ctx, d.url(calls), logger) })
	}
	if err != nil {
		cancel()
	}
	err = errors.Join(err, <-served)
	cancel()
	later.Wait()
	os.Remove(filepath.Join(d.dir, demoEnv))
	stopModel()
	return errors.Join(err, <-modelled, <-witnessed)
}

// ports opens the demo's ports.
func (d *demonstration) ports() (at assemble.Listeners, err error) {
	defer func() {
		for _, ln := range []net.Listener{at.Calls, at.Reads, at.Ops, at.Console} {
			if err != nil && ln != nil {
				ln.Close()
			}
		}
	}()
	if at.Calls, err = listen("--gateway", d.c.Gateway.Listen); err != nil {
		return at, err
	}
	if at.Reads, err = listen("--log", d.c.Listen); err != nil {
		return at, err
	}
	if d.ops != "" {
		if at.Ops, err = listen("--ops", d.ops); err != nil {
			return at, err
		}
	}
	if d.console == "" {
		return at, nil
	}
	at.Console, err = listen("--console", d.console)
	if err != nil && d.console == consoleAddress {
		at.Console, err = listen("--console", "127.0.0.1:0")
	}
	return at, err
}

func (d *demonstration) url(ln net.Listener) string { return "http://" + ln.Addr().String() }

// answers waits until the gateway lives.
func (d *demonstration) answers(ctx context.Context, base string) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+"/.tallystick/health", nil)
		if err != nil {
			return err
		}
		resp, err := http.DefaultClient.Do(req)
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("the gateway does not answer; see %s", filepath.Join(d.dir, "demo.log"))
		}
	}
}

// show says what there is to try.
func (d *demonstration) show(gatewayURL, logURL, console, policy, session string, quarantined error) {
	out := d.stdout
	if quarantined != nil {
		fmt.Fprintf(out, "\nTHE LOG IS IN QUARANTINE. It serves reads and signs nothing, and the gateway answers 503.\n  %s\nThe evidence is in %s.\n\n",
			printable(quarantined.Error()), filepath.Join(d.dir, "log", "quarantine"))
	}
	dir := d.dir
	if wd, err := os.Getwd(); err == nil {
		if rel, err := filepath.Rel(wd, d.dir); err == nil && len(rel) < len(dir) {
			dir = rel
		}
	}
	bin := os.Args[0]
	if console != "" {
		what := "what is on record shows there"
		if session != "" {
			what = "the page already shows the demo's sessions"
		}
		fmt.Fprintf(out, "\nOpen %s/ in a browser: %s. Anybody on this machine is let in,\nas %s, who may do everything; %s/login/ has others to be.\n", console, what, demoPersonas[0].Name, console)
	}
	fmt.Fprintf(out, "\nThe gateway is at %s, the log at %s; both run until you press Ctrl-C.\n", gatewayURL, logURL)
	if d.c.Ops.Listen != "" {
		fmt.Fprintf(out, "How they do is told at http://%s/metrics, and in words at /readyz.\n", d.c.Ops.Listen)
	}
	if d.real != "" {
		fmt.Fprintf(out, "It stands before %s, with the key in OPENAI_API_KEY.\n", d.real)
	}
	fmt.Fprintf(out, "\nIn another terminal, from here:\n\n")
	fmt.Fprintf(out, "  # call a model; only the base URL and the key are other than usual\n")
	model := gatewaytest.ChatModel
	if d.real != "" {
		model = "YOUR-MODEL"
	}
	fmt.Fprintf(out, "  curl -i %s/v1/chat/completions -H \"Authorization: Bearer $(cat %s)\" \\\n    -H 'Content-Type: application/json' -d '{\"model\":%q,\"messages\":[{\"role\":\"user\",\"content\":\"hello\"}]}'\n\n",
		gatewayURL, filepath.Join(dir, apiKeyFile), model)
	if d.real == "" {
		fmt.Fprintf(out, "  # this model needs another person's yes, so the call waits\n")
		fmt.Fprintf(out, "  curl -i %s/v1/chat/completions -H \"Authorization: Bearer $(cat %s)\" \\\n    -H 'Content-Type: application/json' -d '{\"model\":%q,\"messages\":[{\"role\":\"user\",\"content\":\"hello\"}]}'\n",
			gatewayURL, filepath.Join(dir, apiKeyFile), askedModel)
		fmt.Fprintf(out, "  # who may say it sees the whole request first, in a third terminal\n")
		fmt.Fprintf(out, "  %s approve --gateway %s --key-file %s\n\n", bin, gatewayURL, filepath.Join(dir, approverFile))
	}
	if session == "" {
		session = "SESSION"
		fmt.Fprintf(out, "  # SESSION is in the answer's header %s\n", gateway.SessionHeader)
	}
	verifier := filepath.Join(filepath.Dir(bin), "tally-verify")
	if !strings.ContainsRune(bin, filepath.Separator) {
		verifier = "tally-verify"
	}
	fmt.Fprintf(out, "  # look at a session; replay in the place of show plays an answer back as it came\n")
	fmt.Fprintf(out, "  %s show %s --data %s\n\n", bin, session, dir)
	fmt.Fprintf(out, "  # hand a session to an auditor, who believes neither us nor you\n")
	fmt.Fprintf(out, "  %s export %s --data %s -o session.bundle\n", bin, session, dir)
	fmt.Fprintf(out, "  %s bundle session.bundle --policy %s\n\n", verifier, filepath.Join(dir, policyFile))
	fmt.Fprintf(out, "  # keep a receipt of it, as its caller; who kept what it sent and got checks that too\n")
	fmt.Fprintf(out, "  curl -s -o session.receipt %s/.tallystick/receipts/%s -H \"Authorization: Bearer $(cat %s)\"\n", gatewayURL, session, filepath.Join(dir, apiKeyFile))
	fmt.Fprintf(out, "  %s receipt session.receipt --policy %s\n\n", verifier, filepath.Join(dir, policyFile))
	fmt.Fprintf(out, "  # check every entry, tile and number of the log\n")
	fmt.Fprintf(out, "  %s log --url %s --policy %s\n\n", verifier, logURL, filepath.Join(dir, policyFile))
	fmt.Fprintf(out, "Addresses and keys are in %s, the configuration in %s,\nwhat the gateway says in %s.\n",
		filepath.Join(dir, demoEnv), filepath.Join(dir, configFile), filepath.Join(dir, "demo.log"))
	if d.inVault {
		fmt.Fprintf(out, "In Vault are the log's key, %s, what wraps data keys,\n%s, and the anchor, below %s.\nThe witness's memory is in %s.\n", d.c.Key, d.c.DataKeys.KEK, d.c.Anchor, d.witness.dir)
	} else if a := d.c.AnchorDir(); !strings.HasPrefix(a, d.dir) {
		fmt.Fprintf(out, "The anchor and the witness's memory, which are to outlive the rest, are in\n%s and %s.\n", a, d.witness.dir)
	}
	fmt.Fprintln(out)
}
