package store

import (
	"context"

	"github.com/countersign/countersign/internal/pulp"
)

const versionColumns = `v.id, v.repository_id, r.type, v.number,
	v.blobs_present, v.blobs_added, v.blobs_removed, v.manifests_present, v.manifests_added, v.manifests_removed,
	v.signatures_present, v.signatures_added, v.signatures_removed, v.tags_present, v.tags_added, v.tags_removed,
	v.created, v.updated`

const versionSource = ` FROM repository_version v JOIN repository r ON r.id = v.repository_id`

func scanVersion(row scanner) (pulp.Version, error) {
	var v pulp.Version
	var b, m, g, t pulp.Count
	var created, updated int64
	err := row.Scan(&v.ID, &v.RepositoryID, &v.Type, &v.Number,
		&b.Present, &b.Added, &b.Removed, &m.Present, &m.Added, &m.Removed,
		&g.Present, &g.Added, &g.Removed, &t.Present, &t.Added, &t.Removed, &created, &updated)
	if err != nil {
		return pulp.Version{}, err
	}
	v.Counts = map[pulp.Kind]pulp.Count{pulp.KindBlob: b, pulp.KindManifest: m, pulp.KindSignature: g, pulp.KindTag: t}
	v.Stamps = stamps(created, updated)
	return v, nil
}

// Version returns a repository's version by number. NotFound when there is none.
func (s *Store) Version(ctx context.Context, repositoryID string, number int64) (pulp.Version, error) {
	return version(ctx, s.read, repositoryID, number)
}

func version(ctx context.Context, q querier, repositoryID string, number int64) (pulp.Version, error) {
	v, err := scanVersion(q.QueryRowContext(ctx,
		`SELECT `+versionColumns+versionSource+` WHERE v.repository_id = $1 AND v.number = $2`, repositoryID, number))
	return v, notFound(err, "No RepositoryVersion matches the given query.")
}

func (t *tx) insertVersion(v pulp.Version) error {
	b, m, g, n := v.Counts[pulp.KindBlob], v.Counts[pulp.KindManifest], v.Counts[pulp.KindSignature], v.Counts[pulp.KindTag]
	_, err := t.exec(`
		INSERT INTO repository_version (id, repository_id, number,
			blobs_present, blobs_added, blobs_removed, manifests_present, manifests_added, manifests_removed,
			signatures_present, signatures_added, signatures_removed, tags_present, tags_added, tags_removed, created, updated)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $16)`,
		v.ID, v.RepositoryID, v.Number, b.Present, b.Added, b.Removed, m.Present, m.Added, m.Removed,
		g.Present, g.Added, g.Removed, n.Present, n.Added, n.Removed, t.now)
	return err
}
