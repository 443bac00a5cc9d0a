// Package oracle compares signing/policy with the code of podman and skopeo. It is a module of its own, so that the
// program does not depend on that code. Run it with `go test ./signing/policy`, or with `go test -tags "$(cat tags)"
// .` in this directory.
package oracle
