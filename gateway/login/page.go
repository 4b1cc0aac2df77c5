package login

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"html/template"
	"net/http"
)

// policy is the Content-Security-Policy of every page. Forms go nowhere else, so that a log-in begins with a link: browsers
// hold a redirect that follows a form to the same rule.
const policy = "default-src 'none'; style-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"

// onward is the only script there is. It is allowed by its hash.
const onward = "document.forms[0].submit()"

var onwardHash = func() string {
	s := sha256.Sum256([]byte(onward))
	return "sha256-" + base64.StdEncoding.EncodeToString(s[:])
}()

const styleSheet = `body{font:16px/1.5 system-ui,sans-serif;max-width:40rem;margin:3rem auto;padding:0 1rem;color:#1b1b1b;background:#fff}
h1{font-size:1.4rem}code.code{font:600 2rem ui-monospace,monospace;letter-spacing:.1em;display:block;margin:1rem 0}
a.button,button{font:inherit;display:inline-block;padding:.5rem 1rem;margin:.25rem .5rem .25rem 0;border:1px solid #1b1b1b;border-radius:.3rem;background:#fff;color:#1b1b1b;text-decoration:none;cursor:pointer}
button.yes{background:#1b1b1b;color:#fff}table{border-collapse:collapse;width:100%}td,th{text-align:left;padding:.3rem;border-bottom:1px solid #ddd}.warn{border-left:4px solid #b45309;padding-left:.8rem}
@media (prefers-color-scheme:dark){body,a.button,button{background:#161616;color:#eee;border-color:#eee}button.yes{background:#eee;color:#161616}td,th{border-color:#444}}
`

var pages = template.Must(template.New("").Parse(`
{{define "head"}}<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><meta name="robots" content="noindex">
{{with .Refresh}}<meta http-equiv="refresh" content="0;url={{.}}">{{end}}<title>Tallystick</title><link rel="stylesheet" href="{{.Style}}"></head><body>{{end}}
{{define "foot"}}</body></html>
{{end}}

{{define "choose"}}{{template "head" .}}
<h1>Log in to {{if .Elsewhere}}Tallystick{{else}}this gateway{{end}}</h1>
{{if .Code}}<p class="warn">A program asks for access in your name. Go on only if you started it yourself a moment ago.</p>{{end}}
<p>{{range .Providers}}<a class="button" href="{{$.Start}}?provider={{.}}{{if $.Code}}&amp;code={{$.Code}}{{end}}{{if $.To}}&amp;to={{$.To}}{{end}}">Log in with {{.}}</a>{{end}}</p>
{{template "foot"}}{{end}}

{{define "home"}}{{template "head" .}}
<h1>You are signed in as {{.Who}}</h1>
<p>{{with .Email}}{{.}}, {{end}}until {{.Until}}.</p>
{{if .Device}}
<h2>A program asks for a token</h2>
<code class="code">{{.Device.Code}}</code>
<p>It calls itself <b>{{.Device.Name}}</b> and asked from <b>{{.Device.From}}</b>. With a token it can call models as {{.Who}}, until {{.Until}}.</p>
<p class="warn">Say yes only if you started it yourself and it shows this very code. Whoever sent you this link could be asking for himself.</p>
<form method="post" action="{{.Confirm}}"><input type="hidden" name="word" value="{{.ConfirmWord}}"><input type="hidden" name="code" value="{{.Raw}}">
<button class="yes" name="decision" value="yes">Yes, the code is the same</button><button name="decision" value="no">No</button></form>
{{else if .Asked}}<p class="warn">Nothing waits for that code any more. Run the command again.</p>{{end}}
{{if .Tokens}}<h2>Your tokens</h2>
<table><tr><th>Name</th><th>Id</th><th>Until</th><th></th></tr>
{{range .Tokens}}<tr><td>{{.Name}}</td><td><code>{{.ID}}</code></td><td>{{.Until}}</td><td><form method="post" action="{{$.Revoke}}"><input type="hidden" name="word" value="{{$.RevokeWord}}"><input type="hidden" name="id" value="{{.ID}}"><button>Revoke</button></form></td></tr>
{{end}}</table>{{end}}
<form method="post" action="{{.Out}}"><input type="hidden" name="word" value="{{.OutWord}}"><button>Sign out</button></form>
{{template "foot"}}{{end}}

{{define "welcome"}}{{template "head" .}}
<h1>{{with .Who}}You are signed in as {{.}}{{else}}One moment{{end}}</h1><p><a class="button" href="{{.To}}">Go on</a></p>
{{template "foot"}}{{end}}

{{define "onward"}}{{template "head" .}}
<h1>Logging in</h1>
<form method="post" action="{{.To}}"><input type="hidden" name="SAMLResponse" value="{{.Response}}"><input type="hidden" name="RelayState" value="{{.State}}"><input type="hidden" name="again" value="1"><button>Go on</button></form>
<script>{{.Script}}</script>
{{template "foot"}}{{end}}

{{define "done"}}{{template "head" .}}
{{if .Yes}}<h1>The program has its token</h1><p>You can close this page. {{with .Name}}The token of {{.}} can be revoked{{else}}The token can be revoked{{end}} <a href="{{.To}}">here</a>.</p>
{{else}}<h1>The program was refused</h1><p>It gets no token. You can close this page.</p>{{end}}
{{template "foot"}}{{end}}

{{define "fail"}}{{template "head" .}}
<h1>This did not work</h1><p>{{.Message}}</p><p><a class="button" href="{{.To}}">Back to the log-in</a></p>
{{template "foot"}}{{end}}
`))

func (p *Pages) style(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/css; charset=utf-8")
	w.Header().Set("Cache-Control", "max-age=300")
	w.Write([]byte(styleSheet))
}

func (p *Pages) show(w http.ResponseWriter, status int, name string, data map[string]any) {
	data["Style"], data["Elsewhere"] = p.at+"/style.css", !p.givesTokens()
	if s, ok := data["Script"].(string); ok {
		data["Script"] = template.JS(s)
	}
	var b bytes.Buffer
	if err := pages.ExecuteTemplate(&b, name, data); err != nil {
		p.log.Error("a page could not be made", "page", name, "err", err)
		http.Error(w, "the gateway met a fault of its own", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	w.Write(b.Bytes())
}

func (p *Pages) fail(w http.ResponseWriter, status int, message string) {
	p.show(w, status, "fail", map[string]any{"Message": message, "To": p.at})
}
