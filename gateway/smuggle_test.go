package gateway

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/tallystick/tallystick/gateway/gatewaytest"
	"github.com/tallystick/tallystick/tlog/record"
)

// What a caller brings beside its key changes nothing of who it is, and no credential of it goes on to the model.
func TestSmuggledCredentials(t *testing.T) {
	t.Parallel()
	w := newRawWorld(t, answerOK, func(cfg *Config) {
		cfg.Identifiers = []Identifier{tokens("okta-", nil)}
		cfg.Routes[0].Forward = []string{"X-Wanted"}
	})
	const spoof = "okta-mallory"
	for _, c := range []struct {
		name   string
		lines  []string
		status int // 200: the call is alice's. 400: the strict reading refused it. 401: nobody's
	}{
		// Several credentials where one is expected.
		{"a second Authorization", []string{"Authorization: Bearer " + spoof}, 400},
		{"a second one in lower case", []string{"authorization: Bearer " + spoof}, 400},
		{"a second one in capitals", []string{"AUTHORIZATION: Bearer " + spoof}, 400},
		{"a second one, basic", []string{"Authorization: Basic YTpi"}, 400},
		{"a second one, empty", []string{"Authorization:"}, 400},
		{"a second one behind a space", []string{"Authorization : Bearer " + spoof}, 400},
		{"a second one behind a tab", []string{"Authorization\t: Bearer " + spoof}, 400},
		{"a second one, folded", []string{"X-Wanted: a", " Authorization: Bearer " + spoof}, 400},
		{"a folded value", []string{"X-Wanted: a", "\tb"}, 400},
		{"a second one behind a bare CR", []string{"X-Wanted: a\rAuthorization: Bearer " + spoof}, 400},
		{"a second one behind a bare LF", []string{"X-Wanted: a\nAuthorization: Bearer " + spoof}, 400},
		{"a second one behind a NUL", []string{"X-Wanted: a\x00Authorization: Bearer " + spoof}, 400},
		{"a leading space in the name", []string{" X-Api-Key: " + spoof}, 400},
		{"another key", []string{"X-Api-Key: " + spoof}, 401},
		{"another key in lower case", []string{"x-api-key: " + spoof}, 401},
		{"another static key", []string{"X-Api-Key: " + bobKey}, 401},
		{"the same key twice", []string{"X-Api-Key: " + callerKey}, 200},
		{"the same key three times", []string{"X-Api-Key: " + callerKey, "X-Api-Key: " + callerKey}, 400},
		{"two keys in one line", []string{"X-Api-Key: " + callerKey + ", " + spoof}, 401},
		{"an empty key", []string{"X-Api-Key:"}, 200},
		// The same names as software that knows variables reads them.
		{"X_Api_Key", []string{"X_Api_Key: " + spoof}, 400},
		{"HTTP_AUTHORIZATION", []string{"HTTP_AUTHORIZATION: Bearer " + spoof}, 400},
		{"X.Api.Key", []string{"X.Api.Key: " + spoof}, 400},
		{"a name in UTF-8", []string{"Authorizatıon: Bearer " + spoof}, 400},
		// Credentials of others' protocols.
		{"Proxy-Authorization", []string{"Proxy-Authorization: Bearer " + spoof}, 400},
		{"Proxy-Authenticate", []string{"Proxy-Authenticate: Basic"}, 400},
		{"Cookie", []string{"Cookie: tallystick=" + spoof + "; __Host-tallystick=" + spoof}, 200},
		{"two Cookies", []string{"Cookie: a=" + spoof, "Cookie: b=" + spoof}, 400},
		{"Set-Cookie", []string{"Set-Cookie: a=" + spoof}, 200},
		{"api-key", []string{"api-key: " + spoof}, 200},
		{"X-Goog-Api-Key", []string{"X-Goog-Api-Key: " + spoof}, 200},
		{"X-Authorization", []string{"X-Authorization: Bearer " + spoof}, 200},
		{"X-Original-Authorization", []string{"X-Original-Authorization: Bearer " + spoof}, 200},
		{"X-Forwarded-Authorization", []string{"X-Forwarded-Authorization: Bearer " + spoof}, 200},
		{"X-Forwarded-Access-Token", []string{"X-Forwarded-Access-Token: " + spoof}, 200},
		{"X-Auth-Token", []string{"X-Auth-Token: " + spoof}, 200},
		{"X-Access-Token", []string{"X-Access-Token: " + spoof}, 200},
		{"X-Id-Token", []string{"X-Id-Token: " + spoof}, 200},
		{"X-Amzn-Oidc-Data", []string{"X-Amzn-Oidc-Data: " + spoof, "X-Amzn-Oidc-Accesstoken: " + spoof}, 200},
		{"X-Amz-Security-Token", []string{"X-Amz-Security-Token: " + spoof}, 200},
		{"Cf-Access-Jwt-Assertion", []string{"Cf-Access-Jwt-Assertion: " + spoof}, 200},
		{"X-Goog-Iap-Jwt-Assertion", []string{"X-Goog-Iap-Jwt-Assertion: " + spoof}, 200},
		{"X-Ms-Token-Aad-Id-Token", []string{"X-Ms-Token-Aad-Id-Token: " + spoof}, 200},
		{"X-Serverless-Authorization", []string{"X-Serverless-Authorization: Bearer " + spoof}, 200},
		{"X-Jwt-Assertion", []string{"X-Jwt-Assertion: " + spoof}, 200},
		{"X-Vault-Token", []string{"X-Vault-Token: " + spoof}, 200},
		{"Private-Token", []string{"Private-Token: " + spoof}, 200},
		{"DPoP", []string{"DPoP: " + spoof}, 200},
		{"X-Forwarded-Client-Cert", []string{"X-Forwarded-Client-Cert: By=" + spoof + ";Hash=00;URI=spiffe://x/" + spoof}, 200},
		{"Client-Cert", []string{"Client-Cert: :" + spoof + ":", "Client-Cert-Chain: :" + spoof + ":"}, 200},
		{"X-Ssl-Client-Cert", []string{"X-Ssl-Client-Cert: " + spoof, "Ssl-Client-Verify: SUCCESS"}, 200},
		{"X-Arr-Clientcert", []string{"X-Arr-Clientcert: " + spoof}, 200},
		// Names that a model's own family could have.
		{"OpenAI-Api-Key", []string{"OpenAI-Api-Key: " + spoof}, 200},
		{"Anthropic-Api-Key", []string{"anthropic-api-key: " + spoof}, 200},
		{"Anthropic-Auth-Token", []string{"Anthropic-Auth-Token: " + spoof}, 200},
		{"OpenAI-Authorization", []string{"OpenAI-Authorization: Bearer " + spoof}, 200},
		{"X-Stainless-Cookie", []string{"X-Stainless-Cookie: " + spoof}, 200},
		{"OpenAI-Client-Secret", []string{"OpenAI-Client-Secret: " + spoof}, 200},
		// The gateway's own.
		{"Tallystick-Caller", []string{"Tallystick-Caller: " + spoof}, 200},
		{"Tallystick-Authorization", []string{"Tallystick-Authorization: Bearer " + spoof}, 200},
		{"Tallystick-Session", []string{"Tallystick-Session: " + spoof}, 200},
		{"X-Tallystick-User", []string{"X-Tallystick-User: " + spoof, "X-Tallystick-Token: " + spoof}, 200},
		// What would have the connection drop what must stand in the request, or add to it behind the body.
		{"Connection: authorization", []string{"Connection: authorization"}, 400},
		{"Connection: close, x-api-key", []string{"Connection: close, x-api-key"}, 400},
		{"Trailer", []string{"Trailer: Authorization"}, 400},
		{"TE", []string{"TE: trailers"}, 400},
		{"Upgrade", []string{"Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__"}, 400},
	} {
		calls := w.model.Count()
		resp := w.raw("POST", "/v1/chat/completions", `{}`, c.lines...)
		resp.Body.Close()
		if resp.StatusCode != c.status {
			t.Errorf("%s: %s, want %d", c.name, resp.Status, c.status)
		}
		if resp.StatusCode != 200 {
			if w.model.Count() != calls {
				t.Errorf("%s: it was refused and sent", c.name)
			}
			continue
		}
		last, _ := w.model.Last()
		if head := string(last.Head); strings.Contains(head, spoof) || strings.Contains(head, callerKey) || strings.Contains(head, bobKey) {
			t.Errorf("%s: the model was sent %s", c.name, head)
		}
		if got := fields(last.Head)["authorization"]; !slices.Equal(got, []string{"Bearer " + canary}) {
			t.Errorf("%s: the model was shown %q", c.name, got)
		}
		q := w.session(resp.Header.Get(SessionHeader)).records[0]
		if get(q, record.FieldCaller) != "alice" || get(q, record.FieldHow) != ByKey || get(q, record.FieldSubject) != "" {
			t.Errorf("%s: on record is %q by %q", c.name, get(q, record.FieldCaller), get(q, record.FieldHow))
		}
	}
}

// A caller is told nothing by which a model knows the gateway, whatever the model says of it.
func TestServiceCredentialStays(t *testing.T) {
	t.Parallel()
	said := []string{"Authorization", "X-Api-Key", "Set-Cookie", "Proxy-Authorization", "X-Request-Authorization", "Www-Authenticate", "Openai-Api-Key", "Tallystick-Session", "X-Request-Id"}
	w := newRawWorld(t, func(*gatewaytest.Model, *http.Request) gatewaytest.Wire {
		head := "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n"
		for _, name := range said {
			head += name + ": Bearer " + canary + "\r\n"
		}
		return gatewaytest.Wire{Parts: [][]byte{[]byte(head + "\r\n{}")}, End: gatewaytest.Keep}
	}, func(cfg *Config) { cfg.Routes[0].Return = []string{"X-Request-Authorization", "Www-Authenticate"} })
	resp := w.post("/v1/chat/completions", `{}`)
	slurp(t, resp.Body)
	for name, values := range resp.Header {
		if strings.Contains(strings.Join(values, " "), canary) {
			t.Errorf("the caller is told %s: %q", name, values)
		}
	}
}
