package main

import (
	"context"

	"github.com/countersign/countersign/internal/admin"
)

// userCommands are the commands about accounts.
type userCommands struct {
	Add      addUserCommand      `cmd:"" help:"Create a user. The password is asked for, or read from standard input."`
	List     listUsersCommand    `cmd:"" help:"Print all accounts: kind, source, administrator, active, groups, email."`
	Edit     editUserCommand     `cmd:"" help:"Change fields of a user, or make it an administrator."`
	Password userPasswordCommand `cmd:"" help:"Set the password of a user. It is asked for, or read from standard input."`
	Disable  disableUserCommand  `cmd:"" help:"Refuse an account from now on, with its API tokens. Nothing else changes."`
	Enable   enableUserCommand   `cmd:"" help:"Accept a disabled account again."`
	Remove   removeUserCommand   `cmd:"" help:"Delete an account with its roles and API tokens. Repositories and namespaces stay."`
}

// addUserCommand has the fields of admin.NewUser, to which it is converted.
type addUserCommand struct {
	Name          string `arg:"" help:"Name of the user."`
	Admin         bool   `help:"Make the user an administrator."`
	Email         string `help:"Email address." placeholder:"MAIL"`
	FirstName     string `help:"First name." placeholder:"NAME"`
	LastName      string `help:"Last name." placeholder:"NAME"`
	PasswordStdin bool   `help:"Read the password from standard input."`
}

// Run runs the command.
func (c addUserCommand) Run(ctx context.Context, a *admin.Admin) error {
	return a.AddUser(ctx, admin.NewUser(c))
}

type listUsersCommand struct{}

// Run runs the command.
func (listUsersCommand) Run(ctx context.Context, a *admin.Admin) error { return a.ListUsers(ctx) }

// editUserCommand has the fields of admin.UserEdit, to which it is converted.
type editUserCommand struct {
	Name      string  `arg:"" help:"Name of the account."`
	Admin     *bool   `negatable:"" help:"Make the user an administrator, or with --no-admin an ordinary user."`
	Email     *string `help:"Email address." placeholder:"MAIL"`
	FirstName *string `help:"First name." placeholder:"NAME"`
	LastName  *string `help:"Last name." placeholder:"NAME"`
}

// Run runs the command.
func (c editUserCommand) Run(ctx context.Context, a *admin.Admin) error {
	return a.EditUser(ctx, admin.UserEdit(c))
}

type userPasswordCommand struct {
	Name          string `arg:"" help:"Name of the user."`
	PasswordStdin bool   `help:"Read the password from standard input."`
}

// Run runs the command.
func (c userPasswordCommand) Run(ctx context.Context, a *admin.Admin) error {
	return a.SetPassword(ctx, c.Name, c.PasswordStdin)
}

type disableUserCommand struct {
	Name string `arg:"" help:"Name of the account."`
}

// Run runs the command.
func (c disableUserCommand) Run(ctx context.Context, a *admin.Admin) error {
	return a.SetActive(ctx, c.Name, false)
}

type enableUserCommand struct {
	Name string `arg:"" help:"Name of the account."`
}

// Run runs the command.
func (c enableUserCommand) Run(ctx context.Context, a *admin.Admin) error {
	return a.SetActive(ctx, c.Name, true)
}

type removeUserCommand struct {
	Name string `arg:"" help:"Name of the account."`
}

// Run runs the command.
func (c removeUserCommand) Run(ctx context.Context, a *admin.Admin) error {
	return a.RemoveUser(ctx, c.Name)
}

// groupCommands are the commands about groups.
type groupCommands struct {
	Add          addGroupCommand     `cmd:"" help:"Create a group."`
	List         listGroupsCommand   `cmd:"" help:"Print all groups with their members."`
	Remove       removeGroupCommand  `cmd:"" help:"Delete a group with its roles. Its members stay."`
	AddMember    addMemberCommand    `cmd:"" help:"Add an account to a group."`
	RemoveMember removeMemberCommand `cmd:"" help:"Remove an account from a group."`
}

type addGroupCommand struct {
	Name string `arg:"" help:"Name of the group."`
}

// Run runs the command.
func (c addGroupCommand) Run(ctx context.Context, a *admin.Admin) error {
	return a.AddGroup(ctx, c.Name)
}

type listGroupsCommand struct{}

// Run runs the command.
func (listGroupsCommand) Run(ctx context.Context, a *admin.Admin) error { return a.ListGroups(ctx) }

type removeGroupCommand struct {
	Name string `arg:"" help:"Name of the group."`
}

// Run runs the command.
func (c removeGroupCommand) Run(ctx context.Context, a *admin.Admin) error {
	return a.RemoveGroup(ctx, c.Name)
}

type addMemberCommand struct {
	Group string `arg:"" help:"Name of the group."`
	User  string `arg:"" help:"Name of the account."`
}

// Run runs the command.
func (c addMemberCommand) Run(ctx context.Context, a *admin.Admin) error {
	return a.AddMember(ctx, c.Group, c.User)
}

type removeMemberCommand struct {
	Group string `arg:"" help:"Name of the group."`
	User  string `arg:"" help:"Name of the account."`
}

// Run runs the command.
func (c removeMemberCommand) Run(ctx context.Context, a *admin.Admin) error {
	return a.RemoveMember(ctx, c.Group, c.User)
}

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
