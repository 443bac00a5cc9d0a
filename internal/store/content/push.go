package content

import (
	"context"
	"errors"
	"slices"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/pulp"
)

// MissingBlobs says that a manifest names blobs that its repository neither holds nor was sent (compatibility.md#missing-blobs).
type MissingBlobs struct{ Digests []digest.Digest }

// Error names the first of them.
func (e *MissingBlobs) Error() string { return "blob unknown to repository: " + string(e.Digests[0]) }

// MissingChildren says that an index names manifests that its repository neither holds nor was sent. It is an error only where
// indexes must be complete (compatibility.md#absent-parts).
type MissingChildren struct{ Digests []digest.Digest }

// Error names the first of them.
func (e *MissingChildren) Error() string {
	return "manifest unknown to repository: " + string(e.Digests[0])
}

// PutManifest is one manifest on its way into a repository.
type PutManifest struct {
	RepositoryID    string
	Manifest        pulp.Manifest
	Tags            []string // none: pushed by digest
	RequireChildren bool     // an index may not name absent manifests (compatibility.md#absent-parts)
	// When says whether the tags may change, given the digest that each stands for now, empty for one that is not there; nil: always.
	When func(current digest.Digest) bool
}

// PutManifest stores a manifest. By tag, or with a subject, it enters a new version of the repository together with everything of it that was
// sent before; by digest alone it is pending (compatibility.md#manifests, compatibility.md#pending-content). It returns the new version, nil when none was made. MissingBlobs
// when it names blobs that the repository has not. Unsigned where it must be signed before it is seen: it is kept then as what a sync has fetched, for those who
// sign, and nobody is served.
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

// completes says whether a manifest completes a list that the repository shows, and that must be signed before it is seen.
func (c *Change) completes(dgst string) (seen bool, err error) {
	if required, err := c.requiresSignatures(); err != nil || !required {
		return false, err
	}
	err = c.Tx.Row(`
		SELECT EXISTS (SELECT 1 FROM manifest_child e JOIN repository_content c ON c.content_id = e.manifest_id
		 WHERE e.digest = $1 AND c.repository_id = $2 AND c.kind = $3 AND c.version_removed IS NULL)`, dgst, c.Repo.ID, pulp.KindManifest).Scan(&seen)
	return seen, err
}

// checkParts sees that what a manifest must not lack is in the repository, in its latest version or pending.
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
