package upstreamstate

import (
	"context"
	"database/sql"
	"errors"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/record"
	"github.com/countersign/countersign/internal/store/sqldb"
)

// KnownManifest is a manifest in a version of a repository.
type KnownManifest struct {
	Digest    digest.Digest
	MediaType string
	Payload   []byte
}

// HeldManifest returns a manifest and reports whether any version of the repository has it.
func (s *Store) HeldManifest(ctx context.Context, repositoryID string, d digest.Digest) (KnownManifest, bool, error) {
	m := KnownManifest{Digest: d}
	err := s.db.Read().QueryRowContext(ctx, `
		SELECT m.media_type, m.payload FROM manifest m WHERE m.digest = $1 AND EXISTS (
			SELECT 1 FROM repository_content c WHERE c.repository_id = $2 AND c.kind = $3 AND c.key = m.digest)`,
		d, repositoryID, pulp.KindManifest).Scan(&m.MediaType, &m.Payload)
	if errors.Is(err, sql.ErrNoRows) {
		return m, false, nil
	}
	return m, err == nil, err
}

// HadManifest reports whether any version of a repository has a manifest, or the manifest left the last version that had it
// while the outbox was enabled.
func (s *Store) HadManifest(ctx context.Context, repositoryID string, d digest.Digest) (bool, error) {
	var had bool
	err := s.db.Read().QueryRowContext(ctx, `
		SELECT EXISTS (SELECT 1 FROM repository_content c WHERE c.repository_id = $1 AND c.kind = $2 AND c.key = $3)
		    OR EXISTS (SELECT 1 FROM upstream_removed f WHERE f.repository_id = $1 AND f.digest = $3)`,
		repositoryID, pulp.KindManifest, d).Scan(&had)
	return had, err
}

// HeldManifests returns the digests of the manifests in any version of a repository.
func (s *Store) HeldManifests(ctx context.Context, repositoryID string) ([]digest.Digest, error) {
	return sqldb.Collect(ctx, s.db.Read(), record.ScanDigest,
		`SELECT DISTINCT key FROM repository_content WHERE repository_id = $1 AND kind = $2 ORDER BY key`, repositoryID, pulp.KindManifest)
}

// HeldBlobs returns the blobs in any version of a repository whose bytes are in the storage, not in the database.
func (s *Store) HeldBlobs(ctx context.Context, repositoryID string) ([]pulp.Blob, error) {
	return sqldb.Collect(ctx, s.db.Read(), record.ScanBlob, `
		SELECT DISTINCT `+record.BlobColumns+` FROM repository_content c JOIN blob b ON b.id = c.content_id
		 WHERE c.repository_id = $1 AND c.kind = $2 AND NOT b.absent AND b.data IS NULL ORDER BY b.digest`, repositoryID, pulp.KindBlob)
}

// Pin is a manifest that a hidden tag protects from the upstream's garbage collection.
type Pin struct {
	RepositoryID string
	Repository   string // its name
	Digest       digest.Digest
}

func scanPin(row sqldb.Scanner) (Pin, error) {
	var p Pin
	err := row.Scan(&p.RepositoryID, &p.Repository, &p.Digest)
	return p, err
}

// PinManifest records that the upstream has a pin. It does nothing if the repository was renamed in the meantime.
func (s *Store) PinManifest(ctx context.Context, p Pin) error {
	return s.db.InTx(ctx, func(t *sqldb.Tx) error {
		_, err := t.Exec(`
			INSERT INTO upstream_keep (repository_id, digest)
			SELECT id, CAST($2 AS TEXT) FROM repository WHERE id = $1 AND name = $3`+t.Dialect.ForUpdate+`
			ON CONFLICT DO NOTHING`, p.RepositoryID, p.Digest, p.Repository)
		return err
	})
}

