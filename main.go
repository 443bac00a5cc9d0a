// Command countersign is a container registry that signs.
//
// This package parses the command line. Package app runs servers and workers, package admin runs the other commands.
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
	"slices"
	"syscall"

	"github.com/alecthomas/kong"

	"github.com/countersign/countersign/config"
	"github.com/countersign/countersign/internal/admin"
	"github.com/countersign/countersign/internal/app"
	"github.com/countersign/countersign/internal/pidone"
	"github.com/countersign/countersign/internal/telemetry"
)

// version is set by the linker in releases.
var version = "dev"

func main() {
	if pidone.Needed() {
		status, err := pidone.Run(os.Args, os.Environ())
		if err == nil {
			os.Exit(status)
		}
		fmt.Fprintf(os.Stderr, "Processes that signing scripts leave behind will not be reaped: %v. "+
			"Run the container with an init process (--init).\n", err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args, os.Environ(), os.Stdout, os.Stderr); err != nil {
		if !errors.Is(err, admin.ErrNotAccepted) {
			fmt.Fprintln(os.Stderr, err)
		}
		os.Exit(exitStatus(os.Args, err))
	}
}

// exitStatus returns the exit status for an error of run: 1, or 2 if verify could not verify the image.
func exitStatus(args []string, err error) int {
	if errors.Is(err, admin.ErrNotAccepted) || !slices.Contains(args, "verify") {
		return 1
	}
	return 2
}

// run parses the command line and runs its command. Its error is one line for the operator.
func run(ctx context.Context, args, environ []string, out, errOut io.Writer) error {
	name := filepath.Base(args[0])
	line := commandLine{Version: versionCommand{out: out}, Login: loginCommand{out: out, errOut: errOut}}
	helpShown := false
	parser, err := kong.New(&line, kong.Name(name), kong.Description("A container registry that signs."),
		kong.Writers(out, errOut), kong.Exit(func(int) { helpShown = true }), kong.UsageOnError())
	if err != nil {
		return err
	}
	parsed, err := parser.Parse(normalize(args[1:]))
	if helpShown {
		return nil
	}
	if err != nil {
		return fmt.Errorf("%s: %w; `%[1]s --help` lists the commands", name, err)
	}
	loaded, err := config.Load(line.Config, environ)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	log := newLogger(loaded.Config.Log, errOut)
	for _, w := range loaded.Warnings {
		log.WarnContext(ctx, "check the configuration", slog.String("setting", w.Setting), slog.String("problem", w.Problem))
	}
	a := app.New(app.Options{Config: loaded.Config, Version: version, Log: log})
	parsed.BindTo(ctx, (*context.Context)(nil))
	err = parsed.Run(a, admin.New(admin.Options{App: a, Config: loaded.Config, In: os.Stdin, Out: out, ErrOut: errOut, Log: log}),
		app.Greeting{Out: out, Command: args[0], SettingsFile: loaded.File})
	if failed, ok := errors.AsType[admin.CommandError](err); ok {
		return failed
	}
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
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
