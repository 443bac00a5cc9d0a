package content

import (
	"database/sql"
	"errors"

	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/record"
	"github.com/countersign/countersign/internal/store/sqldb"
)

// putManifest stores the row of a manifest and its references, unless it exists, and returns its id.
func (t *Tx) putManifest(m pulp.Manifest) (string, error) {
	var id string
	err := t.Row(`SELECT id FROM manifest WHERE digest = $1`, m.Digest).Scan(&id)
	if err == nil || !errors.Is(err, sql.ErrNoRows) {
		return id, err
	}
	id = pulp.NewID()
	var config string
	if m.Config != nil {
		config = string(m.Config.Digest)
	}
	n, err := t.Exec(`
		INSERT INTO manifest (id, digest, media_type, schema_version, payload, config_digest, subject, artifact_type,
			annotations, labels, type, architecture, os, image_size, created, updated)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $15) ON CONFLICT (digest) DO NOTHING`,
		id, m.Digest, m.MediaType, m.SchemaVersion, m.Payload, sqldb.NullIfEmpty(config), sqldb.NullIfEmpty(string(m.Subject)), m.ArtifactType,
		sqldb.ToJSON(emptyNotNil(m.Annotations)), sqldb.ToJSON(emptyNotNil(m.Labels)), m.Type, sqldb.NullText(m.Architecture), sqldb.NullText(m.OS), sqldb.NullInt(m.ImageSize), t.Now)
	if err == nil && n == 0 { // another transaction was faster
		return sqldb.ScanString(t.Row(`SELECT id FROM manifest WHERE digest = $1`, m.Digest))
	}
	if err != nil {
		return "", err
	}
	if config != "" {
		if _, err := t.Exec(`INSERT INTO manifest_blob (manifest_id, position, digest) VALUES ($1, -1, $2)`, id, config); err != nil {
			return "", err
		}
	}
	for i, l := range m.Layers {
		if _, err := t.Exec(`INSERT INTO manifest_blob (manifest_id, position, digest, optional) VALUES ($1, $2, $3, $4)`,
			id, i, l.Digest, len(l.URLs) > 0 || pulp.IsForeign(l.MediaType)); err != nil {
			return "", err
		}
	}
	for i, child := range m.Children {
		if _, err := t.Exec(`INSERT INTO manifest_child (manifest_id, position, digest) VALUES ($1, $2, $3)`, id, i, child.Digest); err != nil {
			return "", err
		}
	}
	return id, nil
}

// emptyNotNil returns m, or an empty map if it is nil.
func emptyNotNil(m map[string]string) map[string]string {
	if m == nil {
		return map[string]string{}
	}
	return m
}

// blobsOf returns the digests of a stored manifest's config and layers.
func (t *Tx) blobsOf(manifestID string) ([]string, error) {
	return sqldb.Collect(t.Ctx, t, sqldb.ScanString, `SELECT DISTINCT digest FROM manifest_blob WHERE manifest_id = $1`, manifestID)
}

// childrenOf returns the digests of the children of a stored index.
func (t *Tx) childrenOf(manifestID string) ([]string, error) {
	return sqldb.Collect(t.Ctx, t, sqldb.ScanString, `SELECT DISTINCT digest FROM manifest_child WHERE manifest_id = $1`, manifestID)
}

// addManifest adds a manifest to the repository with its pending content: its blobs, its children with theirs, and
// the signatures that were uploaded before (compatibility.md#uploaded-signatures).
func (c *Change) addManifest(key, id string) error {
	type item struct{ digest, id string }
	queue, seen := []item{{key, id}}, map[string]bool{key: true}
	for len(queue) > 0 {
		m := queue[0]
		queue = queue[1:]
		if err := c.Add(pulp.KindManifest, m.digest, m.id); err != nil {
			return err
		}
		if err := c.addParts(m.id); err != nil {
			return err
		}
		children, err := c.Tx.childrenOf(m.id)
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

// addParts adds the pending blobs and pending signatures of a manifest.
func (c *Change) addParts(manifestID string) error {
	blobs, err := c.Tx.blobsOf(manifestID)
	if err != nil {
		return err
	}
	for _, d := range blobs {
		id, ok, err := c.pending(pulp.KindBlob, d)
		if err != nil {
			return err
		}
		if ok {
			if err := c.Add(pulp.KindBlob, d, id); err != nil {
				return err
			}
		}
	}
	staged, err := sqldb.Collect(c.Tx.Ctx, c.Tx, scanUnit, `
		SELECT p.key, p.content_id FROM unversioned_content p JOIN signature g ON g.id = p.content_id
		 WHERE `+record.Pending("$1")+` AND p.kind = $2 AND g.manifest_id = $3`, c.Repo.ID, pulp.KindSignature, manifestID)
	if err != nil {
		return err
	}
	for _, g := range staged {
		if err := c.Add(pulp.KindSignature, g.key, g.id); err != nil {
			return err
		}
	}
	return nil
}

// unit is a content unit with its key in a repository.
type unit struct{ key, id string }

func scanUnit(row sqldb.Scanner) (unit, error) {
	var u unit
	err := row.Scan(&u.key, &u.id)
	return u, err
}
