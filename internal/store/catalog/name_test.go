package catalog_test

import (
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store"
	"github.com/countersign/countersign/internal/store/catalog"
	"github.com/countersign/countersign/internal/store/content"
	"github.com/countersign/countersign/internal/store/signatures"
	"github.com/countersign/countersign/internal/store/storetest"
)

// firstPush is a first push to a path whose name other objects have.
type firstPush struct {
	path string
	// occupy creates the other objects and returns the repository that has the name, zero if none has it.
	occupy func(t *testing.T, s *store.Store, path string) pulp.Repository
	uses   bool // whether the push uses that repository
}

func firstPushes() map[string]firstPush {
	occupyBoth := func(t *testing.T, s *store.Store, path string) pulp.Repository {
		t.Helper()
		r := createRepository(t, s, pulp.Repository{Name: path})
		createDistribution(t, s, pulp.Distribution{Name: path, BasePath: "mallory/app", RepositoryID: r.ID})
		return r
	}
	return map[string]firstPush{
		"a distribution with another path": {path: "alice/app", occupy: func(t *testing.T, s *store.Store, path string) pulp.Repository {
			createDistribution(t, s, pulp.Distribution{Name: path, BasePath: "mallory/app"})
			return pulp.Repository{}
		}},
		"a repository that another path serves": {path: "alice/app", occupy: occupyBoth},
		"a repository with a version that another path serves": {
			path: "alice/app", occupy: func(t *testing.T, s *store.Store, path string) pulp.Repository {
				r := createRepository(t, s, pulp.Repository{Name: path})
				v, err := s.Content.Version(t.Context(), r.ID, 0)
				if err != nil {
					t.Fatal(err)
				}
				pinned := &pulp.PinnedVersion{VersionID: v.ID, RepositoryID: r.ID}
				createDistribution(t, s, pulp.Distribution{Name: "mallory/app", BasePath: "mallory/app", Pinned: pinned})
				return r
			},
		},
		"a mirror": {path: "alice/app", occupy: func(t *testing.T, s *store.Store, path string) pulp.Repository {
			return createRepository(t, s, pulp.Repository{Name: path, RemoteID: createRemote(t, s, path).ID})
		}},
		"a mirror and a distribution of the path that serves nothing": {
			path: "alice/app", occupy: func(t *testing.T, s *store.Store, path string) pulp.Repository {
				createDistribution(t, s, pulp.Distribution{Name: path, BasePath: path})
				return createRepository(t, s, pulp.Repository{Name: path, RemoteID: createRemote(t, s, "alice/remote").ID})
			},
		},
		"both names, without a slash":       {path: "nginx", occupy: occupyBoth},
		"both names, of the maximum length": {path: "alice/" + strings.Repeat("x", pulp.MaxNameLength-6), occupy: occupyBoth},
		"a repository that no path serves": {
			path: "alice/app", uses: true, occupy: func(t *testing.T, s *store.Store, path string) pulp.Repository {
				return createRepository(t, s, pulp.Repository{Name: path})
			},
		},
	}
}

