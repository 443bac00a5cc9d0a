package cli

import (
	"context"

	"github.com/countersign/countersign/internal/admin"
)

// addServiceCommand has the fields of admin.NewService, to which it is converted.
type addServiceCommand struct {
	Name       string `arg:"" help:"Name of the service."`
	Script     string `arg:"" optional:"" help:"Signing script. Omit it with --openpgp-key and --pkcs11-uri."`
	Key        string `arg:"" optional:"" help:"Key id or fingerprint of the script's key. Required with a script."`
	Class      string `default:"container:ManifestSigningService" help:"Class of the service. Only ${default} is supported." placeholder:"APP:MODEL"`
	Home       string `help:"GnuPG home directory of the script's key. Default: that of the current user." placeholder:"DIR"`
	Gnupghome  string `help:"The same as --home." placeholder:"DIR"`
	Keyring    string `help:"Keyring file with the script's key." placeholder:"FILE"`
	OpenPGPKey string `name:"openpgp-key" help:"Sign with the secret key in this file, without a script." placeholder:"FILE"`
	Passphrase string `name:"passphrase-file" help:"File with the passphrase of that key." placeholder:"FILE"`
	PKCS11URI  string `name:"pkcs11-uri" help:"Sign with the key in a token that this PKCS #11 URI (RFC 7512) names, without a script." placeholder:"URI"`
	PublicKey  string `help:"File with the armored OpenPGP public key of the token's key." placeholder:"FILE"`
	UserID     string `name:"user-id" help:"Create an OpenPGP public key with this user id for the token's key." placeholder:"'NAME <MAIL>'"`
}

// Help shows the combinations of arguments, which the parser's synopsis does not separate.
func (addServiceCommand) Help() string {
	return `Usage:

    add-signing-service NAME SCRIPT KEY [--home DIR] [--keyring FILE]
    add-signing-service NAME --openpgp-key FILE [--passphrase-file FILE]
    add-signing-service NAME --pkcs11-uri URI --public-key FILE
    add-signing-service NAME --pkcs11-uri URI --user-id 'NAME <MAIL>'

The command makes a test signature before it adds the service. Run it with the configuration file, the environment and the user of the server. The server may be running.`
}

// Run runs the command.
func (c addServiceCommand) Run(ctx context.Context, a *admin.Admin) error {
	return a.AddSigningService(ctx, admin.NewService(c))
}

type removeServiceCommand struct {
	Name  string `arg:"" help:"Name of the service."`
	Class string `default:"container:ManifestSigningService" help:"Class of the service. Only ${default} is supported." placeholder:"APP:MODEL"`
}

// Run runs the command.
func (c removeServiceCommand) Run(ctx context.Context, a *admin.Admin) error {
	return a.RemoveSigningService(ctx, c.Name, c.Class)
}

type listServicesCommand struct{}

// Run runs the command.
func (listServicesCommand) Run(ctx context.Context, a *admin.Admin) error {
	return a.ListSigningServices(ctx)
}

type listAssignmentsCommand struct{}

// Run runs the command.
func (listAssignmentsCommand) Run(ctx context.Context, a *admin.Admin) error {
	return a.ListSigningAssignments(ctx)
}

type revokeAssignmentsCommand struct {
	Repositories []string `arg:"" optional:"" name:"repository" help:"Names of repositories whose signing service is removed, whoever assigned it."`
	All          bool     `help:"Remove all signing services that no administrator assigned: those assigned by owners, and those from before the upgrade."`
}

// Help explains how to keep some of the assignments.
func (revokeAssignmentsCommand) Help() string {
	return `To keep some assignments and revoke the rest, confirm those first: as an administrator, PATCH manifest_signing_service of the repository with its present value. Then run this command with --all.

list-signing-assignments shows the assigner of each assignment. Existing signatures stay. A repository that signs on push refuses pushes until it has a service again or its sign_on_push is turned off. The server may be running.`
}

// Run runs the command.
func (c revokeAssignmentsCommand) Run(ctx context.Context, a *admin.Admin) error {
	return a.RevokeSigningAssignments(ctx, c.Repositories, c.All)
}
