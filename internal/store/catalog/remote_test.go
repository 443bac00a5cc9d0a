package catalog_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/storetest"
	"github.com/countersign/countersign/internal/store/taskstore"
)

func TestRemote(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	sigstore, value := "https://signatures.example", "value"
	m, err := s.Catalog.CreateRemote(t.Context(), pulp.Remote{
		Name: "acme/remote", URL: "https://remote.example", UpstreamName: "app", Policy: pulp.Immediate, Includes: []string{"v*"},
		Excludes: []string{}, Sigstore: &sigstore, Labels: pulp.Labels{"label": &value},
	}, 0)
	if err != nil {
		t.Fatal(err)
	}
	stored, err := s.Catalog.Remote(t.Context(), m.ID)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(m, stored); diff != "" {
		t.Errorf("stored remote (-want +got):\n%s", diff)
	}
	createRemote(t, s, "taken")
	if _, err := s.Catalog.CreateRemote(t.Context(), pulp.Remote{Name: "taken"}, 0); !slices.Equal(errorFields(err), []string{"name"}) {
		t.Errorf("CreateRemote with a taken name: %v, want an error of the field name", err)
	}
	rename := func(m *pulp.Remote) { m.Name = "taken" }
	if _, err := s.Catalog.EditRemote(t.Context(), nil, m.ID, rename); !slices.Equal(errorFields(err), []string{"name"}) {
		t.Errorf("EditRemote to a taken name: %v, want an error of the field name", err)
	}
	edited, err := s.Catalog.EditRemote(t.Context(), nil, m.ID, func(m *pulp.Remote) { m.ID, m.Includes, m.Sigstore = pulp.NewID(), nil, nil })
	if err != nil {
		t.Fatal(err)
	}
	want := m
	want.Includes, want.Sigstore, want.Updated = nil, nil, edited.Updated
	if diff := cmp.Diff(want, edited); diff != "" {
		t.Errorf("edited remote (-want +got):\n%s", diff)
	}
}

// TestDeleteRemote proves that a mirror remains without its remote, and that the remote is deleted once.
func TestDeleteRemote(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	m := createRemote(t, s, "remote")
	mirror := createRepository(t, s, pulp.Repository{Name: "mirror", RemoteID: m.ID})
	claim := storetest.StartTask(t, s)
	if err := s.Catalog.DeleteRemote(t.Context(), claim, m.ID); err != nil {
		t.Fatal(err)
	}
	if task, err := s.Tasks.Task(t.Context(), claim.TaskID); err != nil || task.State != taskstore.TaskCompleted {
		t.Errorf("the task is %s, %v", task.State, err)
	}
	if r, err := s.Catalog.RepositoryByID(t.Context(), mirror.ID); err != nil || r.RemoteID != "" {
		t.Errorf("the mirror is %+v, %v, want no remote", r, err)
	}
	for name, err := range map[string]error{
		"find":   second(s.Catalog.Remote(t.Context(), m.ID)),
		"edit":   second(s.Catalog.EditRemote(t.Context(), nil, m.ID, func(*pulp.Remote) {})),
		"delete": s.Catalog.DeleteRemote(t.Context(), nil, m.ID),
	} {
		if !fault.Is(err, fault.NotFound) {
			t.Errorf("%s: %v, want NotFound", name, err)
		}
	}
}

func TestLabels(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	r := createRepository(t, s, pulp.Repository{Name: "acme/app"})
	d := createDistribution(t, s, pulp.Distribution{Name: "acme/app", BasePath: "acme/app"})
	m := createRemote(t, s, "acme/app")
	for name, tt := range map[string]struct {
		collection, id string
		labels         func() (pulp.Labels, error)
	}{
		"repository": {collection: pulp.ContainerCollection, id: r.ID, labels: func() (pulp.Labels, error) {
			r, err := s.Catalog.RepositoryByID(t.Context(), r.ID)
			return r.Labels, err
		}},
		"distribution": {collection: pulp.DistributionCollection, id: d.ID, labels: func() (pulp.Labels, error) {
			d, err := s.Catalog.Distribution(t.Context(), d.ID)
			return d.Labels, err
		}},
		"remote": {collection: pulp.RemoteCollection, id: m.ID, labels: func() (pulp.Labels, error) {
			m, err := s.Catalog.Remote(t.Context(), m.ID)
			return m.Labels, err
		}},
	} {
		t.Run(name, func(t *testing.T) {
			one, two := "one", "two"
			for _, set := range []struct {
				key   string
				value *string
			}{{key: "label", value: &one}, {key: "label", value: &two}, {key: "bare"}} {
				if err := s.Catalog.SetLabel(t.Context(), tt.collection, tt.id, set.key, set.value); err != nil {
					t.Fatal(err)
				}
			}
			got, err := tt.labels()
			if diff := cmp.Diff(pulp.Labels{"label": &two, "bare": nil}, got); err != nil || diff != "" {
				t.Errorf("labels: %v (-want +got):\n%s", err, diff)
			}
			if value, err := s.Catalog.UnsetLabel(t.Context(), tt.collection, tt.id, "label"); err != nil || value == nil || *value != "two" {
				t.Errorf("UnsetLabel = %v, %v, want the label's value", value, err)
			}
			if _, err := s.Catalog.UnsetLabel(t.Context(), tt.collection, tt.id, "label"); !slices.Equal(errorFields(err), []string{"key"}) {
				t.Errorf("UnsetLabel of an absent label: %v, want an error of the field key", err)
			}
			if err := s.Catalog.SetLabel(t.Context(), tt.collection, pulp.NewID(), "label", &one); !fault.Is(err, fault.NotFound) {
				t.Errorf("SetLabel of no object: %v, want NotFound", err)
			}
		})
	}
}

// TestLabelLimit proves that an object with the maximum number of labels takes new values but no new labels.
func TestLabelLimit(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	labels := pulp.Labels{}
	for i := range pulp.MaxLabels {
		labels[fmt.Sprintf("label%d", i)] = nil
	}
	r := createRepository(t, s, pulp.Repository{Name: "acme/app", Labels: labels})
	value := "value"
	if err := s.Catalog.SetLabel(t.Context(), pulp.ContainerCollection, r.ID, "label0", &value); err != nil {
		t.Errorf("a new value: %v", err)
	}
	if err := s.Catalog.SetLabel(t.Context(), pulp.ContainerCollection, r.ID, "new", &value); !slices.Equal(errorFields(err), []string{"key"}) {
		t.Errorf("a new label: %v, want an error of the field key", err)
	}
}

func TestCreateNamespace(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	value := "value"
	for name, labels := range map[string]pulp.Labels{"labeled": {"label": &value}, "bare": nil} {
		n, err := s.Catalog.CreateNamespace(t.Context(), pulp.Namespace{Name: name, Labels: labels}, 0)
		if err != nil || n.ID == "" || n.Name != name || n.Labels == nil || len(n.Labels) != len(labels) || n.Created.IsZero() {
			t.Errorf("CreateNamespace = %+v, %v", n, err)
		}
		if _, err := s.Catalog.CreateNamespace(t.Context(), pulp.Namespace{Name: name}, 0); !slices.Equal(errorFields(err), []string{"name"}) {
			t.Errorf("a taken name: %v, want an error of the field name", err)
		}
	}
}
