package serving

import (
	"context"
	"fmt"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/record"
	"github.com/countersign/countersign/internal/store/sqldb"
)

// Blob returns the blob with this digest, in any repository. The error is NotFound if there is none.
func (s *Store) Blob(ctx context.Context, d digest.Digest) (pulp.Blob, error) {
	b, err := record.ScanBlob(s.db.Read().QueryRowContext(ctx, `SELECT `+record.BlobColumns+` FROM blob b WHERE b.digest = $1 AND (b.absent OR NOT b.deleting)`, d))
	return b, sqldb.NotFound(err, "Blob not found.")
}

// RepositoryBlob returns a blob by its id as a repository has it. The error is NotFound if there is none.
func (s *Store) RepositoryBlob(ctx context.Context, repositoryID, id string) (pulp.Blob, error) {
	b, err := s.BlobIn(ctx, repositoryID, `$2`, id)
	return b, sqldb.NotFound(err, "Blob not found.")
}

// BlobIn returns a blob as a repository has it. If the repository only claims the blob of a remote, the result is
// absent, with the claimed size and the remote to fetch it from. id is an SQL expression for the blob's id in which
// $1 is the repository's id and $2 onwards are args.
func (s *Store) BlobIn(ctx context.Context, repositoryID, id string, args ...any) (pulp.Blob, error) {
	var claimed bool
	var size int64
	var remote string
	args = append(append([]any{repositoryID}, args...), record.LackedSince())
	b, err := record.ScanBlob(sqldb.WithMore(s.db.Read().QueryRowContext(ctx, `
		SELECT `+record.BlobColumns+`, k.blob_id IS NOT NULL, COALESCE(k.size, 0), COALESCE(`+record.SourceOf(fmt.Sprint("$", len(args)))+`, '')
		  FROM blob b LEFT JOIN blob_claim k ON k.blob_id = b.id AND k.repository_id = $1 WHERE b.id = `+id, args...), &claimed, &size, &remote))
	if claimed {
		b.Absent, b.Size, b.RemoteID, b.Inline, b.Data = true, size, remote, false, nil
	}
	return b, err
}

// KnowsBlobs reports whether the database has any blob, and any tag in the outbox for the upstream.
func (s *Store) KnowsBlobs(ctx context.Context) (blobs, upstream bool, err error) {
	err = s.db.Read().QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM blob), EXISTS (SELECT 1 FROM upstream_tag)`).Scan(&blobs, &upstream)
	return blobs, upstream, err
}

// BlobsWithoutSource returns digests of the blobs of a repository's version that cannot be served: they were never
// fetched, and no remote has them any more. It returns at most limit digests, and the number of all such blobs.
func (s *Store) BlobsWithoutSource(ctx context.Context, repositoryID string, number int64, limit int) ([]digest.Digest, int64, error) {
	return s.withoutSource(ctx, limit, ` AND c.repository_id = $3 AND `+record.InVersion("$4"), repositoryID, number)
}

// AllBlobsWithoutSource is BlobsWithoutSource for all versions of all repositories. A blob counts if one of the repositories
// that hold it cannot serve it.
func (s *Store) AllBlobsWithoutSource(ctx context.Context, limit int) ([]digest.Digest, int64, error) {
	return s.withoutSource(ctx, limit, "")
}

// withoutSource returns blobs of rows c of repository_content that cannot be served. The arguments of the condition begin at $3.
func (s *Store) withoutSource(ctx context.Context, limit int, condition string, args ...any) ([]digest.Digest, int64, error) {
	where := ` FROM repository_content c JOIN blob b ON b.id = c.content_id LEFT JOIN blob_claim k ON k.blob_id = b.id AND k.repository_id = c.repository_id
		 WHERE c.kind = $1 AND ` + record.WithoutSource("$2") + condition
	args = append([]any{pulp.KindBlob, record.LackedSince()}, args...)
	var n int64
	if err := s.db.Read().QueryRowContext(ctx, `SELECT COUNT(DISTINCT b.id)`+where, args...).Scan(&n); err != nil || n == 0 {
		return nil, n, err
	}
	found, err := sqldb.Collect(ctx, s.db.Read(), record.ScanDigest,
		`SELECT DISTINCT b.digest`+where+fmt.Sprintf(` ORDER BY b.digest LIMIT $%d`, len(args)+1), append(args, limit)...)
	return found, n, err
}

// BlobSources returns the remotes that a blob was synced from, newest first.
func (s *Store) BlobSources(ctx context.Context, blobID string) ([]pulp.Remote, error) {
	return sqldb.Collect(ctx, s.db.Read(), record.ScanRemote, `
		SELECT `+record.RemoteColumns+` FROM blob_source b JOIN remote m ON m.id = b.remote_id`+record.RemoteJoin+` WHERE b.blob_id = $1 ORDER BY m.id DESC`, blobID)
}
