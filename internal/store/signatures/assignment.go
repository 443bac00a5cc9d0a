package signatures

import (
	"context"
	"slices"
	"strings"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/content"
	"github.com/countersign/countersign/internal/store/sqldb"
)

// SigningAssignment is a signing service that is assigned to a repository.
type SigningAssignment struct {
	Repository string        // its name
	Service    string        // the service's name
	By         pulp.Assigner // empty: a process of an older version, after the schema was migrated
	SignOnPush bool          // the repository refuses pushes that this service does not sign
}

// SigningAssignments returns all assignments of signing services to repositories, by repository name.
func (s *Store) SigningAssignments(ctx context.Context) ([]SigningAssignment, error) {
	return signingAssignments(ctx, s.db.Read(), "")
}

// signingAssignments is SigningAssignments with a lock on the rows, empty for none.
func signingAssignments(ctx context.Context, q sqldb.Querier, lock string) ([]SigningAssignment, error) {
	return sqldb.Collect(ctx, q, func(row sqldb.Scanner) (SigningAssignment, error) {
		var a SigningAssignment
		err := row.Scan(&a.Repository, &a.Service, &a.By, &a.SignOnPush)
		return a, err
	}, `SELECT r.name, s.name, r.signing_assigned, r.sign_on_push FROM repository r JOIN signing_service s ON s.id = r.signing_service_id ORDER BY r.name`+lock)
}

// RevokeSigningAssignments removes the signing services of the repositories with these names, or, without names, all
// assignments that no administrator made. It returns the removed assignments. The error is NotFound, and nothing
// changes, if a named repository has no signing service.
func (s *Store) RevokeSigningAssignments(ctx context.Context, names []string) ([]SigningAssignment, error) {
	return content.InTx(ctx, s.content, func(t *content.Tx) ([]SigningAssignment, error) {
		all, err := signingAssignments(t.Ctx, t, t.Dialect.ForUpdate)
		if err != nil {
			return nil, err
		}
		revoked := slices.DeleteFunc(all, func(a SigningAssignment) bool {
			if len(names) == 0 {
				return a.By == pulp.AssignedByAdmin
			}
			return !slices.Contains(names, a.Repository)
		})
		var missing []string
		for _, name := range names {
			if !slices.ContainsFunc(revoked, func(a SigningAssignment) bool { return a.Repository == name }) {
				missing = append(missing, name)
			}
		}
		if len(missing) > 0 {
			return nil, fault.New(fault.NotFound, "No signing service is assigned to %s; nothing was revoked.", strings.Join(missing, ", "))
		}
		for _, a := range revoked {
			if _, err := t.Exec(`UPDATE repository SET signing_service_id = NULL, signing_assigned = '', updated = $2 WHERE name = $1`, a.Repository, t.Now); err != nil {
				return nil, err
			}
		}
		return revoked, nil
	})
}
