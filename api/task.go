package api

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store"
	"github.com/countersign/countersign/tasks"
)

// minimalTask is a task as the parameter "minimal" asks for it.
type minimalTask struct {
	object
	APIVersion string          `json:"pulp_api_version"`
	Name       string          `json:"name"`
	State      store.TaskState `json:"state"`
	Unblocked  *stamp          `json:"unblocked_at"`
	Started    *stamp          `json:"started_at"`
	Finished   *stamp          `json:"finished_at"`
	Worker     *string         `json:"worker"`
}

type task struct {
	minimalTask
	CID         string           `json:"logging_cid"`
	CreatedBy   *string          `json:"created_by"`
	Error       *store.TaskError `json:"error"`
	Parent      *string          `json:"parent_task"`
	Children    []string         `json:"child_tasks"`
	Group       *string          `json:"task_group"`
	Progress    []store.Progress `json:"progress_reports"`
	Created     []string         `json:"created_resources"`
	CreatedPRNs []string         `json:"created_resource_prns"`
	Reserved    []string         `json:"reserved_resources_record"`
	Result      json.RawMessage  `json:"result"`
}

// unavailable stands for an object that a task made and that is no more (contract 2.2).
const unavailable = "<unavailable>"

func showMinimalTask(t store.Task) minimalTask {
	return minimalTask{
		object: objectOf(pulp.TaskCollection, t.ID, t.Stamps), APIVersion: "v3", Name: t.Name, State: t.State,
		Unblocked: stampOf(t.Unblocked), Started: stampOf(t.Started), Finished: stampOf(t.Finished),
		Worker: hrefOrNil(pulp.WorkerCollection, t.WorkerID),
	}
}

