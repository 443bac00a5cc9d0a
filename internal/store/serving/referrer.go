package serving

import (
	"context"
	"encoding/json"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/record"
	"github.com/countersign/countersign/internal/store/sqldb"
)

// Referrer is a manifest with a subject, as a descriptor of the referrers API.
type Referrer struct {
	ID           string
	MediaType    string
	Digest       digest.Digest
	Size         int64 // of the manifest, in bytes
	ArtifactType string
	Annotations  json.RawMessage // a JSON object; nil when it is empty
}

// Bounds of one page of referrers.
const (
	referrerSize = 300   // about how many bytes a referrer without annotations takes in an answer
	referrersMax = 1_000 // entries
)

// ServedReferrers returns the manifests of a target, in its version or pending, with this subject, in the order of
// their ids, after the id after. It returns as many as take about limit bytes in a response, at least one, and
// whether there are more. If artifactType is not empty, only manifests of that type are returned. Annotations are
// read only of the returned manifests.
func (s *Store) ServedReferrers(ctx context.Context, t record.Target, subject digest.Digest, artifactType, after string, limit int) (found []Referrer, more bool, err error) {
	ids, err := sqldb.Collect(ctx, s.db.Read(), sqldb.ScanString, `
		SELECT m.id FROM manifest m
		 WHERE m.subject = $1 AND ($2 = '' OR m.artifact_type = $2) AND m.id > $6 AND (EXISTS (
			SELECT 1 FROM repository_content c
			 WHERE c.repository_id = $3 AND c.kind = $4 AND c.key = m.digest AND `+record.InServedVersion(t.Version(), `$5`)+`)
			OR ($5 = -1 AND `+record.IsPending("$3", "$4", "m.digest")+`))
		 ORDER BY m.id LIMIT $7`, subject, artifactType, t.Repository.ID, pulp.KindManifest, t.Version(), after, referrersMax+1)
	if err != nil || len(ids) == 0 {
		return nil, false, err
	}
	sizes, err := sqldb.Collect(ctx, s.db.Read(), func(row sqldb.Scanner) (int, error) {
		var n int
		err := row.Scan(&n)
		return n, err
	}, `SELECT LENGTH(m.annotations) + LENGTH(m.artifact_type) FROM manifest m WHERE m.id IN (SELECT j.value FROM json_each($1) j) ORDER BY m.id`, sqldb.ToJSON(ids))
	if err != nil {
		return nil, false, err
	}
	n, size := 0, 0
	for ; n < min(len(sizes), referrersMax); n++ {
		if size += referrerSize + sizes[n]; size > limit && n > 0 {
			break
		}
	}
	found, err = sqldb.Collect(ctx, s.db.Read(), scanReferrer, `
		SELECT m.id, m.media_type, m.digest, length(m.payload), m.artifact_type, m.annotations FROM manifest m
		 WHERE m.id IN (SELECT j.value FROM json_each($1) j) ORDER BY m.id`, sqldb.ToJSON(ids[:n]))
	return found, n < len(ids), err
}

func scanReferrer(row sqldb.Scanner) (Referrer, error) {
	var r Referrer
	var annotations string
	err := row.Scan(&r.ID, &r.MediaType, &r.Digest, &r.Size, &r.ArtifactType, &annotations)
	if annotations != "{}" {
		r.Annotations = json.RawMessage(annotations)
	}
	return r, err
}
