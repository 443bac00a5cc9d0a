package catalog

import (
	"context"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/sqldb"
)

// Texts of compatibility.md#distributions.
const (
	takenField   = "This field must be unique."
	overlapsText = "Overlaps with an existing distribution."
	// OverlapField is the field of the error for a base path below or above another one. The API nests it.
	OverlapField = "base_path.base_path"
)

// uniqueName turns a violated uniqueness into an error of the field "name".
func uniqueName(err error) error {
	if sqldb.IsUnique(err) {
		return fault.Field("name", takenField)
	}
	return err
}

// DistributionConflict returns an error with fields if another distribution than d has its name or base path, or a base path
// below or above it. Pull-through distributions may overlap with others, but not with each other. conflict is nil if there
// is none.
func (s *Store) DistributionConflict(ctx context.Context, d pulp.Distribution) (conflict, err error) {
	return conflictOf(ctx, s.db.Read(), d)
}

// conflictOf is DistributionConflict on a querier.
func conflictOf(ctx context.Context, q sqldb.Querier, d pulp.Distribution) (conflict, err error) {
	const taken = `SELECT EXISTS (SELECT 1 FROM distribution WHERE name = $1 AND id <> $2)
		            OR EXISTS (SELECT 1 FROM pull_through_distribution WHERE name = $1 AND id <> $2),
		       EXISTS (SELECT 1 FROM distribution WHERE base_path = $3 AND id <> $2)
		            OR EXISTS (SELECT 1 FROM pull_through_distribution WHERE base_path = $3 AND id <> $2),
		       EXISTS (SELECT 1 FROM `
	const overlapping = ` WHERE id <> $2 AND (
		               base_path IN (SELECT j.value FROM json_each($4) j) OR base_path >= $5 AND base_path < $6))`
	var nameTaken, pathTaken, overlaps bool
	err = q.QueryRowContext(ctx, taken+distributionTable(d)+overlapping,
		d.Name, d.ID, d.BasePath, sqldb.ToJSON(pathsAbove(d.BasePath)), d.BasePath+"/", d.BasePath+"0"). // '0' follows '/'
		Scan(&nameTaken, &pathTaken, &overlaps)
	if err != nil {
		return nil, err
	}
	fields := fault.Fields{}
	if nameTaken {
		fields["name"] = []string{takenField}
	}
	if pathTaken {
		fields["base_path"] = []string{takenField}
	} else if overlaps {
		fields[OverlapField] = []string{overlapsText}
	}
	if len(fields) == 0 {
		return nil, nil
	}
	return &fault.Error{Kind: fault.Invalid, Msg: "Another distribution has this name or an overlapping base path.", Fields: fields}, nil
}

// distributionTable returns the table of a distribution.
func distributionTable(d pulp.Distribution) string {
	if d.PullThrough {
		return "pull_through_distribution"
	}
	return "distribution"
}

// pathsAbove returns the paths that a path is below: a and a/b for a/b/c.
func pathsAbove(path string) []string {
	above := []string{}
	for i, r := range path {
		if r == '/' {
			above = append(above, path[:i])
		}
	}
	return above
}
