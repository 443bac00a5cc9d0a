package content

import (
	"strings"

	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/record"
)

// gather empties the table of gathered units, making it where it is not.
func (c *Change) Gather() error {
	_, err := c.Tx.Exec(`
		CREATE TEMPORARY TABLE IF NOT EXISTS change_unit (kind BIGINT NOT NULL, key TEXT NOT NULL, content_id TEXT NOT NULL, PRIMARY KEY (kind, key))`)
	if err != nil {
		return err
	}
	_, err = c.Tx.Exec(`DELETE FROM change_unit`)
	return err
}

// origin is a condition on what may be gathered: where a unit u must be. Its arguments begin at $3.
type origin struct {
	Condition string
	Args      []any
}

// heldBy is what a version of a repository holds.
func heldBy(repositoryID string, number int64) origin {
	// The plus keeps SQLite from looking through all that the version holds, for each unit.
	return origin{`EXISTS (SELECT 1 FROM repository_content c WHERE c.repository_id = $3 AND c.content_id = u.id
		AND +c.version_added <= $4 AND (c.version_removed IS NULL OR c.version_removed > $4))`, []any{repositoryID, number}}
}

// heldNow is what a repository holds in its latest version.
func heldNow(repositoryID string) origin {
	return origin{`EXISTS (SELECT 1 FROM repository_content c WHERE c.repository_id = $3 AND c.content_id = u.id AND c.version_removed IS NULL)`,
		[]any{repositoryID}}
}

// heldOrFetched is what a repository holds in its latest version, or has fetched for its next one.
func HeldOrFetched(repositoryID string) origin {
	return origin{`(` + heldNow(repositoryID).Condition + ` OR EXISTS (
		SELECT 1 FROM unversioned_content f WHERE ` + record.Fetched("$3") + ` AND f.content_id = u.id))`, []any{repositoryID}}
}

// seenBy is what a user sees in any repository; an empty name is one who sees everything.
func seenBy(username string) origin {
	if username == "" {
		return origin{`EXISTS (SELECT 1 FROM repository_content c WHERE c.content_id = u.id)`, nil}
	}
	return origin{`EXISTS (SELECT 1 FROM repository_content c WHERE c.content_id = u.id AND ` + seenRepositories(username).Condition + `)`, []any{username}}
}

// gatherTree gathers what hangs on the gathered tags and manifests: manifests, the manifests they list, configs and layers, as far as they are
// where they may be taken from.
func (c *Change) GatherTree(where origin) error {
	if err := c.gatherTagged(); err != nil {
		return err
	}
	for { // level by level: lists are rarely nested
		n, err := c.Tx.Exec(`
			INSERT INTO change_unit (kind, key, content_id)
			SELECT DISTINCT CAST($1 AS BIGINT), u.digest, u.id FROM change_unit g JOIN manifest_child mc ON mc.manifest_id = g.content_id JOIN manifest u ON u.digest = mc.digest
			 WHERE g.kind = $2 AND NOT EXISTS (SELECT 1 FROM change_unit d WHERE d.kind = $1 AND d.key = u.digest) AND `+where.Condition,
			append([]any{pulp.KindManifest, pulp.KindManifest}, where.Args...)...)
		if err != nil {
			return err
		}
		if n == 0 {
			return c.gatherBlobs(where)
		}
	}
}

// gatherTagged gathers the manifests that the gathered tags stand for.
func (c *Change) gatherTagged() error {
	_, err := c.Tx.Exec(`
		INSERT INTO change_unit (kind, key, content_id)
		SELECT CAST($1 AS BIGINT), u.digest, u.id FROM change_unit g JOIN tag t ON t.id = g.content_id JOIN manifest u ON u.id = t.manifest_id WHERE g.kind = $2
		ON CONFLICT DO NOTHING`, pulp.KindManifest, pulp.KindTag)
	return err
}

// gatherBlobs gathers the configs and layers of the gathered manifests.
func (c *Change) gatherBlobs(where origin) error {
	_, err := c.Tx.Exec(`
		INSERT INTO change_unit (kind, key, content_id)
		SELECT DISTINCT CAST($1 AS BIGINT), u.digest, u.id FROM change_unit g JOIN manifest_blob mb ON mb.manifest_id = g.content_id JOIN blob u ON u.digest = mb.digest
		 WHERE g.kind = $2 AND NOT u.deleting AND NOT EXISTS (SELECT 1 FROM change_unit d WHERE d.kind = $1 AND d.key = u.digest) AND `+where.Condition,
		append([]any{pulp.KindBlob, pulp.KindManifest}, where.Args...)...)
	return err
}

