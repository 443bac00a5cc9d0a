// Package cli is the command line of the program: the commands, their arguments and options, and their exit statuses.
//
// Each group of commands has a file. Package app runs servers and workers, package admin runs the commands of operators.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"strings"

	"github.com/alecthomas/kong"

	"github.com/countersign/countersign/config"
	"github.com/countersign/countersign/internal/admin"
	"github.com/countersign/countersign/internal/app"
	"github.com/countersign/countersign/internal/telemetry"
)

// Program is one call of the program. All fields are required.
type Program struct {
	Version     string
	Args        []string // with the name of the program
	Environ     []string // KEY=value
	In          io.Reader
	Out, ErrOut io.Writer
}

// commandLine defines the commands and options of the program. The program accepts the same ones when it is called as
// pulpcore-manager.
type commandLine struct {
	Config string `help:"YAML file with settings. Default: the variable COUNTERSIGN_CONFIG." type:"path" placeholder:"FILE"`

	Sign       signCommand        `cmd:"" help:"Sign images."`
	Doctor     doctorCommand      `cmd:"" help:"Look for problems of a server or of the installation on this machine, and name the next steps."`
	Status     statusCommand      `cmd:"" help:"Show the state of a server: its connections, workers and signing services."`
	Repository repositoryCommands `cmd:"" help:"List and show repositories."`
	Tag        tagCommands        `cmd:"" help:"List tags."`
	Rollback   rollbackCommand    `cmd:"" help:"Give a repository the content of an older version."`
	Sync       syncCommand        `cmd:"" help:"Sync a repository from its remote."`
	Mirror     mirrorCommands     `cmd:"" help:"Mirror other registries."`
	Task       taskCommands       `cmd:"" help:"List, show, follow and cancel tasks."`
	Version    versionCommands    `cmd:"" help:"List, show and compare versions of repositories. Without a command: print the version of the program."`

	Settings   configCommands    `cmd:"" name:"config" help:"Check the configuration."`
	Completion completionCommand `cmd:"" help:"Print a script with which a shell completes commands and options."`
	Man        manCommand        `cmd:"" help:"Print the manual page."`
	Complete   completeCommand   `cmd:"" name:"__complete" hidden:""`

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
}

// Run parses the command line, runs its command, and returns the exit status. It writes errors to p.ErrOut.
func Run(ctx context.Context, p Program) (status int) {
	command, err := p.run(ctx)
	_, silent := errors.AsType[silentError](err)
	if err != nil && !silent && !errors.Is(err, admin.ErrNotAccepted) {
		_, _ = fmt.Fprintln(p.ErrOut, err)
	}
	return exitStatus(command, err)
}

// run parses the command line and runs its command, whose name it returns. Its error is one line for the operator.
func (p Program) run(ctx context.Context) (command string, err error) {
	name := filepath.Base(p.Args[0])
	var line commandLine
	helpShown := false
	parser, err := newParser(&line, name, kong.Writers(p.Out, p.ErrOut), kong.Exit(func(int) { helpShown = true }), kong.UsageOnError())
	if err != nil {
		return "", err
	}
	parsed, err := parser.Parse(normalize(p.Args[1:]))
	if helpShown {
		return "", nil
	}
	if err != nil {
		return "", usageError{fmt.Errorf("%s: %w; `%[1]s --help` lists the commands", name, err)}
	}
	command, _, _ = strings.Cut(parsed.Command(), " ")
	c := newConsole(ctx, p, name, line.Config)
	parsed.BindTo(ctx, (*context.Context)(nil))
	parsed.Bind(c, parser)
	if err := c.provide(parsed); err != nil {
		return command, err
	}
	err = parsed.Run()
	if failed, ok := errors.AsType[admin.CommandError](err); ok {
		return command, failed
	}
	if err != nil {
		err = fmt.Errorf("%s: %w", name, err)
	}
	return command, err
}

// newParser returns a parser for the command line, which it fills.
func newParser(line *commandLine, name string, options ...kong.Option) (*kong.Kong, error) {
	return kong.New(line, append([]kong.Option{kong.Name(name), kong.Description("A container registry that signs.")}, options...)...)
}

// provide gives the commands that have parameters of these types the app, the admin and the greeting. The configuration is
// loaded if a command needs it.
func (c *console) provide(parsed *kong.Context) error {
	return errors.Join(
		parsed.BindToProvider(func() (*app.App, error) {
			i, err := c.load()
			if err != nil {
				return nil, err
			}
			return i.app, nil
		}),
		parsed.BindToProvider(func() (*admin.Admin, error) {
			i, err := c.load()
			if err != nil {
				return nil, err
			}
			return admin.New(admin.Options{App: i.app, Config: i.Config, In: c.in, Out: c.out, ErrOut: c.err, Log: i.log}), nil
		}),
		parsed.BindToProvider(func() (app.Greeting, error) {
			i, err := c.load()
			if err != nil {
				return app.Greeting{}, err
			}
			return app.Greeting{Out: c.out, Command: c.program.Args[0], SettingsFile: i.File}, nil
		}),
	)
}

// installation is the installation that the configuration describes.
type installation struct {
	config.Loaded
	app *app.App
	log *slog.Logger
}

// load loads the configuration and logs its warnings to errOut.
func (p Program) load(ctx context.Context, file string, errOut io.Writer) (*installation, error) {
	loaded, err := config.Load(file, p.Environ)
	if err != nil {
		return nil, usageError{err}
	}
	log := newLogger(loaded.Config.Log, errOut)
	for _, w := range loaded.Warnings {
		log.WarnContext(ctx, "check the configuration", slog.String("setting", w.Setting), slog.String("problem", w.Problem))
	}
	return &installation{
		Loaded: loaded, app: app.New(app.Options{Config: loaded.Config, Version: p.Version, Log: log}), log: log,
	}, nil
}

// normalize replaces common forms of asking for help or the version by those of the parser.
func normalize(args []string) []string {
	switch {
	case len(args) == 0 || args[0] == "help":
		return []string{"--help"}
	case args[0] == "--version":
		return []string{"version"}
	}
	return args
}

// newLogger returns the logger of the program.
func newLogger(c config.Log, w io.Writer) *slog.Logger {
	options := &slog.HandlerOptions{Level: c.Level}
	if c.Format == "json" {
		return slog.New(telemetry.LogHandler{Handler: slog.NewJSONHandler(w, options)})
	}
	return slog.New(telemetry.LogHandler{Handler: slog.NewTextHandler(w, options)})
}
