package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/actor"
	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/glob"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store"
	"github.com/countersign/countersign/internal/store/taskstore"
	"github.com/countersign/countersign/storage"
	"github.com/countersign/countersign/tasks"
)

// errNoUpstream reports a command about the upstream without one.
var errNoUpstream = errors.New("there is no upstream registry: set COUNTERSIGN_UPSTREAM_URL as for the server")

// Adopt adopts the content of the upstream registry into the repositories with names that match pattern, in which *
// stands for any characters. It creates a task for the server or a worker, waits for its end and prints its result.
func (a *Admin) Adopt(ctx context.Context, pattern string) error {
	return a.withUpstream(ctx, func(ctx context.Context, s *store.Store, entries *audit.Log) error {
		t, err := a.runTask(ctx, s, tasks.AdoptSpec(pattern, actor.CommandName), started(entries, "adopt", pattern))
		if prefix := a.config.Upstream.Prefix; err != nil && prefix != "" && strings.HasPrefix(pattern, prefix) {
			return fmt.Errorf("%s: %w Repository names do not include upstream.prefix: try %q", pattern, err, strings.TrimPrefix(pattern, prefix))
		} else if err != nil && t.Error != nil { // the text of the task need not name the repository
			return fmt.Errorf("%s: %w", pattern, err)
		} else if err != nil {
			return err
		}
		var result tasks.AdoptResult
		if err := json.Unmarshal(t.Result, &result); err != nil {
			return fmt.Errorf("result of task %s: %w", t.ID, err)
		}
		return a.printAdopted(result)
	})
}

// Drift compares the repositories with names that match pattern with the upstream registry, by a task like Adopt, and
// prints the differences. With deep it compares the manifests and blobs of all versions, otherwise the tags only.
func (a *Admin) Drift(ctx context.Context, pattern string, deep bool) error {
	return a.withUpstream(ctx, func(ctx context.Context, s *store.Store, entries *audit.Log) error {
		recorded := started(entries, "compare", pattern)
		if _, err := a.runTask(ctx, s, tasks.CompareSpec(pattern, deep, actor.CommandName), recorded); err != nil {
			return err
		}
		return a.printDrift(ctx, s, pattern)
	})
}

