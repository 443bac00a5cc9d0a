package list

import (
	"context"
	"encoding/json"
	"maps"
	"strings"

	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/record"
	"github.com/countersign/countersign/internal/store/sqldb"
)

// contentFields returns the fields of a kind of content.
func contentFields(alias string, kind pulp.Kind, more map[string]string) map[string]string {
	fields := common(alias)
	fields["pulp_labels"] = alias + ".pulp_labels"
	fields["pulp_type"] = "CAST('" + kind.String() + "' AS TEXT)"
	fields["timestamp_of_interest"] = alias + ".created"
	maps.Copy(fields, more)
	return fields
}

// labelsOf is the data of a unit's labels.
func labelsOf(alias string) large {
	return large{attributes: []string{"pulp_labels"}, column: alias + ".pulp_labels", instead: "'{}'"}
}

// withLabels returns the scan function of a unit whose last column has its labels, and set stores them.
func withLabels[T any](scan func(sqldb.Scanner) (T, error), set func(*T, pulp.Labels)) func(sqldb.Scanner) (T, error) {
	return func(row sqldb.Scanner) (T, error) {
		var text string
		v, err := scan(sqldb.WithMore(row, &text))
		if err != nil {
			return v, err
		}
		var labels pulp.Labels
		err = sqldb.FromJSON("pulp_labels", text, &labels)
		set(&v, labels)
		return v, err
	}
}

// seenUnits returns the visibility of content: units of any version of a repository that the viewer sees.
func seenUnits(id string) visibility {
	return func(b *statement) string { return b.seesContent(id) }
}

// TagList is the list of tags. Each pair of a name and a manifest is a tag of its own.
var TagList = &List[pulp.Tag]{
	large:   []large{labelsOf("t")},
	columns: `t.id, t.name, t.manifest_id, t.created, t.updated, t.pulp_labels`, source: ` FROM tag t`, id: "t.id", kind: pulp.KindTag,
	scan: withLabels(record.ScanTag, func(t *pulp.Tag, l pulp.Labels) { t.Labels = l }),
	fields: contentFields("t", pulp.KindTag, map[string]string{
		"name":       "t.name",
		"media_type": "(SELECT m.media_type FROM manifest m WHERE m.id = t.manifest_id)",
		"digest":     "(SELECT m.digest FROM manifest m WHERE m.id = t.manifest_id)",
	}),
	visible: seenUnits("t.id"), sparse: true,
}

// Tags lists tags. Each pair of a name and a manifest is a tag of its own.
func (s *Store) Tags(ctx context.Context, q Query) ([]pulp.Tag, int64, error) {
	return TagList.Rows(ctx, s, q)
}

// ManifestList is the list of manifests without their payloads, layers and children; see ManifestParts.
var ManifestList = &List[ListedManifest]{
	long: []string{"architecture", "os"},
	large: []large{
		{attributes: []string{"annotations"}, column: "m.annotations", instead: "'{}'"},
		{attributes: []string{"labels"}, column: "m.labels", instead: "'{}'"},
		{attributes: []string{"architecture"}, column: "m.architecture", instead: "NULL"},
		{attributes: []string{"os"}, column: "m.os", instead: "NULL"},
		{attributes: []string{"listed_manifests"}, size: "100 * (SELECT COUNT(*) FROM manifest_child e WHERE e.manifest_id = m.id)"},
		{attributes: []string{"config_blob", "blobs"}, size: "100 * (SELECT COUNT(*) FROM manifest_blob e WHERE e.manifest_id = m.id)"},
		labelsOf("m"),
	},
	columns: strings.NewReplacer("m.payload", "x''", "m.artifact_type", "''").Replace(record.ManifestColumns) +
		`, m.annotations, m.labels, m.pulp_labels`,
	source: ` FROM manifest m`, id: "m.id", kind: pulp.KindManifest,
	scan: withLabels(scanListedManifest, func(m *ListedManifest, l pulp.Labels) { m.UnitLabels = l }),
	fields: contentFields("m", pulp.KindManifest, map[string]string{
		"digest": "m.digest", "media_type": "m.media_type", "schema_version": "m.schema_version", "type": "m.type",
		"architecture": "m.architecture", "os": "m.os", "compressed_image_size": "m.image_size",
		"is_bootable": natureFields["is_bootable"], "is_flatpak": natureFields["is_flatpak"],
	}),
	visible: seenUnits("m.id"), sparse: true,
}

