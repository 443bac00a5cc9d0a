package catalog

import (
	"context"
	"database/sql"
	"errors"
	"strings"

	"github.com/google/uuid"

	"github.com/countersign/countersign/internal/access"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/accounts"
	"github.com/countersign/countersign/internal/store/content"
	"github.com/countersign/countersign/internal/store/record"
	"github.com/countersign/countersign/internal/store/sqldb"
)

// FirstPush is a push to a base path that lacks a distribution or a repository.
type FirstPush struct {
	BasePath string
	Type     pulp.RepositoryType // of the repository, if it is created
	// RepositoryID is the result of UnservedRepository if the distribution may serve that repository; empty if not.
	RepositoryID string
	// NewNamespace is set if only the creator of the namespace may push.
	NewNamespace bool
	// Owner is the id of the account that becomes the owner of what is created; 0 for none.
	Owner int64
}

// ErrNamespaceExists is the error of a push that may create a namespace which somebody else has created in the meantime.
var ErrNamespaceExists = fault.New(fault.Conflict, "The namespace was created in the meantime. Try again.")

// PushTarget returns the target of a base path. On a first push it creates the namespace, the repository and the
// distribution that are missing (compatibility.md#push-creates-repositories). Both are named like the path, with a suffix if
// an object that does not serve the path has that name. The error is Conflict if the path serves a fixed version.
func (s *Store) PushTarget(ctx context.Context, p FirstPush) (record.Target, error) {
	target, err := s.serving.Resolve(ctx, p.BasePath)
	if err == nil && target.Served() || err != nil && !fault.Is(err, fault.NotFound) {
		return target, errors.Join(err, readOnly(target))
	}
	target, err = inTxUnlessTaken(ctx, s, func(t *content.Tx) (record.Target, error) {
		if err := t.LockNamed("push " + p.BasePath); err != nil { // of concurrent first pushes only one creates the repository
			return record.Target{}, err
		}
		target, err := record.Resolve(t.Ctx, t, p.BasePath)
		switch {
		case fault.Is(err, fault.NotFound):
			target, err = s.makePushTarget(t, p)
		case err == nil && !target.Served():
			err = linkRepository(t, &target, p)
		default:
			return target, err
		}
		if target.Made = err == nil; target.Made { // grants that were read before are those of an absent object
			s.accounts.Changed(t.Tx)
		}
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
func (s *Store) makePushTarget(t *content.Tx, p FirstPush) (record.Target, error) {
	namespace, created, err := putNamespace(t, pulp.NamespaceOf(p.BasePath))
	switch {
	case err != nil:
		return record.Target{}, err
	case created:
		err = s.ownNamespace(t, p.Owner, namespace, pulp.NamespaceOf(p.BasePath))
	case p.NewNamespace:
		err = ErrNamespaceExists
	}
	if err != nil {
		return record.Target{}, err
	}
	name, err := freeName(t, "distribution", p.BasePath)
	if err != nil {
		return record.Target{}, err
	}
	target := record.Target{Distribution: pulp.Distribution{
		ID: pulp.NewID(), Name: name, BasePath: p.BasePath, NamespaceID: namespace, Stamps: record.Stamps(t.Now, t.Now),
	}}
	_, err = t.Exec(`
		INSERT INTO distribution (id, name, base_path, namespace_id, created, updated)
		VALUES ($1, $2, $3, $4, $5, $5)`, target.Distribution.ID, name, p.BasePath, namespace, t.Now)
	if err != nil {
		return record.Target{}, err
	}
	if err := p.own(t, access.DistributionOwner, access.Distribution, target.Distribution.ID); err != nil {
		return record.Target{}, err
	}
	return target, linkRepository(t, &target, p)
}

// own gives the owner of the push a role on an object that it creates.
func (p FirstPush) own(t *content.Tx, role string, kind access.Kind, id string) error {
	if p.Owner == 0 {
		return nil
	}
	return accounts.Assign(t.Tx, p.Owner, role, access.Key(kind, id))
}

// unserved selects the repository that is named like the path $1 and that no distribution serves, unless it is a mirror:
// only an administrator decides that a mirror is served.
const unserved = `
	SELECT ` + record.RepositoryColumns + ` FROM repository r WHERE r.name = $1 AND r.remote_id IS NULL AND NOT EXISTS (
		SELECT 1 FROM distribution d LEFT JOIN repository_version v ON v.id = d.repository_version_id
		 WHERE r.id IN (d.repository_id, v.repository_id))`

// UnservedRepository returns the repository that has the name of a base path, is no mirror, and that no distribution serves.
// A first push to the path uses it. The error is NotFound if there is none.
func (s *Store) UnservedRepository(ctx context.Context, basePath string) (pulp.Repository, error) {
	r, err := record.ScanRepository(s.db.Read().QueryRowContext(ctx, unserved, basePath))
	return r, sqldb.NotFound(err, "Repository not found.")
}

// linkRepository makes a distribution serve the unserved repository of a push, or a new one.
func linkRepository(t *content.Tx, target *record.Target, p FirstPush) error {
	r, err := record.ScanRepository(t.Row(unserved+` AND r.id = $2`, p.BasePath, p.RepositoryID))
	if errors.Is(err, sql.ErrNoRows) {
		if r, err = makePushRepository(t, p.BasePath, p.Type); err == nil {
			err = p.own(t, access.RepositoryOwner, access.Repository, r.ID)
		}
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

// putNamespace returns the id of the namespace with a name, and creates it if there is none.
func putNamespace(t *content.Tx, name string) (id string, created bool, err error) {
	n, err := t.Exec(`INSERT INTO namespace (id, name, created, updated) VALUES ($1, $2, $3, $3) ON CONFLICT (name) DO NOTHING`,
		pulp.NewID(), name, t.Now)
	if err != nil {
		return "", false, err
	}
	id, err = sqldb.ScanString(t.Row(`SELECT id FROM namespace WHERE name = $1`, name))
	return id, n > 0, err
}
