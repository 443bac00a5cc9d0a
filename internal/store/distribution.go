package store

import (
	"context"
	"strings"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
)

// CreateDistribution keeps a new distribution, with its namespace, and completes the task whose result that is. It serves RepositoryID, or the version
// Pinned, or nothing. Taken names and paths, and paths below or above another's, are field errors (contract 2.7).
func (s *Store) CreateDistribution(ctx context.Context, claim *Claim, d pulp.Distribution) (pulp.Distribution, error) {
	d.ID = pulp.NewID()
	err := s.inTxUnlessTaken(ctx, func(t *tx) error {
		if err := t.checkConflict(d); err != nil {
			return err
		}
		if err := t.checkServed(d); err != nil {
			return err
		}
		namespace, err := t.putNamespace(pulp.NamespaceOf(d.BasePath))
		if err != nil {
			return err
		}
		_, err = t.exec(`
			INSERT INTO distribution (id, name, base_path, repository_id, repository_version_id, namespace_id, private, hidden, description, labels, created, updated)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $11)`, append(distributionValues(d, namespace), t.now)...)
		if err != nil {
			return err
		}
		if d, err = distribution(t.ctx, t, d.ID); err != nil {
			return err
		}
		if err := t.sealDistribution(d); err != nil {
			return err
		}
		created := []Created{{pulp.Href(pulp.DistributionCollection, d.ID), pulp.PRN(pulp.DistributionCollection, d.ID)}}
		return t.complete(claim, Outcome{Created: created, Result: d})
	})
	return d, err
}

// EditDistribution changes a distribution by a function and completes the task whose result that is; claim is nil outside a task. The errors are CreateDistribution's, and
// NotFound.
func (s *Store) EditDistribution(ctx context.Context, claim *Claim, id string, edit func(*pulp.Distribution)) (pulp.Distribution, error) {
	var d pulp.Distribution
	err := s.inTxUnlessTaken(ctx, func(t *tx) error {
		err := t.lockRow("distribution", id)
		if err != nil {
			return err
		}
		if d, err = distribution(t.ctx, t, id); err != nil {
			return err
		}
		before := d
		edit(&d)
		d.ID = id
		if before.Name != d.Name || before.BasePath != d.BasePath { // a push may have made a path below this one's (D17)
			if err := t.checkConflict(d); err != nil {
				return err
			}
		}
		if err := t.checkServed(d); err != nil {
			return err
		}
		namespace, err := t.putNamespace(pulp.NamespaceOf(d.BasePath))
		if err != nil {
			return err
		}
		_, err = t.exec(`
			UPDATE distribution SET name = $2, base_path = $3, repository_id = $4, repository_version_id = $5, namespace_id = $6,
			       private = $7, hidden = $8, description = $9, labels = $10, updated = $11
			 WHERE id = $1`, append(distributionValues(d, namespace), t.now)...)
		if err != nil {
			return err
		}
		if d, err = distribution(t.ctx, t, id); err != nil {
			return err
		}
		if before.BasePath != d.BasePath || before.RepositoryID != d.RepositoryID || !samePinned(before.Pinned, d.Pinned) {
			if err := t.sealDistribution(d); err != nil {
				return err
			}
		}
		return t.complete(claim, Outcome{Result: d})
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
		d.ID, d.Name, d.BasePath, null(repository), null(version), namespace, d.Private, d.Hidden, nullText(d.Description), toJSON(d.Labels),
	}
}

// checkConflict sees that a distribution's name and path are its own.
func (t *tx) checkConflict(d pulp.Distribution) error {
	conflict, err := conflictOf(t.ctx, t, d.ID, d.Name, d.BasePath)
	if err != nil {
		return err
	}
	return conflict
}

// checkServed sees that what a distribution is to serve is there.
func (t *tx) checkServed(d pulp.Distribution) error {
	var repository, version bool
	pinned := ""
	if d.Pinned != nil {
		pinned = d.Pinned.VersionID
	}
	err := t.row(`SELECT EXISTS (SELECT 1 FROM repository WHERE id = $1), EXISTS (SELECT 1 FROM repository_version WHERE id = $2)`, d.RepositoryID, pinned).
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

// Texts of contract 2.7.
const (
	takenField   = "This field must be unique."
	overlapsText = "Overlaps with an existing distribution."
	// OverlapField is the field of the error about a base path that lies below or above another: it is nested (contract 2.7).
	OverlapField = "base_path.base_path"
)

// DistributionConflict returns what stands against a distribution of this name and path, other than the one with this id: an error with fields, or nil.
func (s *Store) DistributionConflict(ctx context.Context, id, name, basePath string) (conflict, err error) {
	return conflictOf(ctx, s.read, id, name, basePath)
}

func conflictOf(ctx context.Context, q querier, id, name, basePath string) (conflict, err error) {
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
		name, id, basePath, toJSON(above), below, strings.TrimSuffix(below, "/")+"0").Scan(&named, &there, &overlaps) // '0' follows '/'
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
// other distribution serves it (D8), and completes the task whose result that is. NotFound when there is none.
func (s *Store) DeleteDistribution(ctx context.Context, claim *Claim, id string) error {
	return s.inTx(ctx, func(t *tx) error {
		removed := map[string]int64{}
		if err := t.deleteDistribution(id, removed); err != nil {
			return err
		}
		return t.complete(claim, Outcome{Result: removed})
	})
}

// deleteDistribution removes a distribution, and perhaps its repository, and counts what it removed by model.
func (t *tx) deleteDistribution(id string, removed map[string]int64) error {
	kind, err := collect(t.ctx, t, scanString, `DELETE FROM repository WHERE made_by_push AND id = (SELECT repository_id FROM distribution WHERE id = $1)
		AND NOT EXISTS (SELECT 1 FROM distribution d LEFT JOIN repository_version v ON v.id = d.repository_version_id
			WHERE d.id <> $1 AND repository.id IN (d.repository_id, v.repository_id)) RETURNING type`, id)
	if err != nil {
		return err
	}
	for _, k := range kind {
		removed["container."+modelName(pulp.RepositoryType(k))]++
	}
	n, err := t.exec(`DELETE FROM distribution WHERE id = $1`, id)
	if err == nil && n == 0 {
		return fault.New(fault.NotFound, "No ContainerDistribution matches the given query.")
	}
	removed["container.ContainerDistribution"] += n
	return err
}

// SetPrivate says whether only those who may pull from it see what a base path serves. NotFound when no distribution has that path.
func (s *Store) SetPrivate(ctx context.Context, basePath string, private bool) error {
	return s.inTx(ctx, func(t *tx) error {
		n, err := t.exec(`UPDATE distribution SET private = $2, updated = $3 WHERE base_path = $1`, basePath, private, t.now)
		if err == nil && n == 0 {
			return fault.New(fault.NotFound, "No distribution has the base path %s.", basePath)
		}
		return err
	})
}
