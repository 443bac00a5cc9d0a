// Command countersign is a container registry that signs.
//
// This package parses the command line; package app runs the commands.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"syscall"

	"github.com/alecthomas/kong"

	"github.com/countersign/countersign/config"
	"github.com/countersign/countersign/internal/app"
	"github.com/countersign/countersign/internal/pidone"
	"github.com/countersign/countersign/internal/telemetry"
)

// version is set when a release is built.
var version = "dev"

func main() {
	if pidone.Needed() {
		status, err := pidone.Run(os.Args, os.Environ())
		if err == nil {
			os.Exit(status)
		}
		fmt.Fprintf(os.Stderr, "Processes that signing scripts leave behind will not be reaped: %v. Run the container with an init process (--init).\n", err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args, os.Environ(), os.Stdout, os.Stderr); err != nil {
		if !errors.Is(err, app.ErrNotAccepted) {
			fmt.Fprintln(os.Stderr, err)
		}
		os.Exit(app.ExitStatus(os.Args, err))
	}
}

// commandLine is what can be said to the program. Called as pulpcore-manager it takes the same verbs.
type commandLine struct {
	Config string `help:"YAML file with settings; COUNTERSIGN_CONFIG names it too." type:"path" placeholder:"FILE"`

	Serve                    app.ServeCommand             `cmd:"" help:"Registry, API and workers in one process."`
	Worker                   app.WorkerCommand            `cmd:"" help:"Workers only, beside servers on the same PostgreSQL and Redis."`
	AddSigningService        app.AddServiceCommand        `cmd:"" help:"Make a signing service: of a script and a key (SCRIPT KEY), of a key file (--openpgp-key), or of a key in a token (--pkcs11-uri with --public-key or --user-id)."`
	RemoveSigningService     app.RemoveServiceCommand     `cmd:"" help:"Remove a signing service."`
	ListSigningServices      app.ListServicesCommand      `cmd:"" help:"Print the names of the signing services."`
	ListSigningAssignments   app.ListAssignmentsCommand   `cmd:"" help:"Print the repositories that have a signing service, with the service and the origin of the assignment."`
	RevokeSigningAssignments app.RevokeAssignmentsCommand `cmd:"" help:"Take signing services away from repositories: from those named, or (--all) from all to which no administrator assigned one."`
	Verify                   app.VerifyCommand            `cmd:"" help:"Show the signatures of an image, and whether a policy accepts it."`
	Adopt                    app.AdoptCommand             `cmd:"" help:"Adopt the content of the upstream registry into repositories here."`
	Drift                    app.DriftCommand             `cmd:"" help:"Show the differences between the repositories here and the upstream registry."`
	ResetAdminPassword       app.ResetAdminCommand        `cmd:"" help:"Set the password of the user admin."`
	Migrate                  app.MigrateCommand           `cmd:"" help:"Bring the database's schema up to this binary's."`
	Version                  versionCommand               `cmd:"" help:"Print the version."`
}

// run reads the command line and does what it says. Its error is one line for the operator.
func run(ctx context.Context, args, environ []string, out, errOut io.Writer) error {
	name := filepath.Base(args[0])
	line := commandLine{Version: versionCommand{out}}
	exited := false
	parser, err := kong.New(&line, kong.Name(name), kong.Description("A container registry that signs."),
		kong.Writers(out, errOut), kong.Exit(func(int) { exited = true }), kong.UsageOnError())
	if err != nil {
		return err
	}
	parsed, err := parser.Parse(verbs(args[1:]))
	if exited { // --help
		return nil
	}
	if err != nil {
		return fmt.Errorf("%s: %w; `%[1]s --help` lists the commands", name, err)
	}
	loaded, err := config.Load(line.Config, environ)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	log := logger(loaded.Config.Log, errOut)
	for _, w := range loaded.Warnings {
		log.WarnContext(ctx, "check the configuration", slog.String("setting", w.Setting), slog.String("problem", w.Problem))
	}
	err = parsed.Run(app.New(app.Options{
		Context: ctx, Config: loaded.Config, Version: version, Out: out, Log: log, Path: args[0], SettingsFile: loaded.File,
	}))
	if failed, ok := errors.AsType[app.CommandError](err); ok {
		return failed
	}
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// verbs are the arguments, with what people try first put as the parser knows it.
func verbs(args []string) []string {
	switch {
	case len(args) == 0 || args[0] == "help":
		return []string{"--help"}
	case args[0] == "--version":
		return []string{"version"}
	}
	return args
}

func logger(c config.Log, w io.Writer) *slog.Logger {
	options := &slog.HandlerOptions{Level: c.Level}
	if c.Format == "json" {
		return slog.New(telemetry.LogHandler{Handler: slog.NewJSONHandler(w, options)})
	}
	return slog.New(telemetry.LogHandler{Handler: slog.NewTextHandler(w, options)})
}

type versionCommand struct{ out io.Writer }

// Run prints the version.
func (c versionCommand) Run() error {
	from := ""
	if info, ok := debug.ReadBuildInfo(); ok {
		from = " " + info.GoVersion
	}
	_, err := fmt.Fprintf(c.out, "countersign %s%s\n", version, from)
	return err
}
