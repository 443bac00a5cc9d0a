package store

import (
	"context"
	"database/sql"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
)

const repositoryColumns = `r.id, r.type, r.name, r.description, r.labels, r.retain_repo_versions, r.signing_service_id, r.signing_assigned, r.sign_on_push, r.remote_id,
	r.allow_shrink, r.made_by_push, r.pushed_as, r.latest_version, r.created, r.updated`

// repositoryRow is a row of repositoryColumns on its way in.
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
	r.Description, r.SigningServiceID, r.RemoteID, r.Stamps = pointer(x.description), x.service.String, x.remote.String, stamps(x.created, x.updated)
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

// RepositoryByID returns the repository with this id, of any type. NotFound when there is none.
func (s *Store) RepositoryByID(ctx context.Context, id string) (pulp.Repository, error) {
	r, err := scanRepository(s.read.QueryRowContext(ctx, `SELECT `+repositoryColumns+` FROM repository r WHERE r.id = $1`, id))
	return r, notFound(err, "Repository not found.")
}

func repository(ctx context.Context, q querier, t pulp.RepositoryType, id string) (pulp.Repository, error) {
	r, err := scanRepository(q.QueryRowContext(ctx, `SELECT `+repositoryColumns+` FROM repository r WHERE r.id = $1 AND r.type = $2`, id, t))
	return r, notFound(err, "No %s matches the given query.", modelName(t))
}

// EditRepository changes a repository's own fields by a function and completes the task whose result that is; claim is nil outside a task. A
// taken name is a field error. It returns the repository as it is afterwards.
func (s *Store) EditRepository(ctx context.Context, claim *Claim, t pulp.RepositoryType, id string, edit func(*pulp.Repository)) (pulp.Repository, error) {
	var r pulp.Repository
	err := s.inTx(ctx, func(x *tx) error {
		err := x.lockRow("repository", id)
		if err != nil {
			return err
		}
		if r, err = repository(x.ctx, x, t, id); err != nil {
			return err
		}
		before, name := r.UpstreamName(), r.Name
		edit(&r)
		r.ID, r.Type = id, t
		if r.Name != name { // somebody chose it
			r.PushedAs = ""
		}
		if r.SigningServiceID == "" {
			r.SigningAssigned = ""
		}
		_, err = x.exec(`
			UPDATE repository
			   SET name = $2, description = $3, labels = $4, retain_repo_versions = $5, signing_service_id = $6, sign_on_push = $7, remote_id = $8, updated = $9,
			       allow_shrink = $10, signing_assigned = $11, pushed_as = $12
			 WHERE id = $1`,
			r.ID, r.Name, nullText(r.Description), toJSON(r.Labels), nullInt(r.RetainRepoVersions), null(r.SigningServiceID), r.SignOnPush, null(r.RemoteID), x.now,
			r.AllowShrink, r.SigningAssigned, r.PushedAs)
		if err := uniqueName(err); err != nil {
			return err
		}
		r.Updated = fromMicros(x.now)
		if r.UpstreamName() != before {
			if err := x.moveUpstream(id); err != nil {
				return err
			}
		}
		if err := x.retain(r); err != nil {
			return err
		}
		if r, err = repository(x.ctx, x, t, id); err != nil {
			return err
		}
		return x.complete(claim, Outcome{Result: r})
	})
	return r, err
}

// CreateRepository keeps a new repository with its empty version 0 and returns it with its id. A taken name is a field error.
func (s *Store) CreateRepository(ctx context.Context, r pulp.Repository) (pulp.Repository, error) {
	err := s.inTx(ctx, func(t *tx) error {
		var err error
		r, err = t.makeRepository(r)
		return uniqueName(err)
	})
	return r, err
}

// DeleteRepository removes a repository with all its versions and completes the task whose result that is. Distributions that served it stay, and serve
// nothing. NotFound when there is none of this type.
func (s *Store) DeleteRepository(ctx context.Context, claim *Claim, kind pulp.RepositoryType, id string) error {
	return s.inTx(ctx, func(t *tx) error {
		n, err := t.exec(`DELETE FROM repository WHERE id = $1 AND type = $2`, id, kind)
		if err == nil && n == 0 {
			return fault.New(fault.NotFound, "No %s matches the given query.", modelName(kind))
		}
		if err != nil {
			return err
		}
		return t.complete(claim, Outcome{Result: map[string]int64{"container." + modelName(kind): n}})
	})
}

// MigrateRepository makes a push repository one of the general kind, with the same id and all its versions, and completes the task whose result that
// is (contract 2.5.1). Tasks that wait for it wait under its new href. NotFound when there is no such push repository.
func (s *Store) MigrateRepository(ctx context.Context, claim *Claim, id string) error {
	return s.inTx(ctx, func(t *tx) error {
		n, err := t.exec(`UPDATE repository SET type = $2, updated = $3 WHERE id = $1 AND type = $4`, id, pulp.Container, t.now, pulp.ContainerPush)
		if err == nil && n == 0 {
			return fault.New(fault.NotFound, "No ContainerPushRepository matches the given query.")
		}
		if err != nil {
			return err
		}
		before, after := pulp.RepositoryHref(pulp.ContainerPush, id), pulp.RepositoryHref(pulp.Container, id)
		if err := t.lockResources([]string{before, after}); err != nil { // a task may just be taking its place behind this one
			return err
		}
		if _, err := t.exec(`UPDATE task_resource SET resource = $2 WHERE resource = $1 AND active`, before, after); err != nil {
			return err
		}
		r, err := repository(t.ctx, t, pulp.Container, id)
		if err != nil {
			return err
		}
		created := []Created{{pulp.RepositoryHref(r.Type, r.ID), pulp.PRN(r.Type.Collection(), r.ID)}}
		return t.complete(claim, Outcome{Created: created, Result: r})
	})
}
