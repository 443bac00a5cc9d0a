package content

import (
	"context"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/record"
	"github.com/countersign/countersign/internal/store/sqldb"
)

// DeleteBlob removes a blob from a repository's latest version and its pending content, and returns the new version,
// nil if none was made. The error is NotFound if the blob is in neither, and Conflict if a manifest of the latest
// version or a pending manifest refers to it (compatibility.md#deleting-content).
func (s *Store) DeleteBlob(ctx context.Context, repositoryID string, dgst digest.Digest) (*pulp.Version, error) {
	return s.Change(ctx, repositoryID, func(c *Change) error {
		_, _, ok, err := c.Anywhere(pulp.KindBlob, string(dgst))
		if err != nil {
			return err
		}
		if !ok {
			return fault.New(fault.NotFound, "Blob not found.")
		}
		used, err := c.blobUsed(string(dgst))
		if err != nil {
			return err
		}
		if used {
			return fault.New(fault.Conflict, "A manifest refers to the blob.")
		}
		if err := c.Remove(pulp.KindBlob, string(dgst)); err != nil {
			return err
		}
		return c.dropPending(pulp.KindBlob, string(dgst))
	})
}

// blobUsed reports whether a manifest of the latest version or a pending manifest refers to a blob.
func (c *Change) blobUsed(dgst string) (bool, error) {
	var used bool
	err := c.Tx.Row(`
		SELECT EXISTS (
			SELECT 1 FROM manifest_blob mb JOIN manifest m ON m.id = mb.manifest_id
			 WHERE mb.digest = $1 AND (EXISTS (
				SELECT 1 FROM repository_content c
				 WHERE c.repository_id = $2 AND c.kind = $3 AND c.key = m.digest AND c.version_removed IS NULL) OR `+record.IsPending("$2", "$3", "m.digest")+`))`,
		dgst, c.Repo.ID, pulp.KindManifest).Scan(&used)
	return used, err
}

// DeleteManifest removes the tags of a manifest from a repository's latest version. Unless a remaining index refers
// to the manifest, it also removes the manifest, as RemoveImage does, or the pending manifest by the same rule
// (compatibility.md#deleting-manifests). It returns the new version, nil if none was made. The error is NotFound if
// the repository has no such manifest.
func (s *Store) DeleteManifest(ctx context.Context, repositoryID string, dgst digest.Digest) (*pulp.Version, error) {
	return s.Change(ctx, repositoryID, func(c *Change) error {
		id, present, ok, err := c.Anywhere(pulp.KindManifest, string(dgst))
		switch {
		case err != nil:
			return err
		case !ok:
			return fault.New(fault.NotFound, "Manifest not found.")
		case present:
			return c.removeImage(id)
		}
		return c.removePending(string(dgst), id)
	})
}

// removeImage removes a manifest of the latest version with its tags, its signatures and the content that it refers
// to, except content that remaining tags and indexes refer to.
func (c *Change) removeImage(id string) error {
	return sqldb.Steps(c.Gather, func() error {
		_, err := c.Tx.Exec(`
			INSERT INTO change_unit (kind, key, content_id)
			SELECT c.kind, c.key, c.content_id FROM repository_content c JOIN tag t ON t.id = c.content_id
			 WHERE t.manifest_id = $1 AND c.repository_id = $2 AND c.kind = $3 AND c.version_removed IS NULL`, id, c.Repo.ID, pulp.KindTag)
		return err
	}, func() error {
		return c.gatherUnits([]record.Unit{{Kind: pulp.KindManifest, ID: id}}, heldNow(c.Repo.ID))
	}, c.removeTrees)
}

// removePending removes a pending manifest with its signatures, and blobs of the latest version that no other
// manifest refers to. It removes nothing if an index of the repository, in the latest version or pending, refers to
// the manifest.
func (c *Change) removePending(dgst, id string) error {
	var listed bool
	err := c.Tx.Row(`
		SELECT EXISTS (SELECT 1 FROM manifest_child e WHERE e.digest = $1 AND (EXISTS (
			SELECT 1 FROM repository_content c
			 WHERE c.repository_id = $2 AND c.kind = $3 AND c.content_id = e.manifest_id AND c.version_removed IS NULL) OR EXISTS (
			SELECT 1 FROM unversioned_content p WHERE `+record.Pending("$2")+` AND p.kind = $3 AND p.content_id = e.manifest_id)))`,
		dgst, c.Repo.ID, pulp.KindManifest).Scan(&listed)
	if err != nil || listed {
		return err
	}
	if err := c.Tx.recordRemovedPending(c.Repo.ID, dgst); err != nil {
		return err
	}
	if _, err := c.Tx.Exec(`
		DELETE FROM unversioned_content AS p WHERE `+record.Pending("$1")+` AND (p.kind = $2 AND p.key = $3 OR p.kind = $4 AND p.content_id IN (
			SELECT g.id FROM signature g WHERE g.manifest_id = $5))`, c.Repo.ID, pulp.KindManifest, dgst, pulp.KindSignature, id); err != nil {
		return err
	}
	blobs, err := c.Tx.blobsOf(id)
	if err != nil {
		return err
	}
	for _, d := range blobs {
		used, err := c.blobUsed(d)
		if err != nil {
			return err
		}
		if !used {
			if err := c.Remove(pulp.KindBlob, d); err != nil {
				return err
			}
		}
	}
	return nil
}
