package vault

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/tallystick/tallystick/keys"
)

// FromEnvironment returns the Config that the variables of Vault's own tools ask for: VAULT_ADDR (or VAULT_AGENT_ADDR, which
// goes before it), VAULT_NAMESPACE, VAULT_CACERT, VAULT_CACERT_BYTES, VAULT_CAPATH, VAULT_CLIENT_CERT, VAULT_CLIENT_KEY,
// VAULT_TLS_SERVER_NAME, VAULT_SKIP_VERIFY, VAULT_PROXY_ADDR (or VAULT_HTTP_PROXY), VAULT_HEADERS, VAULT_SRV_LOOKUP,
// VAULT_CLIENT_TIMEOUT, and VAULT_TOKEN as the way to log in. lookup finds a variable, as os.LookupEnv does.
//
// The others mean nothing here: requests are not retried by themselves (VAULT_MAX_RETRIES), redirects not followed
// (VAULT_DISABLE_REDIRECTS), and answers not wrapped (VAULT_WRAP_TTL).
func FromEnvironment(lookup func(name string) (string, bool)) (Config, error) {
	get := func(names ...string) string {
		for _, name := range names {
			if v, ok := lookup(name); ok && v != "" {
				return v
			}
		}
		return ""
	}
	cfg := Config{
		Address:       get(api.EnvVaultAgentAddr, api.EnvVaultAddress),
		Namespace:     get(api.EnvVaultNamespace),
		CACert:        get(api.EnvVaultCACert),
		CACertPEM:     get(api.EnvVaultCACertBytes),
		CAPath:        get(api.EnvVaultCAPath),
		ClientCert:    get(api.EnvVaultClientCert),
		ClientKey:     get(api.EnvVaultClientKey),
		TLSServerName: get(api.EnvVaultTLSServerName),
		Proxy:         get(api.EnvVaultProxyAddr, api.EnvHTTPProxy),
		Lookup:        lookup,
	}
	if get(api.EnvVaultToken) != "" {
		cfg.Login.Token = keys.Credential{Env: api.EnvVaultToken}
	}
	var err error
	if cfg.SkipVerify, err = parseBool(get(api.EnvVaultSkipVerify)); err != nil {
		return Config{}, fmt.Errorf("keys/vault: %s %w", api.EnvVaultSkipVerify, err)
	}
	if cfg.SRVLookup, err = parseBool(get(api.EnvVaultSRVLookup)); err != nil {
		return Config{}, fmt.Errorf("keys/vault: %s %w", api.EnvVaultSRVLookup, err)
	}
	if cfg.Timeout, err = parseSeconds(get(api.EnvVaultClientTimeout)); err != nil {
		return Config{}, fmt.Errorf("keys/vault: %s %w", api.EnvVaultClientTimeout, err)
	}
	if cfg.Header, err = parseHeaders(get(api.EnvVaultHeaders)); err != nil {
		return Config{}, fmt.Errorf("keys/vault: %s %w", api.EnvVaultHeaders, err)
	}
	return cfg, nil
}

// The parsers' errors continue a sentence whose subject is the variable, and do not repeat what stands in it.

func parseBool(s string) (bool, error) {
	if s == "" {
		return false, nil
	}
	b, err := strconv.ParseBool(s)
	if err != nil {
		return false, errors.New("is neither true nor false")
	}
	return b, nil
}

// parseSeconds reads a duration such as 5s, or a number of seconds.
func parseSeconds(s string) (time.Duration, error) {
	if s == "" {
		return 0, nil
	}
	if n, err := strconv.ParseUint(s, 10, 16); err == nil {
		return time.Duration(n) * time.Second, nil
	}
	d, err := time.ParseDuration(s)
	if err != nil {
		return 0, errors.New("is not a duration such as 5s")
	}
	return d, nil
}

// parseHeaders reads a JSON object of strings.
func parseHeaders(s string) (http.Header, error) {
	if s == "" {
		return nil, nil
	}
	var m map[string]string
	if err := json.Unmarshal([]byte(s), &m); err != nil {
		return nil, errors.New("is not a JSON object of strings")
	}
	h := make(http.Header, len(m))
	for name, value := range m {
		h.Set(name, value)
	}
	return h, nil
}
