package record

import (
	"context"
	"database/sql"

	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/sqldb"
)

// DistributionColumns are the columns of DistributionSource that ScanDistribution reads.
const DistributionColumns = `d.id, d.name, d.base_path, COALESCE(d.repository_id, ''), COALESCE(r.type, ''),
	COALESCE(pv.id, ''), COALESCE(pv.repository_id, ''), COALESCE(pv.number, 0),
	d.namespace_id, d.private, d.hidden, d.description, d.labels, FALSE,
	CASE WHEN d.pull_through_id IS NULL THEN '' ELSE COALESCE(r.remote_id, '') END, COALESCE(d.pull_through_id, ''), d.created, d.updated`

// PullThroughColumns are the columns of a pull-through distribution d that ScanDistribution reads.
const PullThroughColumns = `d.id, d.name, d.base_path, '', '', '', '', 0,
	d.namespace_id, d.private, d.hidden, d.description, d.labels, TRUE, COALESCE(d.remote_id, ''), '', d.created, d.updated`

// DistributionSource is the FROM clause of distributions d with the version pv that they are pinned to and their repository r.
const DistributionSource = ` FROM distribution d
	LEFT JOIN repository_version pv ON pv.id = d.repository_version_id
	LEFT JOIN repository r ON r.id = COALESCE(d.repository_id, pv.repository_id)`

// distributionRow holds the destinations of DistributionColumns.
type distributionRow struct {
	value            pulp.Distribution
	pinned           pulp.PinnedVersion
	description      sql.NullString
	labels           string
	created, updated int64
}

func (x *distributionRow) dests() []any {
	d, p := &x.value, &x.pinned
	return []any{
		&d.ID, &d.Name, &d.BasePath, &d.RepositoryID, &d.Repository, &p.VersionID, &p.RepositoryID, &p.Number,
		&d.NamespaceID, &d.Private, &d.Hidden, &x.description, &x.labels, &d.PullThrough, &d.RemoteID, &d.CacheID, &x.created, &x.updated,
	}
}

func (x *distributionRow) distribution() (pulp.Distribution, error) {
	d := x.value
	if x.pinned.VersionID != "" {
		d.Pinned = &x.pinned
	}
	d.Description, d.Stamps = sqldb.Pointer(x.description), Stamps(x.created, x.updated)
	return d, sqldb.FromJSON("distribution.labels", x.labels, &d.Labels)
}

// ScanDistribution reads a distribution.
func ScanDistribution(row sqldb.Scanner) (pulp.Distribution, error) {
	var x distributionRow
	if err := row.Scan(x.dests()...); err != nil {
		return pulp.Distribution{}, err
	}
	return x.distribution()
}

// FindDistribution returns the distribution with an id. The error is NotFound if there is none.
func FindDistribution(ctx context.Context, q sqldb.Querier, id string) (pulp.Distribution, error) {
	d, err := ScanDistribution(q.QueryRowContext(ctx, `SELECT `+DistributionColumns+DistributionSource+` WHERE d.id = $1`, id))
	return d, sqldb.NotFound(err, "No ContainerDistribution matches the given query.")
}

// FindPullThrough returns the pull-through distribution with an id. The error is NotFound if there is none.
func FindPullThrough(ctx context.Context, q sqldb.Querier, id string) (pulp.Distribution, error) {
	d, err := ScanDistribution(q.QueryRowContext(ctx, `SELECT `+PullThroughColumns+` FROM pull_through_distribution d WHERE d.id = $1`, id))
	return d, sqldb.NotFound(err, "No ContainerPullThroughDistribution matches the given query.")
}
