package api

import (
	"log/slog"
	"net/http"
	"strconv"

	"github.com/countersign/countersign/api/internal/body"
	"github.com/countersign/countersign/api/internal/reply"
	"github.com/countersign/countersign/internal/access"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/list"
)

// group is the form of a group (compatibility.md#groups).
type group struct {
	Href string `json:"pulp_href"`
	PRN  string `json:"prn"`
	ID   int64  `json:"id"`
	Name string `json:"name"`
}

func showGroup(g pulp.Group) any {
	return group{pulp.GroupHref(g.ID), numberPRN(pulp.GroupCollection, g.ID), g.ID, g.Name}
}

// member is the form of a user in the list of a group's members.
type member struct {
	Username string `json:"username"`
	Href     string `json:"pulp_href"`
	PRN      string `json:"prn"`
}

func showMember(u pulp.User) any {
	return member{u.Username, pulp.UserHref(u.ID), numberPRN(pulp.UserCollection, u.ID)}
}

func (a *API) groups() resource[pulp.Group] {
	return resource[pulp.Group]{
		model: "Group", form: group{}, list: list.GroupList, show: showEach(showGroup), within: a.visibleGroups, key: byNumber,
		orderings: []string{"id", "name"},
		filters:   mergeFilters(numberIdentityFilters(pulp.GroupCollection), nameFilters()),
	}
}

// members are the users of the group that the path names.
func (a *API) members() resource[pulp.User] {
	return resource[pulp.User]{
		model: "User", form: member{}, list: list.UserList, show: showEach(showMember), orderings: []string{"id", "username"},
		filters: mergeFilters(numberIdentityFilters(pulp.UserCollection), textFilters("username")),
		within: func(req *request) ([]list.Filter, error) {
			g, err := findByPath(a, a.groups(), req)
			return []list.Filter{list.InGroup(g.ID)}, err
		},
	}
}

func (a *API) groupRoutes() []route {
	path, r, fields := pulp.GroupCollection+":id/", a.groups(), body.Form{"name": accountName.Required()}
	return []route{
		{path: pulp.GroupCollection, methods: map[string]operation{
			http.MethodGet: listOf(a, r), http.MethodPost: create(a.createGroup, fields, r.creates()),
		}},
		{path: path, href: "group_href", methods: map[string]operation{
			http.MethodGet: readOf(a, r), http.MethodDelete: remove(a.deleteGroup, deletes),
			http.MethodPut:   update(a.editGroup(true), fields, r.changes()),
			http.MethodPatch: partialUpdate(a.editGroup(false), fields, r.changes()),
		}},
		{path: path + "users/", methods: map[string]operation{
			http.MethodGet:  listOf(a, a.members()),
			http.MethodPost: create(a.addMember, body.Form{"username": accountName.Required()}, a.members().creates()),
		}},
		{path: path + "users/:user/", href: "groups_user_href", methods: map[string]operation{
			http.MethodDelete: remove(a.removeMember, deletes, http.StatusConflict),
		}},
	}
}

// visibleGroups returns the condition for groups that the caller may see. Limited API tokens see none.
func (a *API) visibleGroups(req *request) ([]list.Filter, error) {
	if req.caller.Token.Limited() {
		return []list.Filter{list.Any()}, nil
	}
	return a.visible(req)
}

// permittedGroup returns the group that the path names, if the caller may perform an action on it.
func (a *API) permittedGroup(req *request, action access.Action) (pulp.Group, error) {
	g, err := findByPath(a, a.groups(), req)
	if err == nil {
		err = a.require(req, action, access.OfGroup(g), strconv.FormatInt(g.ID, 10))
	}
	return g, err
}

// createGroup creates a group, whose owner the caller becomes.
func (a *API) createGroup(req *request) (reply.Reply, error) {
	if req.caller.Token.Limited() {
		return reply.Reply{}, errDenied
	}
	if err := a.require(req, access.Create, access.Object{Kind: access.Group}, ""); err != nil {
		return reply.Reply{}, err
	}
	name, err := readGroup(req, true)
	if err != nil {
		return reply.Reply{}, err
	}
	g, err := a.Store.Accounts.CreateGroup(req.Context(), *name, req.caller.Account.ID)
	if err != nil {
		return reply.Reply{}, err
	}
	return created(req, "create group", showGroup(g), pulp.GroupHref(g.ID)), nil
}

// readGroup returns the name in the body of a group; nil if it has none.
func readGroup(req *request, whole bool) (*string, error) {
	b, err := body.Read(req.Request)
	if err != nil {
		return nil, err
	}
	name := readName(b, "name", body.RequiredIf(whole))
	b.Ignore("id")
	return name, b.Finish()
}

// editGroup returns the handler of PATCH or, when whole, of PUT, which requires the name.
func (a *API) editGroup(whole bool) handler {
	return func(req *request) (reply.Reply, error) {
		g, err := a.permittedGroup(req, access.Change)
		if err != nil {
			return reply.Reply{}, err
		}
		name, err := readGroup(req, whole)
		if err != nil {
			return reply.Reply{}, err
		}
		if name != nil && *name != g.Name {
			if g, err = a.Store.Accounts.RenameGroup(req.Context(), g.ID, *name); err != nil {
				return reply.Reply{}, err
			}
			req.audit("edit group", pulp.GroupHref(g.ID))
		}
		return showOne(a.groups(), req, g)
	}
}

func (a *API) deleteGroup(req *request) (reply.Reply, error) {
	g, err := a.permittedGroup(req, access.Delete)
	if err == nil {
		err = a.Store.Accounts.DeleteGroup(req.Context(), g.ID)
	}
	if err != nil {
		return reply.Reply{}, err
	}
	req.audit("delete group", pulp.GroupHref(g.ID))
	return reply.Reply{Status: http.StatusNoContent}, nil
}

// addMember adds the user whose name the body has to a group.
func (a *API) addMember(req *request) (reply.Reply, error) {
	g, err := a.permittedGroup(req, access.Change)
	if err != nil {
		return reply.Reply{}, err
	}
	b, err := body.Read(req.Request)
	if err != nil {
		return reply.Reply{}, err
	}
	name := readName(b, "username", body.Required)
	if err := b.Finish(); err != nil {
		return reply.Reply{}, err
	}
	u, err := a.Store.Accounts.UserByName(req.Context(), *name)
	if err == nil {
		err = a.Store.Accounts.AddMember(req.Context(), g.ID, u.ID)
	}
	if fault.Is(err, fault.NotFound) {
		err = reply.BadRequest("User matching query does not exist.")
	}
	if err != nil {
		return reply.Reply{}, err
	}
	req.audit("create group user", pulp.GroupHref(g.ID), slog.String("user", u.Username))
	return reply.Reply{Status: http.StatusCreated, Body: showMember(u)}, nil
}

func (a *API) removeMember(req *request) (reply.Reply, error) {
	g, err := a.permittedGroup(req, access.Change)
	if err != nil {
		return reply.Reply{}, err
	}
	text := req.param("user")
	if !numberForm.MatchString(text) {
		return reply.Reply{}, reply.ErrNotFound
	}
	id, err := strconv.ParseInt(text, 10, 64)
	if err == nil {
		err = a.Store.Accounts.RemoveMember(req.Context(), g.ID, id)
	}
	if err != nil {
		return reply.Reply{}, err
	}
	req.audit("delete group user", pulp.GroupHref(g.ID), slog.String("user", pulp.UserHref(id)))
	return reply.Reply{Status: http.StatusNoContent}, nil
}
