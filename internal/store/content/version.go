package content

import (
	"context"

	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/record"
)

// Version returns a repository's version by number. NotFound when there is none.
func (s *Store) Version(ctx context.Context, repositoryID string, number int64) (pulp.Version, error) {
	return record.FindVersion(ctx, s.db.Read(), repositoryID, number)
}
