// Package adopt imports content that other clients have pushed to the upstream registry, and compares
// repositories with the upstream.
//
// Adoption makes an upstream repository's manifests and tags content of the repository of the same name. It
// reads manifests, tags and the sizes of blobs, and copies no blob. It never adopts writes of this server (see
// upstreamstate.UpstreamTag). All requests to the upstream are made by storage/upstream.
package adopt

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/singleflight"

	"github.com/countersign/countersign/internal/actor"
	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/ingest"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/signonpush"
	"github.com/countersign/countersign/internal/signservice"
	"github.com/countersign/countersign/internal/store"
	"github.com/countersign/countersign/internal/store/content"
	"github.com/countersign/countersign/internal/store/upstreamstate"
	"github.com/countersign/countersign/storage"
)

// Limits of requests to an upstream and of their results.
const (
	parallel   = 8       // concurrent requests
	maxNesting = 8       // depth of nested manifest lists and of referrers
	maxConfig  = 4 << 20 // bytes of an image config
	missTTL    = 10 * time.Second
	maxPull    = 5 * time.Minute // limit for one pull
	maxMisses  = 10_000

	maxReferrers = 1000 // of one manifest
)

// Adopter adopts content of one upstream. It is safe for concurrent use.
type Adopter struct {
	Store      *store.Store
	Upstream   storage.Manifests
	Blobs      ingest.Blobs
	SignOnPush *signonpush.Runner
	Log        *slog.Logger
	Audit      *audit.Log
	// Type is the type of repositories that an adoption creates.
	Type pulp.RepositoryType
	// Public makes repositories that an adoption creates readable by everyone; otherwise they are private.
	Public bool
	// Follow makes a comparison adopt what other clients have pushed; otherwise it only records the difference.
	Follow bool
	// Pin makes the upstream keep manifests that a version here contains and no tag there: a hidden tag
	// protects each of them from the upstream's garbage collection.
	Pin bool

	once   sync.Once
	misses *lru.Cache[string, miss] // upstream lookups without a result, by their keys
	pulls  singleflight.Group
}

