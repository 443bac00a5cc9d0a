package api

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/countersign/countersign/api/internal/body"
	"github.com/countersign/countersign/api/internal/openapi"
	"github.com/countersign/countersign/api/internal/query"
	"github.com/countersign/countersign/api/internal/reply"
	"github.com/countersign/countersign/api/internal/timestamp"
	"github.com/countersign/countersign/internal/access"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/list"
	"github.com/countersign/countersign/internal/store/taskstore"
	"github.com/countersign/countersign/tasks"
)

// minimalTask is a task in the short form, which the parameter "minimal" selects.
type minimalTask struct {
	object
	APIVersion string              `json:"pulp_api_version"`
	Name       string              `json:"name"`
	State      taskstore.TaskState `json:"state"`
	Unblocked  *timestamp.Time     `json:"unblocked_at"`
	Started    *timestamp.Time     `json:"started_at"`
	Finished   *timestamp.Time     `json:"finished_at"`
	Worker     *string             `json:"worker"`
}

type task struct {
	minimalTask
	CID         string               `json:"logging_cid"`
	CreatedBy   *string              `json:"created_by"`
	Error       *taskstore.TaskError `json:"error"`
	Parent      *string              `json:"parent_task"`
	Children    []string             `json:"child_tasks"`
	Group       *string              `json:"task_group"`
	Progress    []taskstore.Progress `json:"progress_reports"`
	Created     []string             `json:"created_resources"`
	CreatedPRNs []string             `json:"created_resource_prns"`
	Reserved    []string             `json:"reserved_resources_record"`
	Result      json.RawMessage      `json:"result"`
}

// unavailable replaces the href of an object that a task created and that was deleted since (compatibility.md#tasks).
const unavailable = "<unavailable>"

func showMinimalTask(t taskstore.Task) minimalTask {
	return minimalTask{
		object: objectOf(pulp.TaskCollection, t.ID, t.Stamps), APIVersion: "v3", Name: t.Name, State: t.State,
		Unblocked: timestamp.Optional(t.Unblocked), Started: timestamp.Optional(t.Started), Finished: timestamp.Optional(t.Finished),
		Worker: hrefOrNil(pulp.WorkerCollection, t.WorkerID),
	}
}

// showTask returns the JSON form of a task. gone has the hrefs of created objects that were deleted since.
func showTask(t taskstore.Task, gone map[string]bool) task {
	v := task{
		minimalTask: showMinimalTask(t), CID: t.CID, Error: t.Error, Result: t.Result,
		Progress: append([]taskstore.Progress{}, t.Progress...),
		Children: []string{}, Created: []string{}, CreatedPRNs: []string{}, Reserved: []string{},
	}
	if t.CreatedBy != 0 {
		by := pulp.UserHref(t.CreatedBy)
		v.CreatedBy = &by
	}
	for _, c := range t.Created {
		href := c.Href
		if gone[href] {
			href = unavailable
		}
		v.Created, v.CreatedPRNs = append(v.Created, href), append(v.CreatedPRNs, c.PRN)
	}
	for _, r := range t.Resources {
		if !r.Exclusive {
			r.Href = "shared:" + r.Href
		}
		v.Reserved = append(v.Reserved, r.Href)
	}
	return v
}

// minimal reports whether a request asks for tasks in the short form.
func minimal(req *request) bool {
	v := strings.ToLower(query.Last(req.query["minimal"]))
	return v == "true" || v == "1"
}

// showTasks returns the JSON forms of tasks. It looks up which of the objects that they created still exist.
func (a *API) showTasks(req *request, all []taskstore.Task) ([]any, error) {
	shown := make([]any, len(all))
	if minimal(req) {
		for i, t := range all {
			shown[i] = showMinimalTask(t)
		}
		return shown, nil
	}
	var created []string
	if req.selected.Has("created_resources") {
		for _, t := range all {
			for _, c := range t.Created {
				created = append(created, c.Href)
			}
		}
	}
	slices.Sort(created)
	gone, err := a.Store.Lists.Gone(req.Context(), slices.Compact(created))
	if err != nil {
		return nil, err
	}
	for i, t := range all {
		shown[i] = showTask(t, gone)
	}
	return shown, nil
}

