package admin

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"text/tabwriter"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store"
	"github.com/countersign/countersign/internal/store/signatures"
)

// assigners are the printed forms of the assigners of signing services.
var assigners = map[pulp.Assigner]string{
	pulp.AssignedByAdmin: "an administrator",
	pulp.AssignedByOwner: "a repository owner",
	pulp.AssignedEarlier: "an unknown user, before the upgrade",
	"":                   "an older server, during the upgrade",
}

// ListSigningAssignments prints each repository that has a signing service of its own, with the service and the
// assigner.
func (a *Admin) ListSigningAssignments(ctx context.Context) error {
	return a.app.WithExistingStore(ctx, func(s *store.Store) error {
		all, err := s.Signatures.SigningAssignments(ctx)
		if err != nil {
			return err
		}
		return a.printAssignments(all)
	})
}

func (a *Admin) printAssignments(all []signatures.SigningAssignment) error {
	w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
	for _, v := range all {
		onPush := ""
		if v.SignOnPush {
			onPush = "signs on push"
		}
		if _, err := fmt.Fprintf(w, "%s\t%s\tassigned by %s\t%s\n", v.Repository, v.Service, assigners[v.By], onPush); err != nil {
			return err
		}
	}
	return w.Flush()
}

// RevokeSigningAssignments removes the signing services of the named repositories, or with all those that no
// administrator assigned. It writes an audit entry for each and prints them.
func (a *Admin) RevokeSigningAssignments(ctx context.Context, repositories []string, all bool) error {
	if all == (len(repositories) > 0) {
		return errors.New("give the names of repositories, or --all; list-signing-assignments shows all assignments")
	}
	return a.change(ctx, func(ctx context.Context, s *store.Store, entries *audit.Log) error {
		revoked, err := s.Signatures.RevokeSigningAssignments(ctx, repositories)
		if err != nil {
			return err
		}
		for _, v := range revoked {
			entry := audit.Entry{Action: "revoke signing assignment", Object: v.Repository, Result: audit.Done}
			entries.Record(ctx, entry, slog.String("service", v.Service))
		}
		if err := a.printAssignments(revoked); err != nil {
			return err
		}
		_, err = fmt.Fprintf(a.out, "Revoked %d assignments.\n", len(revoked))
		return err
	})
}
