// Package pkcs11 signs with keys that do not leave a token: a smart card, a hardware security module, or SoftHSM. What it writes are OpenPGP
// messages as package openpgp's.
//
// Tokens are reached through a shared library of their maker's, whose state is one for the whole process; so is the package's. Without cgo
// no such library can be called: everything builds, and every key answers that PKCS #11 is missing.
package pkcs11
