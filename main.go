// Command countersign is a container registry that signs.
//
// Package cli has the command line.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/countersign/countersign/internal/cli"
	"github.com/countersign/countersign/internal/pidone"
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
	os.Exit(cli.Run(ctx, cli.Program{
		Version: version, Args: os.Args, Environ: os.Environ(), In: os.Stdin, Out: os.Stdout, ErrOut: os.Stderr,
	}))
}
