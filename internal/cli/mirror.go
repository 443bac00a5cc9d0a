package cli

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/countersign/countersign/internal/apiclient"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
)

// mirrorCommands are the commands about mirrors of other registries.
type mirrorCommands struct {
	Add addMirrorCommand `cmd:"" help:"Mirror a repository of another registry: create a remote, a repository and a distribution."`
}

type addMirrorCommand struct {
	Name     string   `arg:"" help:"Name of the new repository, and the path by which clients pull."`
	Source   string   `arg:"" help:"Repository of the other registry: [http[s]://]HOST[:PORT]/PATH, for example docker.io/library/alpine."`
	Include  []string `help:"Only tags that match one of these patterns. Can be repeated." placeholder:"PATTERN"`
	Exclude  []string `help:"No tags that match one of these patterns. Can be repeated." placeholder:"PATTERN"`
	Policy   string   `enum:"immediate,on_demand,streamed" default:"immediate" help:"Time at which layers are downloaded: immediate, on_demand or streamed. Default: immediate." placeholder:"POLICY"`
	Username string   `help:"User name at the other registry." placeholder:"NAME"`
	Password string   `name:"password-file" help:"File with the password for it, in the first line." placeholder:"FILE"`
	Private  bool     `help:"Serve the mirror only to users with permissions."`
	Sync     bool     `help:"Sync at once."`
	Wait     bool     `short:"w" help:"Wait until the sync has ended, and show the progress."`
	apiOptions
}

// Help shows examples.
func (addMirrorCommand) Help() string {
	return `If one of the three objects cannot be created, those that were created before are removed again.

    countersign mirror add library/alpine docker.io/library/alpine --include '3.*' --sync --wait

The remote and the distribution have the name of the repository. Other settings are those of the REST API (docs/mirror.md).`
}

// Run runs the command.
func (o addMirrorCommand) Run(ctx context.Context, c *console) error {
	body, err := o.remote()
	if err != nil {
		return err
	}
	r, err := parseReference(o.Name)
	if err != nil {
		return err
	}
	want := connection{options: o.apiOptions, reference: r, startsTasks: true}
	return c.connect(ctx, want, func(ctx context.Context, s *session) error {
		name, err := s.newName(ctx, r)
		if err != nil {
			return err
		}
		made, err := s.addMirror(ctx, name, body, o.Private)
		if err != nil {
			return err
		}
		if o.Sync || o.Wait {
			c.notef("added the mirror %s", name)
			href, err := s.start(ctx, made.Repository.V.Href+"sync/", map[string]any{})
			if err != nil {
				return fmt.Errorf("the mirror was added, but its sync did not start: %w", err)
			}
			return s.report(ctx, []job{{label: name, href: href}}, s.waits(o.Wait))
		}
		var t table
		t.add("repository", made.Repository.V.Href)
		t.add("remote", made.Remote.V.Href)
		t.add("distribution", made.Distribution.V.Href)
		t.add("served as", made.Distribution.V.RegistryPath)
		return s.show(made, t)
	})
}

// newName returns the name in an argument for an object to create, which has neither a tag nor a digest.
func (s *session) newName(ctx context.Context, r reference) (string, error) {
	if r.tag != "" || r.digest != "" {
		return "", usageError{fmt.Errorf("%s names an image: give a name without a tag", r.name())}
	}
	return s.pathOf(ctx, r)
}

// remote returns the body of the request for the remote, without its name.
func (o addMirrorCommand) remote() (map[string]any, error) {
	source := o.Source
	if !strings.Contains(source, "://") {
		source = "https://" + source
	}
	at, err := url.Parse(source)
	path := ""
	if err == nil {
		path = strings.Trim(at.Path, "/")
	}
	if err != nil || at.Scheme != "http" && at.Scheme != "https" || at.Host == "" || at.User != nil || at.RawQuery != "" || !pulp.ValidName(path) {
		return nil, usageError{fmt.Errorf("source %q: want [http[s]://]HOST[:PORT]/PATH without a tag", o.Source)}
	}
	body := map[string]any{"url": at.Scheme + "://" + at.Host, "upstream_name": path, "policy": o.Policy}
	if len(o.Include) > 0 {
		body["includes"] = o.Include
	}
	if len(o.Exclude) > 0 {
		body["excludes"] = o.Exclude
	}
	if (o.Username == "") != (o.Password == "") {
		return nil, usageError{errors.New("give both --username and --password-file, or none of them")}
	}
	if o.Username != "" {
		text, err := readFile(o.Password)
		if err != nil {
			return nil, err
		}
		password, _, _ := strings.Cut(string(text), "\n")
		body["username"], body["password"] = o.Username, strings.TrimSuffix(password, "\r")
	}
	return body, nil
}

// mirror has the objects of a mirror.
type mirror struct {
	Remote       apiclient.Object[remote]       `json:"remote"`
	Repository   apiclient.Object[repository]   `json:"repository"`
	Distribution apiclient.Object[distribution] `json:"distribution"`
}

type remote struct {
	Href string `json:"pulp_href"`
}

// addMirror creates the objects of a mirror. After an error it removes those that it has created.
func (s *session) addMirror(ctx context.Context, name string, body map[string]any, private bool) (m mirror, err error) {
	var made []string
	defer func() {
		if err != nil {
			err = errors.Join(err, s.remove(context.WithoutCancel(ctx), made))
		}
	}()
	body["name"] = name
	if err := s.api.Post(ctx, pulp.Root+pulp.RemoteCollection, body, &m.Remote); err != nil {
		return m, fmt.Errorf("remote %s: %w", name, err)
	}
	made = append(made, m.Remote.V.Href)
	repo := map[string]any{"name": name, "remote": m.Remote.V.Href}
	if err := s.api.Post(ctx, pulp.Root+pulp.ContainerCollection, repo, &m.Repository); err != nil {
		return m, fmt.Errorf("repository %s: %w", name, err)
	}
	made = append(made, m.Repository.V.Href)
	href, err := s.start(ctx, distributionsPath, map[string]any{
		"name": name, "base_path": name, "repository": m.Repository.V.Href, "private": private,
	})
	if err != nil {
		return m, fmt.Errorf("distribution %s: %w", name, err)
	}
	t, err := s.follow(ctx, href, name)
	if err == nil {
		err = t.V.err()
	}
	if err == nil && len(t.V.Results) == 0 {
		err = fmt.Errorf("task %s names no distribution", t.V.id())
	}
	if err != nil {
		return m, fmt.Errorf("distribution %s: %w", name, err)
	}
	made = nil // the distribution exists
	return m, s.api.Get(ctx, t.V.Results[0], nil, &m.Distribution)
}

// remove deletes objects that a failed command has created, the last one first.
func (s *session) remove(ctx context.Context, hrefs []string) error {
	for _, href := range slices.Backward(hrefs) {
		var started struct {
			Task string `json:"task"`
		}
		err := s.api.Call(ctx, http.MethodDelete, href, nil, &started)
		if err == nil {
			var t apiclient.Object[task]
			if t, err = s.follow(ctx, started.Task, ""); err == nil {
				err = t.V.err()
			}
		}
		if err != nil && !fault.Is(err, fault.NotFound) {
			return fmt.Errorf("delete %s, which was created before: %w", href, err)
		}
	}
	return nil
}
