package api

import (
	"log/slog"
	"net/http"
	"strconv"
	"strings"

	"github.com/countersign/countersign/api/internal/body"
	"github.com/countersign/countersign/api/internal/openapi"
	"github.com/countersign/countersign/api/internal/reply"
	"github.com/countersign/countersign/internal/access"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/list"
)

// defaultRobotRole is the role that a new robot gets on its namespace.
const defaultRobotRole = "container.containernamespace_collaborator"

// robot is the form of a robot (compatibility.md#robots).
type robot struct {
	object
	ID          int64   `json:"id"`
	Name        string  `json:"name"`
	Namespace   string  `json:"namespace"`
	Description *string `json:"description"`
	Active      bool    `json:"is_active"`
}

func robotHref(id int64) string {
	return pulp.Href(pulp.RobotCollection, strconv.FormatInt(id, 10))
}

func showRobot(u pulp.User) any {
	namespace, _, _ := strings.Cut(u.Username, pulp.RobotSeparator)
	return robot{
		objectOf(pulp.RobotCollection, strconv.FormatInt(u.ID, 10), u.Stamps), u.ID, u.Username, namespace, u.Description, u.Active,
	}
}

// robots are the robots of the namespaces whose roles the caller may manage.
func (a *API) robots() resource[pulp.User] {
	return resource[pulp.User]{
		model: "Robot", form: robot{}, list: list.UserList, show: showEach(showRobot), key: byNumber, within: a.managedRobots,
		orderings: []string{"id", "name"},
		filters:   mergeFilters(numberIdentityFilters(pulp.RobotCollection), nameFilters(), filters{"namespace": {openapi.Text(), ofNamespace}}),
	}
}

// ofNamespace filters robots by the name of their namespace.
func ofNamespace(_ *API, _ *request, _ string, values []string) (list.Filter, error) {
	return list.Where("username", list.HasPrefix, values[len(values)-1]+pulp.RobotSeparator), nil
}

func (a *API) robotRoutes() []route {
	r := a.robots()
	return []route{
		{path: pulp.RobotCollection, methods: map[string]operation{
			http.MethodGet: listOf(a, r), http.MethodPost: create(a.createRobot, robotFields, r.creates()),
		}},
		{path: pulp.RobotCollection + ":id/", href: "robot_href", methods: map[string]operation{
			http.MethodGet: readOf(a, r), http.MethodDelete: remove(a.deleteRobot, deletes),
		}},
	}
}

// managedRobots returns the condition for the robots that the caller may manage. Limited API tokens manage none.
func (a *API) managedRobots(req *request) ([]list.Filter, error) {
	if req.caller.Token.Limited() {
		return nil, errDenied
	}
	viewer, err := a.viewer(req)
	return []list.Filter{list.RobotsManagedBy(viewer)}, err
}

// robotFields are the fields of the bodies of robots.
var robotFields = body.Form{
	"name": accountName.Required(), "namespace": body.Text.Required(), "description": body.Text.Blank().Nullable(),
	"role": body.Text.Nullable(),
}

// createRobot creates a robot in a namespace whose roles the caller may manage, and gives it a role there.
func (a *API) createRobot(req *request) (reply.Reply, error) {
	if req.caller.Token.Limited() {
		return reply.Reply{}, errDenied
	}
	b, err := body.Read(req.Request)
	if err != nil {
		return reply.Reply{}, err
	}
	name, namespace := readName(b, "name", body.Required), b.Text("namespace", body.Required).Value
	description, role := b.Text("description", body.Blank, body.Nullable).Value, b.Text("role", body.Nullable)
	b.Ignore("id", "is_active")
	if name != nil && namespace != nil {
		short := strings.TrimPrefix(*name, *namespace+pulp.RobotSeparator)
		if !pulp.ValidRobotName(short) {
			b.Fail("name", "Enter a name of at most 63 lowercase letters, digits and . _ - "+
				"that begins with a letter or digit. The namespace precedes it.")
		}
		*name = *namespace + pulp.RobotSeparator + short
	}
	if err := b.Finish(); err != nil {
		return reply.Reply{}, err
	}
	n, err := a.managedNamespace(req, *namespace)
	if err != nil {
		return reply.Reply{}, err
	}
	given := defaultRobotRole
	if role.Set {
		given = ""
		if role.Value != nil {
			given = *role.Value
		}
	}
	u, err := a.Store.Accounts.CreateRobot(req.Context(), pulp.User{
		Username: *name, Kind: pulp.Robot, Active: true, NamespaceID: n.ID, Description: description,
	}, given)
	switch {
	case fault.Is(err, fault.NotFound):
		return reply.Reply{}, fault.Field("role", "Object with name=%s does not exist.", given)
	case err != nil:
		return reply.Reply{}, err
	}
	return created(req, "create robot", showRobot(u), robotHref(u.ID),
		slog.String("name", u.Username), slog.String("role", given)), nil
}

// managedNamespace returns the namespace with a name, if the caller may manage the roles on it. Callers without that
// permission cannot distinguish namespaces from absent ones.
func (a *API) managedNamespace(req *request, name string) (pulp.Namespace, error) {
	found, _, err := a.Store.Lists.Namespaces(req.Context(), list.Query{
		Where: []list.Filter{list.Where("name", list.Equal, name)}, Limit: 1,
	})
	switch {
	case err != nil:
		return pulp.Namespace{}, err
	case len(found) == 0 && administers(req):
		return pulp.Namespace{}, fault.Field("namespace", "Object with name=%s does not exist.", name)
	case len(found) == 0:
		return pulp.Namespace{}, errDenied
	}
	return found[0], a.require(req, access.ManageRoles, access.OfNamespace(found[0], false), found[0].ID)
}

// deleteRobot deletes a robot with its roles and tokens.
func (a *API) deleteRobot(req *request) (reply.Reply, error) {
	u, err := findByPath(a, a.robots(), req)
	if err == nil {
		err = a.Store.Accounts.DeleteUser(req.Context(), u.ID, nil)
	}
	if err != nil {
		return reply.Reply{}, err
	}
	req.audit("delete robot", robotHref(u.ID))
	return reply.Reply{Status: http.StatusNoContent}, nil
}
