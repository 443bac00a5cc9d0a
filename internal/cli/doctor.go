package cli

import (
	"context"

	"github.com/countersign/countersign/internal/apiclient"
	"github.com/countersign/countersign/internal/doctor"
)

type doctorCommand struct {
	Strict bool `help:"Exit with status 1 for warnings too."`
	NoSign bool `help:"Make no test signatures: only check that the keys can be read."`
	apiOptions
}

// Help describes the checks.
func (doctorCommand) Help() string {
	return `On this machine it checks the configuration, files and their permissions, the schema of the database, the clocks, the keys with a test signature of each, disk space, TLS certificates, workers, the queue, and whether public_url leads to the server. Run it with the configuration file, the environment and the user of the server.

With --server it checks what a client can see; log in as an administrator to see the signing services and all tasks.

Exit status: 0 if nothing has failed, 1 if a check has failed. Each problem has a next step.`
}

// Run runs the command.
func (o doctorCommand) Run(ctx context.Context, c *console) error {
	c.json = o.Output == asJSON
	var r doctor.Report
	if err := o.examine(ctx, c, &r); err != nil {
		return err
	}
	if err := c.show(r.Findings, findingTable(r.Findings)); err != nil {
		return err
	}
	if worst := r.Worst(); worst == doctor.Failed || o.Strict && worst == doctor.Warning {
		return silentError{"a check has failed"}
	}
	return nil
}

// examine makes the checks.
func (o doctorCommand) examine(ctx context.Context, c *console, r *doctor.Report) error {
	transport, err := apiclient.Transport(c.value(o.CAFile, caFileVariable))
	if err != nil {
		return usageError{err}
	}
	defer transport.CloseIdleConnections()
	server := c.value(o.Server, serverVariable)
	if server == "" {
		i, err := c.load()
		if err != nil {
			return err
		}
		r.Installation(ctx, doctor.Installation{App: i.app, Config: i.Config, Warnings: i.Warnings, NoSign: o.NoSign})
		r.Server(ctx, i.Config.Public(), transport)
		return nil
	}
	at, err := serverURL(ctx, server, transport)
	if err != nil || !r.Server(ctx, at, transport) {
		return err
	}
	return c.connect(ctx, connection{options: o.apiOptions}, func(ctx context.Context, s *session) error {
		r.State(ctx, s.api)
		return nil
	})
}

// findingTable returns findings as a table, with a line of its own for each next step.
func findingTable(all []doctor.Finding) table {
	colours := map[doctor.Result]colour{doctor.OK: green, doctor.Warning: yellow, doctor.Failed: red}
	var t table
	for _, f := range all {
		t.rows = append(t.rows, []cell{{string(f.Result), colours[f.Result]}, {text: f.Check}, {text: f.Detail}})
		if f.Next != "" {
			t.add("", "", "-> "+f.Next)
		}
	}
	return t
}
