package catalog_test

import (
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/countersign/countersign/internal/access"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store"
	"github.com/countersign/countersign/internal/store/catalog"
	"github.com/countersign/countersign/internal/store/list"
	"github.com/countersign/countersign/internal/store/record"
	"github.com/countersign/countersign/internal/store/storetest"
)

func text(s string) *string { return &s }

// createCache creates a pull-through remote with credentials and a private pull-through distribution with a base path.
func createCache(t *testing.T, s *store.Store, path string) (pulp.Remote, pulp.Distribution) {
	t.Helper()
	r, err := s.Catalog.CreatePullThroughRemote(t.Context(), pulp.Remote{
		Name: path + "-remote", URL: "https://upstream.example", Sigstore: text("https://sig.example"),
		Secrets: pulp.RemoteSecrets{Username: text("robot"), Password: text("secret")},
	}, 0)
	if err != nil {
		t.Fatal(err)
	}
	d, err := s.Catalog.CreatePullThrough(t.Context(), nil, pulp.Distribution{Name: path, BasePath: path, RemoteID: r.ID, Private: true}, 0)
	if err != nil {
		t.Fatal(err)
	}
	return r, d
}

func cacheTarget(t *testing.T, s *store.Store, d pulp.Distribution, name string) record.Target {
	t.Helper()
	target, err := s.Catalog.CacheTarget(t.Context(), d.ID, d.BasePath+"/"+name, name)
	if err != nil || !target.Made {
		t.Fatalf("CacheTarget = %+v, %v", target, err)
	}
	return target
}

// TestCacheTarget proves that a path below a pull-through distribution gets a repository, a remote and a distribution once,
// which have its name, its privacy and the connection of the pull-through remote.
func TestCacheTarget(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	remote, d := createCache(t, s, "hub")
	var group sync.WaitGroup
	var makers atomic.Int64
	for range 8 {
		group.Go(func() {
			target, err := s.Catalog.CacheTarget(t.Context(), d.ID, "hub/library/app", "library/app")
			if err != nil {
				t.Error(err)
			}
			if target.Made {
				makers.Add(1)
			}
		})
	}
	group.Wait()
	if n := makers.Load(); n != 1 {
		t.Errorf("%d calls created the repository, want 1", n)
	}
	target, err := s.Serving.Resolve(t.Context(), "hub/library/app")
	if err != nil {
		t.Fatal(err)
	}
	got, repo := target.Distribution, target.Repository
	if got.Name != "hub/library/app" || !got.Private || got.CacheID != d.ID || got.RemoteID == "" || got.RemoteID != repo.RemoteID {
		t.Errorf("distribution %+v", got)
	}
	if repo.Name != "hub/library/app" || repo.Type != pulp.Container || repo.RetainRepoVersions == nil || *repo.RetainRepoVersions != 1 {
		t.Errorf("repository %+v", repo)
	}
	m, err := s.Catalog.Remote(t.Context(), repo.RemoteID)
	if err != nil {
		t.Fatal(err)
	}
	if m.CacheID != remote.ID || m.URL != remote.URL || m.UpstreamName != "library/app" || m.Policy != pulp.OnDemand ||
		m.Secrets.Password == nil || *m.Secrets.Password != "secret" || m.Sigstore == nil || *m.Sigstore != *remote.Sigstore {
		t.Errorf("remote %+v", m)
	}
	var stored string
	if err := s.DB.Read().QueryRowContext(t.Context(), `SELECT secrets FROM remote WHERE id = $1`, m.ID).Scan(&stored); err != nil || stored != "{}" {
		t.Errorf("the row of the remote has the secrets %s, %v", stored, err)
	}
	for path, want := range map[string]string{"hub": d.ID, "hub/a": d.ID, "hub/library/app": d.ID, "hubs/a": "", "other": ""} {
		above, err := s.Catalog.PullThroughAbove(t.Context(), path)
		if above.ID != want || (want == "") != fault.Is(err, fault.NotFound) {
			t.Errorf("PullThroughAbove(%q) = %q, %v, want %q", path, above.ID, err, want)
		}
	}
}

