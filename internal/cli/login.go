package cli

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/countersign/countersign/internal/oidclogin"
)

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
