// Package openpgp signs in the process with an OpenPGP key that it reads from a file, and writes the messages that clients accept as
// signatures, also for keys that are elsewhere.
package openpgp
