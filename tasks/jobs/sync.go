package jobs

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/glob"
	"github.com/countersign/countersign/internal/mirror"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store"
	"github.com/countersign/countersign/tasks"
)

// Bounds of a sync.
const (
	syncConcurrency = 10             // manifests and blobs on their way at a time, when the remote does not say
	maxConcurrency  = 100            // whatever the remote says
	maxNesting      = 8              // lists in lists
	maxConfig       = 4 << 20        // bytes of an image config
	maxInspected    = 256 << 20      // bytes of manifests that are known and not fetched yet: of one list and all that it lists, say
	defaultTimeout  = 24 * time.Hour // of a sync
	holders         = 20             // repositories that hold a blob which are looked at for one that the task's user may read
	fetchTries      = 3              // times a blob is fetched whose bytes a sweep took along
	allTags         = "sha256:"      // how patterns begin that name manifests by digest
)

// syncer runs sync tasks (contract 6): it asks the remote for its tags, fetches what the repository has not, writes that down as it goes, and makes one
// version at the end.
type syncer struct{ Options }

func (s syncer) run(ctx context.Context, r *tasks.Run, args tasks.SyncArgs) error {
	repo, err := s.Store.Repository(ctx, pulp.Container, args.RepositoryID)
	if err != nil {
		return err
	}
	remote, err := s.Store.Remote(ctx, args.RemoteID)
	if fault.Is(err, fault.NotFound) {
		return fault.New(fault.NotFound, "The remote was removed before the task ran.")
	} else if err != nil {
		return err
	}
	if s.Upstream != nil {
		if err := s.Blobs.Storage.Ping(ctx); err != nil { // there is nowhere to put anything
			return waits(err)
		}
	}
	registry, err := s.Mirror.Open(remote)
	if err != nil {
		return err
	}
	defer registry.Close()
	timeout := s.SyncTimeout
	if timeout <= 0 {
		timeout = defaultTimeout
	}
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, fault.New(fault.Unavailable, "The sync has taken %v and is given up; the next one goes on from there.", timeout))
	defer cancel()
	one := &oneSync{
		syncer: s, task: r, args: args, repo: repo, remote: remote, registry: registry,
		downloads: r.Report("sync.downloading.artifacts", "Downloading Artifacts", -1),
		adding:    r.Report("associating.content", "Associating Content", -1),
		wanted:    store.Synced{RepositoryID: repo.ID, Tags: map[string]digest.Digest{}, Mirror: args.Mirror},
		tried:     map[string]bool{}, taken: map[digest.Digest]bool{},
		heldTags: sync.OnceValues(func() (map[string]digest.Digest, error) { return s.Store.HeldTags(ctx, repo.ID) }),
	}
	registry.Skipped = one.skipped
	return waits(one.run(ctx))
}

// oneSync is one sync under way.
type oneSync struct {
	syncer
	task     *tasks.Run
	args     tasks.SyncArgs
	repo     pulp.Repository
	remote   pulp.Remote
	registry *mirror.Registry

	source    mirror.Source
	tags      map[string]bool                          // that the remote lists
	tried     map[string]bool                          // references that the sync has taken, or tried to
	heldTags  func() (map[string]digest.Digest, error) // of the latest version when the sync began
	skips     skips                                    // content that the sync leaves out
	settled   map[string]digest.Digest                 // tags of the latest version of which nothing but the digest needs to be asked
	absent    map[digest.Digest]bool                   // that the repository holds and whose bytes it wants now
	downloads *tasks.Report
	adding    *tasks.Report
	manifests once[*image]
	parts     once[struct{}]
	blobs     once[struct{}]
	held      atomic.Int64 // bytes of manifests that are inspected and not fetched

	mu     sync.Mutex
	wanted store.Synced
	taken  map[digest.Digest]bool // manifests that the repository will hold because of this sync
}

// image is a manifest as a sync sees it.
type image struct {
	manifest   pulp.Manifest
	held       bool // the repository's latest version has it, with all that it names
	children   []*image
	signatures []pulp.Signature
	answered   bool            // the remote has said which signatures there are
	referrers  []digest.Digest // manifests that sign it, or one of its children
	wanted     bool
}

