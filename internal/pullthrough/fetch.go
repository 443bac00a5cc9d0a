package pullthrough

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/access"
	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/ingest"
	"github.com/countersign/countersign/internal/mirror"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/signservice"
	"github.com/countersign/countersign/internal/store/content"
	"github.com/countersign/countersign/internal/store/record"
)

// The bounds of the signatures of one manifest that are manifests themselves.
const maxReferrers = 20

// holders is the number of repositories with a blob that are checked for a public one.
const holders = 20

// fetch is the fetch of one manifest.
type fetch struct {
	*Cache
	by       Puller
	target   record.Target
	remote   pulp.Remote
	from     pulp.Remote // the pull-through remote
	registry *mirror.Registry
}

// open opens the remote. It sends no request.
func (f *fetch) open() (err error) {
	f.registry, err = f.Network.Open(f.remote)
	return unavailable(err)
}

// into sets the target of the fetch, whose remote it reads.
func (f *fetch) into(ctx context.Context, t record.Target) (err error) {
	f.target = t
	f.remote, err = f.Store.Catalog.Remote(ctx, t.Repository.RemoteID)
	return err
}

// manifest reads a manifest from the upstream registry. The error is NotFound if it does not have it or refuses access: some
// registries say so of repositories that do not exist.
func (f *fetch) manifest(ctx context.Context, reference string) (pulp.Manifest, error) {
	got, err := f.registry.Manifest(ctx, reference)
	if err != nil {
		return pulp.Manifest{}, f.failure(ctx, reference, err)
	}
	m, err := pulp.ParseManifest(got.Payload, got.MediaType)
	if err != nil {
		f.Log.WarnContext(ctx, "a manifest of an upstream registry cannot be stored",
			slog.String("upstream_name", f.remote.UpstreamName), slog.String("reference", reference), slog.Any("err", err))
		return m, fault.Wrap(fault.NotFound, err, "The upstream registry has a manifest of a type that cannot be stored.")
	}
	m.Digest = got.Digest
	return m, nil
}

// failure returns the error for clients of a request for a manifest, and logs its cause.
func (f *fetch) failure(ctx context.Context, reference string, err error) error {
	status := mirror.Status(err)
	if fault.Is(err, fault.NotFound) || status == http.StatusUnauthorized || status == http.StatusForbidden {
		return errUnknown
	}
	f.Log.WarnContext(ctx, "an upstream registry does not serve a manifest for a cache",
		slog.String("upstream_name", f.remote.UpstreamName), slog.String("reference", reference), slog.Any("err", err))
	if status == http.StatusTooManyRequests {
		return &fault.Error{
			Kind: fault.Unavailable, Msg: "The upstream registry of the cache limits requests. Try again later.", Err: err, RetryAfter: missTTL,
		}
	}
	return unavailable(err)
}

// unavailable wraps an error of the upstream registry, whose words are for the log only.
func unavailable(err error) error {
	if err == nil || errors.Is(err, context.Canceled) {
		return err
	}
	return &fault.Error{Kind: fault.Unavailable, Msg: "The upstream registry of the cache does not answer.", Err: err, RetryAfter: missTTL}
}

// check compares a present tag with the upstream registry and stores what is new: another manifest, or new signatures. A tag that
// the upstream registry does not have stays, or is removed if Options.RemoveMissing is set.
func (f *fetch) check(ctx context.Context, tag string, known pulp.Manifest) error {
	asking, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	d, got, err := f.registry.Resolve(asking, tag)
	switch {
	case fault.Is(err, fault.NotFound) && f.RemoveMissing:
		_, err := f.Store.Content.DeleteTag(ctx, f.target.Repository.ID, tag, func(d digest.Digest) bool { return d == known.Digest })
		if err == nil {
			f.Audit.Record(ctx, audit.Entry{Action: "remove cached tag", Object: f.target.Distribution.BasePath + ":" + tag, Result: audit.Done})
		}
		return err
	case fault.Is(err, fault.NotFound):
		return nil
	case err != nil:
		if isOutage(err) {
			f.checked.Add(cacheKey(f.target), time.Now().Add(outageTTL))
		}
		return unavailable(err)
	case d == known.Digest:
		return f.add(ctx, content.Synced{}, known)
	}
	var m pulp.Manifest
	if got == nil {
		if m, err = f.manifest(ctx, string(d)); err != nil {
			return err
		}
		return f.take(ctx, tag, m)
	}
	if m, err = pulp.ParseManifest(got.Payload, got.MediaType); err != nil {
		return unavailable(err)
	}
	m.Digest = got.Digest
	return f.take(ctx, tag, m)
}

// isOutage reports whether a failed request says that the whole registry does not answer. Other failures may be those of one
// repository, which must not stop the checks of others.
func isOutage(err error) bool {
	status := mirror.Status(err)
	_, failed := errors.AsType[net.Error](err)
	return failed || status == http.StatusTooManyRequests || status >= http.StatusInternalServerError
}

// importer returns the importer of the fetch. It links blobs of public repositories only: a registry that merely names a digest
// gives nobody access to content of private ones.
func (f *fetch) importer() *ingest.Importer {
	return &ingest.Importer{
		Store: f.Store, Blobs: f.Blobs, Validator: f.Validator, Upstream: f.Upstream, Registry: f.registry,
		Repo: f.target.Repository, Remote: f.remote, MayTake: f.isPublic,
	}
}

