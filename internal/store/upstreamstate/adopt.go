package upstreamstate

import (
	"context"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/content"
	"github.com/countersign/countersign/internal/store/sqldb"
)

// Adopted is content of the upstream for a repository. All manifests have been fetched, with the content that they
// reference.
type Adopted struct {
	RepositoryID string
	Tags         map[string]AdoptedTag
	Manifests    []digest.Digest // without a tag
	Attached     []digest.Digest // referrers; added only if their subject is in the repository or is added too
}

// AdoptedTag is a tag of the upstream.
type AdoptedTag struct {
	Digest digest.Digest
	Serial int64 // UpstreamTag.Serial before the upstream was asked; a tag that has changed since is not adopted
}

// CommitAdopted adds adopted content to a repository and returns the new version, nil if nothing changed. The adopted tags
// leave the outbox, because the upstream has them.
func (s *Store) CommitAdopted(ctx context.Context, a Adopted) (*pulp.Version, error) {
	return content.InTx(ctx, s.content, func(t *content.Tx) (*pulp.Version, error) {
		c, err := t.Begin(a.RepositoryID)
		if err != nil {
			return nil, err
		}
		tags, err := unchanged(c, a.Tags)
		if err != nil {
			return nil, err
		}
		synced := content.Synced{RepositoryID: a.RepositoryID, Tags: tags, Manifests: a.Manifests}
		err = sqldb.Steps(c.Gather,
			func() error { return c.GatherSynced(synced) },
			func() error { return gatherAttached(c, a.Attached) },
			c.AddGathered,
			func() error { return markAdopted(t, a.RepositoryID, tags) })
		if err != nil {
			return nil, err
		}
		return c.End()
	})
}

// markAdopted removes adopted tags from the outbox.
func markAdopted(t *content.Tx, repositoryID string, tags map[string]digest.Digest) error {
	for name := range tags {
		if _, err := t.Exec(`
			INSERT INTO upstream_tag (repository_id, name, dirty) VALUES ($1, $2, FALSE)
			ON CONFLICT (repository_id, name) DO UPDATE SET dirty = FALSE`, repositoryID, name); err != nil {
			return err
		}
		if err := dropStale(t.Tx, repositoryID, name); err != nil {
			return err
		}
	}
	return nil
}

// gatherAttached gathers fetched referrers whose subject is gathered or in the latest version, and their content. It repeats
// that until it finds none, because a referrer may be the subject of another one.
func gatherAttached(c *content.Change, referrers []digest.Digest) error {
	if len(referrers) == 0 {
		return nil
	}
	where := content.HeldOrFetched(c.Repo.ID)
	args := append([]any{pulp.KindManifest, sqldb.ToJSON(referrers)}, append(where.Args, pulp.KindManifest)...)
	for {
		n, err := c.Tx.Exec(`
			INSERT INTO change_unit (kind, key, content_id)
			SELECT CAST($1 AS BIGINT), u.digest, u.id FROM manifest u
			 WHERE u.digest IN (SELECT j.value FROM json_each($2) j)
			   AND NOT EXISTS (SELECT 1 FROM change_unit d WHERE d.kind = $4 AND d.key = u.digest)
			   AND (EXISTS (SELECT 1 FROM change_unit s WHERE s.kind = $4 AND s.key = u.subject)
			        OR EXISTS (SELECT 1 FROM repository_content h
			                    WHERE h.repository_id = $3 AND h.kind = $4 AND h.key = u.subject AND h.version_removed IS NULL))
			   AND `+where.Condition, args...)
		if err != nil {
			return err
		}
		if n == 0 {
			return sqldb.Steps(func() error { return c.GatherTree(where) }, c.CheckGathered)
		}
	}
}

// tagChange is the number of changes of a tag, and whether it is in the outbox.
type tagChange struct {
	name   string
	serial int64
	dirty  bool
}

func scanTagChange(row sqldb.Scanner) (tagChange, error) {
	var c tagChange
	err := row.Scan(&c.name, &c.serial, &c.dirty)
	return c, err
}

// unchanged returns the digests of the tags that have not changed since their serials were read and are not in the outbox.
func unchanged(c *content.Change, tags map[string]AdoptedTag) (map[string]digest.Digest, error) {
	changes, err := sqldb.Collect(c.Tx.Ctx, c.Tx, scanTagChange,
		`SELECT name, serial, dirty FROM upstream_tag WHERE repository_id = $1`, c.Repo.ID)
	if err != nil {
		return nil, err
	}
	now := make(map[string]tagChange, len(changes))
	for _, change := range changes {
		now[change.name] = change
	}
	same := make(map[string]digest.Digest, len(tags))
	for name, t := range tags {
		if change := now[name]; !change.dirty && change.serial == t.Serial {
			same[name] = t.Digest
		}
	}
	return same, nil
}
