package content

import (
	"github.com/countersign/countersign/internal/access"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/record"
)

// Gather empties the temporary table change_unit, and creates it if needed. The other gather methods fill it with
// units that AddGathered, removeGathered or keepGathered apply to the repository.
func (c *Change) Gather() error {
	_, err := c.Tx.Exec(`
		CREATE TEMPORARY TABLE IF NOT EXISTS change_unit (kind BIGINT NOT NULL, key TEXT NOT NULL, content_id TEXT NOT NULL, PRIMARY KEY (kind, key))`)
	if err != nil {
		return err
	}
	_, err = c.Tx.Exec(`DELETE FROM change_unit`)
	return err
}

// origin is a condition on the units u that may be gathered. The placeholders of its arguments begin at $3.
type origin struct {
	Condition string
	Args      []any
}

// heldBy selects the units of a version of a repository.
func heldBy(repositoryID string, number int64) origin {
	// The plus keeps SQLite from looking through all that the version holds, for each unit.
	return origin{`EXISTS (SELECT 1 FROM repository_content c WHERE c.repository_id = $3 AND c.content_id = u.id
		AND +c.version_added <= $4 AND (c.version_removed IS NULL OR c.version_removed > $4))`, []any{repositoryID, number}}
}

// heldNow selects the units of the latest version of a repository.
func heldNow(repositoryID string) origin {
	return origin{`EXISTS (SELECT 1 FROM repository_content c WHERE c.repository_id = $3 AND c.content_id = u.id AND c.version_removed IS NULL)`,
		[]any{repositoryID}}
}

// HeldOrFetched selects the units that the latest version of a repository holds or that were fetched for its next
// one.
func HeldOrFetched(repositoryID string) origin {
	return origin{`(` + heldNow(repositoryID).Condition + ` OR EXISTS (
		SELECT 1 FROM unversioned_content f WHERE ` + record.Fetched("$3") + ` AND f.content_id = u.id))`, []any{repositoryID}}
}

// seenBy selects the units that a viewer sees in any repository. A nil viewer sees all units.
func seenBy(v *access.Viewer) origin {
	seen := seenRepositories(v)
	return origin{`EXISTS (SELECT 1 FROM repository_content c WHERE c.content_id = u.id AND ` + seen.Condition + `)`, seen.Args}
}

// GatherTree gathers the content that the gathered tags and manifests refer to: manifests, their children, configs
// and layers. It skips units that do not satisfy the condition where.
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

// gatherTagged gathers the manifests of the gathered tags.
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
		 WHERE g.kind = $2 AND (u.absent OR NOT u.deleting) AND NOT EXISTS (SELECT 1 FROM change_unit d WHERE d.kind = $1 AND d.key = u.digest) AND `+where.Condition,
		append([]any{pulp.KindBlob, pulp.KindManifest}, where.Args...)...)
	return err
}

// seenRepositories is the condition that a viewer sees the repository of a row c. It is always true for a nil viewer.
func seenRepositories(v *access.Viewer) origin {
	if v == nil {
		return origin{`TRUE`, nil}
	}
	args := &record.Args{Taken: 2}
	seen := record.Permitted{Viewer: v, Arg: args.Add}.VisibleRepositories()
	return origin{`c.repository_id IN (` + seen + `)`, args.Values}
}

// AddGathered adds all gathered units to the repository and replaces others under the same keys.
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

// removeGathered removes all gathered units from the repository.
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

// keepGathered removes all other units from the repository.
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

// takeAway removes the units of a kind for which a condition holds ($1 is the repository, $2 the kind). They must
// have been there before the change began.
func (c *Change) takeAway(kind pulp.Kind, where string) error {
	n, err := c.Tx.Exec(`UPDATE repository_content SET version_removed = $3`+where, c.Repo.ID, kind, c.Number)
	c.Count(kind, -n, 0, n)
	return err
}

// recordTag records a tag of the repository in the outbox.
func (c *Change) recordTag(name string) error {
	return c.Tx.RecordTags(`VALUES ($1, $2)`, c.Repo.ID, name)
}

// recordGathered records the gathered tags in the outbox.
func (c *Change) recordGathered() error {
	return c.Tx.RecordTags(`SELECT $1, g.key FROM change_unit g WHERE g.kind = $2`, c.Repo.ID, pulp.KindTag)
}
