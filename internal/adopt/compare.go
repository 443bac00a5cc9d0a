package adopt

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/notary"
	"github.com/countersign/countersign/internal/pulp"
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
}

// Names returns the names of the upstream's repositories that match a pattern: a name, or one with * for any characters, / among them. ErrUnsupported when it has to list its repositories
// for that, and does not.
func (a *Adopter) Names(ctx context.Context, pattern string) ([]string, error) {
	if !strings.Contains(pattern, "*") {
		return []string{pattern}, nil
	}
	all, err := a.Upstream.Catalog(ctx)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(all, func(name string) bool { return !Matches(pattern, name) || !pulp.ValidName(name) }), nil
}

// Matches says whether a name matches a pattern: * stands for any characters, / among them.
func Matches(pattern, name string) bool {
	parts := strings.Split(pattern, "*")
	if len(parts) == 1 {
		return pattern == name
	}
	first, last := parts[0], parts[len(parts)-1]
	if len(name) < len(first)+len(last) || !strings.HasPrefix(name, first) || !strings.HasSuffix(name, last) {
		return false
	}
	name = name[len(first) : len(name)-len(last)]
	for _, part := range parts[1 : len(parts)-1] {
		_, after, found := strings.Cut(name, part)
		if !found {
			return false
		}
		name = after
	}
	return true
}

// Repository adopts all that the upstream has under a name. NotFound when it has nothing there; Conflict when the name is something else here.
func (a *Adopter) Repository(ctx context.Context, why notary.Reason, name string) (Found, error) {
	tags, err := a.Upstream.Tags(ctx, name)
	if errors.Is(err, storage.ErrNotFound) {
		return Found{}, fault.New(fault.NotFound, "The upstream has no repository %s.", name)
	} else if err != nil {
		return Found{}, err
	}
	r, err := a.begin(ctx, why.Who, name)
	if err != nil {
		return Found{}, err
	}
	r.why = why
	return r.compare(ctx, How{Follow: true}, tags)
}

// Compare holds a repository against the upstream and writes down in what they differ.
func (a *Adopter) Compare(ctx context.Context, why notary.Reason, repo pulp.Repository, how How) (Found, error) {
	tags, err := a.Upstream.Tags(ctx, repo.Name)
	if err != nil && !errors.Is(err, storage.ErrNotFound) {
		return Found{}, err
	}
	return a.of(repo, why).compare(ctx, how, tags)
}

