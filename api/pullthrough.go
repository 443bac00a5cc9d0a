package api

import (
	"net/http"
	"slices"

	"github.com/countersign/countersign/api/internal/body"
	"github.com/countersign/countersign/api/internal/reply"
	"github.com/countersign/countersign/internal/access"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/list"
	"github.com/countersign/countersign/internal/store/taskstore"
	"github.com/countersign/countersign/tasks"
)

// pullThrough is the form of a pull-through distribution (compatibility.md#pull-through).
type pullThrough struct {
	baseDistribution
	Remote        *string  `json:"remote"`
	Distributions []string `json:"distributions"`
	Namespace     string   `json:"namespace"`
	Private       bool     `json:"private"`
	Description   *string  `json:"description"`
}

func showPullThrough(b baseDistribution, d pulp.Distribution) pullThrough {
	return pullThrough{
		baseDistribution: b, Remote: hrefOrNil(pulp.PullThroughRemoteCollection, d.RemoteID),
		Distributions: hrefs(pulp.DistributionCollection, d.Cached),
		Namespace:     pulp.Href(pulp.NamespaceCollection, d.NamespaceID), Private: d.Private, Description: d.Description,
	}
}

func (a *API) pullThroughs() resource[pulp.Distribution] {
	show := a.showDistributions(func(b baseDistribution, d pulp.Distribution) any { return showPullThrough(b, d) })
	return resource[pulp.Distribution]{
		model: "ContainerPullThroughDistribution", form: pullThrough{}, list: list.PullThroughList, within: a.visible,
		object:    func(d pulp.Distribution) (access.Object, string) { return access.OfDistribution(d), d.ID },
		orderings: append([]string{"private", "description"}, distributionOrderings...),
		filters:   mergeFilters(distributionFilters(), filters{"namespace__name": compare("namespace__name", list.Equal)}),
		show: func(req *request, all []pulp.Distribution) ([]any, error) {
			all, err := a.withCached(req, all)
			if err != nil {
				return nil, err
			}
			return show(req, all)
		},
	}
}

// withCached returns pull-through distributions with the distributions that their pulls have created, if the response shows
// these.
func (a *API) withCached(req *request, all []pulp.Distribution) ([]pulp.Distribution, error) {
	if !req.selected.Has("distributions") {
		return all, nil
	}
	ids := make([]string, len(all))
	for i, d := range all {
		ids[i] = d.ID
	}
	cached, err := a.Store.Catalog.CachedDistributions(req.Context(), ids)
	if err != nil {
		return nil, err
	}
	all = slices.Clone(all)
	for i, d := range all {
		all[i].Cached = cached[d.ID]
	}
	return all, nil
}

func (a *API) pullThroughRoutes() []route {
	r := a.pullThroughs()
	changeable := func(req *request) (pulp.Distribution, error) { return permitted(a, r, req, access.Change) }
	return slices.Concat([]route{
		{path: pulp.PullThroughCollection, methods: map[string]operation{
			http.MethodGet: listOf(a, r), http.MethodPost: create(a.createPullThrough, pullThroughFields, startsTask),
		}},
		{path: pulp.PullThroughCollection + ":id/", href: "container_container_pull_through_distribution_href", methods: map[string]operation{
			http.MethodGet: readOf(a, r), http.MethodDelete: remove(a.deletePullThrough, startsTask),
			http.MethodPut:   update(a.editPullThrough(true), pullThroughFields, r.edits()),
			http.MethodPatch: partialUpdate(a.editPullThrough(false), pullThroughFields, r.edits()),
		}},
	}, labelRoutes(a, pulp.PullThroughCollection, changeable))
}

// createPullThrough checks a new pull-through distribution and starts a task that creates it.
func (a *API) createPullThrough(req *request) (reply.Reply, error) {
	b, err := body.Read(req.Request)
	if err != nil {
		return reply.Reply{}, err
	}
	fields, err := a.readPullThrough(req, b, pulp.Distribution{PullThrough: true}, true)
	if err != nil {
		return reply.Reply{}, err
	}
	return a.dispatch(req, "create distribution", *fields.BasePath, tasks.Spec{
		Name: tasks.Create, Args: tasks.NewPullThrough(fields), Immediate: true,
		Resources: []taskstore.Resource{{Href: pulp.Root + pulp.DistributionCollection, Exclusive: true}},
	})
}

