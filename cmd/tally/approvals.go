package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/tallystick/tallystick/cmd/internal/cli"
	"github.com/tallystick/tallystick/tlog/record"
)

const approvalsHelp = `
The gateway and what to show it come from the flags, or else from $TALLYSTICK_GATEWAY and $TALLYSTICK_KEY,
or from what 'tally login' has kept.
Exit 0: it is done, and on record. 1: it is not; what the gateway says is printed. 64: usage.
`

// An approval is one as the gateway tells of it.
type approval struct {
	ID      string      `json:"id"`
	State   string      `json:"state"`
	Yours   bool        `json:"yours"`
	Caller  string      `json:"caller"`
	Email   string      `json:"email"`
	Route   string      `json:"route"`
	Model   string      `json:"model"`
	Method  string      `json:"method"`
	Target  string      `json:"target"`
	Rule    string      `json:"rule"`
	Message string      `json:"message"`
	Need    int         `json:"need"`
	Yes     []string    `json:"yes"`
	Groups  []string    `json:"groups"`
	Asked   time.Time   `json:"asked"`
	Until   time.Time   `json:"until"`
	Request *askedAbout `json:"request"`
}

// An askedAbout is the whole request that is decided about.
type askedAbout struct {
	Leaf    string            `json:"leaf"`
	Fields  map[string]string `json:"fields"`
	Headers [][2]string       `json:"headers"`
	Body    *string           `json:"body"`
	Base64  *string           `json:"body_base64"`
}

// approvals lists what waits.
func (t *tally) approvals(ctx context.Context, args []string) error {
	fs := t.flags("approvals", "Lists the calls that wait for your yes, and your own that wait for another's."+approvalsHelp)
	var d door
	d.flags(fs)
	asJSON := fs.Bool("json", false, "print what the gateway answers, as one line of JSON")
	if _, err := parse(fs, args, 0, 0); err != nil {
		return err
	}
	g, err := t.knock(d)
	if err != nil {
		return err
	}
	b, all, err := waiting(ctx, g)
	if err != nil {
		return err
	}
	if *asJSON {
		return t.printJSON(b)
	}
	if len(all) == 0 {
		fmt.Fprintln(t.stdout, "nothing waits for you")
		return nil
	}
	w := tabwriter.NewWriter(t.stdout, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "APPROVAL\tSTATE\tYES\tTIME LEFT\tCALLER\tMODEL\tRULE")
	for _, a := range all {
		caller := a.Caller
		if a.Yours {
			caller += " (you)"
		}
		fmt.Fprintf(w, "%s\t%s\t%d of %d\t%s\t%s\t%s\t%s\n", cell(a.ID), cell(a.State), len(a.Yes), a.Need, left(a.Until), cell(caller), cell(a.Model), cell(a.Rule))
	}
	return w.Flush()
}

// waiting asks what waits, and returns the answer as it came, too.
func waiting(ctx context.Context, g *gatewayClient) ([]byte, []approval, error) {
	b, err := g.get(ctx, "approvals")
	if err != nil {
		return nil, nil, err
	}
	var in struct{ Approvals []approval }
	if err := json.Unmarshal(b, &in); err != nil {
		return nil, nil, fmt.Errorf("the gateway's answer cannot be read: %w", err)
	}
	return b, in.Approvals, nil
}

// onlyOne returns the approval that waits for who asks, where there is one.
func onlyOne(ctx context.Context, g *gatewayClient) (id string, err error) {
	_, all, err := waiting(ctx, g)
	if err != nil {
		return "", err
	}
	all = slices.DeleteFunc(all, func(a approval) bool { return a.Yours || a.State != "waiting" })
	switch len(all) {
	case 0:
		return "", errors.New("nothing waits for you")
	case 1:
		return approvalID(all[0].ID)
	}
	return "", fmt.Errorf("%d calls wait; say which, by its ID: `tally approvals` lists them", len(all))
}

// cell is a stranger's text in a table: short, on one line, and nothing to a terminal.
func cell(s string) string {
	const most = 60
	if s = cli.Escape(s); len([]rune(s)) > most {
		s = string([]rune(s)[:most]) + "…"
	}
	if s == "" {
		return "-"
	}
	return s
}

func left(until time.Time) string {
	d := time.Until(until).Round(time.Second)
	if d <= 0 {
		return "none"
	}
	return d.String()
}

