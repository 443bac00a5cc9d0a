package api

import (
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"strings"

	"github.com/countersign/countersign/api/internal/body"
	"github.com/countersign/countersign/api/internal/reply"
	"github.com/countersign/countersign/internal/access"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/accounts"
	"github.com/countersign/countersign/internal/store/taskstore"
)

// securable is an object on which roles can be assigned.
type securable struct {
	on access.Object
	id string
}

// key returns the name of the object in assignments.
func (s securable) key() string { return access.Key(s.on.Kind, s.id) }

// securables are the collections of such objects.
var securables = []string{
	pulp.PushCollection, pulp.ContainerCollection, pulp.RemoteCollection, pulp.DistributionCollection,
	pulp.NamespaceCollection, pulp.PullThroughCollection, pulp.PullThroughRemoteCollection,
	pulp.TaskCollection, pulp.GroupCollection, pulp.SigningServiceCollection, pulp.WebhookCollection,
}

// findSecurable returns the object with an id. The error is NotFound if the caller may not see it.
func (a *API) findSecurable(req *request, collection, id string) (securable, error) {
	s := securable{id: id}
	var err error
	switch collection {
	case pulp.PushCollection:
		s.on, err = objectWithID(a, req, a.repositories(pulp.ContainerPush), id, access.OfRepository)
	case pulp.ContainerCollection:
		s.on, err = objectWithID(a, req, a.repositories(pulp.Container), id, access.OfRepository)
	case pulp.RemoteCollection:
		s.on, err = objectWithID(a, req, a.remotes(), id, access.OfRemote)
	case pulp.DistributionCollection:
		s.on, err = objectWithID(a, req, a.distributions(), id, access.OfDistribution)
	case pulp.PullThroughCollection:
		s.on, err = objectWithID(a, req, a.pullThroughs(), id, access.OfDistribution)
	case pulp.PullThroughRemoteCollection:
		s.on, err = objectWithID(a, req, a.pullThroughRemotes(), id, access.OfRemote)
	case pulp.NamespaceCollection:
		s.on, err = objectWithID(a, req, a.namespaces(), id, func(n pulp.Namespace) access.Object {
			return access.OfNamespace(n, false)
		})
	case pulp.TaskCollection:
		s.on, err = objectWithID(a, req, a.tasks(), id, func(t taskstore.Task) access.Object {
			return access.OfTask(t.CreatedBy)
		})
	case pulp.GroupCollection:
		s.on, err = objectWithID(a, req, a.groups(), id, access.OfGroup)
	case pulp.SigningServiceCollection:
		s.on, err = objectWithID(a, req, a.signingServices(), id, access.OfService)
	case pulp.WebhookCollection:
		s.on, err = objectWithID(a, req, a.webhooks(), id, access.OfWebhook)
	default:
		err = fmt.Errorf("roles cannot be assigned in %s", collection)
	}
	return s, err
}

// objectWithID returns the object of actions on the object of a resource with an id.
func objectWithID[T any](
	a *API,
	req *request,
	r resource[T],
	id string,
	of func(T) access.Object,
) (access.Object, error) {
	v, err := findByID(a, r, req, id)
	if err != nil {
		return access.Object{}, err
	}
	return of(v), nil
}

// objectRoleRoutes returns the routes of the actions on the roles of objects (compatibility.md#roles-on-objects).
func (a *API) objectRoleRoutes() []route {
	var routes []route
	for _, c := range securables {
		path := c + ":id/"
		routes = append(routes,
			route{path: path + "add_role/", methods: post(operation{
				handle: a.changeRole(c, true), body: nestedRoleFields, replies: replies{http.StatusCreated: nestedRole{}},
			})},
			route{path: path + "remove_role/", methods: post(operation{
				handle: a.changeRole(c, false), body: nestedRoleFields, replies: replies{http.StatusCreated: nestedRole{}},
			})},
			route{path: path + "list_roles/", methods: get(operation{
				handle: a.listRoles(c), replies: replies{http.StatusOK: nestedRoles{}},
			})},
			route{path: path + "my_permissions/", methods: get(operation{
				handle: a.myPermissions(c), replies: replies{http.StatusOK: ownPermissions{}},
			})},
		)
	}
	return routes
}

// securableByPath returns the object of a collection that the path names.
func (a *API) securableByPath(req *request, collection string) (securable, error) {
	id := strings.ToLower(req.param("id"))
	if valid := pulp.ValidUUID(id) || collection == pulp.GroupCollection && numberForm.MatchString(id); !valid {
		return securable{}, reply.ErrNotFound
	}
	s, err := a.findSecurable(req, collection, id)
	if err == nil {
		err = a.require(req, access.View, s.on, s.id)
	}
	return s, err
}

// roleManaged returns the object that the path names, if the caller may manage the roles on it.
func (a *API) roleManaged(req *request, collection string) (securable, error) {
	s, err := a.securableByPath(req, collection)
	if err == nil {
		err = a.require(req, access.ManageRoles, s.on, s.id)
	}
	return s, err
}

// nestedRole is a role with its assignees on an object, as requests and responses show it.
type nestedRole struct {
	Users  []string `json:"users"`
	Groups []string `json:"groups"`
	Role   string   `json:"role"`
}

// nestedRoleFields are the fields of the bodies of nested roles.
var nestedRoleFields = body.Form{"users": body.Texts, "groups": body.Texts, "role": body.Text.Required()}

// nestedRoles are the roles that are assigned on an object.
type nestedRoles struct {
	Roles []*listedRole `json:"roles"`
}

// listedRole is a role with its assignees on an object, in lists.
type listedRole struct {
	Role   string   `json:"role"`
	Users  []string `json:"users"`
	Groups []string `json:"groups"`
}