// Pulled looks up upstream a tag or digest that a client has pulled and this server does not know, and adopts
// it. It reports whether the caller should look the manifest up again: because it was adopted, or because the
// upstream is not to be asked about it (it is here by now, or this server alone decides about the tag).
//
// Concurrent calls for the same reference share one lookup. If the upstream does not have the reference or does
// not answer, it is not asked again for missTTL; the result is the same meanwhile.
//
// With absentOnly nothing is adopted under a name that a repository or a distribution uses. Callers that may
// not read the repository use it, because they must not learn that it exists: a name in use costs the same
// queries as an unused one. The result is false, too, if a concurrent call has adopted the name.
func (a *Adopter) Pulled(ctx context.Context, user, name, reference string, absentOnly bool) (bool, error) {
	key := fmt.Sprint(name, " ", reference, " ", absentOnly)
	if err, missed := a.missed(key); missed {
		return false, err
	}
	pulled := a.pulls.DoChan(key, func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), maxPull)
		defer cancel()
		here, err := a.pull(ctx, user, name, reference, absentOnly)
		if why, skip := contentError(err); skip {
			a.Log.WarnContext(ctx, "not adopted",
				slog.String("repository", name), slog.String("reference", reference), slog.String("why", why))
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

func (a *Adopter) pull(ctx context.Context, user, name, reference string, absentOnly bool) (bool, error) {
	repo, known, own, taken := pulp.Repository{Name: name}, upstreamstate.UpstreamTag{}, pulp.IsPinTag(reference), false
	var err error
	if absentOnly {
		taken, err = a.Store.Catalog.NameTaken(ctx, name)
	} else {
		repo, known, own, err = a.isOwn(ctx, name, reference)
	}
	if err != nil || own { // another call has adopted the reference meanwhile
		return err == nil, err
	}
	d, err := a.Upstream.Resolve(ctx, repo.UpstreamName(), reference)
	if errors.Is(err, storage.ErrNotFound) || err == nil && (taken || known.Ours(d)) {
		return false, nil
	} else if err != nil {
		return false, err
	}
	if repo.ID == "" {
		repo, err = a.target(ctx, user, name)
	}
	if fault.Is(err, fault.Conflict) { // the name is used for something else here
		return false, nil
	} else if err != nil {
		return false, err
	}
	r := a.newRun(repo, signservice.Caller{User: user})
	wanted := upstreamstate.Adopted{RepositoryID: repo.ID}
	if pulp.ValidTag(reference) {
		wanted.Tags = map[string]upstreamstate.AdoptedTag{reference: {Digest: d, Serial: known.Serial}}
	} else {
		wanted.Manifests = []digest.Digest{d}
	}
	if err := r.record(ctx, d, 0); err != nil {
		return false, err
	}
	wanted.Attached = r.attached
	_, err = r.commit(ctx, wanted)
	return err == nil, err
}

// SettleTag compares a tag with the upstream before a conditional change of the tag. If another client has pushed
// the tag there, it returns that digest, after adopting and committing it as a version if Follow is set. A digest
// that cannot be adopted is returned too, and logged. If it was not adopted, no If-Match can
// hold: the caller compares the condition with this digest, the transaction with the tag here.
//
// The digest is empty if the upstream has the same manifest as this server, a late write of this server, or no such
// tag; and, without a request to the upstream, if the tag waits in the outbox, is a pin tag, or belongs to a mirror.
// The error is an outage of the upstream or the database. Pushes of other clients between this call and the write of
// the change to the upstream are not noticed.
func (a *Adopter) SettleTag(ctx context.Context, user string, repo pulp.Repository, tag string) (digest.Digest, error) {
	if repo.RemoteID != "" || pulp.IsPinTag(tag) {
		return "", nil
	}
	ctx, cancel := context.WithTimeout(ctx, maxPull)
	defer cancel()
	known, err := a.Store.Upstream.UpstreamTag(ctx, repo.ID, tag)
	if err != nil || known.Dirty {
		return "", err
	}
	r := a.newRun(repo, signservice.Caller{User: user})
	var d digest.Digest
	var take bool
	r.options.Follow = a.Follow
	err = r.retryOnce(ctx, func() (err error) { d, take, err = r.judgeTag(ctx, known); return err })
	if err == nil && take {
		_, err = r.commit(ctx, upstreamstate.Adopted{
			RepositoryID: repo.ID, Attached: r.attached,
			Tags: map[string]upstreamstate.AdoptedTag{tag: {Digest: d, Serial: known.Serial}},
		})
	}
	switch {
	case err != nil && (d == "" || a.IsFatal(ctx, err)):
		return "", err
	case err != nil: // not adopted, but the upstream has it
		a.Log.WarnContext(ctx, "not adopted", slog.String("repository", repo.Name), slog.String("tag", tag), slog.Any("err", err))
	case d == known.Here || known.Ours(d):
		return "", nil
	}
	return d, nil
}

// isOwn reports whether this server alone decides about a reference: a tag that exists here or waits in the
// outbox, or a manifest that was removed here. It also returns the repository (only its name if there is none)
// and, for a tag, its state before the upstream is asked.
func (a *Adopter) isOwn(
	ctx context.Context, name, reference string,
) (repo pulp.Repository, known upstreamstate.UpstreamTag, own bool, err error) {
	repo, err = a.Store.Catalog.RepositoryByName(ctx, name)
	switch {
	case fault.Is(err, fault.NotFound):
		return pulp.Repository{Name: name}, known, pulp.IsPinTag(reference), nil
	case err != nil || repo.RemoteID != "":
		return repo, known, true, err
	case !pulp.ValidTag(reference):
		had, err := a.Store.Upstream.HadManifest(ctx, repo.ID, digest.Digest(reference))
		return repo, known, had, err
	}
	known, err = a.Store.Upstream.UpstreamTag(ctx, repo.ID, reference)
	return repo, known, known.Here != "" || known.Dirty || pulp.IsPinTag(reference), err
}

// miss is the result of a lookup that found nothing.
type miss struct {
	at  time.Time
	err error // nil: the upstream does not have the reference
}

// missed returns the result of an earlier lookup that found nothing, at most missTTL ago.
func (a *Adopter) missed(key string) (err error, missed bool) { //nolint:revive // the error is the answer
	m, ok := a.missCache().Get(key)
	return m.err, ok && time.Since(m.at) < missTTL
}

func (a *Adopter) miss(key string, err error) { a.missCache().Add(key, miss{time.Now(), err}) }

func (a *Adopter) missCache() *lru.Cache[string, miss] {
	a.once.Do(func() { a.misses, _ = lru.New[string, miss](maxMisses) }) // the only error is a size below 1
	return a.misses
}

// target returns the repository with this name. If there is none it creates one.
func (a *Adopter) target(ctx context.Context, user, name string) (pulp.Repository, error) {
	if !pulp.ValidName(name) {
		return pulp.Repository{}, fault.New(fault.Invalid, "%q is not the name of a repository.", name)
	}
	repo, made, err := a.Store.Catalog.AdoptTarget(ctx, name, a.Type, a.Public)
	if made && err == nil {
		a.Audit.Record(ctx, audit.Entry{Action: "adopt repository", Object: name, Result: audit.Done}, onBehalfOf(ctx, user)...)
	}
	return repo, err
}

// onBehalfOf returns the detail of an audit entry that names the user, unless the user is the actor.
func onBehalfOf(ctx context.Context, user string) []slog.Attr {
	if user == "" || user == actor.From(ctx).Name {
		return nil
	}
	return []slog.Attr{slog.String("on_behalf_of", user)}
}

// run is one adoption into a repository, or one comparison of it.
type run struct {
	*Adopter
	repo    pulp.Repository
	why     signservice.Caller
	options CompareOptions

	dry   bool                           // store nothing
	known map[string]upstreamstate.Drift // differences of tags that the previous comparison recorded, by tag

	unanswered atomic.Int64 // number of tags about which the upstream did not answer
	unlisted   atomic.Bool  // the upstream does not list referrers

	mu       sync.Mutex
	taken    map[digest.Digest]bool
	attached []digest.Digest // referrers of recorded manifests
	drift    []upstreamstate.Drift
	skipped  []Skipped
}

func (a *Adopter) newRun(repo pulp.Repository, why signservice.Caller) *run {
	return &run{Adopter: a, repo: repo, why: why, taken: map[digest.Digest]bool{}}
}

// commit adds the adopted content to the repository as a new version, and returns it; nil if nothing changes.
// If the repository requires signatures, the content is signed first.
func (r *run) commit(ctx context.Context, wanted upstreamstate.Adopted) (v *pulp.Version, err error) {
	if len(wanted.Tags)+len(wanted.Manifests) == 0 {
		return nil, nil
	}
	err = r.SignOnPush.Run(ctx, r.why, func(ctx context.Context) (err error) {
		v, err = r.Store.Upstream.CommitAdopted(ctx, wanted)
		return err
	})
	if err == nil && v != nil {
		r.Audit.Record(ctx, audit.Entry{Action: "adopt content", Object: r.repo.Name, Result: audit.Done},
			append(onBehalfOf(ctx, r.why.User), slog.Int64("version", v.Number), slog.Int("tags", len(wanted.Tags)))...)
	}
	return v, err
}

// contentError reports whether an error concerns the content itself (it is invalid, too large or gone) rather
// than the upstream or the database. Such content is skipped for the returned reason.
func contentError(err error) (why string, skip bool) {
	if missing, ok := errors.AsType[missingError](err); ok {
		return missing.Error(), true
	}
	if e, ok := errors.AsType[*fault.Error](err); ok && (e.Kind == fault.Invalid || e.Kind == fault.TooLarge) {
		return e.Msg, true
	}
	if errors.Is(err, storage.ErrNotFound) {
		return "It was deleted during the adoption.", true
	}
	return "", false
}

// record stores a manifest and everything it references, children and blobs first. A manifest that the
// repository contains already is complete.
func (r *run) record(ctx context.Context, d digest.Digest, depth int) error {
	r.mu.Lock()
	taken := r.taken[d]
	r.mu.Unlock()
	if taken {
		return nil
	}
	if depth > maxNesting {
		return fault.New(fault.Invalid, "The list nests more than %d deep.", maxNesting)
	}
	have, m, err := r.Store.Content.HasManifest(ctx, r.repo.ID, d)
	if err != nil {
		return err
	}
	if have != content.HaveVersion {
		if err := r.recordManifest(ctx, d, have, m, depth); err != nil {
			return err
		}
	}
	r.mu.Lock()
	r.taken[d] = true
	r.mu.Unlock()
	return nil
}

func (r *run) recordManifest(ctx context.Context, d digest.Digest, have content.Have, m pulp.Manifest, depth int) (err error) {
	if have == content.HaveNothing {
		if m.Payload, m.MediaType, err = r.Upstream.GetManifest(ctx, r.repo.UpstreamName(), string(d)); err != nil {
			return err
		}
	}
	if m, err = pulp.ParseManifest(m.Payload, m.MediaType); err != nil {
		return err
	}
	m.Digest = d
	for _, c := range m.Children {
		err := r.record(ctx, c.Digest, depth+1)
		if errors.Is(err, storage.ErrNotFound) { // a sparse list: allowed
			r.skip("manifest", string(c.Digest), "The list "+string(d)+" names it, and the upstream does not have it.", false)
		} else if err != nil {
			return err
		}
	}
	for _, l := range m.Layers {
		err := r.recordBlob(ctx, l.Digest)
		// a foreign layer: clients get it from its URLs
		if _, missing := errors.AsType[missingError](err); missing && (len(l.URLs) > 0 || pulp.IsForeign(l.MediaType)) {
			continue
		}
		if err != nil {
			return err
		}
	}
	if m.Config != nil {
		if err := r.recordBlob(ctx, m.Config.Digest); err != nil {
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
	if err := r.Store.Content.FetchedManifest(ctx, r.repo.ID, m); err != nil {
		return err
	}
	return r.recordReferrers(ctx, d, depth)
}
