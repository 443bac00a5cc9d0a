package api_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/countersign/countersign/internal/pulp"
)

// TestListsHaveLimits proves that parameters with as many terms as their limit work, and that more terms are refused
// with 400 and a message.
func TestListsHaveLimits(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	many := func(text string, n int) string {
		return url.QueryEscape(strings.TrimSuffix(strings.Repeat(text+",", n), ","))
	}
	id := pulp.NewID()
	for _, tt := range []struct {
		list, parameter, term, message string
		most                           int
	}{
		{
			list: "repositories/container/container-push/", parameter: "pulp_label_select", term: "key=value",
			message: "At most 32 terms are possible.", most: 32,
		},
		{
			list: "distributions/container/container/", parameter: "pulp_label_select", term: "!key",
			message: "At most 32 terms are possible.", most: 32,
		},
		{
			list: "content/container/tags/", parameter: "name__in", term: "v1", message: "At most 1000 values are possible.",
			most: 1000,
		},
		{
			list: "content/container/manifests/", parameter: "pulp_id__in", term: id,
			message: "At most 1000 values are possible.", most: 1000,
		},
		{
			list: "content/container/manifests/", parameter: "pulp_href__in", term: pulp.Href(pulp.ManifestCollection, id),
			message: "At most 1000 values are possible.", most: 1000,
		},
		{
			list: "repository_versions/", parameter: "pulp_href__in", term: pulp.VersionHref(pulp.ContainerPush, id, 1),
			message: "At most 1000 values are possible.", most: 1000,
		},
		{
			list: "repository_versions/", parameter: "content__in", term: pulp.Href(pulp.ManifestCollection, id),
			message: "At most 1000 values are possible.", most: 1000,
		},
		{
			list: "distributions/container/container/", parameter: "with_content", term: pulp.Href(pulp.ManifestCollection, id),
			message: "At most 1000 values are possible.", most: 1000,
		},
		{list: "tasks/", parameter: "state__in", term: "failed", message: "At most 1000 values are possible.", most: 1000},
		{
			list: "tasks/", parameter: "reserved_resources__in", term: w.repoHref(),
			message: "At most 1000 values are possible.", most: 1000,
		},
		{list: "tasks/", parameter: "ordering", term: "name", message: "At most 1000 values are possible.", most: 1000},
		{list: "tasks/", parameter: "fields", term: "name", message: "At most 1000 values are possible.", most: 1000},
		{list: "tasks/", parameter: "exclude_fields", term: "name", message: "At most 1000 values are possible.", most: 1000},
		{
			list: "tasks/", parameter: "task_group", term: pulp.Root + "task-groups/" + id + "/",
			message: "At most 1000 values are possible.", most: 1000,
		},
	} {
		path := tt.list + "?limit=1&" + tt.parameter + "="
		w.expect(call{path: path + many(tt.term, tt.most)}, 200, "")
		w.expect(call{path: path + many(tt.term, tt.most+1)}, 400, `{"`+tt.parameter+`":["`+tt.message+`"]}`)
	}
	const repositories = "repositories/container/container-push/?"
	w.expect(call{path: repositories + "name__regex=" + strings.Repeat("x", 1000)}, 200, "")
	w.expect(
		call{path: repositories + "name__regex=" + strings.Repeat("x", 1001)}, 400,
		`{"name__regex":["A regular expression may have at most 1000 bytes."]}`,
	)
	for _, pattern := range []string{`(a)\1`, `(?=a)`, `(`, `a{1001}`} {
		for _, filter := range []string{"name__regex", "name__iregex"} {
			w.expect(
				call{path: repositories + filter + "=" + url.QueryEscape(pattern)}, 400,
				`{"`+filter+`":["Enter a valid regular expression."]}`,
			)
		}
	}
	w.expect(
		call{path: repositories + "name__regex=" + url.QueryEscape(strings.Repeat(`\pL`, 300))}, 400,
		`{"name__regex":["The regular expression is too complex."]}`,
	)
	if found := w.page(
		repositories + "name__iregex=" + url.QueryEscape(`^\QACME\E/[[:word:]]{1,300}\z`),
	); len(found) != 1 {
		t.Errorf("a regular expression finds %v", found)
	}
	labels := `pulp_label_select="` + strings.TrimSuffix(strings.Repeat("key,", 32), ",") + `"`
	w.expect(
		call{path: repositories + "q=" + url.QueryEscape(labels+strings.Repeat(" AND "+labels, 6))}, 200, "",
	) // the largest possible query
	w.expect(
		call{path: repositories + "q=" + url.QueryEscape(strings.Replace(labels, "key", "key,key", 1))}, 400,
		`{"pulp_label_select":["At most 32 terms are possible."]}`,
	)
	w.expect(
		call{path: repositories + "pulp_label_select=" + many("key", 990)}, 400, "",
	) // SQLite limits the depth of an expression to 1,000
}

