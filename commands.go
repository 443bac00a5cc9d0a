package main

import (
	"context"
	"fmt"
	"io"
	"runtime/debug"
	"time"

	"github.com/countersign/countersign/internal/admin"
	"github.com/countersign/countersign/internal/app"
	"github.com/countersign/countersign/internal/oidclogin"
)

// commandLine defines the commands and options of the program. The program accepts the same ones when it is called as
// pulpcore-manager.
type commandLine struct {
	Config string `help:"YAML file with settings. Default: the variable COUNTERSIGN_CONFIG." type:"path" placeholder:"FILE"`

	Serve                    serveCommand             `cmd:"" help:"Run the registry, the API and workers in one process."`
	Worker                   workerCommand            `cmd:"" help:"Run workers only. Servers and workers share PostgreSQL and Redis."`
	AddSigningService        addServiceCommand        `cmd:"" help:"Add a signing service: a script and its key (SCRIPT KEY), a key file (--openpgp-key), or a key in a token (--pkcs11-uri with --public-key or --user-id)."`
	RemoveSigningService     removeServiceCommand     `cmd:"" help:"Remove a signing service."`
	ListSigningServices      listServicesCommand      `cmd:"" help:"Print the names of the signing services."`
	ListSigningAssignments   listAssignmentsCommand   `cmd:"" help:"Print the repositories that have a signing service, the service, and the user who assigned it."`
	RevokeSigningAssignments revokeAssignmentsCommand `cmd:"" help:"Remove the signing services of the named repositories, or with --all those that no administrator assigned."`
	Verify                   verifyCommand            `cmd:"" help:"Print the signatures of an image, and verify it against a policy. Exit status: 0 accepted, 1 not accepted, 2 unknown."`
	Adopt                    adoptCommand             `cmd:"" help:"Adopt the content of the upstream registry."`
	Drift                    driftCommand             `cmd:"" help:"Compare the repositories with the upstream registry and print the differences."`
	User                     userCommands             `cmd:"" help:"Manage users."`
	Group                    groupCommands            `cmd:"" help:"Manage groups of users."`
	Role                     roleCommands             `cmd:"" help:"Manage the roles of users and groups."`
	ResetAdminPassword       resetAdminCommand        `cmd:"" help:"Set the password of the user admin, and make it an active administrator."`
	Login                    loginCommand             `cmd:"" help:"Log in to a server with OpenID Connect, and print an API token."`
	Migrate                  migrateCommand           `cmd:"" help:"Update the database schema to this version."`
	Version                  versionCommand           `cmd:"" help:"Print the version."`
}

type serveCommand struct{}

// Run runs the command.
func (serveCommand) Run(ctx context.Context, a *app.App, g app.Greeting) error {
	return a.Serve(ctx, g)
}

type workerCommand struct{}

// Run runs the command.
func (workerCommand) Run(ctx context.Context, a *app.App) error { return a.Work(ctx) }

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

// verifyCommand has the fields of admin.Verification, to which it is converted.
type verifyCommand struct {
	Reference string `arg:"" name:"ref" help:"HOST/PATH:TAG or HOST/PATH@DIGEST, with the host of this installation."`
	Policy    string `help:"Evaluate the policy.json in this file as podman does." placeholder:"FILE"`
}

// Run runs the command.
func (c verifyCommand) Run(ctx context.Context, a *admin.Admin) error {
	return a.Verify(ctx, admin.Verification(c))
}

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

type resetAdminCommand struct {
	Password string `help:"New password. Without it, a password is generated and printed." placeholder:"P"`
}

// Run runs the command.
func (c resetAdminCommand) Run(ctx context.Context, a *admin.Admin) error {
	return a.ResetAdminPassword(ctx, c.Password)
}

type loginCommand struct {
	out, errOut io.Writer

	Registry  string `arg:"" help:"URL of the server: https://HOST[:PORT]." placeholder:"URL"`
	Device    bool   `help:"Log in with a browser on another computer."`
	NoBrowser bool   `help:"Print the address to open instead of starting a browser."`
	Listen    string `help:"Loopback address that the browser is redirected to. Default: 127.0.0.1 and a free port." placeholder:"HOST:PORT"`
	CAFile    string `name:"ca-file" help:"PEM certificates to trust in addition to the system's." placeholder:"FILE"`
}

// Help shows how to use the token.
func (loginCommand) Help() string {
	return `The token is printed on standard output, everything else on standard error:

    countersign login https://registry.example.com > token
    docker login -u NAME --password-stdin registry.example.com < token`
}

// Run runs the command.
func (c loginCommand) Run(ctx context.Context) error {
	client, err := oidclogin.Client(c.CAFile)
	if err != nil {
		return err
	}
	o := oidclogin.Options{Registry: c.Registry, Device: c.Device, Listen: c.Listen, HTTP: client, Out: c.errOut}
	if !c.NoBrowser {
		o.Browser = oidclogin.OpenBrowser
	}
	result, err := oidclogin.Run(ctx, o)
	if err != nil {
		return err
	}
	_, _ = fmt.Fprintf(c.errOut, "Logged in as %s until %s.\n", result.Username, result.Expires.Local().Format(time.RFC3339))
	_, err = fmt.Fprintln(c.out, result.Token)
	return err
}

type migrateCommand struct{}

// Run runs the command.
func (migrateCommand) Run(ctx context.Context, a *admin.Admin) error { return a.Migrate(ctx) }

type versionCommand struct{ out io.Writer }

// Run prints the versions of the program and of Go.
func (c versionCommand) Run() error {
	from := ""
	if info, ok := debug.ReadBuildInfo(); ok {
		from = " " + info.GoVersion
	}
	_, err := fmt.Fprintf(c.out, "countersign %s%s\n", version, from)
	return err
}
