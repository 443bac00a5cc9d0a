package store

import (
	"context"

	"github.com/countersign/countersign/internal/fault"
)

// DeleteDistribution removes a distribution, and its repository with all versions when a push created that repository and no
// other distribution serves it (D8), and completes the task whose result that is. NotFound when there is none.
func (s *Store) DeleteDistribution(ctx context.Context, claim *Claim, id string) error {
	return s.inTx(ctx, func(t *tx) error {
		removed := map[string]int64{}
		n, err := t.exec(`DELETE FROM repository WHERE made_by_push AND id = (SELECT repository_id FROM distribution WHERE id = $1)
			AND NOT EXISTS (SELECT 1 FROM distribution d LEFT JOIN repository_version v ON v.id = d.repository_version_id
				WHERE d.id <> $1 AND repository.id IN (d.repository_id, v.repository_id))`, id)
		if err != nil {
			return err
		}
		if n > 0 {
			removed["container.ContainerPushRepository"] = n
		}
		n, err = t.exec(`DELETE FROM distribution WHERE id = $1`, id)
		if err != nil {
			return err
		}
		if n == 0 {
			return fault.New(fault.NotFound, "No ContainerDistribution matches the given query.")
		}
		removed["container.ContainerDistribution"] = n
		return t.complete(claim, Outcome{Result: removed})
	})
}

// SetPrivate says whether only those who may pull from it see what a base path serves. NotFound when no distribution has that path.
func (s *Store) SetPrivate(ctx context.Context, basePath string, private bool) error {
	return s.inTx(ctx, func(t *tx) error {
		n, err := t.exec(`UPDATE distribution SET private = $2, updated = $3 WHERE base_path = $1`, basePath, private, t.now)
		if err == nil && n == 0 {
			return fault.New(fault.NotFound, "No distribution has the base path %s.", basePath)
		}
		return err
	})
}
