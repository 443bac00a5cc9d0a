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

// Have is what a repository has of a content unit that a sync wants.
type Have int

// What a repository may have of a unit.
const (
	HaveNothing Have = iota
	HaveFetched      // by an earlier sync that did not end; not in its latest version
	HaveVersion      // in its latest version
)

// HasManifest says what a repository has of a manifest, and returns its bytes and media type when it has it.
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

// HasBlob says whether a repository has a blob, and its bytes.
func (s *Store) HasBlob(ctx context.Context, repositoryID string, d digest.Digest) (have Have, absent bool, err error) {
	have, id, err := s.has(ctx, repositoryID, pulp.KindBlob, string(d))
	if err != nil || have == HaveNothing {
		return have, false, err
	}
	b, err := s.serving.BlobIn(ctx, repositoryID, `$2`, id)
	if errors.Is(err, sql.ErrNoRows) { // it has just gone
		return HaveNothing, false, nil
	}
	return have, b.Absent, err
}

// TouchFetched keeps what a repository has fetched from being swept for another while.
func (s *Store) TouchFetched(ctx context.Context, repositoryID string, kind pulp.Kind, key string) error {
	return s.InTx(ctx, func(t *Tx) error {
		return t.touch(reasonFetched, repositoryID, kind, key)
	})
}

// HasSignature says what a repository has of a signature.
func (s *Store) HasSignature(ctx context.Context, repositoryID string, d digest.Digest) (Have, error) {
	have, _, err := s.has(ctx, repositoryID, pulp.KindSignature, string(d))
	return have, err
}

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

type unitHad struct {
	have Have
	id   string
}

// FetchedBlob writes down that a repository has fetched a blob from a remote: its bytes are safe, or, when b.Absent, it is a claim. ErrDeleting as CommitBlob.
func (s *Store) FetchedBlob(ctx context.Context, repositoryID, remoteID string, b pulp.Blob) error {
	return s.InTx(ctx, func(t *Tx) error {
		id, err := t.putBlob(b)
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

// FilledBlob writes down that the bytes of a blob that a repository has claimed have come from its remote and are safe. ErrDeleting as CommitBlob.
func (s *Store) FilledBlob(ctx context.Context, repositoryID, remoteID string, b pulp.Blob) error {
	return s.InTx(ctx, func(t *Tx) error {
		id, err := t.putBlob(b)
		if err != nil {
			return err
		}
		return t.proven(repositoryID, id, remoteID)
	})
}

func (t *Tx) putSource(blobID, remoteID string) error {
	if remoteID == "" {
		return nil
	}
	_, err := t.Exec(`INSERT INTO blob_source (blob_id, remote_id) SELECT $1, m.id FROM remote m WHERE m.id = $2 ON CONFLICT DO NOTHING`, blobID, remoteID)
	return err
}

// FetchedManifest writes down that a repository has fetched a manifest.
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

// FetchedSignature writes down that a repository has fetched a signature of a manifest, which it holds or has fetched before.
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

// TakeBlob writes down, as if a repository had fetched it, a blob that the server has already. It is the caller's to know that whoever wants it may read it. false when the
// server has no such blob, or not its bytes.
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
