package upstreamstate

import (
	"context"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/record"
	"github.com/countersign/countersign/internal/store/sqldb"
)

// Drift is a difference between a repository and the upstream.
type Drift struct {
	RepositoryID string
	Repository   string
	Type         pulp.RepositoryType
	Kind         string        // tag, manifest or blob
	Name         string        // name of the tag, or digest of the manifest or blob
	Here         digest.Digest // empty: missing here
	Upstream     digest.Digest // empty: missing upstream
	Note         string        // how the comparison handled the difference
	Found        time.Time
}

func scanDrift(row sqldb.Scanner) (Drift, error) {
	var d Drift
	err := row.Scan(&d.Kind, &d.Name, &d.Here, &d.Upstream, &d.Note)
	return d, err
}

// ReplaceDrift replaces the recorded differences of a repository with those that a comparison found: all of them if the
// comparison was deep, otherwise those of tags. It returns the differences that were not recorded before; the others keep
// their time.
func (s *Store) ReplaceDrift(ctx context.Context, repositoryID string, deep bool, found []Drift) ([]Drift, error) {
	return sqldb.InTx(ctx, s.db, func(t *sqldb.Tx) ([]Drift, error) {
		before, err := sqldb.Collect(t.Ctx, t, scanDrift, `
			SELECT kind, name, here, upstream, note FROM upstream_drift
			 WHERE repository_id = $1 AND (kind = 'tag' OR $2)`, repositoryID, deep)
		if err != nil {
			return nil, err
		}
		fresh, gone := diffDrift(before, found)
		for _, d := range gone {
			_, err := t.Exec(`DELETE FROM upstream_drift WHERE repository_id = $1 AND kind = $2 AND name = $3`, repositoryID, d.Kind, d.Name)
			if err != nil {
				return nil, err
			}
		}
		for _, d := range fresh {
			if err := insertDrift(t, repositoryID, d); err != nil {
				return nil, err
			}
		}
		return fresh, nil
	})
}

// diffDrift returns the differences of found that are not in before, and those of before that are not in found.
func diffDrift(before, found []Drift) (fresh, gone []Drift) {
	known := make(map[Drift]bool, len(before))
	for _, d := range before {
		known[d] = true
	}
	for _, d := range found {
		recorded := Drift{Kind: d.Kind, Name: d.Name, Here: d.Here, Upstream: d.Upstream, Note: d.Note}
		if known[recorded] {
			delete(known, recorded)
		} else {
			fresh = append(fresh, d)
		}
	}
	for d := range known {
		gone = append(gone, d)
	}
	return fresh, gone
}

// insertDrift records a difference of a repository, unless the repository was deleted.
func insertDrift(t *sqldb.Tx, repositoryID string, d Drift) error {
	_, err := t.Exec(`
		INSERT INTO upstream_drift (repository_id, kind, name, here, upstream, note, found)
		SELECT id, CAST($2 AS TEXT), CAST($3 AS TEXT), CAST($4 AS TEXT), CAST($5 AS TEXT), CAST($6 AS TEXT), CAST($7 AS BIGINT)
		  FROM repository WHERE id = $1
		ON CONFLICT DO NOTHING`, repositoryID, d.Kind, d.Name, d.Here, d.Upstream, d.Note, t.Now)
	return err
}

// TagDrift returns the recorded differences of a repository's tags, by the tags' names.
func (s *Store) TagDrift(ctx context.Context, repositoryID string) (map[string]Drift, error) {
	found, err := sqldb.Collect(ctx, s.db.Read(), scanDrift,
		`SELECT kind, name, here, upstream, note FROM upstream_drift WHERE repository_id = $1 AND kind = 'tag'`, repositoryID)
	byName := make(map[string]Drift, len(found))
	for _, d := range found {
		byName[d.Name] = d
	}
	return byName, err
}

// Drifts returns at most limit recorded differences after the first offset ones, in the order of repository names, kinds and
// names. It also returns the number of all recorded differences.
func (s *Store) Drifts(ctx context.Context, limit, offset int) ([]Drift, int64, error) {
	var count int64
	if err := s.db.Read().QueryRowContext(ctx, `SELECT COUNT(*) FROM upstream_drift`).Scan(&count); err != nil {
		return nil, 0, err
	}
	found, err := sqldb.Collect(ctx, s.db.Read(), scanListedDrift, `
		SELECT d.kind, d.name, d.here, d.upstream, d.note, r.id, r.name, r.type, d.found
		  FROM upstream_drift d JOIN repository r ON r.id = d.repository_id ORDER BY r.name, d.kind, d.name LIMIT $1 OFFSET $2`, limit, offset)
	return found, count, err
}

func scanListedDrift(row sqldb.Scanner) (Drift, error) {
	var repository Drift
	var found int64
	d, err := scanDrift(sqldb.WithMore(row, &repository.RepositoryID, &repository.Repository, &repository.Type, &found))
	d.RepositoryID, d.Repository, d.Type, d.Found = repository.RepositoryID, repository.Repository, repository.Type, time.UnixMicro(found)
	return d, err
}

// MarkCompared records that a comparison of a repository ended now, successfully or not. LeastCompared uses that time.
func (s *Store) MarkCompared(ctx context.Context, repositoryID string) error {
	return s.db.InTx(ctx, func(t *sqldb.Tx) error {
		_, err := t.Exec(`UPDATE repository SET compared = $2 WHERE id = $1`, repositoryID, t.Now)
		return err
	})
}

// LeastCompared returns at most limit repositories whose last comparison ended before a time, the least recently compared
// first.
func (s *Store) LeastCompared(ctx context.Context, before time.Time, limit int) ([]pulp.Repository, error) {
	return sqldb.Collect(ctx, s.db.Read(), record.ScanRepository, `
		SELECT `+record.RepositoryColumns+` FROM repository r WHERE r.compared < $1 ORDER BY r.compared, r.id LIMIT $2`,
		sqldb.Micros(before), limit)
}
