package content

import (
	"context"
	"database/sql"
	"errors"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/sqldb"
	"github.com/countersign/countersign/internal/store/uploads"
)

// ErrDeleting is returned for a blob whose bytes are being deleted from the storage. The caller retries when the row
// of the blob is gone, and checks then whether the storage has the bytes.
var ErrDeleting = errors.New("the blob is being deleted")

// CommitBlob records a blob as pending in a repository. Its bytes must be durable in the storage registry, or in
// b.Data if b.Inline. If uploadID is not empty, it ends that upload session, whose epoch must match; otherwise the
// error is uploads.ErrUploadGone. The error is ErrDeleting while an older copy of the blob is being deleted.
func (s *Store) CommitBlob(ctx context.Context, repositoryID string, b pulp.Blob, uploadID string, epoch int64) error {
	return s.InTx(ctx, func(t *Tx) error {
		if uploadID != "" {
			n, err := t.Exec(`DELETE FROM upload WHERE id = $1 AND repository_id = $2 AND epoch = $3`, uploadID, repositoryID, epoch)
			if err != nil {
				return err
			}
			if n == 0 {
				return uploads.ErrUploadGone
			}
		}
		id, err := t.putBlob(b)
		if err != nil {
			return err
		}
		if err := t.proven(repositoryID, id, ""); err != nil {
			return err
		}
		return t.PutPending(repositoryID, pulp.KindBlob, string(b.Digest), id)
	})
}

// MoveBlob changes the name under which the upstream stores the bytes of a blob, if the recorded name is from.
func (s *Store) MoveBlob(ctx context.Context, d digest.Digest, from, to string) error {
	return s.InTx(ctx, func(t *Tx) error {
		_, err := t.Exec(`UPDATE blob SET location = $3, updated = $4 WHERE digest = $1 AND location = $2`, d, from, to, t.Now)
		return err
	})
}

// putBlob stores the row of a blob unless it exists, and returns its id. If the stored blob is absent or has another
// location, and b is not absent, the row is updated: the bytes of b are known to be there.
func (t *Tx) putBlob(b pulp.Blob) (string, error) {
	var id string
	var deleting, absent, elsewhere bool
	var data any
	if b.Inline {
		data = append([]byte{}, b.Data...)
	}
	if err := t.LockContentShared(); err != nil {
		return "", err
	}
	err := t.Row(`SELECT id, deleting, absent, data IS NULL AND location <> $2 FROM blob WHERE digest = $1`, b.Digest, b.Location).Scan(&id, &deleting, &absent, &elsewhere)
	switch {
	case err == nil && deleting:
		return "", ErrDeleting
	case err == nil && absent && !b.Absent:
		_, err = t.Exec(`UPDATE blob SET absent = FALSE, size = $2, data = $3, location = $4, updated = $5 WHERE id = $1`, id, b.Size, data, b.Location, t.Now)
		return id, err
	case err == nil && elsewhere && !b.Absent && !b.Inline: // the bytes are known to be at the new location
		_, err = t.Exec(`UPDATE blob SET location = $2, updated = $3 WHERE id = $1`, id, b.Location, t.Now)
		return id, err
	case err == nil:
		return id, nil
	case !errors.Is(err, sql.ErrNoRows):
		return "", err
	}
	id = pulp.NewID()
	n, err := t.Exec(`
		INSERT INTO blob (id, digest, size, data, location, absent, created, updated) VALUES ($1, $2, $3, $4, $5, $6, $7, $7) ON CONFLICT (digest) DO NOTHING`,
		id, b.Digest, b.Size, data, b.Location, b.Absent, t.Now)
	if err == nil && n == 0 { // another transaction was faster
		return sqldb.ScanString(t.Row(`SELECT id FROM blob WHERE digest = $1`, b.Digest))
	}
	return id, err
}

// LinkBlob makes another repository's blob pending in this one (a mount). No bytes are copied. The error is
// ErrDeleting as for CommitBlob.
func (s *Store) LinkBlob(ctx context.Context, repositoryID string, b pulp.Blob) error {
	return s.InTx(ctx, func(t *Tx) error {
		if err := t.LockContentShared(); err != nil {
			return err
		}
		var deleting bool
		if err := t.Row(`SELECT deleting FROM blob WHERE id = $1`, b.ID).Scan(&deleting); err != nil {
			return sqldb.NotFound(err, "Blob not found.")
		}
		if deleting {
			return ErrDeleting
		}
		if err := t.proven(repositoryID, b.ID, ""); err != nil {
			return err
		}
		return t.PutPending(repositoryID, pulp.KindBlob, string(b.Digest), b.ID)
	})
}

// TouchBlob begins the grace period of a pending blob anew. A blob that is not pending is no error.
func (s *Store) TouchBlob(ctx context.Context, repositoryID string, dgst digest.Digest) error {
	return s.InTx(ctx, func(t *Tx) error {
		return t.touch(reasonPending, repositoryID, pulp.KindBlob, string(dgst))
	})
}
