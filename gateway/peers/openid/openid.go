// Package openid holds the tests that need a real OpenID Connect provider: that of github.com/zitadel/oidc, in this
// process, and, with the tag vault, HashiCorp Vault itself, which "make vault" builds. It is a module of its own, so that
// nobody who uses the gateway depends on it, and it exports nothing.
package openid
