package catalog_test

import (
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store"
	"github.com/countersign/countersign/internal/store/storetest"
	"github.com/countersign/countersign/internal/store/taskstore"
)

// createRepository creates a repository, of type container unless r has a type.
func createRepository(t *testing.T, s *store.Store, r pulp.Repository) pulp.Repository {
	t.Helper()
	if r.Type == "" {
		r.Type = pulp.Container
	}
	created, err := s.Catalog.CreateRepository(t.Context(), r, 0)
	if err != nil {
		t.Fatal(err)
	}
	return created
}

// createRemote creates a remote with a name.
func createRemote(t *testing.T, s *store.Store, name string) pulp.Remote {
	t.Helper()
	m, err := s.Catalog.CreateRemote(t.Context(), pulp.Remote{Name: name, URL: "https://x", UpstreamName: "a/b", Policy: pulp.OnDemand}, 0)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestCreateRepositoryFields(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	m, text, retain := createRemote(t, s, "remote"), "text", int64(3)
	r := createRepository(t, s, pulp.Repository{
		Name: "acme/app", Description: &text, Labels: pulp.Labels{"label": &text}, RetainRepoVersions: &retain, RemoteID: m.ID, AllowShrink: true,
	})
	for name, find := range map[string]func() (pulp.Repository, error){
		"by name":        func() (pulp.Repository, error) { return s.Catalog.RepositoryByName(t.Context(), "acme/app") },
		"by id":          func() (pulp.Repository, error) { return s.Catalog.RepositoryByID(t.Context(), r.ID) },
		"by type and id": func() (pulp.Repository, error) { return s.Catalog.Repository(t.Context(), pulp.Container, r.ID) },
	} {
		got, err := find()
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(r, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	if v, err := s.Content.Version(t.Context(), r.ID, 0); err != nil || v.RepositoryID != r.ID {
		t.Errorf("version 0: %+v, %v", v, err)
	}
	if _, err := s.Catalog.Repository(t.Context(), pulp.ContainerPush, r.ID); !fault.Is(err, fault.NotFound) {
		t.Errorf("as another type: %v, want NotFound", err)
	}
	if _, err := s.Catalog.CreateRepository(t.Context(), pulp.Repository{Type: pulp.ContainerPush, Name: "acme/app"}, 0); !slices.Equal(errorFields(err), []string{"name"}) {
		t.Errorf("a taken name: %v, want an error of the field name", err)
	}
}

func TestEditRepository(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	r := storetest.Target(t, s, "acme/app").Repository
	createRepository(t, s, pulp.Repository{Name: "taken"})
	service := storetest.AddService(t, s, "release").ID
	edit := func(edit func(*pulp.Repository)) (pulp.Repository, error) {
		return s.Catalog.EditRepository(t.Context(), nil, r.Type, r.ID, edit)
	}
	got, err := edit(func(r *pulp.Repository) {
		r.ID, r.Type = pulp.NewID(), pulp.Container
		r.SigningServiceID, r.SigningAssigned = service, pulp.AssignedByOwner
	})
	if err != nil || got.ID != r.ID || got.Type != r.Type || got.SigningServiceID != service || got.SigningAssigned != pulp.AssignedByOwner {
		t.Errorf("EditRepository = %+v, %v, want the id and type unchanged", got, err)
	}
	if got, err := edit(func(r *pulp.Repository) { r.SigningServiceID = "" }); err != nil || got.SigningAssigned != "" {
		t.Errorf("without a service it is %+v, %v, want no assigner", got, err)
	}
	if _, err := edit(func(r *pulp.Repository) { r.Name = "taken" }); !slices.Equal(errorFields(err), []string{"name"}) {
		t.Errorf("a taken name: %v, want an error of the field name", err)
	}
	if _, err := s.Catalog.EditRepository(t.Context(), nil, pulp.Container, r.ID, func(*pulp.Repository) {}); !fault.Is(err, fault.NotFound) {
		t.Errorf("an edit as another type: %v, want NotFound", err)
	}
}

// TestLowerRetentionDeletesVersions proves that an edit of RetainRepoVersions applies at once.
func TestLowerRetentionDeletesVersions(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	r := storetest.Target(t, s, "acme/app").Repository
	for _, text := range []string{"one", "two", "three"} {
		storetest.PushImage(t, s, r.ID, text, "v1")
	}
	two := int64(2)
	got, err := s.Catalog.EditRepository(t.Context(), nil, r.Type, r.ID, func(r *pulp.Repository) { r.RetainRepoVersions = &two })
	if err != nil || got.LatestVersion != 3 {
		t.Fatalf("EditRepository = %+v, %v", got, err)
	}
	for number, want := range map[int64]bool{0: false, 1: false, 2: true, 3: true} {
		if _, err := s.Content.Version(t.Context(), r.ID, number); (err == nil) != want || err != nil && !fault.Is(err, fault.NotFound) {
			t.Errorf("version %d: %v, want that it exists: %t", number, err, want)
		}
	}
}

func TestDeleteRepository(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	target := storetest.Target(t, s, "acme/app")
	storetest.PushImage(t, s, target.Repository.ID, "one", "v1")
	if err := s.Catalog.DeleteRepository(t.Context(), nil, pulp.Container, target.Repository.ID); !fault.Is(err, fault.NotFound) {
		t.Errorf("as another type: %v, want NotFound", err)
	}
	claim := storetest.StartTask(t, s)
	if err := s.Catalog.DeleteRepository(t.Context(), claim, pulp.ContainerPush, target.Repository.ID); err != nil {
		t.Fatal(err)
	}
	task, err := s.Tasks.Task(t.Context(), claim.TaskID)
	if want := `{"container.ContainerPushRepository":1}`; err != nil || task.State != taskstore.TaskCompleted || string(task.Result) != want {
		t.Errorf("the task is %s with %s, %v, want %s", task.State, task.Result, err, want)
	}
	if _, err := s.Content.Version(t.Context(), target.Repository.ID, 1); !fault.Is(err, fault.NotFound) {
		t.Errorf("its version: %v, want NotFound", err)
	}
	if d, err := s.Catalog.Distribution(t.Context(), target.Distribution.ID); err != nil || d.RepositoryID != "" {
		t.Errorf("its distribution is %+v, %v, want that it serves nothing", d, err)
	}
}

// TestMigratedRepository proves that a migration changes the type only, and that tasks that reserve the repository keep
// their place in its queue under the new href.
func TestMigratedRepository(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	target := storetest.Target(t, s, "acme/app")
	m, _ := storetest.PushImage(t, s, target.Repository.ID, "one", "v1")
	before := pulp.RepositoryHref(pulp.ContainerPush, target.Repository.ID)
	after := pulp.RepositoryHref(pulp.Container, target.Repository.ID)
	claim := storetest.StartTask(t, s, taskstore.Resource{Href: before, Exclusive: true})
	queue := func(href string) taskstore.Task {
		t.Helper()
		k, err := s.Tasks.CreateTask(t.Context(), taskstore.NewTask{
			Name: "test", Origin: taskstore.OriginSystem, Resources: []taskstore.Resource{{Href: href, Exclusive: true}},
		})
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	second := queue(before)
	if err := s.Catalog.MigrateRepository(t.Context(), claim, target.Repository.ID); err != nil {
		t.Fatal(err)
	}
	third := queue(after)
	task, err := s.Tasks.Task(t.Context(), claim.TaskID)
	if err != nil || task.State != taskstore.TaskCompleted || len(task.Created) != 1 || task.Created[0].Href != after {
		t.Errorf("the task is %+v, %v, want that it created %s", task, err, after)
	}
	r, err := s.Catalog.Repository(t.Context(), pulp.Container, target.Repository.ID)
	if err != nil || r.Name != "acme/app" || r.LatestVersion != 1 {
		t.Errorf("the repository is %+v, %v", r, err)
	}
	to, err := s.Serving.Resolve(t.Context(), "acme/app")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := s.Serving.ServedManifest(t.Context(), to, "v1"); err != nil || got.Digest != m.Digest {
		t.Errorf("v1 is %s, %v", got.Digest, err)
	}
	for _, step := range []struct {
		task taskstore.Task
		want bool
	}{{task: third, want: false}, {task: second, want: true}} {
		k, err := s.Tasks.ClaimTask(t.Context(), "worker", step.task.ID, nil, time.Minute)
		if err != nil || (k != nil) != step.want {
			t.Errorf("claim of task %d: %+v, %v, want that it is ready: %t", step.task.Seq, k, err, step.want)
		}
	}
	if err := s.Catalog.MigrateRepository(t.Context(), nil, target.Repository.ID); !fault.Is(err, fault.NotFound) {
		t.Errorf("a second migration: %v, want NotFound", err)
	}
}

func TestNameTaken(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	createRepository(t, s, pulp.Repository{Name: "a/repository"})
	createDistribution(t, s, pulp.Distribution{Name: "a/name", BasePath: "a/path"})
	for path, want := range map[string]bool{"a/repository": true, "a/path": true, "a/name": false, "a": false} {
		if got, err := s.Catalog.NameTaken(t.Context(), path); err != nil || got != want {
			t.Errorf("NameTaken(%q) = %t, %v, want %t", path, got, err, want)
		}
	}
}
