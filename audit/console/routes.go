package console

import (
	"net/http"

	"github.com/tallystick/tallystick/audit"
)

// routes returns all that is served, and who is served. Acts know who may do them; what is no act of a desk's says it here.
func routes() []route {
	return []route{
		{method: "GET", path: "/{$}", whom: audit.Operator, do: (*Console).overview},
		{method: "GET", path: "/search", whom: audit.Search.May(), content: true, do: (*Console).search},
		{method: "POST", path: "/search", whom: audit.Search.May(), content: true, do: (*Console).search},
		{method: "GET", path: "/sessions/{session}", whom: audit.View.May(), content: true, do: (*Console).session},
		{method: "GET", path: "/sessions/{session}/body", whom: audit.View.May(), content: true, do: (*Console).body},
		{method: "GET", path: "/sessions/{session}/bundle", whom: audit.Play.May(), content: true, do: (*Console).bundle},
		{method: "POST", path: "/sessions/{session}/export", whom: audit.Export.May(), do: (*Console).export},
		{method: "POST", path: "/sessions/{session}/disclose", whom: audit.Disclose.May(), do: (*Console).disclose},
		{method: "POST", path: "/sessions/{session}/unseal", whom: audit.Unseal.May(), do: (*Console).unseal},
		{method: "GET", path: "/sessions/{session}/erase", whom: audit.Erase.May(), content: true, do: (*Console).erasing},
		{method: "POST", path: "/sessions/{session}/erase", whom: audit.Erase.May(), do: (*Console).erase},
		{method: "GET", path: "/approvals", whom: audit.Approver, do: (*Console).approvals},
		{method: "GET", path: "/approvals/changes", whom: audit.Approver, do: (*Console).changes},
		{method: "GET", path: "/approvals/{session}", whom: audit.Approver, content: true, unasked: true, do: (*Console).approval},
		{method: "POST", path: "/approvals/{session}", whom: audit.Approver, do: (*Console).decide},
		{method: "GET", path: "/log", whom: audit.Operator, do: (*Console).book},
		{method: "GET", path: "/log/checkpoint", whom: audit.Operator, do: (*Console).checkpoint},
		{method: "GET", path: "/policy", whom: audit.Operator, do: (*Console).policyFile},
		{method: "GET", path: "/trail", whom: audit.Trail.May(), content: true, do: (*Console).trail},
		{method: "GET", path: "/settings", whom: audit.Admin | audit.Auditor, do: (*Console).settings},
		{method: "GET", path: "/me", other: signedIn, do: (*Console).me},
		{method: "POST", path: "/reason", other: signedIn, do: (*Console).reason},
		{method: "GET", path: "/static/{name}", other: anybody, do: (*Console).asset},
		{method: "", path: "/login/", other: anybody, do: (*Console).signIn},
		{method: "POST", path: "/logout", other: anybody, do: (*Console).signOut},
		{method: "", path: "/", other: anybody, do: (*Console).nowhere},
	}
}

// signIn is whoever lets people in.
func (o *Console) signIn(v *visit) error {
	o.c.SignIn.ServeHTTP(v.w, v.req)
	return nil
}

// signOut forgets why somebody looked, and leaves the rest to whoever let him in.
func (o *Console) signOut(v *visit) error {
	o.keepReason(v, "")
	o.c.SignIn.ServeHTTP(v.w, v.req)
	return nil
}

// nowhere answers for what is not in the table. Who is not signed in is not told what is.
func (o *Console) nowhere(v *visit) error {
	if v.who.Name == "" && v.req.Method == http.MethodGet && v.req.Header.Get("Sec-Fetch-Dest") != "image" {
		o.stranger(v)
		return nil
	}
	return errNoPage
}
