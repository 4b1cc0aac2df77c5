package config

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/tallystick/tallystick/audit"
)

// Console is the desk for people, in a browser: what is on record, and what waits for a yes. It is served by the process that has the
// gateway, which keeps the data keys and the approvals. People log in there as they do at the gateway, at the issuers with a client and
// at the SAML providers of gateway.identity, and have the roles that their groups give them:
//
//	console:
//	  listen: 127.0.0.1:8082
//	  public: https://tally.example
//	  roles:
//	    viewer: [support]
//	    approver: [approvers]
//	    auditor: [compliance]
//	    admin: [platform]
//	  people:
//	    okta:00u1ab2c: [auditor]
//
// At an issuer, PUBLIC/login/back is registered to come back to, beside that of the gateway; a SAML provider is given the metadata at
// PUBLIC/login/saml/NAME. Who has no role sees nothing, and is told whom he is to the console, so that somebody can give him one. Groups
// are those of the log-in: what is taken from somebody at his provider counts from the next one on; `tally tokens revoke` ends the
// session at once. Roles, people, hosts and the policy here are read again on SIGHUP.
type Console struct {
	Listen string `yaml:"listen"` // where browsers, or a proxy before them, connect
	// Public is where browsers find it: https://tally.example, or http on a loopback address.
	Public string `yaml:"public"`
	// Hosts are further names under which it answers, as browsers send them: host or host:port. By default it answers to that in
	// public alone.
	Hosts []string `yaml:"hosts"`
	// TLS is by default none, and then listen is a loopback address: for a proxy on this machine, say, whose address stands in the
	// record of log-ins as that from where somebody came.
	TLS TLS `yaml:"tls"`
	// Roles has the groups whose members have a role. A viewer finds sessions and sees what their records say; an auditor does so, too,
	// and hands evidence out; an admin erases; both of these see who read what, and the settings. An approver sees what
	// waits for a yes; which of it he decides is said by the groups of gateway.approvals, as for all who decide.
	Roles map[string][]string `yaml:"roles"`
	// People has the roles of single people, by the names under which the gateway knows them.
	People map[string][]string `yaml:"people"`
	// SignIn has the names of the issuers and providers at which people log in; by default all at which people do.
	SignIn []string `yaml:"sign_in"`
	Life   Duration `yaml:"life"` // how long a log-in lasts; by default that of gateway.identity.tokens, at most 168h
	// Policy is a file (c2sp.org/tlog-policy) by which pages and browsers judge the log's checkpoints; by default the log's own, and
	// where the log is in another process none, and the pages say that nothing is judged.
	Policy string `yaml:"policy"`
}

// SessionLife is how long a log-in at the console lasts.
func (c *Config) SessionLife() time.Duration {
	if c.Console.Life != 0 {
		return time.Duration(c.Console.Life)
	}
	return c.Gateway.Identity.Tokens.TokenLife()
}

// RolesOf returns the roles of somebody. Those of a configuration that was read are all known.
func (c *Console) RolesOf(name string, groups []string) (roles audit.Roles) {
	for role, of := range c.Roles {
		if r, err := audit.ParseRole(role); err == nil && slices.ContainsFunc(groups, func(g string) bool { return slices.Contains(of, g) }) {
			roles |= r
		}
	}
	for _, role := range c.People[name] {
		if r, err := audit.ParseRole(role); err == nil {
			roles |= r
		}
	}
	return roles
}

// Signs says whether people log in at the console at the issuer or provider of that name, if they do at all.
func (c *Console) Signs(name string) bool {
	return len(c.SignIn) == 0 || slices.Contains(c.SignIn, name)
}

