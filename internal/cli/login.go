package cli

import (
	"context"
	"fmt"
	"time"

	"github.com/countersign/countersign/internal/oidclogin"
)

type loginCommand struct {
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
func (o loginCommand) Run(ctx context.Context, c *console) error {
	client, err := oidclogin.Client(o.CAFile)
	if err != nil {
		return err
	}
	options := oidclogin.Options{Registry: o.Registry, Device: o.Device, Listen: o.Listen, HTTP: client, Out: c.err}
	if !o.NoBrowser {
		options.Browser = oidclogin.OpenBrowser
	}
	result, err := oidclogin.Run(ctx, options)
	if err != nil {
		return err
	}
	c.notef("Logged in as %s until %s.", result.Username, result.Expires.Local().Format(time.RFC3339))
	_, err = fmt.Fprintln(c.out, result.Token)
	return err
}
