package catalog

import (
	"context"
	"strings"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/content"
	"github.com/countersign/countersign/internal/store/record"
	"github.com/countersign/countersign/internal/store/sqldb"
	"github.com/countersign/countersign/internal/store/taskstore"
)

// CreateDistribution keeps a new distribution, with its namespace, and completes the task whose result that is. It serves RepositoryID, or the version
// Pinned, or nothing. Taken names and paths, and paths below or above another's, are field errors (compatibility.md#distributions).
func (s *Store) CreateDistribution(ctx context.Context, claim *taskstore.Claim, d pulp.Distribution) (pulp.Distribution, error) {
	d.ID = pulp.NewID()
	err := s.inTxUnlessTaken(ctx, func(t *content.Tx) error {
		if err := checkConflict(t, d); err != nil {
			return err
		}
		if err := checkServed(t, d); err != nil {
			return err
		}
		namespace, err := putNamespace(t, pulp.NamespaceOf(d.BasePath))
		if err != nil {
			return err
		}
		_, err = t.Exec(`
			INSERT INTO distribution (id, name, base_path, repository_id, repository_version_id, namespace_id, private, hidden, description, labels, created, updated)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $11)`, append(distributionValues(d, namespace), t.Now)...)
		if err != nil {
			return err
		}
		if d, err = record.FindDistribution(t.Ctx, t, d.ID); err != nil {
			return err
		}
		if err := t.CheckDistribution(d); err != nil {
			return err
		}
		created := []taskstore.Created{{Href: pulp.Href(pulp.DistributionCollection, d.ID), PRN: pulp.PRN(pulp.DistributionCollection, d.ID)}}
		return taskstore.Complete(t.Tx, claim, taskstore.Outcome{Created: created, Result: d})
	})
	return d, err
}

// EditDistribution changes a distribution by a function and completes the task whose result that is; claim is nil outside a task. The errors are CreateDistribution's, and
// NotFound.
func (s *Store) EditDistribution(ctx context.Context, claim *taskstore.Claim, id string, edit func(*pulp.Distribution)) (pulp.Distribution, error) {
	var d pulp.Distribution
	err := s.inTxUnlessTaken(ctx, func(t *content.Tx) error {
		err := t.LockRow("distribution", id)
		if err != nil {
			return err
		}
		if d, err = record.FindDistribution(t.Ctx, t, id); err != nil {
			return err
		}
		before := d
		edit(&d)
		d.ID = id
		if before.Name != d.Name || before.BasePath != d.BasePath { // a push may have made a path below this one's (compatibility.md#nested-names)
			if err := checkConflict(t, d); err != nil {
				return err
			}
		}
		if err := checkServed(t, d); err != nil {
			return err
		}
		namespace, err := putNamespace(t, pulp.NamespaceOf(d.BasePath))
		if err != nil {
			return err
		}
		_, err = t.Exec(`
			UPDATE distribution SET name = $2, base_path = $3, repository_id = $4, repository_version_id = $5, namespace_id = $6,
			       private = $7, hidden = $8, description = $9, labels = $10, updated = $11
			 WHERE id = $1`, append(distributionValues(d, namespace), t.Now)...)
		if err != nil {
			return err
		}
		if d, err = record.FindDistribution(t.Ctx, t, id); err != nil {
			return err
		}
		if before.BasePath != d.BasePath || before.RepositoryID != d.RepositoryID || !samePinned(before.Pinned, d.Pinned) {
			if err := t.CheckDistribution(d); err != nil {
				return err
			}
		}
		return taskstore.Complete(t.Tx, claim, taskstore.Outcome{Result: d})
	})
	return d, err
}

func samePinned(a, b *pulp.PinnedVersion) bool {
	return a == nil && b == nil || a != nil && b != nil && a.VersionID == b.VersionID
}

func distributionValues(d pulp.Distribution, namespace string) []any {
	if d.Labels == nil {
		d.Labels = pulp.Labels{}
	}
	repository, version := d.RepositoryID, ""
	if d.Pinned != nil {
		repository, version = "", d.Pinned.VersionID
	}
	return []any{
		d.ID, d.Name, d.BasePath, sqldb.NullIfEmpty(repository), sqldb.NullIfEmpty(version), namespace, d.Private, d.Hidden, sqldb.NullText(d.Description), sqldb.ToJSON(d.Labels),
	}
}

// checkConflict sees that a distribution's name and path are its own.
func checkConflict(t *content.Tx, d pulp.Distribution) error {
	conflict, err := conflictOf(t.Ctx, t, d.ID, d.Name, d.BasePath)
	if err != nil {
		return err
	}
	return conflict
}