// editPullThrough returns the handler of PATCH or, when whole, of PUT, which requires name, base_path and remote. It starts a
// task unless nothing changes.
func (a *API) editPullThrough(whole bool) handler {
	return func(req *request) (reply.Reply, error) {
		d, err := permitted(a, a.pullThroughs(), req, access.Change)
		if err != nil {
			return reply.Reply{}, err
		}
		b, err := body.Read(req.Request)
		if err != nil {
			return reply.Reply{}, err
		}
		fields, err := a.readPullThrough(req, b, d, whole)
		if err != nil {
			return reply.Reply{}, err
		}
		if !changed(d, fields.Apply) {
			return showOne(a.pullThroughs(), req, d)
		}
		href := pulp.Href(pulp.PullThroughCollection, d.ID)
		return a.dispatch(req, "edit distribution", href, tasks.Spec{
			Name: tasks.Edit, Args: tasks.EditArgs{Collection: pulp.PullThroughCollection, ID: d.ID, Distribution: &fields},
			Resources: []taskstore.Resource{{Href: href, Exclusive: true}}, Immediate: true,
		})
	}
}

// deletePullThrough starts a task that deletes a pull-through distribution with the objects that its pulls have created.
func (a *API) deletePullThrough(req *request) (reply.Reply, error) {
	d, err := permitted(a, a.pullThroughs(), req, access.Delete)
	if err != nil {
		return reply.Reply{}, err
	}
	href := pulp.Href(pulp.PullThroughCollection, d.ID)
	return a.dispatch(req, "delete distribution", href, tasks.Spec{
		Name: tasks.DeleteDistribution, Args: tasks.ObjectArgs{Collection: pulp.PullThroughCollection, ID: d.ID}, Immediate: true,
		Resources: []taskstore.Resource{{Href: href, Exclusive: true}},
	})
}

// pullThroughFields are the fields of the bodies of pull-through distributions. They serve no repository: only null is valid.
var pullThroughFields = distributionFields.With(body.Form{"remote": body.Reference.NotNull().Required()})

// readPullThrough reads and checks the fields of a pull-through distribution. Fields that the body lacks keep their values in
// old; when whole, the required ones must be present. It is private if its remote has credentials, unless the body says
// otherwise.
func (a *API) readPullThrough(
	req *request, b *body.Fields, old pulp.Distribution, whole bool,
) (tasks.DistributionFields, error) {
	f := tasks.DistributionFields{
		Name:        b.Text("name", body.RequiredIf(whole)).Value,
		BasePath:    b.Text("base_path", body.RequiredIf(whole)).Value,
		Private:     b.Bool("private"),
		Hidden:      b.Bool("hidden"),
		Description: b.Text("description", body.Nullable),
		Labels:      b.Labels("pulp_labels"),
	}
	if f.BasePath != nil && b.Valid("base_path") {
		if !pulp.ValidName(*f.BasePath) {
			b.Fail("base_path", badPath)
		} else if *f.BasePath != old.BasePath {
			if err := a.requireNewPath(req, access.PullThrough, *f.BasePath); err != nil {
				return f, err
			}
		}
	}
	b.Ignore("distributions", "namespace", "content_guard_prn", "no_content_change_since")
	for _, name := range []string{"repository", "repository_version"} {
		if b.Reference(name) != "" && b.Valid(name) {
			b.Fail(name, "A pull-through distribution serves no repository.")
		}
	}
	if err := a.readPullThroughRemoteField(req, b, &f, old, whole); err != nil {
		return f, err
	}
	if err := a.checkGuard(req, b); err != nil {
		return f, err
	}
	after := old
	f.Apply(&after)
	if b.Valid("name", "base_path") && (after.Name != old.Name || after.BasePath != old.BasePath) {
		conflict, err := a.Store.Catalog.DistributionConflict(req.Context(), after)
		if err != nil {
			return f, err
		}
		if err := noteConflict(conflict, b); err != nil {
			return f, err
		}
	}
	return f, b.Finish()
}

// readPullThroughRemoteField reads the field remote, which names a pull-through remote that the caller may see.
func (a *API) readPullThroughRemoteField(
	req *request, b *body.Fields, f *tasks.DistributionFields, old pulp.Distribution, whole bool,
) error {
	if v, set := b.Value("remote"); !set && whole {
		b.Fail("remote", "This field is required.")
		return nil
	} else if set && v == nil {
		b.Fail("remote", "This field may not be null.")
		return nil
	}
	remote, set, err := readRelated(b, "remote", pulp.PullThroughRemoteCollection, func(id string) (pulp.Remote, error) {
		if id == old.RemoteID { // it needs no permission
			return a.Store.Catalog.PullThroughRemote(req.Context(), id)
		}
		return findByID(a, a.pullThroughRemotes(), req, id)
	})
	if err != nil || !set || !b.Valid("remote") {
		return err
	}
	f.RemoteID = &remote.ID
	if private := true; f.Private == nil && remote.ID != old.RemoteID && remote.HasCredentials() {
		f.Private = &private
	}
	return nil
}
