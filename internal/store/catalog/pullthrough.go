package catalog

import (
	"context"
	"database/sql"
	"errors"

	"github.com/countersign/countersign/internal/access"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/content"
	"github.com/countersign/countersign/internal/store/record"
	"github.com/countersign/countersign/internal/store/sqldb"
	"github.com/countersign/countersign/internal/store/taskstore"
)

// PullThrough returns the pull-through distribution with an id. The error is NotFound if there is none.
func (s *Store) PullThrough(ctx context.Context, id string) (pulp.Distribution, error) {
	return record.FindPullThrough(ctx, s.db.Read(), id)
}

// PullThroughAbove returns the pull-through distribution whose base path is a path or above it. The error is NotFound if
// there is none.
func (s *Store) PullThroughAbove(ctx context.Context, path string) (pulp.Distribution, error) {
	d, err := record.ScanDistribution(s.db.Read().QueryRowContext(ctx, `
		SELECT `+record.PullThroughColumns+` FROM pull_through_distribution d
		 WHERE d.base_path IN (SELECT j.value FROM json_each($1) j) ORDER BY LENGTH(d.base_path) DESC LIMIT 1`,
		sqldb.ToJSON(append(pathsAbove(path), path))))
	return d, sqldb.NotFound(err, "No pull-through distribution has a path above this one.")
}

// maxCached is the number of cached distributions of one pull-through distribution that CachedDistributions returns.
const maxCached = 1000

// cachedDistribution is the id of a cached distribution and that of its pull-through distribution.
type cachedDistribution struct{ cache, id string }

func scanCached(row sqldb.Scanner) (c cachedDistribution, err error) {
	err = row.Scan(&c.cache, &c.id)
	return c, err
}

// CachedDistributions returns the ids of the distributions that pulls have created, by the ids of their pull-through
// distributions: the newest maxCached of each.
func (s *Store) CachedDistributions(ctx context.Context, ids []string) (map[string][]string, error) {
	return cachedDistributions(ctx, s.db.Read(), ids)
}

// cachedDistributions is CachedDistributions on a querier.
func cachedDistributions(ctx context.Context, q sqldb.Querier, ids []string) (map[string][]string, error) {
	rows, err := sqldb.Collect(ctx, q, scanCached, `
		SELECT x.cache, x.id FROM (
			SELECT d.pull_through_id AS cache, d.id AS id, ROW_NUMBER() OVER (PARTITION BY d.pull_through_id ORDER BY d.id DESC) AS place
			  FROM distribution d WHERE d.pull_through_id IN (SELECT j.value FROM json_each($1) j)) x
		 WHERE x.place <= $2 ORDER BY x.cache, x.place`, sqldb.ToJSON(ids), maxCached)
	found := map[string][]string{}
	for _, r := range rows {
		found[r.cache] = append(found[r.cache], r.id)
	}
	return found, err
}

// CreatePullThrough stores a new pull-through distribution and creates its namespace if it is missing. The account owner gets
// the owner's role on it, and on the namespace if that is created; 0 for none. The error is Invalid and has fields if the name
// or base path conflicts with another distribution, or the remote does not exist.
func (s *Store) CreatePullThrough(
	ctx context.Context, claim *taskstore.Claim, d pulp.Distribution, owner int64,
) (pulp.Distribution, error) {
	d.ID, d.PullThrough = pulp.NewID(), true
	return inTxUnlessTaken(ctx, s, func(t *content.Tx) (pulp.Distribution, error) {
		if err := checkConflict(t, d); err != nil {
			return d, err
		}
		stored, err := s.putPullThrough(t, owner, `
			INSERT INTO pull_through_distribution (id, name, base_path, remote_id, namespace_id, private, hidden, description, labels,
			       created, updated)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $10)`, d)
		if err != nil {
			return d, err
		}
		if err := s.own(t, owner, access.PullThroughOwner, access.PullThrough, d.ID); err != nil {
			return d, err
		}
		created := []taskstore.Created{{
			Href: pulp.Href(pulp.PullThroughCollection, d.ID), PRN: pulp.PRN(pulp.PullThroughCollection, d.ID),
		}}
		return stored, taskstore.Complete(t.Tx, claim, taskstore.Outcome{Created: created, Result: stored})
	})
}

// EditPullThrough changes a pull-through distribution with edit and returns it as it is afterwards. A change of private and
// of the remote applies to the cached distributions. The account owner gets the owner's role on the namespace of a new path if
// that is created; 0 for none. The error is NotFound if there is no such distribution; the others are those of
// CreatePullThrough.
func (s *Store) EditPullThrough(
	ctx context.Context, claim *taskstore.Claim, id string, owner int64, edit func(*pulp.Distribution),
) (pulp.Distribution, error) {
	return inTxUnlessTaken(ctx, s, func(t *content.Tx) (d pulp.Distribution, err error) {
		if err := t.LockRow("pull_through_distribution", id); err != nil {
			return d, err
		}
		before, err := record.FindPullThrough(t.Ctx, t, id)
		if err != nil {
			return d, err
		}
		d = before
		edit(&d)
		d.ID, d.PullThrough = id, true
		if before.Name != d.Name || before.BasePath != d.BasePath {
			if err := checkConflict(t, d); err != nil {
				return d, err
			}
		}
		d, err = s.putPullThrough(t, owner, `
			UPDATE pull_through_distribution SET name = $2, base_path = $3, remote_id = $4, namespace_id = $5, private = $6, hidden = $7,
			       description = $8, labels = $9, updated = $10
			 WHERE id = $1`, d)
		if err != nil {
			return d, err
		}
		if err := changedPullThrough(t, before, d); err != nil {
			return d, err
		}
		cached, err := cachedDistributions(t.Ctx, t, []string{id})
		if err != nil {
			return d, err
		}
		d.Cached = cached[id]
		s.accounts.Changed(t.Tx)
		return d, taskstore.Complete(t.Tx, claim, taskstore.Outcome{Result: d})
	})
}

