package record

import (
	"context"
	"database/sql"

	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/sqldb"
)

// FindRepositoryByName returns the repository with a name. The error is NotFound if there is none.
func FindRepositoryByName(ctx context.Context, q sqldb.Querier, name string) (pulp.Repository, error) {
	r, err := ScanRepository(q.QueryRowContext(ctx, `SELECT `+RepositoryColumns+` FROM repository r WHERE r.name = $1`, name))
	return r, sqldb.NotFound(err, "Repository not found.")
}

// RepositoryColumns are the columns of a repository r that ScanRepository reads.
const RepositoryColumns = `r.id, r.type, r.name, r.description, r.labels, r.retain_repo_versions, r.signing_service_id, r.signing_assigned, r.sign_on_push, r.remote_id,
	r.allow_shrink, r.made_by_push, r.pushed_as, r.latest_version, r.created, r.updated`

// repositoryRow holds the destinations of RepositoryColumns.
type repositoryRow struct {
	value                        pulp.Repository
	description, service, remote sql.NullString
	retain                       sql.NullInt64
	labels                       string
	created, updated             int64
}

func (x *repositoryRow) dests() []any {
	r := &x.value
	return []any{
		&r.ID, &r.Type, &r.Name, &x.description, &x.labels, &x.retain, &x.service, &r.SigningAssigned, &r.SignOnPush, &x.remote, &r.AllowShrink, &r.MadeByPush,
		&r.PushedAs, &r.LatestVersion, &x.created, &x.updated,
	}
}

func (x *repositoryRow) repository() (pulp.Repository, error) {
	r := x.value
	r.Description, r.SigningServiceID, r.RemoteID, r.Stamps = sqldb.Pointer(x.description), x.service.String, x.remote.String, Stamps(x.created, x.updated)
	if x.retain.Valid {
		r.RetainRepoVersions = &x.retain.Int64
	}
	return r, sqldb.FromJSON("repository.labels", x.labels, &r.Labels)
}

// ScanRepository reads a repository.
func ScanRepository(row sqldb.Scanner) (pulp.Repository, error) {
	var x repositoryRow
	if err := row.Scan(x.dests()...); err != nil {
		return pulp.Repository{}, err
	}
	return x.repository()
}

// ModelName returns the name of a repository type in Pulp's texts.
func ModelName(t pulp.RepositoryType) string {
	if t == pulp.ContainerPush {
		return "ContainerPushRepository"
	}
	return "ContainerRepository"
}

// FindRepository returns the repository with a type and id. The error is NotFound if there is none.
func FindRepository(ctx context.Context, q sqldb.Querier, t pulp.RepositoryType, id string) (pulp.Repository, error) {
	r, err := ScanRepository(q.QueryRowContext(ctx, `SELECT `+RepositoryColumns+` FROM repository r WHERE r.id = $1 AND r.type = $2`, id, t))
	return r, sqldb.NotFound(err, "No %s matches the given query.", ModelName(t))
}
