package catalog_test

import (
	"sync"
	"sync/atomic"
	"testing"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/storetest"
)

// TestAdoptTarget proves that an adoption creates a private repository unless it is public, and uses it from then on.
func TestAdoptTarget(t *testing.T) {
	t.Parallel()
	for name, public := range map[string]bool{"private": false, "public": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := storetest.Open(t)
			r, made, err := s.Catalog.AdoptTarget(t.Context(), "acme/app", pulp.ContainerPush, public)
			if err != nil || !made || r.Name != "acme/app" || r.Type != pulp.ContainerPush {
				t.Fatalf("AdoptTarget = %+v, %t, %v", r, made, err)
			}
			if to, err := s.Serving.Resolve(t.Context(), "acme/app"); err != nil || to.Distribution.Private == public || to.Repository.ID != r.ID {
				t.Errorf("Resolve = %+v, %v", to, err)
			}
			again, made, err := s.Catalog.AdoptTarget(t.Context(), "acme/app", pulp.ContainerPush, !public)
			if err != nil || made || again.ID != r.ID {
				t.Errorf("the second AdoptTarget = %+v, %t, %v, want the same repository", again, made, err)
			}
			if to, err := s.Serving.Resolve(t.Context(), "acme/app"); err != nil || to.Distribution.Private == public {
				t.Errorf("after the second adoption Resolve = %+v, %v", to, err)
			}
		})
	}
}

// TestAdoptTargetConflicts proves that nothing is adopted into a mirror or into a repository with another name.
func TestAdoptTargetConflicts(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	other := createRepository(t, s, pulp.Repository{Name: "acme/other"})
	createDistribution(t, s, pulp.Distribution{Name: "taken", BasePath: "acme/taken", RepositoryID: other.ID})
	createRepository(t, s, pulp.Repository{Name: "acme/mirror", RemoteID: createRemote(t, s, "remote").ID})
	for _, name := range []string{"acme/taken", "acme/mirror"} {
		r, made, err := s.Catalog.AdoptTarget(t.Context(), name, pulp.ContainerPush, false)
		if !fault.Is(err, fault.Conflict) || made {
			t.Errorf("AdoptTarget(%q) = %+v, %t, %v, want Conflict", name, r, made, err)
		}
	}
}

// TestAdoptTargetMadeOnce proves that one of several concurrent first adoptions reports that it created the repository.
func TestAdoptTargetMadeOnce(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	var group sync.WaitGroup
	var makers atomic.Int64
	for range 8 {
		group.Go(func() {
			_, made, err := s.Catalog.AdoptTarget(t.Context(), "acme/app", pulp.ContainerPush, false)
			if err != nil {
				t.Error(err)
			}
			if made {
				makers.Add(1)
			}
		})
	}
	group.Wait()
	if n := makers.Load(); n != 1 {
		t.Errorf("%d calls report that they created the repository, want 1", n)
	}
}

// TestAdoptTargetAfterDelete proves that an adoption uses the distribution of a deleted repository and leaves it public.
func TestAdoptTargetAfterDelete(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	old, _, err := s.Catalog.AdoptTarget(t.Context(), "acme/app", pulp.Container, true)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Catalog.DeleteRepository(t.Context(), nil, pulp.Container, old.ID); err != nil {
		t.Fatal(err)
	}
	r, made, err := s.Catalog.AdoptTarget(t.Context(), "acme/app", pulp.Container, false)
	if err != nil || !made || r.ID == old.ID {
		t.Fatalf("AdoptTarget = %+v, %t, %v, want a new repository", r, made, err)
	}
	if to, err := s.Serving.Resolve(t.Context(), "acme/app"); err != nil || to.Repository.ID != r.ID || to.Distribution.Private {
		t.Errorf("Resolve = %+v, %v", to, err)
	}
}
