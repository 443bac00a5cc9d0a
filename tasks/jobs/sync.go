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
	"github.com/countersign/countersign/internal/retry"
	"github.com/countersign/countersign/internal/store/content"
	"github.com/countersign/countersign/internal/store/taskstore"
	"github.com/countersign/countersign/tasks"
)

// Limits of a sync.
const (
	syncConcurrency = 10      // concurrent requests if the remote does not configure another number
	maxConcurrency  = 100     // most concurrent requests of any remote
	maxNesting      = 8       // depth of nested manifest lists
	maxConfig       = 4 << 20 // bytes of an image config
	// bytes of manifests that were inspected and not fetched yet, for instance of a list and its images
	maxInspected   = 256 << 20
	defaultTimeout = 24 * time.Hour // limit for a sync
	holders        = 20             // repositories with a blob that are checked for one that the task's user may read
	allTags        = "sha256:"      // prefix of patterns that are digests of manifests
)

// whileSwept bounds the attempts to fetch a blob that a concurrent sweep deletes.
var whileSwept = retry.Policy{Attempts: 3, First: time.Millisecond}

// syncer runs sync tasks (compatibility.md#sync). It lists the remote's tags, fetches content that the
// repository does not have, records each object when it has arrived, and commits one version at the end.
type syncer struct{ Options }

func (s syncer) run(ctx context.Context, r *tasks.Run, args tasks.SyncArgs) error {
	repo, err := s.Store.Catalog.Repository(ctx, pulp.Container, args.RepositoryID)
	if err != nil {
		return err
	}
	remote, err := s.Store.Catalog.Remote(ctx, args.RemoteID)
	if fault.Is(err, fault.NotFound) {
		return fault.New(fault.NotFound, "The remote was removed before the task ran.")
	} else if err != nil {
		return err
	}
	if s.Upstream != nil {
		if err := s.Blobs.Storage.Ping(ctx); err != nil { // nothing can be stored
			return retryUpstream(err)
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
		wanted:    content.Synced{RepositoryID: repo.ID, Tags: map[string]digest.Digest{}, Mirror: args.Mirror},
		tried:     map[string]bool{}, taken: map[digest.Digest]bool{},
		heldTags: sync.OnceValues(func() (map[string]digest.Digest, error) { return s.Store.Content.HeldTags(ctx, repo.ID) }),
	}
	registry.Skipped = one.skipped
	return retryUpstream(one.run(ctx))
}

// oneSync is the state of one running sync.
type oneSync struct {
	syncer
	task     *tasks.Run
	args     tasks.SyncArgs
	repo     pulp.Repository
	remote   pulp.Remote
	registry *mirror.Registry

	source   mirror.Source
	tags     map[string]bool                          // listed by the remote
	tried    map[string]bool                          // references that the sync has processed or begun to process
	heldTags func() (map[string]digest.Digest, error) // of the latest version at the start of the sync
	skips    skips                                    // content that the sync skips
	// tags of the latest version that need no check if the remote's digest is the same
	settled   map[string]digest.Digest
	absent    map[digest.Digest]bool // absent blobs of the repository that the sync is to fetch
	downloads *tasks.Report
	adding    *tasks.Report
	manifests once[*image]
	parts     once[struct{}]
	blobs     once[struct{}]
	held      atomic.Int64 // bytes of manifests that were inspected and not fetched yet

	mu     sync.Mutex
	wanted content.Synced
	taken  map[digest.Digest]bool // manifests that the repository contains after this sync
}

// image is a manifest of the remote and the decision about it.
type image struct {
	manifest   pulp.Manifest
	held       bool // the latest version contains it, with everything that it references
	children   []*image
	signatures []pulp.Signature
	answered   bool            // the remote has answered the request for signatures
	referrers  []digest.Digest // manifests with signatures of it or of its children
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
	if unattached, err := o.Store.Content.Unattached(ctx, o.repo.ID, o.remote.ID); err != nil {
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
	o.args.SignedOnly = false // companion tags are signatures themselves
	for companions := o.companions(); len(companions) > 0; companions = o.companions() {
		if err := o.takeAll(ctx, companions, nil); err != nil {
			return err
		}
	}
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	o.skips.report(ctx, o.task, o.Log)
	var removing *tasks.Report
	o.wanted.Report = func(added, removed int64) []taskstore.Progress { // again for each attempt of the transaction
		o.adding.Set(int(added))
		if o.args.Mirror {
			if removing == nil {
				removing = o.task.Report("un-associating.content", "Un-Associating Content", -1)
			}
			removing.Set(int(removed))
		}
		return o.task.Finished()
	}
	return o.runSigned(ctx, o.task, func(ctx context.Context) error {
		_, err := o.Store.Content.CommitSync(ctx, o.task.Claim, o.wanted)
		return err
	})
}

// takeAll processes tags and digests concurrently. It counts them in a report, which may be nil.
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

// each calls f for all items of a list, as many at a time as the remote allows.
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
	if cause := context.Cause(ctx); cause != nil { // more precise than the error that the end of ctx caused
		return cause
	}
	return err
}

// listTags returns the remote's tags that match the filters.
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
			continue // processed with its image
		}
		if (len(o.remote.Includes) == 0 || matches(o.remote.Includes, name)) && !matches(o.remote.Excludes, name) {
			names = append(names, name)
		}
	}
	report.Add(1)
	return names, report.Complete(ctx)
}

