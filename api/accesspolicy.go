package api

import (
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/google/uuid"

	"github.com/countersign/countersign/api/internal/query"
	"github.com/countersign/countersign/api/internal/reply"
	"github.com/countersign/countersign/internal/access"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
)

// accessPolicy is the form of the rules for one kind of objects (compatibility.md#access-policies). They are those of
// package access and cannot be changed.
type accessPolicy struct {
	object
	Viewset    string            `json:"viewset_name"`
	Statements []policyStatement `json:"statements"`
	Hooks      []policyFunction  `json:"creation_hooks"`
	Scoping    *policyFunction   `json:"queryset_scoping"`
	Customized bool              `json:"customized"`
}

// policyStatement permits actions to callers who satisfy one of the conditions of Expression, or the condition
// Condition. Without conditions it permits them to all.
type policyStatement struct {
	Action     []string `json:"action"`
	Principal  string   `json:"principal"`
	Effect     string   `json:"effect"`
	Condition  string   `json:"condition,omitempty"`
	Expression string   `json:"condition_expression,omitempty"`
}

// policyFunction names a function of Pulp's that has the same effect as a rule here.
type policyFunction struct {
	Function   string         `json:"function"`
	Parameters map[string]any `json:"parameters,omitempty"`
}

// viewset is a kind of objects with a policy.
type viewset struct {
	name  string
	kind  access.Kind
	push  bool
	owner string // role of the creators of objects; empty if they get none
	// actions are Pulp's names of the actions of the REST API and of the registry.
	actions map[access.Action][]string
}

// The names of the actions that several viewsets have.
var (
	viewActions   = []string{"retrieve", "my_permissions"}
	changeActions = []string{"update", "partial_update", "set_label", "unset_label"}
	roleActions   = []string{"list_roles", "add_role", "remove_role"}
	labelActions  = map[access.Action][]string{access.Change: {"set_label", "unset_label"}}
)

// viewsets are the kinds of objects that have a policy on the reference. Signing services have none there.
var viewsets = []viewset{
	{
		name: "repositories/container/container", kind: access.Repository, owner: access.RepositoryOwner,
		actions: map[access.Action][]string{
			access.View: viewActions, access.Create: {"create"}, access.Change: changeActions, access.Delete: {"destroy"},
			access.Sync: {"sync"}, access.Sign: {"sign"}, access.ManageRoles: roleActions,
			access.RemoveVersions: {"versions.destroy"},
			access.Modify:         {"add", "remove", "tag", "untag", "copy_tags", "copy_manifests", "rollback"},
		},
	},
	{
		name: "repositories/container/container-push", kind: access.Repository, push: true,
		actions: map[access.Action][]string{
			access.View: viewActions, access.Change: {"update", "partial_update"}, access.Sign: {"sign"},
			access.ManageRoles: roleActions,
			access.Modify:      {"tag", "untag", "remove_image", "remove_signatures", "rollback", "migrate"},
		},
	},
	{
		name: "distributions/container/container", kind: access.Distribution, owner: access.DistributionOwner,
		actions: map[access.Action][]string{
			access.View: viewActions, access.Create: {"create"}, access.Change: changeActions, access.Delete: {"destroy"},
			access.Pull: {
				"pull",
			}, access.Push: {"push"}, access.Remove: {"delete_content"}, access.Sign: {"push_signature"},
			access.ManageRoles: roleActions,
		},
	},
	{
		name: "remotes/container/container", kind: access.Remote, owner: access.RemoteOwner,
		actions: map[access.Action][]string{
			access.View: viewActions, access.Create: {"create"}, access.Change: changeActions, access.Delete: {"destroy"},
			access.ManageRoles: roleActions,
		},
	},
	{
		name: "distributions/container/pull-through", kind: access.PullThrough, owner: access.PullThroughOwner,
		actions: map[access.Action][]string{
			access.View: viewActions, access.Create: {"create"}, access.Change: changeActions, access.Delete: {"destroy"},
			access.PullNew: {"pull_new"}, access.ManageRoles: roleActions,
		},
	},
	{
		name: "remotes/container/pull-through", kind: access.PullThroughRemote, owner: access.PullThroughRemoteOwner,
		actions: map[access.Action][]string{
			access.View: viewActions, access.Create: {"create"}, access.Change: changeActions, access.Delete: {"destroy"},
			access.ManageRoles: roleActions,
		},
	},
	{
		name: "pulp_container/namespaces", kind: access.Namespace, owner: access.NamespaceOwner,
		actions: map[access.Action][]string{
			access.View: viewActions, access.Create: {"create"}, access.Delete: {"destroy"}, access.ManageRoles: roleActions,
		},
	},
	{
		name: "tasks", kind: access.Task, owner: access.TaskOwner,
		actions: map[access.Action][]string{
			access.View: viewActions, access.Change: {"partial_update"}, access.Delete: {"destroy"},
			access.ManageRoles: roleActions,
		},
	},
	{
		name: "groups", kind: access.Group, owner: access.GroupOwner,
		actions: map[access.Action][]string{
			access.View: viewActions, access.Create: {"create"}, access.Change: {"update", "partial_update"},
			access.Delete: {"destroy"}, access.ManageRoles: roleActions,
		},
	},
	{
		name: "groups/users", kind: access.Group,
		actions: map[access.Action][]string{access.View: {"list"}, access.Change: {"create", "destroy"}},
	},
	{
		name: "users", kind: access.Accounts,
		actions: map[access.Action][]string{
			access.View: {"retrieve"}, access.Create: {"create"}, access.Change: {"update", "partial_update"},
			access.Delete: {"destroy"},
		},
	},
	{name: "content/container/tags", kind: access.Content, actions: labelActions},
	{name: "content/container/manifests", kind: access.Content, actions: labelActions},
	{name: "content/container/blobs", kind: access.Content, actions: labelActions},
	{name: "content/container/signatures", kind: access.Content, actions: labelActions},
	{name: "roles"},
	{name: "access_policies"},
}

