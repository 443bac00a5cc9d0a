package api_test

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/countersign/countersign/api"
	"github.com/countersign/countersign/internal/auth"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/taskstore"
	"github.com/countersign/countersign/tasks"
	"github.com/countersign/countersign/tasks/jobs"
	"github.com/countersign/countersign/tasks/memqueue"
)

// withWorker makes the world's API run immediate tasks and verify real passwords.
func (w *world) withWorker() {
	w.t.Helper()
	hash, err := auth.HashPassword("secret")
	if err != nil {
		w.t.Fatal(err)
	}
	if _, err := w.store.Accounts.PutUser(w.t.Context(), "admin", hash, true, true); err != nil {
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
		Store: w.store, Queue: queue, Jobs: jobs.All(
			jobs.Options{Store: w.store, Log: log},
		), Log: log, Slots: 1, Name: "1@test", Versions: api.Versions("0.1.0"),
		Show: results,
	})
	w.server = httptest.NewServer(api.Validated(w.t, api.New(api.Options{
		Store: w.store, Tasks: tasks.NewDispatcher(
			w.store, queue, worker, log,
		), Auth: auth.New(w.store.Accounts, log), Log: log, PublicURL: public, Process: "1@test",
	})))
	w.t.Cleanup(w.server.Close)
}

func TestEditsAreVisibleWithTheResponse(t *testing.T) {
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
	follow(
		call{
			method: http.MethodPatch, path: w.repoHref(),
			json: `{"manifest_signing_service":"` + w.serviceHref() + `","description":"hello","pulp_labels":{"a":null}}`,
		},
	)
	repo := w.get(w.repoHref())
	if repo["manifest_signing_service"] != w.serviceHref() || repo["description"] != "hello" || len(
		repo["pulp_labels"].(map[string]any),
	) != 1 {
		t.Errorf("repository %v", repo)
	}
	follow(
		call{
			method: http.MethodPut, path: w.repoHref(),
			json: `{"name":"acme/app","manifest_signing_service":null,"description":null}`,
		},
	)
	if repo := w.get(w.repoHref()); repo["manifest_signing_service"] != nil || repo["description"] != nil {
		t.Errorf("repository %v", repo)
	}
	follow(call{method: http.MethodDelete, path: pulp.Href(pulp.DistributionCollection, w.repo.Distribution.ID)})
	w.expect(
		call{path: w.repoHref()}, http.StatusNotFound, `{"detail":"No ContainerPushRepository matches the given query."}`,
	)
	w.expect(
		call{path: "tasks/", user: "-", header: map[string]string{"Authorization": "Basic YWRtaW46d3Jvbmc="}},
		http.StatusUnauthorized, `{"detail":"Invalid username/password."}`,
	)
	w.expect(
		call{path: "tasks/", user: "-", header: map[string]string{"Authorization": "Bearer x"}}, http.StatusUnauthorized, "",
	)
	w.expect(
		call{path: "tasks/", user: "-", header: map[string]string{"Authorization": "Basic %"}}, http.StatusUnauthorized, "",
	)
}

// task creates a waiting task of a user, or of the server for the user 0, that reserves resources exclusively.
func task(w *world, user int64, resources ...string) taskstore.Task {
	w.t.Helper()
	n := taskstore.NewTask{Name: tasks.Sign, Args: struct{}{}, CID: "cid", Origin: taskstore.OriginUser, CreatedBy: user}
	if user == 0 {
		n.Origin = taskstore.OriginSystem
	}
	for _, href := range resources {
		n.Resources = append(n.Resources, taskstore.Resource{Href: href, Exclusive: true})
	}
	k, err := w.store.Tasks.CreateTask(w.t.Context(), n)
	if err != nil {
		w.t.Fatal(err)
	}
	return k
}

