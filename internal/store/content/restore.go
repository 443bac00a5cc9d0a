package content

import (
	"context"

	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/record"
	"github.com/countersign/countersign/internal/store/sqldb"
	"github.com/countersign/countersign/internal/store/taskstore"
)

// Restore makes a new version of a repository with the content of an older one and completes the task. Signatures
// that manifests of the older version have gained since are kept.
func (s *Store) Restore(ctx context.Context, claim *taskstore.Claim, repositoryID string, number int64) (*pulp.Version, error) {
	return s.changeFor(ctx, claim, repositoryID, func(c *Change) ([]taskstore.Created, error) {
		if _, err := record.FindVersion(c.Tx.Ctx, c.Tx, repositoryID, number); err != nil {
			return nil, err
		}
		return nil, sqldb.Steps(c.Gather, func() error {
			_, err := c.Tx.Exec(`
				INSERT INTO change_unit (kind, key, content_id)
				SELECT c.kind, c.key, c.content_id FROM repository_content c WHERE c.repository_id = $1 AND `+record.InVersion("$2"), repositoryID, number)
			return err
		}, c.gatherOwnSignatures, c.keepGathered, c.AddGathered)
	})
}
