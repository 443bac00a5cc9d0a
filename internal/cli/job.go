package cli

import (
	"context"
	"errors"

	"github.com/countersign/countersign/internal/apiclient"
)

// job is a task that a command has started for an object.
type job struct {
	label string // the object
	href  string // of the task
}

// report writes the tasks of a command, after they have ended if wait is set. It returns the errors of those that failed.
func (s *session) report(ctx context.Context, jobs []job, wait bool) error {
	if len(jobs) == 0 {
		return nil
	}
	found := make([]apiclient.Object[task], 0, len(jobs))
	t := table{header: []string{"OBJECT", "STATE", "RESULT", "TASK"}}
	var failed []error
	for _, j := range jobs {
		var v apiclient.Object[task]
		var err error
		if wait {
			v, err = s.follow(ctx, j.href, j.label)
		} else {
			v, err = s.readTask(ctx, j.href)
		}
		if err != nil {
			return errors.Join(append(failed, err)...)
		}
		if wait {
			failed = append(failed, v.V.err())
		}
		found = append(found, v)
		t.rows = append(t.rows, []cell{{text: j.label}, v.V.cell(), {text: v.V.result()}, {text: v.V.id()}})
	}
	return errors.Join(append([]error{s.show(found, t)}, failed...)...)
}

// result returns the result of a task in a few words.
func (t task) result() string {
	if !t.ended() {
		return "-"
	}
	text := ""
	if p, ok := t.current(); ok {
		text = p.text()
	}
	for _, href := range t.Results {
		if n := versionNumber(href); n >= 0 {
			return join(text, "new version "+lastSegment(href))
		}
	}
	if t.State == completed && len(t.Results) == 0 {
		return join(text, "no new version")
	}
	return join(text, "")
}

// join returns two texts with a separator between them, if both are there.
func join(a, b string) string {
	switch {
	case a == "" && b == "":
		return "-"
	case a == "" || b == "":
		return a + b
	}
	return a + "; " + b
}
