package adopt

import (
	"context"
	"log/slog"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/store/upstreamstate"
)

// Skipped is content of the upstream that cannot be stored here.
type Skipped struct {
	Kind   string // "tag" or "manifest"
	Name   string // the tag, or the digest of the manifest
	Reason string // a sentence for users

	logged bool
}

// skip records content of the upstream that cannot be stored, once for each name. conclude logs it unless
// logged is true.
func (r *run) skip(kind, name, reason string, logged bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if slices.ContainsFunc(r.skipped, func(s Skipped) bool { return s.Kind == kind && s.Name == name }) {
		return
	}
	r.skipped = append(r.skipped, Skipped{kind, name, reason, logged})
}

// skipTag records a tag of the upstream that cannot be stored and does not exist here.
func (r *run) skipTag(name string, d digest.Digest, reason string) {
	r.skip("tag", name, reason, false)
	r.addDrift("tag", name, "", d, reason)
}

// logSkipped logs skipped content. It omits tags that the previous comparison has found in the same state.
func (r *run) logSkipped(ctx context.Context, fresh []upstreamstate.Drift) {
	isFresh := map[[2]string]bool{}
	for _, d := range fresh {
		isFresh[[2]string{d.Kind, d.Name}] = true
	}
	for _, s := range r.skipped {
		if s.logged || s.Kind == "tag" && !isFresh[[2]string{s.Kind, s.Name}] {
			continue
		}
		r.Log.WarnContext(ctx, "not adopted", slog.String("repository", r.repo.Name),
			slog.String("kind", s.Kind), slog.String("name", s.Name), slog.String("why", s.Reason))
	}
}

// Notes about tags that other clients have pushed.
const (
	pushedByOther  = "Somebody else has pushed it."
	cannotBeStored = "Somebody else has pushed it, and it cannot be adopted: "
)

// noteUnfollowed records the difference of a tag that another client has pushed and that is not to be adopted,
// and whether it could be. If the previous comparison has seen the same digest, its answer is used; a deep
// comparison checks again, and SettleTag, which has no previous comparison, does not check.
func (r *run) noteUnfollowed(ctx context.Context, t upstreamstate.UpstreamTag, d digest.Digest) error {
	note := pushedByOther
	known := r.known[t.Name]
	switch {
	case r.known == nil:
	case !r.options.Deep && known.Upstream == d && strings.HasPrefix(known.Note, cannotBeStored):
		note = known.Note
	case r.options.Deep || known.Upstream != d || known.Note != pushedByOther:
		try := r.newRun(r.repo, r.why)
		try.dry = true
		err := try.record(ctx, d, 0)
		if why, skip := contentError(err); skip {
			note = cannotBeStored + why
		} else if err != nil {
			return err
		}
	}
	if why, cannot := strings.CutPrefix(note, cannotBeStored); cannot {
		r.skip("tag", t.Name, why, false)
	}
	r.addDrift("tag", t.Name, t.Here, d, note)
	return nil
}

// missingError reports that the upstream lacks content that a manifest references.
type missingError struct{ digest digest.Digest }

// Error implements error.
func (e missingError) Error() string {
	return "The upstream does not have " + string(e.digest) + ", which it references."
}
