package cli

import (
	"context"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"

	"github.com/countersign/countersign/internal/apiclient"
	"github.com/countersign/countersign/internal/fault"
)

// repositoryCommands are the commands about repositories.
type repositoryCommands struct {
	List listRepositoriesCommand `cmd:"" help:"List repositories."`
	Show showRepositoryCommand   `cmd:"" help:"Show a repository with the paths that serve it."`
}

// listOptions are the options of lists.
type listOptions struct {
	Limit int `default:"100" help:"Largest number of objects; 0 for all. Default: 100." placeholder:"N"`
}

// notice tells a person that a list is not complete.
func (o listOptions) notice(c *console, shown, total int) {
	if shown < total && !c.json {
		c.notef("%d of %d are shown: --limit 0 shows all", shown, total)
	}
}

type listRepositoriesCommand struct {
	Name string `help:"Only repositories with this text in their names." placeholder:"TEXT"`
	listOptions
	apiOptions
}

// Run runs the command.
func (o listRepositoriesCommand) Run(ctx context.Context, c *console) error {
	return c.connect(ctx, connection{options: o.apiOptions}, func(ctx context.Context, s *session) error {
		query := url.Values{"ordering": {"name"}}
		if o.Name != "" {
			query.Set("name__contains", o.Name)
		}
		found, total, err := apiclient.List[apiclient.Object[repository]](ctx, s.api, repositoriesPath, query, o.Limit)
		if err != nil {
			return err
		}
		t := table{header: []string{"NAME", "TYPE", "VERSION", "UPDATED"}}
		for _, r := range found {
			t.add(r.V.Name, r.V.kind(), fmt.Sprint(r.V.latest()), when(&r.V.Updated))
		}
		o.notice(c, len(found), total)
		return s.show(found, t)
	})
}

type showRepositoryCommand struct {
	Repository string `arg:"" help:"Name or path of the repository."`
	apiOptions
}

// Run runs the command.
func (o showRepositoryCommand) Run(ctx context.Context, c *console) error {
	r, err := parseReference(o.Repository)
	if err != nil {
		return err
	}
	return c.connect(ctx, connection{options: o.apiOptions, reference: r}, func(ctx context.Context, s *session) error {
		found, err := s.repositoryOf(ctx, r)
		if err != nil {
			return err
		}
		if c.json {
			return s.show(found, table{})
		}
		t, err := s.repositoryTable(ctx, found.V)
		if err != nil {
			return err
		}
		return s.show(found, t)
	})
}

// repositoryOf returns the repository with the name in an argument, which must have neither a tag nor a digest.
func (s *session) repositoryOf(ctx context.Context, r reference) (apiclient.Object[repository], error) {
	if r.tag != "" || r.digest != "" {
		return apiclient.Object[repository]{}, usageError{fmt.Errorf("%s names an image: give the name of a repository", r.name())}
	}
	path, err := s.pathOf(ctx, r)
	if err != nil {
		return apiclient.Object[repository]{}, err
	}
	return s.findRepository(ctx, path)
}

// repositoryTable returns a repository as a table, with its distributions and the names of objects that it refers to.
func (s *session) repositoryTable(ctx context.Context, r repository) (table, error) {
	served, _, err := apiclient.List[distribution](ctx, s.api, distributionsPath, url.Values{"repository": {r.Href}}, 0)
	if err != nil {
		return table{}, err
	}
	service, err := s.nameOf(ctx, r.SigningService)
	if err != nil {
		return table{}, err
	}
	remote, err := s.nameOf(ctx, r.Remote)
	if err != nil {
		return table{}, err
	}
	labels := make([]string, 0, len(r.Labels))
	for _, key := range slices.Sorted(maps.Keys(r.Labels)) {
		labels = append(labels, key+"="+r.Labels[key])
	}
	var t table
	t.add("name", r.Name)
	t.add("type", r.kind())
	t.add("latest version", fmt.Sprint(r.latest()))
	t.add("created", when(&r.Created))
	t.add("signing service", service)
	if r.SignOnPush {
		t.add("sign on push", "yes")
	}
	if remote != "-" {
		t.add("remote", remote)
	}
	if r.Retain != nil {
		t.add("kept versions", fmt.Sprint(*r.Retain))
	}
	if d := orDash(r.Description); d != "-" {
		t.add("description", d)
	}
	if len(labels) > 0 {
		t.add("labels", strings.Join(labels, ", "))
	}
	for _, d := range served {
		access := "public"
		if d.Private {
			access = "private"
		}
		t.add("served as", d.RegistryPath+" ("+access+")")
	}
	t.add("href", r.Href)
	return t, nil
}

// nameOf returns the name of an object, or its href if the caller may not see it, or "-" for none.
func (s *session) nameOf(ctx context.Context, href *string) (string, error) {
	if href == nil || *href == "" {
		return "-", nil
	}
	var named struct {
		Name string `json:"name"`
	}
	err := s.api.Get(ctx, *href, nil, &named)
	if fault.Is(err, fault.NotFound) || fault.Is(err, fault.Denied) {
		return *href, nil
	}
	return named.Name, err
}
