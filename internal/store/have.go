package store

import (
	"context"
	"database/sql"
	"errors"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
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
	m, err := s.Manifest(ctx, id)
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
	b, err := s.blobIn(ctx, repositoryID, `$2`, id)
	if errors.Is(err, sql.ErrNoRows) { // it has just gone
		return HaveNothing, false, nil
	}
	return have, b.Absent, err
}

// TouchFetched keeps what a repository has fetched from being swept for another while.
func (s *Store) TouchFetched(ctx context.Context, repositoryID string, kind pulp.Kind, key string) error {
	return s.inTx(ctx, func(t *tx) error {
		_, err := t.exec(`UPDATE fetched_content SET touched = $4 WHERE repository_id = $1 AND kind = $2 AND key = $3`, repositoryID, kind, key, t.now)
		return err
	})
}

// HasSignature says what a repository has of a signature.
func (s *Store) HasSignature(ctx context.Context, repositoryID string, d digest.Digest) (Have, error) {
	have, _, err := s.has(ctx, repositoryID, pulp.KindSignature, string(d))
	return have, err
}

func (s *Store) has(ctx context.Context, repositoryID string, kind pulp.Kind, key string) (Have, string, error) {
	found, err := collect(ctx, s.read, func(row scanner) (unitHad, error) {
		var u unitHad
		err := row.Scan(&u.have, &u.id)
		return u, err
	}, `
		SELECT 2, content_id FROM repository_content WHERE repository_id = $1 AND kind = $2 AND key = $3 AND version_removed IS NULL
		UNION ALL SELECT 1, content_id FROM fetched_content WHERE repository_id = $1 AND kind = $2 AND key = $3
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