func (r *run) compare(ctx context.Context, how How, tags []string) (Found, error) {
	here, err := r.Store.UpstreamTags(ctx, r.repo.ID) // before the upstream is asked what they stand for
	if err != nil {
		return Found{}, err
	}
	wanted := store.Adopted{RepositoryID: r.repo.ID, Tags: map[string]store.AdoptedTag{}}
	there := map[string]bool{}
	group, working := errgroup.WithContext(ctx)
	group.SetLimit(parallel)
	for _, name := range tags {
		if hidden(name) || !pulp.ValidTag(name) || there[name] || working.Err() != nil {
			continue
		}
		there[name] = true
		known := here[name]
		known.Name = name
		group.Go(func() error {
			take, err := r.compareTag(working, how, known)
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
	for name, t := range here {
		if t.Here != "" && !there[name] && !t.Dirty {
			r.differs("tag", name, t.Here, "", "It is gone upstream.")
		}
	}
	if how.Deep {
		if err := r.look(ctx); err != nil {
			return Found{}, err
		}
	}
	found := Found{}
	if found.Version, err = r.commit(ctx, wanted); err != nil {
		return Found{}, err
	}
	if err := r.keepReplaced(ctx, here, wanted); err != nil {
		return Found{}, err
	}
	slices.SortFunc(r.drift, func(a, b store.Drift) int { return strings.Compare(a.Kind+" "+a.Name, b.Kind+" "+b.Name) })
	found.Drift = r.drift
	return found, r.Store.Compared(ctx, r.repo.ID, how.Deep, r.drift)
}

func (r *run) differs(kind, name string, here, upstream digest.Digest, note string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.drift = append(r.drift, store.Drift{RepositoryID: r.repo.ID, Repository: r.repo.Name, Type: r.repo.Type, Kind: kind, Name: name, Here: here, Upstream: upstream, Note: note})
}

// compareTag finds out what a tag stands for upstream, and returns it when it is to be adopted, and is ready for that.
func (r *run) compareTag(ctx context.Context, how How, t store.UpstreamTag) (digest.Digest, error) {
	if t.Dirty { // ours is on its way there
		return "", nil
	}
	d, err := r.Upstream.Resolve(ctx, r.repo.Name, t.Name)
	switch {
	case errors.Is(err, storage.ErrNotFound):
		if t.Here != "" {
			r.differs("tag", t.Name, t.Here, "", "It is gone upstream.")
		}
		return "", nil
	case err != nil:
		return "", err
	case d == t.Here:
		if t.Written != d {
			return "", r.Store.SettleTag(ctx, r.repo.ID, t)
		}
		return "", nil
	case t.Here == "" && slices.Contains(t.Stale, d):
		r.differs("tag", t.Name, "", d, "It was deleted here; the upstream keeps it.")
		return "", nil
	case slices.Contains(t.Stale, d):
		r.differs("tag", t.Name, t.Here, d, "An older write of ours arrived late; it is written again.")
		return "", r.Store.RewriteTag(ctx, r.repo.ID, t.Name)
	case r.repo.RemoteID != "":
		r.differs("tag", t.Name, t.Here, d, "Somebody else has pushed it; what a mirror holds its remote says.")
		return "", nil
	case !how.Follow:
		r.differs("tag", t.Name, t.Here, d, "Somebody else has pushed it.")
		return "", nil
	}
	err = r.take(ctx, d, 0)
	if why, left := leftOut(err); left {
		r.differs("tag", t.Name, t.Here, d, "Somebody else has pushed it, and it cannot be adopted: "+why)
		return "", nil
	}
	return d, err
}

// keepReplaced keeps what others' pushes have taken the last tag from.
func (r *run) keepReplaced(ctx context.Context, here map[string]store.UpstreamTag, wanted store.Adopted) error {
	if !r.Keep {
		return nil
	}
	for name := range wanted.Tags {
		if before := here[name].Here; before != "" {
			if err := r.KeepAlive(ctx, r.repo, before); err != nil {
				return err
			}
		}
	}
	return nil
}

// KeepAlive has a hidden tag keep a manifest alive upstream, if a version of the repository holds it. What has gone there is put back; what cannot be, because its blobs have
// gone too, is given up.
func (a *Adopter) KeepAlive(ctx context.Context, repo pulp.Repository, d digest.Digest) error {
	err := a.keepAlive(ctx, repo, d)
	if fault.Is(err, fault.Invalid) {
		a.Log.WarnContext(ctx, "the upstream has lost what an older version holds", slog.String("repository", repo.Name), slog.String("digest", string(d)), slog.Any("err", err))
		return nil
	}
	return err
}

func (a *Adopter) keepAlive(ctx context.Context, repo pulp.Repository, d digest.Digest) error {
	m, held, err := a.Store.HeldManifest(ctx, repo.ID, d)
	if err != nil || !held {
		return err
	}
	if err := a.Upstream.PutManifest(ctx, repo.Name, HiddenTag(d), m.MediaType, m.Payload); err != nil {
		return err
	}
	return a.Store.KeptManifest(ctx, repo.ID, d)
}

// look asks the upstream for everything that any version of the repository holds.
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
	for _, d := range blobs {
		group.Go(func() error {
			_, err := r.Blobs.Storage.Stat(working, r.repo.Name, d)
			if errors.Is(err, storage.ErrNotFound) {
				r.differs("blob", string(d), d, "", "The upstream has lost it.")
				return nil
			}
			return err
		})
	}
	for _, d := range manifests {
		group.Go(func() error {
			_, err := r.Upstream.Resolve(working, r.repo.Name, string(d))
			if errors.Is(err, storage.ErrNotFound) {
				r.differs("manifest", string(d), d, "", r.putBack(working, d))
				return nil
			}
			return err
		})
	}
	return group.Wait()
}

// putBack puts a manifest back that the upstream has removed, and says what came of it.
func (r *run) putBack(ctx context.Context, d digest.Digest) string {
	if !r.Keep {
		return "The upstream has removed it; pulls by it through here go on as long as its blobs are there."
	}
	if err := r.keepAlive(ctx, r.repo, d); err != nil {
		r.Log.WarnContext(ctx, "manifest not put back upstream", slog.String("repository", r.repo.Name), slog.String("digest", string(d)), slog.Any("err", err))
		return "The upstream has removed it, and does not take it back."
	}
	return "The upstream had removed it; it has been put back."
}
