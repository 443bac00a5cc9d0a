package store

import (
	"context"
	"strings"

	"github.com/countersign/countersign/internal/pulp"
)

// ServedChildren returns the manifests of a list that a target serves, in the list's order, each once and without its payload, at
// most limit.
func (s *Store) ServedChildren(ctx context.Context, t Target, manifestID string, limit int) ([]pulp.Manifest, error) {
	return collect(ctx, s.read, scanManifest, `
		SELECT `+strings.Replace(manifestColumns, "m.payload", "x''", 1)+`
		  FROM (SELECT e.digest, MIN(e.position) AS position FROM manifest_child e WHERE e.manifest_id = $1 GROUP BY e.digest) mc
		  JOIN manifest m ON m.digest = mc.digest
		  JOIN repository_content c ON c.repository_id = $2 AND c.kind = $3 AND c.key = mc.digest AND `+in(t.version(), `$4`)+`
		 ORDER BY mc.position LIMIT $5`, manifestID, t.Repository.ID, pulp.KindManifest, t.version(), limit)
}

// HasSignaturesOf reports whether any signature claims a reference under a host[:port].
func (s *Store) HasSignaturesOf(ctx context.Context, host string) (bool, error) {
	var found bool
	err := s.read.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM signature WHERE SUBSTR(reference, 1, LENGTH($1)) = $1)`, host+"/").Scan(&found)
	return found, err
}

// SignatureContents returns the bytes of signatures by their ids. Those that are gone are left out.
func (s *Store) SignatureContents(ctx context.Context, ids []string) (map[string][]byte, error) {
	contents := make(map[string][]byte, len(ids))
	if len(ids) == 0 {
		return contents, nil
	}
	rows, err := collect(ctx, s.read, func(row scanner) (pulp.Signature, error) {
		var g pulp.Signature
		err := row.Scan(&g.ID, &g.Content)
		return g, err
	}, `SELECT g.id, g.content FROM signature g WHERE g.id IN (SELECT j.value FROM json_each($1) j)`, toJSON(ids))
	for _, g := range rows {
		contents[g.ID] = g.Content
	}
	return contents, err
}