// approve shows one call whole, and says yes to it.
func (t *tally) approve(ctx context.Context, args []string) error {
	fs := t.flags("approve [ID]", `Shows the whole request that waits, which puts on record that you have looked, asks you, and says
yes. The yes is for these bytes by this caller, and is used once. Nobody says yes to a call of his own.
Without an ID it is the one that waits for you, if there is one only.
With --break-glass it needs nobody else's yes; who may do that, and has to, says why, and everybody is told.`+approvalsHelp)
	var d door
	d.flags(fs)
	reason := fs.String("reason", "", "`why`, in words; it stands on record")
	sure := fs.Bool("yes", false, "do not ask; needed where there is no terminal to ask at")
	glass := fs.Bool("break-glass", false, "pass the call on your word alone, in an emergency; needs --reason")
	rest, err := parse(fs, args, 0, 1)
	if err != nil {
		return err
	}
	id := ""
	if len(rest) > 0 {
		if id, err = approvalID(rest[0]); err != nil {
			return err
		}
	}
	switch {
	case id == "" && *sure:
		return cli.Usagef("approve --yes needs the ID of what you have looked at")
	case *glass && *reason == "":
		return cli.Usagef("approve --break-glass needs --reason: say why, in words that others understand")
	case !*sure && !t.terminal:
		return cli.Usagef("approve asks before it says yes, and there is no terminal to ask at; look at the request, and say --yes")
	}
	g, err := t.knock(d)
	if err != nil {
		return err
	}
	if id == "" {
		if id, err = onlyOne(ctx, g); err != nil {
			return err
		}
	}
	b, err := g.get(ctx, "approvals/"+id)
	if err != nil {
		return err
	}
	var a approval
	if err := json.Unmarshal(b, &a); err != nil {
		return fmt.Errorf("the gateway's answer cannot be read: %w", err)
	}
	if err := t.show(&a); err != nil {
		return err
	}
	switch {
	case a.ID != id:
		return fmt.Errorf("the gateway shows the approval %s and was asked for another", a.ID)
	case a.Yours:
		return errors.New("the call is your own, and nobody says yes to a call of his own")
	case a.Request == nil:
		return fmt.Errorf("there is nothing to decide any more: it is %s", a.State)
	}
	question, decision := "approve?", "approve"
	if *glass {
		question, decision = "BREAK THE GLASS, and pass this call on your word alone?", "break_glass"
	}
	if !*sure && !t.confirms(question) {
		return errors.New("nothing is decided")
	}
	return t.decide(ctx, g, id, decision, *reason)
}

// deny says no.
func (t *tally) deny(ctx context.Context, args []string) error {
	fs := t.flags("deny ID --reason TEXT", "Says no to a call that waits. One no is enough, whoever has said yes; the caller is told the reason."+approvalsHelp)
	var d door
	d.flags(fs)
	reason := fs.String("reason", "", "`why`, in words; it stands on record, and the caller is told")
	rest, err := parse(fs, args, 1, 1)
	if err != nil {
		return err
	}
	id, err := approvalID(rest[0])
	if err != nil {
		return err
	}
	if *reason == "" {
		return cli.Usagef("deny needs --reason: the caller is told it")
	}
	g, err := t.knock(d)
	if err != nil {
		return err
	}
	return t.decide(ctx, g, id, "deny", *reason)
}

// approvalID reads an argument. A link to an approval is none: where a key is shown is not for a message to say.
func approvalID(s string) (string, error) {
	id, err := record.ParseID(s)
	if err != nil {
		return "", cli.Usagef("%q is not the id of an approval, as `tally approvals` prints them", cli.Escape(s))
	}
	return id.String(), nil
}

// confirms asks the person at the terminal.
func (t *tally) confirms(question string) bool {
	fmt.Fprintf(t.stdout, "\n%s [y/N] ", question)
	line, err := bufio.NewReader(t.stdin).ReadString('\n')
	if err != nil {
		fmt.Fprintln(t.stdout)
		return false
	}
	return slices.Contains([]string{"y", "yes"}, strings.ToLower(strings.TrimSpace(line)))
}

