package app

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

	"github.com/countersign/countersign/internal/glob"
	"github.com/countersign/countersign/internal/store"
	"github.com/countersign/countersign/storage"
	"github.com/countersign/countersign/tasks"
)

type AdoptCommand struct {
	Pattern string `arg:"" help:"Name of the repository, as it is here; * stands for any characters."`
}

type DriftCommand struct {
	Pattern string `arg:"" optional:"" default:"*" help:"Name of the repository; * stands for any characters."`
	Deep    bool   `help:"Ask the upstream for all manifests and blobs, of every version, and not only for the tags."`
}

var errNoUpstream = errors.New("there is no upstream registry: COUNTERSIGN_UPSTREAM_URL is not set")

// Run adopts, by a task of the running server.
func (c AdoptCommand) Run(p *Program) error {
	return p.behindUpstream(func(s *store.Store) error {
		t, err := p.follow(s, tasks.AdoptSpec(c.Pattern, commandLineUser))
		if prefix := p.config.Upstream.Prefix; err != nil && prefix != "" && strings.HasPrefix(c.Pattern, prefix) {
			return fmt.Errorf("%s: %w Names are those here, without upstream.prefix: try %q", c.Pattern, err, strings.TrimPrefix(c.Pattern, prefix))
		} else if err != nil && t.Error != nil { // its sentence may be about a repository that it does not name
			return fmt.Errorf("%s: %w", c.Pattern, err)
		} else if err != nil {
			return err
		}
		var result tasks.AdoptResult
		if err := json.Unmarshal(t.Result, &result); err != nil {
			return fmt.Errorf("result of task %s: %w", t.ID, err)
		}
		return p.printAdopted(result)
	})
}

// printAdopted prints a line for each repository, and fails where one was not adopted.
func (p *Program) printAdopted(r tasks.AdoptResult) error {
	lines := map[string]string{}
	for _, name := range r.Unchanged {
		lines[name] = "nothing new"
	}
	for name, number := range r.Adopted {
		lines[name] = fmt.Sprintf("version %d", number)
	}
	for name, n := range r.Differences {
		lines[name] += fmt.Sprintf("; what still differs (%d) is listed by drift", n)
	}
	for name, why := range r.NotAdopted {
		lines[name] = "not adopted: " + why
	}
	w := tabwriter.NewWriter(p.out, 0, 0, 2, ' ', 0)
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

// Run compares, by a task of the running server, and prints what differs.
func (c DriftCommand) Run(p *Program) error {
	return p.behindUpstream(func(s *store.Store) error {
		if _, err := p.follow(s, tasks.CompareSpec(c.Pattern, c.Deep, commandLineUser)); err != nil {
			return err
		}
		return p.printDrift(s, c.Pattern)
	})
}

func (p *Program) printDrift(s *store.Store, pattern string) error {
	const page = 1000
	w := tabwriter.NewWriter(p.out, 0, 0, 2, ' ', 0)
	lines := 0
	for offset := 0; ; offset += page {
		found, count, err := s.Drifts(p.ctx, page, offset)
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

// short is a digest as people read it.
func short(d digest.Digest) string {
	if d == "" {
		return "-"
	}
	return strings.TrimPrefix(string(d), "sha256:")[:12]
}

func (p *Program) behindUpstream(do func(*store.Store) error) error {
	if p.config.UpstreamURL == "" {
		return errNoUpstream
	}
	return p.withExisting(do)
}

// How a verb follows a task.
const (
	followEvery = 100 * time.Millisecond
	followFirst = 3 * time.Second  // after so long it says what it waits for,
	followHint  = 10 * time.Second // and so often it looks whether that is something else
	followPing  = 5 * time.Second  // that the upstream has to answer
)

// follow makes a task and waits for its end. A verb that is interrupted leaves the task to the server.
func (p *Program) follow(s *store.Store, spec tasks.Spec) (store.Task, error) {
	upstream, err := p.openStorage()
	if err != nil {
		return store.Task{}, err
	}
	q, err := p.openQueue()
	if err != nil {
		return store.Task{}, err
	}
	defer q.close()
	t, err := tasks.NewDispatcher(s, q, nil, slog.New(slog.DiscardHandler)).Dispatch(p.ctx, tasks.ByCommand(), spec)
	if err != nil {
		return t, err
	}
	said, look := "", time.Now().Add(followFirst)
	for !t.State.Final() {
		select {
		case <-p.ctx.Done():
			return t, fmt.Errorf("task %s goes on: %w", t.ID, context.Cause(p.ctx))
		case <-time.After(followEvery):
		}
		if t, err = s.Task(p.ctx, t.ID); err != nil {
			return t, err
		}
		if t.State.Final() || time.Now().Before(look) {
			continue
		}
		if what, why := p.waitsFor(t, upstream); what != said && what != "" && p.ctx.Err() == nil {
			p.log.WarnContext(p.ctx, what, append(why, slog.String("task", t.ID))...)
			said = what
		}
		look = time.Now().Add(followHint)
	}
	if t.State != store.TaskCompleted {
		if t.Error != nil {
			return t, errors.New(t.Error.Description)
		}
		return t, fmt.Errorf("task %s was %s", t.ID, t.State)
	}
	return t, nil
}

// waitsFor says what a task about the upstream waits for, and what to look at; empty: it runs. The upstream is asked from here: that it answers the server is not known.
func (p *Program) waitsFor(t store.Task, upstream storage.Storage) (what string, why []any) {
	ctx, cancel := context.WithTimeout(p.ctx, followPing)
	defer cancel()
	switch err := upstream.Ping(ctx); {
	case err != nil:
		return fmt.Sprintf("the upstream registry at %s does not answer: see that it runs, that this machine reaches it, and that upstream_url and upstream.ca_file are right;"+
			" the task goes on when it answers, whether this command waits for it or not", p.config.UpstreamURL), []any{slog.Any("err", err)}
	case t.State != store.TaskWaiting:
		return "", nil
	case t.Attempt == 0:
		return "the task waits for a server or a worker to run it: see that one runs with this database, and that no other task about the upstream is in front of it (GET tasks/)", nil
	}
	return "the task was begun and is tried again: the log of the server or the worker says why", nil
}
