package content

import (
	"context"

	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/record"
)

// Version returns a repository's version by number. NotFound when there is none.
func (s *Store) Version(ctx context.Context, repositoryID string, number int64) (pulp.Version, error) {
	return record.FindVersion(ctx, s.db.Read(), repositoryID, number)
}

func (t *Tx) InsertVersion(v pulp.Version) error {
	b, m, g, n := v.Counts[pulp.KindBlob], v.Counts[pulp.KindManifest], v.Counts[pulp.KindSignature], v.Counts[pulp.KindTag]
	_, err := t.Exec(`
		INSERT INTO repository_version (id, repository_id, number,
			blobs_present, blobs_added, blobs_removed, manifests_present, manifests_added, manifests_removed,
			signatures_present, signatures_added, signatures_removed, tags_present, tags_added, tags_removed, created, updated)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $16)`,
		v.ID, v.RepositoryID, v.Number, b.Present, b.Added, b.Removed, m.Present, m.Added, m.Removed,
		g.Present, g.Added, g.Removed, n.Present, n.Added, n.Removed, t.Now)
	return err
}
