package catalog_test

import (
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store"
	"github.com/countersign/countersign/internal/store/content"
	"github.com/countersign/countersign/internal/store/signatures"
	"github.com/countersign/countersign/internal/store/storetest"
)

// TestFirstPushesFindFreeNames proves that a first push succeeds whatever other objects have the path as their name, serves a repository of its own unless an
// unserved one of that name waits for it, and gives what it makes names in the namespace of the path.
func TestFirstPushesFindFreeNames(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		path string
		hold func(t *testing.T, s *store.Store, path string) pulp.Repository // makes what is in the way; the repository that has the name, if one has
		take bool                                                            // that repository is used
	}{
		"a distribution with another path": {path: "alice/app", hold: func(t *testing.T, s *store.Store, path string) pulp.Repository {
			serve(t, s, pulp.Distribution{Name: path, BasePath: "mallory/app"})
			return pulp.Repository{}
		}},
		"a repository that another path serves": {path: "alice/app", hold: func(t *testing.T, s *store.Store, path string) pulp.Repository {
			r := container(t, s, path, "")
			serve(t, s, pulp.Distribution{Name: path, BasePath: "mallory/app", RepositoryID: r.ID})
			return r
		}},
		"a repository of which another path serves a version": {path: "alice/app", hold: func(t *testing.T, s *store.Store, path string) pulp.Repository {
			r := container(t, s, path, "")
			v, err := s.Content.Version(t.Context(), r.ID, 0)
			if err != nil {
				t.Fatal(err)
			}
			serve(t, s, pulp.Distribution{Name: "mallory/app", BasePath: "mallory/app", Pinned: &pulp.PinnedVersion{VersionID: v.ID, RepositoryID: r.ID}})
			return r
		}},
		"a mirror": {path: "alice/app", hold: func(t *testing.T, s *store.Store, path string) pulp.Repository {
			m, err := s.Catalog.CreateRemote(t.Context(), pulp.Remote{Name: path, URL: "https://x", UpstreamName: "a/b", Policy: pulp.OnDemand})
			if err != nil {
				t.Fatal(err)
			}
			return container(t, s, path, m.ID)
		}},
		"a mirror, and a distribution of the path that serves nothing": {path: "alice/app", hold: func(t *testing.T, s *store.Store, path string) pulp.Repository {
			m, err := s.Catalog.CreateRemote(t.Context(), pulp.Remote{Name: "alice/remote", URL: "https://x", UpstreamName: "a/b", Policy: pulp.OnDemand})
			if err != nil {
				t.Fatal(err)
			}
			serve(t, s, pulp.Distribution{Name: path, BasePath: path})
			return container(t, s, path, m.ID)
		}},
		"both, without a slash": {path: "nginx", hold: func(t *testing.T, s *store.Store, path string) pulp.Repository {
			r := container(t, s, path, "")
			serve(t, s, pulp.Distribution{Name: path, BasePath: "mallory/nginx", RepositoryID: r.ID})
			return r
		}},
		"a path of the greatest length": {path: "alice/" + strings.Repeat("x", pulp.MaxNameLength-6), hold: func(t *testing.T, s *store.Store, path string) pulp.Repository {
			r := container(t, s, path, "")
			serve(t, s, pulp.Distribution{Name: path, BasePath: "mallory/app", RepositoryID: r.ID})
			return r
		}},
		"a repository that nothing serves": {path: "alice/app", take: true, hold: func(t *testing.T, s *store.Store, path string) pulp.Repository { return container(t, s, path, "") }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := storetest.Open(t)
			held := c.hold(t, s, c.path)
			got, err := s.Catalog.PushTarget(t.Context(), c.path, pulp.ContainerPush)
			if err != nil || !got.Made || !got.Served() || got.Distribution.BasePath != c.path {
				t.Fatalf("PushTarget = %+v, %v", got, err)
			}
			if took := got.Repository.ID == held.ID; took != c.take {
				t.Errorf("the push took the repository: %t, want %t", took, c.take)
			}
			for _, name := range []string{got.Distribution.Name, got.Repository.Name} {
				if pulp.NamespaceOf(name) != pulp.NamespaceOf(c.path) {
					t.Errorf("%s is in another namespace", name)
				}
			}
			if got.Repository.PolicyName() != c.path {
				t.Errorf("patterns are compared with %s", got.Repository.PolicyName())
			}
			again, err := s.Catalog.PushTarget(t.Context(), c.path, pulp.ContainerPush)
			if err != nil || again.Made || again.Repository.ID != got.Repository.ID || again.Repository.PolicyName() != c.path {
				t.Errorf("the second push: %+v, %v", again, err)
			}
			storetest.PushImage(t, s, again.Repository.ID, "one", "v1")
			if held.ID != "" && !c.take {
				r, err := s.Catalog.RepositoryByID(t.Context(), held.ID)
				if err != nil || r.LatestVersion != 0 || r.Name != c.path {
					t.Errorf("what had the name is now %+v, %v", r, err)
				}
			}
		})
	}
}

