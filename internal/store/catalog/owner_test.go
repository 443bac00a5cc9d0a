package catalog_test

import (
	"slices"
	"testing"

	"github.com/countersign/countersign/internal/access"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/sqldb"
	"github.com/countersign/countersign/internal/store/storetest"
)

// TestCreatorsGetRoles creates objects of each kind for an account and for nobody: the account gets the owner's role on each
// object, and on a namespace that did not exist; the changes are announced.
func TestCreatorsGetRoles(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	alice, bob := storetest.User(t, s, "alice"), storetest.User(t, s, "bob")
	announced := 0
	s.Accounts.OnChange(func() { announced++ })
	var want []string
	owns := func(role string, kind access.Kind, id string) { want = append(want, role+" "+access.Key(kind, id)) }
	n, err := s.Catalog.CreateNamespace(t.Context(), pulp.Namespace{Name: "there"}, alice.ID)
	if err != nil {
		t.Fatal(err)
	}
	owns(access.NamespaceOwner, access.Namespace, n.ID)
	r, err := s.Catalog.CreateRepository(t.Context(), pulp.Repository{Type: pulp.Container, Name: "there/app"}, alice.ID)
	if err != nil {
		t.Fatal(err)
	}
	owns(access.RepositoryOwner, access.Repository, r.ID)
	m, err := s.Catalog.CreateRemote(t.Context(), pulp.Remote{Name: "there/remote", Policy: pulp.Immediate}, alice.ID)
	if err != nil {
		t.Fatal(err)
	}
	owns(access.RemoteOwner, access.Remote, m.ID)
	inPresent, err := s.Catalog.CreateDistribution(t.Context(), nil, pulp.Distribution{Name: "there/app", BasePath: "there/app"}, alice.ID)
	if err != nil {
		t.Fatal(err)
	}
	owns(access.DistributionOwner, access.Distribution, inPresent.ID)
	inNew, err := s.Catalog.CreateDistribution(t.Context(), nil, pulp.Distribution{Name: "new/app", BasePath: "new/app"}, alice.ID)
	if err != nil {
		t.Fatal(err)
	}
	owns(access.DistributionOwner, access.Distribution, inNew.ID)
	owns(access.NamespaceOwner, access.Namespace, inNew.NamespaceID)
	moved, err := s.Catalog.EditDistribution(t.Context(), nil, inNew.ID, alice.ID, func(d *pulp.Distribution) { d.BasePath = "newer/app" })
	if err != nil {
		t.Fatal(err)
	}
	owns(access.NamespaceOwner, access.Namespace, moved.NamespaceID)
	if _, err := s.Catalog.CreateRepository(t.Context(), pulp.Repository{Type: pulp.Container, Name: "nobody/app"}, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Catalog.CreateRemote(t.Context(), pulp.Remote{Name: "there/remote", Policy: pulp.Immediate}, bob.ID); err == nil {
		t.Error("a name was used twice")
	}
	roles := func(account int64) []string {
		t.Helper()
		found, err := sqldb.Collect(t.Context(), s.DB.Read(), sqldb.ScanString, `
			SELECT r.name || ' ' || a.object FROM role_assignment a JOIN role r ON r.id = a.role_id WHERE a.account_id = $1`, account)
		if err != nil {
			t.Fatal(err)
		}
		slices.Sort(found)
		return found
	}
	slices.Sort(want)
	if got := roles(alice.ID); !slices.Equal(got, want) {
		t.Errorf("alice has %q, want %q", got, want)
	}
	if got := roles(bob.ID); len(got) > 0 {
		t.Errorf("bob has %q", got)
	}
	if announced < 6 {
		t.Errorf("%d announcements", announced)
	}
	before := announced
	if err := s.Catalog.DeleteDistribution(t.Context(), nil, inPresent.ID); err != nil || announced == before {
		t.Errorf("a deletion was not announced, %v", err)
	}
}
