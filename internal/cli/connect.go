package cli

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"

	"github.com/countersign/countersign/internal/apiclient"
	"github.com/countersign/countersign/internal/app"
	"github.com/countersign/countersign/internal/authfile"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
)

// The variables of commands that use the REST API. They are no settings of a server.
const (
	serverVariable   = "COUNTERSIGN_SERVER"
	usernameVariable = "COUNTERSIGN_USERNAME"
	passwordVariable = "COUNTERSIGN_PASSWORD"
	caFileVariable   = "COUNTERSIGN_CA_FILE"
)

// apiOptions are the options of commands that use the REST API.
type apiOptions struct {
	Server string `group:"Server:" help:"Server to use: http[s]://HOST[:PORT]. Default: the variable COUNTERSIGN_SERVER, then the host of the reference, then the installation of the configuration on this machine." placeholder:"URL"`
	CAFile string `group:"Server:" name:"ca-file" help:"PEM certificates to trust for the server in addition to the system's. Default: the variable COUNTERSIGN_CA_FILE." placeholder:"FILE"`
	Output string `group:"Server:" short:"o" enum:"table,json" default:"table" help:"Form of the output: table or json, the objects of the REST API. Default: table." placeholder:"FORM"`
}

// session is a connection of one command to the REST API.
type session struct {
	*console
	api   *apiclient.Client
	local *app.Local // nil: the API of a server
	// host is the host of the server's URL. References may contain it, or that of the server's public URL.
	host string
}

// connection describes the session that a command needs.
type connection struct {
	options apiOptions
	// reference is the first reference of the command line; empty for none. Its host selects the server.
	reference reference
	// startsTasks reports whether the command starts tasks.
	startsTasks bool
}

// connect calls do with a session: with the server of the options or of the reference, or else with the installation on this
// machine.
func (c *console) connect(ctx context.Context, want connection, do func(context.Context, *session) error) error {
	c.json = want.options.Output == asJSON
	server := c.value(want.options.Server, serverVariable)
	chosen := server != ""
	host := want.reference.host
	if server == "" && host != "" {
		local, err := c.isLocal(host)
		if err != nil {
			return err
		}
		if !local {
			server = host
		}
	}
	if server == "" {
		return c.connectLocal(ctx, want, do)
	}
	return c.connectServer(ctx, server, chosen, want, do)
}

// isLocal reports whether host is that of the installation on this machine.
func (c *console) isLocal(host string) (bool, error) {
	i, err := c.load()
	if err != nil {
		return false, err
	}
	_, missing := i.app.MissingDatabase()
	return !missing && i.Config.Public().Host == host, nil
}

// connectLocal calls do with the API in this process.
func (c *console) connectLocal(ctx context.Context, want connection, do func(context.Context, *session) error) error {
	i, err := c.load()
	if err != nil {
		return err
	}
	if path, missing := i.app.MissingDatabase(); missing {
		return fmt.Errorf("there is no database at %s: give a server with --server URL or %s, or set COUNTERSIGN_DATA to the data "+
			"directory of an installation on this machine", path, serverVariable)
	}
	return i.app.WithLocal(ctx, app.LocalOptions{
		StartsTasks: want.startsTasks, QuietAudit: c.err.terminal != nil,
	}, func(ctx context.Context, local *app.Local) error {
		return do(ctx, &session{console: c, local: local, host: local.PublicURL.Host, api: apiclient.New(apiclient.Options{
			Server: local.PublicURL, Transport: apiclient.LocalTransport{Handler: local.Handler},
		})})
	})
}

// connectServer calls do with the API of a server. chosen reports that the server is that of the options, not of a reference.
func (c *console) connectServer(
	ctx context.Context, server string, chosen bool, want connection, do func(context.Context, *session) error,
) error {
	transport, err := apiclient.Transport(c.value(want.options.CAFile, caFileVariable))
	if err != nil {
		return usageError{fmt.Errorf("certificates of --ca-file: %w", err)}
	}
	defer transport.CloseIdleConnections()
	at, err := serverURL(ctx, server, transport)
	if err != nil {
		return err
	}
	login, err := c.login(at, chosen, want.reference.path)
	if err != nil {
		return err
	}
	if login != nil && at.Scheme == "http" && !isLoopback(at.Hostname()) {
		c.notef("warning: the password of %s is sent to %s in plain text", login.Username, at)
	}
	o := apiclient.Options{Server: at, Transport: transport, UserAgent: "countersign/" + c.program.Version}
	if login != nil {
		o.Username, o.Password = login.Username, login.Password
	}
	s := &session{console: c, api: apiclient.New(o), host: at.Host}
	err = do(ctx, s)
	if fault.Is(err, fault.Unauthenticated) {
		return fmt.Errorf("%w %s", err, c.advice(at, chosen, login))
	}
	return err
}

// advice returns the next step for a caller that the server does not accept.
func (c *console) advice(at *url.URL, chosen bool, login *authfile.Login) string {
	switch {
	case login == nil && !chosen && (c.getenv(usernameVariable) != "" || c.getenv(passwordVariable) != ""):
		return fmt.Sprintf("%s and %s are not sent to a server that only a reference names: set %s=%s too, or log in with `podman login %s`.",
			usernameVariable, passwordVariable, serverVariable, at, at.Host)
	case login == nil:
		return fmt.Sprintf("Log in with `podman login %s`, or set %s and %s.", at.Host, usernameVariable, passwordVariable)
	}
	return fmt.Sprintf("The login of %s comes from %s.", login.Username, login.Source)
}

// login returns the login for a server: that of the environment, or that which other programs have stored. It is nil if
// there is none. The login of the environment is for a chosen server only: a reference may name any host.
func (c *console) login(at *url.URL, chosen bool, repository string) (*authfile.Login, error) {
	username, password := c.getenv(usernameVariable), c.getenv(passwordVariable)
	switch {
	case !chosen:
	case username != "" && password != "":
		return &authfile.Login{Username: username, Password: password, Source: "the environment"}, nil
	case username != "" || password != "":
		return nil, usageError{fmt.Errorf("set both %s and %s, or none of them", usernameVariable, passwordVariable)}
	}
	found, err := authfile.Environment{Getenv: c.getenv, Home: c.home(), UID: os.Getuid()}.Find(at.Host, repository)
	if err != nil {
		return nil, fmt.Errorf("read the stored logins: %w", err)
	}
	return found, nil
}

// serverURL returns the URL of a server, which may lack the scheme. It is https then, or http on this machine if the server
// does not speak TLS.
func serverURL(ctx context.Context, server string, transport http.RoundTripper) (*url.URL, error) {
	given := strings.Contains(server, "://")
	if !given {
		server = "https://" + server
	}
	at, err := url.Parse(server)
	if err != nil || at.Scheme != "http" && at.Scheme != "https" || at.Host == "" || strings.Trim(at.Path, "/") != "" ||
		at.User != nil || at.RawQuery != "" || at.Fragment != "" {
		return nil, usageError{fmt.Errorf("server %q: want http[s]://HOST[:PORT]", server)}
	}
	at.Path = ""
	if given || !isLoopback(at.Hostname()) {
		return at, nil
	}
	probe := apiclient.New(apiclient.Options{Server: at, Transport: transport})
	if err := probe.Call(ctx, http.MethodGet, pulp.Root+"livez/", nil, nil); errors.Is(err, http.ErrSchemeMismatch) {
		at.Scheme = "http"
	}
	return at, nil
}

// isLoopback reports whether a host is this machine.
func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || strings.HasSuffix(host, ".localhost") || ip != nil && ip.IsLoopback()
}
