package api

import (
	"net/http"
	"net/url"
	"strings"

	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store"
)

// taskGroupCollection is where task groups would be. Nothing here makes any: the list is empty and each of them is missing, as on the reference (contract 2.3).
const taskGroupCollection = "task-groups/"

// taskGroups has no filters beside those that every list has.
func (a *API) taskGroups() resource[struct{}] {
	return resource[struct{}]{
		model: "TaskGroup", filters: filters{}, orderings: []string{"description", "all_tasks_dispatched"},
		show: each(func(struct{}) any { return nil }),
	}
}

func (a *API) taskGroupRoutes() []route {
	read := readOf(a, a.taskGroups())
	return []route{
		{path: taskGroupCollection, methods: get(listOf(a, a.taskGroups()))},
		// There is none to be canceled: what reading it answers is all there is to say.
		{path: taskGroupCollection + ":id/", methods: map[string]handler{http.MethodGet: read, http.MethodPatch: read}},
	}
}

// inGroup filters tasks by their group: a reference to one finds nothing.
func inGroup(_ *API, _ *request, name string, values []string) (store.Filter, error) {
	groups, err := commaSeparated(name, values)
	if err != nil || len(groups) == 0 {
		return nil, err
	}
	for _, v := range groups {
		if !isTaskGroup(v) {
			return nil, badList("URI not valid: %s", v)
		}
	}
	return store.Any(), nil
}

// isTaskGroup says whether a reference has the form of a task group's.
func isTaskGroup(v string) bool {
	if id, isPRN := strings.CutPrefix(v, "prn:core.taskgroup:"); isPRN {
		return pulp.ValidUUID(id)
	}
	if u, err := url.Parse(v); err == nil && (u.Scheme == "http" || u.Scheme == "https") {
		v = u.Path
	}
	id, isHref := strings.CutPrefix(v, pulp.Root+taskGroupCollection)
	id, closed := strings.CutSuffix(id, "/")
	return isHref && closed && pulp.ValidUUID(id)
}
