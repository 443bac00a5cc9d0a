package app_test

import (
	"strings"
	"testing"

	"github.com/countersign/countersign/internal/app/apptest"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store"
)

// TestServeListsEarlierAssignments verifies that only the first start with a database logs the signing services that
// no administrator assigned.
func TestServeListsEarlierAssignments(t *testing.T) {
	t.Parallel()
	c := apptest.Load(t)
	a, _ := apptest.New(c)
	if err := a.WithStore(t.Context(), func(s *store.Store) error {
		service, err := s.Signatures.AddSigningService(t.Context(), pulp.SigningService{
			Name: "release", Class: pulp.ManifestSigningService, Kind: pulp.ServiceScript,
		})
		if err != nil {
			return err
		}
		for name, by := range map[string]pulp.Assigner{"team/app": pulp.AssignedEarlier, "prod/app": pulp.AssignedByAdmin} {
			if _, err := s.Catalog.CreateRepository(t.Context(), pulp.Repository{
				Name: name, Type: pulp.ContainerPush, SigningServiceID: service.ID, SigningAssigned: by,
			}, 0); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	const warning = "this repository keeps its signing service"
	first := apptest.Start(t, c)
	if text := first.Log.String(); strings.Count(text, warning) != 1 || !strings.Contains(text, "repository=team/app service=release") ||
		!strings.Contains(text, "countersign revoke-signing-assignments") {
		t.Errorf("log of the first start, want one warning about team/app and the command:\n%s", text)
	}
	if err := first.Stop(t); err != nil {
		t.Fatal(err)
	}
	if second := apptest.Start(t, c); strings.Contains(second.Log.String(), warning) {
		t.Errorf("the second start repeats the warning:\n%s", second.Log)
	}
}
