package uploads

import (
	"context"
	"time"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/sqldb"
)

var ErrUploadGone = fault.New(fault.NotFound, "Upload not found.")

// Upload is a blob on its way into a repository. Only the holder of its latest epoch may write or commit.
type Upload struct {
	ID           string
	RepositoryID string
	Repository   string // its name
	Epoch        int64
	Size         int64  // bytes acknowledged
	Data         []byte // all of them, while they are few and StorageRef is empty
	StorageRef   string // the storage's own reference once it has the bytes
	Claimed      bool   // a request, of whatever process, writes to the session behind StorageRef, which is then unset
	Touched      time.Time
}

// claimed takes the place of the storage's reference of an upload while a request has claimed it. No storage gives such a reference.
const claimed = "claimed"

// CreateUpload opens an upload of no bytes in a repository and returns it in epoch 0. A power cut may take it along: nothing is in it yet, and its client begins anew.
func (s *Store) CreateUpload(ctx context.Context, repositoryID string) (Upload, error) {
	u := Upload{ID: pulp.NewID(), RepositoryID: repositoryID}
	err := s.db.InTxNoSync(ctx, func(t *sqldb.Tx) error {
		u.Touched = sqldb.FromMicros(t.Now)
		_, err := t.Exec(`INSERT INTO upload (id, repository_id, created, touched) VALUES ($1, $2, $3, $3)`, u.ID, repositoryID, t.Now)
		return err
	})
	return u, err
}

// Upload returns an upload of a repository. NotFound when there is none, also when it is another repository's.
func (s *Store) Upload(ctx context.Context, repositoryID, id string) (Upload, error) {
	u, err := ScanUpload(s.db.Read().QueryRowContext(ctx, `
		SELECT `+UploadColumns+` FROM upload WHERE id = $1 AND repository_id = $2`, id, repositoryID))
	return u, sqldb.NotFound(err, "Upload not found.")
}

const UploadColumns = `id, repository_id, (SELECT name FROM repository WHERE id = repository_id), epoch, size, data, storage_ref, touched`

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

// ClaimUpload moves an upload to the next epoch, which it returns, and withholds the storage's reference from other requests until SaveUpload stores it
// again. NotFound if the upload has ended or another writer has moved it on since. A claim whose process dies is never released: what that process wrote
// is not known. A power cut may undo a claim, because it ends the process too.
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

// SaveUpload stores an upload's size, bytes and storage reference and moves it to the next epoch, which it returns. NotFound when the
// upload has ended or another writer has moved it on since.
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

// EndUpload ends an upload without a blob if it is still in u's epoch. NotFound if it has ended or another writer has moved it on.
func (s *Store) EndUpload(ctx context.Context, u Upload) error {
	return s.db.InTx(ctx, func(t *sqldb.Tx) error {
		n, err := t.Exec(`DELETE FROM upload WHERE id = $1 AND repository_id = $2 AND epoch = $3`, u.ID, u.RepositoryID, u.Epoch)
		if err == nil && n == 0 {
			return ErrUploadGone
		}
		return err
	})
}

// DeleteUpload ends an upload without a blob, whatever its epoch. NotFound when there is none in this repository.
func (s *Store) DeleteUpload(ctx context.Context, repositoryID, id string) error {
	return s.db.InTx(ctx, func(t *sqldb.Tx) error {
		n, err := t.Exec(`DELETE FROM upload WHERE id = $1 AND repository_id = $2`, id, repositoryID)
		if err == nil && n == 0 {
			return ErrUploadGone
		}
		return err
	})
}
