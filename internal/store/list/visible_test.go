package list_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store"
	"github.com/countersign/countersign/internal/store/list"
	"github.com/countersign/countersign/internal/store/storetest"
	"github.com/countersign/countersign/internal/store/taskstore"
)

// counts returns the number of rows that a user sees in each list.
func counts(t *testing.T, s *store.Store, user string) map[string]int64 {
	t.Helper()
	q := list.Query{Where: []list.Filter{list.VisibleTo(storetest.ViewerOf(t, s, user))}, Limit: 10}
	n := map[string]int64{}
	note := func(name string, count int64, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(name, err)
		}
		n[name] = count
	}
	_, count, err := s.Lists.Repositories(t.Context(), q)
	note("repositories", count, err)
	_, count, err = s.Lists.Versions(t.Context(), q)
	note("versions", count, err)
	_, count, err = s.Lists.Distributions(t.Context(), q)
	note("distributions", count, err)
	_, count, err = s.Lists.Namespaces(t.Context(), q)
	note("namespaces", count, err)
	_, count, err = s.Lists.Remotes(t.Context(), q)
	note("remotes", count, err)
	_, count, err = s.Lists.Tags(t.Context(), q)
	note("tags", count, err)
	_, count, err = s.Lists.Manifests(t.Context(), q)
	note("manifests", count, err)
	_, count, err = s.Lists.Blobs(t.Context(), q)
	note("blobs", count, err)
	_, count, err = s.Lists.Signatures(t.Context(), q)
	note("signatures", count, err)
	_, count, err = s.Lists.SigningServices(t.Context(), q)
	note("signing services", count, err)
	_, count, err = s.Lists.Tasks(t.Context(), q)
	note("tasks", count, err)
	_, count, err = s.Lists.Workers(t.Context(), q)
	note("workers", count, err)
	return n
}

// TestVisibleTo proves that a private repository is visible in its namespace only, with all that it has.
func TestVisibleTo(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	target := storetest.Target(t, s, "acme/app")
	m, _ := storetest.PushImage(t, s, target.Repository.ID, "one", "v1")
	signature := storetest.SignatureOf(t, s, target, m, "signature")
	if _, err := s.Signatures.PutSignature(t.Context(), target.Repository.ID, m.Digest, signature); err != nil {
		t.Fatal(err)
	}
	remote := pulp.Remote{Name: "acme/remote", URL: "https://remote.example", UpstreamName: "app", Policy: pulp.Immediate}
	if _, err := s.Catalog.CreateRemote(t.Context(), remote, 0); err != nil {
		t.Fatal(err)
	}
	storetest.AddService(t, s, "release")
	storetest.StartTask(t, s)
	if err := s.Tasks.Beat(t.Context(), pulp.Worker{ID: pulp.NewID(), Name: "worker"}); err != nil {
		t.Fatal(err)
	}
	everything := map[string]int64{
		"repositories": 1, "versions": 3, "distributions": 1, "namespaces": 1, "remotes": 1, "tags": 1, "manifests": 1, "blobs": 2,
		"signatures": 1, "signing services": 0, "tasks": 0, "workers": 1,
	}
	public, nothing := map[string]int64{}, map[string]int64{}
	for name, n := range everything {
		public[name], nothing[name] = n, 0
	}
	public["remotes"], nothing["workers"] = 0, 1
	for _, step := range []struct {
		user    string
		private bool
		want    map[string]int64
	}{
		{user: "acme", want: everything},
		{user: "carol", want: public},
		{user: "acm", want: public},
		{user: "acme", private: true, want: everything},
		{user: "carol", private: true, want: nothing},
		{user: "acm", private: true, want: nothing},
		{user: "%", private: true, want: nothing},
	} {
		if err := s.Catalog.SetPrivate(t.Context(), "acme/app", step.private); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(step.want, counts(t, s, step.user)); diff != "" {
			t.Errorf("rows for %s, private: %t (-want +got):\n%s", step.user, step.private, diff)
		}
	}
}

// TestGone proves that Gone returns the hrefs of deleted objects and ignores objects that it does not know.
func TestGone(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	target := storetest.Target(t, s, "acme/app")
	r := createRepository(t, s, pulp.Repository{Name: "r"})
	there := []string{
		pulp.RepositoryHref(r.Type, r.ID), pulp.VersionHref(r.Type, r.ID, 0), pulp.Href(pulp.DistributionCollection, target.Distribution.ID),
		pulp.Href(pulp.NamespaceCollection, target.Distribution.NamespaceID),
	}
	gone := []string{
		pulp.RepositoryHref(r.Type, pulp.NewID()), pulp.VersionHref(r.Type, r.ID, 7), pulp.Href(pulp.DistributionCollection, pulp.NewID()),
		pulp.Href(pulp.RemoteCollection, pulp.NewID()), pulp.Href(pulp.TagCollection, pulp.NewID()),
	}
	unknown := []string{"", "/elsewhere/", pulp.Href(pulp.TaskCollection, pulp.NewID())}
	want := map[string]bool{}
	for _, href := range gone {
		want[href] = true
	}
	got, err := s.Lists.Gone(t.Context(), append(append(there, gone...), unknown...))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("gone (-want +got):\n%s", diff)
	}
}

// TestTaskListHidesArguments proves that listed tasks lack their arguments, which may hold secrets.
func TestTaskListHidesArguments(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	_, err := s.Tasks.CreateTask(t.Context(), taskstore.NewTask{Name: "test", Origin: taskstore.OriginSystem, Args: map[string]string{"secret": "x"}})
	if err != nil {
		t.Fatal(err)
	}
	tasks, _, err := s.Lists.Tasks(t.Context(), list.Query{Limit: 10})
	if err != nil || len(tasks) != 1 || string(tasks[0].Args) != "null" {
		t.Errorf("Tasks = %+v, %v, want one without arguments", tasks, err)
	}
}