// isPublic reports whether a public repository holds a blob.
func (f *fetch) isPublic(ctx context.Context, d digest.Digest) (bool, error) {
	nobody, err := f.Access.Viewer(ctx, nil)
	if err != nil {
		return false, err
	}
	found, err := f.Store.Serving.BlobHolders(ctx, nobody, d, "", holders)
	for _, h := range found {
		if on := access.OfDistribution(h); !on.Private {
			return true, nil
		}
	}
	return false, err
}

// take stores a manifest under a tag, or by its digest, with its signatures.
func (f *fetch) take(ctx context.Context, reference string, m pulp.Manifest) error {
	if err := f.importer().Image(ctx, m); err != nil {
		return unavailable(err)
	}
	wanted := content.Synced{}
	if pulp.ValidTag(reference) {
		wanted.Tags = map[string]digest.Digest{reference: m.Digest}
		f.checked.Add(tagKey(f.target, reference), time.Now().Add(f.Freshness))
	} else {
		wanted.Manifests = []digest.Digest{m.Digest}
	}
	return f.add(ctx, wanted, m)
}

// add commits content with the signatures of a manifest that are new. Failures to read signatures are logged: the next check of
// the tag reads them.
func (f *fetch) add(ctx context.Context, wanted content.Synced, m pulp.Manifest) error {
	wanted.RepositoryID = f.target.Repository.ID
	if err := f.addSignatures(ctx, &wanted, m.Digest); err != nil {
		f.Log.WarnContext(ctx, "signatures of a cached image cannot be read from the upstream registry",
			slog.String("repository", f.target.Repository.Name), slog.String("digest", string(m.Digest)), slog.Any("err", err))
	}
	if len(wanted.Tags)+len(wanted.Manifests)+len(wanted.Signatures) == 0 {
		return nil
	}
	var version *pulp.Version
	commit := func(ctx context.Context) (err error) {
		version, err = f.Store.Content.CommitPulled(ctx, wanted)
		return err
	}
	run := func() error { return f.SignOnPush.Run(ctx, signservice.Caller{User: f.by.Name}, commit) }
	if f.SignOnPush == nil {
		run = func() error { return commit(ctx) }
	}
	err := run()
	if err == nil && version != nil {
		f.Audit.Record(ctx, audit.Entry{Action: "cache content", Object: f.target.Distribution.BasePath, Result: audit.Done},
			slog.Int64("version", version.Number), slog.String("digest", string(m.Digest)))
	}
	return err
}

// addSignatures adds the signatures of a manifest that the repository does not have: those of the signature endpoint or the
// sigstore, cosign's companion tag, and referrers that are signatures.
func (f *fetch) addSignatures(ctx context.Context, wanted *content.Synced, d digest.Digest) error {
	i := f.importer()
	from, err := f.sources.of(ctx, f.from, f.registry)
	if err != nil {
		return err
	}
	wanted.Signatures, err = i.Signatures(ctx, from, d, func(err error) {
		f.Log.WarnContext(ctx, "a signature of an upstream registry is skipped", slog.String("digest", string(d)), slog.Any("err", err))
	})
	if err != nil || d.Algorithm() != digest.SHA256 {
		return err
	}
	if err := f.addCompanion(ctx, i, wanted, "sha256-"+d.Encoded()+".sig"); err != nil {
		return err
	}
	found, _, err := f.registry.Referrers(ctx, d)
	if err != nil {
		return err
	}
	added := 0
	for _, r := range found {
		if !r.Signs() || added == maxReferrers {
			continue
		}
		added++
		if err := f.addManifest(ctx, i, string(r.Digest), func(d digest.Digest) { wanted.Manifests = append(wanted.Manifests, d) }); err != nil {
			return err
		}
	}
	return nil
}

// addCompanion adds a companion tag of cosign, if the upstream registry has it and it is new.
func (f *fetch) addCompanion(ctx context.Context, i *ingest.Importer, wanted *content.Synced, tag string) error {
	d, _, err := f.registry.Resolve(ctx, tag)
	if fault.Is(err, fault.NotFound) || mirror.Status(err) == http.StatusUnauthorized {
		return nil
	} else if err != nil {
		return err
	}
	return f.addManifest(ctx, i, string(d), func(d digest.Digest) {
		if wanted.Tags == nil {
			wanted.Tags = map[string]digest.Digest{}
		}
		wanted.Tags[tag] = d
	})
}

// addManifest records a manifest that is a signature, by its digest, and passes it to add. It skips one that the repository has,
// or that the upstream registry does not serve.
func (f *fetch) addManifest(ctx context.Context, i *ingest.Importer, reference string, add func(digest.Digest)) error {
	have, _, err := f.Store.Content.HasManifest(ctx, f.target.Repository.ID, digest.Digest(reference))
	if err != nil {
		return err
	}
	if have != content.HaveVersion {
		m, err := f.manifest(ctx, reference)
		if fault.Is(err, fault.NotFound) || err == nil && pulp.IsList(m.MediaType) {
			return nil
		} else if err != nil {
			return err
		}
		if err := i.Image(ctx, m); err != nil {
			return err
		}
	}
	add(digest.Digest(reference))
	return nil
}