func (o *oneSync) run(ctx context.Context) error {
	var err error
	if o.source, err = o.registry.SignatureSource(ctx); err != nil {
		return err
	}
	names, err := o.listTags(ctx)
	if err != nil {
		return err
	}
	if o.remote.Policy == pulp.Immediate {
		if err := o.findAbsent(ctx); err != nil {
			return err
		}
	}
	if unattached, err := o.Store.Unattached(ctx, o.repo.ID, o.remote.ID); err != nil {
		return err
	} else if unattached {
		o.wanted.RemoteID = o.remote.ID
	}
	if err := o.findSettled(ctx); err != nil {
		return err
	}
	references := append(names, digestsOf(o.remote.Includes)...)
	processing := o.task.Report("sync.processing.manifest", "Processing Manifests", len(references))
	if err := o.takeAll(ctx, references, processing); err != nil {
		return err
	}
	o.args.SignedOnly = false // companions are what signs
	for companions := o.companions(); len(companions) > 0; companions = o.companions() {
		if err := o.takeAll(ctx, companions, nil); err != nil {
			return err
		}
	}
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	o.skips.report(ctx, o.task, o.Log)
	o.wanted.Report = func(added, removed int64) []store.Progress {
		o.adding.Add(int(added))
		if o.args.Mirror {
			o.task.Report("un-associating.content", "Un-Associating Content", -1).Add(int(removed))
		}
		return o.task.Finished()
	}
	return o.seals(ctx, o.task, func(ctx context.Context) error {
		_, err := o.Store.CommitSync(ctx, o.task.Claim, o.wanted)
		return err
	})
}

// takeAll takes tags, and manifests by digest, some at a time, and counts them in a report, which may be nil.
func (o *oneSync) takeAll(ctx context.Context, references []string, report *tasks.Report) error {
	for _, reference := range references {
		o.tried[reference] = true
	}
	return o.each(ctx, references, func(ctx context.Context, reference string) error {
		err := o.take(ctx, reference)
		if report != nil {
			report.Add(1)
		}
		return err
	})
}

// each runs f for all of a list, some at a time.
func (o *oneSync) each(ctx context.Context, list []string, f func(context.Context, string) error) error {
	group, working := errgroup.WithContext(ctx)
	limit := syncConcurrency
	if n := o.remote.Connection.DownloadConcurrency; n != nil {
		limit = int(min(*n, maxConcurrency))
	}
	group.SetLimit(max(1, limit))
	for _, item := range list {
		if working.Err() != nil {
			break
		}
		group.Go(func() error { return f(working, item) })
	}
	err := group.Wait()
	if cause := context.Cause(ctx); cause != nil { // what broke off says less than why
		return cause
	}
	return err
}

// listTags asks for the remote's tags and returns those that are to be taken.
func (o *oneSync) listTags(ctx context.Context) ([]string, error) {
	report := o.task.Report("sync.downloading.tag_list", "Downloading tag list", 1)
	all, err := o.registry.Tags(ctx)
	if err != nil {
		return nil, err
	}
	if err := o.checkListing(ctx, int64(len(all))); err != nil {
		return nil, err
	}
	o.tags = make(map[string]bool, len(all))
	var names []string
	for _, name := range all {
		o.tags[name] = true
		if _, isCompanion := pulp.CompanionOf(name); isCompanion && (o.filtered() || o.args.SignedOnly) {
			continue // it comes with its image
		}
		if (len(o.remote.Includes) == 0 || matches(o.remote.Includes, name)) && !matches(o.remote.Excludes, name) {
			names = append(names, name)
		}
	}
	report.Add(1)
	return names, report.Complete(ctx)
}

// filtered reports whether the remote narrows its tags. An empty list of patterns is no filter.
func (o *oneSync) filtered() bool { return len(o.remote.Includes) > 0 || len(o.remote.Excludes) > 0 }

// matches reports whether the tag matches one of the patterns.
func matches(patterns []string, tag string) bool {
	return slices.ContainsFunc(patterns, func(pattern string) bool { return glob.MatchTag(pattern, tag) })
}

