package api_test

import (
	"net/http"
	"net/url"
	"testing"

	"github.com/countersign/countersign/internal/pulp"
)

func testTaskGroupsAreNone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	want, allow := golden(t, "41-task-groups")
	for _, query := range []string{
		"", "?limit=3&fields=description&minimal=true", "?ordering=-description", "?ordering=pk,-pulp_created",
	} {
		r := w.expect(call{path: "task-groups/" + query, user: "carol"}, http.StatusOK, "")
		compareWhole(t, "41-task-groups", want, r.body)
		if got := r.Header.Get("Allow"); got != allow {
			t.Errorf("%s: Allow: %s, want %s", query, got, allow)
		}
	}
	absent := "task-groups/" + pulp.NewID() + "/"
	missing, bad := `{"detail":"No TaskGroup matches the given query."}`, `{"detail":"Not found."}`
	for name, c := range map[string]struct {
		call   call
		status int
		body   string
	}{
		"read": {call: call{path: absent}, status: 404, body: missing},
		"cancel": {
			call: call{method: http.MethodPatch, path: absent, json: `{"state":"canceled"}`}, status: 404, body: missing,
		},
		"cancel without state": {
			call: call{method: http.MethodPatch, path: absent, json: `{}`}, status: 404, body: missing,
		},
		"an id that is not a UUID": {call: call{path: "task-groups/abc/"}, status: 404, body: bad},
		"cancel with an id that is not a UUID": {
			call: call{method: http.MethodPatch, path: "task-groups/abc/", json: `{"state":"canceled"}`}, status: 404, body: bad,
		},
		"delete": {
			call: call{method: http.MethodDelete, path: absent}, status: 405,
			body: `{"detail":"Method \"DELETE\" not allowed."}`,
		},
		"create": {call: call{method: http.MethodPost, path: "task-groups/", json: `{}`}, status: 405},
		"a filter": {
			call: call{path: "task-groups/?description=x"}, status: 400, body: `{"errors":["Invalid Filter: 'description'"]}`,
		},
		"an id filter": {
			call: call{path: "task-groups/?pulp_id__in=" + pulp.NewID()}, status: 400,
			body: `{"errors":["Invalid Filter: 'pulp_id__in'"]}`,
		},
		"an expression": {
			call: call{path: "task-groups/?q=" + url.QueryEscape("description=x")}, status: 400,
			body: `{"q":["Filter 'description' does not exist."]}`,
		},
		"an ordering": {
			call: call{path: "task-groups/?ordering=tasks"}, status: 400,
			body: `{"ordering":["Select a valid choice. tasks is not one of the available choices."]}`,
		},
		"anonymous": {call: call{path: "task-groups/", user: "-"}, status: 401},
	} {
		t.Run(name, func(t *testing.T) { w.expect(c.call, c.status, c.body) })
	}
	if r := w.do(call{path: absent}); r.Header.Get("Allow") != "GET, PATCH, HEAD, OPTIONS" {
		t.Errorf("Allow: %s", r.Header.Get("Allow"))
	}
}

func TestTasksHaveNoGroup(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	task(w, 1)
	id := pulp.NewID()
	for query, want := range map[string]int{
		"": 1, "?task_group=": 1, "?task_group=/pulp/api/v3/task-groups/" + id + "/": 0, "?task_group=prn:core.taskgroup:" + id: 0,
		"?task_group=" + w.server.URL + "/pulp/api/v3/task-groups/" + id + "/":       0,
		"?q=" + url.QueryEscape(`NOT task_group="/pulp/api/v3/task-groups/`+id+`/"`): 1,
	} {
		if got := len(w.results("tasks/"+query, "name")); got != want {
			t.Errorf("tasks/%s: %d, want %d", query, got, want)
		}
	}
	for _, v := range []string{
		"abc", "/pulp/api/v3/task-groups/abc/", "/pulp/api/v3/tasks/" + id + "/", "prn:core.taskgroup:1",
		"/pulp/api/v3/task-groups/" + id,
	} {
		w.expect(call{path: "tasks/?task_group=" + v}, http.StatusBadRequest, `["URI not valid: `+v+`"]`)
	}
}
