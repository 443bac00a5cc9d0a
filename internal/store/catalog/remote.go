package catalog

import (
	"context"
	"reflect"

	"github.com/countersign/countersign/internal/access"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/content"
	"github.com/countersign/countersign/internal/store/record"
	"github.com/countersign/countersign/internal/store/sqldb"
	"github.com/countersign/countersign/internal/store/taskstore"
)

// remoteValues returns the values of a remote's columns: id, name, url, upstream_name, policy, includes, excludes, sigstore,
// connection, secrets, labels.
func remoteValues(r pulp.Remote) []any {
	if r.Labels == nil {
		r.Labels = pulp.Labels{}
	}
	return []any{
		r.ID, r.Name, r.URL, r.UpstreamName, r.Policy, sqldb.JSONList(r.Includes), sqldb.JSONList(r.Excludes), sqldb.NullText(r.Sigstore),
		sqldb.ToJSON(r.Connection), sqldb.ToJSON(r.Secrets), sqldb.ToJSON(r.Labels),
	}
}

// Remote returns the remote with an id. The error is NotFound if there is none.
func (s *Store) Remote(ctx context.Context, id string) (pulp.Remote, error) {
	return record.FindRemote(ctx, s.db.Read(), id)
}

// CreateRemote stores a new remote and returns it with its id. The account owner gets the owner's role; 0 for none. The
// error has the field "name" if the name is taken.
func (s *Store) CreateRemote(ctx context.Context, r pulp.Remote, owner int64) (pulp.Remote, error) {
	return content.InTx(ctx, s.content, func(t *content.Tx) (pulp.Remote, error) {
		created := r
		created.ID, created.Stamps = pulp.NewID(), record.Stamps(t.Now, t.Now)
		_, err := t.Exec(`
			INSERT INTO remote (id, name, url, upstream_name, policy, includes, excludes, sigstore, connection, secrets, labels,
			       created, updated)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $12)`, append(remoteValues(created), t.Now)...)
		if err != nil {
			return created, uniqueName(err)
		}
		return created, s.own(t, owner, access.RemoteOwner, access.Remote, created.ID)
	})
}

// EditRemote changes a remote with edit and returns it as it is afterwards. The error is NotFound if there is no such
// remote, Invalid if the remote belongs to a pull-through cache and the edit changes more than its labels, and has the field
// "name" if the name is taken.
func (s *Store) EditRemote(ctx context.Context, claim *taskstore.Claim, id string, edit func(*pulp.Remote)) (pulp.Remote, error) {
	return content.InTx(ctx, s.content, func(t *content.Tx) (r pulp.Remote, err error) {
		if err := t.LockRow("remote", id); err != nil {
			return r, err
		}
		before, err := record.FindRemote(t.Ctx, t, id)
		if err != nil {
			return r, err
		}
		r = before
		edit(&r)
		r.ID, r.Updated = id, sqldb.FromMicros(t.Now)
		if before.CacheID != "" {
			return editCacheRemote(t, claim, before, r)
		}
		_, err = t.Exec(`
			UPDATE remote SET name = $2, url = $3, upstream_name = $4, policy = $5, includes = $6, excludes = $7, sigstore = $8,
			       connection = $9, secrets = $10, labels = $11, updated = $12
			 WHERE id = $1`, append(remoteValues(r), t.Now)...)
		if err := uniqueName(err); err != nil {
			return r, err
		}
		if !r.SameSource(before) {
			if err := t.ForgiveSource(id); err != nil {
				return r, err
			}
		}
		return r, taskstore.Complete(t.Tx, claim, taskstore.Outcome{Result: r})
	})
}

// ErrCacheRemote is the error of an edit of the remote of a cached repository.
var ErrCacheRemote = fault.New(fault.Invalid, "The remote belongs to a pull-through cache. Change its pull-through remote instead.")

// editCacheRemote is EditRemote for the remote of a cached repository. Its settings are those of the pull-through remote.
func editCacheRemote(t *content.Tx, claim *taskstore.Claim, before, after pulp.Remote) (pulp.Remote, error) {
	unlabeled := after
	unlabeled.Labels, unlabeled.Stamps = before.Labels, before.Stamps
	if !reflect.DeepEqual(unlabeled, before) {
		return after, ErrCacheRemote
	}
	if _, err := t.Exec(`UPDATE remote SET labels = $2, updated = $3 WHERE id = $1`, after.ID, sqldb.ToJSON(after.Labels), t.Now); err != nil {
		return after, err
	}
	return after, taskstore.Complete(t.Tx, claim, taskstore.Outcome{Result: after})
}

// DeleteRemote deletes a remote. Its mirrors remain, without a remote. Absent blobs whose only source it is cannot be served
// until a sync finds them at another remote or a client pushes them. The error is NotFound if there is no such remote.
func (s *Store) DeleteRemote(ctx context.Context, claim *taskstore.Claim, id string) error {
	return s.content.InTx(ctx, func(t *content.Tx) error {
		n, err := t.Exec(`DELETE FROM remote WHERE id = $1`, id)
		if err == nil && n == 0 {
			return fault.New(fault.NotFound, "No ContainerRemote matches the given query.")
		}
		if err != nil {
			return err
		}
		return taskstore.Complete(t.Tx, claim, taskstore.Outcome{Result: map[string]int64{"container.ContainerRemote": n}})
	})
}
