package cli

import (
	"context"
)

type rollbackCommand struct {
	Repository string `arg:"" help:"Name or path of the repository."`
	Version    int64  `arg:"" help:"Number of the version whose content the new version gets."`
	Wait       bool   `short:"w" help:"Wait until the new version exists."`
	apiOptions
}

// Help describes the effect.
func (rollbackCommand) Help() string {
	return `A new version gets the content of the older one. Newer signatures of its manifests are kept. Versions in between stay. ` +
		"`version list` and `version diff` show them."
}

// Run runs the command.
func (o rollbackCommand) Run(ctx context.Context, c *console) error {
	r, err := parseReference(o.Repository)
	if err != nil {
		return err
	}
	want := connection{options: o.apiOptions, reference: r, startsTasks: true}
	return c.connect(ctx, want, func(ctx context.Context, s *session) error {
		repo, err := s.repositoryOf(ctx, r)
		if err != nil {
			return err
		}
		if _, err := s.readVersion(ctx, repo.V, o.Version); err != nil {
			return err
		}
		href, err := s.start(ctx, repo.V.Href+"rollback/", map[string]any{"version": o.Version})
		if err != nil {
			return err
		}
		return s.report(ctx, []job{{label: repo.V.Name, href: href}}, s.waits(o.Wait))
	})
}
