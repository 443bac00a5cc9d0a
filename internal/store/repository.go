package store

import (
	"context"
	"database/sql"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
)

const repositoryColumns = `r.id, r.type, r.name, r.description, r.labels, r.retain_repo_versions, r.signing_service_id,
	r.made_by_push, r.latest_version, r.created, r.updated`

// repositoryRow is a row of repositoryColumns on its way in.
type repositoryRow struct {
	value                pulp.Repository
	description, service sql.NullString
	retain               sql.NullInt64
	labels               string
	created, updated     int64
}

func (x *repositoryRow) dests() []any {
	r := &x.value
	return []any{&r.ID, &r.Type, &r.Name, &x.description, &x.labels, &x.retain, &x.service, &r.MadeByPush, &r.LatestVersion, &x.created, &x.updated}
}

func (x *repositoryRow) repository() (pulp.Repository, error) {
	r := x.value
	r.Description, r.SigningServiceID, r.Stamps = pointer(x.description), x.service.String, stamps(x.created, x.updated)
	if x.retain.Valid {
		r.RetainRepoVersions = &x.retain.Int64
	}
	return r, fromJSON("repository.labels", x.labels, &r.Labels)
}

func scanRepository(row scanner) (pulp.Repository, error) {
	var x repositoryRow
	if err := row.Scan(x.dests()...); err != nil {
		return pulp.Repository{}, err
	}
	return x.repository()
}

// modelName is how Pulp names the class of a repository type in its texts.
func modelName(t pulp.RepositoryType) string {
	if t == pulp.ContainerPush {
		return "ContainerPushRepository"
	}
	return "ContainerRepository"
}

// Repository returns the repository of this type and id. NotFound when there is none.
func (s *Store) Repository(ctx context.Context, t pulp.RepositoryType, id string) (pulp.Repository, error) {
	return repository(ctx, s.read, t, id)
}

func repository(ctx context.Context, q querier, t pulp.RepositoryType, id string) (pulp.Repository, error) {
	r, err := scanRepository(q.QueryRowContext(ctx, `SELECT `+repositoryColumns+` FROM repository r WHERE r.id = $1 AND r.type = $2`, id, t))
	return r, notFound(err, "No %s matches the given query.", modelName(t))
}

// RepositoryEdit says what to change of a repository; a nil field stays as it is.
type RepositoryEdit struct {
	Name               *string
	Description        **string
	Labels             *pulp.Labels
	RetainRepoVersions **int64
	SigningServiceID   *string // empty: none
}

// EditRepository changes a repository's own fields and completes the task whose result that is; claim is nil outside a task. A
// taken name is a field error. It returns the repository as it is afterwards.
func (s *Store) EditRepository(ctx context.Context, claim *Claim, t pulp.RepositoryType, id string, e RepositoryEdit) (pulp.Repository, error) {
	var r pulp.Repository
	err := s.inTx(ctx, func(x *tx) error {
		var err error
		if r, err = repository(x.ctx, x, t, id); err != nil {
			return err
		}
		e.apply(&r)
		_, err = x.exec(`
			UPDATE repository
			   SET name = $2, description = $3, labels = $4, retain_repo_versions = $5, signing_service_id = $6, updated = $7
			 WHERE id = $1`,
			r.ID, r.Name, nullText(r.Description), toJSON(r.Labels), nullInt(r.RetainRepoVersions), null(r.SigningServiceID), x.now)
		if isUnique(err) {
			return fault.Field("name", "This field must be unique.")
		}
		if err != nil {
			return err
		}
		r.Updated = fromMicros(x.now)
		return x.complete(claim, Outcome{})
	})
	return r, err
}

func (e RepositoryEdit) apply(r *pulp.Repository) {
	if e.Name != nil {
		r.Name = *e.Name
	}
	if e.Description != nil {
		r.Description = *e.Description
	}
	if e.Labels != nil {
		r.Labels = *e.Labels
	}
	if e.RetainRepoVersions != nil {
		r.RetainRepoVersions = *e.RetainRepoVersions
	}
	if e.SigningServiceID != nil {
		r.SigningServiceID = *e.SigningServiceID
	}
}