// claim starts a task as a worker does.
func claim(w *world, k taskstore.Task) *taskstore.Claim {
	w.t.Helper()
	now := time.Now().UnixMicro()
	w.exec(
		`UPDATE task SET state = 'running', attempt = 1, worker_id = $2, started = $3, lease_until = $4 WHERE id = $1 AND unblocked IS NOT NULL`,
		k.ID, pulp.NewID(), now, now+time.Minute.Microseconds(),
	)
	return &taskstore.Claim{TaskID: k.ID, Attempt: 1}
}

func (w *world) userID(name string) int64 {
	w.t.Helper()
	u, err := w.store.Accounts.UserByName(w.t.Context(), name)
	if err != nil {
		w.t.Fatal(err)
	}
	return u.ID
}

// testTasksAreCanceledAndDeleted replays the recorded cancellations and deletions of tasks in each state.
func testTasksAreCanceledAndDeleted(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	completed := task(w, 1, w.repoHref())
	made := taskstore.Created{
		Href: pulp.VersionHref(pulp.ContainerPush, w.repo.Repository.ID, w.signed.Number), PRN: pulp.VersionPRN(w.signed.ID),
	}
	if err := w.store.Tasks.CompleteTask(
		t.Context(), claim(w, completed), taskstore.Outcome{Created: []taskstore.Created{made}},
	); err != nil {
		t.Fatal(err)
	}
	failed := task(w, 1, w.repoHref())
	if err := w.store.Tasks.FailTask(t.Context(), claim(w, failed), "gpg: signing failed: No secret key"); err != nil {
		t.Fatal(err)
	}
	running, waiting := task(w, 1, w.repoHref()), task(w, 1, w.repoHref())
	runs := claim(w, running)
	stop := func() {
		if err := w.store.Tasks.EndCanceled(t.Context(), runs); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		golden string
		method string
		task   taskstore.Task
		json   string
		status int
		before func()
	}{
		{golden: "15-task-running", task: running, status: 200},
		{golden: "15b-task-waiting", task: waiting, status: 200},
		{golden: "16h-task-delete-incomplete-409", method: http.MethodDelete, task: waiting, status: 409},
		{golden: "16h-task-delete-incomplete-409", method: http.MethodDelete, task: running, status: 409},
		{
			golden: "16f-task-cancel-bad-state", method: http.MethodPatch, task: waiting, json: `{"state":"completed"}`,
			status: 400,
		},
		{golden: "16g-task-cancel-nobody", method: http.MethodPatch, task: waiting, json: `{}`, status: 400},
		{
			golden: "16-task-cancel-waiting", method: http.MethodPatch, task: waiting, json: `{"state":"canceled"}`, status: 200,
		},
		{golden: "16d-task-canceled-waiting", task: waiting, status: 200},
		{
			golden: "16b-task-cancel-running", method: http.MethodPatch, task: running, json: `{"state":"canceled"}`,
			status: 200,
		},
		{
			golden: "16b-task-cancel-running", method: http.MethodPatch, task: running, json: `{"state":"canceled"}`,
			status: 200,
		},
		{golden: "16h-task-delete-incomplete-409", method: http.MethodDelete, task: running, status: 409},
		{golden: "16c-task-canceled", task: running, status: 200, before: stop},
		{
			golden: "16e-task-cancel-already-canceled-200", method: http.MethodPatch, task: running,
			json: `{"state":"canceled"}`, status: 200,
		},
		{
			golden: "16i-task-cancel-completed-409", method: http.MethodPatch, task: completed, json: `{"state":"canceled"}`,
			status: 409,
		},
		{
			golden: "16j-task-cancel-failed-409", method: http.MethodPatch, task: failed, json: `{"state":"canceled"}`,
			status: 409,
		},
		{golden: "17-task-sign-failed", task: failed, status: 200},
		{golden: "118c-task-delete", method: http.MethodDelete, task: failed, status: 204},
		{golden: "118c-task-delete", method: http.MethodDelete, task: waiting, status: 204},
		{golden: "118d-task-delete-again", method: http.MethodDelete, task: failed, status: 404},
		{golden: "118d-task-delete-again", method: http.MethodPatch, task: failed, json: `{"state":"canceled"}`, status: 404},
	} {
		if c.before != nil {
			c.before()
		}
		sent := call{method: c.method, path: pulp.Href(pulp.TaskCollection, c.task.ID)}
		if c.json != "" {
			sent.json = c.json
		}
		want, allow := golden(t, c.golden)
		r := w.do(sent)
		if got := r.Header.Get("Allow"); r.StatusCode != c.status || got != allow {
			t.Errorf("%s: %d, Allow: %s; want %d, %s", c.golden, r.StatusCode, got, c.status, allow)
		}
		compareWhole(t, c.golden, want, r.body)
	}
	got := w.get(pulp.Href(pulp.TaskCollection, running.ID))
	if got["error"] != nil || got["parent_task"] != nil || got["task_group"] != nil || !cmp.Equal(
		got["child_tasks"], any([]any{}),
	) || got["finished_at"] == nil {
		t.Errorf("a canceled task: %v", got)
	}
}

