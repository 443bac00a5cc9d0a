package cli

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/countersign/countersign/internal/apiclient"
	"github.com/countersign/countersign/internal/fault"
)

// taskCommands are the commands about tasks.
type taskCommands struct {
	List   listTasksCommand  `cmd:"" help:"List tasks, the newest first."`
	Show   showTaskCommand   `cmd:"" help:"Show a task with its progress and its error."`
	Cancel cancelTaskCommand `cmd:"" help:"Cancel a task."`
	Follow followTaskCommand `cmd:"" help:"Show the progress of a task until it ends."`
}

// The states of tasks that commands distinguish.
const (
	waiting   = "waiting"
	completed = "completed"
	failed    = "failed"
	canceled  = "canceled"
	skipped   = "skipped"
)

// task has the fields of a task that commands read.
type task struct {
	Href     string     `json:"pulp_href"`
	Name     string     `json:"name"`
	State    string     `json:"state"`
	CID      string     `json:"logging_cid"`
	Created  time.Time  `json:"pulp_created"`
	Started  *time.Time `json:"started_at"`
	Finished *time.Time `json:"finished_at"`
	Worker   *string    `json:"worker"`
	Error    *struct {
		Description string `json:"description"`
	} `json:"error"`
	Progress []progress `json:"progress_reports"`
	Results  []string   `json:"created_resources"`
	Reserved []string   `json:"reserved_resources_record"`
}

// progress is a progress report of a task.
type progress struct {
	Message string  `json:"message"`
	Code    string  `json:"code"`
	State   string  `json:"state"`
	Total   *int64  `json:"total"`
	Done    int64   `json:"done"`
	Suffix  *string `json:"suffix"`
}

// id returns the id of the task.
func (t task) id() string { return lastSegment(t.Href) }

// ended reports whether the task has reached its last state.
func (t task) ended() bool {
	return t.State == completed || t.State == failed || t.State == canceled || t.State == skipped
}

// err returns the error of a task that has ended, or nil if it is completed.
func (t task) err() error {
	switch {
	case t.State == completed:
		return nil
	case t.Error != nil && t.Error.Description != "":
		return fmt.Errorf("task %s %s: %s", t.id(), t.State, printable(t.Error.Description))
	}
	return fmt.Errorf("task %s %s", t.id(), t.State)
}

// cell returns the state in its colour.
func (t task) cell() cell {
	switch t.State {
	case completed:
		return cell{t.State, green}
	case failed:
		return cell{t.State, red}
	case canceled, "canceling", skipped:
		return cell{t.State, yellow}
	}
	return cell{text: t.State}
}

// lastSegment returns the last segment of an href.
func lastSegment(href string) string {
	parts := strings.Split(strings.Trim(href, "/"), "/")
	return parts[len(parts)-1]
}

// taskHref returns the href of a task that a person names by its id or its href.
func taskHref(name string) (string, error) {
	id := lastSegment(name)
	if uuid.Validate(id) != nil || name != id && strings.TrimSuffix(name, "/") != tasksPath+id {
		return "", usageError{fmt.Errorf("%q is not the id of a task: `task list` shows the ids", name)}
	}
	return tasksPath + strings.ToLower(id) + "/", nil
}

type listTasksCommand struct {
	State []string `help:"Only tasks in this state: waiting, running, completed, failed, canceled, canceling or skipped. Can be repeated." enum:"waiting,running,completed,failed,canceled,canceling,skipped" placeholder:"STATE"`
	Name  string   `help:"Only tasks with this text in their names, for example sign." placeholder:"TEXT"`
	listOptions
	apiOptions
}

// Run runs the command.
func (o listTasksCommand) Run(ctx context.Context, c *console) error {
	return c.connect(ctx, connection{options: o.apiOptions}, func(ctx context.Context, s *session) error {
		query := url.Values{"ordering": {"-pulp_created"}}
		if len(o.State) > 0 {
			query.Set("state__in", strings.Join(o.State, ","))
		}
		if o.Name != "" {
			query.Set("name__contains", o.Name)
		}
		found, total, err := apiclient.List[apiclient.Object[task]](ctx, s.api, tasksPath, query, o.Limit)
		if err != nil {
			return err
		}
		t := table{header: []string{"ID", "STATE", "CREATED", "DURATION", "TASK"}}
		for _, v := range found {
			t.rows = append(t.rows, []cell{{text: v.V.id()}, v.V.cell(), {text: when(&v.V.Created)}, {text: v.V.duration()}, {text: v.V.Name}})
		}
		o.notice(c, len(found), total)
		return s.show(found, t)
	})
}

