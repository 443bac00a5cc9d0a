package signatures

import (
	"context"

	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/content"
	"github.com/countersign/countersign/internal/store/record"
)

// KeepPending stores signatures of manifests that a repository holds, or that are pending in it, as pending. A change that must be
// signed adds them to its version. The error is TooLarge if a manifest has too many signatures.
func (s *Store) KeepPending(ctx context.Context, repositoryID string, signatures []pulp.Signature) error {
	return s.content.InTx(ctx, func(t *content.Tx) error {
		c, err := t.Begin(repositoryID)
		if err != nil {
			return err
		}
		for _, g := range signatures {
			if err := checkRoom(c, g.ManifestID, len(g.Content)); err != nil {
				return err
			}
			id, err := t.PutSignature(g)
			if err != nil {
				return err
			}
			if err := t.PutPending(repositoryID, pulp.KindSignature, string(g.Digest), id); err != nil {
				return err
			}
		}
		return nil
	})
}

// DropPending deletes the pending signatures of a change that was refused. Signatures in versions stay.
func (s *Store) DropPending(ctx context.Context, u *content.MissingSignatures) error {
	return s.content.InTx(ctx, func(t *content.Tx) error {
		for _, m := range u.Missing {
			if _, err := t.Exec(`
				DELETE FROM unversioned_content AS p WHERE `+record.Pending("$1")+` AND p.kind = $2 AND p.key IN (
					SELECT g.digest FROM signature g JOIN manifest m ON m.id = g.manifest_id WHERE m.digest = $3 AND g.reference = $4 AND g.verified_by = $5)`,
				u.RepositoryID, pulp.KindSignature, m.Digest, m.Reference, u.Service.Fingerprint); err != nil {
				return err
			}
		}
		return nil
	})
}
