package catalog

import (
	"context"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/content"
	"github.com/countersign/countersign/internal/store/record"
	"github.com/countersign/countersign/internal/store/sqldb"
	"github.com/countersign/countersign/internal/store/taskstore"
)

// RepositoryByName returns the repository with this name. NotFound when there is none.
func (s *Store) RepositoryByName(ctx context.Context, name string) (pulp.Repository, error) {
	return record.FindRepositoryByName(ctx, s.db.Read(), name)
}

// Repository returns the repository of this type and id. NotFound when there is none.
func (s *Store) Repository(ctx context.Context, t pulp.RepositoryType, id string) (pulp.Repository, error) {
	return record.FindRepository(ctx, s.db.Read(), t, id)
}

// RepositoryByID returns the repository with this id, of any type. NotFound when there is none.
func (s *Store) RepositoryByID(ctx context.Context, id string) (pulp.Repository, error) {
	r, err := record.ScanRepository(s.db.Read().QueryRowContext(ctx, `SELECT `+record.RepositoryColumns+` FROM repository r WHERE r.id = $1`, id))
	return r, sqldb.NotFound(err, "Repository not found.")
}

// EditRepository changes a repository's own fields by a function and completes the task whose result that is; claim is nil outside a task. A
// taken name is a field error. It returns the repository as it is afterwards.
func (s *Store) EditRepository(ctx context.Context, claim *taskstore.Claim, t pulp.RepositoryType, id string, edit func(*pulp.Repository)) (pulp.Repository, error) {
	var r pulp.Repository
	err := s.content.InTx(ctx, func(x *content.Tx) error {
		err := x.LockRow("repository", id)
		if err != nil {
			return err
		}
		if r, err = record.FindRepository(x.Ctx, x, t, id); err != nil {
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
		_, err = x.Exec(`
			UPDATE repository
			   SET name = $2, description = $3, labels = $4, retain_repo_versions = $5, signing_service_id = $6, sign_on_push = $7, remote_id = $8, updated = $9,
			       allow_shrink = $10, signing_assigned = $11, pushed_as = $12
			 WHERE id = $1`,
			r.ID, r.Name, sqldb.NullText(r.Description), sqldb.ToJSON(r.Labels), sqldb.NullInt(r.RetainRepoVersions), sqldb.NullIfEmpty(r.SigningServiceID), r.SignOnPush, sqldb.NullIfEmpty(r.RemoteID), x.Now,
			r.AllowShrink, r.SigningAssigned, r.PushedAs)
		if err := uniqueName(err); err != nil {
			return err
		}
		r.Updated = sqldb.FromMicros(x.Now)
		if r.UpstreamName() != before {
			if err := x.MoveUpstream(id); err != nil {
				return err
			}
		}
		if err := x.Retain(r); err != nil {
			return err
		}
		if r, err = record.FindRepository(x.Ctx, x, t, id); err != nil {
			return err
		}
		return taskstore.Complete(x.Tx, claim, taskstore.Outcome{Result: r})
	})
	return r, err
}

// CreateRepository keeps a new repository with its empty version 0 and returns it with its id. A taken name is a field error.
func (s *Store) CreateRepository(ctx context.Context, r pulp.Repository) (pulp.Repository, error) {
	err := s.content.InTx(ctx, func(t *content.Tx) error {
		var err error
		r, err = makeRepository(t, r)
		return uniqueName(err)
	})
	return r, err
}

// DeleteRepository removes a repository with all its versions and completes the task whose result that is. Distributions that served it stay, and serve
// nothing. NotFound when there is none of this type.
func (s *Store) DeleteRepository(ctx context.Context, claim *taskstore.Claim, kind pulp.RepositoryType, id string) error {
	return s.content.InTx(ctx, func(t *content.Tx) error {
		n, err := t.Exec(`DELETE FROM repository WHERE id = $1 AND type = $2`, id, kind)
		if err == nil && n == 0 {
			return fault.New(fault.NotFound, "No %s matches the given query.", record.ModelName(kind))
		}
		if err != nil {
			return err
		}
		return taskstore.Complete(t.Tx, claim, taskstore.Outcome{Result: map[string]int64{"container." + record.ModelName(kind): n}})
	})
}

// MigrateRepository makes a push repository one of the general kind, with the same id and all its versions, and completes the task whose result that
// is (compatibility.md#push-repositories). Tasks that wait for it wait under its new href. NotFound when there is no such push repository.
func (s *Store) MigrateRepository(ctx context.Context, claim *taskstore.Claim, id string) error {
	return s.content.InTx(ctx, func(t *content.Tx) error {
		n, err := t.Exec(`UPDATE repository SET type = $2, updated = $3 WHERE id = $1 AND type = $4`, id, pulp.Container, t.Now, pulp.ContainerPush)
		if err == nil && n == 0 {
			return fault.New(fault.NotFound, "No ContainerPushRepository matches the given query.")
		}
		if err != nil {
			return err
		}
		before, after := pulp.RepositoryHref(pulp.ContainerPush, id), pulp.RepositoryHref(pulp.Container, id)
		if err := taskstore.LockResources(t.Tx, []string{before, after}); err != nil { // a task may just be taking its place behind this one
			return err
		}
		if _, err := t.Exec(`UPDATE task_resource SET resource = $2 WHERE resource = $1 AND active`, before, after); err != nil {
			return err
		}
		r, err := record.FindRepository(t.Ctx, t, pulp.Container, id)
		if err != nil {
			return err
		}
		created := []taskstore.Created{{Href: pulp.RepositoryHref(r.Type, r.ID), PRN: pulp.PRN(r.Type.Collection(), r.ID)}}
		return taskstore.Complete(t.Tx, claim, taskstore.Outcome{Created: created, Result: r})
	})
}
