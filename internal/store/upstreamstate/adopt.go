package upstreamstate

import (
	"context"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/content"
	"github.com/countersign/countersign/internal/store/sqldb"
)

// UpstreamTag is a tag as this registry knows it, to be held against what the upstream shows.
type UpstreamTag struct {
	Name string
	Here digest.Digest   // what it stands for in the latest version; empty: it is not there
	Late []digest.Digest // what a write of ours that may still arrive would have it stand for; an empty one: a deletion
	// Undeleted is what the upstream goes on showing though it is gone here: it does not delete.
	Undeleted []digest.Digest
	Dirty     bool // it is about to be written through
	// Attempts is how often the upstream refused it since it changed.
	Attempts int
	Serial   int64 // counts its changes here; 0 for one that never had any
}

// UpstreamTag returns a tag of a repository, whether that has it or not.
func (s *Store) UpstreamTag(ctx context.Context, repositoryID, name string) (UpstreamTag, error) {
	tags, err := s.upstreamTags(ctx, repositoryID, ` AND name = $3`, name)
	t := tags[name]
	t.Name = name
	return t, err
}

// UpstreamTags returns the tags that a repository has or has written through, by name.
func (s *Store) UpstreamTags(ctx context.Context, repositoryID string) (map[string]UpstreamTag, error) {
	return s.upstreamTags(ctx, repositoryID, "")
}

func (s *Store) upstreamTags(ctx context.Context, repositoryID, which string, name ...any) (map[string]UpstreamTag, error) {
	all, err := sqldb.Collect(ctx, s.db.Read(), func(row sqldb.Scanner) (UpstreamTag, error) {
		var t UpstreamTag
		err := row.Scan(&t.Name, &t.Here, &t.Dirty, &t.Attempts, &t.Serial)
		return t, err
	}, `
		SELECT n.name, COALESCE(m.digest, ''), COALESCE(u.dirty, FALSE), COALESCE(u.attempts, 0), COALESCE(u.serial, 0)
		  FROM (SELECT key AS name FROM repository_content WHERE repository_id = $1 AND kind = $2 AND version_removed IS NULL`+strings.ReplaceAll(which, "name", "key")+`
		        UNION SELECT name FROM upstream_tag WHERE repository_id = $1`+which+`) n
		  LEFT JOIN repository_content c ON c.repository_id = $1 AND c.kind = $2 AND c.key = n.name AND c.version_removed IS NULL
		  LEFT JOIN tag t ON t.id = c.content_id
		  LEFT JOIN manifest m ON m.id = t.manifest_id
		  LEFT JOIN upstream_tag u ON u.repository_id = $1 AND u.name = n.name`, append([]any{repositoryID, pulp.KindTag}, name...)...)
	if err != nil {
		return nil, err
	}
	tags := make(map[string]UpstreamTag, len(all))
	for _, t := range all {
		tags[t.Name] = t
	}
	type stale struct {
		name   string
		digest digest.Digest
		ends   int64
	}
	shown, err := sqldb.Collect(ctx, s.db.Read(), func(row sqldb.Scanner) (stale, error) {
		var w stale
		err := row.Scan(&w.name, &w.digest, &w.ends)
		return w, err
	}, `SELECT name, digest, ends FROM upstream_stale WHERE repository_id = $1 AND ends >= $2`+which, append([]any{repositoryID, sqldb.Micros(s.db.Now())}, name...)...)
	for _, w := range shown {
		t := tags[w.name]
		if t.Name = w.name; w.ends == forever {
			t.Undeleted = append(t.Undeleted, w.digest)
		} else {
			t.Late = append(t.Late, w.digest)
		}
		tags[w.name] = t
	}
	return tags, err
}

// Ours says whether the upstream may show this by what we did there, though it is ours no more.
func (t UpstreamTag) Ours(d digest.Digest) bool {
	return slices.Contains(t.Late, d) || slices.Contains(t.Undeleted, d)
}

// Adopted is what the upstream shows and a repository shall have. The manifests were fetched, with all that they name.
type Adopted struct {
	RepositoryID string
	Tags         map[string]AdoptedTag
	Manifests    []digest.Digest // without a tag
	Attached     []digest.Digest // what refers to others: it comes where those come or are
}

