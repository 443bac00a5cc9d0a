package catalog

import (
	"context"

	"github.com/countersign/countersign/internal/access"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/content"
	"github.com/countersign/countersign/internal/store/record"
	"github.com/countersign/countersign/internal/store/sqldb"
	"github.com/countersign/countersign/internal/store/taskstore"
)

// CreateDistribution stores a new distribution and creates its namespace if it is missing. The distribution serves the
// latest version of RepositoryID, the version Pinned, or nothing. The account owner gets the owner's role on it, and on the
// namespace if that is created; 0 for none. The error is Invalid and has fields if the name or base
// path conflicts with another distribution (compatibility.md#distributions), or the repository or version does not exist.
func (s *Store) CreateDistribution(
	ctx context.Context, claim *taskstore.Claim, d pulp.Distribution, owner int64,
) (pulp.Distribution, error) {
	d.ID = pulp.NewID()
	return inTxUnlessTaken(ctx, s, func(t *content.Tx) (pulp.Distribution, error) {
		if err := checkConflict(t, d); err != nil {
			return d, err
		}
		stored, err := s.putDistribution(t, owner, `
			INSERT INTO distribution (id, name, base_path, repository_id, repository_version_id, namespace_id,
			       private, hidden, description, labels, created, updated)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $11)`, d)
		if err != nil {
			return d, err
		}
		if err := t.CheckDistribution(stored); err != nil {
			return d, err
		}
		if err := s.own(t, owner, access.DistributionOwner, access.Distribution, d.ID); err != nil {
			return d, err
		}
		created := []taskstore.Created{{
			Href: pulp.Href(pulp.DistributionCollection, d.ID), PRN: pulp.PRN(pulp.DistributionCollection, d.ID),
		}}
		return stored, taskstore.Complete(t.Tx, claim, taskstore.Outcome{Created: created, Result: stored})
	})
}

// EditDistribution changes a distribution with edit and returns it as it is afterwards. The account owner gets the owner's
// role on the namespace of a new path if that is created; 0 for none. The error is NotFound if there is no such
// distribution; the others are those of CreateDistribution.
func (s *Store) EditDistribution(
	ctx context.Context, claim *taskstore.Claim, id string, owner int64, edit func(*pulp.Distribution),
) (pulp.Distribution, error) {
	return inTxUnlessTaken(ctx, s, func(t *content.Tx) (d pulp.Distribution, err error) {
		if err := t.LockRow("distribution", id); err != nil {
			return d, err
		}
		before, err := record.FindDistribution(t.Ctx, t, id)
		if err != nil {
			return d, err
		}
		d = before
		edit(&d)
		d.ID = id
		// An unchanged path is not checked: a push may have created a path below it (compatibility.md#nested-names).
		if before.Name != d.Name || before.BasePath != d.BasePath {
			if err := checkConflict(t, d); err != nil {
				return d, err
			}
		}
		d, err = s.putDistribution(t, owner, `
			UPDATE distribution SET name = $2, base_path = $3, repository_id = $4, repository_version_id = $5, namespace_id = $6,
			       private = $7, hidden = $8, description = $9, labels = $10, updated = $11
			 WHERE id = $1`, d)
		if err != nil {
			return d, err
		}
		if before.BasePath != d.BasePath {
			s.accounts.Changed(t.Tx)
		}
		if before.BasePath != d.BasePath || before.RepositoryID != d.RepositoryID || !samePinned(before.Pinned, d.Pinned) {
			if d, err = s.leaveCache(t, d); err != nil {
				return d, err
			}
			if err := t.CheckDistribution(d); err != nil {
				return d, err
			}
		}
		return d, taskstore.Complete(t.Tx, claim, taskstore.Outcome{Result: d})
	})
}

// leaveCache ends the membership of a distribution in a pull-through cache: the roles on the cache do not apply to another
// repository or path.
func (s *Store) leaveCache(t *content.Tx, d pulp.Distribution) (pulp.Distribution, error) {
	if d.CacheID == "" {
		return d, nil
	}
	s.accounts.Changed(t.Tx)
	if _, err := t.Exec(`UPDATE distribution SET pull_through_id = NULL WHERE id = $1`, d.ID); err != nil {
		return d, err
	}
	return record.FindDistribution(t.Ctx, t, d.ID)
}

