package app

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"strings"

	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store"
)

const (
	// hostsSetting is the name of the stored setting with all hosts of public_url, as JSON, that signatures of this
	// installation can name.
	hostsSetting = "public_hosts"
	// assignmentsListedSetting is the name of the stored setting that exists when the assignments from before the
	// upgrade were logged.
	assignmentsListedSetting = "earlier_signing_assignments_listed"
)

// warnAtStart logs problems of the stored data and of settings that an operator should act on.
func (a *App) warnAtStart(ctx context.Context, s *store.Store) error {
	if err := a.warnOfFormerHosts(ctx, s); err != nil {
		return err
	}
	if err := a.warnOfEarlierAssignments(ctx, s); err != nil {
		return err
	}
	if err := a.warnOfMissingServices(ctx, s); err != nil {
		return err
	}
	return a.warnOfMissingRoles(ctx, s)
}

// warnOfMissingRoles logs each role and each signing service that a rule for id tokens names and that does not exist. It
// is not an error: they can be added later.
func (a *App) warnOfMissingRoles(ctx context.Context, s *store.Store) error {
	services, err := s.Signatures.SigningServices(ctx)
	if err != nil {
		return err
	}
	for _, r := range a.config.OIDC.Rules {
		for _, g := range r.Grants {
			exists, err := s.Accounts.RoleExists(ctx, g.Role)
			if err != nil {
				return err
			}
			if !exists {
				a.log.WarnContext(ctx, "a rule for id tokens names a role that does not exist: it grants nothing until the role is created",
					slog.String("rule", r.Name), slog.String("role", g.Role))
			}
			for _, name := range g.SigningServices {
				if !slices.ContainsFunc(services, func(v pulp.SigningService) bool { return v.Name == name }) {
					a.log.WarnContext(ctx, "a rule for id tokens names a signing service that does not exist: "+
						"add it with `countersign add-signing-service`, or correct the rule",
						slog.String("rule", r.Name), slog.String("service", name))
				}
			}
		}
	}
	return nil
}

// checkPlainHTTP logs that clients would send passwords and tokens over the network in plain text, or returns an error if
// tls.required is set.
func (a *App) checkPlainHTTP(ctx context.Context) error {
	reason := a.config.PlainHTTP()
	if reason == "" {
		return nil
	}
	const advice = "set tls.cert_file and tls.key_file, or use a proxy with TLS and set public_url to its https URL"
	if a.config.TLS.Required {
		return fmt.Errorf("tls.required: %s: %s", reason, advice)
	}
	a.log.WarnContext(ctx, "clients send passwords and tokens over the network in plain text: "+advice,
		slog.String("reason", reason), slog.String("help", "docs/deploy.md, \"TLS\""))
	return nil
}

// warnOfFormerHosts logs each host that public_url had before and that signatures name. Clients that require a
// signature refuse images with such signatures only. Hosts that no signature names are forgotten.
func (a *App) warnOfFormerHosts(ctx context.Context, s *store.Store) error {
	current := a.config.Public().Host
	hosts := []string{a.config.WrittenHost()} // versions without the stored setting signed with this form of the host
	kept, err := s.DB.Setting(ctx, hostsSetting)
	if err != nil {
		return err
	}
	if kept != nil {
		if err := json.Unmarshal(kept, &hosts); err != nil {
			return fmt.Errorf("setting %s: %w", hostsSetting, err)
		}
	}
	remaining := []string{current}
	for _, host := range hosts {
		if slices.Contains(remaining, host) {
			continue
		}
		named, err := s.Signatures.HasSignaturesOf(ctx, host)
		if err != nil {
			return err
		}
		if !named {
			continue
		}
		remaining = append(remaining, host)
		a.log.WarnContext(ctx, "signatures name a former host of public_url: "+
			"clients that require signatures refuse images without newer ones; sign these images again",
			slog.String("host", host), slog.String("public_url", a.config.Public().String()),
			slog.String("help", "docs/operations.md, \"When public_url changes\""))
	}
	if kept != nil && slices.Equal(remaining, hosts) {
		return nil
	}
	text, err := json.Marshal(remaining)
	if err != nil {
		return err
	}
	return s.DB.PutSetting(ctx, hostsSetting, text)
}

// warnOfEarlierAssignments logs, at the first start only, the repositories with a signing service that was assigned
// before the server recorded the assigner.
func (a *App) warnOfEarlierAssignments(ctx context.Context, s *store.Store) error {
	if listed, err := s.DB.Setting(ctx, assignmentsListedSetting); err != nil || listed != nil {
		return err
	}
	all, err := s.Signatures.SigningAssignments(ctx)
	if err != nil {
		return err
	}
	earlier := false
	for _, v := range all {
		if v.By == pulp.AssignedByAdmin {
			continue
		}
		earlier = true
		a.log.WarnContext(ctx, "this repository keeps its signing service, which its owner could have assigned before the upgrade",
			slog.String("repository", v.Repository), slog.String("service", v.Service), slog.Bool("sign_on_push", v.SignOnPush))
	}
	if earlier {
		a.log.WarnContext(ctx, "to revoke all or some of the assignments listed above, run `countersign revoke-signing-assignments`; "+
			"with signing.use assigned only administrators assign signing services", slog.String("signing.use", a.config.Signing.Use),
			slog.String("help", "docs/operations.md, \"Signing services that users assigned before\""))
	}
	return s.DB.PutSetting(ctx, assignmentsListedSetting, []byte("done"))
}

// warnOfMissingServices logs each signing service that signing.assign or signing.on_push names and that does not
// exist. It is not an error: the service can be added later.
func (a *App) warnOfMissingServices(ctx context.Context, s *store.Store) error {
	services, err := s.Signatures.SigningServices(ctx)
	if err != nil {
		return err
	}
	for _, list := range []struct {
		setting string
		rules   []string
	}{{setting: "signing.assign", rules: a.config.Signing.Assign}, {setting: "signing.on_push", rules: a.config.Signing.OnPush}} {
		warned := map[string]bool{}
		for _, rule := range list.rules {
			_, name, _ := strings.Cut(rule, "=")
			if warned[name] || slices.ContainsFunc(services, func(v pulp.SigningService) bool { return v.Name == name }) {
				continue
			}
			warned[name] = true
			a.log.WarnContext(ctx, "a setting names a signing service that does not exist: "+
				"add it with `countersign add-signing-service`, or correct the setting",
				slog.String("setting", list.setting), slog.String("service", name))
		}
	}
	return nil
}
