package assemble

import (
	"errors"
	"html/template"
	"net/http"
	"net/netip"
	"net/url"

	"github.com/tallystick/tallystick/audit"
	"github.com/tallystick/tallystick/audit/console"
)

// A Persona is somebody as whom anybody on this machine can look around in a demonstration's console.
type Persona struct {
	Name, Email string
	Groups      []string
	Roles       audit.Roles
	About       string // who that is, in a few words
}

// A stage lets anybody on this machine in, as one of its personas: first as the first. There is nothing that a configuration could
// say to have one.
type stage struct {
	personas []Persona
	other    *http.CrossOriginProtection
}

func newStage(personas []Persona) (*stage, error) {
	for _, p := range personas {
		if p.Name == "" || p.Roles == 0 {
			return nil, errors.New("a persona without a name or a role")
		}
	}
	return &stage{personas, http.NewCrossOriginProtection()}, nil
}

const personaCookie = "tallystick-persona"

// Who says as whom a browser on this machine looks around.
func (s *stage) Who(req *http.Request) (console.Person, bool) {
	if from, err := netip.ParseAddrPort(req.RemoteAddr); err != nil || !from.Addr().Unmap().IsLoopback() {
		return console.Person{}, false
	}
	p := s.personas[0]
	if k, err := req.Cookie(personaCookie); err == nil {
		for _, o := range s.personas {
			if o.Name == k.Value {
				p = o
			}
		}
	}
	return console.Person{Name: p.Name, Email: p.Email, Groups: p.Groups, Roles: p.Roles, How: "nobody: anybody on this machine is let in", Session: "persona-" + p.Name}, true
}

// Way returns where the personas are.
func (s *stage) Way(back string) string { return loginPath + "/?to=" + url.QueryEscape(back) }

// ServeHTTP shows the personas, and takes one. Signed out is whoever is the first again.
func (s *stage) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	set := func(name string) {
		http.SetCookie(w, &http.Cookie{Name: personaCookie, Value: name, Path: "/", HttpOnly: true, SameSite: http.SameSiteStrictMode})
	}
	who, ok := s.Who(req)
	switch {
	case !ok:
		http.Error(w, "this demonstration is for the machine that it runs on", http.StatusForbidden)
	case s.other.Check(req) != nil:
		http.Error(w, "the request comes from a page of another site", http.StatusForbidden)
	case req.URL.Path == logoutPath:
		set("")
		http.Redirect(w, req, loginPath+"/", http.StatusSeeOther)
	case req.URL.Path != loginPath+"/":
		http.NotFound(w, req)
	case req.Method == http.MethodPost:
		set(req.PostFormValue("persona"))
		http.Redirect(w, req, "/", http.StatusSeeOther)
	default:
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		personasPage.Execute(w, map[string]any{"Who": who.Name, "Personas": s.personas, "To": loginPath + "/"})
	}
}

var personasPage = template.Must(template.New("").Parse(`<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light dark">
<title>Who to be · Tallystick</title><link rel="stylesheet" href="/static/console.css"><script src="/static/theme.js"></script></head>
<body><main id="main"><section class="card alone"><h1>Who to be</h1>
<p>This is a demonstration. Nobody logs in: anybody on this machine is let in, as whom he likes. In earnest people log in by OpenID Connect or SAML, and their groups give them their roles.</p>
<form method="post" action="{{.To}}"><table class="plain"><tbody>
{{range .Personas}}<tr><td><button name="persona" value="{{.Name}}"{{if eq .Name $.Who}} aria-current="true"{{end}}>{{.Name}}</button></td><td>{{.About}}{{if eq .Name $.Who}}: you{{end}}<br><span class="soft">{{.Roles}}</span></td></tr>
{{end}}</tbody></table></form><p><a href="/">To the overview</a></p></section></main></body></html>
`))
