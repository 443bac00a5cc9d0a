// Package oracle compares signing/policy with the code that podman and skopeo decide with. It is a module of its own, so that the
// program does not depend on theirs. `go test ./signing/policy` runs it; so does `go test -tags "$(cat tags)" .` here.
package oracle
