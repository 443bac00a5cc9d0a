package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"
)

// The values of the option --output.
const (
	asTable = "table"
	asJSON  = "json"
)

// console is the surroundings of one call of the program.
type console struct {
	program Program
	name    string // of the program
	in      io.Reader
	out     io.Writer
	err     *screen
	// coloured reports whether results have colours.
	coloured bool
	load     func() (*installation, error)
	json     bool
}

// newConsole returns the console of a call. file is the configuration file; empty for that of the environment.
func newConsole(ctx context.Context, p Program, name, file string) *console {
	c := &console{program: p, name: name, in: p.In, out: p.Out, err: newScreen(p.ErrOut)}
	c.coloured = terminalOf(p.Out) != nil && c.getenv("NO_COLOR") == "" && c.getenv("TERM") != "dumb"
	c.load = sync.OnceValues(func() (*installation, error) { return p.load(ctx, file, c.err) })
	return c
}

// getenv returns the value of a variable, or "".
func (c *console) getenv(name string) string {
	value := ""
	for _, v := range c.program.Environ {
		if key, text, _ := strings.Cut(v, "="); key == name {
			value = text // the last one counts, as for programs
		}
	}
	return value
}

// value returns the value of an option, or else that of a variable.
func (c *console) value(option, variable string) string {
	if option != "" {
		return option
	}
	return c.getenv(variable)
}

// home returns the home directory, or "".
func (c *console) home() string { return c.getenv("HOME") }

// show writes an object of the API as JSON, or otherwise the table.
func (c *console) show(object any, t table) error {
	if c.json {
		return writeJSON(c.out, object)
	}
	return t.write(c.out, c.coloured)
}

// writeJSON writes a value as indented JSON.
func writeJSON(w io.Writer, v any) error {
	var text bytes.Buffer
	e := json.NewEncoder(&text)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(v); err != nil {
		return err
	}
	_, err := w.Write(text.Bytes())
	return err
}

// notef writes a line for the person that is no result.
func (c *console) notef(format string, args ...any) {
	_, _ = fmt.Fprintf(c.err, format+"\n", args...)
}

// when returns a time as text, or "-" for none.
func when(t *time.Time) string {
	if t == nil {
		return "-"
	}
	return t.UTC().Format(time.RFC3339)
}

// orDash returns a text, or "-" if it is empty.
func orDash(text *string) string {
	if text == nil || *text == "" {
		return "-"
	}
	return *text
}

// readFile reads a file that a person names.
func readFile(path string) ([]byte, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, usageError{err}
	}
	return text, nil
}
