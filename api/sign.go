package api

import (
	"slices"

	"github.com/countersign/countersign/internal/auth"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store"
	"github.com/countersign/countersign/tasks"
)

// maxDistributions bounds how many distributions of one repository signing looks at.
const maxDistributions = 10_000

// sign starts a sign task (contract 5.1). Everything that can be wrong with the call is found here: the task only signs.
func (a *API) sign(r resource[pulp.Repository]) handler {
	return func(req *request) (answer, error) {
		repo, err := a.permitted(r, req, auth.Sign)
		if err != nil {
			return answer{}, err
		}
		b, err := req.body()
		if err != nil {
			return answer{}, err
		}
		args, err := a.readSign(req, b, repo)
		if err != nil {
			return answer{}, err
		}
		href := pulp.RepositoryHref(repo.Type, repo.ID)
		return a.dispatch(req, "sign", href, tasks.Spec{
			Name: tasks.Sign, Args: args, ServiceID: args.ServiceID, Namespace: pulp.NamespaceOf(repo.Name), Resources: []store.Resource{{Href: href, Exclusive: true}},
		})
	}
}

func (a *API) readSign(req *request, b *body, repo pulp.Repository) (tasks.SignArgs, error) {
	service, err := a.serviceToSignWith(req, b, repo)
	if err != nil {
		return tasks.SignArgs{}, err
	}
	path, force, lists := b.text("future_base_path", false, false), b.flag("force"), b.flag("sign_lists")
	args := tasks.SignArgs{
		RepositoryID: repo.ID, ServiceID: service.ID, Tags: b.texts("tags_list"),
		Force: force != nil && *force, SignLists: a.SignLists,
	}
	if lists != nil {
		args.SignLists = *lists
	}
	if err := b.finish(); err != nil {
		return args, err
	}
	if args.ServiceID == "" {
		return args, fault.Field("manifest_signing_service", "This field is required since a signing_service is not set on the repo.")
	}
	if args.BasePath, err = a.basePath(req, repo, path.Value); err != nil {
		return args, err
	}
	if len(args.Tags) > 0 { // D4
		_, err = a.Store.SignTargets(req.Context(), repo.ID, args.Tags, args.SignLists)
	}
	return args, err
}

// basePath decides under which path images are signed (D3): the one that was asked for, else that of the repository's only distribution.
func (a *API) basePath(req *request, repo pulp.Repository, asked *string) (string, error) {
	const field = "future_base_path"
	if asked != nil && !pulp.ValidName(*asked) {
		return "", fault.Field(field, "The provided registry path contains forbidden characters.")
	}
	own, _, err := a.Store.Distributions(req.Context(), store.ListQuery{
		Where: []store.Filter{store.Where("repository", store.Equal, repo.ID)}, Limit: maxDistributions,
	})
	if err != nil {
		return "", err
	}
	if asked == nil {
		if len(own) != 1 {
			return "", fault.Field(field, "This field is required since this repo has zero or multiple distributions.")
		}
		return own[0].BasePath, mayPush(req, own[0].BasePath, true)
	}
	if slices.ContainsFunc(own, func(d pulp.Distribution) bool { return d.BasePath == *asked }) {
		return *asked, mayPush(req, *asked, true)
	}
	holder, err := a.Store.Resolve(req.Context(), *asked)
	held := err == nil
	if err != nil && !fault.Is(err, fault.NotFound) {
		return "", err
	}
	if held && holder.Repository.ID != repo.ID {
		return "", errDenied
	}
	if err := mayPush(req, *asked, held); err != nil {
		return "", err
	}
	if len(own) > 0 {
		return "", fault.Field(field, "This field must be the base path of one of the repository's distributions.")
	}
	return *asked, nil
}

// mayPush sees that the caller may push under a path, and so may have images signed as that path's.
func mayPush(req *request, path string, exists bool) error {
	if !auth.Allow(req.user, auth.Push, auth.Object{Path: path, Exists: exists}) {
		return errDenied
	}
	return nil
}
