package upstreamstate

import (
	"context"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/content"
	"github.com/countersign/countersign/internal/store/sqldb"
)

// UpstreamTag is the state of a tag in this registry, for a comparison with the upstream.
type UpstreamTag struct {
	Name string
	Here digest.Digest // in the latest version; empty if the tag is not in it
	// Late are the digests of earlier writes that may still arrive at the upstream. An empty digest stands for a deletion.
	Late []digest.Digest
	// Undeleted are digests that the upstream still has for the tag because it does not support deletion.
	Undeleted []digest.Digest
	Dirty     bool  // the tag is in the outbox
	Attempts  int   // rejected writes since the last change
	Serial    int64 // number of changes of the tag here; 0 if there was none
}

// Ours reports whether the upstream may have a digest for the tag because of an earlier write or a failed deletion by this
// registry.
func (t UpstreamTag) Ours(d digest.Digest) bool {
	return slices.Contains(t.Late, d) || slices.Contains(t.Undeleted, d)
}

// UpstreamTag returns a tag of a repository. Only Name is set for a tag that the repository never had.
func (s *Store) UpstreamTag(ctx context.Context, repositoryID, name string) (UpstreamTag, error) {
	tags, err := s.upstreamTags(ctx, repositoryID, ` AND name = $3`, name)
	t := tags[name]
	t.Name = name
	return t, err
}

// UpstreamTags returns the tags of a repository's latest version and those ever recorded in the outbox, by name.
func (s *Store) UpstreamTags(ctx context.Context, repositoryID string) (map[string]UpstreamTag, error) {
	return s.upstreamTags(ctx, repositoryID, "")
}

// upstreamTags returns the tags of a repository that satisfy a condition on the column name; its argument is $3.
func (s *Store) upstreamTags(ctx context.Context, repositoryID, condition string, name ...any) (map[string]UpstreamTag, error) {
	all, err := sqldb.Collect(ctx, s.db.Read(), scanUpstreamTag, `
		SELECT n.name, COALESCE(m.digest, ''), COALESCE(u.dirty, FALSE), COALESCE(u.attempts, 0), COALESCE(u.serial, 0)
		  FROM (SELECT key AS name FROM repository_content
		         WHERE repository_id = $1 AND kind = $2 AND version_removed IS NULL`+strings.ReplaceAll(condition, "name", "key")+`
		        UNION SELECT name FROM upstream_tag WHERE repository_id = $1`+condition+`) n
		  LEFT JOIN repository_content c ON c.repository_id = $1 AND c.kind = $2 AND c.key = n.name AND c.version_removed IS NULL
		  LEFT JOIN tag t ON t.id = c.content_id
		  LEFT JOIN manifest m ON m.id = t.manifest_id
		  LEFT JOIN upstream_tag u ON u.repository_id = $1 AND u.name = n.name`, append([]any{repositoryID, pulp.KindTag}, name...)...)
	if err != nil {
		return nil, err
	}
	tags := make(map[string]UpstreamTag, len(all))
	for _, t := range all {
		tags[t.Name] = t
	}
	stale, err := sqldb.Collect(ctx, s.db.Read(), scanStale,
		`SELECT name, digest, ends FROM upstream_stale WHERE repository_id = $1 AND ends >= $2`+condition,
		append([]any{repositoryID, sqldb.Micros(s.db.Now())}, name...)...)
	for _, e := range stale {
		t := tags[e.name]
		if t.Name = e.name; e.ends == forever {
			t.Undeleted = append(t.Undeleted, e.digest)
		} else {
			t.Late = append(t.Late, e.digest)
		}
		tags[e.name] = t
	}
	return tags, err
}

func scanUpstreamTag(row sqldb.Scanner) (UpstreamTag, error) {
	var t UpstreamTag
	err := row.Scan(&t.Name, &t.Here, &t.Dirty, &t.Attempts, &t.Serial)
	return t, err
}

// staleDigest is a digest that the upstream may have for a tag because of an earlier write by this registry.
type staleDigest struct {
	name   string
	digest digest.Digest // empty: the upstream may lack the tag
	ends   int64         // the latest time, in microseconds; forever if the upstream did not delete the tag
}

func scanStale(row sqldb.Scanner) (staleDigest, error) {
	var e staleDigest
	err := row.Scan(&e.name, &e.digest, &e.ends)
	return e, err
}

// RewriteTag records a tag in the outbox, so that it is written to the upstream again.
func (s *Store) RewriteTag(ctx context.Context, repositoryID, name string) error {
	return s.content.InTx(ctx, func(t *content.Tx) error {
		return t.RecordTags(`VALUES ($1, $2)`, repositoryID, name)
	})
}
