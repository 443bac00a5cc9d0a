package store

import (
	"context"
	"database/sql"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
)

const repositoryColumns = `r.id, r.type, r.name, r.description, r.labels, r.retain_repo_versions, r.signing_service_id,
	r.made_by_push, r.latest_version, r.created, r.updated`

func scanRepository(row scanner) (pulp.Repository, error) {
	var r pulp.Repository
	var description, service sql.NullString
	var retain sql.NullInt64
	var labels string
	var created, updated int64
	err := row.Scan(&r.ID, &r.Type, &r.Name, &description, &labels, &retain, &service, &r.MadeByPush, &r.LatestVersion, &created, &updated)
	if err != nil {
		return pulp.Repository{}, err
	}
	r.Description, r.SigningServiceID, r.Stamps = pointer(description), service.String, stamps(created, updated)
	if retain.Valid {
		r.RetainRepoVersions = &retain.Int64
	}
	return r, fromJSON("repository.labels", labels, &r.Labels)
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
