package record

import (
	"context"

	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/sqldb"
)

// VersionColumns are the columns of VersionSource that ScanVersion reads.
const VersionColumns = `v.id, v.repository_id, r.type, v.number,
	v.blobs_present, v.blobs_added, v.blobs_removed, v.manifests_present, v.manifests_added, v.manifests_removed,
	v.signatures_present, v.signatures_added, v.signatures_removed, v.tags_present, v.tags_added, v.tags_removed,
	v.created, v.updated, v.actor, ` + VersionAuthor

// VersionAuthor is the account of a version's author in VersionColumns, which may be deleted.
const VersionAuthor = `COALESCE(v.actor_id, 0)`

// VersionSource is the FROM clause of versions v with their repository r.
const VersionSource = ` FROM repository_version v JOIN repository r ON r.id = v.repository_id`

// ScanVersion reads a repository version with its counts.
func ScanVersion(row sqldb.Scanner) (pulp.Version, error) {
	var v pulp.Version
	var b, m, g, t pulp.Count
	var created, updated int64
	err := row.Scan(&v.ID, &v.RepositoryID, &v.Type, &v.Number,
		&b.Present, &b.Added, &b.Removed, &m.Present, &m.Added, &m.Removed,
		&g.Present, &g.Added, &g.Removed, &t.Present, &t.Added, &t.Removed, &created, &updated, &v.Actor, &v.ActorID)
	if err != nil {
		return pulp.Version{}, err
	}
	v.Counts = map[pulp.Kind]pulp.Count{pulp.KindBlob: b, pulp.KindManifest: m, pulp.KindSignature: g, pulp.KindTag: t}
	v.Stamps = Stamps(created, updated)
	return v, nil
}

// FindVersion returns a version of a repository by its number. The error is NotFound if there is none.
func FindVersion(ctx context.Context, q sqldb.Querier, repositoryID string, number int64) (pulp.Version, error) {
	v, err := ScanVersion(q.QueryRowContext(ctx,
		`SELECT `+VersionColumns+VersionSource+` WHERE v.repository_id = $1 AND v.number = $2`, repositoryID, number))
	return v, sqldb.NotFound(err, "No RepositoryVersion matches the given query.")
}