// checkServed sees that what a distribution is to serve is there.
func checkServed(t *content.Tx, d pulp.Distribution) error {
	var repository, version bool
	pinned := ""
	if d.Pinned != nil {
		pinned = d.Pinned.VersionID
	}
	err := t.Row(`SELECT EXISTS (SELECT 1 FROM repository WHERE id = $1), EXISTS (SELECT 1 FROM repository_version WHERE id = $2)`, d.RepositoryID, pinned).
		Scan(&repository, &version)
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

// Texts of compatibility.md#distributions.
const (
	takenField   = "This field must be unique."
	overlapsText = "Overlaps with an existing distribution."
	// OverlapField is the field of the error about a base path that lies below or above another: it is nested (compatibility.md#distributions).
	OverlapField = "base_path.base_path"
)

// DistributionConflict returns what stands against a distribution of this name and path, other than the one with this id: an error with fields, or nil.
func (s *Store) DistributionConflict(ctx context.Context, id, name, basePath string) (conflict, err error) {
	return conflictOf(ctx, s.db.Read(), id, name, basePath)
}

func conflictOf(ctx context.Context, q sqldb.Querier, id, name, basePath string) (conflict, err error) {
	var named, there, overlaps bool
	above := []string{}
	for i, r := range basePath {
		if r == '/' {
			above = append(above, basePath[:i])
		}
	}
	below := basePath + "/"
	err = q.QueryRowContext(ctx, `
		SELECT EXISTS (SELECT 1 FROM distribution WHERE name = $1 AND id <> $2), EXISTS (SELECT 1 FROM distribution WHERE base_path = $3 AND id <> $2),
		       EXISTS (SELECT 1 FROM distribution WHERE id <> $2 AND (base_path IN (SELECT j.value FROM json_each($4) j) OR base_path >= $5 AND base_path < $6))`,
		name, id, basePath, sqldb.ToJSON(above), below, strings.TrimSuffix(below, "/")+"0").Scan(&named, &there, &overlaps) // '0' follows '/'
	if err != nil {
		return nil, err
	}
	fields := fault.Fields{}
	if named {
		fields["name"] = []string{takenField}
	}
	if there {
		fields["base_path"] = []string{takenField}
	} else if overlaps {
		fields[OverlapField] = []string{overlapsText}
	}
	if len(fields) == 0 {
		return nil, nil
	}
	return &fault.Error{Kind: fault.Invalid, Msg: "The distribution's name or base path stands against another's.", Fields: fields}, nil
}

// DeleteDistribution removes a distribution, and its repository with all versions when a push created that repository and no
// other distribution serves it (compatibility.md#deleting-distributions), and completes the task whose result that is. NotFound when there is none.
func (s *Store) DeleteDistribution(ctx context.Context, claim *taskstore.Claim, id string) error {
	return s.content.InTx(ctx, func(t *content.Tx) error {
		removed := map[string]int64{}
		if err := deleteDistribution(t, id, removed); err != nil {
			return err
		}
		return taskstore.Complete(t.Tx, claim, taskstore.Outcome{Result: removed})
	})
}

// deleteDistribution removes a distribution, and perhaps its repository, and counts what it removed by model.
func deleteDistribution(t *content.Tx, id string, removed map[string]int64) error {
	kind, err := sqldb.Collect(t.Ctx, t, sqldb.ScanString, `DELETE FROM repository WHERE made_by_push AND id = (SELECT repository_id FROM distribution WHERE id = $1)
		AND NOT EXISTS (SELECT 1 FROM distribution d LEFT JOIN repository_version v ON v.id = d.repository_version_id
			WHERE d.id <> $1 AND repository.id IN (d.repository_id, v.repository_id)) RETURNING type`, id)
	if err != nil {
		return err
	}
	for _, k := range kind {
		removed["container."+record.ModelName(pulp.RepositoryType(k))]++
	}
	n, err := t.Exec(`DELETE FROM distribution WHERE id = $1`, id)
	if err == nil && n == 0 {
		return fault.New(fault.NotFound, "No ContainerDistribution matches the given query.")
	}
	removed["container.ContainerDistribution"] += n
	return err
}

// SetPrivate says whether only those who may pull from it see what a base path serves. NotFound when no distribution has that path.
func (s *Store) SetPrivate(ctx context.Context, basePath string, private bool) error {
	return s.content.InTx(ctx, func(t *content.Tx) error {
		n, err := t.Exec(`UPDATE distribution SET private = $2, updated = $3 WHERE base_path = $1`, basePath, private, t.Now)
		if err == nil && n == 0 {
			return fault.New(fault.NotFound, "No distribution has the base path %s.", basePath)
		}
		return err
	})
}

// Distributed says whether a distribution is pinned to a repository version, which cannot be deleted then.
func (s *Store) Distributed(ctx context.Context, versionID string) (bool, error) {
	var pinned bool
	err := s.db.Read().QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM distribution WHERE repository_version_id = $1)`, versionID).Scan(&pinned)
	return pinned, err
}

// Distribution returns the distribution with this id. NotFound when there is none.
func (s *Store) Distribution(ctx context.Context, id string) (pulp.Distribution, error) {
	return record.FindDistribution(ctx, s.db.Read(), id)
}

// RepositoryDistributions returns the distributions that serve a repository's latest version, by base path. Pinned ones do not
// count (compatibility.md#distributions).
func (s *Store) RepositoryDistributions(ctx context.Context, repositoryID string) ([]pulp.Distribution, error) {
	return sqldb.Collect(ctx, s.db.Read(), record.ScanDistribution,
		`SELECT `+record.DistributionColumns+record.DistributionSource+` WHERE d.repository_id = $1 ORDER BY d.base_path`, repositoryID)
}
