package api_test

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"

	"github.com/countersign/countersign/api"
	"github.com/countersign/countersign/internal/auth"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/tasks"
	"github.com/countersign/countersign/tasks/jobs"
	"github.com/countersign/countersign/tasks/memqueue"
)

// withWorker makes the world's API run its immediate tasks, and lets its users in by real passwords.
func (w *world) withWorker() {
	w.t.Helper()
	hash, err := auth.HashPassword("secret")
	if err != nil {
		w.t.Fatal(err)
	}
	if _, err := w.store.PutUser(w.t.Context(), "admin", hash, true, true); err != nil {
		w.t.Fatal(err)
	}
	public, _ := url.Parse("https://registry.example:8443")
	log := slog.New(slog.DiscardHandler)
	results, err := api.Results(w.t.Context(), w.store)
	if err != nil {
		w.t.Fatal(err)
	}
	queue := &memqueue.Queue{}
	worker := tasks.NewWorker(tasks.WorkerOptions{
		Store: w.store, Queue: queue, Jobs: jobs.All(jobs.Options{Store: w.store, Log: log}), Log: log, Slots: 1, Name: "1@test", Versions: api.Versions("0.1.0"),
		Show: results,
	})
	w.server = httptest.NewServer(api.New(api.Options{
		Store: w.store, Tasks: tasks.NewDispatcher(w.store, queue, worker, log), Auth: auth.New(w.store), Log: log, PublicURL: public, Process: "1@test",
	}))
	w.t.Cleanup(w.server.Close)
}

func TestEditsAreThereWhenTheTaskIsNamed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.withWorker()
	follow := func(c call) map[string]any {
		t.Helper()
		r := w.expect(c, http.StatusAccepted, "")
		task := w.get(r.body.(map[string]any)["task"].(string))
		if task["state"] != "completed" || task["worker"] == nil || task["created_by"] != "/pulp/api/v3/users/1/" {
			t.Errorf("task %v", task)
		}
		return task
	}
	follow(call{method: http.MethodPatch, path: w.repoHref(), json: `{"manifest_signing_service":"` + w.serviceHref() + `","description":"hello","pulp_labels":{"a":null}}`})
	repo := w.get(w.repoHref())
	if repo["manifest_signing_service"] != w.serviceHref() || repo["description"] != "hello" || len(repo["pulp_labels"].(map[string]any)) != 1 {
		t.Errorf("repository %v", repo)
	}
	follow(call{method: http.MethodPut, path: w.repoHref(), json: `{"name":"acme/app","manifest_signing_service":null,"description":null}`})
	if repo := w.get(w.repoHref()); repo["manifest_signing_service"] != nil || repo["description"] != nil {
		t.Errorf("repository %v", repo)
	}
	follow(call{method: http.MethodDelete, path: pulp.Href(pulp.DistributionCollection, w.repo.Distribution.ID)})
	w.expect(call{path: w.repoHref()}, http.StatusNotFound, `{"detail":"No ContainerPushRepository matches the given query."}`)
	w.expect(call{path: "tasks/", user: "-", header: map[string]string{"Authorization": "Basic YWRtaW46d3Jvbmc="}}, http.StatusUnauthorized, `{"detail":"Invalid username/password."}`)
	w.expect(call{path: "tasks/", user: "-", header: map[string]string{"Authorization": "Bearer x"}}, http.StatusUnauthorized, "")
	w.expect(call{path: "tasks/", user: "-", header: map[string]string{"Authorization": "Basic %"}}, http.StatusUnauthorized, "")
}
