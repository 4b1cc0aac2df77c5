package gateway

import (
	"context"
	"crypto/x509"
	"errors"
	"net/netip"
	"time"
)

// How a principal was told.
const (
	ByKey   = "key"   // a static key of the configuration
	ByToken = "token" // a token of the gateway's own, given after a log-in
	ByOIDC  = "oidc"  // a token of another issuer
	ByCert  = "cert"  // a client certificate
	BySAML  = "saml"  // a log-in at an identity provider; at calls it is by the token that was given for it
)

// A Principal is who calls, in the words of whoever vouches for it. No part of it comes from a header that a caller can write.
// It is never changed once it was made, so one can serve many calls at a time.
type Principal struct {
	// Name stands in records and is what rules, quotas and approvals know a principal by: at most 200 bytes, without
	// control characters, and never the same for two. Whoever makes principals sees to it that theirs begin with a name
	// that is nobody else's: "okta:00u1ab2c".
	Name string
	How  string // one of the By constants
	Key  string // the name of the key, token or certificate, where the principal has several

	Issuer  string // of a token, as it stands there; of a certificate, the authority
	Subject string // as the issuer knows it
	Email   string // "" unless the issuer says that it is verified
	Groups  []string
	At      time.Time // when the principal was authenticated by the issuer; zero if that is not known
	Until   time.Time // when what it showed ends; zero for never
	Routes  []string  // the names of the routes it may use; nil for all
}

// Shown is what a caller shows of itself.
type Shown struct {
	Bearer []byte            // what stands in Authorization: Bearer, or in X-Api-Key; nil for nothing. Valid during the call
	Cert   *x509.Certificate // the client certificate that the TLS handshake verified; nil for none
	Remote netip.AddrPort
}

// An Identifier tells who shows something. It is asked at every call and before its body is read, so it answers from
// memory wherever it can, and bounds what it costs to be asked by strangers.
//
// ErrNotMine says that what is shown is of a kind that somebody else knows: the next one is asked. A *Stranger says that it
// is of this kind and not good; nobody else is asked. Any other error says that it could not be found out now. Safe for
// concurrent use.
type Identifier interface {
	Identify(ctx context.Context, s Shown) (*Principal, error)
}

// ErrNotMine is what an Identifier answers to a credential of another kind.
var ErrNotMine = errors.New("gateway: a credential of another kind")

// A Stranger is a credential that is not good. Why is for the gateway's log and for counting: a word of a-z and '_', such as
// expired, signature, audience. Message is for the caller: what it can do, and nothing that helps to guess.
type Stranger struct{ Why, Message string }

func (s *Stranger) Error() string { return "gateway: not identified (" + s.Why + "): " + s.Message }
