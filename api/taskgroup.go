package api

import (
	"net/http"
	"net/url"
	"strings"

	"github.com/countersign/countersign/api/internal/body"
	"github.com/countersign/countersign/api/internal/query"
	"github.com/countersign/countersign/api/internal/reply"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/list"
)

// taskGroupCollection is the collection of task groups. Nothing creates task groups here: the list is always empty,
// and no path names one (compatibility.md#task-groups-and-workers).
const taskGroupCollection = "task-groups/"

// taskGroup is the form of a task group. There is none.
type taskGroup struct {
	object
	Description string        `json:"description"`
	Dispatched  bool          `json:"all_tasks_dispatched"`
	Waiting     int64         `json:"waiting"`
	Skipped     int64         `json:"skipped"`
	Running     int64         `json:"running"`
	Completed   int64         `json:"completed"`
	Canceled    int64         `json:"canceled"`
	Failed      int64         `json:"failed"`
	Canceling   int64         `json:"canceling"`
	Tasks       []minimalTask `json:"tasks"`
}

func (a *API) taskGroups() resource[struct{}] {
	return resource[struct{}]{
		model: "TaskGroup", form: taskGroup{}, filters: filters{}, orderings: []string{"description", "all_tasks_dispatched"},
		show: showEach(func(struct{}) any { return nil }),
	}
}

func (a *API) taskGroupRoutes() []route {
	read := readOf(a, a.taskGroups())
	return []route{
		{path: taskGroupCollection, methods: get(listOf(a, a.taskGroups()))},
		// Canceling a task group is a PATCH. It fails in the same way as reading one.
		{path: taskGroupCollection + ":id/", href: "task_group_href", methods: map[string]operation{
			http.MethodGet: read, http.MethodPatch: {
				verb: "cancel", handle: read.handle, body: body.Form{"state": body.Text.Required().OneOf("canceled")},
				replies: read.replies,
			},
		}},
	}
}

// inGroup filters tasks by their group. A valid reference matches nothing.
func inGroup(_ *API, _ *request, name string, values []string) (list.Filter, error) {
	groups, err := query.Split(name, values)
	if err != nil || len(groups) == 0 {
		return nil, err
	}
	for _, v := range groups {
		if !isTaskGroup(v) {
			return nil, reply.BadRequest("URI not valid: %s", v)
		}
	}
	return list.Any(), nil
}

// isTaskGroup reports whether a text is an href, a URL or a PRN of a task group.
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
