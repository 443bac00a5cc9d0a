package cli

import (
	"context"

	"github.com/countersign/countersign/internal/admin"
)

// verifyCommand has the fields of admin.Verification, to which it is converted.
type verifyCommand struct {
	Reference string `arg:"" name:"ref" help:"HOST/PATH:TAG or HOST/PATH@DIGEST, with the host of this installation."`
	Policy    string `help:"Evaluate the policy.json in this file as podman does." placeholder:"FILE"`
}

// Run runs the command.
func (c verifyCommand) Run(ctx context.Context, a *admin.Admin) error {
	return a.Verify(ctx, admin.Verification(c))
}