// TestCacheTargetNames proves that objects that have the name of the path stay as they are.
func TestCacheTargetNames(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	_, d := createCache(t, s, "hub")
	own := createRepository(t, s, pulp.Repository{Name: "hub/app"})
	createRemote(t, s, "hub/app")
	target := cacheTarget(t, s, d, "app")
	if target.Repository.ID == own.ID || target.Repository.PushedAs != "hub/app" || target.Distribution.BasePath != "hub/app" {
		t.Errorf("target %+v", target)
	}
	createDistribution(t, s, pulp.Distribution{Name: "hub/own", BasePath: "hub/own", RepositoryID: own.ID})
	if got, err := s.Catalog.CacheTarget(t.Context(), d.ID, "hub/own", "own"); err != nil || got.Made || got.Repository.ID != own.ID {
		t.Errorf("CacheTarget of an own path = %+v, %v", got, err)
	}
	if _, err := s.Catalog.CacheTarget(t.Context(), pulp.NewID(), "hub/new", "new"); !fault.Is(err, fault.NotFound) {
		t.Errorf("CacheTarget of a deleted cache: %v", err)
	}
}

// TestPullThroughChangesReachTheCache proves that changes of privacy, remote, URL and credentials apply to cached repositories,
// and that the remotes of these cannot be changed themselves.
func TestPullThroughChangesReachTheCache(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	ctx := t.Context()
	remote, d := createCache(t, s, "hub")
	cached := cacheTarget(t, s, d, "app")
	edited, err := s.Catalog.EditPullThrough(ctx, nil, d.ID, 0, func(d *pulp.Distribution) { d.Private = false })
	if err != nil || edited.Private || !slices.Equal(edited.Cached, []string{cached.Distribution.ID}) {
		t.Errorf("EditPullThrough = %+v, %v", edited, err)
	}
	if to, err := s.Serving.Resolve(ctx, "hub/app"); err != nil || to.Distribution.Private {
		t.Errorf("the cached distribution stays private: %+v, %v", to.Distribution, err)
	}
	if _, err := s.Catalog.EditPullThroughRemote(ctx, nil, remote.ID, func(r *pulp.Remote) {
		r.URL, r.Secrets = "https://other.example", pulp.RemoteSecrets{}
	}); err != nil {
		t.Fatal(err)
	}
	m, err := s.Catalog.Remote(ctx, cached.Repository.RemoteID)
	if err != nil || m.URL != "https://other.example" || m.Secrets.Password != nil {
		t.Errorf("the remote of the cached repository: %+v, %v", m, err)
	}
	second, _ := createCache(t, s, "second")
	if _, err := s.Catalog.EditPullThrough(ctx, nil, d.ID, 0, func(d *pulp.Distribution) { d.RemoteID = second.ID }); err != nil {
		t.Fatal(err)
	}
	if m, err = s.Catalog.Remote(ctx, cached.Repository.RemoteID); err != nil || m.CacheID != second.ID || m.URL != second.URL {
		t.Errorf("after the change of the remote: %+v, %v", m, err)
	}
	for name, edit := range map[string]func(*pulp.Remote){
		"url": func(r *pulp.Remote) { r.URL = "https://evil.example" }, "name": func(r *pulp.Remote) { r.Name = "x" },
		"secrets": func(r *pulp.Remote) { r.Secrets.Password = text("other") },
	} {
		if _, err := s.Catalog.EditRemote(ctx, nil, m.ID, edit); !fault.Is(err, fault.Invalid) {
			t.Errorf("an edit of the %s: %v", name, err)
		}
	}
	labeled, err := s.Catalog.EditRemote(ctx, nil, m.ID, func(r *pulp.Remote) { r.Labels = pulp.Labels{"k": text("v")} })
	if err != nil || len(labeled.Labels) != 1 {
		t.Errorf("an edit of the labels: %+v, %v", labeled, err)
	}
}

