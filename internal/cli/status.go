package cli

import (
	"context"
	"fmt"
	"time"

	"github.com/countersign/countersign/internal/apiclient"
)

// status has the fields of the status that commands read.
type status struct {
	Versions []struct {
		Component string `json:"component"`
		Version   string `json:"version"`
	} `json:"versions"`
	Workers []struct {
		Name      string            `json:"name"`
		Heartbeat time.Time         `json:"last_heartbeat"`
		Versions  map[string]string `json:"versions"`
	} `json:"online_workers"`
	Database connected  `json:"database_connection"`
	Redis    connected  `json:"redis_connection"`
	Upstream *connected `json:"upstream_connection"`
	Storage  *struct {
		Total uint64 `json:"total"`
		Free  uint64 `json:"free"`
	} `json:"storage"`
	Content struct {
		Origin string `json:"content_origin"`
	} `json:"content_settings"`
	Services []struct {
		Name    string `json:"name"`
		Workers int    `json:"online_workers"`
	} `json:"signing_services"`
}

type connected struct {
	Connected bool `json:"connected"`
}

// version returns the version of the program.
func (v status) version() string {
	for _, c := range v.Versions {
		if c.Component == "countersign" {
			return c.Version
		}
	}
	return "unknown"
}

// cell returns the state of a connection.
func (c connected) cell() cell {
	if c.Connected {
		return cell{"connected", green}
	}
	return cell{"not connected", red}
}

type statusCommand struct {
	apiOptions `embed:""`
}

// Help describes the exit status.
func (statusCommand) Help() string {
	return "Anyone may ask a server. Administrators also see the signing services and the connection to the upstream. " +
		"Exit status 1: the server has no connection to its database. `doctor` looks for the causes of problems."
}

// Run runs the command.
func (o statusCommand) Run(ctx context.Context, c *console) error {
	return c.connect(ctx, connection{options: o.apiOptions}, func(ctx context.Context, s *session) error {
		var found apiclient.Object[status]
		if err := s.api.Get(ctx, statusPath, nil, &found); err != nil {
			return err
		}
		if err := s.show(found, s.statusTable(found.V)); err != nil {
			return err
		}
		if !found.V.Database.Connected {
			return silentError{"no connection to the database"}
		}
		return nil
	})
}

// statusTable returns the state of a server as a table.
func (s *session) statusTable(v status) table {
	var t table
	row := func(name string, value cell) { t.rows = append(t.rows, []cell{{text: name}, value}) }
	row("public URL", cell{text: v.Content.Origin})
	row("version", cell{text: v.version()})
	row("database", v.Database.cell())
	if v.Redis.Connected {
		row("Redis", v.Redis.cell())
	}
	if v.Upstream != nil {
		row("upstream", v.Upstream.cell())
	}
	if v.Storage != nil {
		row("free space", cell{text: bytesText(v.Storage.Free) + " of " + bytesText(v.Storage.Total)})
	}
	online := cell{fmt.Sprintf("%d online", len(v.Workers)), green}
	if len(v.Workers) == 0 {
		online = cell{"none online: tasks wait", red}
	}
	row("workers", online)
	for _, w := range v.Workers {
		row("", cell{text: w.Name + "  " + w.Versions["countersign"]})
	}
	for _, v := range v.Services {
		can := cell{fmt.Sprintf("usable by %s", count(v.Workers, "worker")), green}
		if v.Workers == 0 {
			can = cell{"no worker can use its key", red}
		}
		row("signing service "+v.Name, can)
	}
	return t
}

// count returns a number with a noun, in the plural unless the number is 1.
func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// bytesText returns a number of bytes with a binary prefix.
func bytesText(n uint64) string {
	const units = "KMGTPE"
	if n < 1024 {
		return fmt.Sprintf("%d bytes", n)
	}
	value, unit := float64(n)/1024, 0
	for value >= 1024 && unit < len(units)-1 {
		value /= 1024
		unit++
	}
	return fmt.Sprintf("%.1f %ciB", value, units[unit])
}
