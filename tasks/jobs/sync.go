package jobs

import (
	"context"
	"log/slog"
	"path"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/mirror"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store"
	"github.com/countersign/countersign/tasks"
)

// Bounds of a sync.
const (
	syncConcurrency = 10        // manifests and blobs on their way at a time, when the remote does not say
	maxConcurrency  = 100       // whatever the remote says
	maxNesting      = 8         // lists in lists
	maxConfig       = 4 << 20   // bytes of an image config
	maxInspected    = 256 << 20 // bytes of manifests that are known and not fetched yet: of one list and all that it lists, say
	maxSync         = 24 * time.Hour
	holders         = 20        // repositories that hold a blob which are looked at for one that the task's user may read
	fetchTries      = 3         // times a blob is fetched whose bytes a sweep took along
	allTags         = "sha256:" // how patterns begin that name manifests by digest
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
	ctx, cancel := context.WithTimeoutCause(ctx, maxSync, fault.New(fault.Unavailable, "The sync has taken %v and is given up; the next one goes on from there.", maxSync))
	defer cancel()
	one := &oneSync{
		syncer: s, task: r, args: args, repo: repo, remote: remote, registry: registry,
		downloads: r.Report("sync.downloading.artifacts", "Downloading Artifacts", -1),
		adding:    r.Report("associating.content", "Associating Content", -1),
		wanted:    store.Synced{RepositoryID: repo.ID, Tags: map[string]digest.Digest{}, Mirror: args.Mirror},
	}
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

	source     mirror.Source
	tags       map[string]bool          // that the remote has
	settled    map[string]digest.Digest // tags of the latest version of which nothing but the digest needs to be asked
	absent     map[digest.Digest]bool   // that the repository holds and whose bytes it wants now
	downloads  *tasks.Report
	adding     *tasks.Report
	processing *tasks.Report
	manifests  once[*image]
	parts      once[struct{}]
	blobs      once[struct{}]
	held       atomic.Int64 // bytes of manifests that are inspected and not fetched

	mu     sync.Mutex
	wanted store.Synced
}

// image is a manifest as a sync sees it.
type image struct {
	manifest   pulp.Manifest
	held       bool // the repository's latest version has it, with all that it names
	children   []*image
	signatures []pulp.Signature
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
	if err := o.findSettled(ctx); err != nil {
		return err
	}
	references := append(names, digestsOf(o.remote.Includes)...)
	o.processing = o.task.Report("sync.processing.manifest", "Processing Manifests", len(references))
	if err := o.each(ctx, references, func(ctx context.Context, reference string) error {
		err := o.take(ctx, reference)
		o.processing.Add(1)
		return err
	}); err != nil {
		return err
	}
	companions := o.companions()
	o.args.SignedOnly = false // they are what signs
	if err := o.each(ctx, companions, o.take); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
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
	o.tags = make(map[string]bool, len(all))
	var names []string
	for _, name := range all {
		o.tags[name] = true
		if _, isCompanion := pulp.CompanionOf(name); isCompanion && o.args.SignedOnly {
			continue // it comes with what it belongs to
		}
		if (o.remote.Includes == nil || matches(o.remote.Includes, name)) && !matches(o.remote.Excludes, name) {
			names = append(names, name)
		}
	}
	report.Add(1)
	return names, report.Complete(ctx)
}

