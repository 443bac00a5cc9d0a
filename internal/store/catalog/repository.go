package catalog

import (
	"context"

	"github.com/countersign/countersign/internal/access"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/content"
	"github.com/countersign/countersign/internal/store/record"
	"github.com/countersign/countersign/internal/store/sqldb"
	"github.com/countersign/countersign/internal/store/taskstore"
)

// RepositoryByName returns the repository with a name. The error is NotFound if there is none.
func (s *Store) RepositoryByName(ctx context.Context, name string) (pulp.Repository, error) {
	return record.FindRepositoryByName(ctx, s.db.Read(), name)
}

// Repository returns the repository with a type and id. The error is NotFound if there is none.
func (s *Store) Repository(ctx context.Context, t pulp.RepositoryType, id string) (pulp.Repository, error) {
	return record.FindRepository(ctx, s.db.Read(), t, id)
}

// RepositoryByID returns the repository of any type with an id. The error is NotFound if there is none.
func (s *Store) RepositoryByID(ctx context.Context, id string) (pulp.Repository, error) {
	r, err := record.ScanRepository(s.db.Read().QueryRowContext(ctx,
		`SELECT `+record.RepositoryColumns+` FROM repository r WHERE r.id = $1`, id))
	return r, sqldb.NotFound(err, "Repository not found.")
}

// EditRepository changes a repository with edit and returns it as it is afterwards. A lower RetainRepoVersions deletes
// versions at once. The error is NotFound if there is no such repository, and has the field "name" if the name is taken.
func (s *Store) EditRepository(
	ctx context.Context, claim *taskstore.Claim, kind pulp.RepositoryType, id string, edit func(*pulp.Repository),
) (pulp.Repository, error) {
	return content.InTx(ctx, s.content, func(t *content.Tx) (r pulp.Repository, err error) {
		if err := t.LockRow("repository", id); err != nil {
			return r, err
		}
		before, err := record.FindRepository(t.Ctx, t, kind, id)
		if err != nil {
			return r, err
		}
		r = before
		edit(&r)
		r.ID, r.Type = id, kind
		if r.Name != before.Name { // the new name was chosen: patterns of signing on push apply to it, not to the pushed path
			r.PushedAs = ""
		}
		if r.SigningServiceID == "" {
			r.SigningAssigned = ""
		}
		if err := updateRepository(t, r); err != nil {
			return r, err
		}
		if r.UpstreamName() != before.UpstreamName() {
			if err := t.MoveUpstream(id); err != nil {
				return r, err
			}
		}
		if err := t.Retain(r); err != nil {
			return r, err
		}
		if r, err = record.FindRepository(t.Ctx, t, kind, id); err != nil {
			return r, err
		}
		return r, taskstore.Complete(t.Tx, claim, taskstore.Outcome{Result: r})
	})
}

// updateRepository stores the fields of a repository that an edit can change.
func updateRepository(t *content.Tx, r pulp.Repository) error {
	_, err := t.Exec(`
		UPDATE repository
		   SET name = $2, description = $3, labels = $4, retain_repo_versions = $5, signing_service_id = $6, sign_on_push = $7,
		       remote_id = $8, updated = $9, allow_shrink = $10, signing_assigned = $11, pushed_as = $12
		 WHERE id = $1`,
		r.ID, r.Name, sqldb.NullText(r.Description), sqldb.ToJSON(r.Labels), sqldb.NullInt(r.RetainRepoVersions),
		sqldb.NullIfEmpty(r.SigningServiceID), r.SignOnPush, sqldb.NullIfEmpty(r.RemoteID), t.Now, r.AllowShrink,
		r.SigningAssigned, r.PushedAs)
	return uniqueName(err)
}

// CreateRepository stores a new repository with its empty version 0 and returns it with its id. The account owner gets the
// owner's role; 0 for none. The error has the field "name" if the name is taken.
func (s *Store) CreateRepository(ctx context.Context, r pulp.Repository, owner int64) (pulp.Repository, error) {
	return content.InTx(ctx, s.content, func(t *content.Tx) (pulp.Repository, error) {
		created, err := makeRepository(t, r)
		if err != nil {
			return created, uniqueName(err)
		}
		return created, s.own(t, owner, access.RepositoryOwner, access.Repository, created.ID)
	})
}

// DeleteRepository deletes a repository with all its versions. Distributions that served it remain and serve nothing. The
// error is NotFound if there is no such repository of this type.
func (s *Store) DeleteRepository(ctx context.Context, claim *taskstore.Claim, kind pulp.RepositoryType, id string) error {
	return s.content.InTx(ctx, func(t *content.Tx) error {
		n, err := t.Exec(`DELETE FROM repository WHERE id = $1 AND type = $2`, id, kind)
		if err == nil && n == 0 {
			return fault.New(fault.NotFound, "No %s matches the given query.", record.ModelName(kind))
		}
		if err != nil {
			return err
		}
		removed := map[string]int64{"container." + record.ModelName(kind): n}
		return taskstore.Complete(t.Tx, claim, taskstore.Outcome{Result: removed})
	})
}

// MigrateRepository turns a push repository into a container repository with the same id and versions
// (compatibility.md#push-repositories). Reservations of tasks for its old href apply to its new one. The error is NotFound
// if there is no such push repository.
func (s *Store) MigrateRepository(ctx context.Context, claim *taskstore.Claim, id string) error {
	return s.content.InTx(ctx, func(t *content.Tx) error {
		n, err := t.Exec(`UPDATE repository SET type = $2, updated = $3 WHERE id = $1 AND type = $4`,
			id, pulp.Container, t.Now, pulp.ContainerPush)
		if err == nil && n == 0 {
			return fault.New(fault.NotFound, "No ContainerPushRepository matches the given query.")
		}
		if err != nil {
			return err
		}
		if err := moveReservations(t, pulp.RepositoryHref(pulp.ContainerPush, id), pulp.RepositoryHref(pulp.Container, id)); err != nil {
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

// moveReservations moves the tasks in the queue of a resource to the queue of another one.
func moveReservations(t *content.Tx, from, to string) error {
	if err := taskstore.LockResources(t.Tx, []string{from, to}); err != nil { // a task may be about to join the queue
		return err
	}
	_, err := t.Exec(`UPDATE task_resource SET resource = $2 WHERE resource = $1 AND active`, from, to)
	return err
}
