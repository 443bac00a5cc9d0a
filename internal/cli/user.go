package cli

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

type resetAdminCommand struct {
	Password string `help:"New password. Without it, a password is generated and printed." placeholder:"P"`
}

// Run runs the command.
func (c resetAdminCommand) Run(ctx context.Context, a *admin.Admin) error {
	return a.ResetAdminPassword(ctx, c.Password)
}
