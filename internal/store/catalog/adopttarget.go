package catalog

import (
	"context"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/content"
	"github.com/countersign/countersign/internal/store/record"
	"github.com/countersign/countersign/internal/store/sqldb"
)

// adoptable returns the repository with this name. Conflict when it is a mirror, NotFound when there is none.
func adoptable(ctx context.Context, q sqldb.Querier, name string) (pulp.Repository, error) {
	r, err := record.FindRepositoryByName(ctx, q, name)
	if err == nil && r.RemoteID != "" {
		err = errMirrored
	}
	return r, err
}

// NameTaken reports whether a distribution has a path, or a repository has it as its name.
func (s *Store) NameTaken(ctx context.Context, path string) (bool, error) {
	var taken bool
	err := s.db.Read().QueryRowContext(ctx, `
		SELECT EXISTS (SELECT 1 FROM distribution WHERE base_path = $1) OR EXISTS (SELECT 1 FROM repository WHERE name = $1)`, path).Scan(&taken)
	return taken, err
}

// errMirrored is why the upstream's own changes do not enter a mirror: its remote says what it holds.
var errMirrored = fault.New(fault.Conflict, "The repository mirrors a remote.")

// AdoptTarget returns the repository into which an upstream's repository of this name is adopted, and whether this call made it: with a distribution of that path, private unless
// public, or under one that serves nothing, as that is. Conflict when the name is a mirror's, or its path serves something else.
func (s *Store) AdoptTarget(ctx context.Context, name string, kind pulp.RepositoryType, public bool) (pulp.Repository, bool, error) {
	r, err := adoptable(ctx, s.db.Read(), name)
	if !fault.Is(err, fault.NotFound) {
		return r, false, err
	}
	var target record.Target
	made := false
	err = s.inTxUnlessTaken(ctx, func(x *content.Tx) error {
		made = false
		if err := x.LockNamed("push " + name); err != nil {
			return err
		}
		var err error
		if target.Repository, err = adoptable(x.Ctx, x, name); !fault.Is(err, fault.NotFound) { // made since
			return err
		}
		target, err = record.Resolve(x.Ctx, x, name)
		switch {
		case fault.Is(err, fault.NotFound):
			if target, err = makePushTarget(x, name, kind); err == nil && !public {
				_, err = x.Exec(`UPDATE distribution SET private = TRUE WHERE id = $1`, target.Distribution.ID)
			}
		case err == nil && !target.Served(): // its repository was deleted
			err = linkRepository(x, &target, kind)
		case err == nil && target.Repository.Name != name:
			return fault.New(fault.Conflict, "The path %s serves another repository.", name)
		default:
			return err
		}
		made = err == nil
		return err
	})
	return target.Repository, made && err == nil, err
}