// checkConsole says what is wrong with the console.
func (c *Config) checkConsole() error {
	k := c.Console
	if k == nil {
		return nil
	}
	if !c.HasGateway() {
		return errors.New("console is here, and this process has no gateway: it has neither the keys of the records nor the calls that wait, and nobody to log people in, so it could show nothing; put console into the gateway's file")
	}
	if err := missing(need{"console.listen", k.Listen, "127.0.0.1:8082"}, need{"console.public", k.Public, "https://tally.example"}); err != nil {
		return err
	}
	u, err := url.Parse(k.Public)
	switch {
	case (k.TLS.Cert == "") != (k.TLS.Key == ""):
		return errors.New("console.tls needs both cert and key")
	case k.TLS.Cert == "" && !loopback(k.Listen):
		return fmt.Errorf("console.listen is %s, and there is no console.tls: whoever is on the network could read what is shown; give it tls: {cert: …, key: …}, or listen on 127.0.0.1, behind a proxy on this machine that ends TLS", k.Listen)
	case err != nil || u.Host == "" || u.User != nil || u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.Fragment != "" || u.Scheme != "https" && u.Scheme != "http":
		return fmt.Errorf("console.public is %q; it is the console's URL as browsers see it, without a path, such as https://tally.example", k.Public)
	case u.Scheme == "http" && !loopback(u.Host):
		return fmt.Errorf("console.public is %s: over plain http whoever is on the way could be anybody; make it https", k.Public)
	case !c.Gateway.Identity.LogIns():
		return errors.New("console is here, and nobody who logs people in; give an issuer under gateway.identity a client, or name a provider under gateway.identity.saml")
	case time.Duration(k.Life) > 7*24*time.Hour || k.Life != 0 && time.Duration(k.Life) < time.Minute:
		return fmt.Errorf("console.life is %v; choose 1m to 168h", time.Duration(k.Life))
	case len(k.Roles) == 0 && len(k.People) == 0:
		return errors.New("console.roles is empty, so that nobody could see anything; say whose members have which role, for example roles: {viewer: [support], auditor: [compliance]}")
	}
	for _, h := range k.Hosts {
		if at, err := url.Parse("https://" + h); err != nil || h == "" || at.Host != h {
			return fmt.Errorf("console.hosts: %q is no host, such as tally.example or tally.example:8443", h)
		}
	}
	for _, role := range slices.Sorted(maps.Keys(k.Roles)) {
		if _, err := audit.ParseRole(role); err != nil {
			return fmt.Errorf("console.roles: %w", err)
		}
		if len(k.Roles[role]) == 0 || slices.Contains(k.Roles[role], "") {
			return fmt.Errorf("console.roles.%s names no group, or one without a name; name the groups whose members have it, or take it out", role)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(k.People)) {
		for _, role := range k.People[name] {
			if _, err := audit.ParseRole(role); err != nil {
				return fmt.Errorf("console.people.%s: %w", name, err)
			}
		}
		if name == "" || len(k.People[name]) == 0 {
			return fmt.Errorf("console.people: %q has no role, or no name; give both, or take it out", name)
		}
	}
	for _, name := range k.SignIn {
		if !slices.Contains(c.Gateway.Identity.doors(), name) {
			return fmt.Errorf("console.sign_in names %q, at which nobody logs in; there are %s", name, strings.Join(c.Gateway.Identity.doors(), ", "))
		}
	}
	return nil
}

// doors are the names of those who log people in.
func (id *Identity) doors() (names []string) {
	for _, is := range id.Issuers {
		if is.Client != nil {
			names = append(names, is.Name)
		}
	}
	for _, s := range id.SAML {
		names = append(names, s.Name)
	}
	return names
}

// loopback says whether a host, or a host and port, is this machine alone.
func loopback(hostport string) bool {
	host, _, err := net.SplitHostPort(hostport)
	if err != nil {
		host = strings.Trim(hostport, "[]")
	}
	return host == "localhost" || net.ParseIP(host).IsLoopback()
}

// resolve makes every path absolute or relative to where the program runs.
func (c *Console) resolve(at func(*string)) {
	if c == nil {
		return
	}
	at(&c.TLS.Cert)
	at(&c.TLS.Key)
	at(&c.Policy)
}