// seenRepositories is the condition that a row c is of a repository that a user sees; an empty name is one who sees all.
func seenRepositories(username string) origin {
	if username == "" {
		return origin{`TRUE`, nil}
	}
	return origin{`c.repository_id IN (` + strings.ReplaceAll(record.VisibleRepositories, "%s", "$3") + `)`, []any{username}}
}

// addGathered puts all gathered units into the repository, in the place of others under the same keys.
func (c *Change) AddGathered() error {
	const replaced = `
		 WHERE repository_id = $1 AND kind = $2 AND version_removed IS NULL AND EXISTS (
			SELECT 1 FROM change_unit g WHERE g.kind = $2 AND g.key = repository_content.key AND g.content_id <> repository_content.content_id)`
	if err := c.recordGathered(); err != nil {
		return err
	}
	// Only a tag's key can come to stand for another unit; the others' are digests.
	if err := c.takeAway(pulp.KindTag, replaced); err != nil {
		return err
	}
	for _, kind := range pulp.Kinds {
		n, err := c.Tx.Exec(`
			INSERT INTO repository_content (repository_id, kind, key, content_id, version_added)
			SELECT $1, g.kind, g.key, g.content_id, $3 FROM change_unit g
			 WHERE g.kind = $2 AND NOT EXISTS (
				SELECT 1 FROM repository_content c WHERE c.repository_id = $1 AND c.kind = g.kind AND c.key = g.key AND c.version_removed IS NULL)`,
			c.Repo.ID, kind, c.Number)
		if err != nil {
			return err
		}
		c.Count(kind, n, n, 0)
		if kind == pulp.KindTag { // tags are never pending
			continue
		}
		if _, err := c.Tx.Exec(`
			DELETE FROM unversioned_content AS p WHERE `+record.Pending("$1")+` AND p.kind = $2 AND p.key IN (SELECT g.key FROM change_unit g WHERE g.kind = $2)`,
			c.Repo.ID, kind); err != nil {
			return err
		}
	}
	return nil
}

// removeGathered takes all gathered units out of the repository.
func (c *Change) removeGathered() error {
	if err := c.recordGathered(); err != nil {
		return err
	}
	for _, kind := range pulp.Kinds {
		if err := c.takeAway(kind, `
		 WHERE repository_id = $1 AND kind = $2 AND version_removed IS NULL AND key IN (SELECT g.key FROM change_unit g WHERE g.kind = $2)`); err != nil {
			return err
		}
	}
	return nil
}

// keepGathered takes everything else out of the repository.
func (c *Change) keepGathered() error {
	const others = `
		 WHERE repository_id = $1 AND kind = $2 AND version_removed IS NULL AND NOT EXISTS (
			SELECT 1 FROM change_unit g WHERE g.kind = $2 AND g.key = repository_content.key)`
	if err := c.Tx.RecordTags(`SELECT repository_id, key FROM repository_content`+others, c.Repo.ID, pulp.KindTag); err != nil {
		return err
	}
	for _, kind := range pulp.Kinds {
		if err := c.takeAway(kind, others); err != nil {
			return err
		}
	}
	return nil
}

// takeAway takes the units of a kind that a condition names ($1 the repository, $2 the kind) out of the repository. They were there before the
// change began.
func (c *Change) takeAway(kind pulp.Kind, where string) error {
	n, err := c.Tx.Exec(`UPDATE repository_content SET version_removed = $3`+where, c.Repo.ID, kind, c.Number)
	c.Count(kind, -n, 0, n)
	return err
}

// recordTag records a tag of the repository.
func (c *Change) recordTag(name string) error {
	return c.Tx.RecordTags(`VALUES ($1, $2)`, c.Repo.ID, name)
}

// recordGathered records the gathered tags.
func (c *Change) recordGathered() error {
	return c.Tx.RecordTags(`SELECT $1, g.key FROM change_unit g WHERE g.kind = $2`, c.Repo.ID, pulp.KindTag)
}