func TestCancelRequiresTheStateCanceled(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	path := pulp.Href(pulp.TaskCollection, task(w, 1).ID)
	only := `{"state":["The only acceptable value for 'state' is 'canceled'."]}`
	for body, want := range map[string]string{
		`{"state":"canceling"}`:               only,
		`{"state":"CANCELED"}`:                only,
		`{"state":7}`:                         only,
		`{"state":null}`:                      `{"state":["This field may not be null."]}`,
		`{"state":""}`:                        `{"state":["This field may not be blank."]}`,
		`{"state":["canceled"]}`:              `{"state":["Not a valid string."]}`,
		`{"state":"canceled","name":"other"}`: `{"name":["Unexpected field"]}`,
		`["canceled"]`:                        `{"non_field_errors":["Invalid data. Expected a dictionary, but got list."]}`,
	} {
		w.expect(call{method: http.MethodPatch, path: path, json: body}, http.StatusBadRequest, want)
	}
	if got := w.get(path)["state"]; got != "waiting" {
		t.Errorf("the task is %v", got)
	}
	form := call{
		method: http.MethodPatch, path: path + "?fields=state", json: "state=canceled",
		kind: "application/x-www-form-urlencoded",
	}
	w.expect(form, http.StatusOK, `{"state":"canceled"}`)
	w.expect(call{method: http.MethodPut, path: path, json: `{"state":"canceled"}`}, http.StatusMethodNotAllowed, "")
}

