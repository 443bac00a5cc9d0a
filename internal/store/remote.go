package store

import (
	"context"
	"database/sql"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
)

const remoteColumns = `m.id, m.name, m.url, m.upstream_name, m.policy, m.includes, m.excludes, m.sigstore, m.connection, m.secrets,
	m.labels, m.created, m.updated`

func scanRemote(row scanner) (pulp.Remote, error) {
	var r pulp.Remote
	var includes, excludes, sigstore sql.NullString
	var connection, secrets, labels string
	var created, updated int64
	err := row.Scan(&r.ID, &r.Name, &r.URL, &r.UpstreamName, &r.Policy, &includes, &excludes, &sigstore, &connection, &secrets, &labels, &created, &updated)
	if err != nil {
		return pulp.Remote{}, err
	}
	r.Sigstore, r.Stamps = pointer(sigstore), stamps(created, updated)
	for _, column := range []struct {
		name string
		text sql.NullString
		to   any
	}{
		{"includes", includes, &r.Includes},
		{"excludes", excludes, &r.Excludes},
		{"connection", sql.NullString{String: connection, Valid: true}, &r.Connection},
		{"secrets", sql.NullString{String: secrets, Valid: true}, &r.Secrets},
		{"labels", sql.NullString{String: labels, Valid: true}, &r.Labels},
	} {
		if !column.text.Valid {
			continue
		}
		if err := fromJSON("remote."+column.name, column.text.String, column.to); err != nil {
			return pulp.Remote{}, err
		}
	}
	return r, nil
}

// jsonList is a list for a JSON column; nil is NULL.
func jsonList(list []string) sql.NullString {
	if list == nil {
		return sql.NullString{}
	}
	return sql.NullString{String: toJSON(list), Valid: true}
}

// remoteValues are the values of a remote's own columns, in the order of remoteColumns.
func remoteValues(r pulp.Remote) []any {
	if r.Labels == nil {
		r.Labels = pulp.Labels{}
	}
	return []any{
		r.ID, r.Name, r.URL, r.UpstreamName, r.Policy, jsonList(r.Includes), jsonList(r.Excludes), nullText(r.Sigstore),
		toJSON(r.Connection), toJSON(r.Secrets), toJSON(r.Labels),
	}
}

// Remote returns the remote with this id. NotFound when there is none.
func (s *Store) Remote(ctx context.Context, id string) (pulp.Remote, error) {
	return remote(ctx, s.read, id)
}

func remote(ctx context.Context, q querier, id string) (pulp.Remote, error) {
	r, err := scanRemote(q.QueryRowContext(ctx, `SELECT `+remoteColumns+` FROM remote m WHERE m.id = $1`, id))
	return r, notFound(err, "No ContainerRemote matches the given query.")
}

// CreateRemote keeps a new remote and returns it with its id. A taken name is a field error.
func (s *Store) CreateRemote(ctx context.Context, r pulp.Remote) (pulp.Remote, error) {
	err := s.inTx(ctx, func(t *tx) error {
		r.ID, r.Stamps = pulp.NewID(), stamps(t.now, t.now)
		_, err := t.exec(`
			INSERT INTO remote (id, name, url, upstream_name, policy, includes, excludes, sigstore, connection, secrets, labels, created, updated)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $12)`, append(remoteValues(r), t.now)...)
		return uniqueName(err)
	})
	return r, err
}

// uniqueName turns a violated uniqueness into the error of the field name.
func uniqueName(err error) error {
	if isUnique(err) {
		return fault.Field("name", "This field must be unique.")
	}
	return err
}

// EditRemote changes a remote by a function and completes the task whose result that is; claim is nil outside a task. A taken name is a field
// error. It returns the remote as it is afterwards.
func (s *Store) EditRemote(ctx context.Context, claim *Claim, id string, edit func(*pulp.Remote)) (pulp.Remote, error) {
	var r pulp.Remote
	err := s.inTx(ctx, func(t *tx) error {
		err := t.lockRow("remote", id)
		if err != nil {
			return err
		}
		if r, err = remote(t.ctx, t, id); err != nil {
			return err
		}
		before := r
		edit(&r)
		r.ID, r.Updated = id, fromMicros(t.now)
		_, err = t.exec(`
			UPDATE remote SET name = $2, url = $3, upstream_name = $4, policy = $5, includes = $6, excludes = $7, sigstore = $8,
			       connection = $9, secrets = $10, labels = $11, updated = $12
			 WHERE id = $1`, append(remoteValues(r), t.now)...)
		if err := uniqueName(err); err != nil {
			return err
		}
		if !r.SameSource(before) {
			if err := t.forgiveSource(id); err != nil {
				return err
			}
		}
		return t.complete(claim, Outcome{Result: r})
	})
	return r, err
}

// DeleteRemote removes a remote and completes the task whose result that is. Repositories that are mirrored from it stay, without a remote; absent
// blobs of which it is the only source cannot be served until a sync finds them at another remote, or a client pushes them. NotFound when there is none.
func (s *Store) DeleteRemote(ctx context.Context, claim *Claim, id string) error {
	return s.inTx(ctx, func(t *tx) error {
		n, err := t.exec(`DELETE FROM remote WHERE id = $1`, id)
		if err == nil && n == 0 {
			return fault.New(fault.NotFound, "No ContainerRemote matches the given query.")
		}
		if err != nil {
			return err
		}
		return t.complete(claim, Outcome{Result: map[string]int64{"container.ContainerRemote": n}})
	})
}

// BlobSources returns the remotes that a blob was synced from, newest first.
func (s *Store) BlobSources(ctx context.Context, blobID string) ([]pulp.Remote, error) {
	return collect(ctx, s.read, scanRemote, `
		SELECT `+remoteColumns+` FROM blob_source b JOIN remote m ON m.id = b.remote_id WHERE b.blob_id = $1 ORDER BY m.id DESC`, blobID)
}
