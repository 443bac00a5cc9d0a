package cli

import (
	"context"
	"fmt"

	"github.com/countersign/countersign/internal/fault"
)

type syncCommand struct {
	Repository  string `arg:"" help:"Name or path of the repository."`
	Mirror      bool   `help:"Remove tags and images that the remote no longer lists."`
	SignedOnly  bool   `help:"Skip images without a signature."`
	AllowShrink bool   `help:"With --mirror: permit a sync whose tag list is suspiciously short."`
	SkipCorrupt bool   `help:"Skip images of which the remote lacks a blob or serves other bytes."`
	Wait        bool   `short:"w" help:"Wait until the sync has ended, and show the progress."`
	apiOptions
}

// Help describes the exit status.
func (syncCommand) Help() string {
	return "The repository must have a remote; `mirror add` creates both. Exit status 1: the task failed."
}

// Run runs the command.
func (o syncCommand) Run(ctx context.Context, c *console) error {
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
		if repo.V.kind() != "container" {
			return fault.New(fault.Invalid, "%s is a repository for pushes and has no remote", repo.V.Name)
		}
		body := map[string]any{}
		for name, set := range map[string]bool{
			"mirror": o.Mirror, "signed_only": o.SignedOnly, "allow_shrink": o.AllowShrink, "skip_corrupt": o.SkipCorrupt,
		} {
			if set {
				body[name] = true
			}
		}
		href, err := s.start(ctx, repo.V.Href+"sync/", body)
		if err != nil {
			return fmt.Errorf("%s: %w", repo.V.Name, err)
		}
		return s.report(ctx, []job{{label: repo.V.Name, href: href}}, s.waits(o.Wait))
	})
}
