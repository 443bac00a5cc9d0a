// Package adopt takes in what an upstream registry shows and this one does not know, and finds where the two differ.
//
// What is adopted becomes content of a repository of the same name: manifests, tags and sizes are read, and no blob is copied. Our own writes are never taken for
// somebody else's (store.UpstreamTag). It knows no HTTP; how an upstream is asked is in storage/upstream.
package adopt

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/singleflight"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/ingest"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/signonpush"
	"github.com/countersign/countersign/internal/signservice"
	"github.com/countersign/countersign/internal/store"
	"github.com/countersign/countersign/storage"
)

// Bounds of what is asked of an upstream.
const (
	parallel   = 8       // requests at a time
	maxNesting = 8       // lists in lists
	maxConfig  = 4 << 20 // bytes of an image config
	missKept   = 10 * time.Second
	maxPull    = 5 * time.Minute // for what one pull adopts
	maxMisses  = 10_000

	maxReferrers = 1000 // that are adopted of one manifest's
)

// Adopter adopts. It is safe for concurrent use.
type Adopter struct {
	Store      *store.Store
	Upstream   storage.Manifests
	Blobs      ingest.Blobs
	SignOnPush *signonpush.Runner
	Log        *slog.Logger
	// Type is the type of the repositories that are made.
	Type pulp.RepositoryType
	// Public says that everybody may read repositories that are made; else they are private.
	Public bool
	// Follow has what others push to the upstream become versions here by themselves.
	Follow bool
	// Keep has a hidden tag keep each manifest alive upstream that a version here holds and no tag there.
	Keep bool

	mu     sync.Mutex
	misses map[string]miss // by what the upstream was asked for
	pulls  singleflight.Group
}

// Pulled adopts what somebody did not find by a tag or a digest, and says whether to look again: it was adopted, or is here, or this registry's to say, by now. Who asks for the
// same meanwhile waits for the same answer, and what the upstream has not, or did not say, it is not asked for again for a while.
//
// With absentOnly nothing is adopted under a name that a repository or a distribution has. That is for callers who may not read it, and must not learn that it exists: such
// a name costs the same queries as an absent one. The result is false, too, where another pull has adopted the name meanwhile.
func (a *Adopter) Pulled(ctx context.Context, who, name, reference string, absentOnly bool) (bool, error) {
	key := fmt.Sprint(name, " ", reference, " ", absentOnly)
	if err, missed := a.missed(key); missed {
		return false, err
	}
	pulled := a.pulls.DoChan(key, func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), maxPull)
		defer cancel()
		here, err := a.pull(ctx, who, name, reference, absentOnly)
		if why, left := leftOut(err); left {
			a.Log.WarnContext(ctx, "not adopted", slog.String("repository", name), slog.String("reference", reference), slog.String("why", why))
			here, err = false, nil
		}
		if !here && (err == nil || fault.IsOutage(err, fault.Upstream)) {
			a.miss(key, err)
		}
		return here, err
	})
	select {
	case r := <-pulled:
		here, _ := r.Val.(bool)
		return here, r.Err
	case <-ctx.Done():
		return false, ctx.Err()
	}
}

func (a *Adopter) pull(ctx context.Context, who, name, reference string, absentOnly bool) (bool, error) {
	repo, known, ours, taken := pulp.Repository{Name: name}, store.UpstreamTag{}, pulp.IsPinTag(reference), false
	var err error
	if absentOnly {
		taken, err = a.Store.NameTaken(ctx, name)
	} else {
		repo, known, ours, err = a.ours(ctx, name, reference)
	}
	if err != nil || ours { // whoever came too late for what another pull has adopted finds it now
		return err == nil, err
	}
	d, err := a.Upstream.Resolve(ctx, repo.UpstreamName(), reference)
	if errors.Is(err, storage.ErrNotFound) || err == nil && (taken || known.Ours(d)) {
		return false, nil
	} else if err != nil {
		return false, err
	}
	if repo.ID == "" {
		repo, err = a.target(ctx, who, name)
	}
	if fault.Is(err, fault.Conflict) { // the name is something else here
		return false, nil
	} else if err != nil {
		return false, err
	}
	r := a.of(repo, signservice.Caller{User: who})
	wanted := store.Adopted{RepositoryID: repo.ID}
	if pulp.ValidTag(reference) {
		wanted.Tags = map[string]store.AdoptedTag{reference: {Digest: d, Serial: known.Serial}}
	} else {
		wanted.Manifests = []digest.Digest{d}
	}
	if err := r.take(ctx, d, 0); err != nil {
		return false, err
	}
	wanted.Attached = r.attached
	_, err = r.commit(ctx, wanted)
	return err == nil, err
}

