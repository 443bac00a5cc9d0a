package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
)

// ErrDeleting says that the bytes of a blob are being removed at this moment: wait until its row is gone, then see whether
// the storage has them.
var ErrDeleting = errors.New("the blob is being deleted")

const blobColumns = `b.id, b.digest, b.size, b.data, b.data IS NOT NULL, b.location, b.absent, b.created, b.updated`

func scanBlob(row scanner) (pulp.Blob, error) {
	var b pulp.Blob
	var created, updated int64
	if err := row.Scan(&b.ID, &b.Digest, &b.Size, &b.Data, &b.Inline, &b.Location, &b.Absent, &created, &updated); err != nil {
		return pulp.Blob{}, err
	}
	b.Stamps = stamps(created, updated)
	return b, nil
}

// Blob returns the blob of this digest, whoever holds it. NotFound when there is none.
func (s *Store) Blob(ctx context.Context, d digest.Digest) (pulp.Blob, error) {
	b, err := scanBlob(s.read.QueryRowContext(ctx, `SELECT `+blobColumns+` FROM blob b WHERE b.digest = $1 AND NOT b.deleting`, d))
	return b, notFound(err, "Blob not found.")
}

// CommitBlob records a blob whose bytes are safe (in the storage registry, or in b.Data when b.Inline) as pending in a
// repository, and ends the upload that it came by, if uploadID names one; the upload must be in this epoch. ErrDeleting when an older copy is just being
// removed.
func (s *Store) CommitBlob(ctx context.Context, repositoryID string, b pulp.Blob, uploadID string, epoch int64) error {
	return s.inTx(ctx, func(t *tx) error {
		if uploadID != "" {
			n, err := t.exec(`DELETE FROM upload WHERE id = $1 AND repository_id = $2 AND epoch = $3`, uploadID, repositoryID, epoch)
			if err != nil {
				return err
			}
			if n == 0 {
				return errUploadGone
			}
		}
		id, err := t.putBlob(b)
		if err != nil {
			return err
		}
		if err := t.proven(repositoryID, id, ""); err != nil {
			return err
		}
		return t.putPending(repositoryID, pulp.KindBlob, string(b.Digest), id)
	})
}

// MoveBlob notes that the bytes of a blob lie under another name upstream than they did.
func (s *Store) MoveBlob(ctx context.Context, d digest.Digest, from, to string) error {
	return s.inTx(ctx, func(t *tx) error {
		_, err := t.exec(`UPDATE blob SET location = $3, updated = $4 WHERE digest = $1 AND location = $2`, d, from, to, t.now)
		return err
	})
}

// RepositoryBlob returns a blob, by its id, as a repository has it. NotFound when there is none.
func (s *Store) RepositoryBlob(ctx context.Context, repositoryID, id string) (pulp.Blob, error) {
	b, err := s.blobIn(ctx, repositoryID, `$2`, id)
	return b, notFound(err, "Blob not found.")
}

// blobIn returns a blob as a repository has it: absent, with the size that it claims and the remote to ask, when it has a remote's word alone. id is the expression for its id, with the
// repository's as $1 and args behind it.
func (s *Store) blobIn(ctx context.Context, repositoryID, id string, args ...any) (pulp.Blob, error) {
	var claimed bool
	var size int64
	var remote string
	args = append(append([]any{repositoryID}, args...), lackedSince())
	b, err := scanBlob(withMore{s.read.QueryRowContext(ctx, `
		SELECT `+blobColumns+`, k.blob_id IS NOT NULL, COALESCE(k.size, 0), COALESCE(`+sourceOf(fmt.Sprint("$", len(args)))+`, '')
		  FROM blob b LEFT JOIN blob_claim k ON k.blob_id = b.id AND k.repository_id = $1 WHERE b.id = `+id, args...), []any{&claimed, &size, &remote}})
	if claimed {
		b.Absent, b.Size, b.RemoteID, b.Inline, b.Data = true, size, remote, false, nil
	}
	return b, err
}

// withMore is a row with more columns than its scanner knows.
type withMore struct {
	row  scanner
	more []any
}

// Scan implements scanner.
func (w withMore) Scan(dests ...any) error { return w.row.Scan(append(dests, w.more...)...) }

