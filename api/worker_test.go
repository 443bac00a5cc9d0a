package api_test

import (
	"fmt"
	"net/http"
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

func TestWorkersAreFiltered(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	if err := w.store.Tasks.Beat(t.Context(), pulp.Worker{ID: pulp.NewID(), Name: "8@gone"}); err != nil {
		t.Fatal(err)
	}
	w.exec(`UPDATE worker SET heartbeat = 1000000 WHERE name = '8@gone'`)
	both := "7@test 8@gone"
	for query, want := range map[string]string{
		"": both, "name=7@test": "7@test", "name__in=7@test,x": "7@test", "name__contains=@": both, "name__icontains=GONE": "8@gone",
		"name__iexact=7@TEST": "7@test", "name__startswith=8": "8@gone", "name__istartswith=7@T": "7@test", "name__regex=^7": "7@test", "name__iregex=GONE$": "8@gone",
		"online=true": "7@test", "online=false": "8@gone", "missing=true": "8@gone", "missing=false": "7@test", "online=": both,
		"last_heartbeat=1970-01-01T00:00:01": "8@gone", "last_heartbeat__gt=2020-01-01": "7@test", "last_heartbeat__lte=1970-01-01T00:00:01Z": "8@gone",
		"last_heartbeat__range=1970-01-01,2099-01-01": both, "last_heartbeat__isnull=true": "",
	} {
		if got := strings.Join(w.results("workers/?ordering=name&"+query, "name"), " "); got != want {
			t.Errorf("workers/?%s: %q, want %q", query, got, want)
		}
	}
	w.expect(
		call{path: "workers/?online=perhaps"}, http.StatusBadRequest,
		`{"online":["Select a valid choice. perhaps is not one of the available choices."]}`,
	)
	w.expect(
		call{path: "workers/?last_heartbeat__lt=x"}, http.StatusBadRequest,
		`{"last_heartbeat__lt":["Enter a valid date/time."]}`,
	)
	w.expect(
		call{path: "workers/" + pulp.NewID() + "/"}, http.StatusNotFound,
		`{"detail":"No AppStatus matches the given query."}`,
	)
	w.expect(call{method: http.MethodDelete, path: w.results("workers/", "pulp_href")[0]}, http.StatusMethodNotAllowed, "")
}
