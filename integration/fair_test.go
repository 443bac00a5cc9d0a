package integration

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// stalledRegistry is a registry whose tag lists never end. The channel asked gets a value for each request of a tag
// list.
func stalledRegistry(t *testing.T) (url string, asked <-chan struct{}) {
	t.Helper()
	began, ended := make(chan struct{}, 100), make(chan struct{})
	r := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if !strings.HasSuffix(q.URL.Path, "/tags/list") {
			w.WriteHeader(http.StatusOK)
			return
		}
		began <- struct{}{}
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte(`{"tags":[`))
		for {
			select {
			case <-time.After(200 * time.Millisecond):
				_, _ = w.Write([]byte(" "))
				_ = http.NewResponseController(w).Flush()
			case <-q.Context().Done():
				return
			case <-ended:
				return
			}
		}
	}))
	t.Cleanup(r.Close)
	t.Cleanup(func() { close(ended) })
	return r.URL, began
}

// stallSync starts a sync from a stalled registry and returns its task and repository.
func (a api) stallSync(t *testing.T, registry, name string) (task, repository string) {
	t.Helper()
	remote := a.make(t, remotes, object{"name": name, "url": registry, "upstream_name": "library/app"})
	repository = a.make(t, containerRepos, object{"name": name, "remote": remote})
	return a.startTask(t, http.MethodPost, repository+"sync/", object{}), repository
}

func waitFor(t *testing.T, what string, asked <-chan struct{}) {
	t.Helper()
	select {
	case <-asked:
	case <-time.After(time.Minute):
		t.Fatal(what)
	}
}

// TestStalledSyncsLeaveRoomToSign stalls more syncs than a process has workers, in one namespace and in several: a sign
// task still runs.
func TestStalledSyncsLeaveRoomToSign(t *testing.T) {
	t.Parallel()
	for _, workers := range []int{1, 2} {
		t.Run(fmt.Sprint(workers), func(t *testing.T) {
			t.Parallel()
			s := startServer(t, allowLoopback, fmt.Sprintf("COUNTERSIGN_WORKERS=%d", workers))
			registry, asked := stalledRegistry(t)
			var syncs []string
			for i := range 3 * workers {
				for _, name := range []string{fmt.Sprintf("acme/mirror-%d", i), fmt.Sprintf("n%d/mirror", i)} {
					sync, _ := s.stallSync(t, registry, name)
					syncs = append(syncs, sync)
				}
			}
			for range workers + 1 { // more than run at a time
				waitFor(t, "the syncs do not begin", asked)
			}
			service := text(s.list(t, apiRoot+"signing-services/").Results[0]["pulp_href"])
			if _, err := s.pushTiny(t, "acme/app", "v1", "one"); err != nil {
				t.Fatal(err)
			}
			if version := s.signed(t, s.repositoryHref(t, "acme/app"), object{"manifest_signing_service": service}); count(version, "added", "container.signature") != 1 {
				t.Errorf("the sign task made %v", version)
			}
			states := map[any]int{}
			for _, sync := range syncs {
				states[s.get(t, sync)["state"]]++
			}
			if states["running"] != workers+1 || states["waiting"] != len(syncs)-workers-1 {
				t.Errorf("the syncs are %v: they did not stall", states)
			}
		})
	}
}

// TestTasksEndWithTheirAccount deletes an account while one of its tasks runs and another waits for it. Both fail with
// the reason, and only administrators see them.
func TestTasksEndWithTheirAccount(t *testing.T) {
	t.Parallel()
	need(t, "sqlite3")
	s := startServer(t, allowLoopback, "COUNTERSIGN_WORKERS=2")
	registry, asked := stalledRegistry(t)
	mallory := s.as(t, "mallory")
	running, repository := mallory.stallSync(t, registry, "mallory/mirror")
	waitFor(t, "the sync does not begin", asked)
	waiting := mallory.startTask(t, http.MethodPost, repository+"sync/", object{})
	s.exec(t, `UPDATE task SET created_by = NULL WHERE created_by = (SELECT id FROM account WHERE username = 'mallory'); DELETE FROM account WHERE username = 'mallory';`)
	for _, task := range []string{running, waiting} {
		ended := s.finished(t, task)
		failure, _ := ended["error"].(map[string]any)
		if ended["state"] != "failed" || failure["description"] != "The user who started this task was deleted." || ended["created_by"] != nil {
			t.Errorf("the task is %v", ended)
		}
	}
	again := s.as(t, "mallory")
	if status, _, _ := again.do(t, http.MethodGet, running, nil, nil); status != http.StatusNotFound {
		t.Errorf("a later account of that name sees the task: %d", status)
	}
}
