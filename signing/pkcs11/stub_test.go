//go:build !cgo

package pkcs11

import (
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/signing/signtest"
)

func TestWithoutCgo(t *testing.T) {
	t.Parallel()
	const uri = "pkcs11:token=a;object=b?module-path=/m"
	_, created := NewPublicKey(t.Context(), uri, "Release key <release@example.com>")
	s, err := New(Options{URI: uri, PublicKey: signtest.NewKey(t, time.Now(), 0).Armor})
	if err != nil {
		t.Fatal(err)
	}
	_, signed := s.Sign(t.Context(), signtest.Request("localhost:5000/suite/app:1", "{}"))
	for _, err := range []error{created, signed, s.Usable()} {
		if !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), "CGO_ENABLED=1") {
			t.Errorf("without cgo: %v", err)
		}
	}
}