var taskStates = []string{
	string(taskstore.TaskWaiting), string(taskstore.TaskSkipped), string(taskstore.TaskRunning), string(taskstore.TaskCompleted),
	string(taskstore.TaskFailed), string(taskstore.TaskCanceled), string(taskstore.TaskCanceling),
}

func (a *API) tasks() resource[taskstore.Task] {
	dates := mergeFilters(
		dateFilters("pulp_created"), dateFilters("unblocked_at"), dateFilters("started_at"), dateFilters("finished_at"),
	)
	return resource[taskstore.Task]{
		object: func(t taskstore.Task) (access.Object, string) { return access.OfTask(t.CreatedBy), t.ID },
		model:  "Task", form: task{}, list: list.TaskList, brief: minimal, within: a.visible, show: a.showTasks,
		orderings: []string{"state", "name", "logging_cid", "unblocked_at", "started_at", "finished_at", "error", "result"},
		filters: mergeFilters(identityFilters(), dates, filters{
			"state": compareState(list.Equal), "state__ne": compareState(list.NotEqual),
			"state__in": choice(taskStates, func(v []string) list.Filter { return list.OneOf("state", v) }),
			"name":      compare("name", list.Equal), "name__contains": compare("name", list.Contains), "name__in": oneOf("name"),
			"name__ne":    compare("name", list.NotEqual),
			"logging_cid": compare("logging_cid", list.Equal), "logging_cid__contains": compare("logging_cid", list.Contains),
			"worker": one(relatedTo("worker")), "worker__in": relatedTo("worker"),
			"parent_task": one(matchNone), "child_tasks": matchNone, "task_group": {openapi.Text(), inGroup},
			"created_resources":  {openapi.Text(), createdResources},
			"reserved_resources": one(reserving(true, true)), "reserved_resources__in": reserving(true, true),
			"exclusive_resources": one(reserving(true, false)), "exclusive_resources__in": reserving(true, false),
			"shared_resources": one(reserving(false, true)), "shared_resources__in": reserving(false, true),
		}),
	}
}

// compareState filters tasks by one state.
func compareState(op list.Op) filter {
	return filter{openapi.Choice(taskStates...), func(_ *API, _ *request, name string, values []string) (list.Filter, error) {
		v := query.Last(values)
		switch {
		case v == "":
			return nil, nil
		case !slices.Contains(taskStates, v):
			return nil, query.BadChoice(name, v)
		}
		return list.Where("state", op, v), nil
	}}
}

// createdResources filters tasks by the href or PRN of an object that they created.
func createdResources(_ *API, _ *request, _ string, values []string) (list.Filter, error) {
	v := query.Last(values)
	if v == "" {
		return nil, nil
	}
	ref, err := parseReference(v)
	if err != nil {
		return nil, err
	}
	if strings.HasPrefix(v, "prn:") {
		return list.Creating(strings.ToLower(v)), nil
	}
	return list.Creating(hrefOf(ref)), nil
}

// hrefOf returns the href for a reference.
func hrefOf(r pulp.Ref) string {
	href := pulp.Href(r.Collection, r.ID)
	if r.Version >= 0 {
		href += fmt.Sprintf("versions/%d/", r.Version)
	}
	return href
}

// reserving filters tasks by the resources that they reserve exclusively, as shared, or either way.
func reserving(exclusive, shared bool) filter {
	return related(func(refs []pulp.Ref) list.Filter {
		hrefs := make([]string, len(refs))
		for i, r := range refs {
			hrefs[i] = hrefOf(r)
		}
		return list.Reserving(hrefs, exclusive, shared)
	})
}

func (a *API) taskRoutes() []route {
	return []route{
		{path: pulp.TaskCollection, methods: get(brief(listOf(a, a.tasks())))},
		{path: pulp.TaskCollection + "purge/", methods: post(action(a.purgeTasks, body.Form{
			"finished_before": body.Time, "states": body.Texts.OneOf(finalStates()...),
		}))},
		{path: pulp.TaskCollection + ":id/", href: "task_href", methods: map[string]operation{
			http.MethodGet: brief(readOf(a, a.tasks())),
			http.MethodPatch: {
				verb: "cancel", handle: a.cancelTask, body: body.Form{"state": body.Text.Required().OneOf(string(taskstore.TaskCanceled))},
				query: selection(), replies: replies{http.StatusOK: selected{task{}}, http.StatusConflict: selected{task{}}},
			},
			http.MethodDelete: {verb: "delete", handle: a.deleteTask, replies: replies{
				http.StatusNoContent: nil, http.StatusConflict: nil,
			}},
		}},
	}
}