// printAdopted prints the result of each repository. It returns an error if a repository was not adopted.
func (a *Admin) printAdopted(r tasks.AdoptResult) error {
	lines := map[string]string{}
	for _, name := range r.Unchanged {
		lines[name] = "nothing new"
	}
	for name, number := range r.Adopted {
		lines[name] = fmt.Sprintf("version %d", number)
	}
	for name, n := range r.Differences {
		lines[name] += fmt.Sprintf("; remaining differences: %d (see drift)", n)
	}
	for name, why := range r.NotAdopted {
		lines[name] = "not adopted: " + why
	}
	w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
	for _, name := range slices.Sorted(maps.Keys(lines)) {
		fmt.Fprintf(w, "%s\t%s\n", name, lines[name])
	}
	for _, name := range slices.Sorted(maps.Keys(r.Skipped)) {
		for _, s := range r.Skipped[name] {
			fmt.Fprintf(w, "%s\tskipped %s %s: %s\n", name, s.Kind, s.Name, s.Reason)
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if n := len(r.NotAdopted); n > 0 {
		return fmt.Errorf("%d of %d repositories were not adopted", n, len(lines))
	}
	return nil
}

// printDrift prints the recorded differences of the repositories with names that match pattern.
func (a *Admin) printDrift(ctx context.Context, s *store.Store, pattern string) error {
	const page = 1000
	w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
	lines := 0
	for offset := 0; ; offset += page {
		found, count, err := s.Upstream.Drifts(ctx, page, offset)
		if err != nil {
			return err
		}
		for _, d := range found {
			if !glob.MatchName(pattern, d.Repository) {
				continue
			}
			if lines++; lines == 1 {
				fmt.Fprintln(w, "REPOSITORY\tKIND\tNAME\tHERE\tUPSTREAM\tNOTE")
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", d.Repository, d.Kind, d.Name, short(d.Here), short(d.Upstream), d.Note)
		}
		if offset+len(found) >= int(count) || len(found) == 0 {
			if lines == 0 {
				fmt.Fprintln(w, "no differences")
			}
			return w.Flush()
		}
	}
}

// short returns the first characters of a digest, or - for none.
func short(d digest.Digest) string {
	if d == "" {
		return "-"
	}
	return strings.TrimPrefix(string(d), "sha256:")[:12]
}

// withUpstream calls do with the open database and the audit log if there is an upstream.
func (a *Admin) withUpstream(ctx context.Context, do func(context.Context, *store.Store, *audit.Log) error) error {
	if a.config.UpstreamURL == "" {
		return errNoUpstream
	}
	return a.change(ctx, do)
}

// started returns a function that writes the audit entry of a task that a command has started.
func started(entries *audit.Log, action, pattern string) func(context.Context, taskstore.Task) {
	return func(ctx context.Context, t taskstore.Task) {
		entry := audit.Entry{Action: action, Object: pulp.Root + "upstream/", Result: audit.Done}
		entries.Record(ctx, entry, slog.String("pattern", pattern), slog.String("task", t.ID))
	}
}

// Times of a command that waits for a task.
const (
	pollInterval = 100 * time.Millisecond
	firstNotice  = 3 * time.Second  // the first time at which the cause of the delay is determined
	nextNotice   = 10 * time.Second // between later ones
	pingTimeout  = 5 * time.Second  // for the upstream's answer
)

// runTask dispatches a task, calls started with it, and waits for its end. The error is that of the task. If ctx ends
// before, the task goes on.
func (a *Admin) runTask(
	ctx context.Context, s *store.Store, spec tasks.Spec, started func(context.Context, taskstore.Task),
) (taskstore.Task, error) {
	upstream, err := a.app.OpenStorage(ctx)
	if err != nil {
		return taskstore.Task{}, err
	}
	queue, err := a.app.OpenQueue(ctx)
	if err != nil {
		return taskstore.Task{}, err
	}
	defer queue.Close()
	t, err := tasks.NewQueueDispatcher(s, queue, slog.New(slog.DiscardHandler)).Dispatch(ctx, tasks.ByCommand(), spec)
	if err != nil {
		return t, err
	}
	started(ctx, t)
	if t, err = a.wait(ctx, s, t, upstream); err != nil {
		return t, err
	}
	switch {
	case t.State == taskstore.TaskCompleted:
		return t, nil
	case t.Error != nil:
		return t, errors.New(t.Error.Description)
	}
	return t, fmt.Errorf("task %s was %s", t.ID, t.State)
}

// wait polls a task until it has ended. From time to time it logs the cause of the delay.
func (a *Admin) wait(ctx context.Context, s *store.Store, t taskstore.Task, upstream storage.Storage) (taskstore.Task, error) {
	logged, next := "", time.Now().Add(firstNotice)
	for !t.State.Final() {
		select {
		case <-ctx.Done():
			return t, fmt.Errorf("task %s continues: %w", t.ID, context.Cause(ctx))
		case <-time.After(pollInterval):
		}
		var err error
		if t, err = s.Tasks.Task(ctx, t.ID); err != nil {
			return t, err
		}
		if t.State.Final() || time.Now().Before(next) {
			continue
		}
		if cause, details := a.delay(ctx, t, upstream); cause != logged && cause != "" && ctx.Err() == nil {
			a.log.WarnContext(ctx, cause, append(details, slog.String("task", t.ID))...)
			logged = cause
		}
		next = time.Now().Add(nextNotice)
	}
	return t, nil
}

// delay returns the cause for which a task about the upstream has not ended, with attributes for the log. The cause
// is "" for a task that runs. The upstream is contacted from this process; the server may see another result.
func (a *Admin) delay(ctx context.Context, t taskstore.Task, upstream storage.Storage) (cause string, details []any) {
	ctx, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	switch err := upstream.Ping(ctx); {
	case err != nil:
		return fmt.Sprintf("the upstream registry at %s does not answer: check that it runs and can be reached from this machine, "+
			"and that upstream_url and upstream.ca_file are correct; the task continues when it answers, even if this command has ended",
			a.config.UpstreamURL), []any{slog.Any("err", err)}
	case t.State != taskstore.TaskWaiting:
		return "", nil
	case t.Attempt == 0:
		return "the task waits for a server or worker: check that one runs with this database, " +
			"and that no other task about the upstream is before it (GET tasks/)", nil
	}
	return "the task was started and will be retried: the log of the server or worker has the reason", nil
}
