package record_test

import (
	"reflect"
	"testing"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/record"
	"github.com/countersign/countersign/internal/store/storetest"
)

// TestResolve resolves base paths of distributions that serve the latest version, a pinned version, and nothing.
func TestResolve(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	insert(t, s, "namespace", row{"id": "n", "name": "acme"})
	repository := insertFullRepository(t, s, "r")
	pinned := insertVersion(t, s, "r", 4)
	insert(t, s, "distribution", row{"id": "d1", "name": "one", "base_path": "acme/latest", "namespace_id": "n", "repository_id": "r"})
	insert(t, s, "distribution", row{
		"id": "d2", "name": "two", "base_path": "acme/pinned", "namespace_id": "n", "repository_version_id": pinned, "private": true,
		"hidden": true, "description": "text", "labels": labelsText,
	})
	insert(t, s, "distribution", row{"id": "d3", "name": "three", "base_path": "acme/nothing", "namespace_id": "n"})

	latest := record.Target{Repository: repository, Distribution: pulp.Distribution{
		ID: "d1", Name: "one", BasePath: "acme/latest", RepositoryID: "r", Repository: pulp.Container, NamespaceID: "n",
		Labels: pulp.Labels{}, Stamps: stamps,
	}}
	atVersion := record.Target{Repository: repository, Distribution: pulp.Distribution{
		ID: "d2", Name: "two", BasePath: "acme/pinned", Repository: pulp.Container, NamespaceID: "n", Private: true, Hidden: true,
		Pinned: &pulp.PinnedVersion{VersionID: pinned, RepositoryID: "r", Number: 4}, Description: new("text"), Labels: labels(), Stamps: stamps,
	}}
	nothing := record.Target{Distribution: pulp.Distribution{
		ID: "d3", Name: "three", BasePath: "acme/nothing", NamespaceID: "n", Labels: pulp.Labels{}, Stamps: stamps,
	}}
	for _, tt := range []struct {
		want        record.Target
		wantServed  bool
		wantVersion int64
	}{
		{want: latest, wantServed: true, wantVersion: record.Latest},
		{want: atVersion, wantServed: true, wantVersion: 4},
		{want: nothing, wantServed: false, wantVersion: record.Latest},
	} {
		got, err := record.Resolve(t.Context(), s.DB.Read(), tt.want.Distribution.BasePath)
		if err != nil || !reflect.DeepEqual(got, tt.want) {
			t.Errorf("Resolve(%s) = %+v, %v, want %+v", tt.want.Distribution.BasePath, got, err, tt.want)
		}
		if got.Served() != tt.wantServed || got.Version() != tt.wantVersion {
			t.Errorf("%s: Served %t, Version %d, want %t and %d", tt.want.Distribution.BasePath, got.Served(), got.Version(),
				tt.wantServed, tt.wantVersion)
		}
		found, err := record.FindDistribution(t.Context(), s.DB.Read(), tt.want.Distribution.ID)
		if err != nil || !reflect.DeepEqual(found, tt.want.Distribution) {
			t.Errorf("FindDistribution(%s) = %+v, %v, want %+v", tt.want.Distribution.ID, found, err, tt.want.Distribution)
		}
	}
}

// TestResolveWhere verifies that a condition excludes distributions.
func TestResolveWhere(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	insert(t, s, "namespace", row{"id": "n", "name": "acme"})
	insert(t, s, "distribution", row{"id": "d", "name": "one", "base_path": "acme/app", "namespace_id": "n", "hidden": true})
	if got, err := record.ResolveWhere(t.Context(), s.DB.Read(), "acme/app", " AND d.hidden"); err != nil || got.Distribution.ID != "d" {
		t.Errorf("ResolveWhere with a true condition = %+v, %v, want the distribution", got, err)
	}
	for path, condition := range map[string]string{"acme/app": " AND NOT d.hidden", "acme/ap": "", "acme/app/": "", "Acme/app": ""} {
		if got, err := record.ResolveWhere(t.Context(), s.DB.Read(), path, condition); !fault.Is(err, fault.NotFound) {
			t.Errorf("ResolveWhere(%q, %q) = %+v, %v, want NotFound", path, condition, got, err)
		}
	}
	if d, err := record.FindDistribution(t.Context(), s.DB.Read(), "one"); !fault.Is(err, fault.NotFound) {
		t.Errorf("FindDistribution with a name = %+v, %v, want NotFound", d, err)
	}
}

// TestResolveReportsInvalidLabels verifies that labels which cannot be decoded are no labels silently.
func TestResolveReportsInvalidLabels(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	insert(t, s, "namespace", row{"id": "n", "name": "acme"})
	insertRepository(t, s, "r", "acme/app")
	insert(t, s, "distribution", row{"id": "d", "name": "one", "base_path": "acme/app", "namespace_id": "n", "repository_id": "r"})
	for _, table := range []string{"repository", "distribution"} {
		storetest.Exec(t, s, `UPDATE `+table+` SET labels = '[]'`)
		if got, err := record.Resolve(t.Context(), s.DB.Read(), "acme/app"); err == nil {
			t.Errorf("Resolve with invalid labels of the %s = %+v, want an error", table, got)
		}
		storetest.Exec(t, s, `UPDATE `+table+` SET labels = '{}'`)
	}
}
