package cli

import (
	"context"
	"fmt"
	"net/url"
	"runtime/debug"
	"time"

	"github.com/countersign/countersign/internal/apiclient"
)

// versionCommands print the version of the program, or are about versions of repositories.
type versionCommands struct {
	Program printVersionCommand `cmd:"" default:"1" hidden:"" help:"Print the version of the program."`
	List    listVersionsCommand `cmd:"" help:"List the versions of a repository."`
	Show    showVersionCommand  `cmd:"" help:"Show a version of a repository."`
	Diff    diffVersionsCommand `cmd:"" help:"Show the differences between two versions of a repository."`
}

type printVersionCommand struct{}

// Run prints the versions of the program and of Go.
func (printVersionCommand) Run(c *console) error {
	from := ""
	if info, ok := debug.ReadBuildInfo(); ok {
		from = " " + info.GoVersion
	}
	_, err := fmt.Fprintf(c.out, "countersign %s%s\n", c.program.Version, from)
	return err
}

// version has the fields of a repository version that commands read.
type version struct {
	Href    string    `json:"pulp_href"`
	Number  int64     `json:"number"`
	Created time.Time `json:"pulp_created"`
	Actor   string    `json:"actor"`
	By      *string   `json:"created_by"`
	Summary struct {
		Added   counts `json:"added"`
		Removed counts `json:"removed"`
		Present counts `json:"present"`
	} `json:"content_summary"`
}

// counts are numbers of content units by their kind.
type counts map[string]struct {
	Count int `json:"count"`
}

// contentKinds are the kinds of content units in summaries.
var contentKinds = []struct{ key, noun string }{
	{"container.tag", "tag"}, {"container.manifest", "manifest"}, {"container.blob", "blob"}, {"container.signature", "signature"},
}

// text returns the numbers as text, for example "2 tags, 1 manifest".
func (n counts) text() string {
	text := ""
	for _, kind := range contentKinds {
		if number := n[kind.key].Count; number > 0 {
			if text != "" {
				text += ", "
			}
			text += count(number, kind.noun)
		}
	}
	if text == "" {
		return "-"
	}
	return text
}

type listVersionsCommand struct {
	Repository string `arg:"" help:"Name or path of the repository."`
	listOptions
	apiOptions
}

// Run runs the command.
func (o listVersionsCommand) Run(ctx context.Context, c *console) error {
	r, err := parseReference(o.Repository)
	if err != nil {
		return err
	}
	return c.connect(ctx, connection{options: o.apiOptions, reference: r}, func(ctx context.Context, s *session) error {
		repo, err := s.repositoryOf(ctx, r)
		if err != nil {
			return err
		}
		found, total, err := apiclient.List[apiclient.Object[version]](ctx, s.api, repo.V.Href+"versions/", url.Values{}, o.Limit)
		if err != nil {
			return err
		}
		t := table{header: []string{"VERSION", "CREATED", "BY", "ADDED", "REMOVED"}}
		for _, v := range found {
			t.add(fmt.Sprint(v.V.Number), when(&v.V.Created), v.V.Actor, v.V.Summary.Added.text(), v.V.Summary.Removed.text())
		}
		o.notice(c, len(found), total)
		return s.show(found, t)
	})
}

type showVersionCommand struct {
	Repository string `arg:"" help:"Name or path of the repository."`
	Number     int64  `arg:"" name:"version" help:"Number of the version."`
	apiOptions
}

// Run runs the command.
func (o showVersionCommand) Run(ctx context.Context, c *console) error {
	r, err := parseReference(o.Repository)
	if err != nil {
		return err
	}
	return c.connect(ctx, connection{options: o.apiOptions, reference: r}, func(ctx context.Context, s *session) error {
		repo, err := s.repositoryOf(ctx, r)
		if err != nil {
			return err
		}
		found, err := s.readVersion(ctx, repo.V, o.Number)
		if err != nil {
			return err
		}
		v := found.V
		var t table
		t.add("repository", repo.V.Name)
		t.add("version", fmt.Sprint(v.Number))
		t.add("created", when(&v.Created))
		t.add("by", v.Actor)
		t.add("added", v.Summary.Added.text())
		t.add("removed", v.Summary.Removed.text())
		t.add("content", v.Summary.Present.text())
		t.add("href", v.Href)
		return s.show(found, t)
	})
}

// readVersion returns a version of a repository.
func (s *session) readVersion(ctx context.Context, r repository, number int64) (apiclient.Object[version], error) {
	var found apiclient.Object[version]
	err := s.api.Get(ctx, r.versionHref(number), nil, &found)
	if err != nil {
		err = fmt.Errorf("version %d of %s: %w", number, r.Name, err)
	}
	return found, err
}
