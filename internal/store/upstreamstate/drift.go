package upstreamstate

import (
	"context"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/content"
	"github.com/countersign/countersign/internal/store/record"
	"github.com/countersign/countersign/internal/store/sqldb"
)

// Drift is one difference between a repository and the upstream.
type Drift struct {
	RepositoryID string
	Repository   string
	Type         pulp.RepositoryType
	Kind         string        // tag, manifest, blob
	Name         string        // of the tag; the digest of the others
	Here         digest.Digest // empty: not here
	Upstream     digest.Digest // empty: not there
	Note         string        // what becomes of it
	Found        time.Time
}

// Compared writes down in what the upstream differs from a repository, in the place of what was found before: of all of it when the comparison was deep, else of tags.
// It returns what was not known before; what was keeps the time when it was found.
func (s *Store) Compared(ctx context.Context, repositoryID string, deep bool, found []Drift) (fresh []Drift, err error) {
	err = s.content.InTx(ctx, func(t *content.Tx) error {
		before, err := sqldb.Collect(t.Ctx, t, func(row sqldb.Scanner) (Drift, error) {
			var d Drift
			return d, row.Scan(&d.Kind, &d.Name, &d.Here, &d.Upstream, &d.Note)
		}, `SELECT kind, name, here, upstream, note FROM upstream_drift WHERE repository_id = $1 AND (kind = 'tag' OR $2)`, repositoryID, deep)
		if err != nil {
			return err
		}
		known := make(map[Drift]bool, len(before))
		for _, d := range before {
			known[d] = true
		}
		fresh = nil
		for _, d := range found {
			plain := Drift{Kind: d.Kind, Name: d.Name, Here: d.Here, Upstream: d.Upstream, Note: d.Note}
			if known[plain] {
				delete(known, plain)
			} else {
				fresh = append(fresh, d)
			}
		}
		for d := range known {
			if _, err := t.Exec(`DELETE FROM upstream_drift WHERE repository_id = $1 AND kind = $2 AND name = $3`, repositoryID, d.Kind, d.Name); err != nil {
				return err
			}
		}
		for _, d := range fresh {
			if _, err := t.Exec(`
				INSERT INTO upstream_drift (repository_id, kind, name, here, upstream, note, found)
				SELECT id, CAST($2 AS TEXT), CAST($3 AS TEXT), CAST($4 AS TEXT), CAST($5 AS TEXT), CAST($6 AS TEXT), CAST($7 AS BIGINT) FROM repository WHERE id = $1
				ON CONFLICT DO NOTHING`, repositoryID, d.Kind, d.Name, d.Here, d.Upstream, d.Note, t.Now); err != nil {
				return err
			}
		}
		return nil
	})
	return fresh, err
}

// DriftOfTags returns the tags of a repository that the last comparison found to differ from the upstream, by name.
func (s *Store) DriftOfTags(ctx context.Context, repositoryID string) (map[string]Drift, error) {
	found, err := sqldb.Collect(ctx, s.db.Read(), func(row sqldb.Scanner) (Drift, error) {
		var d Drift
		err := row.Scan(&d.Kind, &d.Name, &d.Here, &d.Upstream, &d.Note)
		return d, err
	}, `SELECT kind, name, here, upstream, note FROM upstream_drift WHERE repository_id = $1 AND kind = 'tag'`, repositoryID)
	byName := make(map[string]Drift, len(found))
	for _, d := range found {
		byName[d.Name] = d
	}
	return byName, err
}

// HadTurn notes that a repository had its turn to be compared, whatever came of it.
func (s *Store) HadTurn(ctx context.Context, repositoryID string) error {
	return s.content.InTx(ctx, func(t *content.Tx) error {
		_, err := t.Exec(`UPDATE repository SET compared = $2 WHERE id = $1`, repositoryID, t.Now)
		return err
	})
}

// Drifts returns what was found, by repository, kind and name, and how much there is in all.
func (s *Store) Drifts(ctx context.Context, limit, offset int) ([]Drift, int64, error) {
	var count int64
	if err := s.db.Read().QueryRowContext(ctx, `SELECT COUNT(*) FROM upstream_drift`).Scan(&count); err != nil {
		return nil, 0, err
	}
	found, err := sqldb.Collect(ctx, s.db.Read(), func(row sqldb.Scanner) (Drift, error) {
		var d Drift
		var at int64
		err := row.Scan(&d.RepositoryID, &d.Repository, &d.Type, &d.Kind, &d.Name, &d.Here, &d.Upstream, &d.Note, &at)
		d.Found = time.UnixMicro(at)
		return d, err
	}, `
		SELECT r.id, r.name, r.type, d.kind, d.name, d.here, d.upstream, d.note, d.found
		  FROM upstream_drift d JOIN repository r ON r.id = d.repository_id ORDER BY r.name, d.kind, d.name LIMIT $1 OFFSET $2`, limit, offset)
	return found, count, err
}

// LeastCompared returns the repositories whose last turn to be compared with the upstream was before a time, longest ago first, at most limit.
func (s *Store) LeastCompared(ctx context.Context, before time.Time, limit int) ([]pulp.Repository, error) {
	return sqldb.Collect(ctx, s.db.Read(), record.ScanRepository, `
		SELECT `+record.RepositoryColumns+` FROM repository r WHERE r.compared < $1 ORDER BY r.compared, r.id LIMIT $2`, before.UnixMicro(), limit)
}
