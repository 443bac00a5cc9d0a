package content

import (
	"context"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/record"
	"github.com/countersign/countersign/internal/store/sqldb"
)

// VersionBlobs returns the digests of the blobs of a repository's version. The error is NotFound if there is no such
// version.
func (s *Store) VersionBlobs(ctx context.Context, repositoryID string, number int64) ([]digest.Digest, error) {
	if _, err := s.Version(ctx, repositoryID, number); err != nil {
		return nil, err
	}
	return sqldb.Collect(ctx, s.db.Read(), record.ScanDigest, `SELECT c.key FROM repository_content c WHERE c.repository_id = $1 AND c.kind = $2 AND `+record.InVersion("$3"),
		repositoryID, pulp.KindBlob, number)
}

// AbsentBlobs returns the blobs of a repository's latest version of which the repository does not have the bytes.
func (s *Store) AbsentBlobs(ctx context.Context, repositoryID string) ([]pulp.Blob, error) {
	return sqldb.Collect(ctx, s.db.Read(), record.ScanBlob, `
		SELECT `+record.BlobColumns+` FROM repository_content c JOIN blob b ON b.id = c.content_id
		 WHERE c.repository_id = $1 AND c.kind = $2 AND c.version_removed IS NULL
		   AND (b.absent OR EXISTS (SELECT 1 FROM blob_claim k WHERE k.repository_id = $1 AND k.blob_id = b.id))`, repositoryID, pulp.KindBlob)
}

// HeldTree returns the digests of a manifest and its descendants, as far as a repository's latest version holds them.
func (s *Store) HeldTree(ctx context.Context, repositoryID string, root digest.Digest) ([]digest.Digest, error) {
	return sqldb.Collect(ctx, s.db.Read(), record.ScanDigest, `
		WITH RECURSIVE tree (digest, id) AS (
			SELECT m.digest, m.id FROM manifest m WHERE m.digest = $1
			UNION SELECT m.digest, m.id FROM tree t JOIN manifest_child mc ON mc.manifest_id = t.id JOIN manifest m ON m.digest = mc.digest)
		SELECT t.digest FROM tree t JOIN repository_content c ON c.content_id = t.id
		 WHERE c.repository_id = $2 AND c.kind = $3 AND c.version_removed IS NULL`, root, repositoryID, pulp.KindManifest)
}

// HeldTags returns the tags of a repository's latest version with the digests of their manifests.
func (s *Store) HeldTags(ctx context.Context, repositoryID string) (map[string]digest.Digest, error) {
	return s.heldTags(ctx, repositoryID, "")
}

// heldTags is HeldTags for the tags that satisfy a condition on rows c, t and m. The placeholders of its arguments
// begin at $3.
func (s *Store) heldTags(ctx context.Context, repositoryID, condition string, args ...any) (map[string]digest.Digest, error) {
	tags, err := sqldb.Collect(ctx, s.db.Read(), record.ScanTagged, `
		SELECT c.key, m.id, m.digest, m.media_type FROM repository_content c JOIN tag t ON t.id = c.content_id JOIN manifest m ON m.id = t.manifest_id
		 WHERE c.repository_id = $1 AND c.kind = $2 AND c.version_removed IS NULL`+condition, append([]any{repositoryID, pulp.KindTag}, args...)...)
	if err != nil {
		return nil, err
	}
	held := make(map[string]digest.Digest, len(tags))
	for _, t := range tags {
		held[t.Tag] = digest.Digest(t.Digest)
	}
	return held, nil
}

// WholeTags is HeldTags without the tags of incomplete indexes: those with a child that the latest version does not
// hold.
func (s *Store) WholeTags(ctx context.Context, repositoryID string) (map[string]digest.Digest, error) {
	return s.heldTags(ctx, repositoryID, ` AND NOT EXISTS (
			SELECT 1 FROM manifest_child mc WHERE mc.manifest_id = m.id AND NOT EXISTS (
				SELECT 1 FROM repository_content l WHERE l.repository_id = $1 AND l.kind = $3 AND l.key = mc.digest AND l.version_removed IS NULL))`, pulp.KindManifest)
}

// HoldsSignature reports whether a repository's latest version holds a signature of a manifest.
func (s *Store) HoldsSignature(ctx context.Context, repositoryID string, manifest digest.Digest) (bool, error) {
	var holds bool
	err := s.db.Read().QueryRowContext(ctx, `
		SELECT EXISTS (SELECT 1 FROM manifest m JOIN signature g ON g.manifest_id = m.id JOIN repository_content c ON c.content_id = g.id
		 WHERE m.digest = $1 AND c.repository_id = $2 AND c.kind = $3 AND c.version_removed IS NULL)`, manifest, repositoryID, pulp.KindSignature).Scan(&holds)
	return holds, err
}
