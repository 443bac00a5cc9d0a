package cli

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/countersign/countersign/internal/apiclient"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
)

// Paths of collections of the API.
const (
	repositoriesPath  = pulp.Root + "repositories/"
	distributionsPath = pulp.Root + pulp.DistributionCollection
	servicesPath      = pulp.Root + pulp.SigningServiceCollection
	tagsPath          = pulp.Root + pulp.TagCollection
	manifestsPath     = pulp.Root + pulp.ManifestCollection
	signaturesPath    = pulp.Root + pulp.SignatureCollection
	tasksPath         = pulp.Root + pulp.TaskCollection
	statusPath        = pulp.Root + "status/"
)

// The fields of objects of the API that commands read.
type (
	repository struct {
		Href           string            `json:"pulp_href"`
		Created        time.Time         `json:"pulp_created"`
		Updated        time.Time         `json:"pulp_last_updated"`
		Name           string            `json:"name"`
		Description    *string           `json:"description"`
		Labels         map[string]string `json:"pulp_labels"`
		Latest         string            `json:"latest_version_href"`
		Retain         *int64            `json:"retain_repo_versions"`
		Remote         *string           `json:"remote"`
		SigningService *string           `json:"manifest_signing_service"`
		SignOnPush     bool              `json:"sign_on_push"`
	}
	distribution struct {
		Href              string  `json:"pulp_href"`
		BasePath          string  `json:"base_path"`
		RegistryPath      string  `json:"registry_path"`
		Repository        *string `json:"repository"`
		RepositoryVersion *string `json:"repository_version"`
		Private           bool    `json:"private"`
	}
	service struct {
		Href string `json:"pulp_href"`
		Name string `json:"name"`
	}
)

// latest returns the number of the repository's latest version.
func (r repository) latest() int64 { return versionNumber(r.Latest) }

// kind returns the type of a repository as in its href: container or container-push.
func (r repository) kind() string {
	parts := strings.Split(strings.Trim(r.Href, "/"), "/")
	return parts[max(0, len(parts)-2)]
}

// versionHref returns the href of a version of the repository.
func (r repository) versionHref(number int64) string {
	return fmt.Sprintf("%sversions/%d/", r.Href, number)
}

// versionNumber returns the number in the href of a version, or -1.
func versionNumber(href string) int64 {
	parts := strings.Split(strings.Trim(href, "/"), "/")
	n, err := strconv.ParseInt(parts[len(parts)-1], 10, 64)
	if err != nil {
		return -1
	}
	return n
}

// missing returns the error for an object that does not exist or that the caller may not see.
func missing(format string, args ...any) error { return fault.New(fault.NotFound, format, args...) }

// pathOf returns the path of a reference. A host that is none of the server's is the first component of the path.
func (s *session) pathOf(ctx context.Context, r reference) (string, error) {
	if r.host == "" || r.host == s.host {
		return r.path, nil
	}
	var v status
	if err := s.api.Get(ctx, statusPath, nil, &v); err != nil {
		return "", err
	}
	if public, err := url.Parse(v.Content.Origin); err == nil && public.Host == r.host {
		return r.path, nil
	}
	return r.host + "/" + r.path, nil
}

// findDistribution returns the distribution with a base path. The error is NotFound if there is none.
func (s *session) findDistribution(ctx context.Context, path string) (distribution, error) {
	d, err := apiclient.One[distribution](ctx, s.api, distributionsPath, url.Values{"base_path": {path}})
	if errors.Is(err, apiclient.ErrNone) {
		err = missing("there is no distribution %s", path)
	}
	return d, err
}

// findRepository returns the repository with a name, or else the one that clients pull by that path. The error is NotFound if
// there is none.
func (s *session) findRepository(ctx context.Context, name string) (apiclient.Object[repository], error) {
	found, err := apiclient.One[repository](ctx, s.api, repositoriesPath, url.Values{"name": {name}})
	if errors.Is(err, apiclient.ErrNone) {
		d, missed := s.findDistribution(ctx, name)
		if fault.Is(missed, fault.NotFound) || missed == nil && d.Repository == nil && d.RepositoryVersion == nil {
			return apiclient.Object[repository]{}, missing("there is no repository %s, or you may not see it", name)
		} else if missed != nil {
			return apiclient.Object[repository]{}, missed
		}
		return s.served(ctx, d)
	}
	if err != nil {
		return apiclient.Object[repository]{}, err
	}
	return s.readRepository(ctx, found.Href, name)
}

// served returns the repository that a distribution serves.
func (s *session) served(ctx context.Context, d distribution) (apiclient.Object[repository], error) {
	switch {
	case d.Repository != nil:
		return s.readRepository(ctx, *d.Repository, d.BasePath)
	case d.RepositoryVersion != nil:
		href, _, _ := strings.Cut(*d.RepositoryVersion, "versions/")
		return s.readRepository(ctx, href, d.BasePath)
	}
	return apiclient.Object[repository]{}, missing("the distribution %s serves no repository: assign one to it", d.BasePath)
}

// readRepository reads a repository with all its fields, which the list of all types lacks.
// name is that of the command line.
func (s *session) readRepository(ctx context.Context, href, name string) (apiclient.Object[repository], error) {
	var r apiclient.Object[repository]
	err := s.api.Get(ctx, href, nil, &r)
	if err != nil {
		err = fmt.Errorf("%s: %w", name, err)
	}
	return r, err
}

// findReferenced returns the repository from which clients pull by a path, or else the one with that name.
func (s *session) findReferenced(ctx context.Context, path string) (apiclient.Object[repository], error) {
	d, err := s.findDistribution(ctx, path)
	if fault.Is(err, fault.NotFound) {
		return s.findRepository(ctx, path)
	} else if err != nil {
		return apiclient.Object[repository]{}, err
	}
	return s.served(ctx, d)
}

// findService returns the signing service with a name.
func (s *session) findService(ctx context.Context, name string) (service, error) {
	found, err := apiclient.One[service](ctx, s.api, servicesPath, url.Values{"name": {name}})
	if errors.Is(err, apiclient.ErrNone) {
		err = missing("there is no signing service %s, or you may not see it", name)
	}
	return found, err
}
