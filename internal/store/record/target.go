package record

import (
	"context"

	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/sqldb"
)

// Target is a base path with its distribution and the repository that it serves.
type Target struct {
	Distribution pulp.Distribution
	Repository   pulp.Repository // zero if the distribution has none
	Made         bool            // this call of catalog.PushTarget made it
}

// Served reports whether the distribution serves a repository.
func (t Target) Served() bool { return t.Repository.ID != "" }

// Version returns the number of the version that the target serves, or Latest.
func (t Target) Version() int64 {
	if t.Distribution.Pinned != nil {
		return t.Distribution.Pinned.Number
	}
	return Latest
}

// servedColumns are RepositoryColumns of a repository that may be NULL.
const servedColumns = `COALESCE(r.id, ''), COALESCE(r.type, ''), COALESCE(r.name, ''), r.description, COALESCE(r.labels, '{}'), r.retain_repo_versions,
	r.signing_service_id, COALESCE(r.signing_assigned, ''), COALESCE(r.sign_on_push, FALSE), r.remote_id, COALESCE(r.allow_shrink, FALSE),
	COALESCE(r.made_by_push, FALSE), COALESCE(r.pushed_as, ''), COALESCE(r.latest_version, 0), COALESCE(r.created, 0), COALESCE(r.updated, 0)`

// Resolve returns the target of a base path. The error is NotFound if no distribution has the path.
func Resolve(ctx context.Context, q sqldb.Querier, basePath string) (Target, error) {
	return ResolveWhere(ctx, q, basePath, "")
}

// ResolveWhere is Resolve for distributions d that meet a condition, which begins with AND.
func ResolveWhere(ctx context.Context, q sqldb.Querier, basePath, condition string) (Target, error) {
	var d distributionRow
	var r repositoryRow
	err := q.QueryRowContext(ctx, `SELECT `+DistributionColumns+`, `+servedColumns+DistributionSource+` WHERE d.base_path = $1`+condition, basePath).
		Scan(append(d.dests(), r.dests()...)...)
	if err != nil {
		return Target{}, sqldb.NotFound(err, "Repository not found.")
	}
	t := Target{}
	if t.Distribution, err = d.distribution(); err != nil || r.value.ID == "" {
		return t, err
	}
	t.Repository, err = r.repository()
	return t, err
}
