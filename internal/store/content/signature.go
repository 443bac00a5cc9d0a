package content

import (
	"context"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/sqldb"
	"github.com/countersign/countersign/internal/store/taskstore"
)

// RemoveSignatures removes all signatures by a key from a repository and completes the task
// (compatibility.md#push-repositories). The error is Invalid if the latest version holds none.
func (s *Store) RemoveSignatures(ctx context.Context, claim *taskstore.Claim, repositoryID, keyID string) (*pulp.Version, error) {
	return s.changeFor(ctx, claim, repositoryID, func(c *Change) ([]taskstore.Created, error) {
		if err := c.Gather(); err != nil {
			return nil, err
		}
		n, err := c.Tx.Exec(`
			INSERT INTO change_unit (kind, key, content_id)
			SELECT c.kind, c.key, c.content_id FROM repository_content c JOIN signature g ON g.id = c.content_id
			 WHERE c.repository_id = $1 AND c.kind = $2 AND c.version_removed IS NULL AND g.key_id = $3`, repositoryID, pulp.KindSignature, keyID)
		if err == nil && n == 0 {
			err = fault.New(fault.Invalid, "There are no signatures in the latest repository version '%s' produced with the specified key_id '%s'", c.name(), keyID)
		}
		if err != nil {
			return nil, err
		}
		return nil, c.removeGathered()
	})
}

// gatherOwnSignatures gathers the signatures of the gathered manifests that the repository holds.
func (c *Change) gatherOwnSignatures() error {
	here := heldNow(c.Repo.ID)
	_, err := c.Tx.Exec(`
		INSERT INTO change_unit (kind, key, content_id)
		SELECT CAST($1 AS BIGINT), u.digest, u.id FROM change_unit g JOIN signature u ON u.manifest_id = g.content_id WHERE g.kind = $2 AND `+here.Condition+`
		ON CONFLICT DO NOTHING`, append([]any{pulp.KindSignature, pulp.KindManifest}, here.Args...)...)
	return err
}

// PutSignature stores the row of a signature and returns its id. A row that exists stays as it is, also its VerifiedBy.
func (t *Tx) PutSignature(g pulp.Signature) (string, error) {
	id := pulp.NewID()
	n, err := t.Exec(`
		INSERT INTO signature (id, digest, name, manifest_id, content, key_id, fingerprint, verified_by, reference, creator, signed_at, created, updated)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $12) ON CONFLICT (digest) DO NOTHING`,
		id, g.Digest, g.Name, g.ManifestID, g.Content, g.KeyID, sqldb.NullText(g.Fingerprint), g.VerifiedBy, g.Reference, g.Creator, g.SignedAt, t.Now)
	if err == nil && n == 0 {
		return sqldb.ScanString(t.Row(`SELECT id FROM signature WHERE digest = $1`, g.Digest))
	}
	return id, err
}
