package cli

import (
	"context"

	"github.com/countersign/countersign/internal/admin"
)

// roleCommands are the commands about roles.
type roleCommands struct {
	Grant  grantRoleCommand  `cmd:"" help:"Assign a role to a user or a group, on one object or on all objects."`
	Revoke revokeRoleCommand `cmd:"" help:"Take a role from a user or a group."`
	List   listRolesCommand  `cmd:"" help:"Print the assigned roles: of a user or a group itself, on an object, or all."`
	Show   showRoleCommand   `cmd:"" help:"Print the permissions of a role, or without one the names of all roles."`
}

// roleScope has the fields of admin.RoleScope, to which it is converted.
type roleScope struct {
	User           string `arg:"" optional:"" help:"Name of an account."`
	Group          string `help:"A group instead of a user." placeholder:"NAME"`
	Namespace      string `help:"Only in this namespace." placeholder:"NAME"`
	Repository     string `help:"Only on this repository." placeholder:"NAME"`
	Distribution   string `help:"Only on the distribution with this base path: the name that clients use." placeholder:"PATH"`
	Remote         string `help:"Only on this remote." placeholder:"NAME"`
	SigningService string `help:"Only on this signing service." placeholder:"NAME"`
}

type grantRoleCommand struct {
	Role  string    `arg:"" help:"Name of the role."`
	Scope roleScope `embed:""`
}

// Help shows common roles.
func (grantRoleCommand) Help() string {
	return `For example:

    role grant container.containernamespace_owner alice --namespace team
    role grant container.containernamespace_collaborator --group developers --namespace team
    role grant container.containerdistribution_consumer bob --distribution team/app
    role grant core.signingservice_user alice --signing-service release

Without an object the role applies to all objects. ` + "`role show`" + ` lists the roles.`
}

// Run runs the command.
func (c grantRoleCommand) Run(ctx context.Context, a *admin.Admin) error {
	return a.GrantRole(ctx, c.Role, admin.RoleScope(c.Scope))
}

type revokeRoleCommand struct {
	Role  string    `arg:"" help:"Name of the role."`
	Scope roleScope `embed:""`
}

// Run runs the command.
func (c revokeRoleCommand) Run(ctx context.Context, a *admin.Admin) error {
	return a.RevokeRole(ctx, c.Role, admin.RoleScope(c.Scope))
}

type listRolesCommand struct {
	Scope roleScope `embed:""`
}

// Run runs the command.
func (c listRolesCommand) Run(ctx context.Context, a *admin.Admin) error {
	return a.ListRoles(ctx, admin.RoleScope(c.Scope))
}

type showRoleCommand struct {
	Role string `arg:"" optional:"" help:"Name of the role."`
}

// Run runs the command.
func (c showRoleCommand) Run(ctx context.Context, a *admin.Admin) error {
	return a.ShowRole(ctx, c.Role)
}