func container(t *testing.T, s *store.Store, name, remoteID string) pulp.Repository {
	t.Helper()
	r, err := s.Catalog.CreateRepository(t.Context(), pulp.Repository{Type: pulp.Container, Name: name, RemoteID: remoteID})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func serve(t *testing.T, s *store.Store, d pulp.Distribution) {
	t.Helper()
	if _, err := s.Catalog.CreateDistribution(t.Context(), nil, d); err != nil {
		t.Fatal(err)
	}
}

// TestFirstPushesRaceForNames begins pushes while others take and give up the names that they would choose: every push succeeds.
func TestFirstPushesRaceForNames(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	var group sync.WaitGroup
	for range 8 {
		for _, path := range []string{"alice/app", "alice/other"} {
			group.Go(func() {
				if _, err := s.Catalog.PushTarget(t.Context(), path, pulp.ContainerPush); err != nil {
					t.Errorf("push to %s: %v", path, err)
				}
			})
			group.Go(func() {
				_, err := s.Catalog.CreateRepository(t.Context(), pulp.Repository{Type: pulp.Container, Name: path})
				if err != nil && !fault.Is(err, fault.Invalid) {
					t.Errorf("repository %s: %v", path, err)
				}
			})
			group.Go(func() {
				_, err := s.Catalog.CreateDistribution(t.Context(), nil, pulp.Distribution{Name: path, BasePath: "elsewhere/" + path})
				if err != nil && !fault.Is(err, fault.Invalid) {
					t.Errorf("distribution %s: %v", path, err)
				}
			})
		}
	}
	group.Wait()
}

// TestAPushUnderAnotherNameIsSigned proves that a pattern of signing on push that names a path covers the repository that a push to the path made under another name, until
// somebody gives the repository a name.
func TestAPushUnderAnotherNameIsSigned(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	if _, err := s.Signatures.AddSigningService(t.Context(), pulp.SigningService{Name: "release", Class: pulp.ManifestSigningService, Kind: pulp.ServiceScript}); err != nil {
		t.Fatal(err)
	}
	s.Signatures.SetPushPolicy(signatures.PushPolicy{Host: "registry.example", Service: func(name string) string {
		if name == "prod/app" {
			return "release"
		}
		return ""
	}})
	r := container(t, s, "prod/app", "")
	serve(t, s, pulp.Distribution{Name: "prod/app", BasePath: "prod/elsewhere", RepositoryID: r.ID})
	made := storetest.Target(t, s, "prod/app").Repository
	if made.Name == "prod/app" {
		t.Fatal("the push took the name")
	}
	config, layer := storetest.PushBlob(t, s, made.ID, "config"), storetest.PushBlob(t, s, made.ID, "layer")
	put := func() error {
		_, err := s.Content.PutManifest(t.Context(), content.PutManifest{RepositoryID: made.ID, Manifest: storetest.Image(config, layer), Tags: []string{"v1"}})
		return err
	}
	if _, unsigned := errors.AsType[*content.MissingSignatures](put()); !unsigned {
		t.Error("the image is shown unsigned")
	}
	if _, err := s.Catalog.EditRepository(t.Context(), nil, made.Type, made.ID, func(r *pulp.Repository) { r.Name = "prod/renamed" }); err != nil {
		t.Fatal(err)
	}
	if err := put(); err != nil {
		t.Errorf("under a name that no pattern fits: %v", err)
	}
}
