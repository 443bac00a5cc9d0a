package record

import (
	"github.com/countersign/countersign/internal/store/sqldb"
	"strings"
	"time"
)

// lackedFor is how long a remote that answered 404 for a blob is not asked for it again. A sync that finds the blob listed by
// the remote, and a change of the remote, end the time.
const lackedFor = 5 * time.Minute

// SourceOf returns the expression for the remote that is asked next for the blob of a claim k; NULL if there is none. Remotes
// that have not failed come first, then the one that listed the blob last. since is the placeholder of LackedSince.
//
// A claim whose own remote has no row in claim_source was written by an older version of Countersign.
func SourceOf(since string) string {
	return strings.ReplaceAll(`COALESCE(
		(SELECT s.remote_id FROM claim_source s WHERE s.repository_id = k.repository_id AND s.blob_id = k.blob_id AND s.lacked < $since
		  ORDER BY s.failed, CASE WHEN s.remote_id = k.remote_id THEN 0 ELSE 1 END, s.remote_id LIMIT 1),
		CASE WHEN NOT EXISTS (SELECT 1 FROM claim_source s WHERE s.repository_id = k.repository_id AND s.blob_id = k.blob_id AND s.remote_id = k.remote_id) THEN k.remote_id END)`,
		"$since", since)
}

// LackedSince returns the time, in microseconds, before which an answer 404 no longer counts.
func LackedSince() int64 { return sqldb.Micros(time.Now().Add(-lackedFor)) }

// WithoutSource returns the condition that a blob b is unavailable to the repository of the claim k, which may be NULL: the
// repository has no bytes and no remote to ask. since is the placeholder of LackedSince.
func WithoutSource(since string) string {
	return `(b.absent AND k.blob_id IS NULL OR k.blob_id IS NOT NULL AND ` + SourceOf(since) + ` IS NULL)`
}
