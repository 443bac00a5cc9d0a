package catalog

import (
	"context"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/content"
	"github.com/countersign/countersign/internal/store/record"
	"github.com/countersign/countersign/internal/store/sqldb"
)

// errMirrored is the error of adopting into a mirror: its content comes from its remote only.
var errMirrored = fault.New(fault.Conflict, "The repository mirrors a remote.")

// adoptable returns the repository with a name. The error is Conflict if it is a mirror and NotFound if there is none.
func adoptable(ctx context.Context, q sqldb.Querier, name string) (pulp.Repository, error) {
	r, err := record.FindRepositoryByName(ctx, q, name)
	if err == nil && r.RemoteID != "" {
		err = errMirrored
	}
	return r, err
}

// NameTaken reports whether a distribution has the base path or a repository has it as its name.
func (s *Store) NameTaken(ctx context.Context, path string) (bool, error) {
	var taken bool
	err := s.db.Read().QueryRowContext(ctx, `
		SELECT EXISTS (SELECT 1 FROM distribution WHERE base_path = $1)
		    OR EXISTS (SELECT 1 FROM repository WHERE name = $1)`, path).Scan(&taken)
	return taken, err
}

// adoptTarget is a repository for adoption. made is set if this call created it.
type adoptTarget struct {
	repository pulp.Repository
	made       bool
}

// AdoptTarget returns the repository into which the upstream's repository of a name is adopted, and reports whether this
// call created it. A new repository is served at the base path of that name: by the distribution that has the path and
// serves nothing, or by a new one, which is private unless public is set. The error is Conflict if the repository with the
// name is a mirror or the path serves another repository.
func (s *Store) AdoptTarget(ctx context.Context, name string, kind pulp.RepositoryType, public bool) (pulp.Repository, bool, error) {
	r, err := adoptable(ctx, s.db.Read(), name)
	if !fault.Is(err, fault.NotFound) {
		return r, false, err
	}
	target, err := inTxUnlessTaken(ctx, s, func(t *content.Tx) (adoptTarget, error) {
		if err := t.LockNamed("push " + name); err != nil {
			return adoptTarget{}, err
		}
		r, err := adoptable(t.Ctx, t, name)
		if fault.Is(err, fault.NotFound) {
			r, err = s.makeAdoptTarget(t, name, kind, public)
			return adoptTarget{repository: r, made: true}, err
		}
		return adoptTarget{repository: r}, err // another call created it before the lock was taken
	})
	return target.repository, target.made, err
}

// makeAdoptTarget creates the repository of AdoptTarget.
func (s *Store) makeAdoptTarget(t *content.Tx, name string, kind pulp.RepositoryType, public bool) (pulp.Repository, error) {
	target, err := record.Resolve(t.Ctx, t, name)
	switch {
	case fault.Is(err, fault.NotFound):
		if target, err = s.makePushTarget(t, FirstPush{BasePath: name, Type: kind}); err == nil && !public {
			_, err = t.Exec(`UPDATE distribution SET private = TRUE WHERE id = $1`, target.Distribution.ID)
		}
	case err == nil && !target.Served(): // its repository was deleted
		err = linkRepository(t, &target, FirstPush{BasePath: name, Type: kind})
	case err == nil && target.Repository.Name != name:
		err = fault.New(fault.Conflict, "The path %s serves another repository.", name)
	}
	return target.Repository, err
}