// putDistribution runs a statement that stores a distribution and returns the stored distribution. The statement's arguments
// are id, name, base_path, repository_id, repository_version_id, namespace_id, private, hidden, description, labels and the
// time.
func (s *Store) putDistribution(t *content.Tx, owner int64, statement string, d pulp.Distribution) (pulp.Distribution, error) {
	if err := checkServed(t, d); err != nil {
		return d, err
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
	repository, version := d.RepositoryID, ""
	if d.Pinned != nil {
		repository, version = "", d.Pinned.VersionID
	}
	_, err = t.Exec(statement, d.ID, d.Name, d.BasePath, sqldb.NullIfEmpty(repository), sqldb.NullIfEmpty(version), namespace,
		d.Private, d.Hidden, sqldb.NullText(d.Description), sqldb.ToJSON(d.Labels), t.Now)
	if err != nil {
		return d, err
	}
	return record.FindDistribution(t.Ctx, t, d.ID)
}

// samePinned reports whether two distributions are pinned to the same version, or neither is pinned.
func samePinned(a, b *pulp.PinnedVersion) bool {
	return a == nil && b == nil || a != nil && b != nil && a.VersionID == b.VersionID
}

// checkConflict returns an error with fields if a distribution's name or base path conflicts with another distribution.
func checkConflict(t *content.Tx, d pulp.Distribution) error {
	conflict, err := conflictOf(t.Ctx, t, d)
	if err != nil {
		return err
	}
	return conflict
}

// checkServed returns an error with fields if the repository or version that a distribution serves does not exist.
func checkServed(t *content.Tx, d pulp.Distribution) error {
	var repository, version bool
	pinned := ""
	if d.Pinned != nil {
		pinned = d.Pinned.VersionID
	}
	err := t.Row(`
		SELECT EXISTS (SELECT 1 FROM repository WHERE id = $1), EXISTS (SELECT 1 FROM repository_version WHERE id = $2)`,
		d.RepositoryID, pinned).Scan(&repository, &version)
	switch {
	case err != nil:
		return err
	case d.Pinned == nil && d.RepositoryID != "" && !repository:
		return fault.Field("repository", "Invalid hyperlink - Object does not exist.")
	case d.Pinned != nil && !version:
		return fault.Field("repository_version", "Invalid hyperlink - Object does not exist.")
	}
	return nil
}

// DeleteDistribution deletes a distribution. It also deletes the distribution's repository with all versions if a push
// created the repository and no other distribution serves it (compatibility.md#deleting-distributions). The error is
// NotFound if there is no such distribution.
func (s *Store) DeleteDistribution(ctx context.Context, claim *taskstore.Claim, id string) error {
	return s.content.InTx(ctx, func(t *content.Tx) error {
		s.accounts.Changed(t.Tx)
		removed := map[string]int64{}
		if err := deleteDistribution(t, id, removed); err != nil {
			return err
		}
		return taskstore.Complete(t.Tx, claim, taskstore.Outcome{Result: removed})
	})
}

// deleteDistribution is DeleteDistribution within a transaction. It adds the numbers of deleted objects to removed, by
// Pulp's names of their models. With the repository of a pull-through cache it deletes the repository's remote.
func deleteDistribution(t *content.Tx, id string, removed map[string]int64) error {
	remote, err := cacheRemote(t, id)
	if err != nil {
		return err
	}
	types, err := sqldb.Collect(t.Ctx, t, sqldb.ScanString, `
		DELETE FROM repository WHERE made_by_push AND id = (SELECT repository_id FROM distribution WHERE id = $1)
		   AND NOT EXISTS (SELECT 1 FROM distribution d LEFT JOIN repository_version v ON v.id = d.repository_version_id
			WHERE d.id <> $1 AND repository.id IN (d.repository_id, v.repository_id)) RETURNING type`, id)
	if err != nil {
		return err
	}
	for _, k := range types {
		removed["container."+record.ModelName(pulp.RepositoryType(k))]++
	}
	n, err := t.Exec(`DELETE FROM distribution WHERE id = $1`, id)
	if err == nil && n == 0 {
		return fault.New(fault.NotFound, "No ContainerDistribution matches the given query.")
	}
	removed["container.ContainerDistribution"] += n
	if err != nil || remote == "" {
		return err
	}
	n, err = t.Exec(`DELETE FROM remote WHERE id = $1 AND NOT EXISTS (SELECT 1 FROM repository WHERE remote_id = $1)`, remote)
	if n > 0 {
		removed["container.ContainerRemote"] += n
	}
	return err
}

// SetPrivate changes whether the distribution with a base path is private: whether only users with the permission to pull
// from it see its content. The error is NotFound if no distribution has the path.
func (s *Store) SetPrivate(ctx context.Context, basePath string, private bool) error {
	return s.content.InTx(ctx, func(t *content.Tx) error {
		n, err := t.Exec(`UPDATE distribution SET private = $2, updated = $3 WHERE base_path = $1`, basePath, private, t.Now)
		if err == nil && n == 0 {
			return fault.New(fault.NotFound, "No distribution has the base path %s.", basePath)
		}
		return err
	})
}

// VersionPinned reports whether a distribution is pinned to a repository version. Such a version cannot be deleted.
func (s *Store) VersionPinned(ctx context.Context, versionID string) (bool, error) {
	var pinned bool
	err := s.db.Read().QueryRowContext(ctx,
		`SELECT EXISTS (SELECT 1 FROM distribution WHERE repository_version_id = $1)`, versionID).Scan(&pinned)
	return pinned, err
}

// Distribution returns the distribution with an id. The error is NotFound if there is none.
func (s *Store) Distribution(ctx context.Context, id string) (pulp.Distribution, error) {
	return record.FindDistribution(ctx, s.db.Read(), id)
}

// RepositoryDistributions returns the distributions that serve a repository's latest version, in the order of their base
// paths. It omits distributions that are pinned to a version (compatibility.md#distributions).
func (s *Store) RepositoryDistributions(ctx context.Context, repositoryID string) ([]pulp.Distribution, error) {
	return sqldb.Collect(ctx, s.db.Read(), record.ScanDistribution,
		`SELECT `+record.DistributionColumns+record.DistributionSource+` WHERE d.repository_id = $1 ORDER BY d.base_path`, repositoryID)
}