// Unpinned returns at most limit manifests that a version has and the upstream's garbage collection may delete: that have
// neither a tag in the latest version nor a pin, and are in no index of the repository. An empty repositoryID stands for all
// repositories.
func (s *Store) Unpinned(ctx context.Context, repositoryID string, limit int) ([]Pin, error) {
	return sqldb.Collect(ctx, s.db.Read(), scanPin, `
		SELECT DISTINCT h.repository_id, r.name, h.key FROM repository_content h JOIN repository r ON r.id = h.repository_id
		 WHERE h.kind = $1 AND (h.repository_id = $2 OR $2 = '')
		   AND NOT EXISTS (SELECT 1 FROM upstream_keep k WHERE k.repository_id = h.repository_id AND k.digest = h.key)
		   AND NOT EXISTS (SELECT 1 FROM tag t JOIN repository_content c ON c.content_id = t.id
		                      AND c.repository_id = h.repository_id AND c.kind = $3 AND c.version_removed IS NULL
		                    WHERE t.manifest_id = h.content_id)
		   AND NOT EXISTS (SELECT 1 FROM manifest_child e JOIN repository_content l ON l.content_id = e.manifest_id
		                      AND l.repository_id = h.repository_id AND l.kind = $1
		                    WHERE e.digest = h.key)
		 LIMIT $4`, pulp.KindManifest, repositoryID, pulp.KindTag, limit)
}

// StalePins returns at most limit pins of manifests that are in no version any more.
func (s *Store) StalePins(ctx context.Context, limit int) ([]Pin, error) {
	return sqldb.Collect(ctx, s.db.Read(), scanPin, `
		SELECT k.repository_id, r.name, k.digest FROM upstream_keep k JOIN repository r ON r.id = k.repository_id
		 WHERE NOT EXISTS (SELECT 1 FROM repository_content c
		                    WHERE c.repository_id = k.repository_id AND c.kind = $1 AND c.key = k.digest)
		 LIMIT $2`, pulp.KindManifest, limit)
}

// RemovePin records that a pin was removed from the upstream.
func (s *Store) RemovePin(ctx context.Context, p Pin) error {
	return s.db.InTx(ctx, func(t *sqldb.Tx) error {
		_, err := t.Exec(`DELETE FROM upstream_keep WHERE repository_id = $1 AND digest = $2`, p.RepositoryID, p.Digest)
		return err
	})
}

// MissingUpstream is the content that a manifest references and that the upstream may lack under the repository's name.
type MissingUpstream struct {
	Blobs    []pulp.Blob     // stored under other names
	Children []digest.Digest // manifests of the repository
}

// MissingUpstream returns the content of a repository that one of its manifests references and that is not known to be
// upstream under the name within.
func (s *Store) MissingUpstream(ctx context.Context, repositoryID string, d digest.Digest, within string) (MissingUpstream, error) {
	var missing MissingUpstream
	var err error
	missing.Blobs, err = sqldb.Collect(ctx, s.db.Read(), record.ScanBlob, `
		SELECT DISTINCT `+record.BlobColumns+`
		  FROM manifest m JOIN manifest_blob mb ON mb.manifest_id = m.id JOIN blob b ON b.digest = mb.digest
		  JOIN repository_content c ON c.repository_id = $2 AND c.kind = $3 AND c.key = mb.digest
		 WHERE m.digest = $1 AND b.data IS NULL AND NOT b.absent AND b.location <> $4`, d, repositoryID, pulp.KindBlob, within)
	if err != nil {
		return missing, err
	}
	missing.Children, err = sqldb.Collect(ctx, s.db.Read(), record.ScanDigest, `
		SELECT DISTINCT e.digest FROM manifest m JOIN manifest_child e ON e.manifest_id = m.id
		  JOIN repository_content c ON c.repository_id = $2 AND c.kind = $3 AND c.key = e.digest
		 WHERE m.digest = $1`, d, repositoryID, pulp.KindManifest)
	return missing, err
}
