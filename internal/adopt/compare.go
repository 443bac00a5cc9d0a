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
	"github.com/countersign/countersign/internal/signservice"
	"github.com/countersign/countersign/internal/store/upstreamstate"
	"github.com/countersign/countersign/storage"
)

// CompareOptions select the depth of a comparison and its effect.
type CompareOptions struct {
	Follow bool // adopt what other clients have pushed; otherwise only record the difference
	Deep   bool // also compare the manifests and blobs of all versions, not only tags
}

// Found is the result of a comparison.
type Found struct {
	Version *pulp.Version         // created by adopting pushes of other clients; nil: none
	Drift   []upstreamstate.Drift // remaining differences
	Fresh   []upstreamstate.Drift // those of Drift that the previous comparison did not find
	// reason for which no push of other clients could be adopted; empty if any was adopted or there was none
	Refused string
	Skipped []Skipped // content of the upstream that cannot be stored here
}

// Names returns the names of the upstream's repositories that match a pattern, in which * matches any
// characters, slashes included. A pattern without * is returned without asking the upstream. Matching names
// that are not valid here are returned in malformed. The error is ErrUnsupported if the upstream does not list
// its repositories.
func (a *Adopter) Names(ctx context.Context, pattern string) (names, malformed []string, err error) {
	if !strings.Contains(pattern, "*") {
		return []string{pattern}, nil, nil
	}
	var all []string
	if err := a.retryOnce(ctx, func() (err error) { all, err = a.Upstream.Catalog(ctx); return err }); err != nil {
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

// Repository adopts all tags of an upstream repository. The error is NotFound if the upstream does not have it,
// and Conflict if the name is used for something else here.
func (a *Adopter) Repository(ctx context.Context, why signservice.Caller, name string) (Found, error) {
	var tags []string
	err := a.retryOnce(ctx, func() (err error) { tags, err = a.Upstream.Tags(ctx, name); return err })
	if errors.Is(err, storage.ErrNotFound) {
		return Found{}, fault.New(fault.NotFound, "The upstream has no repository %s.", name)
	} else if err != nil {
		return Found{}, err
	}
	repo, err := a.target(ctx, why.User, name)
	if err != nil {
		return Found{}, err
	}
	return a.compare(ctx, why, repo, CompareOptions{Follow: true}, func() ([]string, error) { return tags, nil })
}

// Compare compares a repository with the upstream and stores the differences.
func (a *Adopter) Compare(
	ctx context.Context, why signservice.Caller, repo pulp.Repository, options CompareOptions,
) (Found, error) {
	return a.compare(ctx, why, repo, options, func() ([]string, error) {
		var tags []string
		err := a.retryOnce(ctx, func() (err error) { tags, err = a.Upstream.Tags(ctx, repo.UpstreamName()); return err })
		if errors.Is(err, storage.ErrNotFound) {
			err = nil
		}
		return tags, err
	})
}

func (a *Adopter) compare(
	ctx context.Context, why signservice.Caller, repo pulp.Repository, options CompareOptions, list func() ([]string, error),
) (Found, error) {
	// read first: a change here during the comparison then shows in the serial
	here, err := a.Store.Upstream.UpstreamTags(ctx, repo.ID)
	if err != nil {
		return Found{}, err
	}
	names, err := list()
	if err != nil {
		return Found{}, err
	}
	r := a.newRun(repo, why)
	r.options = options
	if r.known, err = a.Store.Upstream.TagDrift(ctx, repo.ID); err != nil {
		return Found{}, err
	}
	wanted := upstreamstate.Adopted{RepositoryID: repo.ID, Tags: map[string]upstreamstate.AdoptedTag{}}
	if err := r.compareTags(ctx, here, names, wanted.Tags); err != nil {
		return Found{}, err
	}
	if r.options.Deep {
		if err := r.compareContent(ctx); err != nil {
			return Found{}, err
		}
	}
	return r.conclude(ctx, here, wanted)
}

// compareTags compares the tags of the repository with the names that the upstream lists. It adds the digests to adopt to
// wanted.
func (r *run) compareTags(
	ctx context.Context, here map[string]upstreamstate.UpstreamTag, names []string, wanted map[string]upstreamstate.AdoptedTag,
) error {
	listed := make(map[string]bool, len(names))
	for _, name := range names {
		listed[name] = true
	}
	for name, t := range here {
		if t.Here != "" { // may have been deleted upstream
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
			take, err := r.compareTag(working, known, listed[name])
			if err == nil && take != "" {
				r.mu.Lock()
				wanted[name] = upstreamstate.AdoptedTag{Digest: take, Serial: known.Serial}
				r.mu.Unlock()
			}
			return err
		})
	}
	return group.Wait()
}

// conclude commits the adopted content, then stores the remaining differences.
func (r *run) conclude(
	ctx context.Context, before map[string]upstreamstate.UpstreamTag, wanted upstreamstate.Adopted,
) (Found, error) {
	found := Found{}
	refused := map[string]string{}
	wanted.Attached = r.attached
	var err error
	// map order is random: see maxRefused
	if found.Version, err = r.commitApart(ctx, wanted, slices.Collect(maps.Keys(wanted.Tags)), refused); err != nil {
		return Found{}, err
	}
	for _, name := range slices.Sorted(maps.Keys(refused)) {
		r.addDrift("tag", name, before[name].Here, wanted.Tags[name].Digest, cannotBeStored+refused[name])
		r.skip("tag", name, refused[name], true)
		if found.Version == nil {
			found.Refused = cmp.Or(found.Refused, refused[name])
		}
	}
	// pushes of other clients may have removed the last tag of a manifest
	if err := r.PinManifests(ctx, r.repo.ID); err != nil {
		return Found{}, err
	}
	now, err := r.Store.Upstream.UpstreamTags(ctx, r.repo.ID)
	if err != nil {
		return Found{}, err
	}
	r.drift = slices.DeleteFunc(r.drift, func(d upstreamstate.Drift) bool { // changed here during the comparison
		return d.Kind == "tag" && now[d.Name].Here != before[d.Name].Here
	})
	slices.SortFunc(r.drift, func(a, b upstreamstate.Drift) int { return strings.Compare(a.Kind+" "+a.Name, b.Kind+" "+b.Name) })
	slices.SortFunc(r.skipped, func(a, b Skipped) int { return strings.Compare(a.Kind+" "+a.Name, b.Kind+" "+b.Name) })
	found.Drift, found.Skipped = r.drift, r.skipped
	if found.Fresh, err = r.Store.Upstream.ReplaceDrift(ctx, r.repo.ID, r.options.Deep, r.drift); err == nil {
		r.logSkipped(ctx, found.Fresh)
	}
	return found, err
}

// maxRefused is the number of tags that commitApart refuses individually. Further tags are refused in groups;
// since groups are random, a later comparison adopts the valid ones among them.
const maxRefused = 20

// commitApart commits the named tags of wanted. If the commit fails because of the content (an image that
// cannot be signed, for instance), it bisects: it commits each half separately, so that one tag does not keep
// out the others. It returns the last version and adds the reason for each tag that is not committed to
// refused.
func (r *run) commitApart(
	ctx context.Context, wanted upstreamstate.Adopted, names []string, refused map[string]string,
) (*pulp.Version, error) {
	some := wanted
	some.Tags = make(map[string]upstreamstate.AdoptedTag, len(names))
	for _, name := range names {
		some.Tags[name] = wanted.Tags[name]
	}
	v, err := r.commit(ctx, some)
	switch {
	case err == nil || r.IsFatal(ctx, err):
		return v, err
	case len(names) <= 1 || len(refused) >= maxRefused || fault.IsOutage(err, fault.SigningKey):
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

// Sentence returns the message of an error that may be shown to users.
func Sentence(err error) string {
	if e, ok := errors.AsType[*fault.Error](err); ok && e.Kind != fault.Internal {
		return e.Msg
	}
	return "see the log."
}

func (r *run) addDrift(kind, name string, here, upstream digest.Digest, note string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.drift = append(r.drift, upstreamstate.Drift{
		RepositoryID: r.repo.ID, Repository: r.repo.Name, Type: r.repo.Type,
		Kind: kind, Name: name, Here: here, Upstream: upstream, Note: note,
	})
}

// maxUnanswered is the number of tags about which the upstream may fail to answer before the comparison ends
// with an error. An answer that refuses the tag does not count.
const maxUnanswered = 20

// compareTag compares one tag with the upstream. It returns the digest to adopt, whose manifest is then
// recorded, or an empty digest. A problem with a single tag is recorded as a difference and is no error. listed
// reports whether the upstream's list contains the tag.
func (r *run) compareTag(ctx context.Context, t upstreamstate.UpstreamTag, listed bool) (digest.Digest, error) {
	if t.Dirty { // our own write is pending
		if t.Attempts > 0 {
			r.addDrift("tag", t.Name, t.Here, "",
				"It waits to be written to the upstream, which has not accepted it so far; the log contains the reason.")
		}
		return "", nil
	}
	var d digest.Digest
	var take bool
	err := r.retryOnce(ctx, func() (err error) { d, take, err = r.judgeTag(ctx, t); return err })
	switch {
	case err == nil && take:
		return d, nil
	case err == nil && d == "" && t.Here == "" && listed:
		r.skipTag(t.Name, "", "The upstream lists it, but serves no manifest under it that can be stored here.")
		return "", nil
	case err == nil:
		return "", nil
	case r.IsFatal(ctx, err) || fault.IsOutage(err, fault.Upstream) && r.unanswered.Add(1) > maxUnanswered:
		return "", err
	}
	r.Log.WarnContext(ctx, "cannot compare a tag with the upstream",
		slog.String("repository", r.repo.Name), slog.String("tag", t.Name), slog.Any("err", err))
	r.addDrift("tag", t.Name, t.Here, d, "The upstream does not serve it: "+Sentence(err))
	r.skip("tag", t.Name, "The upstream does not serve it: "+Sentence(err), true)
	return "", nil
}

// judgeTag looks up a tag upstream, records a difference, and reports whether to adopt the digest.
func (r *run) judgeTag(ctx context.Context, t upstreamstate.UpstreamTag) (d digest.Digest, take bool, err error) {
	d, err = r.Upstream.Resolve(ctx, r.repo.UpstreamName(), t.Name)
	// the same manifest: the upstream names it by sha256, and it was pushed here by another digest
	if err == nil && t.Here != "" && d.Algorithm() != t.Here.Algorithm() {
		m, held, err := r.Store.Upstream.HeldManifest(ctx, r.repo.ID, t.Here)
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
	late := lateWrite(t, d)
	switch {
	case err != nil && !gone:
		return "", false, err
	case d == t.Here:
		return d, false, nil
	case t.Here == "" && slices.Contains(t.Undeleted, d):
		r.addDrift("tag", t.Name, "", d, "It was deleted here; the upstream keeps it.")
		return d, false, nil
	case late != "":
		r.addDrift("tag", t.Name, t.Here, d, late)
		return d, false, r.Store.Upstream.RewriteTag(ctx, r.repo.ID, t.Name)
	case gone:
		r.addDrift("tag", t.Name, t.Here, "", "It is gone upstream.")
		return "", false, nil
	case r.repo.RemoteID != "":
		r.addDrift("tag", t.Name, t.Here, d, "Another client has pushed it; a mirror's remote is authoritative for its content.")
		return d, false, nil
	case !r.options.Follow:
		return d, false, r.noteUnfollowed(ctx, t, d)
	}
	err = r.record(ctx, d, 0)
	if why, skip := contentError(err); skip {
		r.addDrift("tag", t.Name, t.Here, d, cannotBeStored+why)
		r.skip("tag", t.Name, why, false)
		return d, false, nil
	}
	return d, err == nil, err
}

// lateWrite returns the note about a tag to which an older write of this server was applied upstream after a
// newer one. Digest d is the upstream's; empty if the tag is absent. It returns an empty note if d is not from
// an older write.
func lateWrite(t upstreamstate.UpstreamTag, d digest.Digest) string {
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
