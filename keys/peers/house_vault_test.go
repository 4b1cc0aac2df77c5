//go:build vault

package peers

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/tallystick/tallystick/keys/vault"
)

// TestVaultHouse runs the product with everything in Vault itself. Its process comes by three AppRoles, each with one of the
// policies that "tally keys init" wrote; the tokens live for seconds.
func TestVaultHouse(t *testing.T) {
	s, unseal := startVault(t)
	s.do(t, "POST", "sys/mounts/transit", `{"type":"transit"}`)
	s.do(t, "POST", "sys/auth/approle", `{"type":"approle"}`)
	for _, kind := range []string{vault.Ed25519, vault.ECDSAP256} {
		t.Run(kind, func(t *testing.T) {
			h := newHouse(t, s, kind, roles)
			houseStory(h, kind)
			rotationStory(h, h.name)
		})
	}
	t.Run("outages", func(t *testing.T) {
		h := newHouse(t, s, vault.Ed25519, roles)
		may := map[string]string{}
		for _, what := range []string{"sign", "anchor", "wrap"} {
			policy := "sys/policies/acl/" + h.name + "-" + what
			may[policy] = s.do(t, "GET", policy, "")["data"].(map[string]any)["policy"].(string)
		}
		allow := func(policy, text string) {
			body, _ := json.Marshal(map[string]string{"policy": text})
			s.do(t, "PUT", policy, string(body))
		}
		outageStory(h, []outage{
			{"sealed", func() { s.do(t, "PUT", "sys/seal", "") }, func() { s.do(t, "PUT", "sys/unseal", fmt.Sprintf(`{"key":%q}`, unseal)) }},
			{"hung", func() { s.signal(t, syscall.SIGSTOP) }, func() { s.signal(t, syscall.SIGCONT) }},
			{"denied", func() {
				for policy := range may {
					allow(policy, `path "*" { capabilities = ["deny"] }`)
				}
			}, func() {
				for policy, text := range may {
					allow(policy, text)
				}
			}},
		})
	})
	t.Run("twins", func(t *testing.T) { twinsStories(t, s, roles) })
}

// roles makes an AppRole for each of a house's policies, and says them for the configuration.
func roles(h *house) string {
	t := h.t
	t.Helper()
	model, _ := json.Marshal(map[string]string{"policy": fmt.Sprintf("path \"secret/data/%s-model\" {\n  capabilities = [\"read\"]\n}\n", h.name)})
	h.vault.do(t, "PUT", "sys/policies/acl/"+h.name+"-model", string(model))
	who := ""
	for _, role := range []struct{ identity, name, policies string }{
		{"vault", "sign", h.name + "-sign," + h.name + "-model"},
		{"vault_anchor", "anchor", h.name + "-anchor"},
		{"vault_keys", "wrap", h.name + "-wrap"},
	} {
		path := "auth/approle/role/" + h.name + "-" + role.name
		h.vault.do(t, "POST", path, fmt.Sprintf(`{"token_policies":%q,"token_ttl":"20s","token_max_ttl":"40s"}`, role.policies))
		id := h.vault.do(t, "GET", path+"/role-id", "")["data"].(map[string]any)["role_id"]
		secret := h.vault.do(t, "POST", path+"/secret-id", `{}`)["data"].(map[string]any)["secret_id"]
		h.write(role.name+".secret", fmt.Sprintln(secret))
		who += fmt.Sprintf("%s: {address: %q, timeout: 2s, login: {approle: {role_id: %q, secret_id: {file: %s.secret}}}}\n", role.identity, h.vault.url, id, role.name)
	}
	return who
}

// TestBeside runs the demo beside a Vault that comes and goes with it, as "make run VAULT=1" does.
func TestBeside(t *testing.T) {
	h := &house{t: t, vault: &server{}, dir: t.TempDir()}
	bin, err := filepath.Abs(os.Getenv("VAULT"))
	if err != nil {
		t.Fatal(err)
	}
	c := h.command("beside", bin, program(t, "tally"), "demo", "--vault", "--data", "demo", "--gateway", "127.0.0.1:0", "--log", "127.0.0.1:0")
	demoStory(h, c)
	if c := h.command("beside", bin, program(t, "tally"), "frob"); c.Run() == nil || c.ProcessState.ExitCode() != 64 {
		t.Errorf("a command that ends with 64: %v", c.ProcessState)
	}
}
