package store

import (
	"context"
	"database/sql"
	"errors"
	"slices"
	"strings"
	"time"

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

// Drift is one difference between a repository and the upstream.
type Drift struct {
	RepositoryID string
	Repository   string
	Type         pulp.RepositoryType
	Kind         string        // tag, manifest, blob
	Name         string        // of the tag; the digest of the others
	Here         digest.Digest // empty: not here
	Upstream     digest.Digest // empty: not there
	Note         string        // what becomes of it
	Found        time.Time
}

// Compared writes down in what the upstream differs from a repository, in the place of what was found before: of all of it when the comparison was deep, else of tags.
// It returns what was not known before; what was keeps the time when it was found.
func (s *Store) Compared(ctx context.Context, repositoryID string, deep bool, found []Drift) (fresh []Drift, err error) {
	err = s.inTx(ctx, func(t *tx) error {
		before, err := collect(t.ctx, t, func(row scanner) (Drift, error) {
			var d Drift
			return d, row.Scan(&d.Kind, &d.Name, &d.Here, &d.Upstream, &d.Note)
		}, `SELECT kind, name, here, upstream, note FROM upstream_drift WHERE repository_id = $1 AND (kind = 'tag' OR $2)`, repositoryID, deep)
		if err != nil {
			return err
		}
		known := make(map[Drift]bool, len(before))
		for _, d := range before {
			known[d] = true
		}
		fresh = nil
		for _, d := range found {
			plain := Drift{Kind: d.Kind, Name: d.Name, Here: d.Here, Upstream: d.Upstream, Note: d.Note}
			if known[plain] {
				delete(known, plain)
			} else {
				fresh = append(fresh, d)
			}
		}
		for d := range known {
			if _, err := t.exec(`DELETE FROM upstream_drift WHERE repository_id = $1 AND kind = $2 AND name = $3`, repositoryID, d.Kind, d.Name); err != nil {
				return err
			}
		}
		for _, d := range fresh {
			if _, err := t.exec(`
				INSERT INTO upstream_drift (repository_id, kind, name, here, upstream, note, found)
				SELECT id, CAST($2 AS TEXT), CAST($3 AS TEXT), CAST($4 AS TEXT), CAST($5 AS TEXT), CAST($6 AS TEXT), CAST($7 AS BIGINT) FROM repository WHERE id = $1
				ON CONFLICT DO NOTHING`, repositoryID, d.Kind, d.Name, d.Here, d.Upstream, d.Note, t.now); err != nil {
				return err
			}
		}
		return nil
	})
	return fresh, err
}

// HadTurn notes that a repository had its turn to be compared, whatever came of it.
func (s *Store) HadTurn(ctx context.Context, repositoryID string) error {
	return s.inTx(ctx, func(t *tx) error {
		_, err := t.exec(`UPDATE repository SET compared = $2 WHERE id = $1`, repositoryID, t.now)
		return err
	})
}

// Drifts returns what was found, by repository, kind and name, and how much there is in all.
func (s *Store) Drifts(ctx context.Context, limit, offset int) ([]Drift, int64, error) {
	var count int64
	if err := s.read.QueryRowContext(ctx, `SELECT COUNT(*) FROM upstream_drift`).Scan(&count); err != nil {
		return nil, 0, err
	}
	found, err := collect(ctx, s.read, func(row scanner) (Drift, error) {
		var d Drift
		var at int64
		err := row.Scan(&d.RepositoryID, &d.Repository, &d.Type, &d.Kind, &d.Name, &d.Here, &d.Upstream, &d.Note, &at)
		d.Found = time.UnixMicro(at)
		return d, err
	}, `
		SELECT r.id, r.name, r.type, d.kind, d.name, d.here, d.upstream, d.note, d.found
		  FROM upstream_drift d JOIN repository r ON r.id = d.repository_id ORDER BY r.name, d.kind, d.name LIMIT $1 OFFSET $2`, limit, offset)
	return found, count, err
}

// LeastCompared returns the repositories whose last turn to be compared with the upstream was before a time, longest ago first, at most limit.
func (s *Store) LeastCompared(ctx context.Context, before time.Time, limit int) ([]pulp.Repository, error) {
	return collect(ctx, s.read, scanRepository, `
		SELECT `+repositoryColumns+` FROM repository r WHERE r.compared < $1 ORDER BY r.compared, r.id LIMIT $2`, before.UnixMicro(), limit)
}

// RepositoryByName returns the repository with this name. NotFound when there is none.
func (s *Store) RepositoryByName(ctx context.Context, name string) (pulp.Repository, error) {
	r, err := scanRepository(s.read.QueryRowContext(ctx, `SELECT `+repositoryColumns+` FROM repository r WHERE r.name = $1`, name))
	return r, notFound(err, "Repository not found.")
}

// KnownManifest is a manifest that some version of a repository holds.
type KnownManifest struct {
	Digest    digest.Digest
	MediaType string
	Payload   []byte
}

// HeldManifest returns a manifest that any version of a repository holds; false when none does.
func (s *Store) HeldManifest(ctx context.Context, repositoryID string, d digest.Digest) (KnownManifest, bool, error) {
	m := KnownManifest{Digest: d}
	err := s.read.QueryRowContext(ctx, `
		SELECT m.media_type, m.payload FROM manifest m WHERE m.digest = $1 AND EXISTS (
			SELECT 1 FROM repository_content c WHERE c.repository_id = $2 AND c.kind = $3 AND c.key = m.digest)`, d, repositoryID, pulp.KindManifest).Scan(&m.MediaType, &m.Payload)
	if errors.Is(err, sql.ErrNoRows) {
		return m, false, nil
	}
	return m, err == nil, err
}

// HadManifest says whether a repository has or had a manifest: a version holds it, or it was taken out before the last version that did was dropped.
func (s *Store) HadManifest(ctx context.Context, repositoryID string, d digest.Digest) (bool, error) {
	var had bool
	err := s.read.QueryRowContext(ctx, `
		SELECT EXISTS (SELECT 1 FROM repository_content c WHERE c.repository_id = $1 AND c.kind = $2 AND c.key = $3)
		    OR EXISTS (SELECT 1 FROM upstream_removed f WHERE f.repository_id = $1 AND f.digest = $3)`, repositoryID, pulp.KindManifest, d).Scan(&had)
	return had, err
}

// noteRemoved notes, in front of an upstream, the manifests of those rows of repository_content that are about to go for good.
func (t *tx) noteRemoved(repositoryID, rows string, args ...any) error {
	if !t.outbox {
		return nil
	}
	_, err := t.exec(`
		INSERT INTO upstream_removed (repository_id, digest)
		SELECT DISTINCT c.repository_id, c.key FROM repository_content c WHERE c.repository_id = $1 AND c.kind = $2 AND `+rows+` ON CONFLICT DO NOTHING`,
		append([]any{repositoryID, pulp.KindManifest}, args...)...)
	return err
}

// noteRemovedPending notes one that no version ever held.
func (t *tx) noteRemovedPending(repositoryID, dgst string) error {
	if !t.outbox {
		return nil
	}
	_, err := t.exec(`INSERT INTO upstream_removed (repository_id, digest) VALUES ($1, $2) ON CONFLICT DO NOTHING`, repositoryID, dgst)
	return err
}

// HeldManifests returns the digests of the manifests that a repository holds in any version.
func (s *Store) HeldManifests(ctx context.Context, repositoryID string) ([]digest.Digest, error) {
	return collect(ctx, s.read, scanDigest, `SELECT DISTINCT key FROM repository_content WHERE repository_id = $1 AND kind = $2 ORDER BY key`, repositoryID, pulp.KindManifest)
}

// HeldBlobs returns the blobs that a repository holds in any version and whose bytes lie in the storage.
func (s *Store) HeldBlobs(ctx context.Context, repositoryID string) ([]pulp.Blob, error) {
	return collect(ctx, s.read, scanBlob, `
		SELECT DISTINCT `+blobColumns+` FROM repository_content c JOIN blob b ON b.id = c.content_id
		 WHERE c.repository_id = $1 AND c.kind = $2 AND NOT b.absent AND b.data IS NULL ORDER BY b.digest`, repositoryID, pulp.KindBlob)
}

// KeptManifest notes that a hidden tag keeps a manifest alive upstream, under the repository's name if that is still its name.
func (s *Store) KeptManifest(ctx context.Context, k Kept) error {
	return s.inTx(ctx, func(t *tx) error {
		_, err := t.exec(`INSERT INTO upstream_keep (repository_id, digest) SELECT id, CAST($2 AS TEXT) FROM repository WHERE id = $1 AND name = $3`+t.dialect.forUpdate+
			` ON CONFLICT DO NOTHING`, k.RepositoryID, k.Digest, k.Repository)
		return err
	})
}

// Kept is a manifest that a hidden tag keeps alive upstream.
type Kept struct {
	RepositoryID, Repository string
	Digest                   digest.Digest
}

// Unkept returns manifests that versions hold and that nothing keeps alive upstream: no tag there stands for one of them, nor for a list with it, and no hidden tag; of all
// repositories, or of the one with this id. At most limit.
func (s *Store) Unkept(ctx context.Context, repositoryID string, limit int) ([]Kept, error) {
	return collect(ctx, s.read, scanKept, `
		SELECT DISTINCT h.repository_id, r.name, h.key FROM repository_content h JOIN repository r ON r.id = h.repository_id
		 WHERE h.kind = $1 AND (h.repository_id = $2 OR $2 = '')
		   AND NOT EXISTS (SELECT 1 FROM upstream_keep k WHERE k.repository_id = h.repository_id AND k.digest = h.key)
		   AND NOT EXISTS (SELECT 1 FROM tag t JOIN repository_content c ON c.content_id = t.id AND c.repository_id = h.repository_id AND c.kind = $3 AND c.version_removed IS NULL
		                    WHERE t.manifest_id = h.content_id)
		   AND NOT EXISTS (SELECT 1 FROM manifest_child e JOIN repository_content l ON l.content_id = e.manifest_id AND l.repository_id = h.repository_id AND l.kind = $1
		                    WHERE e.digest = h.key)
		 LIMIT $4`, pulp.KindManifest, repositoryID, pulp.KindTag, limit)
}

func scanKept(row scanner) (Kept, error) {
	var k Kept
	err := row.Scan(&k.RepositoryID, &k.Repository, &k.Digest)
	return k, err
}

// Elsewhere is what a manifest names and what may not lie upstream under its repository's name yet.
type Elsewhere struct {
	Blobs    []pulp.Blob     // that lie under other names
	Children []digest.Digest // manifests that the repository holds
}

// Elsewhere returns what a manifest of a repository names that is not known to lie upstream under within.
func (s *Store) Elsewhere(ctx context.Context, repositoryID string, d digest.Digest, within string) (e Elsewhere, err error) {
	e.Blobs, err = collect(ctx, s.read, scanBlob, `
		SELECT DISTINCT `+blobColumns+` FROM manifest m JOIN manifest_blob mb ON mb.manifest_id = m.id JOIN blob b ON b.digest = mb.digest
		  JOIN repository_content c ON c.repository_id = $2 AND c.kind = $3 AND c.key = mb.digest
		 WHERE m.digest = $1 AND b.data IS NULL AND NOT b.absent AND b.location <> $4`, d, repositoryID, pulp.KindBlob, within)
	if err != nil {
		return e, err
	}
	e.Children, err = collect(ctx, s.read, scanDigest, `
		SELECT DISTINCT e.digest FROM manifest m JOIN manifest_child e ON e.manifest_id = m.id
		  JOIN repository_content c ON c.repository_id = $2 AND c.kind = $3 AND c.key = e.digest WHERE m.digest = $1`, d, repositoryID, pulp.KindManifest)
	return e, err
}

// NeedlesslyKept returns manifests that a hidden tag keeps alive upstream and no version holds any more, at most limit.
func (s *Store) NeedlesslyKept(ctx context.Context, limit int) ([]Kept, error) {
	return collect(ctx, s.read, scanKept, `
		SELECT k.repository_id, r.name, k.digest FROM upstream_keep k JOIN repository r ON r.id = k.repository_id
		 WHERE NOT EXISTS (SELECT 1 FROM repository_content c WHERE c.repository_id = k.repository_id AND c.kind = $1 AND c.key = k.digest) LIMIT $2`, pulp.KindManifest, limit)
}

// ForgetKept notes that a hidden tag is gone.
func (s *Store) ForgetKept(ctx context.Context, k Kept) error {
	return s.inTx(ctx, func(t *tx) error {
		_, err := t.exec(`DELETE FROM upstream_keep WHERE repository_id = $1 AND digest = $2`, k.RepositoryID, k.Digest)
		return err
	})
}

// errMirrored is why the upstream's own changes do not enter a mirror: its remote says what it holds.
var errMirrored = fault.New(fault.Conflict, "The repository mirrors a remote.")

// AdoptTarget returns the repository into which an upstream's repository of this name is adopted, and whether this call made it: with a distribution of that path, private unless
// public, or under one that serves nothing, as that is. Conflict when the name is a mirror's, or its path serves something else.
func (s *Store) AdoptTarget(ctx context.Context, name string, kind pulp.RepositoryType, public bool) (pulp.Repository, bool, error) {
	r, err := s.RepositoryByName(ctx, name)
	switch {
	case err == nil && r.RemoteID != "":
		return r, false, errMirrored
	case err == nil || !fault.Is(err, fault.NotFound):
		return r, false, err
	}
	var target Target
	made := false
	err = s.inTx(ctx, func(x *tx) error {
		made = false
		if err := x.lockNamed("push " + name); err != nil {
			return err
		}
		var err error
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
