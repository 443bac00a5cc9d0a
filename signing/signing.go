// Package signing creates, parses and verifies atomic container signatures: OpenPGP messages that bind a manifest
// digest to a docker reference. It also defines Signer.
//
// It uses no database, network or file. Implementations of Signer are in the packages below it, for example
// signing/script. Each of them passes the tests of signing/signtest.
package signing
