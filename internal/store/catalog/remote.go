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

// remoteValues are the values of a remote's own columns, in the order of remoteColumns.
func remoteValues(r pulp.Remote) []any {
	if r.Labels == nil {
		r.Labels = pulp.Labels{}
	}
	return []any{
		r.ID, r.Name, r.URL, r.UpstreamName, r.Policy, sqldb.JSONList(r.Includes), sqldb.JSONList(r.Excludes), sqldb.NullText(r.Sigstore),
		sqldb.ToJSON(r.Connection), sqldb.ToJSON(r.Secrets), sqldb.ToJSON(r.Labels),
	}
}

// Remote returns the remote with this id. NotFound when there is none.
func (s *Store) Remote(ctx context.Context, id string) (pulp.Remote, error) {
	return record.FindRemote(ctx, s.db.Read(), id)
}

// CreateRemote keeps a new remote and returns it with its id. A taken name is a field error.
func (s *Store) CreateRemote(ctx context.Context, r pulp.Remote) (pulp.Remote, error) {
	err := s.content.InTx(ctx, func(t *content.Tx) error {
		r.ID, r.Stamps = pulp.NewID(), record.Stamps(t.Now, t.Now)
		_, err := t.Exec(`
			INSERT INTO remote (id, name, url, upstream_name, policy, includes, excludes, sigstore, connection, secrets, labels, created, updated)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $12)`, append(remoteValues(r), t.Now)...)
		return uniqueName(err)
	})
	return r, err
}

// uniqueName turns a violated uniqueness into the error of the field name.
func uniqueName(err error) error {
	if sqldb.IsUnique(err) {
		return fault.Field("name", "This field must be unique.")
	}
	return err
}

// EditRemote changes a remote by a function and completes the task whose result that is; claim is nil outside a task. A taken name is a field
// error. It returns the remote as it is afterwards.
func (s *Store) EditRemote(ctx context.Context, claim *taskstore.Claim, id string, edit func(*pulp.Remote)) (pulp.Remote, error) {
	var r pulp.Remote
	err := s.content.InTx(ctx, func(t *content.Tx) error {
		err := t.LockRow("remote", id)
		if err != nil {
			return err
		}
		if r, err = record.FindRemote(t.Ctx, t, id); err != nil {
			return err
		}
		before := r
		edit(&r)
		r.ID, r.Updated = id, sqldb.FromMicros(t.Now)
		_, err = t.Exec(`
			UPDATE remote SET name = $2, url = $3, upstream_name = $4, policy = $5, includes = $6, excludes = $7, sigstore = $8,
			       connection = $9, secrets = $10, labels = $11, updated = $12
			 WHERE id = $1`, append(remoteValues(r), t.Now)...)
		if err := uniqueName(err); err != nil {
			return err
		}
		if !r.SameSource(before) {
			if err := t.ForgiveSource(id); err != nil {
				return err
			}
		}
		return taskstore.Complete(t.Tx, claim, taskstore.Outcome{Result: r})
	})
	return r, err
}

// DeleteRemote removes a remote and completes the task whose result that is. Repositories that are mirrored from it stay, without a remote; absent
// blobs of which it is the only source cannot be served until a sync finds them at another remote, or a client pushes them. NotFound when there is none.
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
