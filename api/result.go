package api

import (
	"context"

	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store"
	"github.com/countersign/countersign/tasks"
)

// Results returns what clients are shown of an object that a task answers: what a GET of it would say, but for a distribution's registry_path, which has no host there
// (contract 2.7). Counts of what was deleted are shown as they are, other things not at all.
func Results(ctx context.Context, s *store.Store) (func(any) any, error) {
	guard, err := guardOf(ctx, s) // now: the function is called inside of transactions
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
			return showRemote(v)
		case pulp.Distribution:
			return showDistribution(showBaseDistribution(v, guard), v, v.BasePath)
		}
		return nil
	}, nil
}
