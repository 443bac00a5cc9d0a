package signatures_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/list"
	"github.com/countersign/countersign/internal/store/storetest"
)

// TestSigningServices keeps services of every kind as they are, and each name once.
func TestSigningServices(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	want := []pulp.SigningService{}
	for _, v := range []pulp.SigningService{
		{Name: "a", Class: pulp.ManifestSigningService, Kind: pulp.ServiceScript, Script: "/srv/sign.sh", Fingerprint: "F1", PublicKey: "P1", GnuPGHome: "/srv/keys"},
		{Name: "b", Class: pulp.ManifestSigningService, Kind: pulp.ServiceOpenPGP, Fingerprint: "F2", PublicKey: "P2",
			Config: pulp.ServiceConfig{KeyFile: "/srv/key \"1\".asc", PassphraseFile: "/srv/passphrase"}},
	} {
		added, err := s.Signatures.AddSigningService(t.Context(), v)
		if err != nil {
			t.Fatal(err)
		}
		v.ID, v.Stamps = added.ID, added.Stamps
		if got, err := s.Signatures.SigningService(t.Context(), added.ID); err != nil || got != v {
			t.Errorf("SigningService = %+v, %v, want %+v", got, err, v)
		}
		if _, err := s.Signatures.AddSigningService(t.Context(), v); !fault.Is(err, fault.Conflict) {
			t.Errorf("the same name again: %v, want Conflict", err)
		}
		want = append(want, v)
	}
	got, err := s.Signatures.SigningServices(t.Context())
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("SigningServices: %v (-want +got):\n%s", err, diff)
	}
	listed, n, err := s.Lists.SigningServices(t.Context(), list.Query{Limit: 10})
	if err != nil || n != 2 || len(listed) != 2 || listed[0].Config != want[1].Config {
		t.Errorf("ListSigningServices = %+v, %d, %v", listed, n, err)
	}
	if err := s.Signatures.RemoveSigningService(t.Context(), "b", pulp.ManifestSigningService); err != nil {
		t.Error(err)
	}
	if err := s.Signatures.RemoveSigningService(t.Context(), "b", pulp.ManifestSigningService); !fault.Is(err, fault.NotFound) {
		t.Errorf("removing it again: %v, want NotFound", err)
	}
}
