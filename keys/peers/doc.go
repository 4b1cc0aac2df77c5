// Package peers has code that we did not write keep our keys and check our signatures.
//
//   - transit, a module of its own, is the transit and KV engines of Vault 1.14.8 (MPL-2.0) behind HTTP. It is built and run
//     by the tests here, every time.
//   - vault, another one, pins HashiCorp Vault 1.21 itself (Business Source License 1.1): a tool of these tests, run on
//     this machine, of which nothing is part of the product. "make vault" builds it, once, and runs the tests with
//     the tag vault.
//   - beside runs a command beside such a Vault, for demos and benchmarks.
//   - the notes of golang.org/x/mod and of github.com/transparency-dev/formats open what was signed.
//
// It is a module of its own, so that what it needs stays out of the product.
package peers
