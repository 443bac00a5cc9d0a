package store

import (
	"context"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
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
	all, err := collect(ctx, s.read, func(row scanner) (UpstreamTag, error) {
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
	shown, err := collect(ctx, s.read, func(row scanner) (stale, error) {
		var w stale
		err := row.Scan(&w.name, &w.digest, &w.ends)
		return w, err
	}, `SELECT name, digest, ends FROM upstream_stale WHERE repository_id = $1 AND ends >= $2`+which, append([]any{repositoryID, micros(s.now())}, name...)...)
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
	err := s.inTx(ctx, func(t *tx) error {
		c, err := t.begin(a.RepositoryID)
		if err != nil {
			return err
		}
		wanted, err := c.unchanged(a.Tags)
		if err != nil {
			return err
		}
		w := Synced{RepositoryID: a.RepositoryID, Tags: wanted, Manifests: a.Manifests}
		if err := steps(c.gather, func() error { return c.gatherSynced(w) }, func() error { return c.gatherAttached(a.Attached) }, c.addGathered); err != nil {
			return err
		}
		for name := range wanted {
			if _, err := t.exec(`
				INSERT INTO upstream_tag (repository_id, name, dirty) VALUES ($1, $2, FALSE)
				ON CONFLICT (repository_id, name) DO UPDATE SET dirty = FALSE`, a.RepositoryID, name); err != nil {
				return err
			}
			if err := t.dropStale(a.RepositoryID, name); err != nil {
				return err
			}
		}
		v, err = c.end()
		return err
	})
	return v, err
}

// gatherAttached gathers those of some fetched manifests whose subjects are gathered, or in the latest version.
func (c *change) gatherAttached(manifests []digest.Digest) error {
	if len(manifests) == 0 {
		return nil
	}
	where := heldOrFetched(c.repo.ID)
	for { // what refers to what refers to an image, too
		n, err := c.tx.exec(`
			INSERT INTO change_unit (kind, key, content_id)
			SELECT CAST($1 AS BIGINT), u.digest, u.id FROM manifest u
			 WHERE u.digest IN (SELECT j.value FROM json_each($2) j) AND NOT EXISTS (SELECT 1 FROM change_unit d WHERE d.kind = $4 AND d.key = u.digest)
			   AND (EXISTS (SELECT 1 FROM change_unit s WHERE s.kind = $4 AND s.key = u.subject)
			        OR EXISTS (SELECT 1 FROM repository_content h WHERE h.repository_id = $3 AND h.kind = $4 AND h.key = u.subject AND h.version_removed IS NULL))
			   AND `+where.condition, append([]any{pulp.KindManifest, toJSON(manifests)}, append(where.args, pulp.KindManifest)...)...)
		if err != nil {
			return err
		}
		if n == 0 {
			return steps(func() error { return c.gatherTree(where) }, c.checkGathered)
		}
	}
}

// unchanged returns the tags that have not changed here since their serials were read, and are not about to be written through.
func (c *change) unchanged(tags map[string]AdoptedTag) (map[string]digest.Digest, error) {
	type row struct {
		name   string
		serial int64
		dirty  bool
	}
	rows, err := collect(c.tx.ctx, c.tx, func(s scanner) (row, error) {
		var r row
		err := s.Scan(&r.name, &r.serial, &r.dirty)
		return r, err
	}, `SELECT name, serial, dirty FROM upstream_tag WHERE repository_id = $1`, c.repo.ID)
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
	return s.inTx(ctx, func(t *tx) error {
		_, err := t.exec(noteTags+`VALUES ($1, $2) ON CONFLICT (repository_id, name) DO UPDATE SET `+noted, repositoryID, name)
		return err
	})
}

// RepositoryByName returns the repository with this name. NotFound when there is none.
func (s *Store) RepositoryByName(ctx context.Context, name string) (pulp.Repository, error) {
	return repositoryByName(ctx, s.read, name)
}

func repositoryByName(ctx context.Context, q querier, name string) (pulp.Repository, error) {
	r, err := scanRepository(q.QueryRowContext(ctx, `SELECT `+repositoryColumns+` FROM repository r WHERE r.name = $1`, name))
	return r, notFound(err, "Repository not found.")
}

// adoptable returns the repository with this name. Conflict when it is a mirror, NotFound when there is none.
func adoptable(ctx context.Context, q querier, name string) (pulp.Repository, error) {
	r, err := repositoryByName(ctx, q, name)
	if err == nil && r.RemoteID != "" {
		err = errMirrored
	}
	return r, err
}

// NameTaken reports whether a distribution has a path, or a repository has it as its name.
func (s *Store) NameTaken(ctx context.Context, path string) (bool, error) {
	var taken bool
	err := s.read.QueryRowContext(ctx, `
		SELECT EXISTS (SELECT 1 FROM distribution WHERE base_path = $1) OR EXISTS (SELECT 1 FROM repository WHERE name = $1)`, path).Scan(&taken)
	return taken, err
}

// errMirrored is why the upstream's own changes do not enter a mirror: its remote says what it holds.
var errMirrored = fault.New(fault.Conflict, "The repository mirrors a remote.")

// AdoptTarget returns the repository into which an upstream's repository of this name is adopted, and whether this call made it: with a distribution of that path, private unless
// public, or under one that serves nothing, as that is. Conflict when the name is a mirror's, or its path serves something else.
func (s *Store) AdoptTarget(ctx context.Context, name string, kind pulp.RepositoryType, public bool) (pulp.Repository, bool, error) {
	r, err := adoptable(ctx, s.read, name)
	if !fault.Is(err, fault.NotFound) {
		return r, false, err
	}
	var target Target
	made := false
	err = s.inTxUnlessTaken(ctx, func(x *tx) error {
		made = false
		if err := x.lockNamed("push " + name); err != nil {
			return err
		}
		var err error
		if target.Repository, err = adoptable(x.ctx, x, name); !fault.Is(err, fault.NotFound) { // made since
			return err
		}
		target, err = resolve(x.ctx, x, name)
		switch {
		case fault.Is(err, fault.NotFound):
			if target, err = x.makePushTarget(name, kind); err == nil && !public {
				_, err = x.exec(`UPDATE distribution SET private = TRUE WHERE id = $1`, target.Distribution.ID)
			}
		case err == nil && !target.Served(): // its repository was deleted
			err = x.linkRepository(&target, kind)
		case err == nil && target.Repository.Name != name:
			return fault.New(fault.Conflict, "The path %s serves another repository.", name)
		default:
			return err
		}
		made = err == nil
		return err
	})
	return target.Repository, made && err == nil, err
}