func TestTasksBelongToTheirUsers(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	mine, others, nobodys := task(w, w.userID("carol")), task(w, w.userID("acme")), task(w, 0)
	href := func(k taskstore.Task) string { return pulp.Href(pulp.TaskCollection, k.ID) }
	cancel := func(k taskstore.Task, user string) call {
		return call{method: http.MethodPatch, path: href(k), json: `{"state":"canceled"}`, user: user}
	}
	missing := `{"detail":"No Task matches the given query."}`
	for _, k := range []taskstore.Task{others, nobodys} {
		for _, c := range []call{
			{path: href(k), user: "carol"}, cancel(k, "carol"), {path: href(k) + "my_permissions/", user: "carol"},
			{method: http.MethodDelete, path: href(k), user: "carol"},
		} {
			w.expect(c, http.StatusNotFound, missing)
		}
		for _, query := range []string{
			"?pulp_href__in=" + href(k), "?state__ne=completed&pulp_id__in=" + k.ID,
			"?q=" + url.QueryEscape(`name="x" OR pulp_id__in="`+k.ID+`"`),
		} {
			w.expect(
				call{path: "tasks/" + query, user: "carol"}, http.StatusOK, `{"count":0,"next":null,"previous":null,"results":[]}`,
			)
		}
	}
	permissions := `{"permissions":["core.change_task","core.delete_task","core.manage_roles_task","core.view_task"]}`
	for _, user := range []string{"carol", "admin"} {
		r := w.expect(call{path: href(mine) + "my_permissions/", user: user}, http.StatusOK, permissions)
		distributions := recording(
			t, "112c-my-permissions",
		) // of another kind of object, which does not have permissions here
		if diff := shapeDiff("112c-my-permissions", distributions.Body, r.body); diff != "" {
			t.Errorf("shape differs (-reference +ours):\n%s", diff)
		}
		if got, allow := r.Header.Get("Allow"), distributions.header("Allow"); got != allow {
			t.Errorf("Allow: %s, want %s", got, allow)
		}
	}
	w.expect(call{path: href(mine) + "my_permissions/", user: "-"}, http.StatusUnauthorized, "")
	w.expect(call{path: "tasks/abc/my_permissions/", user: "carol"}, http.StatusNotFound, `{"detail":"Not found."}`)
	w.expect(call{path: href(mine), user: "carol"}, http.StatusOK, "")
	w.expect(cancel(mine, "carol"), http.StatusOK, "")
	w.expect(call{method: http.MethodDelete, path: href(mine), user: "carol"}, http.StatusNoContent, "")
	w.expect(cancel(nobodys, "admin"), http.StatusOK, "")
	w.expect(call{method: http.MethodPost, path: "tasks/purge/", json: `{}`, user: "carol"}, http.StatusForbidden, "")
	if got := len(w.results("tasks/", "name")); got != 2 {
		t.Errorf("an administrator sees %d tasks, want 2", got)
	}
	// The task of a deleted account remains visible to administrators. A new account with the same name does not see it.
	w.exec(`DELETE FROM account WHERE username = 'acme'`)
	if _, err := w.store.Accounts.PutUser(t.Context(), "acme", "x", false, true); err != nil {
		t.Fatal(err)
	}
	w.expect(call{path: href(others), user: "acme"}, http.StatusNotFound, missing)
	if got := w.get(href(others)); got["created_by"] != nil || got["state"] != "waiting" {
		t.Errorf("the task of a deleted account: %v", got)
	}
}

