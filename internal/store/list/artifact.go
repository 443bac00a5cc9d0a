package list

import (
	"context"

	"github.com/countersign/countersign/internal/access"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/record"
	"github.com/countersign/countersign/internal/store/sqldb"
)

// ArtifactList is the list of the blobs whose bytes the server has. It is for administrators only.
var ArtifactList = &List[pulp.Blob]{
	columns: listedBlobColumns, source: ` FROM (SELECT * FROM blob WHERE NOT absent AND NOT deleting) b`, id: "b.id",
	kind: pulp.KindBlob, scan: scanListedBlob,
	fields: with("b", map[string]string{
		"timestamp_of_interest": "b.updated", "digest": "b.digest", "size": "b.size",
		"file": "SUBSTR(b.digest, INSTR(b.digest, ':') + 1)", // in the order of the names of the files
		"md5":  none, "sha1": none, "sha224": none, "sha384": none,
		"sha256": hashOf("sha256"), "sha512": hashOf("sha512"),
	}),
	visible: func(*statement) string { return "FALSE" },
}

// none is the expression of a hash that the server does not know.
const none = "CAST(NULL AS TEXT)"

// hashOf returns the expression of a blob's hash by an algorithm. The server knows the hash of the blob's digest only.
func hashOf(algorithm string) string {
	return "CASE WHEN b.digest LIKE '" + algorithm + ":%' THEN SUBSTR(b.digest, INSTR(b.digest, ':') + 1) END"
}

// HasArtifact returns those of some blobs whose bytes the server has for the viewer: a repository that the viewer sees holds
// the blob with its bytes. A nil viewer sees all blobs.
func (s *Store) HasArtifact(ctx context.Context, blobs []string, viewer *access.Viewer) (map[string]bool, error) {
	b := &statement{viewer: viewer}
	where := ` FROM blob b WHERE NOT b.absent AND NOT b.deleting AND b.id IN ` + b.set(blobs)
	if viewer != nil {
		where += ` AND EXISTS (SELECT 1 FROM repository_content c WHERE c.content_id = b.id AND ` + b.seesRepository("c.repository_id") + `
			AND NOT EXISTS (SELECT 1 FROM blob_claim k WHERE k.repository_id = c.repository_id AND k.blob_id = b.id))`
	}
	found, err := sqldb.Collect(ctx, s.db.ReadComposed(), sqldb.ScanString, b.with+`SELECT b.id`+where, b.args...)
	has := make(map[string]bool, len(found))
	for _, id := range found {
		has[id] = true
	}
	return has, err
}

// ListedContent is a content unit of any kind in a list.
type ListedContent struct {
	ID     string
	Kind   pulp.Kind
	Digest string // of a blob
	Labels pulp.Labels
	pulp.Stamps
}

func scanListedContent(row sqldb.Scanner) (ListedContent, error) {
	var c ListedContent
	var created, updated int64
	err := row.Scan(&c.ID, &c.Kind, &c.Digest, &created, &updated)
	c.Stamps = record.Stamps(created, updated)
	return c, err
}

// ContentList is the list of content units of all kinds.
var ContentList = &List[ListedContent]{
	large:   []large{labelsOf("u")},
	columns: `u.id, u.kind, u.digest, u.created, u.updated, u.pulp_labels`,
	source: ` FROM (
		SELECT id, 1 AS kind, 'container.blob' AS pulp_type, digest, created, updated, updated AS used, pulp_labels FROM blob
		UNION ALL SELECT id, 2, 'container.manifest', '', created, updated, created, pulp_labels FROM manifest
		UNION ALL SELECT id, 3, 'container.tag', '', created, updated, created, pulp_labels FROM tag
		UNION ALL SELECT id, 4, 'container.signature', '', created, updated, created, pulp_labels FROM signature) u`,
	id:      "u.id",
	scan:    withLabels(scanListedContent, func(c *ListedContent, l pulp.Labels) { c.Labels = l }),
	fields:  with("u", map[string]string{"pulp_type": "u.pulp_type", "pulp_labels": "u.pulp_labels", "timestamp_of_interest": "u.used"}),
	visible: seenUnits("u.id"), sparse: true,
}
