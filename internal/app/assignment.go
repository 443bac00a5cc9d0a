package app

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store"
)

// assigners says in words who made an assignment.
var assigners = map[pulp.Assigner]string{
	pulp.AssignedByAdmin: "an administrator",
	pulp.AssignedByOwner: "a repository owner",
	pulp.AssignedEarlier: "somebody, before the upgrade",
	"":                   "an older server, during the upgrade",
}

// earlierListed is the setting that says that the assignments from before the upgrade were listed.
const earlierListed = "earlier_signing_assignments_listed"

// listEarlierAssignments logs, at the first start only, which repositories had a signing service when the server did not yet record who assigned it.
func (p *Program) listEarlierAssignments(s *store.Store) error {
	if listed, err := s.Setting(p.ctx, earlierListed); err != nil || listed != nil {
		return err
	}
	all, err := s.SigningAssignments(p.ctx)
	if err != nil {
		return err
	}
	earlier := false
	for _, a := range all {
		if a.By == pulp.AssignedByAdmin {
			continue
		}
		earlier = true
		p.log.WarnContext(p.ctx, "this repository keeps its signing service, which its owner could have assigned before the upgrade",
			slog.String("repository", a.Repository), slog.String("service", a.Service), slog.Bool("sign_on_push", a.SignOnPush))
	}
	if earlier {
		p.log.WarnContext(p.ctx, "to take back the assignments listed above, all or some of them, run `countersign revoke-signing-assignments`; "+
			"with signing.use assigned only administrators assign signing services", slog.String("signing.use", p.config.Signing.Use),
			slog.String("help", "docs/operations.md, \"Signing services that users assigned before\""))
	}
	return s.PutSetting(p.ctx, earlierListed, []byte("done"))
}

// warnOfAbsentServices logs the signing services that signing.assign and signing.on_push name and that do not exist, once each. They may be added later, so the
// server starts.
func (p *Program) warnOfAbsentServices(s *store.Store) error {
	services, err := s.SigningServices(p.ctx)
	if err != nil {
		return err
	}
	for _, list := range []struct {
		setting string
		rules   []string
	}{{"signing.assign", p.config.Signing.Assign}, {"signing.on_push", p.config.Signing.OnPush}} {
		warned := map[string]bool{}
		for _, rule := range list.rules {
			_, name, _ := strings.Cut(rule, "=")
			if warned[name] || slices.ContainsFunc(services, func(v pulp.SigningService) bool { return v.Name == name }) {
				continue
			}
			warned[name] = true
			p.log.WarnContext(p.ctx, "a setting names a signing service that does not exist: add it with `countersign add-signing-service`, or correct the setting",
				slog.String("setting", list.setting), slog.String("service", name))
		}
	}
	return nil
}

type ListAssignmentsCommand struct{}

// Run prints each repository that has a signing service of its own, with the service and who assigned it.
func (ListAssignmentsCommand) Run(p *Program) error {
	return p.withExisting(func(s *store.Store) error {
		all, err := s.SigningAssignments(p.ctx)
		if err != nil {
			return err
		}
		return p.printAssignments(all)
	})
}

func (p *Program) printAssignments(all []store.SigningAssignment) error {
	w := tabwriter.NewWriter(p.out, 0, 0, 2, ' ', 0)
	for _, a := range all {
		onPush := ""
		if a.SignOnPush {
			onPush = "signs on push"
		}
		if _, err := fmt.Fprintf(w, "%s\t%s\tassigned by %s\t%s\n", a.Repository, a.Service, assigners[a.By], onPush); err != nil {
			return err
		}
	}
	return w.Flush()
}

type RevokeAssignmentsCommand struct {
	Repositories []string `arg:"" optional:"" name:"repository" help:"Names of repositories whose signing service is taken away, whoever assigned it."`
	All          bool     `help:"Take it from every repository to which no administrator has assigned it: assignments from before the upgrade, and those by owners."`
}

// Help says how to keep some of the assignments.
func (RevokeAssignmentsCommand) Help() string {
	return `To keep some assignments and revoke the rest, confirm those first: as an administrator, PATCH manifest_signing_service of the repository with the value that it has. Then run this with --all.

list-signing-assignments shows who made which assignment. Signatures that were made stay. A repository that signs on push refuses pushes until it has a service again or its sign_on_push is turned off. The server need not be stopped.`
}

// Run revokes the assignments and prints them.
func (c RevokeAssignmentsCommand) Run(p *Program) error {
	if c.All == (len(c.Repositories) > 0) {
		return errors.New("name the repositories whose assignments shall be revoked, or say --all; list-signing-assignments shows all assignments")
	}
	return p.withExisting(func(s *store.Store) error {
		revoked, err := s.RevokeSigningAssignments(p.ctx, c.Repositories)
		if err != nil {
			return err
		}
		for _, a := range revoked {
			p.log.InfoContext(p.ctx, "audit", slog.String("who", commandLineUser), slog.String("action", "revoke signing assignment"),
				slog.String("object", a.Repository), slog.String("service", a.Service), slog.String("result", "done"))
		}
		if err := p.printAssignments(revoked); err != nil {
			return err
		}
		_, err = fmt.Fprintf(p.out, "Revoked %d assignments.\n", len(revoked))
		return err
	})
}
