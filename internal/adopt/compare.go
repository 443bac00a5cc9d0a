package adopt

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/glob"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/signonpush"
	"github.com/countersign/countersign/internal/signservice"
	"github.com/countersign/countersign/internal/store"
	"github.com/countersign/countersign/storage"
)

// How a repository is held against the upstream.
type How struct {
	Follow bool // what others have pushed there becomes a version here; else it is only told
	Deep   bool // all manifests and blobs are asked for too, of every version, and not only the tags
}

// Found is what came of a comparison.
type Found struct {
	Version *pulp.Version // that was made of what others have pushed; nil: none
	Drift   []store.Drift // what differs now
	Fresh   []store.Drift // of it what was not known before
	Refused string        // why nothing of what others have pushed could be adopted; empty: it could
	Skipped []Skipped     // what the upstream has and cannot be stored here
}

// Names returns the names of the upstream's repositories that match a pattern: a name, or one with * for any characters, / among them. It returns those apart
// that are no names here. ErrUnsupported when it has to list its repositories for that, and does not.
func (a *Adopter) Names(ctx context.Context, pattern string) (names, malformed []string, err error) {
	if !strings.Contains(pattern, "*") {
		return []string{pattern}, nil, nil
	}
	var all []string
	if err := a.insist(ctx, func() (err error) { all, err = a.Upstream.Catalog(ctx); return err }); err != nil {
		return nil, nil, err
	}
	for _, name := range all {
		switch {
		case !glob.MatchName(pattern, name):
		case pulp.ValidName(name):
			names = append(names, name)
		default:
			malformed = append(malformed, name)
		}
	}
	return names, malformed, nil
}

// Repository adopts all that the upstream has under a name. NotFound when it has nothing there; Conflict when the name is something else here.
func (a *Adopter) Repository(ctx context.Context, why signservice.Caller, name string) (Found, error) {
	var tags []string
	err := a.insist(ctx, func() (err error) { tags, err = a.Upstream.Tags(ctx, name); return err })
	if errors.Is(err, storage.ErrNotFound) {
		return Found{}, fault.New(fault.NotFound, "The upstream has no repository %s.", name)
	} else if err != nil {
		return Found{}, err
	}
	repo, err := a.target(ctx, why.User, name)
	if err != nil {
		return Found{}, err
	}
	return a.compare(ctx, why, repo, How{Follow: true}, func() ([]string, error) { return tags, nil })
}

// Compare holds a repository against the upstream and writes down in what they differ.
func (a *Adopter) Compare(ctx context.Context, why signservice.Caller, repo pulp.Repository, how How) (Found, error) {
	return a.compare(ctx, why, repo, how, func() ([]string, error) {
		var tags []string
		err := a.insist(ctx, func() (err error) { tags, err = a.Upstream.Tags(ctx, repo.UpstreamName()); return err })
		if errors.Is(err, storage.ErrNotFound) {
			err = nil
		}
		return tags, err
	})
}

