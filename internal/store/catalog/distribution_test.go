package catalog_test

import (
	"errors"
	"maps"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store"
	"github.com/countersign/countersign/internal/store/catalog"
	"github.com/countersign/countersign/internal/store/content"
	"github.com/countersign/countersign/internal/store/storetest"
)

// createDistribution creates a distribution outside a task.
func createDistribution(t *testing.T, s *store.Store, d pulp.Distribution) pulp.Distribution {
	t.Helper()
	created, err := s.Catalog.CreateDistribution(t.Context(), nil, d, 0)
	if err != nil {
		t.Fatal(err)
	}
	return created
}

// errorFields returns the fields of an error in alphabetical order, nil for no error.
func errorFields(err error) []string {
	e, ok := errors.AsType[*fault.Error](err)
	if !ok {
		return nil
	}
	return slices.Sorted(maps.Keys(e.Fields))
}

func TestCreateDistributionFields(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	r := createRepository(t, s, pulp.Repository{Name: "acme/app"})
	text, label := "text", "value"
	want := pulp.Distribution{
		Name: "dist", BasePath: "team/app", RepositoryID: r.ID, Private: true, Hidden: true, Description: &text,
		Labels: pulp.Labels{"label": &label, "bare": nil},
	}
	created := createDistribution(t, s, want)
	want.ID, want.NamespaceID, want.Repository, want.Stamps = created.ID, created.NamespaceID, pulp.Container, created.Stamps
	stored, err := s.Catalog.Distribution(t.Context(), created.ID)
	if err != nil {
		t.Fatal(err)
	}
	for name, got := range map[string]pulp.Distribution{"created": created, "stored": stored} {
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	n, err := s.Catalog.CreateNamespace(t.Context(), pulp.Namespace{Name: "team"}, 0)
	if !slices.Equal(errorFields(err), []string{"name"}) {
		t.Errorf("the namespace of the path was not created: %+v, %v", n, err)
	}
}

// TestDistributionConflicts proves that names are unique and base paths neither equal nor nested, in the check before a
// task, in a creation and in an edit.
func TestDistributionConflicts(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	createDistribution(t, s, pulp.Distribution{Name: "taken", BasePath: "a/b/c"})
	other := createDistribution(t, s, pulp.Distribution{Name: "other", BasePath: "other"})
	for name, tt := range map[string]struct {
		name, path string
		fields     []string // of the error; nil: no conflict
	}{
		"the same name":            {name: "taken", path: "x", fields: []string{"name"}},
		"the same path":            {name: "new", path: "a/b/c", fields: []string{"base_path"}},
		"the same name and path":   {name: "taken", path: "a/b/c", fields: []string{"base_path", "name"}},
		"a path below":             {name: "new", path: "a/b/c/d", fields: []string{catalog.OverlapField}},
		"a path far below":         {name: "new", path: "a/b/c/d/e/f", fields: []string{catalog.OverlapField}},
		"a path above":             {name: "new", path: "a/b", fields: []string{catalog.OverlapField}},
		"the first part":           {name: "new", path: "a", fields: []string{catalog.OverlapField}},
		"a longer last part":       {name: "new", path: "a/b/cd"},
		"a part with a hyphen":     {name: "new", path: "a/b/c-d/e"},
		"a part with a period":     {name: "new", path: "a/b/c.d"},
		"a sibling":                {name: "new", path: "a/b/d"},
		"a name like another path": {name: "a/b/c", path: "y"},
	} {
		t.Run(name, func(t *testing.T) {
			conflict, err := s.Catalog.DistributionConflict(t.Context(), pulp.Distribution{ID: other.ID, Name: tt.name, BasePath: tt.path})
			if err != nil || !slices.Equal(errorFields(conflict), tt.fields) {
				t.Errorf("DistributionConflict = %v, %v, want fields %v", conflict, err, tt.fields)
			}
			created, err := s.Catalog.CreateDistribution(t.Context(), nil, pulp.Distribution{Name: tt.name, BasePath: tt.path}, 0)
			if !slices.Equal(errorFields(err), tt.fields) {
				t.Errorf("CreateDistribution: %v, want fields %v", err, tt.fields)
			}
			if err == nil {
				if err := s.Catalog.DeleteDistribution(t.Context(), nil, created.ID); err != nil {
					t.Fatal(err)
				}
			}
			_, err = s.Catalog.EditDistribution(t.Context(), nil, other.ID, 0, func(d *pulp.Distribution) { d.Name, d.BasePath = tt.name, tt.path })
			if !slices.Equal(errorFields(err), tt.fields) {
				t.Errorf("EditDistribution: %v, want fields %v", err, tt.fields)
			}
			restore := func(d *pulp.Distribution) { d.Name, d.BasePath = other.Name, other.BasePath }
			if _, err := s.Catalog.EditDistribution(t.Context(), nil, other.ID, 0, restore); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// TestPinnedDistribution proves that a pinned distribution serves its version, keeps it from being deleted by retention, and
// is none of the repository's distributions until it follows the latest version.
func TestPinnedDistribution(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	r := createRepository(t, s, pulp.Repository{Name: "acme/app"})
	old, v := storetest.PushImage(t, s, r.ID, "old", "v1")
	one := int64(1)
	if _, err := s.Catalog.EditRepository(t.Context(), nil, pulp.Container, r.ID, func(r *pulp.Repository) { r.RetainRepoVersions = &one }); err != nil {
		t.Fatal(err)
	}
	pinned := createDistribution(t, s, pulp.Distribution{
		Name: "pinned", BasePath: "pinned", Pinned: &pulp.PinnedVersion{VersionID: v.ID, RepositoryID: r.ID},
	})
	if pinned.Pinned == nil || pinned.Pinned.Number != v.Number || pinned.RepositoryID != "" {
		t.Errorf("created %+v, want it pinned to version %d", pinned, v.Number)
	}
	storetest.PushImage(t, s, r.ID, "new", "v1")
	if is, err := s.Catalog.VersionPinned(t.Context(), v.ID); err != nil || !is {
		t.Errorf("VersionPinned = %t, %v", is, err)
	}
	to, err := s.Serving.Resolve(t.Context(), "pinned")
	if err != nil {
		t.Fatal(err)
	}
	if m, err := s.Serving.ServedManifest(t.Context(), to, "v1"); err != nil || m.Digest != old.Digest {
		t.Errorf("v1 is %s, %v, want the pinned version's %s", m.Digest, err, old.Digest)
	}
	if got, err := s.Catalog.RepositoryDistributions(t.Context(), r.ID); err != nil || len(got) != 0 {
		t.Errorf("RepositoryDistributions = %+v, %v, want none", got, err)
	}
	if _, err := s.Catalog.PushTarget(t.Context(), catalog.FirstPush{BasePath: "pinned", Type: pulp.ContainerPush}); !fault.Is(err, fault.Conflict) {
		t.Errorf("a push to the pinned path: %v, want Conflict", err)
	}
	follow := func(d *pulp.Distribution) { d.Pinned, d.RepositoryID = nil, r.ID }
	if d, err := s.Catalog.EditDistribution(t.Context(), nil, pinned.ID, 0, follow); err != nil || d.Pinned != nil || d.RepositoryID != r.ID {
		t.Errorf("EditDistribution = %+v, %v", d, err)
	}
	if is, err := s.Catalog.VersionPinned(t.Context(), v.ID); err != nil || is {
		t.Errorf("after the edit VersionPinned = %t, %v", is, err)
	}
}

func TestDistributionOfMissingObject(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	served := createDistribution(t, s, pulp.Distribution{Name: "d", BasePath: "d"})
	for name, tt := range map[string]struct {
		edit  func(*pulp.Distribution)
		field string
	}{
		"no repository": {edit: func(d *pulp.Distribution) { d.RepositoryID = pulp.NewID() }, field: "repository"},
		"no version": {
			edit:  func(d *pulp.Distribution) { d.Pinned = &pulp.PinnedVersion{VersionID: pulp.NewID()} },
			field: "repository_version",
		},
	} {
		t.Run(name, func(t *testing.T) {
			d := pulp.Distribution{Name: "new", BasePath: "new"}
			tt.edit(&d)
			if _, err := s.Catalog.CreateDistribution(t.Context(), nil, d, 0); !slices.Equal(errorFields(err), []string{tt.field}) {
				t.Errorf("CreateDistribution: %v, want an error of the field %s", err, tt.field)
			}
			if _, err := s.Catalog.EditDistribution(t.Context(), nil, served.ID, 0, tt.edit); !slices.Equal(errorFields(err), []string{tt.field}) {
				t.Errorf("EditDistribution: %v, want an error of the field %s", err, tt.field)
			}
		})
	}
	for name, err := range map[string]error{
		"find":        second(s.Catalog.Distribution(t.Context(), pulp.NewID())),
		"edit":        second(s.Catalog.EditDistribution(t.Context(), nil, pulp.NewID(), 0, func(*pulp.Distribution) {})),
		"delete":      s.Catalog.DeleteDistribution(t.Context(), nil, pulp.NewID()),
		"set private": s.Catalog.SetPrivate(t.Context(), "absent", true),
	} {
		if !fault.Is(err, fault.NotFound) {
			t.Errorf("%s: %v, want NotFound", name, err)
		}
	}
}

// second returns the error of a call with two results.
func second[T any](_ T, err error) error { return err }

// TestDeleteDistributionOfPush proves that the repository of a first push is deleted with the last distribution that serves
// it, and that other repositories remain.
func TestDeleteDistributionOfPush(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		also  func(*testing.T, *store.Store, pulp.Repository) // after the first push
		stays bool
	}{
		"only distribution": {also: func(*testing.T, *store.Store, pulp.Repository) {}},
		"another distribution serves it": {stays: true, also: func(t *testing.T, s *store.Store, r pulp.Repository) {
			createDistribution(t, s, pulp.Distribution{Name: "second", BasePath: "second", RepositoryID: r.ID})
		}},
		"another distribution is pinned to it": {stays: true, also: func(t *testing.T, s *store.Store, r pulp.Repository) {
			v, err := s.Content.Version(t.Context(), r.ID, 0)
			if err != nil {
				t.Fatal(err)
			}
			pinned := &pulp.PinnedVersion{VersionID: v.ID, RepositoryID: r.ID}
			createDistribution(t, s, pulp.Distribution{Name: "second", BasePath: "second", Pinned: pinned})
		}},
		"it was not created by a push": {stays: true, also: func(t *testing.T, s *store.Store, r pulp.Repository) {
			storetest.Exec(t, s, `UPDATE repository SET made_by_push = FALSE WHERE id = $1`, r.ID)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := storetest.Open(t)
			target := storetest.Target(t, s, "acme/app")
			tt.also(t, s, target.Repository)
			if err := s.Catalog.DeleteDistribution(t.Context(), nil, target.Distribution.ID); err != nil {
				t.Fatal(err)
			}
			_, err := s.Catalog.RepositoryByID(t.Context(), target.Repository.ID)
			if stays := err == nil; stays != tt.stays || err != nil && !fault.Is(err, fault.NotFound) {
				t.Errorf("the repository: %v, want that it remains: %t", err, tt.stays)
			}
		})
	}
}

func TestRepositoryDistributionsAreSorted(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	r := createRepository(t, s, pulp.Repository{Name: "acme/app"})
	for _, path := range []string{"b", "c", "a"} {
		createDistribution(t, s, pulp.Distribution{Name: path, BasePath: path, RepositoryID: r.ID})
	}
	createDistribution(t, s, pulp.Distribution{Name: "empty", BasePath: "empty"})
	got, err := s.Catalog.RepositoryDistributions(t.Context(), r.ID)
	if err != nil {
		t.Fatal(err)
	}
	var paths []string
	for _, d := range got {
		paths = append(paths, d.BasePath)
	}
	if want := []string{"a", "b", "c"}; !slices.Equal(paths, want) {
		t.Errorf("RepositoryDistributions = %v, want %v", paths, want)
	}
}

// TestEditedPathIsResolved proves that the serving cache does not keep the target of an edited distribution.
func TestEditedPathIsResolved(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	target := storetest.Target(t, s, "acme/app")
	if _, err := s.Serving.Resolve(t.Context(), "acme/app"); err != nil {
		t.Fatal(err)
	}
	if err := s.Catalog.SetPrivate(t.Context(), "acme/app", true); err != nil {
		t.Fatal(err)
	}
	if to, err := s.Serving.Resolve(t.Context(), "acme/app"); err != nil || !to.Distribution.Private {
		t.Errorf("after SetPrivate: %+v, %v", to.Distribution, err)
	}
	move := func(d *pulp.Distribution) { d.BasePath = "team/app" }
	if d, err := s.Catalog.EditDistribution(t.Context(), nil, target.Distribution.ID, 0, move); err != nil || d.NamespaceID == target.Distribution.NamespaceID {
		t.Errorf("the moved distribution is %+v, %v, want another namespace", d, err)
	}
	if _, err := s.Serving.Resolve(t.Context(), "acme/app"); !fault.Is(err, fault.NotFound) {
		t.Errorf("the old path: %v, want NotFound", err)
	}
	if to, err := s.Serving.Resolve(t.Context(), "team/app"); err != nil || to.Repository.ID != target.Repository.ID {
		t.Errorf("the new path: %+v, %v", to, err)
	}
}

// TestDeleteNamespace proves that a namespace is deleted with its distributions and the repositories of their pushes, and no
// others.
func TestDeleteNamespace(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	pushed, other := storetest.Target(t, s, "acme/app"), storetest.Target(t, s, "team/app")
	r := createRepository(t, s, pulp.Repository{Name: "acme/made"})
	d := createDistribution(t, s, pulp.Distribution{Name: "made", BasePath: "acme/made", RepositoryID: r.ID})
	claim := storetest.StartTask(t, s)
	if err := s.Catalog.DeleteNamespace(t.Context(), claim, pushed.Distribution.NamespaceID); err != nil {
		t.Fatal(err)
	}
	want := `{"container.ContainerDistribution":2,"container.ContainerNamespace":1,"container.ContainerPushRepository":1}`
	if task, err := s.Tasks.Task(t.Context(), claim.TaskID); err != nil || string(task.Result) != want {
		t.Errorf("the task's result is %s, %v, want %s", task.Result, err, want)
	}
	for name, err := range map[string]error{
		"pushed repository":    second(s.Catalog.RepositoryByID(t.Context(), pushed.Repository.ID)),
		"pushed distribution":  second(s.Catalog.Distribution(t.Context(), pushed.Distribution.ID)),
		"created distribution": second(s.Catalog.Distribution(t.Context(), d.ID)),
		"namespace, again":     s.Catalog.DeleteNamespace(t.Context(), nil, pushed.Distribution.NamespaceID),
	} {
		if !fault.Is(err, fault.NotFound) {
			t.Errorf("%s: %v, want NotFound", name, err)
		}
	}
	for name, err := range map[string]error{
		"created repository":     second(s.Catalog.RepositoryByID(t.Context(), r.ID)),
		"another's distribution": second(s.Catalog.Distribution(t.Context(), other.Distribution.ID)),
		"another's repository":   second(s.Catalog.RepositoryByID(t.Context(), other.Repository.ID)),
	} {
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestFailedEditChangesNothing proves that an edit whose task was lost to another worker is rolled back.
func TestFailedEditChangesNothing(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	target := storetest.Target(t, s, "acme/app")
	lost := storetest.StartTask(t, s)
	lost.Attempt++
	if _, err := s.Catalog.EditDistribution(t.Context(), lost, target.Distribution.ID, 0, func(d *pulp.Distribution) { d.Hidden = true }); err == nil {
		t.Error("an edit with a lost claim succeeded")
	}
	if d, err := s.Catalog.Distribution(t.Context(), target.Distribution.ID); err != nil || d.Hidden {
		t.Errorf("after the failed edit: %+v, %v", d, err)
	}
	if err := s.Catalog.DeleteRepository(t.Context(), lost, pulp.ContainerPush, target.Repository.ID); err == nil {
		t.Error("a deletion with a lost claim succeeded")
	}
	if _, err := s.Content.PutManifest(t.Context(), content.PutManifest{
		RepositoryID: target.Repository.ID,
		Manifest:     storetest.Image(storetest.PushBlob(t, s, target.Repository.ID, "c"), storetest.PushBlob(t, s, target.Repository.ID, "l")),
	}); err != nil {
		t.Errorf("a push after the failed deletion: %v", err)
	}
}
