package store

import (
	"context"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/pulp"
)

// Referrer is a manifest that refers to another, as the referrers API tells of it.
type Referrer struct {
	ID           string
	MediaType    string
	Digest       digest.Digest
	Size         int64 // of the manifest, in bytes
	ArtifactType string
	Annotations  map[string]string
}

// referrerSize is about how many bytes a referrer without annotations takes in an answer.
const referrerSize = 300

// ServedReferrers returns the manifests of a target, in its version or pending, whose subject is a digest, oldest first, behind the one with
// the id after: as many as take about so many bytes in an answer, at least one, and whether there are more. An artifact type narrows
// them when it is not empty.
func (s *Store) ServedReferrers(ctx context.Context, t Target, subject digest.Digest, artifactType, after string, limit int) (found []Referrer, more bool, err error) {
	rows, err := s.read.QueryContext(ctx, `
		SELECT m.id, m.media_type, m.digest, length(m.payload), m.artifact_type, m.annotations FROM manifest m
		 WHERE m.subject = $1 AND ($2 = '' OR m.artifact_type = $2) AND m.id > $6 AND (EXISTS (
			SELECT 1 FROM repository_content c
			 WHERE c.repository_id = $3 AND c.kind = $4 AND c.key = m.digest AND `+in(t.version(), `$5`)+`) OR ($5 = -1 AND EXISTS (
			SELECT 1 FROM pending_content p WHERE p.repository_id = $3 AND p.kind = $4 AND p.key = m.digest)))
		 ORDER BY m.id`, subject, artifactType, t.Repository.ID, pulp.KindManifest, t.version(), after)
	if err != nil {
		return nil, false, err
	}
	defer func() { _ = rows.Close() }()
	for size := 0; rows.Next(); {
		var r Referrer
		var annotations string
		if err := rows.Scan(&r.ID, &r.MediaType, &r.Digest, &r.Size, &r.ArtifactType, &annotations); err != nil {
			return nil, false, err
		}
		if size += referrerSize + len(annotations); size > limit && len(found) > 0 {
			return found, true, nil
		}
		if err := fromJSON("manifest.annotations", annotations, &r.Annotations); err != nil {
			return nil, false, err
		}
		found = append(found, r)
	}
	return found, false, rows.Err()
}