// digestsOf returns the digests among patterns: manifests to take though no tag names them.
func digestsOf(patterns []string) []string {
	var found []string
	for _, p := range patterns {
		if strings.HasPrefix(p, allTags) && digest.Digest(p).Validate() == nil {
			found = append(found, p)
		}
	}
	return found
}

// companions returns the companion tags of cosign whose images were taken and that were not tried yet. The patterns that exclude tags apply to them, those that
// include tags do not.
func (o *oneSync) companions() []string {
	var found []string
	for name := range o.tags {
		hex, isCompanion := pulp.CompanionOf(name)
		if isCompanion && !o.tried[name] && o.taken["sha256:"+digest.Digest(hex)] && !matches(o.remote.Excludes, name) {
			found = append(found, name)
		}
	}
	slices.Sort(found)
	return found
}

func (o *oneSync) findAbsent(ctx context.Context) error {
	blobs, err := o.Store.AbsentBlobs(ctx, o.repo.ID)
	if err != nil {
		return err
	}
	o.absent = make(map[digest.Digest]bool, len(blobs))
	for _, b := range blobs {
		o.absent[b.Digest] = true
	}
	return nil
}

// findSettled finds the tags of which only the digest needs to be asked: none, where the sync looks for signatures, absent blobs or companions of filtered tags, must name
// everything that stays, or may become the source of blobs that another remote was to give.
func (o *oneSync) findSettled(ctx context.Context) (err error) {
	if o.source != mirror.NoSignatures || o.args.SignedOnly || o.args.Mirror || len(o.absent) > 0 || o.filtered() || o.wanted.RemoteID != "" {
		return nil
	}
	o.settled, err = o.Store.WholeTags(ctx, o.repo.ID)
	return err
}

// take takes one tag, or one manifest by digest, with everything that belongs to it. A tag that the remote lists and whose image cannot be had stays as it is here, and
// the sync reports it.
func (o *oneSync) take(ctx context.Context, reference string) error {
	err := o.takeWhole(ctx, reference)
	_, unreadable := errors.AsType[*unreadableError](err)
	switch {
	case err == nil:
		return nil
	case unreadable && o.tags[reference]:
		return o.keep(ctx, reference, unreadableTags, err)
	case (o.args.SkipCorrupt || o.SkipCorrupt) && errors.Is(err, mirror.ErrCorrupt):
		return o.keep(ctx, reference, corruptImages, err)
	}
	return named(reference, err)
}

// takeWhole is take without a place for failures.
func (o *oneSync) takeWhole(ctx context.Context, reference string) error {
	d, fetched, err := o.resolve(ctx, reference)
	if err != nil {
		return notThere(err)
	}
	if held, ok := o.settled[reference]; ok && held == d {
		return nil
	}
	img, err := o.inspect(ctx, d, fetched, 0, false)
	if fault.Is(err, fault.NotFound) && o.tags[reference] { // it was moved in between
		if d, fetched, err = o.resolve(ctx, reference); err == nil {
			img, err = o.inspect(ctx, d, fetched, 0, false)
		}
	}
	switch {
	case err != nil:
		return notThere(err)
	case img.manifest.Digest == "":
		return o.keep(ctx, reference, unsupported, nil)
	case !img.wanted:
		return nil
	}
	if err := o.fetch(ctx, img); err != nil {
		return err
	}
	if err := o.takeReferrers(ctx, img.referrers); err != nil {
		return err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.tags[reference] {
		o.wanted.Tags[reference] = d
	} else {
		o.wanted.Manifests = append(o.wanted.Manifests, d)
	}
	return nil
}

// resolve returns the digest that a reference stands for at the remote, and the manifest if the remote had to be asked for it.
func (o *oneSync) resolve(ctx context.Context, reference string) (digest.Digest, *mirror.Manifest, error) {
	if strings.HasPrefix(reference, allTags) {
		return digest.Digest(reference), nil, nil
	}
	return o.registry.Resolve(ctx, reference)
}
