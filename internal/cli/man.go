package cli

import (
	"fmt"
	"strings"

	"github.com/alecthomas/kong"
)

type manCommand struct{}

// Help shows how to use the page.
func (manCommand) Help() string {
	return `    countersign man > /usr/local/share/man/man1/countersign.1
    countersign man | man -l -`
}

// Run runs the command.
func (manCommand) Run(c *console, k *kong.Kong) error {
	_, err := c.out.Write([]byte(manual(k, c.name, c.program.Version)))
	return err
}

// manual returns the manual page, in the macros of man(7).
func manual(k *kong.Kong, name, version string) string {
	var b strings.Builder
	fmt.Fprintf(&b, ".TH %s 1 \"\" \"Countersign %s\" \"User Commands\"\n", roff(strings.ToUpper(name)), roff(version))
	fmt.Fprintf(&b, ".SH NAME\n%s \\- %s\n", roff(name), roff(strings.ToLower(k.Model.Help[:1])+strings.TrimSuffix(k.Model.Help[1:], ".")))
	fmt.Fprintf(&b, ".SH SYNOPSIS\n.B %s\n.I COMMAND\n[\\fIOPTION\\fR...]\n", roff(name))
	b.WriteString(".SH OPTIONS OF ALL COMMANDS\n")
	writeFlags(&b, k.Model.Flags)
	b.WriteString(".SH COMMANDS\n")
	writeCommands(&b, k.Model.Node, "")
	b.WriteString(".SH EXIT STATUS\n")
	for _, s := range []struct {
		status int
		text   string
	}{
		{statusDone, "Done."}, {statusFailed, "The operation failed, or the answer is no."},
		{statusUsage, "The command line, a setting or a value is wrong. For verify: unknown."},
		{statusDenied, "The login is missing or wrong, or lacks a permission."},
		{statusMissing, "An object does not exist, or the user may not see it."},
		{statusUnavailable, "The server, or a system that it needs, does not answer."}, {statusInterrupted, "Interrupted."},
	} {
		fmt.Fprintf(&b, ".TP\n.B %d\n%s\n", s.status, roff(s.text))
	}
	b.WriteString(".SH ENVIRONMENT\n")
	for _, v := range []struct{ names, text string }{
		{"COUNTERSIGN_CONFIG", "The configuration file. Each setting of the server is a variable too."},
		{serverVariable, "The server, as --server."}, {usernameVariable + ", " + passwordVariable, "The login for servers."},
		{caFileVariable, "Certificates, as --ca-file."}, {"REGISTRY_AUTH_FILE", "The file with stored logins (containers-auth.json(5))."},
		{"NO_COLOR", "No colours."},
	} {
		fmt.Fprintf(&b, ".TP\n.B %s\n%s\n", roff(v.names), roff(v.text))
	}
	b.WriteString(".SH SEE ALSO\n.BR podman-login (1),\n.BR containers-auth.json (5)\n")
	return b.String()
}

// writeCommands writes the commands below a node.
func writeCommands(b *strings.Builder, node *kong.Node, prefix string) {
	for _, command := range node.Children {
		if command.Hidden {
			continue
		}
		full := strings.TrimSpace(prefix + " " + command.Name)
		if len(command.Children) > 0 {
			writeCommands(b, command, full)
			continue
		}
		fmt.Fprintf(b, ".SS %s", roff(full))
		for _, p := range command.Positional {
			fmt.Fprintf(b, " %s", roff(p.Summary()))
		}
		fmt.Fprintf(b, "\n%s\n", roff(command.Help))
		for _, paragraph := range strings.Split(command.Detail, "\n\n") {
			if strings.HasPrefix(paragraph, "    ") {
				fmt.Fprintf(b, ".PP\n.nf\n%s\n.fi\n", roff(paragraph))
			} else if paragraph != "" {
				fmt.Fprintf(b, ".PP\n%s\n", roff(paragraph))
			}
		}
		for _, p := range command.Positional {
			fmt.Fprintf(b, ".TP\n.I %s\n%s\n", roff(p.Name), roff(p.Help))
		}
		writeFlags(b, command.Flags)
	}
}

// writeFlags writes options.
func writeFlags(b *strings.Builder, flags []*kong.Flag) {
	for _, f := range flags {
		if f.Hidden {
			continue
		}
		fmt.Fprintf(b, ".TP\n.B %s\n%s\n", roff(f.String()), roff(f.Help))
	}
}

// roff escapes a text for troff. No line begins with a control character.
func roff(text string) string {
	text = strings.NewReplacer(`\`, `\e`, "-", `\-`, "…", "...", "’", "'", "•", "*").Replace(text)
	lines := strings.Split(text, "\n")
	for i, line := range lines {
		if strings.HasPrefix(line, ".") || strings.HasPrefix(line, "'") {
			lines[i] = `\&` + line
		}
	}
	return strings.Join(lines, "\n")
}
