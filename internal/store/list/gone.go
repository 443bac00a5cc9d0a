package list

import (
	"context"

	"github.com/countersign/countersign/internal/pulp"
)

// Gone returns the hrefs of objects that do not exist any more. It considers repository versions and the collections of
// tables.
func (s *Store) Gone(ctx context.Context, hrefs []string) (map[string]bool, error) {
	gone := map[string]bool{}
	for _, href := range hrefs {
		ref, ok := pulp.ParseRef(href)
		if !ok {
			continue
		}
		query, args := existence(ref)
		if query == "" {
			continue
		}
		var exists bool
		if err := s.db.Read().QueryRowContext(ctx, `SELECT EXISTS (`+query+`)`, args...).Scan(&exists); err != nil {
			return nil, err
		}
		if !exists {
			gone[href] = true
		}
	}
	return gone, nil
}

// tables are the tables of the collections whose objects tasks create.
var tables = map[string]string{
	pulp.PushCollection: "repository", pulp.ContainerCollection: "repository", pulp.DistributionCollection: "distribution",
	pulp.NamespaceCollection: "namespace", pulp.TagCollection: "tag", pulp.RemoteCollection: "remote",
	pulp.PullThroughCollection: "pull_through_distribution", pulp.PullThroughRemoteCollection: "pull_through_remote",
}

// existence returns the query for the object of a reference, empty for other collections than those of tables.
func existence(ref pulp.Ref) (query string, args []any) {
	if ref.Version >= 0 {
		return `SELECT 1 FROM repository_version WHERE repository_id = $1 AND number = $2`, []any{ref.ID, ref.Version}
	}
	if table, ok := tables[ref.Collection]; ok {
		return `SELECT 1 FROM ` + table + ` WHERE id = $1`, []any{ref.ID}
	}
	return "", nil
}