func (a *Adopter) compare(ctx context.Context, why signservice.Caller, repo pulp.Repository, how How, list func() ([]string, error)) (Found, error) {
	here, err := a.Store.UpstreamTags(ctx, repo.ID) // before the upstream is asked for anything
	if err != nil {
		return Found{}, err
	}
	names, err := list()
	if err != nil {
		return Found{}, err
	}
	r := a.of(repo, why)
	if r.known, err = a.Store.DriftOfTags(ctx, repo.ID); err != nil {
		return Found{}, err
	}
	wanted := store.Adopted{RepositoryID: repo.ID, Tags: map[string]store.AdoptedTag{}}
	listed := make(map[string]bool, len(names))
	for _, name := range names {
		listed[name] = true
	}
	for name, t := range here {
		if t.Here != "" { // it may have gone upstream
			names = append(names, name)
		}
	}
	slices.Sort(names)
	group, working := errgroup.WithContext(ctx)
	group.SetLimit(parallel)
	for _, name := range slices.Compact(names) {
		if pulp.IsPinTag(name) {
			continue
		}
		if !pulp.ValidTag(name) {
			r.skipTag(pulp.Printable(name), "", "Its name is not that of a tag here.")
			continue
		}
		if working.Err() != nil {
			break
		}
		known := here[name]
		known.Name = name
		group.Go(func() error {
			take, err := r.compareTag(working, how, known, listed[name])
			if err == nil && take != "" {
				r.mu.Lock()
				wanted.Tags[name] = store.AdoptedTag{Digest: take, Serial: known.Serial}
				r.mu.Unlock()
			}
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return Found{}, err
	}
	if how.Deep {
		if err := r.look(ctx); err != nil {
			return Found{}, err
		}
	}
	return r.conclude(ctx, how, here, wanted)
}

// conclude makes the version of what was found, and writes down what differs then.
func (r *run) conclude(ctx context.Context, how How, before map[string]store.UpstreamTag, wanted store.Adopted) (Found, error) {
	found := Found{}
	refused := map[string]string{}
	wanted.Attached = r.attached
	var err error
	if found.Version, err = r.commitApart(ctx, wanted, slices.Collect(maps.Keys(wanted.Tags)), refused); err != nil { // in no order: see maxRefused
		return Found{}, err
	}
	for _, name := range slices.Sorted(maps.Keys(refused)) {
		r.differs("tag", name, before[name].Here, wanted.Tags[name].Digest, cannotBeStored+refused[name])
		r.skip("tag", name, refused[name], true)
		if found.Version == nil {
			found.Refused = cmp.Or(found.Refused, refused[name])
		}
	}
	if err := r.KeepAlive(ctx, r.repo.ID); err != nil { // of what others' pushes have taken the last tag from
		return Found{}, err
	}
	now, err := r.Store.UpstreamTags(ctx, r.repo.ID)
	if err != nil {
		return Found{}, err
	}
	r.drift = slices.DeleteFunc(r.drift, func(d store.Drift) bool { // the upstream was asked in the middle of a change of ours
		return d.Kind == "tag" && now[d.Name].Here != before[d.Name].Here
	})
	slices.SortFunc(r.drift, func(a, b store.Drift) int { return strings.Compare(a.Kind+" "+a.Name, b.Kind+" "+b.Name) })
	slices.SortFunc(r.skipped, func(a, b Skipped) int { return strings.Compare(a.Kind+" "+a.Name, b.Kind+" "+b.Name) })
	found.Drift, found.Skipped = r.drift, r.skipped
	if found.Fresh, err = r.Store.Compared(ctx, r.repo.ID, how.Deep, r.drift); err == nil {
		r.logSkipped(ctx, found.Fresh)
	}
	return found, err
}

// maxRefused is how many tags are tried alone that cannot be adopted, before the others are given up in the groups in which they are then. They have their turn, in other groups,
// when the repository is next compared.
const maxRefused = 20

// commitApart makes a version of those wanted tags that are named or, when something is wrong with them, versions of the halves: what is refused, an image that cannot be signed
// for one, keeps nothing else out. It returns the last version, and puts in refused why which tags are left out.
func (r *run) commitApart(ctx context.Context, wanted store.Adopted, names []string, refused map[string]string) (*pulp.Version, error) {
	some := store.Adopted{RepositoryID: wanted.RepositoryID, Tags: make(map[string]store.AdoptedTag, len(names)), Attached: wanted.Attached}
	for _, name := range names {
		some.Tags[name] = wanted.Tags[name]
	}
	v, err := r.commit(ctx, some)
	switch {
	case err == nil || r.Away(ctx, err):
		return v, err
	case len(names) <= 1 || len(refused) >= maxRefused || signonpush.KeyUnavailable(err):
		r.Log.WarnContext(ctx, "not adopted", slog.String("repository", r.repo.Name), slog.Any("tags", names), slog.Any("err", err))
		for _, name := range names {
			refused[name] = Sentence(err)
		}
		return nil, nil
	}
	for _, half := range [][]string{names[:len(names)/2], names[len(names)/2:]} {
		made, err := r.commitApart(ctx, wanted, half, refused)
		if err != nil {
			return nil, err
		}
		if made != nil {
			v = made
		}
	}
	return v, nil
}

// Sentence is what may be shown of an error.
func Sentence(err error) string {
	if e, ok := errors.AsType[*fault.Error](err); ok && e.Kind != fault.Internal {
		return e.Msg
	}
	return "see the log."
}

func (r *run) differs(kind, name string, here, upstream digest.Digest, note string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.drift = append(r.drift, store.Drift{RepositoryID: r.repo.ID, Repository: r.repo.Name, Type: r.repo.Type, Kind: kind, Name: name, Here: here, Upstream: upstream, Note: note})
}

// maxSilent is how many tags the upstream may give no answer about before the comparison of their repository is given up. One that it refuses to give is answered for.
const maxSilent = 20

// compareTag finds out what a tag stands for upstream, and returns it when it is to be adopted, and is ready for that. What is wrong with one tag is told, and ends nothing.
// listed says that the upstream lists it.
func (r *run) compareTag(ctx context.Context, how How, t store.UpstreamTag, listed bool) (digest.Digest, error) {
	if t.Dirty { // ours is on its way there
		if t.Attempts > 0 {
			r.differs("tag", t.Name, t.Here, "", "It waits to be written through; the upstream has not taken it so far, and the log says why.")
		}
		return "", nil
	}
	var d digest.Digest
	var take bool
	err := r.insist(ctx, func() (err error) { d, take, err = r.judgeTag(ctx, how, t); return err })
	switch {
	case err == nil && take:
		return d, nil
	case err == nil && d == "" && t.Here == "" && listed:
		r.skipTag(t.Name, "", "The upstream lists it, but serves no manifest under it that can be stored here.")
		return "", nil
	case err == nil:
		return "", nil
	case r.Away(ctx, err) || fault.IsOutage(err, fault.Upstream) && r.silent.Add(1) > maxSilent:
		return "", err
	}
	r.Log.WarnContext(ctx, "tag not compared with the upstream", slog.String("repository", r.repo.Name), slog.String("tag", t.Name), slog.Any("err", err))
	r.differs("tag", t.Name, t.Here, d, "The upstream does not give it: "+Sentence(err))
	r.skip("tag", t.Name, "The upstream does not give it: "+Sentence(err), true)
	return "", nil
}

// judgeTag asks for a tag and says whether it is to be adopted.
func (r *run) judgeTag(ctx context.Context, how How, t store.UpstreamTag) (d digest.Digest, take bool, err error) {
	d, err = r.Upstream.Resolve(ctx, r.repo.UpstreamName(), t.Name)
	if err == nil && t.Here != "" && d.Algorithm() != t.Here.Algorithm() { // upstreams name by sha256 what comes under a tag
		m, held, err := r.Store.HeldManifest(ctx, r.repo.ID, t.Here)
		if err != nil {
			return "", false, err
		}
		if held && d.Algorithm().FromBytes(m.Payload) == d {
			d = t.Here
		}
	}
	gone := errors.Is(err, storage.ErrNotFound)
	if gone {
		d = ""
	}
	late := lateness(t, d)
	switch {
	case err != nil && !gone:
		return "", false, err
	case d == t.Here:
		return d, false, nil
	case t.Here == "" && slices.Contains(t.Undeleted, d):
		r.differs("tag", t.Name, "", d, "It was deleted here; the upstream keeps it.")
		return d, false, nil
	case late != "":
		r.differs("tag", t.Name, t.Here, d, late)
		return d, false, r.Store.RewriteTag(ctx, r.repo.ID, t.Name)
	case gone:
		r.differs("tag", t.Name, t.Here, "", "It is gone upstream.")
		return "", false, nil
	case r.repo.RemoteID != "":
		r.differs("tag", t.Name, t.Here, d, "Somebody else has pushed it; what a mirror holds its remote says.")
		return d, false, nil
	case !how.Follow:
		return d, false, r.unadopted(ctx, how, t, d)
	}
	err = r.take(ctx, d, 0)
	if why, left := leftOut(err); left {
		r.differs("tag", t.Name, t.Here, d, cannotBeStored+why)
		r.skip("tag", t.Name, why, false)
		return d, false, nil
	}
	return d, err == nil, err
}

// lateness is what is told of a tag that shows, by this digest or by none, what an older write of ours has made of it after a newer one. Empty: none has.
func lateness(t store.UpstreamTag, d digest.Digest) string {
	switch {
	case !t.Ours(d):
		return ""
	case d == "":
		return "Our own deletion of it arrived late; it is written again."
	case t.Here == "":
		return "It was deleted here, and an older write of ours arrived late; it is deleted again."
	default:
		return "An older write of ours arrived late; it is written again."
	}
}

// look asks the upstream for everything that any version of the repository holds. The blobs of what was copied from another repository by its digest alone lie under the
// other's name.
func (r *run) look(ctx context.Context) error {
	manifests, err := r.Store.HeldManifests(ctx, r.repo.ID)
	if err != nil {
		return err
	}
	blobs, err := r.Store.HeldBlobs(ctx, r.repo.ID)
	if err != nil {
		return err
	}
	group, working := errgroup.WithContext(ctx)
	group.SetLimit(parallel)
	for _, b := range blobs {
		group.Go(func() error {
			err := r.stat(working, r.repo.UpstreamName(), b.Digest)
			if errors.Is(err, storage.ErrNotFound) && b.Location != r.repo.UpstreamName() {
				err = r.stat(working, b.Location, b.Digest)
			}
			if errors.Is(err, storage.ErrNotFound) {
				r.differs("blob", string(b.Digest), b.Digest, "", "The upstream has lost it.")
				return nil
			}
			return err
		})
	}
	for _, d := range manifests {
		group.Go(func() error {
			err := r.insist(working, func() error { _, err := r.Upstream.Resolve(working, r.repo.UpstreamName(), string(d)); return err })
			if errors.Is(err, storage.ErrNotFound) {
				r.differs("manifest", string(d), d, "", r.putBack(working, d))
				return nil
			}
			return err
		})
	}
	return group.Wait()
}

// stat finds out whether the upstream has a blob under a name.
func (r *run) stat(ctx context.Context, within string, d digest.Digest) error {
	return r.insist(ctx, func() error { _, err := r.Blobs.Storage.Stat(ctx, within, d); return err })
}

// putBack puts a manifest where the upstream does not have it, by removing it or because only this registry knew of it there, and says what came of that.
func (r *run) putBack(ctx context.Context, d digest.Digest) string {
	if !r.Keep {
		return "The upstream does not have it under this name; pulls by it through here go on as long as its blobs are there."
	}
	if err := r.Put(ctx, r.repo, pulp.PinTag(d), d); err != nil {
		r.Log.WarnContext(ctx, "manifest not put back upstream", slog.String("repository", r.repo.Name), slog.String("digest", string(d)), slog.Any("err", err))
		return "The upstream does not have it under this name, and does not take it."
	}
	if err := r.Store.KeptManifest(ctx, store.Kept{RepositoryID: r.repo.ID, Repository: r.repo.Name, Digest: d}); err != nil {
		return "The upstream did not have it under this name; it has been put there for now."
	}
	return "The upstream did not have it under this name; it has been put there."
}
