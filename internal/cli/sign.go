package cli

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"

	"github.com/countersign/countersign/internal/apiclient"
)

type signCommand struct {
	References []string `arg:"" name:"ref" help:"Images to sign: [HOST/]PATH:TAG, [HOST/]PATH@DIGEST, or [HOST/]PATH for all tags."`
	Service    string   `help:"Name of the signing service. Default: that of the repository, or the only one." placeholder:"NAME"`
	Force      bool     `help:"Sign images that the key has signed already again."`
	Lists      *bool    `name:"sign-lists" negatable:"" help:"Sign the lists of multi-platform images too, or not. Default: as the server is configured."`
	Wait       bool     `short:"w" help:"Wait until the images are signed, and show the progress."`
	apiOptions
}

// Help shows examples.
func (signCommand) Help() string {
	return `The server signs the images in a task. Without --wait the command prints the task and ends.

    countersign sign registry.example.com/team/app:v1 --wait
    countersign sign team/app:v1 team/app:v2 team/tools --service release --wait

A digest must have a tag: the reference in the signature contains it. Exit status 1: a task failed.`
}

// signing is a request to sign images that clients pull by one path.
type signing struct {
	path string
	repo repository
	tags []string // nil: all
}

// Run runs the command.
func (o signCommand) Run(ctx context.Context, c *console) error {
	refs, err := parseReferences(o.References)
	if err != nil {
		return err
	}
	want := connection{options: o.apiOptions, reference: refs[0], startsTasks: true}
	return c.connect(ctx, want, func(ctx context.Context, s *session) error {
		requests, err := s.signings(ctx, refs)
		if err != nil {
			return err
		}
		service, err := s.serviceHref(ctx, o.Service, requests)
		if err != nil {
			return err
		}
		jobs := make([]job, 0, len(requests))
		for _, r := range requests {
			body := map[string]any{"force": o.Force, "future_base_path": r.path}
			if service != "" {
				body["manifest_signing_service"] = service
			}
			if r.tags != nil {
				body["tags_list"] = r.tags
			}
			if o.Lists != nil {
				body["sign_lists"] = *o.Lists
			}
			href, err := s.start(ctx, r.repo.Href+"sign/", body)
			if err != nil {
				return errors.Join(fmt.Errorf("%s: %w", r.path, err), s.report(ctx, jobs, false))
			}
			jobs = append(jobs, job{label: r.path, href: href})
		}
		return s.report(ctx, jobs, s.waits(o.Wait))
	})
}

// signings returns the requests for references: one for each path.
func (s *session) signings(ctx context.Context, refs []reference) ([]*signing, error) {
	var all []*signing
	for _, r := range refs {
		path, err := s.pathOf(ctx, r)
		if err != nil {
			return nil, err
		}
		i := slices.IndexFunc(all, func(v *signing) bool { return v.path == path })
		if i < 0 {
			repo, err := s.findReferenced(ctx, path)
			if err != nil {
				return nil, err
			}
			i, all = len(all), append(all, &signing{path: path, repo: repo.V, tags: []string{}})
		}
		tags, err := s.tagsOf(ctx, r, all[i].repo)
		switch {
		case err != nil:
			return nil, err
		case tags == nil || all[i].tags == nil:
			all[i].tags = nil
		default:
			all[i].tags = append(all[i].tags, tags...)
		}
	}
	for _, v := range all {
		slices.Sort(v.tags)
		v.tags = slices.Compact(v.tags)
	}
	return all, nil
}

// tagsOf returns the tags that a reference selects in the latest version of a repository; nil for all. The error is NotFound if
// there is none.
func (s *session) tagsOf(ctx context.Context, r reference, repo repository) ([]string, error) {
	query := url.Values{"repository_version": {repo.Latest}, "fields": {"pulp_href,name"}}
	switch {
	case r.tag != "":
		query.Set("name", r.tag)
	case r.digest != "":
		query.Set("digest", r.digest.String())
	default:
		return nil, nil
	}
	found, _, err := apiclient.List[tag](ctx, s.api, tagsPath, query, 0)
	if err != nil {
		return nil, err
	}
	tags := make([]string, len(found))
	for i, t := range found {
		tags[i] = t.Name
	}
	switch {
	case len(tags) > 0:
		return tags, nil
	case r.digest != "":
		return nil, missing("%s: no tag of the repository has this digest; an image of a list is signed with the tag of the list", r.name())
	}
	return nil, missing("%s: the repository has no such tag", r.name())
}

// serviceHref returns the href of the signing service to send: that with the name, or without a name the only one of the server
// if a repository has none itself. It is empty if the server decides.
func (s *session) serviceHref(ctx context.Context, name string, requests []*signing) (string, error) {
	if name != "" {
		found, err := s.findService(ctx, name)
		return found.Href, err
	}
	if !slices.ContainsFunc(requests, func(r *signing) bool { return r.repo.SigningService == nil }) {
		return "", nil
	}
	// Callers that may not change a repository do not see its service.
	found, count, err := apiclient.List[service](ctx, s.api, servicesPath, nil, 2)
	if err == nil && count == 1 && !slices.ContainsFunc(requests, func(r *signing) bool { return r.repo.SigningService != nil }) {
		return found[0].Href, nil
	}
	return "", err
}
