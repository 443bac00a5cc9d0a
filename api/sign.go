package api

import (
	"slices"

	"github.com/countersign/countersign/api/internal/body"
	"github.com/countersign/countersign/api/internal/reply"
	"github.com/countersign/countersign/internal/access"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/list"
	"github.com/countersign/countersign/internal/store/taskstore"
	"github.com/countersign/countersign/tasks"
)

// maxDistributions is the largest number of distributions that the API reads for one repository or namespace.
const maxDistributions = 10_000

// sign returns the handler that starts a sign task (compatibility.md#sign-request). It makes all checks of the
// request, so that the task only signs.
func (a *API) sign(r resource[pulp.Repository]) handler {
	return func(req *request) (reply.Reply, error) {
		repo, err := permitted(a, r, req, access.Sign)
		if err != nil {
			return reply.Reply{}, err
		}
		b, err := body.Read(req.Request)
		if err != nil {
			return reply.Reply{}, err
		}
		args, err := a.readSign(req, b, repo)
		if err != nil {
			return reply.Reply{}, err
		}
		href := pulp.RepositoryHref(repo.Type, repo.ID)
		return a.dispatch(req, "sign repository", href, tasks.Spec{
			Name: tasks.Sign, Args: args, ServiceID: args.ServiceID, Namespace: pulp.NamespaceOf(repo.Name),
			Resources: []taskstore.Resource{{Href: href, Exclusive: true}},
		})
	}
}

// signFields are the fields of the body of a sign request.
var signFields = body.Form{
	"manifest_signing_service": body.Reference, "future_base_path": body.Text, "force": body.Bool, "sign_lists": body.Bool,
	"tags_list": body.Texts,
}

func (a *API) readSign(req *request, b *body.Fields, repo pulp.Repository) (tasks.SignArgs, error) {
	service, err := a.serviceToSignWith(req, b, repo)
	if err != nil {
		return tasks.SignArgs{}, err
	}
	path, force, lists := b.Text("future_base_path"), b.Bool("force"), b.Bool("sign_lists")
	args := tasks.SignArgs{
		RepositoryID: repo.ID, ServiceID: service.ID, Tags: b.Texts("tags_list"),
		Force: force != nil && *force, SignLists: a.SignLists,
	}
	if lists != nil {
		args.SignLists = *lists
	}
	if err := b.Finish(); err != nil {
		return args, err
	}
	if args.ServiceID == "" {
		return args, fault.Field("manifest_signing_service",
			"This field is required since a signing_service is not set on the repo.")
	}
	if args.BasePath, err = a.basePath(req, repo, path.Value); err != nil {
		return args, err
	}
	if len(args.Tags) > 0 { // refuse unknown tags (compatibility.md#tags-list)
		_, err = a.Store.Signatures.SignTargets(req.Context(), repo.ID, args.Tags, args.SignLists)
	}
	return args, err
}

// basePath returns the path in the references of new signatures (compatibility.md#future-base-path): the requested
// one, or that of the repository's only distribution when requested is nil. Callers that may sign the repository may sign
// for the paths that serve it.
func (a *API) basePath(req *request, repo pulp.Repository, requested *string) (string, error) {
	const field = "future_base_path"
	if requested != nil && !pulp.ValidName(*requested) {
		return "", fault.Field(field, badPath)
	}
	own, _, err := a.Store.Lists.Distributions(req.Context(), list.Query{
		Where: []list.Filter{list.Where("repository", list.Equal, repo.ID)}, Limit: maxDistributions,
	})
	if err != nil {
		return "", err
	}
	if requested == nil {
		if len(own) != 1 {
			return "", fault.Field(field, "This field is required since this repo has zero or multiple distributions.")
		}
		return own[0].BasePath, nil
	}
	if slices.ContainsFunc(own, func(d pulp.Distribution) bool { return d.BasePath == *requested }) {
		return *requested, nil
	}
	holder, err := a.Store.Serving.Resolve(req.Context(), *requested)
	held := err == nil
	if err != nil && !fault.Is(err, fault.NotFound) {
		return "", err
	}
	if held && holder.Repository.ID != repo.ID {
		return "", errDenied
	}
	if err := a.requirePush(req, *requested, holder.Distribution); err != nil {
		return "", err
	}
	if len(own) > 0 {
		return "", fault.Field(field, "This field must be the base path of one of the repository's distributions.")
	}
	return *requested, nil
}

// requirePush returns an error unless the caller may push to a path that does not serve the repository, and so may have
// images signed for it. d is the distribution with the path; zero for none.
func (a *API) requirePush(req *request, path string, d pulp.Distribution) error {
	if d.ID != "" {
		return a.require(req, access.Sign, access.OfDistribution(d), d.ID)
	}
	on, err := a.Access.LoadPath(req.Context(), req.caller, access.Object{Name: path})
	if err == nil && !access.MayPushNew(req.caller, on) {
		err = errDenied
	}
	return err
}