// brief adds the parameter "minimal" to an operation that shows tasks.
func brief(o operation) operation {
	o.query = append(o.query, openapi.InQuery("minimal", "Show tasks in the short form.", openapi.Bool()))
	return o
}

// finalStates are the states of tasks that have ended.
func finalStates() []string {
	return slices.DeleteFunc(slices.Clone(taskStates), func(s string) bool { return !taskstore.TaskState(s).Final() })
}

// cancelTask cancels a task: a PATCH that sets its state to "canceled", the only possible change of a task. A task
// that has ended is shown with status 409.
func (a *API) cancelTask(req *request) (reply.Reply, error) {
	t, err := permitted(a, a.tasks(), req, access.Change)
	if err != nil {
		return reply.Reply{}, err
	}
	b, err := body.Read(req.Request)
	if err != nil {
		return reply.Reply{}, err
	}
	if state := b.Text("state", body.Required); b.Valid() && *state.Value != string(taskstore.TaskCanceled) {
		b.Fail("state", "The only acceptable value for 'state' is 'canceled'.")
	}
	if err := b.Finish(); err != nil {
		return reply.Reply{}, err
	}
	t, err = a.Tasks.Cancel(req.Context(), t.ID)
	ended := fault.Is(err, fault.Conflict)
	if err != nil && !ended {
		return reply.Reply{}, err
	}
	if !ended {
		req.audit("cancel task", pulp.Href(pulp.TaskCollection, t.ID), slog.String("state", string(t.State)))
	}
	rep, err := showOne(a.tasks(), req, t)
	if ended {
		rep.Status = http.StatusConflict
	}
	return rep, err
}

// deleteTask deletes a task that has ended. For other tasks it responds with 409 and no body.
func (a *API) deleteTask(req *request) (reply.Reply, error) {
	t, err := permitted(a, a.tasks(), req, access.Delete)
	if err == nil {
		err = a.Store.Tasks.DeleteTask(req.Context(), t.ID)
	}
	switch {
	case fault.Is(err, fault.Conflict):
		return reply.Reply{Status: http.StatusConflict}, nil
	case err != nil:
		return reply.Reply{}, err
	}
	req.audit("delete task", pulp.Href(pulp.TaskCollection, t.ID))
	return reply.Reply{Status: http.StatusNoContent}, nil
}

// purgeAge is the default age above which a purge deletes finished tasks (compatibility.md#tasks).
const purgeAge = 30 * 24 * time.Hour

// purgeTasks starts a task that deletes finished tasks of every user, so only administrators may call it.
func (a *API) purgeTasks(req *request) (reply.Reply, error) {
	if err := req.requireAdministrator(); err != nil {
		return reply.Reply{}, err
	}
	b, err := body.Read(req.Request)
	if err != nil {
		return reply.Reply{}, err
	}
	before, states := b.Time("finished_before"), b.Texts("states")
	args := tasks.PurgeArgs{FinishedBefore: time.Now().Add(-purgeAge).UnixMicro(), States: []taskstore.TaskState{}}
	if before != nil {
		args.FinishedBefore = before.UnixMicro()
	}
	for _, s := range states {
		if state := taskstore.TaskState(s); !slices.Contains(taskStates, s) || !state.Final() {
			b.Fail("states", "%q is not a valid choice.", s)
		} else {
			args.States = append(args.States, state)
		}
	}
	if err := b.Finish(); err != nil {
		return reply.Reply{}, err
	}
	if states == nil {
		args.States = []taskstore.TaskState{taskstore.TaskCompleted}
	}
	return a.dispatch(req, "purge tasks", pulp.Root+pulp.TaskCollection, tasks.Spec{Name: tasks.Purge, Args: args})
}
