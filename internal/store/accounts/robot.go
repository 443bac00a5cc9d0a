package accounts

import (
	"context"

	"github.com/countersign/countersign/internal/access"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/sqldb"
)

// CreateRobot stores a new account of a robot of the namespace NamespaceID and gives it a role there; empty for none.
// The error has the field "name" if the name is taken, is Invalid if the role has no permission for namespaces, and
// NotFound if the role or the namespace does not exist.
func (s *Store) CreateRobot(ctx context.Context, u pulp.User, role string) (pulp.User, error) {
	return sqldb.InTx(ctx, s.db, func(t *sqldb.Tx) (pulp.User, error) {
		s.Changed(t)
		on := access.Key(access.Namespace, u.NamespaceID)
		if role != "" {
			if err := checkRole(t, role, on); err != nil {
				return pulp.User{}, err
			}
		} else if _, _, err := lockObject(t, on); err != nil {
			return pulp.User{}, err
		}
		made, err := CreateUser(t, u)
		switch {
		case fault.Is(err, fault.Invalid):
			return pulp.User{}, fault.Field("name", notUnique)
		case err != nil || role == "":
			return made, err
		}
		return made, Assign(t, made.ID, role, on)
	})
}
