package content

import (
	"context"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/record"
	"github.com/countersign/countersign/internal/store/sqldb"
)

// Reclaim selects blobs whose bytes may be released: those that mirrors among some repositories hold, and that their remotes
// have too (compatibility.md#reclaiming-space).
type Reclaim struct {
	Repositories []string      // ids; nil: all repositories
	Keep         []KeptVersion // whose blobs stay
}

// KeptVersion identifies a repository version.
type KeptVersion struct {
	RepositoryID string `json:"repository"`
	Number       int64  `json:"number"`
}

// Releasable is a blob whose bytes may be released if all of some remotes have it.
type Releasable struct {
	ID      string
	Digest  digest.Digest
	Size    int64
	Remotes []string // ids of the remotes of the mirrors that hold it
}

// releasable is the condition that the bytes of a blob b may be released. The arguments are those of Reclaim.args. ok is a
// condition on the remote x.remote_id of a mirror r.
//
// A repository that claims the blob does not use the stored bytes, so it does not count. Blobs that a client has uploaded,
// that are pending, or that a sync has fetched for the next version stay.
func releasable(ok string) string {
	return `b.data IS NULL AND NOT b.absent AND NOT b.deleting AND NOT b.pushed AND b.digest <> '` + string(pulp.EmptyLayer) + `'
	AND NOT EXISTS (SELECT 1 FROM unversioned_content x WHERE x.content_id = b.id)
	AND EXISTS (SELECT 1 FROM repository_content c WHERE c.content_id = b.id AND ` + holds + `)
	AND NOT EXISTS (SELECT 1 FROM repository_content c WHERE c.content_id = b.id AND ` + holds + ` AND NOT (
		($1 OR c.repository_id IN (SELECT j.value FROM json_each($2) j))
		AND NOT EXISTS (
			SELECT 1 FROM json_each($3) j WHERE json_extract(j.value, '$.repository') = c.repository_id
			   AND ` + record.InVersion(`CAST(json_extract(j.value, '$.number') AS BIGINT)`) + `)
		AND EXISTS (
			SELECT 1 FROM repository r JOIN blob_source x ON x.remote_id = r.remote_id
			 WHERE r.id = c.repository_id AND x.blob_id = b.id AND ` + ok + `)))`
}

// holds is the condition that the repository of a row c has the bytes of the blob of the row.
const holds = `NOT EXISTS (SELECT 1 FROM blob_claim k WHERE k.repository_id = c.repository_id AND k.blob_id = c.content_id)`

// args are the arguments of releasable.
func (r Reclaim) args() []any {
	return []any{
		r.Repositories == nil, sqldb.ToJSON(append([]string{}, r.Repositories...)), sqldb.ToJSON(append([]KeptVersion{}, r.Keep...)),
	}
}

// Releasable returns blobs whose bytes may be released if their remotes still have them, in the order of their ids: at most
// limit, after the id after.
func (s *Store) Releasable(ctx context.Context, r Reclaim, after string, limit int) ([]Releasable, error) {
	type row struct {
		Releasable
		remote string
	}
	rows, err := sqldb.Collect(ctx, s.db.Read(), func(from sqldb.Scanner) (v row, err error) {
		err = from.Scan(&v.ID, &v.Digest, &v.Size, &v.remote)
		return v, err
	}, `
		SELECT DISTINCT p.id, p.digest, p.size, r.remote_id FROM (
			SELECT b.id, b.digest, b.size FROM blob b WHERE b.id > $4 AND b.id IN (
				SELECT c.content_id FROM repository r JOIN repository_content c ON c.repository_id = r.id
				 WHERE r.remote_id IS NOT NULL AND c.kind = $5 AND ($1 OR r.id IN (SELECT j.value FROM json_each($2) j)))
			   AND `+releasable(`TRUE`)+` ORDER BY b.id LIMIT $6) p
		  JOIN repository_content c ON c.content_id = p.id JOIN repository r ON r.id = c.repository_id
		 WHERE `+holds+` ORDER BY p.id, r.remote_id`, append(r.args(), after, pulp.KindBlob, limit)...)
	var found []Releasable
	for _, v := range rows {
		if n := len(found); n == 0 || found[n-1].ID != v.ID {
			found = append(found, v.Releasable)
		}
		last := &found[len(found)-1]
		last.Remotes = append(last.Remotes, v.remote)
	}
	return found, err
}

