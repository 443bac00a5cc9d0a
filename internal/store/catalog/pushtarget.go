package catalog

import (
	"context"
	"database/sql"
	"errors"
	"strings"

	"github.com/google/uuid"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/content"
	"github.com/countersign/countersign/internal/store/record"
	"github.com/countersign/countersign/internal/store/sqldb"
)

// PushTarget returns the target of a base path. On a first push it creates the namespace, the repository of type kind and
// the distribution that are missing (compatibility.md#push-creates-repositories). Both are named like the path, with a
// suffix if an object that does not serve the path has that name. An existing repository with the name is used if no
// distribution serves it. The error is Conflict if the path serves a fixed version.
func (s *Store) PushTarget(ctx context.Context, basePath string, kind pulp.RepositoryType) (record.Target, error) {
	target, err := s.serving.Resolve(ctx, basePath)
	if err == nil && target.Served() || err != nil && !fault.Is(err, fault.NotFound) {
		return target, errors.Join(err, readOnly(target))
	}
	target, err = inTxUnlessTaken(ctx, s, func(t *content.Tx) (record.Target, error) {
		if err := t.LockNamed("push " + basePath); err != nil { // of concurrent first pushes only one creates the repository
			return record.Target{}, err
		}
		target, err := record.Resolve(t.Ctx, t, basePath)
		switch {
		case fault.Is(err, fault.NotFound):
			target, err = makePushTarget(t, basePath, kind)
		case err == nil && !target.Served():
			err = linkRepository(t, &target, kind)
		default:
			return target, err
		}
		target.Made = err == nil
		return target, err
	})
	return target, errors.Join(err, readOnly(target))
}

// readOnly returns an error if a target serves a fixed version.
func readOnly(t record.Target) error {
	if t.Distribution.Pinned != nil {
		return fault.New(fault.Conflict, "Repository is read-only.")
	}
	return nil
}

// freeName returns a name for the row of a table that serves a path, in the path's namespace: the path, or if another row
// has that name, the path with a random suffix.
func freeName(t *content.Tx, table, path string) (string, error) {
	var taken bool
	if err := t.Row(`SELECT EXISTS (SELECT 1 FROM `+table+` WHERE name = $1)`, path).Scan(&taken); err != nil || !taken {
		return path, err
	}
	suffix := "-" + strings.ReplaceAll(uuid.NewString(), "-", "")[:12]
	if !strings.Contains(path, "/") { // a name without a slash would be its own namespace
		return path + "/" + path + suffix, nil
	}
	return path + suffix, nil
}

// makePushTarget creates a distribution with a base path and links it to a repository.
func makePushTarget(t *content.Tx, basePath string, kind pulp.RepositoryType) (record.Target, error) {
	namespace, err := putNamespace(t, pulp.NamespaceOf(basePath))
	if err != nil {
		return record.Target{}, err
	}
	name, err := freeName(t, "distribution", basePath)
	if err != nil {
		return record.Target{}, err
	}
	target := record.Target{Distribution: pulp.Distribution{
		ID: pulp.NewID(), Name: name, BasePath: basePath, NamespaceID: namespace, Stamps: record.Stamps(t.Now, t.Now),
	}}
	_, err = t.Exec(`
		INSERT INTO distribution (id, name, base_path, namespace_id, created, updated)
		VALUES ($1, $2, $3, $4, $5, $5)`, target.Distribution.ID, name, basePath, namespace, t.Now)
	if err != nil {
		return record.Target{}, err
	}
	return target, linkRepository(t, &target, kind)
}

// linkRepository makes a distribution serve the repository that is named like its path and that no distribution serves. If
// there is none or it is a mirror, it creates a repository: only an administrator decides that a mirror is served.
func linkRepository(t *content.Tx, target *record.Target, kind pulp.RepositoryType) error {
	path := target.Distribution.BasePath
	r, err := record.ScanRepository(t.Row(`
		SELECT `+record.RepositoryColumns+` FROM repository r WHERE r.name = $1 AND r.remote_id IS NULL AND NOT EXISTS (
			SELECT 1 FROM distribution d LEFT JOIN repository_version v ON v.id = d.repository_version_id
			 WHERE r.id IN (d.repository_id, v.repository_id))`, path))
	if errors.Is(err, sql.ErrNoRows) {
		r, err = makePushRepository(t, path, kind)
	}
	if err != nil {
		return err
	}
	_, err = t.Exec(`UPDATE distribution SET repository_id = $2, updated = $3 WHERE id = $1`, target.Distribution.ID, r.ID, t.Now)
	target.Repository, target.Distribution.RepositoryID, target.Distribution.Repository = r, r.ID, r.Type
	if err != nil {
		return err
	}
	return t.CheckDistribution(target.Distribution)
}

// makePushRepository creates the repository of a first push to a path.
func makePushRepository(t *content.Tx, path string, kind pulp.RepositoryType) (pulp.Repository, error) {
	name, err := freeName(t, "repository", path)
	if err != nil {
		return pulp.Repository{}, err
	}
	r := pulp.Repository{Type: kind, Name: name, MadeByPush: true}
	if name != path {
		r.PushedAs = path
	}
	return makeRepository(t, r)
}

// makeRepository stores a repository and its empty version 0.
func makeRepository(t *content.Tx, r pulp.Repository) (pulp.Repository, error) {
	r.ID, r.Stamps = pulp.NewID(), record.Stamps(t.Now, t.Now)
	if r.Labels == nil {
		r.Labels = pulp.Labels{}
	}
	_, err := t.Exec(`
		INSERT INTO repository (id, type, name, description, labels, retain_repo_versions, signing_service_id, signing_assigned,
		       sign_on_push, remote_id, allow_shrink, made_by_push, pushed_as, created, updated)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $14)`,
		r.ID, r.Type, r.Name, sqldb.NullText(r.Description), sqldb.ToJSON(r.Labels), sqldb.NullInt(r.RetainRepoVersions),
		sqldb.NullIfEmpty(r.SigningServiceID), r.SigningAssigned, r.SignOnPush, sqldb.NullIfEmpty(r.RemoteID), r.AllowShrink,
		r.MadeByPush, r.PushedAs, t.Now)
	if err != nil {
		return r, err
	}
	return r, t.InsertVersion(pulp.Version{ID: pulp.NewID(), RepositoryID: r.ID})
}

// putNamespace returns the id of the namespace with a name and creates it if there is none.
func putNamespace(t *content.Tx, name string) (string, error) {
	_, err := t.Exec(`INSERT INTO namespace (id, name, created, updated) VALUES ($1, $2, $3, $3) ON CONFLICT (name) DO NOTHING`,
		pulp.NewID(), name, t.Now)
	if err != nil {
		return "", err
	}
	return sqldb.ScanString(t.Row(`SELECT id FROM namespace WHERE name = $1`, name))
}
