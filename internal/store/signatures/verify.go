package signatures

import (
	"context"

	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/sqldb"
)

// HasSignaturesOf reports whether any signature has a docker reference under a host[:port].
func (s *Store) HasSignaturesOf(ctx context.Context, host string) (bool, error) {
	var found bool
	err := s.db.Read().QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM signature WHERE SUBSTR(reference, 1, LENGTH($1)) = $1)`, host+"/").Scan(&found)
	return found, err
}

// SignatureContents returns the bytes of signatures by their ids. Ids without a signature are left out.
func (s *Store) SignatureContents(ctx context.Context, ids []string) (map[string][]byte, error) {
	contents := make(map[string][]byte, len(ids))
	if len(ids) == 0 {
		return contents, nil
	}
	rows, err := sqldb.Collect(ctx, s.db.Read(), func(row sqldb.Scanner) (pulp.Signature, error) {
		var g pulp.Signature
		err := row.Scan(&g.ID, &g.Content)
		return g, err
	}, `SELECT g.id, g.content FROM signature g WHERE g.id IN (SELECT j.value FROM json_each($1) j)`, sqldb.ToJSON(ids))
	for _, g := range rows {
		contents[g.ID] = g.Content
	}
	return contents, err
}
