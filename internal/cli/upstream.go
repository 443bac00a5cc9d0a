package cli

import (
	"context"

	"github.com/countersign/countersign/internal/admin"
)

type adoptCommand struct {
	Pattern string `arg:"" help:"Name of the repository, without upstream.prefix. * stands for any characters."`
}

// Run runs the command.
func (c adoptCommand) Run(ctx context.Context, a *admin.Admin) error { return a.Adopt(ctx, c.Pattern) }

type driftCommand struct {
	Pattern string `arg:"" optional:"" default:"*" help:"Name of the repository. * stands for any characters."`
	Deep    bool   `help:"Compare the manifests and blobs of all versions. Without it, only tags are compared."`
}

// Run runs the command.
func (c driftCommand) Run(ctx context.Context, a *admin.Admin) error {
	return a.Drift(ctx, c.Pattern, c.Deep)
}