// Current finds out, before a change that demands something of a tag, whether somebody else has pushed it to the upstream, and adopts that where it is followed. It returns what the
// upstream shows then; empty when that is ours, or nothing. What others push between this and the writing through of the change nobody can know.
func (a *Adopter) Current(ctx context.Context, who string, repo pulp.Repository, tag string) (digest.Digest, error) {
	if repo.RemoteID != "" || pulp.IsPinTag(tag) {
		return "", nil
	}
	ctx, cancel := context.WithTimeout(ctx, maxPull)
	defer cancel()
	known, err := a.Store.UpstreamTag(ctx, repo.ID, tag)
	if err != nil || known.Dirty {
		return "", err
	}
	r := a.of(repo, signservice.Caller{User: who})
	var d digest.Digest
	var take bool
	err = r.insist(ctx, func() (err error) { d, take, err = r.judgeTag(ctx, How{Follow: a.Follow}, known); return err })
	if err == nil && take {
		_, err = r.commit(ctx, store.Adopted{RepositoryID: repo.ID, Tags: map[string]store.AdoptedTag{tag: {Digest: d, Serial: known.Serial}}, Attached: r.attached})
	}
	switch {
	case err != nil && (d == "" || a.Away(ctx, err)):
		return "", err
	case err != nil: // it is there all the same
		a.Log.WarnContext(ctx, "not adopted", slog.String("repository", repo.Name), slog.String("tag", tag), slog.Any("err", err))
	case d == known.Here || known.Ours(d):
		return "", nil
	}
	return d, nil
}

// ours says whether it is this registry's to say what a reference stands for: a tag that it has, or is about to write through, or a manifest that it has had and that
// was removed. It returns the repository too, only its name when there is none, and of a tag what is known before the upstream is asked.
func (a *Adopter) ours(ctx context.Context, name, reference string) (repo pulp.Repository, known store.UpstreamTag, ours bool, err error) {
	repo, err = a.Store.RepositoryByName(ctx, name)
	switch {
	case fault.Is(err, fault.NotFound):
		return pulp.Repository{Name: name}, known, pulp.IsPinTag(reference), nil
	case err != nil || repo.RemoteID != "":
		return repo, known, true, err
	case !pulp.ValidTag(reference):
		had, err := a.Store.HadManifest(ctx, repo.ID, digest.Digest(reference))
		return repo, known, had, err
	}
	known, err = a.Store.UpstreamTag(ctx, repo.ID, reference)
	return repo, known, known.Here != "" || known.Dirty || pulp.IsPinTag(reference), err
}

// miss is what came of asking the upstream in vain.
type miss struct {
	at  time.Time
	err error // nil: it has not what it was asked for
}

func (a *Adopter) missed(key string) (err error, missed bool) { //nolint:revive // the error is the answer
	a.mu.Lock()
	defer a.mu.Unlock()
	m, ok := a.misses[key]
	return m.err, ok && time.Since(m.at) < missKept
}

func (a *Adopter) miss(key string, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.misses == nil || len(a.misses) >= maxMisses {
		a.misses = map[string]miss{}
	}
	a.misses[key] = miss{time.Now(), err}
}

// target returns the repository of a name, which it makes where there is none.
func (a *Adopter) target(ctx context.Context, who, name string) (pulp.Repository, error) {
	if !pulp.ValidName(name) {
		return pulp.Repository{}, fault.New(fault.Invalid, "%q is not the name of a repository.", name)
	}
	repo, made, err := a.Store.AdoptTarget(ctx, name, a.Type, a.Public)
	if made && err == nil {
		a.Log.InfoContext(ctx, "audit", slog.String("who", who), slog.String("action", "adopt repository"), slog.String("repository", name), slog.String("result", "done"))
	}
	return repo, err
}

// run is the adoption into one repository.
type run struct {
	*Adopter
	repo pulp.Repository
	why  signservice.Caller

	dry   bool                   // nothing is written down
	known map[string]store.Drift // tags that the last comparison found to differ, by name

	silent   atomic.Int64 // tags that the upstream gave no answer about
	unlisted atomic.Bool  // the upstream does not list what refers to manifests

	mu       sync.Mutex
	taken    map[digest.Digest]bool
	attached []digest.Digest // what refers to what was taken
	drift    []store.Drift
	skipped  []Skipped
}

func (a *Adopter) of(repo pulp.Repository, why signservice.Caller) *run {
	return &run{Adopter: a, repo: repo, why: why, taken: map[digest.Digest]bool{}}
}

// commit makes the version. A repository that signs on push has it signed before it is seen.
func (r *run) commit(ctx context.Context, wanted store.Adopted) (v *pulp.Version, err error) {
	if len(wanted.Tags)+len(wanted.Manifests) == 0 {
		return nil, nil
	}
	err = r.SignOnPush.Run(ctx, r.why, func(ctx context.Context) (err error) {
		v, err = r.Store.CommitAdopted(ctx, wanted)
		return err
	})
	if err == nil && v != nil {
		r.Log.InfoContext(ctx, "audit", slog.String("who", r.why.User), slog.String("action", "adopt"), slog.String("repository", r.repo.Name),
			slog.Int64("version", v.Number), slog.Int("tags", len(wanted.Tags)), slog.String("result", "done"))
	}
	return v, err
}

