package content

import (
	"context"
	"strings"

	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/record"
	"github.com/countersign/countersign/internal/store/sqldb"
)

// putClaim records that a repository claims a blob of a remote without having its bytes.
func (t *Tx) putClaim(repositoryID, blobID, remoteID string, size int64) error {
	if _, err := t.Exec(`
		INSERT INTO blob_claim (repository_id, blob_id, remote_id, size) VALUES ($1, $2, $3, $4)
		ON CONFLICT (repository_id, blob_id) DO UPDATE SET remote_id = excluded.remote_id, size = excluded.size`, repositoryID, blobID, sqldb.NullIfEmpty(remoteID), size); err != nil {
		return err
	}
	_, err := t.Exec(`
		INSERT INTO claim_source (repository_id, blob_id, remote_id) SELECT $1, $2, m.id FROM remote m WHERE m.id = $3
		ON CONFLICT (repository_id, blob_id, remote_id) DO UPDATE SET lacked = 0, failed = 0`, repositoryID, blobID, remoteID)
	return err
}

// proven ends the claim of a repository on a blob after the repository has received or proved to have the bytes. If
// remoteID is not empty, it also ends the claims of other repositories on the blob that name this remote.
func (t *Tx) proven(repositoryID, blobID, remoteID string) error {
	_, err := t.Exec(`
		DELETE FROM blob_claim WHERE blob_id = $1 AND (repository_id = $2 OR remote_id = $3 OR repository_id IN (
			SELECT s.repository_id FROM claim_source s WHERE s.remote_id = $3 AND s.blob_id = $1))`, blobID, repositoryID, sqldb.NullIfEmpty(remoteID))
	return err
}

// SourceFailed records that a remote did not deliver a blob that a repository claims of it. With lacks, the remote
// answered that it has no such blob. Other remotes are tried first from then on, and one that lacks the blob is
// skipped for some minutes (record.SourceOf).
func (s *Store) SourceFailed(ctx context.Context, repositoryID, blobID, remoteID string, lacks bool) error {
	return s.InTxNoSync(ctx, func(t *Tx) error {
		var lacked int64
		if lacks {
			lacked = t.Now
		}
		_, err := t.Exec(`
			INSERT INTO claim_source (repository_id, blob_id, remote_id, lacked, failed)
			SELECT k.repository_id, k.blob_id, m.id, CAST($4 AS BIGINT), CAST($5 AS BIGINT) FROM blob_claim k JOIN remote m ON m.id = $3 WHERE k.repository_id = $1 AND k.blob_id = $2
			ON CONFLICT (repository_id, blob_id, remote_id) DO UPDATE SET failed = excluded.failed,
				lacked = CASE WHEN excluded.lacked > 0 THEN excluded.lacked ELSE claim_source.lacked END`,
			repositoryID, blobID, remoteID, lacked, t.Now)
		return err
	})
}

// ForgiveSource forgets the failures of a remote after its settings have changed.
func (t *Tx) ForgiveSource(remoteID string) error {
	_, err := t.Exec(`UPDATE claim_source SET lacked = 0, failed = 0 WHERE remote_id = $1 AND (lacked > 0 OR failed > 0)`, remoteID)
	return err
}

// Unattached reports whether the latest version of a repository holds blobs that the repository claims, but not of
// this remote.
func (s *Store) Unattached(ctx context.Context, repositoryID, remoteID string) (bool, error) {
	var found bool
	err := s.db.Read().QueryRowContext(ctx, `
		SELECT EXISTS (
			SELECT 1 FROM blob_claim k JOIN repository_content c ON c.repository_id = k.repository_id AND c.content_id = k.blob_id AND c.kind = $3 AND c.version_removed IS NULL
			 WHERE k.repository_id = $1 AND NOT EXISTS (
				SELECT 1 FROM claim_source s WHERE s.repository_id = k.repository_id AND s.blob_id = k.blob_id AND s.remote_id = $2 AND s.lacked = 0))`,
		repositoryID, remoteID, pulp.KindBlob).Scan(&found)
	return found, err
}

