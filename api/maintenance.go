package api

import (
	"strings"

	"github.com/countersign/countersign/api/internal/body"
	"github.com/countersign/countersign/api/internal/reply"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/content"
	"github.com/countersign/countersign/internal/store/taskstore"
	"github.com/countersign/countersign/tasks"
)

// The paths of maintenance of the whole server. Their hrefs are the resources that the tasks reserve, so that one of each
// runs at a time.
const (
	repairAll    = "repair/"
	reclaimSpace = "repositories/reclaim_space/"
)

func (a *API) maintenanceRoutes() []route {
	return []route{
		{path: repairAll, methods: post(operation{
			verb: "post", handle: a.repairAll, replies: startsTask, body: body.Form{"verify_checksums": body.Bool},
		})},
		{path: reclaimSpace, methods: post(operation{
			verb: "reclaim", handle: a.reclaimSpace, replies: startsTask, body: body.Form{
				"repo_hrefs": body.Texts.Required().NotEmpty(), "repo_versions_keeplist": body.Texts,
			},
		})},
	}
}

// repairAll starts a task that checks all content and fetches broken blobs again from remotes. Only administrators may call
// it (compatibility.md#repairing-all-content).
func (a *API) repairAll(req *request) (reply.Reply, error) {
	if err := req.requireAdministrator(); err != nil {
		return reply.Reply{}, err
	}
	checksums, err := readRepair(req)
	if err != nil {
		return reply.Reply{}, err
	}
	return a.dispatch(req, "repair content", pulp.Root+repairAll, tasks.Spec{
		Name: tasks.RepairAll, Args: tasks.RepairAllArgs{VerifyChecksums: checksums},
		Resources: []taskstore.Resource{{Href: pulp.Root + repairAll, Exclusive: true}},
	})
}

// readRepair reads the body of a request that starts a repair: whether the task verifies checksums, which is the default.
func readRepair(req *request) (verifyChecksums bool, err error) {
	b, err := body.Read(req.Request)
	if err != nil {
		return false, err
	}
	checksums := b.Bool("verify_checksums")
	return checksums == nil || *checksums, b.Finish()
}

// reclaimSpace starts a task that deletes the bytes of blobs which mirrors can fetch again from their remotes. It affects
// content that repositories of several users hold, so only administrators may call it (compatibility.md#reclaiming-space).
func (a *API) reclaimSpace(req *request) (reply.Reply, error) {
	if err := req.requireAdministrator(); err != nil {
		return reply.Reply{}, err
	}
	if a.Upstream {
		return reply.Reply{}, fault.New(fault.Invalid, "The blobs are stored by the upstream registry; reclaim the space there.")
	}
	b, err := body.Read(req.Request)
	if err != nil {
		return reply.Reply{}, err
	}
	repositories, resources, err := a.readReclaimed(req, b)
	if err != nil {
		return reply.Reply{}, err
	}
	keep, err := a.readKept(req, b)
	if err == nil {
		err = b.Finish()
	}
	if err != nil {
		return reply.Reply{}, err
	}
	return a.dispatch(req, "reclaim space", pulp.Root+reclaimSpace, tasks.Spec{
		Name: tasks.ReclaimSpace, Args: tasks.ReclaimArgs{Repositories: repositories, Keep: keep},
		Resources: append(resources, taskstore.Resource{Href: pulp.Root + reclaimSpace, Exclusive: true}),
	})
}

// readReclaimed reads the field repo_hrefs: references to repositories, or "*" alone for all. It returns the ids of the
// repositories, nil for all, and the resources to reserve: the repositories that are named.
func (a *API) readReclaimed(req *request, b *body.Fields) (ids []string, resources []taskstore.Resource, err error) {
	const field = "repo_hrefs"
	texts := b.Texts(field)
	switch {
	case !b.Has(field):
		b.Fail(field, "This field is required.")
		return nil, nil, nil
	case !b.Valid(field):
		return nil, nil, nil
	case len(texts) == 0:
		b.Fail(field, "Must not be [].")
	case len(texts) == 1 && texts[0] == "*":
		return nil, nil, nil
	}
	ids = []string{}
	added := map[string]bool{}
	for _, t := range texts {
		if t == "*" {
			b.Fail(field, "Can't specify specific HREFs when using '*'.")
			continue
		}
		ref, err := parseReference(t)
		if err != nil {
			b.Fail(field, "URI not valid: %s", t)
			continue
		}
		repo, err := a.findRepository(req, ref)
		switch {
		case fault.Is(err, fault.NotFound):
			b.Fail(field, "URI %s not found for repository.", t)
		case err != nil:
			return nil, nil, err
		case !added[repo.ID]:
			added[repo.ID] = true
			ids = append(ids, repo.ID)
			resources = append(resources, taskstore.Resource{Href: pulp.RepositoryHref(repo.Type, repo.ID), Exclusive: true})
		}
	}
	return ids, resources, nil
}

// findRepository returns the repository of a reference, if the caller may see it.
func (a *API) findRepository(req *request, ref pulp.Ref) (pulp.Repository, error) {
	for _, t := range []pulp.RepositoryType{pulp.Container, pulp.ContainerPush} {
		if ref.Version < 0 && ref.Collection == t.Collection() {
			return findByID(a, a.repositories(t), req, ref.ID)
		}
	}
	return pulp.Repository{}, fault.New(fault.NotFound, "No Repository matches the given query.")
}

// readKept reads the field repo_versions_keeplist: references to repository versions.
func (a *API) readKept(req *request, b *body.Fields) ([]content.KeptVersion, error) {
	const field = "repo_versions_keeplist"
	var keep []content.KeptVersion
	for _, t := range b.Texts(field) {
		v, err := a.findVersion(req, t)
		switch {
		case isMissing(err):
			b.Fail(field, "URI %s not found for repositoryversion.", strings.TrimSpace(t))
		case err != nil:
			return nil, err
		default:
			keep = append(keep, content.KeptVersion{RepositoryID: v.RepositoryID, Number: v.Number})
		}
	}
	return keep, nil
}