// ownPermissions are the permissions of the caller on an object.
type ownPermissions struct {
	Permissions []access.Permission `json:"permissions"`
}

// changeRole returns the handler that assigns a role on an object, or with add unset removes its assignment.
func (a *API) changeRole(collection string, add bool) handler {
	return func(req *request) (reply.Reply, error) {
		s, err := a.roleManaged(req, collection)
		if err != nil {
			return reply.Reply{}, err
		}
		n, to, err := a.readNestedRole(req)
		if err != nil {
			return reply.Reply{}, err
		}
		action := "remove role"
		if add {
			action = "add role"
			_, err = a.Store.Accounts.AssignRole(req.Context(), n.Role, s.key(), to...)
		} else {
			err = a.Store.Accounts.RevokeRole(req.Context(), n.Role, s.key(), to...)
		}
		if fault.Is(err, fault.NotFound) { // it was deleted in the meantime
			err = fault.New(fault.Invalid, "%s", err.Error())
		}
		if err != nil {
			return reply.Reply{}, err
		}
		req.audit(action, pulp.Href(collection, s.id),
			slog.String("role", n.Role), slog.Any("users", n.Users), slog.Any("groups", n.Groups))
		return reply.Reply{Status: http.StatusCreated, Body: n}, nil
	}
}

// readNestedRole reads a role with assignees. Its errors about unknown names have Pulp's nested form.
func (a *API) readNestedRole(req *request) (nestedRole, []accounts.Assignee, error) {
	b, err := body.Read(req.Request)
	if err != nil {
		return nestedRole{}, nil, err
	}
	n := nestedRole{
		Users: append([]string{}, b.Texts("users")...), Groups: append([]string{}, b.Texts("groups")...),
	}
	role := b.Text("role", body.Required).Value
	if !b.Valid() {
		return n, nil, b.Finish()
	}
	n.Role = *role
	users, groups, err := a.Store.Accounts.Named(req.Context(), n.Users, n.Groups)
	if err != nil {
		return n, nil, err
	}
	unknown := map[string]any{}
	var to []accounts.Assignee
	for _, name := range n.Users {
		to = append(to, accounts.Assignee{Account: users[name], Name: name})
	}
	for _, name := range n.Groups {
		to = append(to, accounts.Assignee{Group: groups[name], Name: name})
	}
	noteUnknown(unknown, "users", "username", n.Users, users)
	noteUnknown(unknown, "groups", "name", n.Groups, groups)
	if _, err := a.Store.Accounts.RoleByName(req.Context(), n.Role); fault.Is(err, fault.NotFound) {
		unknown["role"] = []string{noSuchRole(n.Role)}
	} else if err != nil {
		return n, nil, err
	}
	if len(unknown) > 0 {
		return n, nil, &reply.Error{Status: http.StatusBadRequest, Body: unknown}
	}
	return n, to, b.Finish()
}

func noSuchRole(name string) string { return fmt.Sprintf("Object with name=%s does not exist.", name) }

// noteUnknown notes the names of a list that have no id: by their place, under the name of the list.
func noteUnknown(errs map[string]any, list, attribute string, names []string, ids map[string]int64) {
	unknown := map[string][]string{}
	for i, name := range names {
		if _, ok := ids[name]; !ok {
			unknown[strconv.Itoa(i)] = []string{fmt.Sprintf("Object with %s=%s does not exist.", attribute, name)}
		}
	}
	if len(unknown) > 0 {
		errs[list] = unknown
	}
}

// listRoles returns the handler that shows the roles that are assigned on an object.
func (a *API) listRoles(collection string) handler {
	return func(req *request) (reply.Reply, error) {
		s, err := a.roleManaged(req, collection)
		if err != nil {
			return reply.Reply{}, err
		}
		all, err := a.Store.Accounts.Assignments(req.Context(), s.key())
		if err != nil {
			return reply.Reply{}, err
		}
		if all, err = a.withCreator(req, s, all); err != nil {
			return reply.Reply{}, err
		}
		roles, places := []*listedRole{}, map[string]*listedRole{}
		for _, one := range all {
			r := places[one.Role]
			if r == nil {
				r = &listedRole{one.Role, []string{}, []string{}}
				places[one.Role], roles = r, append(roles, r)
			}
			if one.GroupID != 0 {
				r.Groups = append(r.Groups, one.Group)
			} else {
				r.Users = append(r.Users, one.Account)
			}
		}
		return reply.OK(nestedRoles{roles}), nil
	}
}

// withCreator adds to the assignments on a task the one that its creator has without a row.
func (a *API) withCreator(req *request, s securable, all []pulp.Assignment) ([]pulp.Assignment, error) {
	if s.on.Creator == 0 {
		return all, nil
	}
	u, err := a.Store.Accounts.User(req.Context(), s.on.Creator)
	if fault.Is(err, fault.NotFound) {
		return all, nil
	}
	for _, one := range all {
		if one.Role == access.TaskOwner && one.AccountID == u.ID {
			return all, err
		}
	}
	return append([]pulp.Assignment{{Role: access.TaskOwner, AccountID: u.ID, Account: u.Username}}, all...), err
}

// myPermissions returns the handler that shows the permissions of the caller on an object.
func (a *API) myPermissions(collection string) handler {
	return func(req *request) (reply.Reply, error) {
		s, err := a.securableByPath(req, collection)
		if err != nil {
			return reply.Reply{}, err
		}
		on, err := a.Access.Load(req.Context(), req.caller, s.on, s.id)
		if err != nil {
			return reply.Reply{}, err
		}
		return reply.OK(ownPermissions{access.Held(req.caller, on)}), nil
	}
}
