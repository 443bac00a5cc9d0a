package content

import (
	"context"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/record"
	"github.com/countersign/countersign/internal/store/sqldb"
	"github.com/countersign/countersign/internal/store/taskstore"
)

// RemoveContent removes units from a repository with the content that only they refer to, and completes the task
// (compatibility.md#container-repositories). Content that a remaining tag or index refers to stays.
func (s *Store) RemoveContent(ctx context.Context, claim *taskstore.Claim, repositoryID string, units []record.Unit) (*pulp.Version, error) {
	return s.changeFor(ctx, claim, repositoryID, func(c *Change) ([]taskstore.Created, error) {
		return nil, sqldb.Steps(c.Gather, func() error { return c.gatherUnits(units, heldNow(repositoryID)) }, c.removeTrees)
	})
}

// RemoveAll removes all content from a repository and completes the task.
func (s *Store) RemoveAll(ctx context.Context, claim *taskstore.Claim, repositoryID string) (*pulp.Version, error) {
	return s.changeFor(ctx, claim, repositoryID, func(c *Change) ([]taskstore.Created, error) {
		return nil, sqldb.Steps(c.Gather, c.keepGathered)
	})
}

// RemoveImage removes a manifest from a repository with its tags, its signatures and the content that only it refers
// to, and completes the task (compatibility.md#push-repositories). The error is Invalid if the latest version holds
// no such manifest.
func (s *Store) RemoveImage(ctx context.Context, claim *taskstore.Claim, repositoryID string, d digest.Digest) (*pulp.Version, error) {
	return s.changeFor(ctx, claim, repositoryID, func(c *Change) ([]taskstore.Created, error) {
		id, ok, err := c.Held(pulp.KindManifest, string(d))
		if err == nil && !ok {
			err = fault.New(fault.Invalid, "A manifest with the digest '%s' does not exist in the latest repository version '%s'", d, c.name())
		}
		if err != nil {
			return nil, err
		}
		return nil, c.removeImage(id)
	})
}

// removeTrees removes the gathered units from the repository with the content that they refer to, except content that
// remaining units refer to.
func (c *Change) removeTrees() error {
	if err := c.GatherTree(heldNow(c.Repo.ID)); err != nil {
		return err
	}
	if err := c.keepNamed(); err != nil {
		return err
	}
	if _, err := c.Tx.Exec(`
		DELETE FROM change_unit WHERE kind = $3 AND (key IN (
			SELECT mb.digest FROM repository_content c JOIN manifest_blob mb ON mb.manifest_id = c.content_id
			 WHERE c.repository_id = $1 AND c.kind = $2 AND c.version_removed IS NULL
			   AND NOT EXISTS (SELECT 1 FROM change_unit g WHERE g.kind = $2 AND g.key = c.key)) OR key IN (
			SELECT mb.digest FROM unversioned_content p JOIN manifest_blob mb ON mb.manifest_id = p.content_id WHERE `+record.Pending("$1")+` AND p.kind = $2))`,
		c.Repo.ID, pulp.KindManifest, pulp.KindBlob); err != nil {
		return err
	}
	if err := c.gatherOwnSignatures(); err != nil {
		return err
	}
	if _, err := c.Tx.Exec(`
		DELETE FROM unversioned_content AS p WHERE `+record.Pending("$1")+` AND p.kind = $2 AND p.content_id IN (
			SELECT s.id FROM signature s JOIN change_unit g ON g.content_id = s.manifest_id WHERE g.kind = $3)`,
		c.Repo.ID, pulp.KindSignature, pulp.KindManifest); err != nil {
		return err
	}
	return c.removeGathered()
}

// keepNamed removes manifests from the gathered units if a remaining tag, or a remaining or pending index, refers to
// them, and then the children of those manifests.
func (c *Change) keepNamed() error {
	if _, err := c.Tx.Exec(`
		DELETE FROM change_unit WHERE kind = $2 AND content_id IN (
			SELECT t.manifest_id FROM repository_content c JOIN tag t ON t.id = c.content_id
			 WHERE c.repository_id = $1 AND c.kind = $3 AND c.version_removed IS NULL
			   AND NOT EXISTS (SELECT 1 FROM change_unit g WHERE g.kind = $3 AND g.key = c.key))`,
		c.Repo.ID, pulp.KindManifest, pulp.KindTag); err != nil {
		return err
	}
	for {
		n, err := c.Tx.Exec(`
			DELETE FROM change_unit WHERE kind = $2 AND key IN (
				SELECT mc.digest FROM repository_content c JOIN manifest_child mc ON mc.manifest_id = c.content_id
				 WHERE c.repository_id = $1 AND c.kind = $2 AND c.version_removed IS NULL
				   AND NOT EXISTS (SELECT 1 FROM change_unit g WHERE g.kind = $2 AND g.key = c.key)
				UNION SELECT mc.digest FROM unversioned_content p JOIN manifest_child mc ON mc.manifest_id = p.content_id
				 WHERE `+record.Pending("$1")+` AND p.kind = $2)`, c.Repo.ID, pulp.KindManifest)
		if err != nil || n == 0 {
			return err
		}
	}
}