// putBlob stores a blob's row unless it is there and returns its id. The bytes of one that was absent have come, unless b is absent too.
func (t *tx) putBlob(b pulp.Blob) (string, error) {
	var id string
	var deleting, absent, elsewhere bool
	var data any
	if b.Inline {
		data = append([]byte{}, b.Data...)
	}
	if err := t.refers(); err != nil {
		return "", err
	}
	err := t.row(`SELECT id, deleting, absent, data IS NULL AND location <> $2 FROM blob WHERE digest = $1`, b.Digest, b.Location).Scan(&id, &deleting, &absent, &elsewhere)
	switch {
	case err == nil && deleting:
		return "", ErrDeleting
	case err == nil && absent && !b.Absent:
		_, err = t.exec(`UPDATE blob SET absent = FALSE, size = $2, data = $3, location = $4, updated = $5 WHERE id = $1`, id, b.Size, data, b.Location, t.now)
		return id, err
	case err == nil && elsewhere && !b.Absent && !b.Inline: // there it is sure to be now
		_, err = t.exec(`UPDATE blob SET location = $2, updated = $3 WHERE id = $1`, id, b.Location, t.now)
		return id, err
	case err == nil:
		return id, nil
	case !errors.Is(err, sql.ErrNoRows):
		return "", err
	}
	id = pulp.NewID()
	n, err := t.exec(`
		INSERT INTO blob (id, digest, size, data, location, absent, created, updated) VALUES ($1, $2, $3, $4, $5, $6, $7, $7) ON CONFLICT (digest) DO NOTHING`,
		id, b.Digest, b.Size, data, b.Location, b.Absent, t.now)
	if err == nil && n == 0 { // another process was faster
		return scanString(t.row(`SELECT id FROM blob WHERE digest = $1`, b.Digest))
	}
	return id, err
}

func (t *tx) putPending(repositoryID string, kind pulp.Kind, key, id string) error {
	_, err := t.exec(`
		INSERT INTO pending_content (repository_id, kind, key, content_id, touched) VALUES ($1, $2, $3, $4, $5)
		ON CONFLICT (repository_id, kind, key) DO UPDATE SET content_id = excluded.content_id, touched = excluded.touched`,
		repositoryID, kind, key, id, t.now)
	return err
}

// LinkBlob makes a blob that another repository holds pending in this one too (a mount): a row, no bytes. ErrDeleting as CommitBlob.
func (s *Store) LinkBlob(ctx context.Context, repositoryID string, b pulp.Blob) error {
	return s.inTx(ctx, func(t *tx) error {
		if err := t.refers(); err != nil {
			return err
		}
		var deleting bool
		if err := t.row(`SELECT deleting FROM blob WHERE id = $1`, b.ID).Scan(&deleting); err != nil {
			return notFound(err, "Blob not found.")
		}
		if deleting {
			return ErrDeleting
		}
		if err := t.proven(repositoryID, b.ID, ""); err != nil {
			return err
		}
		return t.putPending(repositoryID, pulp.KindBlob, string(b.Digest), b.ID)
	})
}

// TouchBlob keeps a pending blob from being swept for another while. What is not pending is left alone.
func (s *Store) TouchBlob(ctx context.Context, repositoryID string, dgst digest.Digest) error {
	return s.inTx(ctx, func(t *tx) error {
		_, err := t.exec(`UPDATE pending_content SET touched = $4 WHERE repository_id = $1 AND kind = $2 AND key = $3`,
			repositoryID, pulp.KindBlob, dgst, t.now)
		return err
	})
}

// DeleteBlob takes a blob out of a repository's latest version and out of what is pending there. NotFound when it is in neither;
// Conflict when a manifest of the latest version or a pending one names it (D22). It returns the new version, if one was made.
func (s *Store) DeleteBlob(ctx context.Context, repositoryID string, dgst digest.Digest) (*pulp.Version, error) {
	return s.change(ctx, repositoryID, func(c *change) error {
		_, _, ok, err := c.anywhere(pulp.KindBlob, string(dgst))
		if err != nil {
			return err
		}
		if !ok {
			return fault.New(fault.NotFound, "Blob not found.")
		}
		used, err := c.blobUsed(string(dgst))
		if err != nil {
			return err
		}
		if used {
			return fault.New(fault.Conflict, "A manifest refers to the blob.")
		}
		if err := c.remove(pulp.KindBlob, string(dgst)); err != nil {
			return err
		}
		return c.dropPending(pulp.KindBlob, string(dgst))
	})
}

// blobUsed says whether a manifest that the repository holds, or that waits in it, names a blob.
func (c *change) blobUsed(dgst string) (bool, error) {
	var used bool
	err := c.tx.row(`
		SELECT EXISTS (
			SELECT 1 FROM manifest_blob mb JOIN manifest m ON m.id = mb.manifest_id
			 WHERE mb.digest = $1 AND (EXISTS (
				SELECT 1 FROM repository_content c
				 WHERE c.repository_id = $2 AND c.kind = $3 AND c.key = m.digest AND c.version_removed IS NULL) OR EXISTS (
				SELECT 1 FROM pending_content p WHERE p.repository_id = $2 AND p.kind = $3 AND p.key = m.digest)))`,
		dgst, c.repo.ID, pulp.KindManifest).Scan(&used)
	return used, err
}

func (c *change) dropPending(kind pulp.Kind, key string) error {
	_, err := c.tx.exec(`DELETE FROM pending_content WHERE repository_id = $1 AND kind = $2 AND key = $3`, c.repo.ID, kind, key)
	return err
}

// KnowsBlobs says whether there is any blob, and whether tags were ever written through to an upstream.
func (s *Store) KnowsBlobs(ctx context.Context) (blobs, upstream bool, err error) {
	err = s.read.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM blob), EXISTS (SELECT 1 FROM upstream_tag)`).Scan(&blobs, &upstream)
	return blobs, upstream, err
}
