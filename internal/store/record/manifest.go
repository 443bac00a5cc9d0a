package record

import (
	"database/sql"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/sqldb"
)

// ManifestColumns are the columns of a manifest m that ScanManifest reads.
const ManifestColumns = `m.id, m.digest, m.media_type, m.schema_version, m.payload, COALESCE(m.config_digest, ''), COALESCE(m.subject, ''),
	m.artifact_type, m.type, m.architecture, m.os, m.image_size, m.created, m.updated`

// ScanManifest reads a manifest without its layers, children, annotations and labels. Config has only its digest.
func ScanManifest(row sqldb.Scanner) (pulp.Manifest, error) {
	var m pulp.Manifest
	var config string
	var architecture, os sql.NullString
	var size sql.NullInt64
	var created, updated int64
	err := row.Scan(&m.ID, &m.Digest, &m.MediaType, &m.SchemaVersion, &m.Payload, &config, &m.Subject,
		&m.ArtifactType, &m.Type, &architecture, &os, &size, &created, &updated)
	if err != nil {
		return pulp.Manifest{}, err
	}
	if config != "" {
		m.Config = &pulp.Descriptor{Digest: digest.Digest(config)}
	}
	m.Architecture, m.OS, m.Stamps = sqldb.Pointer(architecture), sqldb.Pointer(os), Stamps(created, updated)
	if size.Valid {
		m.ImageSize = &size.Int64
	}
	return m, nil
}
