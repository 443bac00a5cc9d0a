package content

import (
	"context"

	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/taskstore"
)

// Unit returns the id of the unit that a repository has under a key, and where it has it.
func (s *Store) Unit(ctx context.Context, repositoryID string, kind pulp.Kind, key string) (Have, string, error) {
	return s.has(ctx, repositoryID, kind, key)
}

// ChangeFor is changeFor, for tests.
func (s *Store) ChangeFor(ctx context.Context, claim *taskstore.Claim, repositoryID string, f func(*Change) ([]taskstore.Created, error)) (*pulp.Version, error) {
	return s.changeFor(ctx, claim, repositoryID, f)
}

// RemoveGathered is removeGathered, for tests.
func (c *Change) RemoveGathered() error { return c.removeGathered() }

// KeepGathered is keepGathered, for tests.
func (c *Change) KeepGathered() error { return c.keepGathered() }

// MaxAnnounced is maxAnnounced, for tests.
const MaxAnnounced = maxAnnounced

// DiffConditions returns the conditions of the differences that are announced.
func DiffConditions() []string {
	return []string{changedBy.before, changedBy.after, revertedTo.before, revertedTo.after}
}