// Released is a blob whose bytes no repository uses any more. The caller deletes them and calls EndRelease.
type Released struct {
	ID       string
	Digest   digest.Digest
	Location string
	Size     int64
}

func scanReleased(row sqldb.Scanner) (Released, error) {
	var b Released
	err := row.Scan(&b.ID, &b.Digest, &b.Location, &b.Size)
	return b, err
}

// Release makes blobs absent, and their repositories claim them of their remotes, if they may be released. The remotes of each
// blob must have the blob. It returns the released blobs. Nobody can record bytes of them until EndRelease.
func (s *Store) Release(ctx context.Context, r Reclaim, blobs []Releasable) ([]Released, error) {
	var ids, sources []string
	for _, b := range blobs {
		ids = append(ids, b.ID)
		for _, remote := range b.Remotes {
			sources = append(sources, b.ID+" "+remote)
		}
	}
	return InTx(ctx, s, func(t *Tx) ([]Released, error) {
		if err := t.LockContent(); err != nil {
			return nil, err
		}
		released, err := sqldb.Collect(t.Ctx, t, scanReleased, `
			SELECT b.id, b.digest, b.location, b.size FROM blob b WHERE b.id IN (SELECT j.value FROM json_each($4) j)
			   AND `+releasable(`b.id || ' ' || x.remote_id IN (SELECT j.value FROM json_each($5) j)`)+` ORDER BY b.id`,
			append(r.args(), sqldb.ToJSON(ids), sqldb.ToJSON(sources))...)
		if err != nil || len(released) == 0 {
			return nil, err
		}
		return released, t.claimReleased(released)
	})
}

// claimReleased makes blobs absent, which the repositories that hold them claim of their remotes.
func (t *Tx) claimReleased(released []Released) error {
	ids := make([]string, len(released))
	for i, b := range released {
		ids[i] = b.ID
	}
	// Each statement has the same arguments. PostgreSQL takes $2 for a 32-bit integer where no column gives its type.
	for _, statement := range []string{`
		INSERT INTO blob_claim (repository_id, blob_id, remote_id, size)
		SELECT DISTINCT c.repository_id, b.id, r.remote_id, b.size
		  FROM json_each($1) j JOIN blob b ON b.id = j.value JOIN repository_content c ON c.content_id = b.id JOIN repository r ON r.id = c.repository_id
		 WHERE CAST($2 AS BIGINT) > 0
		ON CONFLICT (repository_id, blob_id) DO NOTHING`, `
		INSERT INTO claim_source (repository_id, blob_id, remote_id)
		SELECT k.repository_id, k.blob_id, k.remote_id FROM json_each($1) j JOIN blob_claim k ON k.blob_id = j.value
		 WHERE k.remote_id IS NOT NULL AND CAST($2 AS BIGINT) > 0
		ON CONFLICT (repository_id, blob_id, remote_id) DO NOTHING`, `
		UPDATE blob SET absent = TRUE, deleting = TRUE, updated = $2 WHERE id IN (SELECT j.value FROM json_each($1) j)`,
	} {
		if _, err := t.Exec(statement, sqldb.ToJSON(ids), t.Now); err != nil {
			return err
		}
	}
	return nil
}

// UnendedReleases returns released blobs whose bytes are to be deleted, at most limit: those of a process that was killed.
func (s *Store) UnendedReleases(ctx context.Context, limit int) ([]Released, error) {
	return sqldb.Collect(ctx, s.db.Read(), scanReleased,
		`SELECT b.id, b.digest, b.location, b.size FROM blob b WHERE b.deleting AND b.absent ORDER BY b.id LIMIT $1`, limit)
}

// EndRelease records that the bytes of a released blob are deleted. New bytes can be recorded from then on.
func (s *Store) EndRelease(ctx context.Context, id string) error {
	return s.InTx(ctx, func(t *Tx) error {
		// The change of updated tells bytes that were stored before the deletion from later ones.
		_, err := t.Exec(`
			UPDATE blob SET deleting = FALSE, updated = CASE WHEN updated < $2 THEN $2 ELSE updated + 1 END
			 WHERE id = $1 AND absent AND deleting`, id, t.Now)
		return err
	})
}
