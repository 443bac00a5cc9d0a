// Package pkcs11 signs with keys in PKCS #11 tokens: smart cards, hardware security modules and SoftHSM. The signatures
// are OpenPGP messages as those of package openpgp.
//
// A token is used through a shared library of its manufacturer. The state of a library is global to the process, and so
// is the state of this package. A build without cgo cannot call such libraries: each key then returns an error that says
// so.
package pkcs11
