package main

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

	"github.com/countersign/countersign/internal/adopt"
	"github.com/countersign/countersign/internal/store"
	"github.com/countersign/countersign/tasks"
)

type adoptCommand struct {
	Pattern string `arg:"" help:"Name of the repository, as it is here; * stands for any characters."`
}

type driftCommand struct {
	Pattern string `arg:"" optional:"" default:"*" help:"Name of the repository; * stands for any characters."`
	Deep    bool   `help:"Ask the upstream for all manifests and blobs, of every version, and not only for the tags."`
}

var errNoUpstream = errors.New("there is no upstream registry: COUNTERSIGN_UPSTREAM_URL is not set")

// Run adopts, by a task of the running server.
func (c adoptCommand) Run(p *program) error {
	return p.behindUpstream(func(s *store.Store) error {
		t, err := p.follow(s, tasks.AdoptSpec(c.Pattern))
		if err != nil {
			return err
		}
		var result tasks.AdoptResult
		if err := json.Unmarshal(t.Result, &result); err != nil {
			return fmt.Errorf("result of task %s: %w", t.ID, err)
		}
		return p.printAdopted(result)
	})
}

func (p *program) printAdopted(r tasks.AdoptResult) error {
	w := tabwriter.NewWriter(p.out, 0, 0, 2, ' ', 0)
	for _, name := range slices.Sorted(maps.Keys(r.Adopted)) {
		fmt.Fprintf(w, "%s\tversion %d\n", name, r.Adopted[name])
	}
	for _, name := range slices.Sorted(maps.Keys(r.NotAdopted)) {
		fmt.Fprintf(w, "%s\tnot adopted: %s\n", name, r.NotAdopted[name])
	}
	if len(r.Adopted)+len(r.NotAdopted) == 0 {
		fmt.Fprintln(w, "nothing new")
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if n := len(r.NotAdopted); n > 0 {
		return fmt.Errorf("%d of the repositories were not adopted", n)
	}
	return nil
}

// Run compares, by a task of the running server, and prints what differs.
func (c driftCommand) Run(p *program) error {
	return p.behindUpstream(func(s *store.Store) error {
		if _, err := p.follow(s, tasks.CompareSpec(c.Pattern, c.Deep)); err != nil {
			return err
		}
		return p.printDrift(s, c.Pattern)
	})
}

func (p *program) printDrift(s *store.Store, pattern string) error {
	const page = 1000
	w := tabwriter.NewWriter(p.out, 0, 0, 2, ' ', 0)
	lines := 0
	for offset := 0; ; offset += page {
		found, count, err := s.Drifts(p.ctx, page, offset)
		if err != nil {
			return err
		}
		for _, d := range found {
			if !adopt.Matches(pattern, d.Repository) {
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

func (p *program) behindUpstream(do func(*store.Store) error) error {
	if p.config.UpstreamURL == "" {
		return errNoUpstream
	}
	return p.withExisting(do)
}

// How a verb follows a task.
const (
	followEvery = 100 * time.Millisecond
	followHint  = 10 * time.Second // after so long it says what it waits for
)

// follow makes a task and waits for its end. A verb that is interrupted leaves the task to the server.
func (p *program) follow(s *store.Store, spec tasks.Spec) (store.Task, error) {
	q, err := p.openQueue()
	if err != nil {
		return store.Task{}, err
	}
	defer q.close()
	t, err := tasks.NewDispatcher(s, q, nil, slog.New(slog.DiscardHandler)).Dispatch(p.ctx, spec)
	if err != nil {
		return t, err
	}
	began, hinted := time.Now(), false
	for !t.State.Final() {
		select {
		case <-p.ctx.Done():
			return t, fmt.Errorf("task %s goes on: %w", t.ID, context.Cause(p.ctx))
		case <-time.After(followEvery):
		}
		if t, err = s.Task(p.ctx, t.ID); err != nil {
			return t, err
		}
		if t.State == store.TaskWaiting && !hinted && time.Since(began) > followHint {
			hinted = true
			what := "the task waits for a server or a worker to run it"
			if t.Attempt > 0 {
				what = "the upstream registry does not answer; the task goes on when it does, whether this command waits for it or not"
			}
			p.log.WarnContext(p.ctx, what, slog.String("task", t.ID), slog.String("upstream", p.config.UpstreamURL))
		}
	}
	if t.State != store.TaskCompleted {
		if t.Error != nil {
			return t, errors.New(t.Error.Description)
		}
		return t, fmt.Errorf("task %s was %s", t.ID, t.State)
	}
	return t, nil
}