// AdoptedTag is what a tag stands for upstream, and the serial that it had here before the upstream was asked. One that has changed since is left out.
type AdoptedTag struct {
	Digest digest.Digest
	Serial int64
}

// CommitAdopted makes a version of what was adopted, nil when nothing changed. The tags count as written: they are upstream.
func (s *Store) CommitAdopted(ctx context.Context, a Adopted) (*pulp.Version, error) {
	var v *pulp.Version
	err := s.content.InTx(ctx, func(t *content.Tx) error {
		c, err := t.Begin(a.RepositoryID)
		if err != nil {
			return err
		}
		wanted, err := unchanged(c, a.Tags)
		if err != nil {
			return err
		}
		w := content.Synced{RepositoryID: a.RepositoryID, Tags: wanted, Manifests: a.Manifests}
		if err := sqldb.Steps(c.Gather, func() error { return c.GatherSynced(w) }, func() error { return gatherAttached(c, a.Attached) }, c.AddGathered); err != nil {
			return err
		}
		for name := range wanted {
			if _, err := t.Exec(`
				INSERT INTO upstream_tag (repository_id, name, dirty) VALUES ($1, $2, FALSE)
				ON CONFLICT (repository_id, name) DO UPDATE SET dirty = FALSE`, a.RepositoryID, name); err != nil {
				return err
			}
			if err := dropStale(t, a.RepositoryID, name); err != nil {
				return err
			}
		}
		v, err = c.End()
		return err
	})
	return v, err
}

// gatherAttached gathers those of some fetched manifests whose subjects are gathered, or in the latest version.
func gatherAttached(c *content.Change, manifests []digest.Digest) error {
	if len(manifests) == 0 {
		return nil
	}
	where := content.HeldOrFetched(c.Repo.ID)
	for { // what refers to what refers to an image, too
		n, err := c.Tx.Exec(`
			INSERT INTO change_unit (kind, key, content_id)
			SELECT CAST($1 AS BIGINT), u.digest, u.id FROM manifest u
			 WHERE u.digest IN (SELECT j.value FROM json_each($2) j) AND NOT EXISTS (SELECT 1 FROM change_unit d WHERE d.kind = $4 AND d.key = u.digest)
			   AND (EXISTS (SELECT 1 FROM change_unit s WHERE s.kind = $4 AND s.key = u.subject)
			        OR EXISTS (SELECT 1 FROM repository_content h WHERE h.repository_id = $3 AND h.kind = $4 AND h.key = u.subject AND h.version_removed IS NULL))
			   AND `+where.Condition, append([]any{pulp.KindManifest, sqldb.ToJSON(manifests)}, append(where.Args, pulp.KindManifest)...)...)
		if err != nil {
			return err
		}
		if n == 0 {
			return sqldb.Steps(func() error { return c.GatherTree(where) }, c.CheckGathered)
		}
	}
}

// unchanged returns the tags that have not changed here since their serials were read, and are not about to be written through.
func unchanged(c *content.Change, tags map[string]AdoptedTag) (map[string]digest.Digest, error) {
	type row struct {
		name   string
		serial int64
		dirty  bool
	}
	rows, err := sqldb.Collect(c.Tx.Ctx, c.Tx, func(s sqldb.Scanner) (row, error) {
		var r row
		err := s.Scan(&r.name, &r.serial, &r.dirty)
		return r, err
	}, `SELECT name, serial, dirty FROM upstream_tag WHERE repository_id = $1`, c.Repo.ID)
	if err != nil {
		return nil, err
	}
	wanted := make(map[string]digest.Digest, len(tags))
	for name, t := range tags {
		wanted[name] = t.Digest
	}
	known := map[string]bool{}
	for _, r := range rows {
		known[r.name] = true
		if t, asked := tags[r.name]; asked && (r.dirty || r.serial != t.Serial) {
			delete(wanted, r.name)
		}
	}
	for name, t := range tags {
		if t.Serial != 0 && !known[name] {
			delete(wanted, name)
		}
	}
	return wanted, nil
}

// RewriteTag has a tag written through again.
func (s *Store) RewriteTag(ctx context.Context, repositoryID, name string) error {
	return s.content.InTx(ctx, func(t *content.Tx) error {
		return t.RecordTags(`VALUES ($1, $2)`, repositoryID, name)
	})
}
