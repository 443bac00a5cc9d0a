package cli

import (
	"context"

	"github.com/countersign/countersign/internal/admin"
)

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
