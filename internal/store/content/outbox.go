package content

import (
	"fmt"
	"slices"

	"github.com/countersign/countersign/internal/pulp"
)

// In front of an upstream, every change of a tag is recorded in upstream_tag, the outbox, by the transaction that makes it.
// Package upstreamstate reads the outbox. Digests of manifests that leave the last version which held them are recorded in
// upstream_removed, so that no pull by digest adopts them again.

// RecordTags records tags in the outbox, to be written to the upstream. rows is a query of repository ids and tag names: a
// VALUES clause or a SELECT with a WHERE clause.
func (t *Tx) RecordTags(rows string, args ...any) error {
	if !t.store.outbox {
		return nil
	}
	now := fmt.Sprintf("CAST($%d AS BIGINT)", len(args)+1)
	_, err := t.Exec(`INSERT INTO upstream_tag (repository_id, name, since) SELECT w.*, `+now+` FROM (`+rows+`) w WHERE TRUE
		ON CONFLICT (repository_id, name) DO UPDATE SET since = CASE WHEN upstream_tag.dirty THEN upstream_tag.since ELSE excluded.since END,
		dirty = TRUE, attempts = 0, not_before = 0, serial = upstream_tag.serial + 1`, append(slices.Clip(args), t.Now)...)
	return err
}

// MoveUpstream records all tags of a repository whose name upstream has changed. It forgets pending deletions, hidden tags and
// late writes under the old name.
func (t *Tx) MoveUpstream(repositoryID string) error {
	if !t.store.outbox {
		return nil
	}
	if _, err := t.Exec(`UPDATE upstream_tag SET dirty = FALSE, attempts = 0, serial = serial + 1 WHERE repository_id = $1`, repositoryID); err != nil {
		return err
	}
	if err := t.RecordTags(`SELECT repository_id, key FROM repository_content WHERE repository_id = $1 AND kind = $2 AND version_removed IS NULL`,
		repositoryID, pulp.KindTag); err != nil {
		return err
	}
	for _, table := range []string{"upstream_stale", "upstream_keep"} {
		if _, err := t.Exec(`DELETE FROM `+table+` WHERE repository_id = $1`, repositoryID); err != nil {
			return err
		}
	}
	return nil
}

// recordRemoved records the manifests of rows of repository_content that are about to be deleted. rows is a condition on the
// rows c of the repository $1; its arguments begin at $3.
func (t *Tx) recordRemoved(repositoryID, rows string, args ...any) error {
	if !t.store.outbox {
		return nil
	}
	_, err := t.Exec(`
		INSERT INTO upstream_removed (repository_id, digest)
		SELECT DISTINCT c.repository_id, c.key FROM repository_content c WHERE c.repository_id = $1 AND c.kind = $2 AND `+rows+` ON CONFLICT DO NOTHING`,
		append([]any{repositoryID, pulp.KindManifest}, args...)...)
	return err
}

// recordRemovedPending records a pending manifest that is about to be deleted.
func (t *Tx) recordRemovedPending(repositoryID, dgst string) error {
	if !t.store.outbox {
		return nil
	}
	_, err := t.Exec(`INSERT INTO upstream_removed (repository_id, digest) VALUES ($1, $2) ON CONFLICT DO NOTHING`, repositoryID, dgst)
	return err
}
