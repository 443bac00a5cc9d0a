package api_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/countersign/countersign/internal/pulp"
)

// TestSigningServicesOfWorkers proves that only administrators see the signing services that a worker can use.
func TestSigningServicesOfWorkers(t *testing.T) {
	t.Parallel()
	w := newWorld(t) // with the worker 7@test, which can use none
	if err := w.store.Tasks.Beat(
		t.Context(), pulp.Worker{ID: pulp.NewID(), Name: "8@test", Services: []string{"one", "two"}},
	); err != nil {
		t.Fatal(err)
	}
	for n, want := range []string{"[]", "[one two]"} {
		listed := w.get("workers/?ordering=name")["results"].([]any)[n].(map[string]any)
		for _, shown := range []map[string]any{listed, w.get(listed["pulp_href"].(string))} {
			if got, there := shown["signing_services"]; !there || fmt.Sprint(got) != want {
				t.Errorf("%s: signing_services %v, want %s", shown["name"], got, want)
			}
		}
		for _, path := range []string{"workers/", listed["pulp_href"].(string)} {
			if r := w.do(
				call{path: path, user: "carol"},
			); r.StatusCode != 200 || strings.Contains(r.raw, "signing_services") || strings.Contains(r.raw, "one") {
				t.Errorf("carol is shown %d %s", r.StatusCode, r.raw)
			}
		}
	}
}