// attach makes a remote the first source of the gathered blobs that the repository claims, because the remote lists
// images with them.
func (c *Change) attach(remoteID string) error {
	if remoteID == "" {
		return nil
	}
	const claimed = `SELECT k.repository_id, k.blob_id, m.id FROM change_unit g JOIN blob_claim k ON k.blob_id = g.content_id JOIN remote m ON m.id = $2
		 WHERE k.repository_id = $1 AND g.kind = $3`
	for _, statement := range []string{`
		INSERT INTO claim_source (repository_id, blob_id, remote_id) ` + claimed + `
		ON CONFLICT (repository_id, blob_id, remote_id) DO UPDATE SET lacked = 0, failed = 0`, `
		UPDATE blob_claim SET remote_id = $2 WHERE repository_id = $1 AND (remote_id IS NULL OR remote_id <> $2) AND blob_id IN (
			SELECT s.blob_id FROM change_unit g JOIN claim_source s ON s.blob_id = g.content_id WHERE g.kind = $3 AND s.repository_id = $1 AND s.remote_id = $2)`, `
		INSERT INTO blob_source (blob_id, remote_id) SELECT x.blob_id, x.id FROM (` + claimed + `) x WHERE TRUE ON CONFLICT DO NOTHING`,
	} {
		if _, err := c.Tx.Exec(statement, c.Repo.ID, remoteID, pulp.KindBlob); err != nil {
			return err
		}
	}
	return nil
}

// inheritClaims copies the claims on gathered blobs, with their remotes, from the repositories from which the blobs
// are copied (rows c). It copies claims on blobs that this repository does not have yet and that none of the other
// repositories has the bytes of. It also adds remotes to this repository's own claims. A claim ends if one of the
// other repositories has the bytes.
func (c *Change) inheritClaims(from origin) error {
	other := strings.ReplaceAll(from.Condition, "c.repository_id", "o.repository_id")
	args := append([]any{c.Repo.ID, pulp.KindBlob}, from.Args...)
	for _, statement := range []string{`
		DELETE FROM blob_claim WHERE repository_id = $1 AND blob_id IN (
			SELECT g.content_id FROM change_unit g JOIN blob b ON b.id = g.content_id JOIN repository_content o ON o.content_id = g.content_id AND o.kind = g.kind
			 WHERE g.kind = $2 AND NOT b.absent AND ` + other + `
			   AND NOT EXISTS (SELECT 1 FROM blob_claim ok WHERE ok.repository_id = o.repository_id AND ok.blob_id = o.content_id))`, `
		INSERT INTO blob_claim (repository_id, blob_id, remote_id, size)
		SELECT $1, k.blob_id, MAX(k.remote_id), MAX(k.size) FROM change_unit g
		  JOIN repository_content c ON c.content_id = g.content_id AND c.kind = g.kind
		  JOIN blob_claim k ON k.repository_id = c.repository_id AND k.blob_id = c.content_id
		 WHERE g.kind = $2 AND ` + from.Condition + ` AND (
		   EXISTS (SELECT 1 FROM blob_claim mine WHERE mine.repository_id = $1 AND mine.blob_id = k.blob_id) OR
		   NOT EXISTS (SELECT 1 FROM repository_content h WHERE h.repository_id = $1 AND h.content_id = k.blob_id AND h.version_removed IS NULL)
		   AND NOT EXISTS (SELECT 1 FROM unversioned_content p WHERE ` + record.Pending("$1") + ` AND p.content_id = k.blob_id)
		   AND NOT EXISTS (
			SELECT 1 FROM repository_content o WHERE o.content_id = k.blob_id AND ` + other + `
			   AND NOT EXISTS (SELECT 1 FROM blob_claim ok WHERE ok.repository_id = o.repository_id AND ok.blob_id = o.content_id)))
		 GROUP BY k.blob_id
		ON CONFLICT (repository_id, blob_id) DO UPDATE SET remote_id = COALESCE(blob_claim.remote_id, excluded.remote_id)`, `
		INSERT INTO claim_source (repository_id, blob_id, remote_id, lacked, failed)
		SELECT $1, s.blob_id, s.remote_id, MIN(s.lacked), MIN(s.failed) FROM change_unit g
		  JOIN repository_content c ON c.content_id = g.content_id AND c.kind = g.kind
		  JOIN claim_source s ON s.repository_id = c.repository_id AND s.blob_id = c.content_id
		 WHERE g.kind = $2 AND ` + from.Condition + ` AND EXISTS (SELECT 1 FROM blob_claim mine WHERE mine.repository_id = $1 AND mine.blob_id = s.blob_id)
		 GROUP BY s.blob_id, s.remote_id
		ON CONFLICT (repository_id, blob_id, remote_id) DO NOTHING`,
	} {
		if _, err := c.Tx.Exec(statement, args...); err != nil {
			return err
		}
	}
	return nil
}

// servable reports whether the repository has the bytes of a blob, or a remote to fetch them from.
func (c *Change) servable(blobID string) (bool, error) {
	var without bool
	err := c.Tx.Row(`
		SELECT EXISTS (SELECT 1 FROM blob b LEFT JOIN blob_claim k ON k.blob_id = b.id AND k.repository_id = $1 WHERE b.id = $2 AND `+record.WithoutSource("$3")+`)`,
		c.Repo.ID, blobID, record.LackedSince()).Scan(&without)
	return !without, err
}