// decide sends a decision and says what has become of the approval.
func (t *tally) decide(ctx context.Context, g *gatewayClient, id, decision, reason string) error {
	body, err := json.Marshal(map[string]string{"decision": decision, "reason": reason})
	if err != nil {
		return err
	}
	b, err := g.post(ctx, "approvals/"+id, body)
	if err != nil {
		return err
	}
	var a approval
	if err := json.Unmarshal(b, &a); err != nil {
		return fmt.Errorf("the gateway's answer cannot be read: %w", err)
	}
	switch {
	case decision == "deny":
		fmt.Fprintln(t.stdout, "denied: the call is not sent, and its caller is told why")
	case a.State == "waiting":
		fmt.Fprintf(t.stdout, "your yes is on record: %d of %d; the call waits for another person's until %s\n", len(a.Yes), a.Need, a.Until.Local().Format(time.TimeOnly))
	case decision == "break_glass":
		fmt.Fprintln(t.stdout, "THE GLASS IS BROKEN: the call passes on your word, once, and everybody is told")
	default:
		fmt.Fprintln(t.stdout, "approved: the call passes, once")
	}
	return nil
}

// show prints an approval with the whole request. Nothing that its caller wrote does anything to the terminal.
func (t *tally) show(a *approval) error {
	w := bufio.NewWriter(t.stdout)
	line := func(name, value string) {
		if value != "" {
			fmt.Fprintf(w, "  %-10s %s\n", name, cli.Escape(value))
		}
	}
	fmt.Fprintf(w, "approval %s: %s, %d of %d yeses, time left %s\n", cli.Escape(a.ID), cli.Escape(a.State), len(a.Yes), a.Need, left(a.Until))
	caller := a.Caller
	if a.Email != "" {
		caller += " <" + a.Email + ">"
	}
	line("caller", caller)
	line("call", a.Method+" "+a.Target)
	line("route", a.Route)
	line("model", a.Model)
	line("rule", a.Rule)
	line("message", a.Message)
	line("asked", a.Asked.Local().Format(time.RFC3339)+", of "+strings.Join(a.Groups, ", "))
	line("said yes", strings.Join(a.Yes, ", "))
	r := a.Request
	if r == nil {
		return w.Flush()
	}
	line("entry", r.Leaf)
	fmt.Fprintln(w, "\non record of the request")
	for _, name := range slices.Sorted(maps.Keys(r.Fields)) {
		line(cli.Escape(name), r.Fields[name])
	}
	fmt.Fprintln(w, "\nheaders")
	for _, h := range r.Headers {
		fmt.Fprintf(w, "  %s: %s\n", cli.Escape(h[0]), cli.Escape(h[1]))
	}
	var body []byte
	switch {
	case r.Body != nil:
		body = []byte(*r.Body)
	case r.Base64 != nil:
		var err error
		if body, err = base64.StdEncoding.DecodeString(*r.Base64); err != nil {
			return fmt.Errorf("the gateway's answer cannot be read: the body: %w", err)
		}
	}
	kind := "as it is"
	var pretty bytes.Buffer
	if json.Indent(&pretty, body, "", "  ") == nil {
		body, kind = pretty.Bytes(), "JSON, indented here"
	}
	fmt.Fprintf(w, "\nbody, %s\n", kind)
	for l := range bytes.SplitSeq(body, []byte{'\n'}) {
		fmt.Fprintf(w, "%s\n", cli.Escape(string(l)))
	}
	return w.Flush()
}

func (t *tally) printJSON(b []byte) error {
	var v any
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	if err := d.Decode(&v); err != nil {
		return fmt.Errorf("the gateway's answer cannot be read: %w", err)
	}
	return cli.WriteJSON(t.stdout, v)
}

// A door is which gateway is meant, and what is shown to it.
type door struct{ gateway, keyFile, roots string }

func (d *door) flags(fs *flag.FlagSet) {
	fs.StringVar(&d.gateway, "gateway", "", "the gateway's `URL`")
	fs.StringVar(&d.keyFile, "key-file", "", "the `file` with your key or token for it")
	fs.StringVar(&d.roots, "roots", "", "a PEM `file` of the authorities that its certificate comes from")
}

// knock finds the gateway and the key: by the flags, or else in the environment, or what `tally login` has kept.
func (t *tally) knock(d door) (*gatewayClient, error) {
	u, err := t.gatewayURL(d.gateway)
	if err != nil {
		return nil, err
	}
	var key string
	if d.keyFile != "" {
		b, err := os.ReadFile(d.keyFile)
		if err != nil {
			return nil, fmt.Errorf("--key-file: %w", err)
		}
		key = strings.TrimSpace(string(b))
	} else if key, err = t.gatewayToken(u); err != nil {
		return nil, err
	}
	if key == "" || strings.ContainsFunc(key, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
		return nil, errors.New("the key is empty, of more than one line, or has a space or control character in it; it is not repeated here")
	}
	return newGatewayClient(u, key, d.roots)
}
