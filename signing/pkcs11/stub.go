//go:build !cgo

package pkcs11

import (
	"context"
	"crypto"
	"time"

	"github.com/countersign/countersign/internal/fault"
)

var errMissing = fault.New(fault.Invalid, "This build of countersign has no PKCS #11: it was made without cgo. "+
	"Build it with make build CGO_ENABLED=1.")

// key represents a key in a token in builds that cannot use tokens.
type key struct{}

func openKey(URI) *key { return &key{} }

func (*key) usable() error { return errMissing }

func (*key) public(context.Context, time.Duration) (crypto.PublicKey, error) { return nil, errMissing }

func (*key) sign(context.Context, time.Duration, crypto.Hash, []byte) ([]byte, error) {
	return nil, errMissing
}
