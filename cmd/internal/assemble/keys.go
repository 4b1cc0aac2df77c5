package assemble

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"github.com/tallystick/tallystick/cmd/internal/config"
	"github.com/tallystick/tallystick/keys"
	"github.com/tallystick/tallystick/keys/file"
	"github.com/tallystick/tallystick/keys/kms"
	"github.com/tallystick/tallystick/keys/ring"
	"github.com/tallystick/tallystick/keys/vault"
	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/latest"
	"github.com/tallystick/tallystick/tlog/local"
)

// A Keyring finds what a configuration refers to: signers, the anchor, what wraps data keys, and credentials. Places outside
// this machine are asked when something of them is needed.
type Keyring struct {
	c       *config.Config
	env     Env
	clients map[*config.Vault]*vault.Client // nil for what the environment says
	// Runs keep log-ins alive; whoever uses the keyring for longer than a moment runs them.
	Runs []func(context.Context) error
}

// NewKeyring asks nobody.
func NewKeyring(c *config.Config, env Env) *Keyring {
	return &Keyring{c: c, env: env, clients: make(map[*config.Vault]*vault.Client)}
}

// vault returns the client of one identity, of which there is one however often it is named.
func (k *Keyring) vault(as *config.Vault) (*vault.Client, error) {
	if client := k.clients[as]; client != nil {
		return client, nil
	}
	vc, err := vaultConfig(as, k.env)
	if err != nil {
		return nil, err
	}
	client, err := vault.New(vc)
	if err != nil {
		return nil, err
	}
	k.clients[as] = client
	k.Runs = append(k.Runs, client.Run)
	return client, nil
}

func vaultConfig(as *config.Vault, env Env) (vault.Config, error) {
	if as == nil {
		out, err := vault.FromEnvironment(env.LookupEnv)
		out.Lookup, out.Logger = env.LookupEnv, env.Logger
		return out, err
	}
	out := vault.Config{
		Address: as.Address, AllowHTTP: as.AllowHTTP, Namespace: as.Namespace, CACert: as.CA, CAPath: as.CAPath,
		ClientCert: as.ClientCert, ClientKey: as.ClientKey, TLSServerName: as.ServerName, SkipVerify: as.SkipVerify,
		Proxy: as.Proxy, Timeout: time.Duration(as.Timeout), Lookup: env.LookupEnv, Logger: env.Logger,
		Login: vault.Login{Token: as.Login.Token},
	}
	if l := as.Login.AppRole; l != nil {
		out.Login.AppRole = &vault.AppRole{Mount: l.Mount, RoleID: l.RoleID, SecretID: l.SecretID, Wrapped: l.Wrapped}
	}
	if l := as.Login.Kubernetes; l != nil {
		out.Login.Kubernetes = &vault.Kubernetes{Mount: l.Mount, Role: l.Role, Token: l.Token}
	}
	if l := as.Login.JWT; l != nil {
		out.Login.JWT = &vault.JWT{Mount: l.Mount, Role: l.Role, Token: l.Token}
	}
	if l := as.Login.Cert; l != nil {
		out.Login.Cert = &vault.Cert{Mount: l.Mount, Role: l.Role}
	}
	return out, nil
}

// providers are the places where signing keys can be. Nothing registers itself: what is not here does not exist.
func (k *Keyring) providers() (keys.Providers, error) {
	pem := kms.PEM{Else: file.Provider{}}
	if !k.c.KeyPassword.IsZero() {
		var err error
		if pem.Password, err = k.c.KeyPassword.Load(k.env.LookupEnv); err != nil {
			return nil, fmt.Errorf("key_password: %w", err)
		}
	}
	ps := keys.Providers{keys.SchemeFile: pem, keys.SchemeVault: vaultSigners{k}}
	addClouds(ps, k.env.LookupEnv)
	return ps, nil
}

// vaultSigners reaches Vault when a key there is named.
type vaultSigners struct{ k *Keyring }

func (v vaultSigners) Signer(ctx context.Context, ref keys.Reference, origin, vkey string) (*keys.Signer, error) {
	client, err := v.k.vault(v.k.c.Vault)
	if err != nil {
		return nil, err
	}
	return client.Signer(ctx, ref, origin, vkey)
}

// Signers returns the log's keys, the first one first.
func (k *Keyring) Signers(ctx context.Context) ([]*keys.Signer, error) {
	ps, err := k.providers()
	if err != nil {
		return nil, err
	}
	var all []*keys.Signer
	for _, key := range append([]config.AlsoKey{{Key: k.c.Key, PublicKey: k.c.PublicKey}}, k.c.AlsoKeys...) {
		ref, err := k.c.Reference(key.Key)
		if err != nil {
			return nil, err
		}
		s, err := ps.Signer(ctx, ref, k.c.Origin, key.PublicKey)
		if err != nil {
			return nil, err
		}
		all = append(all, s)
	}
	return all, nil
}

// localKeys gives the signers to a log in this process.
func localKeys(signers []*keys.Signer) []local.Key {
	var all []local.Key
	for _, s := range signers {
		all = append(all, local.Key{Signer: s, Verifier: s.Verifier()})
	}
	return all
}

// Anchor returns where the newest checkpoint is remembered.
func (k *Keyring) Anchor() (tlog.Latest, error) {
	if dir := k.c.AnchorDir(); dir != "" {
		return latest.Open(dir)
	}
	ref, err := keys.ParseReference(k.c.Anchor)
	if err != nil {
		return nil, err
	}
	client, err := k.vault(cmp.Or(k.c.VaultAnchor, k.c.Vault))
	if err != nil {
		return nil, err
	}
	return client.Latest(ref)
}

// A KEK is what wraps the keys of data keys, or did, and where it is.
type KEK struct {
	ring.Wrapper
	Ref keys.Reference
}

// KEKs returns what wraps the keys of data keys, and then what did before.
func (k *Keyring) KEKs() (all []KEK, err error) {
	for _, key := range append([]string{k.c.DataKeys.KEK}, k.c.DataKeys.Former...) {
		ref, err := k.c.Reference(key)
		if err != nil {
			return nil, err
		}
		w, err := k.kek(ref)
		if err != nil {
			return nil, err
		}
		all = append(all, KEK{w, ref})
	}
	return all, nil
}

func (k *Keyring) kek(ref keys.Reference) (ring.Wrapper, error) {
	if ref.Scheme == keys.SchemeFile {
		return file.LoadKEK(ref.Path)
	}
	client, err := k.vault(cmp.Or(k.c.VaultKeys, k.c.Vault))
	if err != nil {
		return nil, err
	}
	return client.KEK(ref)
}

// Credential reads a secret for another service.
func (k *Keyring) Credential(ctx context.Context, c config.Credential) (keys.Secret, error) {
	if c.Vault == "" {
		return c.Load(k.env.LookupEnv)
	}
	if !c.Credential.IsZero() {
		return keys.Secret{}, fmt.Errorf("a credential has vault beside env or file: keep one")
	}
	ref, err := keys.ParseReference(keys.SchemeVault + ":" + c.Vault)
	if err != nil {
		return keys.Secret{}, err
	}
	client, err := k.vault(k.c.Vault)
	if err != nil {
		return keys.Secret{}, err
	}
	return client.Secret(ctx, ref)
}
