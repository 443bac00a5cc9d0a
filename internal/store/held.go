package store

import (
	"context"
	"database/sql"
	"errors"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/pulp"
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
