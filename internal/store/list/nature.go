package list

import (
	"context"

	"github.com/countersign/countersign/internal/access"
	"github.com/countersign/countersign/internal/store/sqldb"
)

// ofType returns the condition that a manifest m has a type or is an index with an image of that type, at any depth, that
// the viewer sees.
func ofType(name string) string {
	return `(m.type = '` + name + `' OR m.type = 'index' AND EXISTS (
		WITH RECURSIVE listed (id, type) AS (
			SELECT k.id, k.type FROM manifest_child e JOIN manifest k ON k.digest = e.digest
			 WHERE e.manifest_id = m.id AND %see(k.id)
			UNION SELECT k.id, k.type FROM listed l JOIN manifest_child e ON e.manifest_id = l.id JOIN manifest k ON k.digest = e.digest
			 WHERE %see(k.id))
		SELECT 1 FROM listed WHERE listed.type = '` + name + `'))`
}

// Nature is the kind of image that a manifest is or, if it is an index, lists.
type Nature struct{ Bootable, Flatpak bool }

// natureFields are the fields of a manifest m with its nature.
var natureFields = map[string]string{"is_bootable": ofType("bootable"), "is_flatpak": ofType("flatpak")}

// natured is a Nature with the manifest's id.
type natured struct {
	id string
	Nature
}

func scanNature(row sqldb.Scanner) (natured, error) {
	var n natured
	err := row.Scan(&n.id, &n.Bootable, &n.Flatpak)
	return n, err
}

// ManifestNatures returns the natures of manifests by the manifests' ids, like the fields is_bootable and is_flatpak. It
// considers the images in an index that the viewer sees; a nil viewer sees all.
func (s *Store) ManifestNatures(ctx context.Context, ids []string, viewer *access.Viewer) (map[string]Nature, error) {
	b := &statement{fields: natureFields, viewer: viewer}
	rest := b.field("is_bootable") + `, ` + b.field("is_flatpak") + ` FROM manifest m WHERE m.id IN ` + b.set(ids)
	rows, err := sqldb.Collect(ctx, s.db.ReadComposed(), scanNature, b.with+`SELECT m.id, `+rest, b.args...)
	natures := make(map[string]Nature, len(rows))
	for _, r := range rows {
		natures[r.id] = r.Nature
	}
	return natures, err
}
