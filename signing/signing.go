// Package signing knows what a signature claims: it builds and reads atomic container signatures, verifies them against
// OpenPGP public keys, and says what a Signer is.
//
// It touches no database, network or file. Its makers of signatures are the packages below it (signing/script, ...); every
// one passes signing/signtest.
package signing
