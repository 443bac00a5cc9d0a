package uploads

import (
	"context"
	"time"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/sqldb"
)

// ErrUploadGone is the NotFound error of an upload session that has ended or that another writer has moved to a later epoch.
var ErrUploadGone = fault.New(fault.NotFound, "Upload not found.")

// Upload is an upload session: a blob that a client is sending into a repository. Each write moves it to the next epoch; a writer
// that holds an earlier epoch gets ErrUploadGone.
type Upload struct {
	ID           string
	RepositoryID string
	Repository   string // its name
	Epoch        int64
	Size         int64  // bytes acknowledged
	Data         []byte // all bytes of a small upload without a StorageRef
	StorageRef   string // the storage's reference to the bytes
	Claimed      bool   // a request writes to the storage's session; StorageRef is empty meanwhile
	Touched      time.Time
}

// claimed replaces the storage's reference in the row while a request has claimed the session. No storage has such a reference.
const claimed = "claimed"

// CreateUpload opens an empty session in a repository, in epoch 0. It may be lost on power failure; its client then starts again.
func (s *Store) CreateUpload(ctx context.Context, repositoryID string) (Upload, error) {
	return sqldb.InTxNoSync(ctx, s.db, func(t *sqldb.Tx) (Upload, error) {
		u := Upload{ID: pulp.NewID(), RepositoryID: repositoryID, Touched: sqldb.FromMicros(t.Now)}
		_, err := t.Exec(`INSERT INTO upload (id, repository_id, created, touched) VALUES ($1, $2, $3, $3)`, u.ID, repositoryID, t.Now)
		return u, err
	})
}

// Upload returns a session of a repository. The error is NotFound if the repository has no such session.
func (s *Store) Upload(ctx context.Context, repositoryID, id string) (Upload, error) {
	u, err := ScanUpload(s.db.Read().QueryRowContext(ctx, `
		SELECT `+UploadColumns+` FROM upload WHERE id = $1 AND repository_id = $2`, id, repositoryID))
	return u, sqldb.NotFound(err, "Upload not found.")
}

// UploadColumns are the columns that ScanUpload reads.
const UploadColumns = `id, repository_id, (SELECT name FROM repository WHERE id = repository_id), epoch, size, data, storage_ref, touched`

// ScanUpload reads an upload session.
func ScanUpload(row sqldb.Scanner) (Upload, error) {
	var u Upload
	var touched int64
	err := row.Scan(&u.ID, &u.RepositoryID, &u.Repository, &u.Epoch, &u.Size, &u.Data, &u.StorageRef, &touched)
	u.Touched = sqldb.FromMicros(touched)
	if u.StorageRef == claimed {
		u.StorageRef, u.Claimed = "", true
	}
	return u, err
}

// Count returns the number of open sessions.
func (s *Store) Count(ctx context.Context) (n int64, err error) {
	err = s.db.Read().QueryRowContext(ctx, `SELECT COUNT(touched) FROM upload`).Scan(&n)
	return n, err
}

// ClaimUpload moves a session to the next epoch, which it returns, and hides the storage's reference from other requests until
// SaveUpload stores it again. The error is ErrUploadGone if u's epoch is not the latest. A claim whose process dies is never
// released, because the number of bytes that the process wrote is unknown. A power failure may undo a claim.
func (s *Store) ClaimUpload(ctx context.Context, u Upload) (int64, error) {
	err := s.db.InTxNoSync(ctx, func(t *sqldb.Tx) error {
		n, err := t.Exec(`
			UPDATE upload SET storage_ref = $4, epoch = epoch + 1, touched = $5
			 WHERE id = $1 AND repository_id = $2 AND epoch = $3`, u.ID, u.RepositoryID, u.Epoch, claimed, t.Now)
		if err == nil && n == 0 {
			return ErrUploadGone
		}
		return err
	})
	return u.Epoch + 1, err
}

// SaveUpload stores size, bytes and storage reference of a session and moves it to the next epoch, which it returns. The error is
// ErrUploadGone if u's epoch is not the latest.
func (s *Store) SaveUpload(ctx context.Context, u Upload) (int64, error) {
	var data any
	if u.StorageRef == "" {
		data = append([]byte{}, u.Data...)
	}
	err := s.db.InTx(ctx, func(t *sqldb.Tx) error {
		n, err := t.Exec(`
			UPDATE upload SET size = $4, data = $5, storage_ref = $6, epoch = epoch + 1, touched = $7
			 WHERE id = $1 AND repository_id = $2 AND epoch = $3`, u.ID, u.RepositoryID, u.Epoch, u.Size, data, u.StorageRef, t.Now)
		if err == nil && n == 0 {
			return ErrUploadGone
		}
		return err
	})
	return u.Epoch + 1, err
}

// EndUpload deletes a session. The error is ErrUploadGone if u's epoch is not the latest.
func (s *Store) EndUpload(ctx context.Context, u Upload) error {
	return s.db.InTx(ctx, func(t *sqldb.Tx) error {
		n, err := t.Exec(`DELETE FROM upload WHERE id = $1 AND repository_id = $2 AND epoch = $3`, u.ID, u.RepositoryID, u.Epoch)
		if err == nil && n == 0 {
			return ErrUploadGone
		}
		return err
	})
}

// DeleteUpload deletes a session in any epoch. The error is ErrUploadGone if the repository has no such session.
func (s *Store) DeleteUpload(ctx context.Context, repositoryID, id string) error {
	return s.db.InTx(ctx, func(t *sqldb.Tx) error {
		n, err := t.Exec(`DELETE FROM upload WHERE id = $1 AND repository_id = $2`, id, repositoryID)
		if err == nil && n == 0 {
			return ErrUploadGone
		}
		return err
	})
}
