package list

import (
	"context"

	"github.com/countersign/countersign/internal/access"
	"github.com/countersign/countersign/internal/store/sqldb"
)

// ManifestParts are the ids of the blobs and manifests that a manifest references.
type ManifestParts struct {
	Config   string   // a blob; empty if there is none
	Layers   []string // blobs in the order of the manifest, without duplicates
	Children []string // manifests in the order of the index, without duplicates
}

// edge is a reference of a manifest to a blob or manifest.
type edge struct {
	manifest string
	unit     string
	position int64 // negative for a config
}

func scanEdge(row sqldb.Scanner) (edge, error) {
	var e edge
	err := row.Scan(&e.manifest, &e.position, &e.unit)
	return e, err
}

// ManifestParts returns the parts of manifests by the manifests' ids: configs and layers if blobs is set, children if
// children is set. It omits absent content and content that the viewer does not see in any repository: a manifest may
// reference any digest, and the id of its content would reveal that another user has it. A nil viewer sees all content.
func (s *Store) ManifestParts(
	ctx context.Context, ids []string, viewer *access.Viewer, blobs, children bool,
) (map[string]ManifestParts, error) {
	parts := make(map[string]ManifestParts, len(ids))
	if blobs {
		edges, err := s.edges(ctx, ids, viewer, "b.id", `
			SELECT e.manifest_id, MIN(e.position), b.id FROM manifest_blob e JOIN blob b ON b.digest = e.digest`,
			`e.manifest_id, b.id, e.position < 0`)
		if err != nil {
			return nil, err
		}
		for _, e := range edges {
			p := parts[e.manifest]
			if e.position < 0 {
				p.Config = e.unit
			} else {
				p.Layers = append(p.Layers, e.unit)
			}
			parts[e.manifest] = p
		}
	}
	if children {
		edges, err := s.edges(ctx, ids, viewer, "m.id", `
			SELECT e.manifest_id, MIN(e.position), m.id FROM manifest_child e JOIN manifest m ON m.digest = e.digest`,
			`e.manifest_id, m.id`)
		if err != nil {
			return nil, err
		}
		for _, e := range edges {
			p := parts[e.manifest]
			p.Children = append(p.Children, e.unit)
			parts[e.manifest] = p
		}
	}
	return parts, nil
}

// edges runs a query of references e of manifests and groups its rows. It omits units that the viewer does not see.
func (s *Store) edges(
	ctx context.Context, ids []string, viewer *access.Viewer, unit, query, group string,
) ([]edge, error) {
	b := &statement{viewer: viewer}
	where := ` WHERE e.manifest_id IN ` + b.set(ids)
	if viewer != nil {
		where += " AND " + b.seesContent(unit)
	}
	return sqldb.Collect(ctx, s.db.ReadComposed(), scanEdge, b.with+query+where+` GROUP BY `+group+` ORDER BY 1, 2`, b.args...)
}