// statements returns the statements of a viewset. They follow from access.Rules.
func (v viewset) statements() []policyStatement {
	read := []string{"list"}
	if v.kind == "" || v.kind == access.Content {
		read = append(read, "retrieve")
	}
	all := []policyStatement{{Action: read, Principal: "authenticated", Effect: "allow"}}
	for _, r := range access.Rules {
		actions := v.actions[r.Action]
		if r.Kind != v.kind || len(actions) == 0 {
			continue
		}
		if r.Public {
			public := policyStatement{
				Action:    actions,
				Principal: "authenticated",
				Effect:    "allow",
				Condition: "is_public",
			}
			if r.Action == access.Pull {
				public.Principal = "*"
			}
			all = append(all, public)
		}
		conditions := v.conditions(r)
		s := policyStatement{Action: actions, Principal: "authenticated", Effect: "allow"}
		if len(conditions) == 1 {
			s.Condition = conditions[0]
		} else {
			s.Expression = strings.Join(conditions, " or ")
		}
		all = append(all, s)
	}
	return all
}

// conditions returns the conditions of a rule, each of which suffices.
func (v viewset) conditions(r access.Rule) []string {
	var all []string
	add := func(function string, permissions []access.Permission) {
		for _, p := range permissions {
			all = append(all, function+":"+string(p))
		}
	}
	namespace := r.Namespace
	if v.push {
		namespace = r.PushNamespace
	}
	add("has_model_or_obj_perms", r.Object)
	if v.push {
		add("has_model_or_obj_perms", r.PushObject)
		add("has_distribution_perms", r.Serving)
	}
	if !v.push {
		add("has_pull_through_perms", r.Cache)
	}
	add("has_namespace_perms", namespace)
	add("has_model_perms", r.Everywhere)
	if v.kind == access.Distribution || v.kind == access.PullThrough || v.kind == access.Namespace ||
		r.Action == access.Create && (v.kind == access.Repository || v.kind == access.Remote) {
		all = append(all, "namespace_is_username") // while the namespace does not exist
	}
	if v.kind == access.Task {
		all = append(all, "is_task_creator")
	}
	if v.kind == access.Accounts && (r.Action == access.View || r.Action == access.Change) {
		all = append(all, "is_own_user")
	}
	return all
}

// accessPolicies returns the policies. They exist since the locked roles do.
func (a *API) accessPolicies(req *request) ([]accessPolicy, error) {
	since, err := a.Store.Accounts.RoleByName(req.Context(), access.NamespaceOwner)
	if err != nil {
		return nil, err
	}
	all := make([]accessPolicy, len(viewsets))
	for i, v := range viewsets {
		id := uuid.NewSHA1(uuid.NameSpaceURL, []byte("countersign:access-policy:"+v.name)).String()
		stamps := pulp.Stamps{Created: since.Created, Updated: since.Created}
		p := accessPolicy{
			object:  objectOf(pulp.AccessPolicyCollection, id, stamps),
			Viewset: v.name, Statements: v.statements(), Hooks: []policyFunction{},
		}
		if v.owner != "" {
			p.Hooks = append(p.Hooks, policyFunction{"add_roles_for_object_creator", map[string]any{"roles": v.owner}})
		}
		if v.kind != "" {
			p.Scoping = &policyFunction{Function: "scope_queryset"}
		}
		all[i] = p
	}
	return all, nil
}

