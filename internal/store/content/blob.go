package content

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/sqldb"
	"github.com/countersign/countersign/internal/store/uploads"
)

// ErrDeleting is returned for a blob whose bytes are being deleted from the storage. The caller retries when the row
// of the blob is gone, and checks then whether the storage has the bytes.
var ErrDeleting = errors.New("the blob is being deleted")

// NotStoredError is returned for a blob with bytes in the storage whose row is absent: bytes that were stored before a release
// of the blob (Release) are gone. The caller checks that the storage has the bytes now, and calls again with
// pulp.Blob.AbsentSince set to Since.
type NotStoredError struct{ Since time.Time }

// Error implements error.
func (*NotStoredError) Error() string { return "the blob is absent" }

// CommitBlob records a blob as pending in a repository. Its bytes must be durable in the storage registry, or in
// b.Data if b.Inline. If uploadID is not empty, it ends that upload session, whose epoch must match; otherwise the
// error is uploads.ErrUploadGone. The error is ErrDeleting while an older copy of the blob is being deleted, and a
// *NotStoredError if the blob is absent.
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
		id, err := t.putBlob(b, true)
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

// blobRow is the part of a blob's row that decides about a change of it.
type blobRow struct {
	id                string
	deleting, absent  bool
	elsewhere, pushed bool // has another location; was uploaded by a client
	updated           int64
}

// putBlob stores the row of a blob unless it exists, and returns its id. If the stored blob is absent or has another
// location, and b is not absent, the row is updated: the bytes of b are known to be there. pushed says that a client has
// uploaded the blob.
func (t *Tx) putBlob(b pulp.Blob, pushed bool) (string, error) {
	if err := t.LockContentShared(); err != nil {
		return "", err
	}
	var row blobRow
	err := t.Row(`SELECT id, deleting, absent, data IS NULL AND location <> $2, pushed, updated FROM blob WHERE digest = $1`, b.Digest, b.Location).
		Scan(&row.id, &row.deleting, &row.absent, &row.elsewhere, &row.pushed, &row.updated)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return t.insertBlob(b, pushed)
	case err != nil:
		return "", err
	case row.deleting && !(row.absent && b.Absent): // a released blob may be claimed
		return "", ErrDeleting
	}
	if pushed {
		err = t.markPushed(row.id, row.pushed)
	}
	if err == nil {
		err = t.updateBlob(row, b)
	}
	return row.id, err
}

// insertBlob inserts the row of a blob, unless another transaction was faster, and returns its id.
func (t *Tx) insertBlob(b pulp.Blob, pushed bool) (string, error) {
	id := pulp.NewID()
	n, err := t.Exec(`
		INSERT INTO blob (id, digest, size, data, location, absent, pushed, created, updated) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $8)
		ON CONFLICT (digest) DO NOTHING`, id, b.Digest, b.Size, inlineData(b), b.Location, b.Absent, pushed, t.Now)
	if err == nil && n == 0 {
		return sqldb.ScanString(t.Row(`SELECT id FROM blob WHERE digest = $1`, b.Digest))
	}
	return id, err
}

// updateBlob records the bytes of b in the row of the same blob, if they are news. The error is a *NotStoredError if they may
// have been released.
func (t *Tx) updateBlob(row blobRow, b pulp.Blob) error {
	switch {
	case b.Absent:
		return nil
	case row.absent && !b.Inline && sqldb.Micros(b.AbsentSince) != row.updated:
		return &NotStoredError{time.UnixMicro(row.updated)}
	case row.absent:
		_, err := t.Exec(`UPDATE blob SET absent = FALSE, size = $2, data = $3, location = $4, updated = $5 WHERE id = $1`,
			row.id, b.Size, inlineData(b), b.Location, t.Now)
		return err
	case row.elsewhere && !b.Inline: // the bytes are known to be at the new location
		_, err := t.Exec(`UPDATE blob SET location = $2, updated = $3 WHERE id = $1`, row.id, b.Location, t.Now)
		return err
	}
	return nil
}

// inlineData returns the column data of a blob.
func inlineData(b pulp.Blob) any {
	if b.Inline {
		return append([]byte{}, b.Data...)
	}
	return nil
}

// markPushed records that a client has uploaded a blob, unless the row says so. A release leaves such blobs alone.
func (t *Tx) markPushed(blobID string, already bool) error {
	if already {
		return nil
	}
	_, err := t.Exec(`UPDATE blob SET pushed = TRUE WHERE id = $1`, blobID)
	return err
}

// LinkBlob makes another repository's blob pending in this one (a mount). No bytes are copied. The error is
// ErrDeleting as for CommitBlob.
func (s *Store) LinkBlob(ctx context.Context, repositoryID string, b pulp.Blob) error {
	return s.InTx(ctx, func(t *Tx) error {
		if err := t.LockContentShared(); err != nil {
			return err
		}
		var gone, pushed bool
		if err := t.Row(`SELECT deleting OR absent, pushed FROM blob WHERE id = $1`, b.ID).Scan(&gone, &pushed); err != nil {
			return sqldb.NotFound(err, "Blob not found.")
		}
		if gone {
			return ErrDeleting
		}
		if err := t.markPushed(b.ID, pushed); err != nil {
			return err
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
