package record

import (
	"context"
	"database/sql"

	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/sqldb"
)

// RemoteColumns are the columns of RemoteSource that ScanRemote reads.
const RemoteColumns = `m.id, m.name, COALESCE(p.url, m.url), m.upstream_name, m.policy, m.includes, m.excludes, ` +
	RemoteSigstore + `, ` + RemoteConnection + `, ` + RemoteSecrets + `, m.labels, FALSE, COALESCE(p.id, ''), m.created, m.updated`

// The columns in RemoteColumns that the remotes of cached repositories have from their pull-through remotes. Lists replace
// those that are not shown.
const (
	RemoteSigstore   = `CASE WHEN p.id IS NULL THEN m.sigstore ELSE p.sigstore END`
	RemoteConnection = `COALESCE(p.connection, m.connection)`
	RemoteSecrets    = `COALESCE(p.secrets, m.secrets)` //nolint:gosec // the text of a column
)

// RemoteJoin joins the pull-through remotes p of remotes m.
const RemoteJoin = ` LEFT JOIN pull_through_remote p ON p.id = m.pull_through_id`

// RemoteSource is the FROM clause of remotes m with their pull-through remotes p.
const RemoteSource = ` FROM remote m` + RemoteJoin

// PullThroughRemoteColumns are the columns of a pull-through remote m that ScanRemote reads.
const PullThroughRemoteColumns = `m.id, m.name, m.url, '', 'on_demand', m.includes, m.excludes, m.sigstore, m.connection, m.secrets,
	m.labels, TRUE, '', m.created, m.updated`

// ScanRemote reads a remote.
func ScanRemote(row sqldb.Scanner) (pulp.Remote, error) {
	var r pulp.Remote
	var includes, excludes, sigstore sql.NullString
	var connection, secrets, labels string
	var created, updated int64
	err := row.Scan(&r.ID, &r.Name, &r.URL, &r.UpstreamName, &r.Policy, &includes, &excludes, &sigstore, &connection, &secrets, &labels,
		&r.PullThrough, &r.CacheID, &created, &updated)
	if err != nil {
		return pulp.Remote{}, err
	}
	r.Sigstore, r.Stamps = sqldb.Pointer(sigstore), Stamps(created, updated)
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
		if err := sqldb.FromJSON("remote."+column.name, column.text.String, column.to); err != nil {
			return pulp.Remote{}, err
		}
	}
	return r, nil
}

// FindRemote returns the remote with an id. The error is NotFound if there is none.
func FindRemote(ctx context.Context, q sqldb.Querier, id string) (pulp.Remote, error) {
	r, err := ScanRemote(q.QueryRowContext(ctx, `SELECT `+RemoteColumns+RemoteSource+` WHERE m.id = $1`, id))
	return r, sqldb.NotFound(err, "No ContainerRemote matches the given query.")
}

// FindPullThroughRemote returns the pull-through remote with an id. The error is NotFound if there is none.
func FindPullThroughRemote(ctx context.Context, q sqldb.Querier, id string) (pulp.Remote, error) {
	r, err := ScanRemote(q.QueryRowContext(ctx, `SELECT `+PullThroughRemoteColumns+` FROM pull_through_remote m WHERE m.id = $1`, id))
	return r, sqldb.NotFound(err, "No ContainerPullThroughRemote matches the given query.")
}
