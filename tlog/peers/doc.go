// Package peers has code that we did not write check our log, over the HTTP API of c2sp.org/tlog-tiles and in a directory:
// the fsck and the client of Tessera (github.com/transparency-dev/tessera), and the tiles and proofs of the Go
// checksum database (golang.org/x/mod/sumdb/tlog).
//
// It is a module of its own, so that what it needs stays out of the product.
package peers