// TestFirstPushesFindFreeNames proves that a first push succeeds whatever other objects are named like its path. It serves a
// new repository, or the one with the name if nothing serves that, and the names of new objects are in the namespace of the
// path.
func TestFirstPushesFindFreeNames(t *testing.T) {
	t.Parallel()
	for name, tt := range firstPushes() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := storetest.Open(t)
			other := tt.occupy(t, s, tt.path)
			unserved, err := s.Catalog.UnservedRepository(t.Context(), tt.path)
			if !tt.uses && !fault.Is(err, fault.NotFound) || tt.uses && (err != nil || unserved.ID != other.ID) {
				t.Fatalf("UnservedRepository = %+v, %v", unserved, err)
			}
			first := catalog.FirstPush{BasePath: tt.path, Type: pulp.ContainerPush, RepositoryID: unserved.ID}
			got, err := s.Catalog.PushTarget(t.Context(), first)
			if err != nil || !got.Made || !got.Served() || got.Distribution.BasePath != tt.path {
				t.Fatalf("PushTarget = %+v, %v", got, err)
			}
			if uses := got.Repository.ID == other.ID; uses != tt.uses {
				t.Errorf("the push uses the repository: %t, want %t", uses, tt.uses)
			}
			for _, name := range []string{got.Distribution.Name, got.Repository.Name} {
				if pulp.NamespaceOf(name) != pulp.NamespaceOf(tt.path) {
					t.Errorf("%s is in another namespace", name)
				}
			}
			if got.Repository.PolicyName() != tt.path {
				t.Errorf("PolicyName = %s, want %s", got.Repository.PolicyName(), tt.path)
			}
			again, err := s.Catalog.PushTarget(t.Context(), catalog.FirstPush{BasePath: tt.path, Type: pulp.ContainerPush})
			if err != nil || again.Made || again.Repository.ID != got.Repository.ID || again.Repository.PolicyName() != tt.path {
				t.Errorf("the second PushTarget = %+v, %v", again, err)
			}
			storetest.PushImage(t, s, again.Repository.ID, "one", "v1")
			if other.ID != "" && !tt.uses {
				r, err := s.Catalog.RepositoryByID(t.Context(), other.ID)
				if err != nil || r.LatestVersion != 0 || r.Name != tt.path {
					t.Errorf("the other repository is %+v, %v, want it unchanged", r, err)
				}
			}
		})
	}
}

// TestFirstPushesRaceForNames proves that first pushes succeed while others create objects with the names that they would
// choose.
func TestFirstPushesRaceForNames(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	var group sync.WaitGroup
	for range 8 {
		for _, path := range []string{"alice/app", "alice/other"} {
			group.Go(func() {
				if _, err := s.Catalog.PushTarget(t.Context(), catalog.FirstPush{BasePath: path, Type: pulp.ContainerPush}); err != nil {
					t.Errorf("push to %s: %v", path, err)
				}
			})
			group.Go(func() {
				_, err := s.Catalog.CreateRepository(t.Context(), pulp.Repository{Type: pulp.Container, Name: path}, 0)
				if err != nil && !fault.Is(err, fault.Invalid) {
					t.Errorf("repository %s: %v", path, err)
				}
			})
			group.Go(func() {
				_, err := s.Catalog.CreateDistribution(t.Context(), nil, pulp.Distribution{Name: path, BasePath: "elsewhere/" + path}, 0)
				if err != nil && !fault.Is(err, fault.Invalid) {
					t.Errorf("distribution %s: %v", path, err)
				}
			})
		}
	}
	group.Wait()
}

// TestPolicyCoversPushedPath proves that a pattern of signing on push that matches a path covers the repository that a push
// to the path created under another name, until the repository is renamed.
func TestPolicyCoversPushedPath(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	storetest.AddService(t, s, "release")
	s.Signatures.SetPushPolicy(signatures.PushPolicy{Host: "registry.example", Service: func(name string) string {
		if name == "prod/app" {
			return "release"
		}
		return ""
	}})
	r := createRepository(t, s, pulp.Repository{Name: "prod/app"})
	createDistribution(t, s, pulp.Distribution{Name: "prod/app", BasePath: "prod/elsewhere", RepositoryID: r.ID})
	pushed := storetest.Target(t, s, "prod/app").Repository
	if pushed.Name == "prod/app" {
		t.Fatal("the push used the repository of another path")
	}
	image := storetest.Image(storetest.PushBlob(t, s, pushed.ID, "config"), storetest.PushBlob(t, s, pushed.ID, "layer"))
	put := func() error {
		_, err := s.Content.PutManifest(t.Context(), content.PutManifest{RepositoryID: pushed.ID, Manifest: image, Tags: []string{"v1"}})
		return err
	}
	if _, unsigned := errors.AsType[*content.MissingSignatures](put()); !unsigned {
		t.Error("the image became visible without a signature")
	}
	rename := func(r *pulp.Repository) { r.Name = "prod/renamed" }
	if _, err := s.Catalog.EditRepository(t.Context(), nil, pushed.Type, pushed.ID, rename); err != nil {
		t.Fatal(err)
	}
	if err := put(); err != nil {
		t.Errorf("after a renaming to a name that no pattern matches: %v", err)
	}
}
