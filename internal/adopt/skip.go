package adopt

import (
	"context"
	"log/slog"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/store"
)

// Skipped is content of the upstream that cannot be stored here.
type Skipped struct {
	Kind   string // tag, manifest
	Name   string // of the tag; the digest of a manifest
	Reason string // a sentence

	logged bool
}

// skip notes content of the upstream that cannot be stored, once for each name. conclude logs it unless the caller has done that.
func (r *run) skip(kind, name, reason string, logged bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if slices.ContainsFunc(r.skipped, func(s Skipped) bool { return s.Kind == kind && s.Name == name }) {
		return
	}
	r.skipped = append(r.skipped, Skipped{kind, name, reason, logged})
}

// skipTag notes a tag of the upstream that cannot be stored, and that is no tag here.
func (r *run) skipTag(name string, d digest.Digest, reason string) {
	r.skip("tag", name, reason, false)
	r.differs("tag", name, "", d, reason)
}

// logSkipped logs what was skipped, except what an earlier comparison has found in the same way.
func (r *run) logSkipped(ctx context.Context, fresh []store.Drift) {
	isFresh := map[[2]string]bool{}
	for _, d := range fresh {
		isFresh[[2]string{d.Kind, d.Name}] = true
	}
	for _, s := range r.skipped {
		if s.logged || s.Kind == "tag" && !isFresh[[2]string{s.Kind, s.Name}] {
			continue
		}
		r.Log.WarnContext(ctx, "not adopted", slog.String("repository", r.repo.Name), slog.String("kind", s.Kind), slog.String("name", s.Name), slog.String("why", s.Reason))
	}
}

// What is told of a tag that somebody else has pushed.
const (
	pushedByOther  = "Somebody else has pushed it."
	cannotBeStored = "Somebody else has pushed it, and it cannot be adopted: "
)

// unadopted notes that a tag which somebody else has pushed is not adopted, as configured, and whether it could be. An earlier comparison of the same
// digest has the answer already; a deep one asks again, and a check of a single tag does not ask.
func (r *run) unadopted(ctx context.Context, how How, t store.UpstreamTag, d digest.Digest) error {
	note := pushedByOther
	known := r.known[t.Name]
	switch {
	case r.known == nil:
	case !how.Deep && known.Upstream == d && strings.HasPrefix(known.Note, cannotBeStored):
		note = known.Note
	case how.Deep || known.Upstream != d || known.Note != pushedByOther:
		try := r.of(r.repo, r.why)
		try.dry = true
		err := try.take(ctx, d, 0)
		if why, left := leftOut(err); left {
			note = cannotBeStored + why
		} else if err != nil {
			return err
		}
	}
	if why, cannot := strings.CutPrefix(note, cannotBeStored); cannot {
		r.skip("tag", t.Name, why, false)
	}
	r.differs("tag", t.Name, t.Here, d, note)
	return nil
}

// lostError says that the upstream has not all that a manifest names.
type lostError struct{ what digest.Digest }

// Error implements error.
func (e lostError) Error() string {
	return "The upstream has not " + string(e.what) + ", which it names."
}
