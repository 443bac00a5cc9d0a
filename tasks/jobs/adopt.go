package jobs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/countersign/countersign/internal/adopt"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/glob"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/signservice"
	"github.com/countersign/countersign/internal/store"
	"github.com/countersign/countersign/internal/store/content"
	"github.com/countersign/countersign/internal/store/sqldb"
	"github.com/countersign/countersign/internal/store/taskstore"
	"github.com/countersign/countersign/storage"
	"github.com/countersign/countersign/tasks"
)

// errNoUpstream is the error of tasks about an upstream if none is configured.
var errNoUpstream = fault.New(fault.Invalid, "There is no upstream registry: COUNTERSIGN_UPSTREAM_URL is not set.")

// adopt adopts the upstream's repositories whose names match a pattern, one after another. An error about one
// repository is part of the result and does not end the task. If the upstream becomes unavailable, the task is
// retried and the next attempt continues with the results of this one. After the loss of a worker those results
// are unknown, and the repositories count as unchanged.
func (o Options) adopt(ctx context.Context, r *tasks.Run, args tasks.AdoptArgs) error {
	if o.Adopter == nil {
		return errNoUpstream
	}
	names, malformed, err := o.Adopter.Names(ctx, args.Pattern)
	if errors.Is(err, storage.ErrUnsupported) {
		return fault.New(fault.Invalid, "The upstream does not list its repositories: name them one by one.")
	} else if err != nil && o.Adopter.IsFatal(ctx, err) {
		return retryUpstream(err)
	} else if err != nil {
		return err
	}
	if len(names)+len(malformed) == 0 {
		return fault.New(fault.NotFound, "The upstream has no repository that matches %q.", args.Pattern)
	}
	report := r.Report("adopt.repositories", "Adopting repositories", len(names))
	made := taskstore.Outcome{Created: args.Made.Created}
	result := tasks.AdoptResult{
		Adopted: map[string]int64{}, NotAdopted: map[string]string{}, Differences: map[string]int{},
		Unchanged: []string{}, Skipped: map[string][]tasks.AdoptSkipped{},
	}
	maps.Copy(result.Adopted, args.Made.Adopted)
	o.leaveOut(ctx, malformed, result.NotAdopted)
	skipped := 0
	for _, name := range names {
		_, before := result.Adopted[name]
		found, err := o.Adopter.Repository(ctx, caller(r, args.Who), name)
		switch {
		case err != nil && o.Adopter.IsFatal(ctx, err):
			args.Made = tasks.AdoptMade{Adopted: result.Adopted, Created: made.Created}
			o.keepArgs(ctx, r, args)
			return retryUpstream(err)
		case err != nil:
			o.Log.WarnContext(ctx, "not adopted", slog.String("repository", name), slog.Any("err", err))
			if len(names) == 1 {
				return err
			}
			result.NotAdopted[name] = adopt.Sentence(err)
		case found.Refused != "":
			result.NotAdopted[name] = found.Refused
		case found.Version == nil && !before:
			result.Unchanged = append(result.Unchanged, name)
		}
		if found.Version != nil {
			made.Created = append(made.Created, content.CreatedVersion(*found.Version))
			result.Adopted[name] = found.Version.Number
		}
		if n := len(found.Drift); n > 0 {
			result.Differences[name] = n
		}
		if n := len(found.Skipped); n > 0 {
			result.Skipped[name] = firstSkipped(found.Skipped)
			skipped += n
		}
		report.Add(1)
	}
	reportSkipped(r, result.Skipped, skipped)
	made.Result = result
	made.Progress = r.Finished()
	return o.Store.Tasks.CompleteTask(ctx, r.Claim, made)
}

// malformedName is the reason for which an upstream repository with an invalid name is not adopted.
const malformedName = "Its name is not that of a repository here."

// leaveOut adds the upstream's repositories with invalid names to notAdopted.
func (o Options) leaveOut(ctx context.Context, malformed []string, notAdopted map[string]string) {
	for _, name := range malformed {
		name = pulp.Printable(name)
		o.Log.WarnContext(ctx, "not adopted", slog.String("repository", name), slog.String("why", malformedName))
		notAdopted[name] = malformedName
	}
}

// firstSkipped returns the first skipped tags and manifests of a repository, for the result of a task.
func firstSkipped(all []adopt.Skipped) []tasks.AdoptSkipped {
	first := make([]tasks.AdoptSkipped, min(len(all), namesReported))
	for i := range first {
		first[i] = tasks.AdoptSkipped{Kind: all[i].Kind, Name: all[i].Name, Reason: all[i].Reason}
	}
	return first
}

// reportSkipped adds a progress report with the number of tags and manifests that cannot be stored, and the
// first names.
func reportSkipped(r *tasks.Run, by map[string][]tasks.AdoptSkipped, count int) {
	if count == 0 {
		return
	}
	var names []string
	for _, repository := range slices.Sorted(maps.Keys(by)) {
		for _, s := range by[repository] {
			at := ":"
			if s.Kind != "tag" {
				at = "@"
			}
			names = append(names, repository+at+s.Name)
		}
	}
	names = names[:min(len(names), namesReported)]
	message := "Skipped content that cannot be stored: " + strings.Join(names, ", ")
	if more := count - len(names); more > 0 {
		message += fmt.Sprintf(", and %d more", more)
	}
	r.Report("adopt.skipped", message, count).Add(count)
}

