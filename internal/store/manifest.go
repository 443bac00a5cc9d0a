package store

import (
	"context"
	"database/sql"
	"errors"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/pulp"
)

const manifestColumns = `m.id, m.digest, m.media_type, m.schema_version, m.payload, COALESCE(m.config_digest, ''), COALESCE(m.subject, ''),
	m.artifact_type, m.type, m.architecture, m.os, m.image_size, m.created, m.updated`

// scanManifest reads a manifest without its layers, children, annotations and labels; of the config it has the digest alone.
func scanManifest(row scanner) (pulp.Manifest, error) {
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
	m.Architecture, m.OS, m.Stamps = pointer(architecture), pointer(os), stamps(created, updated)
	if size.Valid {
		m.ImageSize = &size.Int64
	}
	return m, nil
}

// Manifest returns the manifest with this id. NotFound when there is none.
func (s *Store) Manifest(ctx context.Context, id string) (pulp.Manifest, error) {
	m, err := scanManifest(s.read.QueryRowContext(ctx, `SELECT `+manifestColumns+` FROM manifest m WHERE m.id = $1`, id))
	return m, notFound(err, "No Manifest matches the given query.")
}

// Payload returns the exact bytes of the manifest with this id. NotFound when there is none.
func (s *Store) Payload(ctx context.Context, id string) ([]byte, error) {
	var b []byte
	err := s.read.QueryRowContext(ctx, `SELECT payload FROM manifest WHERE id = $1`, id).Scan(&b)
	return b, notFound(err, "No Manifest matches the given query.")
}

// ManifestByDigest returns the manifest with this digest, wherever it is. NotFound when there is none.
func (s *Store) ManifestByDigest(ctx context.Context, d digest.Digest) (pulp.Manifest, error) {
	m, err := scanManifest(s.read.QueryRowContext(ctx, `SELECT `+manifestColumns+` FROM manifest m WHERE m.digest = $1`, d))
	return m, notFound(err, "No Manifest matches the given query.")
}

// putManifest stores a manifest's row and what it names, unless it is there, and returns its id.
func (t *tx) putManifest(m pulp.Manifest) (string, error) {
	var id string
	err := t.row(`SELECT id FROM manifest WHERE digest = $1`, m.Digest).Scan(&id)
	if err == nil || !errors.Is(err, sql.ErrNoRows) {
		return id, err
	}
	id = pulp.NewID()
	var config string
	if m.Config != nil {
		config = string(m.Config.Digest)
	}
	n, err := t.exec(`
		INSERT INTO manifest (id, digest, media_type, schema_version, payload, config_digest, subject, artifact_type,
			annotations, labels, type, architecture, os, image_size, created, updated)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $15) ON CONFLICT (digest) DO NOTHING`,
		id, m.Digest, m.MediaType, m.SchemaVersion, m.Payload, null(config), null(string(m.Subject)), m.ArtifactType,
		toJSON(emptyNotNil(m.Annotations)), toJSON(emptyNotNil(m.Labels)), m.Type, nullText(m.Architecture), nullText(m.OS), nullInt(m.ImageSize), t.now)
	if err == nil && n == 0 { // another process was faster
		return scanString(t.row(`SELECT id FROM manifest WHERE digest = $1`, m.Digest))
	}
	if err != nil {
		return "", err
	}
	if config != "" {
		if _, err := t.exec(`INSERT INTO manifest_blob (manifest_id, position, digest) VALUES ($1, -1, $2)`, id, config); err != nil {
			return "", err
		}
	}
	for i, l := range m.Layers {
		if _, err := t.exec(`INSERT INTO manifest_blob (manifest_id, position, digest, optional) VALUES ($1, $2, $3, $4)`,
			id, i, l.Digest, len(l.URLs) > 0 || pulp.IsForeign(l.MediaType)); err != nil {
			return "", err
		}
	}
	for i, child := range m.Children {
		if _, err := t.exec(`INSERT INTO manifest_child (manifest_id, position, digest) VALUES ($1, $2, $3)`, id, i, child.Digest); err != nil {
			return "", err
		}
	}
	return id, nil
}

func emptyNotNil(m map[string]string) map[string]string {
	if m == nil {
		return map[string]string{}
	}
	return m
}

// blobsOf returns the digests of a stored manifest's config and layers.
func (t *tx) blobsOf(manifestID string) ([]string, error) {
	return collect(t.ctx, t, scanString, `SELECT DISTINCT digest FROM manifest_blob WHERE manifest_id = $1`, manifestID)
}

// childrenOf returns the digests of the manifests that a stored list names.
func (t *tx) childrenOf(manifestID string) ([]string, error) {
	return collect(t.ctx, t, scanString, `SELECT DISTINCT digest FROM manifest_child WHERE manifest_id = $1`, manifestID)
}

// addManifest puts a manifest into the repository with everything of it that the repository has or was sent: its blobs, its
// children with theirs, and the signatures that were sent ahead (D6, D23).
func (c *change) addManifest(key, id string) error {
	type item struct{ digest, id string }
	queue, seen := []item{{key, id}}, map[string]bool{key: true}
	for len(queue) > 0 {
		m := queue[0]
		queue = queue[1:]
		if err := c.add(pulp.KindManifest, m.digest, m.id); err != nil {
			return err
		}
		if err := c.addParts(m.id); err != nil {
			return err
		}
		children, err := c.tx.childrenOf(m.id)
		if err != nil {
			return err
		}
		for _, child := range children {
			if seen[child] {
				continue
			}
			seen[child] = true
			id, ok, err := c.pending(pulp.KindManifest, child)
			if err != nil {
				return err
			}
			if ok { // a child that is in the version already has its parts there
				queue = append(queue, item{child, id})
			}
		}
	}
	return nil
}

// addParts adds a manifest's pending blobs and staged signatures.
func (c *change) addParts(manifestID string) error {
	blobs, err := c.tx.blobsOf(manifestID)
	if err != nil {
		return err
	}
	for _, d := range blobs {
		id, ok, err := c.pending(pulp.KindBlob, d)
		if err != nil {
			return err
		}
		if ok {
			if err := c.add(pulp.KindBlob, d, id); err != nil {
				return err
			}
		}
	}
	staged, err := collect(c.tx.ctx, c.tx, scanUnit, `
		SELECT p.key, p.content_id FROM pending_content p JOIN signature g ON g.id = p.content_id
		 WHERE p.repository_id = $1 AND p.kind = $2 AND g.manifest_id = $3`, c.repo.ID, pulp.KindSignature, manifestID)
	if err != nil {
		return err
	}
	for _, g := range staged {
		if err := c.add(pulp.KindSignature, g.key, g.id); err != nil {
			return err
		}
	}
	return nil
}

// unit is a content unit as a repository knows it.
type unit struct{ key, id string }

func scanUnit(row scanner) (unit, error) {
	var u unit
	err := row.Scan(&u.key, &u.id)
	return u, err
}