// matches says whether a name matches one of the patterns: *, ? and [sets] as in file names.
func matches(patterns []string, name string) bool {
	return slices.ContainsFunc(patterns, func(pattern string) bool {
		ok, err := path.Match(strings.ReplaceAll(pattern, "[!", "[^"), name)
		return ok || err != nil && pattern == name
	})
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

// companions returns the tags of cosign that belong to what was taken and that the filters left out.
func (o *oneSync) companions() []string {
	var found []string
	for name := range o.tags {
		hex, isCompanion := pulp.CompanionOf(name)
		if _, taken := o.wanted.Tags[name]; !isCompanion || taken {
			continue
		}
		if known, ok := o.manifests.peek("sha256:" + hex); ok && known.wanted {
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

// findSettled finds the tags of which nothing needs to be asked but what they stand for: none, where there are signatures to look for, bytes to fetch, filters whose
// companions are to be found, or where everything that stays is to be named.
func (o *oneSync) findSettled(ctx context.Context) (err error) {
	if o.source != mirror.NoSignatures || o.args.SignedOnly || o.args.Mirror || len(o.absent) > 0 || o.remote.Includes != nil || o.remote.Excludes != nil {
		return nil
	}
	o.settled, err = o.Store.HeldTags(ctx, o.repo.ID)
	return err
}

// take takes one tag, or one manifest by digest, with all that belongs to it.
func (o *oneSync) take(ctx context.Context, reference string) error {
	d, fetched, err := o.resolve(ctx, reference)
	if fault.Is(err, fault.NotFound) && o.tags[reference] {
		o.Log.InfoContext(ctx, "the tag went away while the sync ran", slog.String("task", o.task.Task.ID), slog.String("tag", reference))
		return nil
	}
	if err != nil {
		return err
	}
	if held, ok := o.settled[reference]; ok && held == d {
		return nil
	}
	img, err := o.inspect(ctx, d, fetched, 0)
	if fault.Is(err, fault.NotFound) && o.tags[reference] { // it was moved in between
		if d, fetched, err = o.resolve(ctx, reference); err == nil {
			img, err = o.inspect(ctx, d, fetched, 0)
		}
	}
	if err != nil {
		return err
	}
	if !img.wanted {
		return nil
	}
	if err := o.fetch(ctx, img); err != nil {
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

// resolve finds out what a reference stands for at the remote. A remote that does not say is asked for the manifest itself.
func (o *oneSync) resolve(ctx context.Context, reference string) (digest.Digest, *mirror.Manifest, error) {
	if strings.HasPrefix(reference, allTags) {
		return digest.Digest(reference), nil, nil
	}
	found, err := o.registry.Head(ctx, reference)
	if err != nil || found.Digest != "" {
		return found.Digest, nil, err
	}
	m, err := o.registry.Manifest(ctx, reference)
	return m.Digest, &m, err
}

// inspect finds out what a manifest is and whether it is wanted, without its blobs. Each manifest is inspected once.
func (o *oneSync) inspect(ctx context.Context, d digest.Digest, fetched *mirror.Manifest, depth int) (*image, error) {
	return o.manifests.do(ctx, string(d), func() (*image, error) {
		img := &image{}
		if err := o.read(ctx, img, d, fetched); err != nil {
			return nil, err
		}
		if img.manifest.Digest == "" { // of a kind that cannot be kept
			return img, nil
		}
		img.wanted = true
		if pulp.IsList(img.manifest.MediaType) {
			if err := o.inspectChildren(ctx, img, depth); err != nil {
				return nil, err
			}
		}
		if err := o.readSignatures(ctx, img); err != nil {
			return nil, err
		}
		if o.args.SignedOnly && !pulp.IsList(img.manifest.MediaType) && !o.signed(img) {
			img.wanted = false
		}
		if o.held.Add(int64(len(img.manifest.Payload))); !img.wanted {
			o.release(img)
		} else if o.held.Load() > maxInspected {
			return nil, fault.New(fault.Unavailable, "The remote's lists have more than %d bytes of manifests; sync fewer tags at a time.", maxInspected)
		}
		return img, nil
	})
}

// read reads a manifest: the repository's own where it has it, else the remote's.
func (o *oneSync) read(ctx context.Context, img *image, d digest.Digest, fetched *mirror.Manifest) error {
	have, kept, err := o.Store.HasManifest(ctx, o.repo.ID, d)
	if err != nil {
		return err
	}
	img.held = have == store.HaveVersion
	if have == store.HaveNothing {
		if fetched == nil {
			m, err := o.registry.Manifest(ctx, string(d))
			if err != nil {
				return err
			}
			fetched = &m
		}
		kept = pulp.Manifest{MediaType: fetched.MediaType, Payload: fetched.Payload}
	}
	m, err := pulp.ParseManifest(kept.Payload, kept.MediaType)
	if err != nil {
		o.Log.WarnContext(ctx, "manifest left out: it is of a kind that is not kept", slog.String("task", o.task.Task.ID),
			slog.String("digest", string(d)), slog.Any("err", err))
		return nil
	}
	m.Digest = d
	img.manifest = m
	return nil
}

// inspectChildren inspects what a list names. What the remote has not is left out, as in a sparse copy (D11); a list of which one image is not wanted
// is not wanted either.
func (o *oneSync) inspectChildren(ctx context.Context, img *image, depth int) error {
	if depth >= maxNesting {
		return fault.New(fault.Invalid, "The list %s nests more than %d deep.", img.manifest.Digest, maxNesting)
	}
	for _, c := range img.manifest.Children {
		if img.held {
			have, _, err := o.Store.HasManifest(ctx, o.repo.ID, c.Digest)
			if err != nil {
				return err
			}
			if have != store.HaveVersion { // as sparse as it is here
				continue
			}
		}
		child, err := o.inspect(ctx, c.Digest, nil, depth+1)
		if fault.Is(err, fault.NotFound) {
			continue
		} else if err != nil {
			return err
		}
		img.children = append(img.children, child)
		img.wanted = img.wanted && (child.wanted || child.manifest.Digest == "")
	}
	if o.args.SignedOnly && len(img.children) == 0 {
		img.wanted = false // nothing of it is signed
	}
	return nil
}

// signed says whether an image counts as signed: it has a signature, or, where the remote has no place for those, a companion tag of cosign.
func (o *oneSync) signed(img *image) bool {
	if o.source != mirror.NoSignatures {
		return len(img.signatures) > 0
	}
	return o.tags["sha256-"+img.manifest.Digest.Encoded()+".sig"]
}

// readSignatures asks the remote for a manifest's signatures. One that is refused is left out, and said so.
func (o *oneSync) readSignatures(ctx context.Context, img *image) error {
	if o.source == mirror.NoSignatures || img.manifest.Digest.Algorithm() != digest.SHA256 {
		return nil
	}
	found, err := o.registry.Signatures(ctx, o.source, img.manifest.Digest)
	if err != nil {
		return err
	}
	for _, f := range found {
		g, err := o.Judge.Signature(ctx, img.manifest.Digest, f.Content)
		if fault.Is(err, fault.Invalid) {
			o.Log.WarnContext(ctx, "signature left out", slog.String("task", o.task.Task.ID), slog.String("digest", string(img.manifest.Digest)),
				slog.String("key", g.KeyID), slog.Any("err", err))
			continue
		} else if err != nil {
			return err
		}
		if strings.HasPrefix(f.Name, string(img.manifest.Digest)+"@") {
			g.Name = f.Name
		}
		img.signatures = append(img.signatures, g)
	}
	return nil
}