// keepTime is the limit for storing the results of an attempt that ends early.
const keepTime = 5 * time.Second

// keepArgs stores arguments for the next attempt at a task.
func (o Options) keepArgs(ctx context.Context, r *tasks.Run, args tasks.AdoptArgs) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), keepTime)
	defer cancel()
	if err := o.Store.Tasks.KeepArgs(ctx, r.Claim, args); err != nil && !errors.Is(err, taskstore.ErrFenced) {
		o.Log.WarnContext(ctx, "cannot store the results of this attempt; the next one reports its repositories as unchanged", slog.Any("err", err))
	}
}

// compare compares the repositories whose names match a pattern with the upstream. It does not change their
// content.
func (o Options) compare(ctx context.Context, r *tasks.Run, args tasks.CompareArgs) error {
	if o.Adopter == nil {
		return errNoUpstream
	}
	all, err := o.Store.Upstream.LeastCompared(ctx, time.Now().Add(time.Hour), maxCompared)
	if err != nil {
		return err
	}
	var repos []pulp.Repository
	for _, repo := range all {
		if glob.MatchName(args.Pattern, repo.Name) {
			repos = append(repos, repo)
		}
	}
	if len(repos) == 0 && args.Pattern != "*" {
		return fault.New(fault.NotFound, "There is no repository that matches %q.", args.Pattern)
	}
	report := r.Report("compare.repositories", "Comparing repositories", len(repos))
	found := r.Report("compare.differences", "Differences", -1)
	for _, repo := range repos {
		got, err := o.Adopter.Compare(ctx, caller(r, args.Who), repo, adopt.CompareOptions{Deep: args.Deep})
		if err != nil && o.Adopter.IsFatal(ctx, err) {
			return retryUpstream(err)
		} else if err != nil { // the repository may have been deleted meanwhile
			o.Log.WarnContext(ctx, "cannot compare the repository with the upstream", slog.String("repository", repo.Name), slog.Any("err", err))
			if len(repos) == 1 {
				return err
			}
		}
		report.Add(1)
		found.Add(len(got.Drift))
	}
	return o.Store.Tasks.CompleteTask(ctx, r.Claim, taskstore.Outcome{Progress: r.Finished()})
}

// maxCompared is the number of repositories that one comparison includes.
const maxCompared = 1_000_000

// retryUpstream marks an error to be retried if the upstream does not answer.
func retryUpstream(err error) error {
	if fault.IsOutage(err, fault.Upstream) {
		return tasks.RetryLater(err)
	}
	return err
}

// Comparer compares each repository with the upstream at intervals. The repository whose last comparison is
// oldest is next.
type Comparer struct {
	Store   *store.Store
	Adopter *adopt.Adopter
	Log     *slog.Logger
	Every   time.Duration // interval between comparisons of one repository
}

// Intervals of the comparer.
const (
	compareLook  = 5 * time.Second // between checks whether a comparison is due
	compareBatch = 20
	comparePause = 30 * time.Second // after an error
)

// Run compares repositories until ctx ends.
func (c Comparer) Run(ctx context.Context) {
	for ctx.Err() == nil {
		wait := min(compareLook, c.Every)
		if err := c.round(ctx); err != nil && ctx.Err() == nil {
			c.Log.WarnContext(ctx, "comparison with the upstream stopped early", slog.Any("err", err))
			wait = comparePause
		}
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
	}
}

// round compares the repositories that are due. Every server checks, but only one at a time compares.
func (c Comparer) round(ctx context.Context) error {
	due, err := c.Store.Upstream.LeastCompared(ctx, time.Now().Add(-c.Every), 1)
	if err != nil || len(due) == 0 {
		return err
	}
	return c.Store.DB.WithLock(ctx, sqldb.Comparison, func(still func() error) error {
		due, err := c.Store.Upstream.LeastCompared(ctx, time.Now().Add(-c.Every), compareBatch)
		for _, repo := range due {
			if err := errors.Join(still(), ctx.Err()); err != nil {
				return err
			}
			if err := c.compare(ctx, repo); err != nil {
				return fmt.Errorf("%s: %w", repo.Name, err)
			}
		}
		return err
	})
}

// compare compares one repository. An error about that repository is logged; the others are compared all the
// same.
func (c Comparer) compare(ctx context.Context, repo pulp.Repository) error {
	found, err := c.Adopter.Compare(ctx, signservice.Caller{User: "comparison"}, repo, adopt.CompareOptions{Follow: c.Adopter.Follow})
	switch {
	case err == nil:
		err = c.Store.Upstream.MarkCompared(ctx, repo.ID)
		for _, d := range found.Fresh {
			c.Log.WarnContext(ctx, "the upstream differs",
				slog.String("repository", repo.Name), slog.String("kind", d.Kind), slog.String("name", d.Name),
				slog.String("here", string(d.Here)), slog.String("upstream", string(d.Upstream)), slog.String("note", d.Note))
		}
		return err
	case c.Adopter.IsFatal(ctx, err):
		return err
	}
	c.Log.WarnContext(ctx, "cannot compare the repository with the upstream", slog.String("repository", repo.Name), slog.Any("err", err))
	return c.Store.Upstream.MarkCompared(ctx, repo.ID)
}
