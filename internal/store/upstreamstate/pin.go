package upstreamstate

import (
	"context"
	"database/sql"
	"errors"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/content"
	"github.com/countersign/countersign/internal/store/record"
	"github.com/countersign/countersign/internal/store/sqldb"
)

// KnownManifest is a manifest that some version of a repository holds.
type KnownManifest struct {
	Digest    digest.Digest
	MediaType string
	Payload   []byte
}

// HeldManifest returns a manifest that any version of a repository holds; false when none does.
func (s *Store) HeldManifest(ctx context.Context, repositoryID string, d digest.Digest) (KnownManifest, bool, error) {
	m := KnownManifest{Digest: d}
	err := s.db.Read().QueryRowContext(ctx, `
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
	err := s.db.Read().QueryRowContext(ctx, `
		SELECT EXISTS (SELECT 1 FROM repository_content c WHERE c.repository_id = $1 AND c.kind = $2 AND c.key = $3)
		    OR EXISTS (SELECT 1 FROM upstream_removed f WHERE f.repository_id = $1 AND f.digest = $3)`, repositoryID, pulp.KindManifest, d).Scan(&had)
	return had, err
}

// HeldManifests returns the digests of the manifests that a repository holds in any version.
func (s *Store) HeldManifests(ctx context.Context, repositoryID string) ([]digest.Digest, error) {
	return sqldb.Collect(ctx, s.db.Read(), record.ScanDigest, `SELECT DISTINCT key FROM repository_content WHERE repository_id = $1 AND kind = $2 ORDER BY key`, repositoryID, pulp.KindManifest)
}

// HeldBlobs returns the blobs that a repository holds in any version and whose bytes lie in the storage.
func (s *Store) HeldBlobs(ctx context.Context, repositoryID string) ([]pulp.Blob, error) {
	return sqldb.Collect(ctx, s.db.Read(), record.ScanBlob, `
		SELECT DISTINCT `+record.BlobColumns+` FROM repository_content c JOIN blob b ON b.id = c.content_id
		 WHERE c.repository_id = $1 AND c.kind = $2 AND NOT b.absent AND b.data IS NULL ORDER BY b.digest`, repositoryID, pulp.KindBlob)
}

// KeptManifest notes that a hidden tag keeps a manifest alive upstream, under the repository's name if that is still its name.
func (s *Store) PinManifest(ctx context.Context, k Pin) error {
	return s.content.InTx(ctx, func(t *content.Tx) error {
		_, err := t.Exec(`INSERT INTO upstream_keep (repository_id, digest) SELECT id, CAST($2 AS TEXT) FROM repository WHERE id = $1 AND name = $3`+t.Dialect.ForUpdate+
			` ON CONFLICT DO NOTHING`, k.RepositoryID, k.Digest, k.Repository)
		return err
	})
}

// Kept is a manifest that a hidden tag keeps alive upstream.
type Pin struct {
	RepositoryID, Repository string
	Digest                   digest.Digest
}

// Unkept returns manifests that versions hold and that nothing keeps alive upstream: no tag there stands for one of them, nor for a list with it, and no hidden tag; of all
// repositories, or of the one with this id. At most limit.
func (s *Store) Unpinned(ctx context.Context, repositoryID string, limit int) ([]Pin, error) {
	return sqldb.Collect(ctx, s.db.Read(), scanPin, `
		SELECT DISTINCT h.repository_id, r.name, h.key FROM repository_content h JOIN repository r ON r.id = h.repository_id
		 WHERE h.kind = $1 AND (h.repository_id = $2 OR $2 = '')
		   AND NOT EXISTS (SELECT 1 FROM upstream_keep k WHERE k.repository_id = h.repository_id AND k.digest = h.key)
		   AND NOT EXISTS (SELECT 1 FROM tag t JOIN repository_content c ON c.content_id = t.id AND c.repository_id = h.repository_id AND c.kind = $3 AND c.version_removed IS NULL
		                    WHERE t.manifest_id = h.content_id)
		   AND NOT EXISTS (SELECT 1 FROM manifest_child e JOIN repository_content l ON l.content_id = e.manifest_id AND l.repository_id = h.repository_id AND l.kind = $1
		                    WHERE e.digest = h.key)
		 LIMIT $4`, pulp.KindManifest, repositoryID, pulp.KindTag, limit)
}

func scanPin(row sqldb.Scanner) (Pin, error) {
	var k Pin
	err := row.Scan(&k.RepositoryID, &k.Repository, &k.Digest)
	return k, err
}

// Elsewhere is what a manifest names and what may not lie upstream under its repository's name yet.
type MissingUpstream struct {
	Blobs    []pulp.Blob     // that lie under other names
	Children []digest.Digest // manifests that the repository holds
}

// Elsewhere returns what a manifest of a repository names that is not known to lie upstream under within.
func (s *Store) MissingUpstream(ctx context.Context, repositoryID string, d digest.Digest, within string) (e MissingUpstream, err error) {
	e.Blobs, err = sqldb.Collect(ctx, s.db.Read(), record.ScanBlob, `
		SELECT DISTINCT `+record.BlobColumns+` FROM manifest m JOIN manifest_blob mb ON mb.manifest_id = m.id JOIN blob b ON b.digest = mb.digest
		  JOIN repository_content c ON c.repository_id = $2 AND c.kind = $3 AND c.key = mb.digest
		 WHERE m.digest = $1 AND b.data IS NULL AND NOT b.absent AND b.location <> $4`, d, repositoryID, pulp.KindBlob, within)
	if err != nil {
		return e, err
	}
	e.Children, err = sqldb.Collect(ctx, s.db.Read(), record.ScanDigest, `
		SELECT DISTINCT e.digest FROM manifest m JOIN manifest_child e ON e.manifest_id = m.id
		  JOIN repository_content c ON c.repository_id = $2 AND c.kind = $3 AND c.key = e.digest WHERE m.digest = $1`, d, repositoryID, pulp.KindManifest)
	return e, err
}

// NeedlesslyKept returns manifests that a hidden tag keeps alive upstream and no version holds any more, at most limit.
func (s *Store) StalePins(ctx context.Context, limit int) ([]Pin, error) {
	return sqldb.Collect(ctx, s.db.Read(), scanPin, `
		SELECT k.repository_id, r.name, k.digest FROM upstream_keep k JOIN repository r ON r.id = k.repository_id
		 WHERE NOT EXISTS (SELECT 1 FROM repository_content c WHERE c.repository_id = k.repository_id AND c.kind = $1 AND c.key = k.digest) LIMIT $2`, pulp.KindManifest, limit)
}

// ForgetKept notes that a hidden tag is gone.
func (s *Store) RemovePin(ctx context.Context, k Pin) error {
	return s.content.InTx(ctx, func(t *content.Tx) error {
		_, err := t.Exec(`DELETE FROM upstream_keep WHERE repository_id = $1 AND digest = $2`, k.RepositoryID, k.Digest)
		return err
	})
}
