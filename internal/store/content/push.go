package content

import (
	"context"
	"errors"
	"slices"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/pulp"
)

// MissingBlobs is the error of a manifest that refers to blobs which its repository does not have, not even pending
// (compatibility.md#missing-blobs).
type MissingBlobs struct{ Digests []digest.Digest }

// Error names the first of them.
func (e *MissingBlobs) Error() string { return "blob unknown to repository: " + string(e.Digests[0]) }

// MissingChildren is the error of an index that refers to manifests which its repository does not have, not even
// pending. It is returned only if the caller requires complete indexes (compatibility.md#absent-parts).
type MissingChildren struct{ Digests []digest.Digest }

// Error names the first of them.
func (e *MissingChildren) Error() string {
	return "manifest unknown to repository: " + string(e.Digests[0])
}

// PutManifest is a pushed manifest.
type PutManifest struct {
	RepositoryID    string
	Manifest        pulp.Manifest
	Tags            []string // none: pushed by digest
	RequireChildren bool     // the repository must have all children of an index
	// When decides whether the tags may change, given the current digest of each, empty for a missing tag. nil: always.
	When func(current digest.Digest) bool
}

// PutManifest stores a manifest. With a tag or a subject it enters a new version of the repository together with its pending
// content; by digest alone it becomes pending (compatibility.md#manifests, compatibility.md#pending-content). It returns the new
// version, nil if none was made. The error is MissingBlobs if the repository lacks blobs of the manifest, and MissingSignatures if
// the manifest must be signed before it is visible. In that case it is recorded as fetched, so that nobody is served it and the
// caller can sign it.
func (s *Store) PutManifest(ctx context.Context, p PutManifest) (*pulp.Version, error) {
	v, err := s.putManifest(ctx, p)
	if _, unsigned := errors.AsType[*MissingSignatures](err); unsigned {
		if err := s.FetchedManifest(ctx, p.RepositoryID, p.Manifest); err != nil {
			return nil, err
		}
	}
	return v, err
}

func (s *Store) putManifest(ctx context.Context, p PutManifest) (*pulp.Version, error) {
	return InTx(ctx, s, func(t *Tx) (*pulp.Version, error) {
		c, err := t.Begin(p.RepositoryID)
		if err != nil {
			return nil, err
		}
		for _, name := range p.Tags {
			if err := c.checkPrecondition(name, p.When); err != nil {
				return nil, err
			}
		}
		if err := c.checkParts(p); err != nil {
			return nil, err
		}
		id, err := t.putManifest(p.Manifest)
		if err != nil {
			return nil, err
		}
		c.pushed = &pushed{p.Manifest, p.Tags}
		if len(p.Tags) == 0 && p.Manifest.Subject == "" {
			return c.putByDigest(string(p.Manifest.Digest), id)
		}
		return c.putVisible(string(p.Manifest.Digest), id, p.Tags)
	})
}

// putByDigest makes a manifest pending, unless the latest version holds it. A manifest that completes a visible index which must be
// signed enters the next version instead.
func (c *Change) putByDigest(dgst, id string) (*pulp.Version, error) {
	if _, present, err := c.Held(pulp.KindManifest, dgst); err != nil || present {
		return nil, err
	}
	visible, err := c.completes(dgst)
	if err != nil {
		return nil, err
	}
	if visible {
		return c.putVisible(dgst, id, nil)
	}
	return nil, c.Tx.PutPending(c.Repo.ID, pulp.KindManifest, dgst, id)
}

// putVisible makes a version with a manifest and its tags.
func (c *Change) putVisible(dgst, id string, tags []string) (*pulp.Version, error) {
	if err := c.addManifest(dgst, id); err != nil {
		return nil, err
	}
	for _, name := range tags {
		if err := c.SetTag(name, id); err != nil {
			return nil, err
		}
	}
	return c.End()
}

// completes reports whether a manifest completes an index of the latest version in a repository that shows signed
// tags only.
func (c *Change) completes(dgst string) (seen bool, err error) {
	if required, err := c.requiresSignatures(); err != nil || !required {
		return false, err
	}
	err = c.Tx.Row(`
		SELECT EXISTS (SELECT 1 FROM manifest_child e JOIN repository_content c ON c.content_id = e.manifest_id
		 WHERE e.digest = $1 AND c.repository_id = $2 AND c.kind = $3 AND c.version_removed IS NULL)`, dgst, c.Repo.ID, pulp.KindManifest).Scan(&seen)
	return seen, err
}

// checkParts returns MissingBlobs or MissingChildren if required parts of a manifest are neither in the latest
// version nor pending.
func (c *Change) checkParts(p PutManifest) error {
	missing := func(kind pulp.Kind, parts []pulp.Descriptor) ([]digest.Digest, error) {
		var absent []digest.Digest
		for _, d := range parts {
			if len(d.URLs) > 0 || pulp.IsForeign(d.MediaType) {
				continue
			}
			id, _, ok, err := c.Anywhere(kind, string(d.Digest))
			if err == nil && ok && kind == pulp.KindBlob {
				ok, err = c.servable(id)
			}
			if err != nil {
				return nil, err
			}
			if !ok && !slices.Contains(absent, d.Digest) {
				absent = append(absent, d.Digest)
			}
		}
		return absent, nil
	}
	blobs := p.Manifest.Layers
	if p.Manifest.Config != nil {
		blobs = append([]pulp.Descriptor{*p.Manifest.Config}, blobs...)
	}
	absent, err := missing(pulp.KindBlob, blobs)
	if err != nil || len(absent) > 0 {
		return errors.Join(err, missingError(absent))
	}
	if !p.RequireChildren {
		return nil
	}
	absent, err = missing(pulp.KindManifest, p.Manifest.Children)
	if err == nil && len(absent) > 0 {
		err = &MissingChildren{absent}
	}
	return err
}

func missingError(absent []digest.Digest) error {
	if len(absent) == 0 {
		return nil
	}
	return &MissingBlobs{absent}
}
