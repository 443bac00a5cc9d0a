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

// PushTarget returns the target of a base path, making on a first push the namespace, the repository of this type and the distribution that it needs. Both have the
// path as their name, or, where an object that does not serve the path has that name, the path with a suffix. A repository of the path's name that no
// distribution serves is used. Conflict when the path serves a fixed version.
func (s *Store) PushTarget(ctx context.Context, basePath string, t pulp.RepositoryType) (record.Target, error) {
	target, err := s.serving.Resolve(ctx, basePath)
	if err == nil && target.Served() || err != nil && !fault.Is(err, fault.NotFound) {
		return target, errors.Join(err, readOnly(target))
	}
	err = s.inTxUnlessTaken(ctx, func(x *content.Tx) error {
		if err := x.LockNamed("push " + basePath); err != nil { // two first pushes at once make one repository
			return err
		}
		var err error
		target, err = record.Resolve(x.Ctx, x, basePath)
		switch {
		case fault.Is(err, fault.NotFound):
			target, err = makePushTarget(x, basePath, t)
		case err == nil && !target.Served():
			err = linkRepository(x, &target, t)
		default:
			return err
		}
		target.Made = err == nil
		return err
	})
	return target, errors.Join(err, readOnly(target))
}

func readOnly(t record.Target) error {
	if t.Distribution.Pinned != nil {
		return fault.New(fault.Conflict, "Repository is read-only.")
	}
	return nil
}

// namingTries is how often a transaction that chooses a free name is run when others take the name at the same moment.
const namingTries = 3

// inTxUnlessTaken runs a transaction that looks whether names and paths are free before it takes them, and runs it again when another transaction took one meanwhile.
func (s *Store) inTxUnlessTaken(ctx context.Context, f func(*content.Tx) error) error {
	var err error
	for range namingTries {
		if err = s.content.InTx(ctx, f); !sqldb.IsUnique(err) {
			return err
		}
	}
	return err
}

// freeName returns a name in the namespace of a path for the row of a table that serves the path: the path itself or, where another row has that name, one that begins so.
func freeName(t *content.Tx, table, path string) (string, error) {
	var taken bool
	if err := t.Row(`SELECT EXISTS (SELECT 1 FROM `+table+` WHERE name = $1)`, path).Scan(&taken); err != nil || !taken {
		return path, err
	}
	suffix := "-" + strings.ReplaceAll(uuid.NewString(), "-", "")[:12]
	if !strings.Contains(path, "/") { // or the name would be in a namespace of its own
		return path + "/" + path + suffix, nil
	}
	return path + suffix, nil
}

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
	_, err = t.Exec(`INSERT INTO distribution (id, name, base_path, namespace_id, created, updated) VALUES ($1, $2, $3, $4, $5, $5)`,
		target.Distribution.ID, name, basePath, namespace, t.Now)
	if err != nil {
		return record.Target{}, err
	}
	return target, linkRepository(t, &target, kind)
}

// linkRepository gives a distribution the repository that has its path as a name and that nothing serves yet. Where there is none, or it is a mirror, which is served
// only where somebody says so, it makes a repository.
func linkRepository(t *content.Tx, target *record.Target, kind pulp.RepositoryType) error {
	path := target.Distribution.BasePath
	r, err := record.ScanRepository(t.Row(`
		SELECT `+record.RepositoryColumns+` FROM repository r WHERE r.name = $1 AND r.remote_id IS NULL AND NOT EXISTS (
			SELECT 1 FROM distribution d LEFT JOIN repository_version v ON v.id = d.repository_version_id WHERE r.id IN (d.repository_id, v.repository_id))`, path))
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

// makePushRepository stores the repository that a first push to a path makes.
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
		INSERT INTO repository (id, type, name, description, labels, retain_repo_versions, signing_service_id, signing_assigned, sign_on_push, remote_id, allow_shrink,
		       made_by_push, pushed_as, created, updated)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $14)`,
		r.ID, r.Type, r.Name, sqldb.NullText(r.Description), sqldb.ToJSON(r.Labels), sqldb.NullInt(r.RetainRepoVersions), sqldb.NullIfEmpty(r.SigningServiceID), r.SigningAssigned, r.SignOnPush,
		sqldb.NullIfEmpty(r.RemoteID), r.AllowShrink, r.MadeByPush, r.PushedAs, t.Now)
	if err != nil {
		return r, err
	}
	return r, t.InsertVersion(pulp.Version{ID: pulp.NewID(), RepositoryID: r.ID})
}

func putNamespace(t *content.Tx, name string) (string, error) {
	if _, err := t.Exec(`INSERT INTO namespace (id, name, created, updated) VALUES ($1, $2, $3, $3) ON CONFLICT (name) DO NOTHING`,
		pulp.NewID(), name, t.Now); err != nil {
		return "", err
	}
	return sqldb.ScanString(t.Row(`SELECT id FROM namespace WHERE name = $1`, name))
}
