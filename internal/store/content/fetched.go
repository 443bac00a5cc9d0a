package content

import (
	"context"
	"database/sql"
	"errors"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/record"
	"github.com/countersign/countersign/internal/store/sqldb"
)

// Have says where a repository has a content unit that a sync wants.
type Have int

// Places of a unit.
const (
	HaveNothing Have = iota
	HaveFetched      // by an earlier sync that did not end; not in its latest version
	HaveVersion      // in its latest version
)

// HasManifest returns where a repository has a manifest, and the manifest unless it has none.
func (s *Store) HasManifest(ctx context.Context, repositoryID string, d digest.Digest) (Have, pulp.Manifest, error) {
	have, id, err := s.has(ctx, repositoryID, pulp.KindManifest, string(d))
	if err != nil || have == HaveNothing {
		return have, pulp.Manifest{}, err
	}
	m, err := s.serving.Manifest(ctx, id)
	if fault.Is(err, fault.NotFound) {
		return HaveNothing, pulp.Manifest{}, nil
	}
	return have, m, err
}

// HasBlob returns where a repository has a blob, and whether its bytes are absent.
func (s *Store) HasBlob(ctx context.Context, repositoryID string, d digest.Digest) (have Have, absent bool, err error) {
	have, id, err := s.has(ctx, repositoryID, pulp.KindBlob, string(d))
	if err != nil || have == HaveNothing {
		return have, false, err
	}
	b, err := s.serving.BlobIn(ctx, repositoryID, `$2`, id)
	if errors.Is(err, sql.ErrNoRows) { // it was deleted in between
		return HaveNothing, false, nil
	}
	return have, b.Absent, err
}

// TouchFetched begins the grace period of a fetched unit anew. A unit that is not recorded as fetched is no error.
func (s *Store) TouchFetched(ctx context.Context, repositoryID string, kind pulp.Kind, key string) error {
	return s.InTx(ctx, func(t *Tx) error {
		return t.touch(reasonFetched, repositoryID, kind, key)
	})
}

// HasSignature returns where a repository has a signature.
func (s *Store) HasSignature(ctx context.Context, repositoryID string, d digest.Digest) (Have, error) {
	have, _, err := s.has(ctx, repositoryID, pulp.KindSignature, string(d))
	return have, err
}

// has returns where a repository has a unit under a key, and the unit's id.
func (s *Store) has(ctx context.Context, repositoryID string, kind pulp.Kind, key string) (Have, string, error) {
	found, err := sqldb.Collect(ctx, s.db.Read(), func(row sqldb.Scanner) (unitHad, error) {
		var u unitHad
		err := row.Scan(&u.have, &u.id)
		return u, err
	}, `
		SELECT 2, content_id FROM repository_content WHERE repository_id = $1 AND kind = $2 AND key = $3 AND version_removed IS NULL
		UNION ALL SELECT 1, f.content_id FROM unversioned_content f WHERE `+record.Fetched("$1")+` AND f.kind = $2 AND f.key = $3
		 ORDER BY 1 DESC LIMIT 1`, repositoryID, kind, key)
	if err != nil || len(found) == 0 {
		return HaveNothing, "", err
	}
	return found[0].have, found[0].id, nil
}

// unitHad is a unit that a repository has.
type unitHad struct {
	have Have
	id   string
}

// FetchedBlob records a blob as fetched for a repository from a remote: its bytes are durable, or, if b.Absent, the
// repository claims it of the remote. The error is ErrDeleting as for CommitBlob.
func (s *Store) FetchedBlob(ctx context.Context, repositoryID, remoteID string, b pulp.Blob) error {
	return s.InTx(ctx, func(t *Tx) error {
		id, err := t.putBlob(b, false)
		if err != nil {
			return err
		}
		if b.Absent {
			err = t.putClaim(repositoryID, id, remoteID, b.Size)
		} else {
			err = t.proven(repositoryID, id, remoteID)
		}
		if err != nil {
			return err
		}
		if err := t.putSource(id, remoteID); err != nil {
			return err
		}
		return t.putUnversioned(reasonFetched, repositoryID, pulp.KindBlob, string(b.Digest), id)
	})
}

// FilledBlob records that the bytes of a claimed blob were fetched from a remote and are durable. The error is
// ErrDeleting as for CommitBlob.
func (s *Store) FilledBlob(ctx context.Context, repositoryID, remoteID string, b pulp.Blob) error {
	return s.InTx(ctx, func(t *Tx) error {
		id, err := t.putBlob(b, false)
		if err != nil {
			return err
		}
		return t.proven(repositoryID, id, remoteID)
	})
}

// putSource records that a remote has a blob. An empty remoteID is no remote.
func (t *Tx) putSource(blobID, remoteID string) error {
	if remoteID == "" {
		return nil
	}
	_, err := t.Exec(`INSERT INTO blob_source (blob_id, remote_id) SELECT $1, m.id FROM remote m WHERE m.id = $2 ON CONFLICT DO NOTHING`, blobID, remoteID)
	return err
}

// FetchedManifest records a manifest as fetched for a repository.
func (s *Store) FetchedManifest(ctx context.Context, repositoryID string, m pulp.Manifest) error {
	return s.InTx(ctx, func(t *Tx) error {
		if err := t.LockContentShared(); err != nil {
			return err
		}
		id, err := t.putManifest(m)
		if err != nil {
			return err
		}
		return t.putUnversioned(reasonFetched, repositoryID, pulp.KindManifest, string(m.Digest), id)
	})
}

// FetchedSignature records a signature as fetched for a repository. The manifest must be stored already; otherwise
// the error is NotFound.
func (s *Store) FetchedSignature(ctx context.Context, repositoryID string, manifest digest.Digest, g pulp.Signature) error {
	return s.InTx(ctx, func(t *Tx) error {
		if err := t.LockContentShared(); err != nil {
			return err
		}
		of, err := sqldb.ScanString(t.Row(`SELECT id FROM manifest WHERE digest = $1`, manifest))
		if err != nil {
			return sqldb.NotFound(err, "Manifest not found.")
		}
		stored := g
		stored.ManifestID = of
		id, err := t.PutSignature(stored)
		if err != nil {
			return err
		}
		return t.putUnversioned(reasonFetched, repositoryID, pulp.KindSignature, string(g.Digest), id)
	})
}

// TakeBlob records a blob that the server has already as fetched for a repository from a remote. The caller must have
// checked that the user may read the blob. It returns false if the server does not have the blob's bytes.
func (s *Store) TakeBlob(ctx context.Context, repositoryID, remoteID string, d digest.Digest) (bool, error) {
	return InTx(ctx, s, func(t *Tx) (bool, error) {
		if err := t.LockContentShared(); err != nil {
			return false, err
		}
		var id string
		err := t.Row(`SELECT id FROM blob WHERE digest = $1 AND NOT deleting AND NOT absent`, d).Scan(&id)
		if errors.Is(err, sql.ErrNoRows) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		return true, sqldb.Steps(
			func() error { return t.putSource(id, remoteID) },
			func() error { return t.proven(repositoryID, id, "") },
			func() error { return t.putUnversioned(reasonFetched, repositoryID, pulp.KindBlob, string(d), id) })
	})
}
