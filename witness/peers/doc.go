// Package peers has programs that we did not write be the other end of every protocol of a witness: our Quorum asks litewitness,
// Sunlight and omniwitness, our Mirror pushes to Sunlight's mirror, omniwitness's load test and our own probe ask what they
// ask, and what comes of it Tessera's fsck and torchwood's client and policy check.
//
// It is a module of its own, so that what it needs stays out of the product, and it exports nothing. The programs are
// built by the tests from the versions in go.mod. Sunlight's choice of torchwood is newer than the last release of it that
// builds with Go 1.26, so litewitness is too.
package peers