func showTask(t store.Task, gone map[string]bool) task {
	v := task{
		minimalTask: showMinimalTask(t), CID: t.CID, Error: t.Error, Children: []string{}, Progress: append([]store.Progress{}, t.Progress...),
		Created: []string{}, CreatedPRNs: []string{}, Reserved: []string{}, Result: t.Result,
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

// minimal reports whether a request asks for minimal tasks.
func minimal(req *request) bool {
	v := strings.ToLower(last(req.query["minimal"]))
	return v == "true" || v == "1"
}

// showTasks looks up which of the objects that tasks made are still there.
func (a *API) showTasks(req *request, all []store.Task) ([]any, error) {
	shown := make([]any, len(all))
	if minimal(req) {
		for i, t := range all {
			shown[i] = showMinimalTask(t)
		}
		return shown, nil
	}
	var made []string
	if req.selected.has("created_resources") {
		for _, t := range all {
			for _, c := range t.Created {
				made = append(made, c.Href)
			}
		}
	}
	slices.Sort(made)
	gone, err := a.Store.Gone(req.Context(), slices.Compact(made))
	if err != nil {
		return nil, err
	}
	for i, t := range all {
		shown[i] = showTask(t, gone)
	}
	return shown, nil
}

var taskStates = []string{
	string(store.TaskWaiting), string(store.TaskSkipped), string(store.TaskRunning), string(store.TaskCompleted),
	string(store.TaskFailed), string(store.TaskCanceled), string(store.TaskCanceling),
}

// ownTasks narrows the tasks to those of the caller, unless it is an administrator.
func ownTasks(req *request) ([]store.Filter, error) {
	if req.isStaff() {
		return nil, nil
	}
	return []store.Filter{store.Where("created_by", store.Equal, req.user.ID)}, nil
}

func (a *API) tasks() resource[store.Task] {
	return resource[store.Task]{
		model: "Task", list: store.TaskList, brief: minimal, within: ownTasks, show: a.showTasks,
		orderings: []string{"state", "name", "logging_cid", "unblocked_at", "started_at", "finished_at", "error", "result"},
		filters: filterSets(identity(), dates("pulp_created"), dates("unblocked_at"), dates("started_at"), dates("finished_at"), filters{
			"state": oneState(store.Equal), "state__ne": oneState(store.NotEqual),
			"state__in": choice(taskStates, func(v []string) store.Filter { return store.OneOf("state", v) }),
			"name":      compare("name", store.Equal), "name__contains": compare("name", store.Contains), "name__in": oneOf("name"),
			"name__ne":    compare("name", store.NotEqual),
			"logging_cid": compare("logging_cid", store.Equal), "logging_cid__contains": compare("logging_cid", store.Contains),
			"worker": relatedTo("worker"), "worker__in": relatedTo("worker"),
			"parent_task": never, "child_tasks": never, "task_group": inGroup,
			"created_resources":  createdResources,
			"reserved_resources": reserving(true, true), "reserved_resources__in": reserving(true, true),
			"exclusive_resources": reserving(true, false), "exclusive_resources__in": reserving(true, false),
			"shared_resources": reserving(false, true), "shared_resources__in": reserving(false, true),
		}),
	}
}

// oneState compares a task's state with one that there is.
func oneState(op store.Op) filter {
	return func(_ *API, _ *request, name string, values []string) (store.Filter, error) {
		v := last(values)
		switch {
		case v == "":
			return nil, nil
		case !slices.Contains(taskStates, v):
			return nil, invalidChoice(name, v)
		}
		return store.Where("state", op, v), nil
	}
}

// createdResources filters tasks by an object that they made, named by href or PRN.
func createdResources(_ *API, _ *request, _ string, values []string) (store.Filter, error) {
	v := last(values)
	if v == "" {
		return nil, nil
	}
	ref, err := reference(v)
	if err != nil {
		return nil, err
	}
	if strings.HasPrefix(v, "prn:") {
		return store.Creating(strings.ToLower(v)), nil
	}
	return store.Creating(hrefOf(ref)), nil
}

// hrefOf returns the href of what is referred to, as tasks keep it.
func hrefOf(r pulp.Ref) string {
	href := pulp.Href(r.Collection, r.ID)
	if r.Version >= 0 {
		href += fmt.Sprintf("versions/%d/", r.Version)
	}
	return href
}

// reserving filters tasks by what they reserve. Reservations are kept as hrefs; PRNs are translated.
func reserving(exclusive, shared bool) filter {
	return related(func(refs []pulp.Ref) store.Filter {
		hrefs := make([]string, len(refs))
		for i, r := range refs {
			hrefs[i] = hrefOf(r)
		}
		return store.Reserving(hrefs, exclusive, shared)
	})
}

func (a *API) taskRoutes() []route {
	return []route{
		{path: "tasks/", methods: get(listOf(a, a.tasks()))},
		{path: "tasks/purge/", methods: post(a.purgeTasks)},
		{path: "tasks/:id/", methods: map[string]handler{
			http.MethodGet: readOf(a, a.tasks()), http.MethodPatch: a.cancelTask, http.MethodDelete: a.deleteTask,
		}},
		{path: "tasks/:id/my_permissions/", methods: get(a.taskPermissions)},
	}
}

// cancelTask is the PATCH that sets a task's state to canceled; no other change of a task is possible.
func (a *API) cancelTask(req *request) (answer, error) {
	t, err := one(a, a.tasks(), req)
	if err != nil {
		return answer{}, err
	}
	b, err := req.body()
	if err != nil {
		return answer{}, err
	}
	if state := b.text("state", true, false); len(b.errs) == 0 && *state.Value != string(store.TaskCanceled) {
		b.fail("state", "The only acceptable value for 'state' is 'canceled'.")
	}
	if err := b.finish(); err != nil {
		return answer{}, err
	}
	t, err = a.Tasks.Cancel(req.Context(), t.ID)
	ended := fault.Is(err, fault.Conflict)
	if err != nil && !ended {
		return answer{}, err
	}
	if !ended {
		req.audit("cancel task", pulp.Href(pulp.TaskCollection, t.ID), slog.String("state", string(t.State)))
	}
	ans, err := shownOne(a.tasks(), req, t)
	if ended {
		ans.status = http.StatusConflict
	}
	return ans, err
}

func (a *API) deleteTask(req *request) (answer, error) {
	t, err := one(a, a.tasks(), req)
	if err == nil {
		err = a.Store.DeleteTask(req.Context(), t.ID)
	}
	switch {
	case fault.Is(err, fault.Conflict):
		return answer{status: http.StatusConflict}, nil
	case err != nil:
		return answer{}, err
	}
	req.audit("delete task", pulp.Href(pulp.TaskCollection, t.ID))
	return answer{status: http.StatusNoContent}, nil
}

// taskPermissions answers with what the caller may do with a task, as Pulp names it: who sees one may do all.
func (a *API) taskPermissions(req *request) (answer, error) {
	if _, err := one(a, a.tasks(), req); err != nil {
		return answer{}, err
	}
	return ok(map[string][]string{"permissions": {"core.change_task", "core.delete_task", "core.view_task"}}), nil
}

// purgeAge is how old finished tasks must be when a purge does not say (contract 2.2).
const purgeAge = 30 * 24 * time.Hour

// purgeTasks removes everybody's tasks, and so is for administrators.
func (a *API) purgeTasks(req *request) (answer, error) {
	if err := req.staff(); err != nil {
		return answer{}, err
	}
	b, err := req.body()
	if err != nil {
		return answer{}, err
	}
	before, states := b.moment("finished_before"), b.texts("states")
	args := tasks.PurgeArgs{FinishedBefore: time.Now().Add(-purgeAge).UnixMicro(), States: []store.TaskState{}}
	if before != nil {
		args.FinishedBefore = before.UnixMicro()
	}
	for _, s := range states {
		if state := store.TaskState(s); !slices.Contains(taskStates, s) || !state.Final() {
			b.fail("states", "%s is not a valid choice.", fmt.Sprintf("%q", s))
		} else {
			args.States = append(args.States, state)
		}
	}
	if err := b.finish(); err != nil {
		return answer{}, err
	}
	if states == nil {
		args.States = []store.TaskState{store.TaskCompleted}
	}
	return a.dispatch(req, "purge tasks", pulp.Root+pulp.TaskCollection, tasks.Spec{Name: tasks.Purge, Args: args})
}

// dispatch makes a task for the caller, leaves the audit line, and answers with it.
func (a *API) dispatch(req *request, action, object string, spec tasks.Spec) (answer, error) {
	t, err := a.Tasks.Dispatch(req.Context(), tasks.ByUser(req.user.ID), spec)
	if err != nil {
		return answer{}, err
	}
	req.audit(action, object, slog.String("task", t.ID))
	return accepted(t), nil
}
