package signatures

import (
	"context"

	"github.com/countersign/countersign/internal/store/record"
	"github.com/countersign/countersign/internal/store/sqldb"
)

// MaxWalk is maxWalk, for tests.
const MaxWalk = maxWalk

// Expand expands a tag of a repository's latest version in a walk that has looked at some manifests before.
func Expand(ctx context.Context, q sqldb.Querier, repositoryID string, looked int, root record.TaggedManifest) ([]SignTarget, error) {
	w := walk{repositoryID: repositoryID, number: record.Latest, looked: looked}
	return w.expand(ctx, q, root)
}
