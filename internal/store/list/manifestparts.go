package list

import (
	"context"
	"github.com/countersign/countersign/internal/store/record"
	"github.com/countersign/countersign/internal/store/sqldb"
	"strings"
)

// ManifestParts are the ids of the blobs and manifests that a manifest references.
type ManifestParts struct {
	Config   string   // a blob; empty when there is none
	Layers   []string // blobs, in the manifest's order, each once
	Children []string // manifests, in the list's order, each once
}

// edge is a blob or manifest that a manifest references.
type edge struct {
	manifest, unit string
	position       int64
}

func scanEdge(row sqldb.Scanner) (edge, error) {
	var e edge
	err := row.Scan(&e.manifest, &e.position, &e.unit)
	return e, err
}

// ManifestParts returns the parts of manifests by the manifests' ids: configs and layers where blobs is set, children where children is. Absent parts are left
// out, and so are parts in no version of a repository that the user viewer sees: a manifest may reference any digest, and the id of its content would tell that
// somebody else has it. An empty viewer sees everything.
func (s *Store) ManifestParts(ctx context.Context, ids []string, viewer string, blobs, children bool) (map[string]ManifestParts, error) {
	args, seenBlob, seenManifest := []any{sqldb.ToJSON(append([]string{}, ids...))}, "", ""
	if viewer != "" {
		args = append(args, viewer)
		seenBlob = " AND " + strings.ReplaceAll(record.VisibleContent("b.id"), "%s", "$2")
		seenManifest = " AND " + strings.ReplaceAll(record.VisibleContent("m.id"), "%s", "$2")
	}
	var ofBlobs, ofManifests []edge
	var err error
	if blobs {
		ofBlobs, err = sqldb.Collect(ctx, s.db.Read(), scanEdge, `
		SELECT e.manifest_id, MIN(e.position), b.id FROM manifest_blob e JOIN blob b ON b.digest = e.digest
		 WHERE e.manifest_id IN (SELECT j.value FROM json_each($1) j)`+seenBlob+`
		 GROUP BY e.manifest_id, b.id, e.position < 0 ORDER BY 1, 2`, args...)
	}
	if err == nil && children {
		ofManifests, err = sqldb.Collect(ctx, s.db.Read(), scanEdge, `
		SELECT e.manifest_id, MIN(e.position), m.id FROM manifest_child e JOIN manifest m ON m.digest = e.digest
		 WHERE e.manifest_id IN (SELECT j.value FROM json_each($1) j)`+seenManifest+`
		 GROUP BY e.manifest_id, m.id ORDER BY 1, 2`, args...)
	}
	if err != nil {
		return nil, err
	}
	parts := make(map[string]ManifestParts, len(ids))
	for _, e := range ofBlobs {
		p := parts[e.manifest]
		if e.position < 0 {
			p.Config = e.unit
		} else {
			p.Layers = append(p.Layers, e.unit)
		}
		parts[e.manifest] = p
	}
	for _, e := range ofManifests {
		p := parts[e.manifest]
		p.Children = append(p.Children, e.unit)
		parts[e.manifest] = p
	}
	return parts, nil
}