// TestPullThroughDeletion proves that a deleted cache takes its repositories along, unless another distribution serves them,
// and that a deleted pull-through remote takes its credentials out of all remotes.
func TestPullThroughDeletion(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	ctx := t.Context()
	remote, d := createCache(t, s, "hub")
	gone, shared := cacheTarget(t, s, d, "gone"), cacheTarget(t, s, d, "shared")
	createDistribution(t, s, pulp.Distribution{Name: "own", BasePath: "own/shared", RepositoryID: shared.Repository.ID})
	if err := s.Catalog.DeletePullThrough(ctx, nil, d.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Catalog.RepositoryByID(ctx, gone.Repository.ID); !fault.Is(err, fault.NotFound) {
		t.Errorf("the cached repository exists: %v", err)
	}
	if _, err := s.Catalog.Remote(ctx, gone.Repository.RemoteID); !fault.Is(err, fault.NotFound) {
		t.Errorf("its remote exists: %v", err)
	}
	if _, err := s.Serving.Resolve(ctx, "hub/shared"); !fault.Is(err, fault.NotFound) {
		t.Errorf("a cached distribution exists: %v", err)
	}
	if r, err := s.Catalog.RepositoryByID(ctx, shared.Repository.ID); err != nil || r.RemoteID == "" {
		t.Errorf("the repository of another distribution: %+v, %v", r, err)
	}
	if err := s.Catalog.DeletePullThroughRemote(ctx, nil, remote.ID); err != nil {
		t.Fatal(err)
	}
	if r, err := s.Catalog.RepositoryByID(ctx, shared.Repository.ID); err != nil || r.RemoteID != "" {
		t.Errorf("the repository has a remote without a registry: %+v, %v", r, err)
	}
	_, second := createCache(t, s, "second")
	target := cacheTarget(t, s, second, "app")
	if err := s.Catalog.DeletePullThroughRemote(ctx, nil, second.RemoteID); err != nil {
		t.Fatal(err)
	}
	if left, err := s.Catalog.PullThrough(ctx, second.ID); err != nil || left.RemoteID != "" {
		t.Errorf("the cache without a remote: %+v, %v", left, err)
	}
	if _, err := s.Catalog.CacheTarget(ctx, second.ID, "second/new", "new"); !fault.Is(err, fault.NotFound) {
		t.Errorf("a cache without a remote created a repository: %v", err)
	}
	if err := s.Catalog.DeleteNamespace(ctx, nil, second.NamespaceID); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Catalog.RepositoryByID(ctx, target.Repository.ID); !fault.Is(err, fault.NotFound) {
		t.Errorf("a repository of the deleted namespace exists: %v", err)
	}
}

// TestPullThroughConflicts proves that a cache overlaps with ordinary distributions, but not with caches, and that names and
// equal paths are taken across both kinds.
func TestPullThroughConflicts(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	remote, _ := createCache(t, s, "hub/docker")
	createDistribution(t, s, pulp.Distribution{Name: "plain", BasePath: "hub/docker/own"})
	createDistribution(t, s, pulp.Distribution{Name: "above", BasePath: "acme"})
	for name, tt := range map[string]struct {
		d      pulp.Distribution
		fields []string
	}{
		"a cache below a cache":         {pulp.Distribution{PullThrough: true, Name: "n", BasePath: "hub/docker/io"}, []string{catalog.OverlapField}},
		"a cache above a cache":         {pulp.Distribution{PullThrough: true, Name: "n", BasePath: "hub"}, []string{catalog.OverlapField}},
		"a cache at the path of one":    {pulp.Distribution{PullThrough: true, Name: "n", BasePath: "hub/docker"}, []string{"base_path"}},
		"a cache below a distribution":  {pulp.Distribution{PullThrough: true, Name: "n", BasePath: "acme/hub"}, nil},
		"a cache at a distribution":     {pulp.Distribution{PullThrough: true, Name: "n", BasePath: "acme"}, []string{"base_path"}},
		"a cache named like one":        {pulp.Distribution{PullThrough: true, Name: "plain", BasePath: "x"}, []string{"name"}},
		"a distribution below a cache":  {pulp.Distribution{Name: "n", BasePath: "hub/docker/mine"}, nil},
		"a distribution at a cache":     {pulp.Distribution{Name: "n", BasePath: "hub/docker"}, []string{"base_path"}},
		"a distribution named like one": {pulp.Distribution{Name: "hub/docker", BasePath: "y"}, []string{"name"}},
	} {
		t.Run(name, func(t *testing.T) {
			conflict, err := s.Catalog.DistributionConflict(t.Context(), tt.d)
			if err != nil || !slices.Equal(errorFields(conflict), tt.fields) {
				t.Errorf("DistributionConflict = %v, %v, want fields %v", conflict, err, tt.fields)
			}
			if tt.d.PullThrough {
				tt.d.RemoteID = remote.ID
				created, err := s.Catalog.CreatePullThrough(t.Context(), nil, tt.d, 0)
				if !slices.Equal(errorFields(err), tt.fields) {
					t.Errorf("CreatePullThrough: %v, want fields %v", err, tt.fields)
				}
				if err == nil {
					if err := s.Catalog.DeletePullThrough(t.Context(), nil, created.ID); err != nil {
						t.Fatal(err)
					}
				}
			}
		})
	}
}

// TestCacheInheritsRoles proves that roles on a pull-through distribution, and model-wide ones for such, apply to the cached
// distributions and repositories, in decisions and in lists, and only to them.
func TestCacheInheritsRoles(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	_, d := createCache(t, s, "hub")
	cached := cacheTarget(t, s, d, "app")
	other := createDistribution(t, s, pulp.Distribution{
		Name: "hub/other", BasePath: "hub/other", Private: true, RepositoryID: createRepository(t, s, pulp.Repository{Name: "hub/other"}).ID,
	})
	consumer, owner, wide := storetest.User(t, s, "consumer"), storetest.User(t, s, "owner"), storetest.User(t, s, "wide")
	key := access.Key(access.PullThrough, d.ID)
	storetest.Grant(t, s, consumer.ID, "container.containerpullthroughdistribution_consumer", key)
	storetest.Grant(t, s, owner.ID, access.PullThroughOwner, key)
	storetest.Grant(t, s, wide.ID, "container.containerpullthroughdistribution_consumer", "")
	decider := s.Accounts.NewDecider(nil)
	may := func(u pulp.User, action access.Action, d pulp.Distribution) bool {
		t.Helper()
		c := &access.Caller{Account: u}
		byID, err := decider.Allow(t.Context(), c, action, access.OfDistribution(d), d.ID)
		if err != nil {
			t.Fatal(err)
		}
		byPath, err := decider.AllowPath(t.Context(), c, action, access.OfDistribution(d))
		if err != nil || byPath != byID {
			t.Errorf("%s %s %s: %t by id, %t by path, %v", u.Username, action, d.BasePath, byID, byPath, err)
		}
		return byID
	}
	for _, tt := range []struct {
		user    pulp.User
		action  access.Action
		allowed bool
	}{
		{consumer, access.Pull, true}, {consumer, access.View, true}, {consumer, access.Change, false}, {consumer, access.Push, false},
		{owner, access.Pull, true}, {owner, access.Change, true}, {owner, access.Delete, true}, {owner, access.Push, false},
		{wide, access.Pull, true}, {wide, access.Delete, false},
	} {
		if got := may(tt.user, tt.action, cached.Distribution); got != tt.allowed {
			t.Errorf("%s may %s the cached distribution: %t, want %t", tt.user.Username, tt.action, got, tt.allowed)
		}
		if may(tt.user, tt.action, other) {
			t.Errorf("%s may %s a distribution that no pull created", tt.user.Username, tt.action)
		}
	}
	for _, u := range []pulp.User{consumer, owner, wide} {
		visible := list.Query{Where: []list.Filter{list.VisibleTo(storetest.ViewerOf(t, s, u.Username))}, Limit: 10}
		found, _, err := s.Lists.Distributions(t.Context(), visible)
		if err != nil || len(found) != 1 || found[0].ID != cached.Distribution.ID {
			t.Errorf("%s sees the distributions %+v, %v", u.Username, found, err)
		}
		repos, _, err := s.Lists.Repositories(t.Context(), visible)
		if err != nil || len(repos) != 1 || repos[0].ID != cached.Repository.ID {
			t.Errorf("%s sees the repositories %+v, %v", u.Username, repos, err)
		}
		all, _, err := list.AnyDistributionList.Rows(t.Context(), s.Lists, visible)
		if err != nil || len(all) != 2 || !all[0].PullThrough == !all[1].PullThrough {
			t.Errorf("%s sees in the list of all kinds %+v, %v", u.Username, all, err)
		}
	}
	modify, err := decider.Allow(t.Context(), &access.Caller{Account: owner}, access.Modify, access.OfRepository(cached.Repository), cached.Repository.ID)
	if err != nil || !modify {
		t.Errorf("the owner may modify the cached repository: %t, %v", modify, err)
	}
	// Another repository or path does not inherit the roles.
	if _, err := s.Catalog.EditDistribution(t.Context(), nil, cached.Distribution.ID, 0, func(d *pulp.Distribution) {
		d.RepositoryID = other.RepositoryID
	}); err != nil {
		t.Fatal(err)
	}
	left, err := s.Catalog.Distribution(t.Context(), cached.Distribution.ID)
	if err != nil || left.CacheID != "" || may(owner, access.Pull, left) {
		t.Errorf("a distribution of another repository stays in the cache: %+v, %v", left, err)
	}
}
