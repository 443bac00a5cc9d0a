package api

import (
	"context"

	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store"
	"github.com/countersign/countersign/tasks"
)

// Results returns a function that converts the result of a task to its JSON form: an object as in a response to GET,
// except that a distribution's registry_path has no host (compatibility.md#distributions); counts as they are; nil
// for other values. The function makes no queries, so it can be called within transactions.
func Results(ctx context.Context, s *store.Store) (func(any) any, error) {
	guard, err := guardOf(ctx, s)
	if err != nil {
		return nil, err
	}
	return func(object any) any {
		switch v := object.(type) {
		case map[string]int64, tasks.AdoptResult:
			return v
		case pulp.Version:
			return showVersion(v)
		case pulp.Repository:
			return showRepository(v)
		case pulp.Remote:
			if v.PullThrough {
				return showPullThroughRemote(v)
			}
			return showRemote(v)
		case pulp.Distribution:
			if v.PullThrough {
				return showPullThrough(showBaseDistribution(v, guard), v)
			}
			return showDistribution(showBaseDistribution(v, guard), v, v.BasePath)
		}
		return nil
	}, nil
}