func (a *API) accessPolicyRoutes() []route {
	return []route{
		{path: pulp.AccessPolicyCollection, methods: get(listed(
			a.listAccessPolicies, accessPolicy{}, policyOrderings, slices.Sorted(maps.Keys(policyFilters)),
		))},
		{path: pulp.AccessPolicyCollection + ":id/", href: "access_policy_href", methods: get(operation{
			verb: "read", handle: a.readAccessPolicy, query: selection(), replies: replies{http.StatusOK: selected{accessPolicy{}}},
		})},
	}
}

var policyOrderings = append([]string{"viewset_name", "customized"}, commonOrderings...)

// policyFilters are the filters of the list of policies.
var policyFilters = map[string]func(p accessPolicy, value string) bool{
	"viewset_name":         func(p accessPolicy, v string) bool { return p.Viewset == v },
	"viewset_name__iexact": func(p accessPolicy, v string) bool { return strings.EqualFold(p.Viewset, v) },
	"viewset_name__in": func(p accessPolicy, v string) bool {
		return slices.Contains(strings.Split(v, ","), p.Viewset)
	},
	"viewset_name__contains": func(p accessPolicy, v string) bool { return strings.Contains(p.Viewset, v) },
	"viewset_name__icontains": func(p accessPolicy, v string) bool {
		return strings.Contains(p.Viewset, strings.ToLower(v))
	},
	"viewset_name__startswith": func(p accessPolicy, v string) bool {
		return strings.HasPrefix(p.Viewset, v)
	},
	"customized":    func(_ accessPolicy, v string) bool { return strings.EqualFold(v, "false") || v == "0" },
	"pulp_href__in": func(p accessPolicy, v string) bool { return slices.Contains(strings.Split(v, ","), p.Href) },
	"prn__in":       func(p accessPolicy, v string) bool { return slices.Contains(strings.Split(v, ","), p.PRN) },
}

// listAccessPolicies lists the policies. They are no rows of a table, so their filters do not use the list machinery.
func (a *API) listAccessPolicies(req *request) (reply.Reply, error) {
	all, err := a.accessPolicies(req)
	if err != nil {
		return reply.Reply{}, err
	}
	for _, name := range slices.Sorted(maps.Keys(req.query)) {
		matches, known := policyFilters[name]
		switch {
		case known:
			if v := query.Last(req.query[name]); v != "" {
				all = slices.DeleteFunc(all, func(p accessPolicy) bool { return !matches(p, v) })
			}
		case name == "q" || !slices.Contains(notFilters, name):
			return reply.Reply{}, reply.BadQuery("Invalid Filter: '%s'", name)
		}
	}
	order, err := query.Order(req.query, policyOrderings)
	if err != nil {
		return reply.Reply{}, err
	}
	slices.SortFunc(all, func(x, y accessPolicy) int { return strings.Compare(x.Viewset, y.Viewset) })
	if len(order) > 0 && order[0].Desc {
		slices.Reverse(all)
	}
	p := query.PageOf(req.query)
	count := int64(len(all))
	next, previous := p.Links(req.Request, req.query, count)
	shown := []any{}
	for _, v := range all[min(p.Offset, len(all)):min(p.Offset+p.Limit, len(all))] {
		selected, err := req.selected.Of(v)
		if err != nil {
			return reply.Reply{}, err
		}
		shown = append(shown, selected)
	}
	return reply.OK(page{count, next, previous, shown}), nil
}

func (a *API) readAccessPolicy(req *request) (reply.Reply, error) {
	if !pulp.ValidUUID(req.param("id")) {
		return reply.Reply{}, reply.ErrNotFound
	}
	all, err := a.accessPolicies(req)
	if err != nil {
		return reply.Reply{}, err
	}
	for _, p := range all {
		if p.Href == pulp.Href(pulp.AccessPolicyCollection, strings.ToLower(req.param("id"))) {
			shown, err := req.selected.Of(p)
			return reply.Reply{Status: http.StatusOK, Body: shown}, err
		}
	}
	return reply.Reply{}, fault.New(fault.NotFound, "No AccessPolicy matches the given query.")
}
