// Package app builds the parts of a server or a worker, ties them together, and runs the commands of the program.
package app

import (
	"context"
	"io"
	"log/slog"

	"github.com/countersign/countersign/config"
)

// Options are the dependencies of a Program. All are required, except SettingsFile.
type Options struct {
	Context context.Context
	Config  config.Config
	Version string
	Out     io.Writer
	Log     *slog.Logger
	// Path is the path of the binary as it was called.
	Path string
	// SettingsFile is the path of the file with settings. Empty: there is none.
	SettingsFile string
}

// Program is the receiver of all commands.
type Program struct {
	ctx     context.Context
	config  config.Config
	version string
	out     io.Writer
	log     *slog.Logger
	path    string
	file    string
}

// New returns a Program.
func New(o Options) *Program {
	return &Program{ctx: o.Context, config: o.Config, version: o.Version, out: o.Out, log: o.Log, path: o.Path, file: o.SettingsFile}
}

// creator names this program in the signatures that it makes.
func (p *Program) creator() string { return "countersign " + p.version }