// TestListsShowSelectedFields proves that every list shows exactly the selected fields, with the same values and in
// the same order as without a selection, for lists that are read in several pieces.
func TestListsShowSelectedFields(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for i := range 230 { // more than two pieces
		w.put(w.repo, pulp.Manifest{
			MediaType: pulp.OCIIndex, Payload: fmt.Appendf(
				nil, "manifest %d", i,
			), Type: "index", Annotations: map[string]string{"number": strconv.Itoa(i), "<&>": "<"},
			Labels: map[string]string{"label": "x"},
		}, fmt.Sprintf("tag-%03d", i))
	}
	for _, list := range []string{
		"content/container/manifests/", "content/container/tags/", "content/container/blobs/", "content/container/signatures/", "repositories/container/container-push/",
		"repositories/", "repository_versions/", "distributions/container/container/", "pulp_container/namespaces/", "signing-services/", "tasks/", "workers/", "remotes/",
	} {
		whole := w.page(list + "?limit=1000")
		if list == "content/container/manifests/" && (len(
			whole,
		) < 230 || whole[0]["annotations"].(map[string]any)["<&>"] != "<") {
			t.Errorf("%d manifests; the first has the annotations %v", len(whole), whole[0]["annotations"])
		}
		if len(whole) == 0 {
			continue
		}
		for field := range whole[0] {
			for query, has := range map[string]bool{"&fields=pulp_href," + field: true, "&exclude_fields=" + field: false} {
				part := w.page(list + "?limit=1000" + query)
				if len(part) != len(whole) {
					t.Fatalf("%s%s: %d objects, want %d", list, query, len(part), len(whole))
				}
				for i, object := range part {
					want := maps.Clone(whole[i])
					maps.DeleteFunc(want, func(name string, _ any) bool {
						return has && name != field && name != "pulp_href" || !has && name == field
					})
					if diff := cmp.Diff(want, object); diff != "" {
						t.Fatalf("%s%s, object %d (-want +got):\n%s", list, query, i, diff)
					}
				}
			}
		}
	}
}

// page returns the results of a list.
func (w *world) page(path string) []map[string]any {
	w.t.Helper()
	var p struct{ Results []map[string]any }
	r := w.do(call{path: path})
	if err := json.Unmarshal([]byte(r.raw), &p); err != nil || r.StatusCode != http.StatusOK {
		w.t.Fatalf("GET %s: %d, %v", path, r.StatusCode, err)
	}
	return p.Results
}

// TestBodiesHaveLimits proves that lists and objects in bodies are refused with 400 beyond their limits, and that
// labels set one at a time count too.
func TestBodiesHaveLimits(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	units := make([]string, 10_001)
	for i := range units {
		units[i] = "x"
	}
	labels := map[string]string{}
	for i := range 1000 {
		labels[fmt.Sprint("label_", i)] = "x"
	}
	made := w.do(
		call{
			method: http.MethodPost, path: pulp.ContainerCollection,
			json: map[string]any{"name": "labelled", "pulp_labels": labels},
		},
	)
	if made.StatusCode != http.StatusCreated {
		t.Fatalf("a repository with 1,000 labels: %d %s", made.StatusCode, made.raw)
	}
	repository := made.Header.Get("Location")
	set := func(key string) call {
		return call{method: http.MethodPost, path: repository + "set_label/", json: map[string]any{"key": key, "value": "y"}}
	}
	w.expect(set("label_0"), 201, "")
	w.expect(set("another"), 400, `{"key":["Ensure this object has no more than 1000 labels."]}`)
	labels["another"] = "x"
	w.expect(
		call{
			method: http.MethodPost, path: pulp.ContainerCollection, json: map[string]any{"name": "more", "pulp_labels": labels},
		},
		400, `{"pulp_labels":["Ensure this field has no more than 1000 elements."]}`,
	)
	w.expect(
		call{method: http.MethodPost, path: repository + "remove/", json: map[string]any{"content_units": units}}, 400,
		`{"content_units":["Ensure this field has no more than 10000 elements."]}`,
	)
	w.expect(
		call{
			method: http.MethodPost, path: w.repoHref() + "sign/",
			json: map[string]any{"tags_list": units, "manifest_signing_service": w.serviceHref()},
		},
		400, `{"tags_list":["Ensure this field has no more than 10000 elements."]}`,
	)
}
