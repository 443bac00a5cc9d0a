package api

import (
	"slices"

	"github.com/countersign/countersign/api/internal/body"
	"github.com/countersign/countersign/internal/access"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/content"
	"github.com/countersign/countersign/internal/store/taskstore"
	"github.com/countersign/countersign/tasks"
)

// copyTags copies tags, with their manifests, from another repository.
func (a *API) copyTags(req *request, b *body.Fields, repo pulp.Repository) (tasks.Spec, error) {
	return a.copyContent(req, b, repo, content.Copy{Tags: true, Names: listOrAll(b.OptionalTexts("names"))})
}

// copyTypes are the media types that select manifests to copy (compatibility.md#container-repositories).
var copyTypes = []string{
	"application/vnd.docker.distribution.manifest.v1+json", pulp.DockerManifest, pulp.DockerList, pulp.OCIManifest,
	pulp.OCIIndex,
}

// copyManifests copies manifests from another repository.
func (a *API) copyManifests(req *request, b *body.Fields, repo pulp.Repository) (tasks.Spec, error) {
	from := content.Copy{Digests: listOrAll(b.OptionalTexts("digests")), MediaTypes: listOrAll(b.OptionalTexts("media_types"))}
	for _, t := range from.MediaTypes {
		if !slices.Contains(copyTypes, t) {
			b.Fail("media_types", "\"%s\" is not a valid choice.", t)
		}
	}
	return a.copyContent(req, b, repo, from)
}

// listOrAll returns the list of a field; nil, which selects everything, when the field is null or absent. An empty list
// selects nothing (compatibility.md#container-repositories).
func listOrAll(o tasks.Optional[[]string]) []string {
	if o.Value == nil {
		return nil
	}
	return *o.Value
}

// copyContent reads the source of a copy: the latest version of a repository, or a version, which may be one of a push
// repository.
func (a *API) copyContent(req *request, b *body.Fields, repo pulp.Repository, from content.Copy) (tasks.Spec, error) {
	find := func(id string) (pulp.Repository, error) { return findByID(a, a.repositories(pulp.Container), req, id) }
	source, _, err := readRelated(b, "source_repository", pulp.ContainerCollection, find)
	if err != nil {
		return tasks.Spec{}, err
	}
	version, versionSet, err := a.readVersion(req, b, "source_repository_version")
	if err != nil {
		return tasks.Spec{}, err
	}
	if err := b.Finish(); err != nil {
		return tasks.Spec{}, err
	}
	switch {
	case source.ID == "" && !versionSet:
		return tasks.Spec{}, fault.New(fault.Invalid, "Either the 'repository' or 'repository_version' needs to be specified")
	case source.ID != "" && versionSet:
		return tasks.Spec{}, fault.New(fault.Invalid,
			"Either the 'repository' or 'repository_version' need to be specified but not both.")
	case versionSet:
		from.RepositoryID, from.Number = version.RepositoryID, version.Number
		source.Type = version.Type
	default:
		from.RepositoryID, from.Number = source.ID, source.LatestVersion
	}
	spec := tasks.Spec{Name: tasks.AddContent, Args: tasks.AddArgs{RepositoryID: repo.ID, Copy: &from}, Immediate: true}
	if from.RepositoryID == repo.ID {
		return spec, nil
	}
	// Tasks on the source wait for tasks that have reserved it. Only callers that may modify the source may make its
	// owners wait; for others the copy runs without a reservation, like a push to the source.
	source, err = a.Store.Catalog.Repository(req.Context(), source.Type, from.RepositoryID)
	if err != nil {
		return spec, err
	}
	mayModify, err := a.may(req, access.Modify, access.OfRepository(source), source.ID)
	if mayModify {
		spec.Resources = []taskstore.Resource{{Href: pulp.RepositoryHref(source.Type, source.ID)}}
	}
	return spec, err
}