// duration returns the time for which the task has run, or "-".
func (t task) duration() string {
	if t.Started == nil {
		return "-"
	}
	end := time.Now()
	if t.Finished != nil {
		end = *t.Finished
	}
	d := end.Sub(*t.Started)
	if d < time.Second {
		return d.Round(time.Millisecond).String()
	}
	return d.Round(time.Second).String()
}

type showTaskCommand struct {
	Task string `arg:"" help:"Id or href of the task."`
	apiOptions
}

// Run runs the command.
func (o showTaskCommand) Run(ctx context.Context, c *console) error {
	href, err := taskHref(o.Task)
	if err != nil {
		return err
	}
	return c.connect(ctx, connection{options: o.apiOptions}, func(ctx context.Context, s *session) error {
		found, err := s.readTask(ctx, href)
		if err != nil {
			return err
		}
		return s.show(found, taskTable(found.V))
	})
}

// readTask returns a task.
func (s *session) readTask(ctx context.Context, href string) (apiclient.Object[task], error) {
	var found apiclient.Object[task]
	err := s.api.Get(ctx, href, nil, &found)
	if fault.Is(err, fault.NotFound) {
		err = missing("there is no task %s, or you may not see it", lastSegment(href))
	}
	return found, err
}

// taskTable returns a task as a table.
func taskTable(v task) table {
	var t table
	t.add("id", v.id())
	t.add("task", v.Name)
	t.rows = append(t.rows, []cell{{text: "state"}, v.cell()})
	t.add("created", when(&v.Created))
	t.add("started", when(v.Started))
	t.add("finished", when(v.Finished))
	if v.Error != nil {
		t.rows = append(t.rows, []cell{{text: "error"}, {v.Error.Description, red}})
	}
	for _, p := range v.Progress {
		t.add("progress", p.text())
	}
	for _, href := range v.Results {
		t.add("result", href)
	}
	for _, href := range v.Reserved {
		t.add("reserves", href)
	}
	t.add("correlation id", v.CID)
	return t
}

// text returns a report as a line.
func (p progress) text() string {
	text := fmt.Sprintf("%s: %d", p.Message, p.Done)
	if p.Total != nil {
		text += fmt.Sprintf(" of %d", *p.Total)
	}
	if p.Suffix != nil && *p.Suffix != "" {
		text += " " + *p.Suffix
	}
	return text
}

type cancelTaskCommand struct {
	Task string `arg:"" help:"Id or href of the task."`
	apiOptions
}

// Help describes the exit status.
func (cancelTaskCommand) Help() string {
	return "A running task is canceled when its worker has stopped it. Exit status 1: the task had ended already."
}

// Run runs the command.
func (o cancelTaskCommand) Run(ctx context.Context, c *console) error {
	href, err := taskHref(o.Task)
	if err != nil {
		return err
	}
	return c.connect(ctx, connection{options: o.apiOptions}, func(ctx context.Context, s *session) error {
		var found apiclient.Object[task]
		err := s.api.Call(ctx, http.MethodPatch, href, map[string]string{"state": canceled}, &found)
		switch {
		case fault.Is(err, fault.Conflict):
			return fmt.Errorf("task %s has ended already", lastSegment(href))
		case fault.Is(err, fault.NotFound):
			return missing("there is no task %s, or you may not see it", lastSegment(href))
		case err != nil:
			return err
		}
		return s.show(found, taskTable(found.V))
	})
}

type followTaskCommand struct {
	Task string `arg:"" help:"Id or href of the task."`
	apiOptions
}

// Help describes the exit status.
func (followTaskCommand) Help() string {
	return "Exit status 1: the task failed or was canceled. The end of this command does not end the task."
}

// Run runs the command.
func (o followTaskCommand) Run(ctx context.Context, c *console) error {
	href, err := taskHref(o.Task)
	if err != nil {
		return err
	}
	return c.connect(ctx, connection{options: o.apiOptions}, func(ctx context.Context, s *session) error {
		found, err := s.follow(ctx, href, "")
		if err != nil {
			return err
		}
		return errors.Join(s.show(found, taskTable(found.V)), found.V.err())
	})
}