// filtered reports whether the remote has filters for tags. Empty lists are no filters.
func (o *oneSync) filtered() bool { return len(o.remote.Includes) > 0 || len(o.remote.Excludes) > 0 }

// matches reports whether a tag matches one of the patterns.
func matches(patterns []string, tag string) bool {
	return slices.ContainsFunc(patterns, func(pattern string) bool { return glob.MatchTag(pattern, tag) })
}

// digestsOf returns the patterns that are digests. Those manifests are included without a tag.
func digestsOf(patterns []string) []string {
	var found []string
	for _, p := range patterns {
		if strings.HasPrefix(p, allTags) && digest.Digest(p).Validate() == nil {
			found = append(found, p)
		}
	}
	return found
}

// companions returns cosign's companion tags of included images that were not processed yet. The remote's
// excludes apply to them, its includes do not.
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
	blobs, err := o.Store.Content.AbsentBlobs(ctx, o.repo.ID)
	if err != nil {
		return err
	}
	o.absent = make(map[digest.Digest]bool, len(blobs))
	for _, b := range blobs {
		o.absent[b.Digest] = true
	}
	return nil
}

// findSettled determines the tags that need no check if the remote's digest is the same. There are none if the
// sync looks for signatures, absent blobs or companion tags, if it must name all remaining content, or if the
// remote may become the source of blobs that another remote was to provide.
func (o *oneSync) findSettled(ctx context.Context) (err error) {
	if o.source != mirror.NoSignatures || o.args.SignedOnly || o.args.Mirror || len(o.absent) > 0 || o.filtered() || o.wanted.RemoteID != "" {
		return nil
	}
	o.settled, err = o.Store.Content.WholeTags(ctx, o.repo.ID)
	return err
}

// take processes one tag or digest. A listed tag whose manifest the remote does not serve is skipped: it stays
// unchanged here and is reported.
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

// takeWhole processes one tag or digest and returns every error.
func (o *oneSync) takeWhole(ctx context.Context, reference string) error {
	d, fetched, err := o.resolve(ctx, reference)
	if err != nil {
		return notThere(err)
	}
	if held, ok := o.settled[reference]; ok && held == d {
		return nil
	}
	img, err := o.inspect(ctx, d, fetched, 0, false)
	if fault.Is(err, fault.NotFound) && o.tags[reference] { // the tag was moved between the two requests
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

// resolve returns the digest of a reference at the remote, and the manifest if the remote had to be asked for
// it.
func (o *oneSync) resolve(ctx context.Context, reference string) (digest.Digest, *mirror.Manifest, error) {
	if strings.HasPrefix(reference, allTags) {
		return digest.Digest(reference), nil, nil
	}
	return o.registry.Resolve(ctx, reference)
}
