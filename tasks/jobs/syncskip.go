package jobs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/mirror"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/content"
	"github.com/countersign/countersign/tasks"
)

// skipReason is the code and the message of the progress report about skipped content.
type skipReason struct{ code, message string }

// Reasons for which a sync skips content.
var (
	malformedTags       = skipReason{"sync.skipped.malformed_tags", "Skipped tags with malformed names"}
	unreadableTags      = skipReason{"sync.skipped.unreadable_tags", "Skipped tags whose manifest the remote does not serve"}
	unsupported         = skipReason{"sync.skipped.unsupported", "Skipped unsupported manifests"}
	absentImages        = skipReason{"sync.skipped.absent_images", "Skipped images of lists that the remote does not serve"}
	corruptImages       = skipReason{"sync.skipped.corrupt", "Skipped corrupt images"}
	unreadableReferrers = skipReason{"sync.skipped.unreadable_referrers", "Skipped signatures that the remote lists as referrers and does not serve"}
	rejectedSignatures  = skipReason{"sync.skipped.signatures", "Skipped signatures of"}

	skipReasons = []skipReason{malformedTags, unreadableTags, unsupported, absentImages, corruptImages, unreadableReferrers, rejectedSignatures}
)

// namesReported is the number of names that a progress report about skipped content contains.
const namesReported = 20

// skips collects the content that a sync skips. It is safe for concurrent use.
type skips struct {
	mu sync.Mutex
	by map[skipReason]*skipped
}

// skipped is the content that is skipped for one reason.
type skipped struct {
	names map[string]bool // each name once; signatures have the names of their manifests
	first []string
	why   []error // the errors about first
	count int
}

// add records a skipped tag or digest. Each name counts once, but of a manifest's signatures each counts.
func (s *skips) add(reason skipReason, name string, why error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.by == nil {
		s.by = map[skipReason]*skipped{}
	}
	x := s.by[reason]
	if x == nil {
		x = &skipped{names: map[string]bool{}}
		s.by[reason] = x
	}
	if known := x.names[name]; known && reason != rejectedSignatures {
		return
	} else if !known && len(x.first) < namesReported {
		x.first, x.why = append(x.first, name), append(x.why, why)
	}
	x.names[name] = true
	x.count++
}

// report adds a progress report to the task for each reason, with the number and the first names, and logs the
// errors.
func (s *skips) report(ctx context.Context, task *tasks.Run, log *slog.Logger) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, reason := range skipReasons {
		x := s.by[reason]
		if x == nil {
			continue
		}
		shown := make([]string, len(x.first))
		for i, name := range x.first {
			shown[i] = pulp.Printable(name)
			log.WarnContext(ctx, reason.message, slog.String("task", task.Task.ID), slog.String("name", shown[i]), slog.Any("err", x.why[i]))
		}
		message := reason.message + ": " + strings.Join(shown, ", ")
		if more := len(x.names) - len(x.first); more > 0 {
			message += fmt.Sprintf(", and %d more", more)
		}
		task.Report(reason.code, message, x.count).Add(x.count)
	}
}

// skipped records content that the registry client skips itself.
func (o *oneSync) skipped(kind mirror.Skipped, name string) {
	reason := malformedTags
	if kind == mirror.SkippedSignature {
		reason = rejectedSignatures
	}
	o.skips.add(reason, name, nil)
}

// keep skips a tag, or an image that the remote's includes name by digest. If the repository has it, it stays
// unchanged, with its image and that image's companions.
func (o *oneSync) keep(ctx context.Context, reference string, reason skipReason, why error) error {
	o.skips.add(reason, reference, why)
	root := digest.Digest(reference)
	if o.tags[reference] {
		held, err := o.heldTags()
		if err != nil {
			return err
		}
		root = held[reference]
	}
	tree, err := o.Store.Content.HeldTree(ctx, o.repo.ID, root)
	if err != nil {
		return err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.tags[reference] {
		o.wanted.Kept = append(o.wanted.Kept, reference)
	} else if slices.Contains(tree, root) {
		o.wanted.Manifests = append(o.wanted.Manifests, root)
	}
	for _, d := range tree {
		o.taken[d] = true
	}
	return nil
}

// unreadableError reports that the remote does not serve a manifest that it should have.
type unreadableError struct{ error }

// Unwrap returns the remote's error.
func (e *unreadableError) Unwrap() error { return e.error }

// notThere marks an error of a manifest that the remote does not serve.
func notThere(err error) error {
	if fault.Is(err, fault.NotFound) {
		return &unreadableError{err}
	}
	return err
}

// named adds a tag or digest to the message of an error about its image.
func named(reference string, err error) error {
	f, ok := errors.AsType[*fault.Error](err)
	if !ok {
		return err
	}
	what := "tag"
	if strings.HasPrefix(reference, allTags) {
		what = "image"
	}
	msg := fmt.Sprintf("%s (%s %s)", f.Msg, what, reference)
	if errors.Is(err, mirror.ErrCorrupt) {
		msg += " To sync without it, use skip_corrupt."
	}
	return &fault.Error{Kind: f.Kind, Msg: msg, Err: err, RetryAfter: f.RetryAfter}
}

// mayShrink reports whether the sync may remove content that the remote does not list any more.
func (o *oneSync) mayShrink() bool { return o.args.AllowShrink || o.repo.AllowShrink || o.AllowShrink }

// checkListing compares the number of tags that the remote lists, before filters, with the number at the last
// successful sync. If the list is empty or lost more than half of its tags, a sync with mirror fails, unless
// the sync, the repository or the configuration allows it. A sync without mirror continues, since it removes
// nothing, but the number for later comparisons stays unchanged.
func (o *oneSync) checkListing(ctx context.Context, listed int64) error {
	location, name := o.registry.Location()
	known, isKnown, err := o.Store.Content.ListedTags(ctx, o.repo.ID, location, name)
	if err != nil {
		return err
	}
	now := &content.TagListing{URL: location, Name: name, Tags: listed}
	shrunk := isKnown && 2*listed < known
	switch {
	case o.mayShrink() || !shrunk && listed > 0:
		o.wanted.Listed = now
		return nil
	case !o.args.Mirror:
		if !shrunk {
			o.wanted.Listed = now
		}
		return nil
	case shrunk:
		return fault.New(fault.Conflict, "The remote lists %d tags of %s, and listed %d when a sync of it last succeeded. Nothing was removed. "+
			"If that is right, sync with allow_shrink, or set it on the repository.", listed, name, known)
	}
	held, err := o.heldTags()
	if err != nil {
		return err
	}
	if len(held) > 0 {
		return fault.New(fault.Conflict, "The remote lists no tags of %s, and the repository has %d. Nothing was removed. "+
			"If that is right, sync with allow_shrink, or set it on the repository.", name, len(held))
	}
	o.wanted.Listed = now
	return nil
}
