package signatures

import (
	"context"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/content"
	"github.com/countersign/countersign/internal/store/record"
	"github.com/countersign/countersign/internal/store/sqldb"
)

// Signature returns the signature with this id. The error is NotFound if there is none.
func (s *Store) Signature(ctx context.Context, id string) (pulp.Signature, error) {
	g, err := record.ScanSignature(s.db.Read().QueryRowContext(ctx, `SELECT `+record.SignatureColumns+` FROM signature g WHERE g.id = $1`, id))
	return g, sqldb.NotFound(err, "No ManifestSignature matches the given query.")
}

// signatureOverhead is a lower bound for the bytes that a signature takes in a response of the extension endpoint, in
// addition to its base64 content.
const signatureOverhead = 200

// checkRoom returns TooLarge if the signatures of a manifest, with one more of this size in bytes, do not fit into a
// response that clients read, pulp.MaxSignatureBody (compatibility.md#signature-endpoint).
func checkRoom(c *content.Change, manifestID string, size int) error {
	var held int64
	err := c.Tx.Row(`
		SELECT COALESCE(SUM((length(g.content) + 2) / 3 * 4 + $4), 0) FROM signature g
		 WHERE g.manifest_id = $1 AND (EXISTS (
			SELECT 1 FROM repository_content c WHERE c.repository_id = $2 AND c.kind = $3 AND c.key = g.digest AND c.version_removed IS NULL) OR `+record.IsPending("$2", "$3", "g.digest")+`)`,
		manifestID, c.Repo.ID, pulp.KindSignature, signatureOverhead).Scan(&held)
	if err != nil {
		return err
	}
	if held+int64((size+2)/3*4+signatureOverhead) > pulp.MaxSignatureBody {
		return errNoRoom()
	}
	return nil
}

func errNoRoom() error {
	return fault.New(fault.TooLarge, "The manifest has as many signatures as clients can read (%d bytes); remove some first.", pulp.MaxSignatureBody)
}

// PutSignature adds a signature to a manifest of a repository: in a new version, or as pending if the manifest is
// pending (compatibility.md#uploaded-signatures). It returns the new version, nil if none was made. A signature that
// is there already changes nothing. The error is NotFound if the repository has no such manifest, and TooLarge if the
// manifest has too many signatures.
func (s *Store) PutSignature(ctx context.Context, repositoryID string, manifest digest.Digest, g pulp.Signature) (*pulp.Version, error) {
	return s.content.Change(ctx, repositoryID, func(c *content.Change) error {
		id, present, ok, err := c.Anywhere(pulp.KindManifest, string(manifest))
		if err != nil {
			return err
		}
		if !ok {
			return fault.New(fault.NotFound, "Manifest not found.")
		}
		stored := g
		stored.ManifestID = id
		if _, _, held, err := c.Anywhere(pulp.KindSignature, string(g.Digest)); err != nil || held {
			return err
		}
		if err := checkRoom(c, id, len(g.Content)); err != nil {
			return err
		}
		unit, err := c.Tx.PutSignature(stored)
		if err != nil {
			return err
		}
		if !present {
			return c.Tx.PutPending(repositoryID, pulp.KindSignature, string(g.Digest), unit)
		}
		return c.Add(pulp.KindSignature, string(g.Digest), unit)
	})
}
