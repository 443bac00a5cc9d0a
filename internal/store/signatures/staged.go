package signatures

import (
	"context"

	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/content"
	"github.com/countersign/countersign/internal/store/record"
	"github.com/countersign/countersign/internal/store/sqldb"
	"github.com/countersign/countersign/internal/store/taskstore"
)

// SignedKey identifies the signatures by one key that count as the same (compatibility.md#signing-again).
type SignedKey struct{ ManifestID, Reference string }

func scanSignedKey(row sqldb.Scanner) (SignedKey, error) {
	var k SignedKey
	err := row.Scan(&k.ManifestID, &k.Reference)
	return k, err
}

// SignedBy returns the signatures of a repository's latest version that were verified with the key with this
// fingerprint.
func (s *Store) SignedBy(ctx context.Context, repositoryID, fingerprint string) ([]SignedKey, error) {
	return sqldb.Collect(ctx, s.db.Read(), scanSignedKey, `
		SELECT g.manifest_id, g.reference FROM repository_content c JOIN signature g ON g.id = c.content_id
		 WHERE c.repository_id = $1 AND c.kind = $2 AND c.version_removed IS NULL AND g.verified_by = $3`,
		repositoryID, pulp.KindSignature, fingerprint)
}

// Staged returns the signatures by a key that earlier attempts of a task have staged.
func (s *Store) Staged(ctx context.Context, taskID, fingerprint string) ([]SignedKey, error) {
	return sqldb.Collect(ctx, s.db.Read(), scanSignedKey,
		`SELECT g.manifest_id, g.reference `+staged+`WHERE s.task_id = $1 AND g.verified_by = $2`, taskID, fingerprint)
}

// staged is the FROM clause that joins the signatures g with the rows s by which a task (s.task_id) has staged them.
const staged = `FROM unversioned_content s JOIN signature g ON g.id = s.content_id `

// stagedKey returns the key by which a task stages one signature of a manifest, for a reference, by a key.
func stagedKey(g pulp.Signature) string { return g.ManifestID + " " + g.Reference + " " + g.VerifiedBy }

// StageSignatures stores signatures that a task has made until the task commits them. The error is ErrFenced if
// another attempt of the task is running.
func (s *Store) StageSignatures(ctx context.Context, c *taskstore.Claim, made []pulp.Signature) error {
	return s.content.InTx(ctx, func(t *content.Tx) error {
		var mine bool
		err := t.Row(`SELECT EXISTS (SELECT 1 FROM task WHERE id = $1 AND attempt = $2 AND state = 'running')`, c.TaskID, c.Attempt).Scan(&mine)
		if err != nil {
			return err
		}
		if !mine {
			return taskstore.ErrFenced
		}
		if err := t.LockContentShared(); err != nil {
			return err
		}
		for _, g := range made {
			id, err := t.PutSignature(g)
			if err != nil {
				return err
			}
			if _, err := t.Exec(`
				INSERT INTO unversioned_content (reason, task_id, kind, key, content_id, touched) VALUES ('staged', $1, $2, $3, $4, $5)
				ON CONFLICT DO NOTHING`, c.TaskID, pulp.KindSignature, stagedKey(g), id, t.Now); err != nil {
				return err
			}
		}
		return nil
	})
}

// CommitStaged adds all signatures that a task has staged to the latest version of a repository, except those of
// manifests that have left it, and completes the task, in one transaction. It returns the new version, nil if none
// was made.
func (s *Store) CommitStaged(ctx context.Context, claim *taskstore.Claim, repositoryID string) (*pulp.Version, error) {
	return content.InTx(ctx, s.content, func(t *content.Tx) (*pulp.Version, error) {
		c, err := t.Begin(repositoryID)
		if err != nil {
			return nil, err
		}
		if err := addStaged(c, claim.TaskID); err != nil {
			return nil, err
		}
		v, err := c.End()
		if err != nil {
			return nil, err
		}
		var made taskstore.Outcome
		if v != nil {
			made.Created = []taskstore.Created{content.CreatedVersion(*v)}
		}
		return v, taskstore.Complete(t.Tx, claim, made)
	})
}

// checkStagedRoom returns TooLarge if the signatures of a manifest, with those that a task has staged, do not fit
// into a response that clients read. It first adds up the signatures of all repositories, which is quicker and mostly
// sufficient.
func checkStagedRoom(c *content.Change, taskID string) error {
	const size = `(length(g.content) + 2) / 3 * 4 + $2`
	// MATERIALIZED keeps PostgreSQL from reading all signatures in the order of their manifests.
	const larger = `
		WITH n AS MATERIALIZED (SELECT g.manifest_id AS manifest_id, ` + size + ` AS size ` + staged + `WHERE s.task_id = $1)
		SELECT EXISTS (SELECT 1 FROM (SELECT n.manifest_id AS manifest_id, SUM(n.size) AS size FROM n GROUP BY n.manifest_id) n
		 WHERE n.size + COALESCE((SELECT SUM(` + size + `) FROM signature g WHERE g.manifest_id = n.manifest_id`
	var full bool
	err := c.Tx.Row(larger+`), 0) > $3)`, taskID, signatureOverhead, pulp.MaxSignatureBody).Scan(&full)
	if err != nil || !full {
		return err
	}
	err = c.Tx.Row(larger+` AND (EXISTS (
				SELECT 1 FROM repository_content c WHERE c.repository_id = $4 AND c.kind = $5 AND c.key = g.digest AND c.version_removed IS NULL) OR `+record.IsPending("$4", "$5", "g.digest")+`)), 0) > $3)`,
		taskID, signatureOverhead, pulp.MaxSignatureBody, c.Repo.ID, pulp.KindSignature).Scan(&full)
	if err == nil && full {
		return errNoRoom()
	}
	return err
}

// addStaged adds all signatures that a task has staged in one statement each for any number of them, because pushes
// wait for the lock on the repository.
func addStaged(c *content.Change, taskID string) error {
	if err := checkStagedRoom(c, taskID); err != nil {
		return err
	}
	if _, err := c.Tx.Exec(`DELETE FROM unversioned_content AS p WHERE `+record.Pending("$1")+` AND p.kind = $3 AND p.key IN (SELECT g.digest `+staged+`WHERE s.task_id = $2)`,
		c.Repo.ID, taskID, pulp.KindSignature); err != nil {
		return err
	}
	n, err := c.Tx.Exec(`
		INSERT INTO repository_content (repository_id, kind, key, content_id, version_added)
		SELECT $1, $3, g.digest, g.id, $4 `+staged+`JOIN manifest m ON m.id = g.manifest_id WHERE s.task_id = $2 AND EXISTS (
			SELECT 1 FROM repository_content c WHERE c.repository_id = $1 AND c.kind = $5 AND c.key = m.digest AND c.version_removed IS NULL) AND NOT EXISTS (
			SELECT 1 FROM repository_content c WHERE c.repository_id = $1 AND c.kind = $3 AND c.key = g.digest AND c.version_removed IS NULL)`,
		c.Repo.ID, taskID, pulp.KindSignature, c.Number, pulp.KindManifest)
	if err != nil {
		return err
	}
	c.Count(pulp.KindSignature, n, n, 0)
	_, err = c.Tx.Exec(`DELETE FROM unversioned_content WHERE task_id = $1`, taskID)
	return err
}