func TestTasksAreCanceledDeletedAndPurged(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	make := func(user int64) string {
		t.Helper()
		k, err := w.store.Tasks.CreateTask(
			t.Context(), taskstore.NewTask{Name: "x", Args: struct{}{}, Origin: taskstore.OriginUser, CreatedBy: user},
		)
		if err != nil {
			t.Fatal(err)
		}
		return k.ID
	}
	run := func(id string) *taskstore.Claim {
		t.Helper()
		k, err := w.store.Tasks.ClaimTask(t.Context(), pulp.NewID(), id, nil, 1e9)
		if err != nil || k == nil {
			t.Fatal(k, err)
		}
		return &taskstore.Claim{TaskID: id, Attempt: k.Attempt}
	}
	cancel := func(id string) call {
		return call{method: http.MethodPatch, path: pulp.Href(pulp.TaskCollection, id), json: `{"state":"canceled"}`}
	}
	state := func(r reply) any { return r.body.(map[string]any)["state"] }
	remove := func(id string) call {
		return call{method: http.MethodDelete, path: pulp.Href(pulp.TaskCollection, id)}
	}
	waiting, running, done := make(1), make(1), make(1)
	run(running)
	if err := w.store.Tasks.CompleteTask(t.Context(), run(done), taskstore.Outcome{}); err != nil {
		t.Fatal(err)
	}
	w.expect(remove(waiting), 409, "")
	w.expect(remove(running), 409, "")
	for _, c := range []struct {
		id     string
		status int
		state  string
	}{
		{id: waiting, status: 200, state: "canceled"}, {id: waiting, status: 200, state: "canceled"},
		{id: running, status: 200, state: "canceling"}, {id: done, status: 409, state: "completed"},
	} {
		if r := w.expect(cancel(c.id), c.status, ""); state(r) != c.state {
			t.Errorf("state %v, want %s", state(r), c.state)
		}
	}
	bad := cancel(done)
	for body, want := range map[string]string{
		`{"state":"completed"}`:           `{"state":["The only acceptable value for 'state' is 'canceled'."]}`,
		`{}`:                              `{"state":["This field is required."]}`,
		`{"state":"canceled","name":"x"}`: `{"name":["Unexpected field"]}`,
	} {
		bad.json = body
		w.expect(bad, 400, want)
	}
	strange := cancel(waiting)
	strange.user = "carol"
	w.expect(strange, 404, `{"detail":"No Task matches the given query."}`)
	carols, err := w.store.Accounts.UserByName(t.Context(), "carol")
	if err != nil {
		t.Fatal(err)
	}
	strange = cancel(make(carols.ID))
	strange.user = "carol"
	w.expect(strange, 200, "")
	if got := w.do(call{path: "tasks/", user: "carol"}).body.(map[string]any)["count"]; got != 1.0 {
		t.Errorf("carol sees %v tasks", got)
	}
	if r := w.expect(remove(done), 204, ""); r.raw != "" {
		t.Errorf("body %s", r.raw)
	}
	w.expect(remove(done), 404, `{"detail":"No Task matches the given query."}`)

	purge := call{
		method: http.MethodPost, path: "tasks/purge/",
		json: `{"finished_before":"2020-01-01","states":["failed","canceled"]}`,
	}
	w.expect(purge, 202, "")
	want := tasks.PurgeArgs{
		FinishedBefore: 1577836800_000000, States: []taskstore.TaskState{taskstore.TaskFailed, taskstore.TaskCanceled},
	}
	if diff := cmp.Diff(want, w.dispatcher.last().Args); diff != "" {
		t.Errorf("arguments (-want +got):\n%s", diff)
	}
	purge.json = `{}`
	w.expect(purge, 202, "")
	if got := w.dispatcher.last().Args.(tasks.PurgeArgs).States; !cmp.Equal(
		got, []taskstore.TaskState{taskstore.TaskCompleted},
	) {
		t.Errorf("states %v", got)
	}
	purge.json = `{"states":["running"]}`
	w.expect(purge, 400, `{"states":["\"running\" is not a valid choice."]}`)
	purge.json, purge.kind = "states=failed&states=skipped&finished_before="+url.QueryEscape("2020-01-01T00:00:00+01:00"), "application/x-www-form-urlencoded"
	w.expect(purge, 202, "")
	want = tasks.PurgeArgs{
		FinishedBefore: 1577833200_000000, States: []taskstore.TaskState{taskstore.TaskFailed, taskstore.TaskSkipped},
	}
	if diff := cmp.Diff(want, w.dispatcher.last().Args); diff != "" {
		t.Errorf("arguments of a form (-want +got):\n%s", diff)
	}
	purge.user = "carol"
	w.expect(purge, 403, "")
}

// TestTaskArgumentsSurviveTheDatabase proves that a job reads the arguments that a handler passed.
func TestTaskArgumentsSurviveTheDatabase(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r := w.expect(
		call{
			method: http.MethodPatch, path: w.repoHref(),
			json:   `{"description":"x","manifest_signing_service":"` + w.serviceHref() + `"}`,
			header: map[string]string{"Correlation-ID": "my-cid-1"},
		},
		202, "",
	)
	ref, ok := pulp.ParseRef(r.body.(map[string]any)["task"].(string))
	if !ok {
		t.Fatal(r.raw)
	}
	k, err := w.store.Tasks.Task(t.Context(), ref.ID)
	if err != nil {
		t.Fatal(err)
	}
	var args tasks.EditArgs
	if err := json.Unmarshal(k.Args, &args); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(w.dispatcher.last().Args, any(args)); diff != "" {
		t.Errorf("arguments (-want +got):\n%s", diff)
	}
	if k.CID != "my-cid-1" || fmt.Sprint(w.get("tasks/" + k.ID + "/")["logging_cid"]) != "my-cid-1" {
		t.Errorf("correlation id %q", k.CID)
	}
}