// ListedManifest is a manifest in a list.
type ListedManifest struct {
	pulp.Manifest                             // without Annotations and Labels
	RawAnnotations, RawLabels json.RawMessage // JSON objects
	UnitLabels                pulp.Labels     // of the unit, not of the image's config
}

func scanListedManifest(row sqldb.Scanner) (ListedManifest, error) {
	var m ListedManifest
	var annotations, labels string
	var err error
	m.Manifest, err = record.ScanManifest(sqldb.WithMore(row, &annotations, &labels))
	m.RawAnnotations, m.RawLabels = json.RawMessage(annotations), json.RawMessage(labels)
	return m, err
}

// Manifests lists manifests without their payloads, layers and children; see ManifestParts.
func (s *Store) Manifests(ctx context.Context, q Query) ([]ListedManifest, int64, error) {
	return ManifestList.Rows(ctx, s, q)
}

// listedBlobColumns are the columns of a blob b without its bytes that scanListedBlob reads.
var listedBlobColumns = strings.Replace(record.BlobColumns, "b.data,", "NULL,", 1) + `, b.pulp_labels`

var scanListedBlob = withLabels(record.ScanBlob, func(b *pulp.Blob, l pulp.Labels) { b.Labels = l })

// BlobList is the list of blobs without their bytes.
var BlobList = &List[pulp.Blob]{
	large:   []large{labelsOf("b")},
	columns: listedBlobColumns, source: ` FROM blob b`, id: "b.id", kind: pulp.KindBlob, scan: scanListedBlob,
	fields:  contentFields("b", pulp.KindBlob, map[string]string{"digest": "b.digest", "timestamp_of_interest": "b.updated"}),
	visible: seenUnits("b.id"), sparse: true,
}

// Blobs lists blobs without their bytes.
func (s *Store) Blobs(ctx context.Context, q Query) ([]pulp.Blob, int64, error) {
	return BlobList.Rows(ctx, s, q)
}

// SignatureList is the list of signatures without their content.
var SignatureList = &List[pulp.Signature]{
	long: []string{"creator"},
	large: []large{
		{attributes: []string{"creator"}, column: "g.creator", instead: "''"},
		{attributes: []string{"docker_reference"}, column: "g.reference", instead: "''"},
		{attributes: []string{"verified", "signing_services"}, size: "LENGTH(g.content)"},
		labelsOf("g"),
	},
	columns: strings.Replace(record.SignatureColumns, "g.content", "x''", 1) + `, g.pulp_labels`,
	source:  ` FROM signature g`, id: "g.id", kind: pulp.KindSignature,
	scan: withLabels(record.ScanSignature, func(g *pulp.Signature, l pulp.Labels) { g.Labels = l }),
	fields: contentFields("g", pulp.KindSignature, map[string]string{
		"name": "g.name", "digest": "g.digest", "key_id": "g.key_id", "fingerprint": "g.fingerprint", "timestamp": "g.signed_at",
		"creator":  "g.creator",
		"manifest": "(SELECT m.digest FROM manifest m WHERE m.id = g.manifest_id)",
	}),
	visible: seenUnits("g.id"), sparse: true,
}

// Signatures lists signatures without their content.
func (s *Store) Signatures(ctx context.Context, q Query) ([]pulp.Signature, int64, error) {
	return SignatureList.Rows(ctx, s, q)
}