// changedPullThrough applies a change of a pull-through distribution to its cached distributions and their remotes.
func changedPullThrough(t *content.Tx, before, after pulp.Distribution) error {
	if before.Private != after.Private {
		_, err := t.Exec(`UPDATE distribution SET private = $2, updated = $3 WHERE pull_through_id = $1 AND private <> $2`,
			after.ID, after.Private, t.Now)
		if err != nil {
			return err
		}
	}
	if before.RemoteID == after.RemoteID || before.RemoteID == "" {
		return nil
	}
	remote, err := record.FindPullThroughRemote(t.Ctx, t, after.RemoteID)
	if err != nil {
		return err
	}
	_, err = t.Exec(`
		UPDATE remote SET pull_through_id = $3 WHERE pull_through_id = $2 AND id IN (
			SELECT r.remote_id FROM distribution d JOIN repository r ON r.id = d.repository_id WHERE d.pull_through_id = $1)`,
		after.ID, before.RemoteID, after.RemoteID)
	if err != nil {
		return err
	}
	return changedCacheRemotes(t, remote)
}

// putPullThrough runs a statement that stores a pull-through distribution and returns the stored one. The statement's
// arguments are id, name, base_path, remote_id, namespace_id, private, hidden, description, labels and the time.
func (s *Store) putPullThrough(t *content.Tx, owner int64, statement string, d pulp.Distribution) (pulp.Distribution, error) {
	if d.RemoteID != "" {
		if _, err := record.FindPullThroughRemote(t.Ctx, t, d.RemoteID); fault.Is(err, fault.NotFound) {
			return d, fault.Field("remote", "Invalid hyperlink - Object does not exist.")
		} else if err != nil {
			return d, err
		}
	}
	namespace, created, err := putNamespace(t, pulp.NamespaceOf(d.BasePath))
	if err == nil && created {
		err = s.ownNamespace(t, owner, namespace, pulp.NamespaceOf(d.BasePath))
	}
	if err != nil {
		return d, err
	}
	if d.Labels == nil {
		d.Labels = pulp.Labels{}
	}
	_, err = t.Exec(statement, d.ID, d.Name, d.BasePath, sqldb.NullIfEmpty(d.RemoteID), namespace, d.Private, d.Hidden,
		sqldb.NullText(d.Description), sqldb.ToJSON(d.Labels), t.Now)
	if err != nil {
		return d, err
	}
	return record.FindPullThrough(t.Ctx, t, d.ID)
}

// DeletePullThrough deletes a pull-through distribution with the distributions that its pulls have created, and with their
// repositories and remotes unless another distribution serves the repository. The error is NotFound if there is no such
// distribution.
func (s *Store) DeletePullThrough(ctx context.Context, claim *taskstore.Claim, id string) error {
	return s.content.InTx(ctx, func(t *content.Tx) error {
		if err := t.LockRow("pull_through_distribution", id); err != nil { // no pull creates another one
			return err
		}
		ids, err := sqldb.Collect(t.Ctx, t, sqldb.ScanString, `SELECT id FROM distribution WHERE pull_through_id = $1`, id)
		if err != nil {
			return err
		}
		s.accounts.Changed(t.Tx)
		removed := map[string]int64{}
		for _, d := range ids {
			if err := deleteDistribution(t, d, removed); err != nil {
				return err
			}
		}
		n, err := t.Exec(`DELETE FROM pull_through_distribution WHERE id = $1`, id)
		if err == nil && n == 0 {
			return fault.New(fault.NotFound, "No ContainerPullThroughDistribution matches the given query.")
		}
		if err != nil {
			return err
		}
		removed["container.ContainerPullThroughDistribution"] = n
		return taskstore.Complete(t.Tx, claim, taskstore.Outcome{Result: removed})
	})
}

// cacheRemote returns the id of the remote of a cached distribution's repository; empty if it has none or the distribution is
// not a cached one.
func cacheRemote(t *content.Tx, distributionID string) (string, error) {
	id, err := sqldb.ScanString(t.Row(`
		SELECT m.id FROM distribution d JOIN repository r ON r.id = d.repository_id JOIN remote m ON m.id = r.remote_id
		 WHERE d.id = $1 AND d.pull_through_id IS NOT NULL AND m.pull_through_id IS NOT NULL`, distributionID))
	if errors.Is(err, sql.ErrNoRows) {
		return "", nil
	}
	return id, err
}