// leftOut says whether an error is the content's own, and not the upstream's or the database's, and why it is left out.
func leftOut(err error) (why string, left bool) {
	if lost, ok := errors.AsType[lostError](err); ok {
		return lost.Error(), true
	}
	if e, ok := errors.AsType[*fault.Error](err); ok && (e.Kind == fault.Invalid || e.Kind == fault.TooLarge) {
		return e.Msg, true
	}
	if errors.Is(err, storage.ErrNotFound) {
		return "It went away while it was looked at.", true
	}
	return "", false
}

// take writes down a manifest and all that it names, children and blobs first. What the repository has already it has with all that.
func (r *run) take(ctx context.Context, d digest.Digest, depth int) error {
	r.mu.Lock()
	taken := r.taken[d]
	r.mu.Unlock()
	if taken {
		return nil
	}
	if depth > maxNesting {
		return fault.New(fault.Invalid, "The list nests more than %d deep.", maxNesting)
	}
	have, m, err := r.Store.HasManifest(ctx, r.repo.ID, d)
	if err != nil {
		return err
	}
	if have != store.HaveVersion {
		if err := r.fetch(ctx, d, have, m, depth); err != nil {
			return err
		}
	}
	r.mu.Lock()
	r.taken[d] = true
	r.mu.Unlock()
	return nil
}

func (r *run) fetch(ctx context.Context, d digest.Digest, have store.Have, m pulp.Manifest, depth int) (err error) {
	if have == store.HaveNothing {
		if m.Payload, m.MediaType, err = r.Upstream.GetManifest(ctx, r.repo.UpstreamName(), string(d)); err != nil {
			return err
		}
	}
	if m, err = pulp.ParseManifest(m.Payload, m.MediaType); err != nil {
		return err
	}
	m.Digest = d
	for _, c := range m.Children {
		err := r.take(ctx, c.Digest, depth+1)
		if errors.Is(err, storage.ErrNotFound) { // a sparse list is a list too
			r.skip("manifest", string(c.Digest), "The list "+string(d)+" names it, and the upstream does not have it.", false)
		} else if err != nil {
			return err
		}
	}
	for _, l := range m.Layers {
		err := r.takeBlob(ctx, l.Digest)
		if _, lost := errors.AsType[lostError](err); lost && (len(l.URLs) > 0 || pulp.IsForeign(l.MediaType)) { // it lies elsewhere
			continue
		}
		if err != nil {
			return err
		}
	}
	if m.Config != nil {
		if err := r.takeBlob(ctx, m.Config.Digest); err != nil {
			return err
		}
		if r.dry {
			return nil
		}
		if err := r.readConfig(ctx, &m); err != nil {
			return err
		}
	}
	if r.dry {
		return nil
	}
	if err := r.Store.FetchedManifest(ctx, r.repo.ID, m); err != nil {
		return err
	}
	return r.takeReferrers(ctx, d, depth)
}

// takeReferrers takes what refers to a manifest, where the upstream lists that, but for what was removed here. Where it does not, clients keep the list under a tag. Nothing that is wrong
// with what refers to an image keeps the image out.
func (r *run) takeReferrers(ctx context.Context, d digest.Digest, depth int) error {
	if r.unlisted.Load() || depth >= maxNesting {
		return nil
	}
	r.mu.Lock()
	r.taken[d] = true // whatever the upstream says refers to what
	r.mu.Unlock()
	var found []digest.Digest
	err := r.insist(ctx, func() (err error) { found, err = r.Upstream.Referrers(ctx, r.repo.UpstreamName(), d); return err })
	switch {
	case err == nil:
	case r.gone(ctx, err):
		return err
	case !fault.IsOutage(err, fault.Upstream):
		r.unlisted.Store(true)
		fallthrough
	default:
		if !errors.Is(err, storage.ErrUnsupported) {
			r.Log.WarnContext(ctx, "what refers to a manifest not adopted", slog.String("repository", r.repo.Name), slog.String("digest", string(d)), slog.Any("err", err))
		}
		return nil
	}
	for _, referrer := range found[:min(len(found), maxReferrers)] {
		had, err := r.Store.HadManifest(ctx, r.repo.ID, referrer)
		if err != nil {
			return err
		}
		if had {
			continue
		}
		err = r.insist(ctx, func() error { return r.take(ctx, referrer, depth+1) })
		why, left := leftOut(err)
		switch {
		case err == nil:
			r.mu.Lock()
			r.attached = append(r.attached, referrer)
			r.mu.Unlock()
		case !left && r.Away(ctx, err):
			return err
		default:
			r.Log.WarnContext(ctx, "not adopted", slog.String("repository", r.repo.Name), slog.String("digest", string(referrer)), slog.String("subject", string(d)), slog.Any("err", err))
			reason := cmp.Or(why, Sentence(err))
			r.skip("manifest", string(referrer), reason, true)
			r.differs("manifest", string(referrer), "", referrer, "It refers to "+string(d)+", and it cannot be adopted: "+reason)
		}
	}
	return nil
}
