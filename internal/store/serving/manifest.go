package serving

import (
	"context"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/record"
	"github.com/countersign/countersign/internal/store/sqldb"
)

// Manifest returns the manifest with this id. The error is NotFound if there is none.
func (s *Store) Manifest(ctx context.Context, id string) (pulp.Manifest, error) {
	m, err := record.ScanManifest(s.db.Read().QueryRowContext(ctx, `SELECT `+record.ManifestColumns+` FROM manifest m WHERE m.id = $1`, id))
	return m, sqldb.NotFound(err, "No Manifest matches the given query.")
}

// Payload returns the exact bytes of the manifest with this id. The error is NotFound if there is none.
func (s *Store) Payload(ctx context.Context, id string) ([]byte, error) {
	var b []byte
	err := s.db.Read().QueryRowContext(ctx, `SELECT payload FROM manifest WHERE id = $1`, id).Scan(&b)
	return b, sqldb.NotFound(err, "No Manifest matches the given query.")
}

// ManifestByDigest returns the manifest with this digest, in any repository. The error is NotFound if there is none.
func (s *Store) ManifestByDigest(ctx context.Context, d digest.Digest) (pulp.Manifest, error) {
	m, err := record.ScanManifest(s.db.Read().QueryRowContext(ctx, `SELECT `+record.ManifestColumns+` FROM manifest m WHERE m.digest = $1`, d))
	return m, sqldb.NotFound(err, "No Manifest matches the given query.")
}

// ServedChildren returns the children of an index that a target serves, in the order of the index, each once and
// without its payload, at most limit.
func (s *Store) ServedChildren(ctx context.Context, t record.Target, manifestID string, limit int) ([]pulp.Manifest, error) {
	return sqldb.Collect(ctx, s.db.Read(), record.ScanManifest, `
		SELECT `+strings.Replace(record.ManifestColumns, "m.payload", "x''", 1)+`
		  FROM (SELECT e.digest, MIN(e.position) AS position FROM manifest_child e WHERE e.manifest_id = $1 GROUP BY e.digest) mc
		  JOIN manifest m ON m.digest = mc.digest
		  JOIN repository_content c ON c.repository_id = $2 AND c.kind = $3 AND c.key = mc.digest AND `+record.InServedVersion(t.Version(), `$4`)+`
		 ORDER BY mc.position LIMIT $5`, manifestID, t.Repository.ID, pulp.KindManifest, t.Version(), limit)
}
