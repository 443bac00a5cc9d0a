package record

import (
	"github.com/countersign/countersign/internal/store/sqldb"
	"strings"
	"time"
)

// lackedFor is how long a remote that said it has no such blob is not asked for it again. A sync that finds the blob listed there, and a change of the remote, end that.
const lackedFor = 5 * time.Minute

// sourceOf is the expression for the remote that a claim k is asked of next; NULL when there is none. Remotes that have not failed come first, then the one that listed the blob last. since is the
// placeholder for the time before which an answer that the blob is not there counts no more.
//
// A claim whose own remote has no row in claim_source was written by an older version of this program.
func SourceOf(since string) string {
	return strings.ReplaceAll(`COALESCE(
		(SELECT s.remote_id FROM claim_source s WHERE s.repository_id = k.repository_id AND s.blob_id = k.blob_id AND s.lacked < $since
		  ORDER BY s.failed, CASE WHEN s.remote_id = k.remote_id THEN 0 ELSE 1 END, s.remote_id LIMIT 1),
		CASE WHEN NOT EXISTS (SELECT 1 FROM claim_source s WHERE s.repository_id = k.repository_id AND s.blob_id = k.blob_id AND s.remote_id = k.remote_id) THEN k.remote_id END)`,
		"$since", since)
}

// lackedSince returns the argument for the placeholder of sourceOf.
func LackedSince() int64 { return sqldb.Micros(time.Now().Add(-lackedFor)) }

// withoutSource is the condition that a blob b cannot be had by the repository with the claim k, if there is one: it has no bytes, and no remote that may have them.
func WithoutSource(since string) string {
	return `(b.absent AND k.blob_id IS NULL OR k.blob_id IS NOT NULL AND ` + SourceOf(since) + ` IS NULL)`
}
