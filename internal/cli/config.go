package cli

import "fmt"

// configCommands are the commands about the configuration.
type configCommands struct {
	Check checkConfigCommand `cmd:"" help:"Load and validate the configuration, and print the settings in force."`
}

type checkConfigCommand struct {
	Strict bool `help:"Exit with status 1 if there are warnings."`
}

// Help describes the output.
func (checkConfigCommand) Help() string {
	return `The settings are printed as a YAML file on standard output: defaults, then the file, then the environment. Secrets are hidden. Warnings about unknown variables, former values and dangerous settings are on standard error.

Exit status 2: a setting is invalid. ` + "`doctor` checks whether the settings work."
}

// Run runs the command.
func (o checkConfigCommand) Run(c *console) error {
	i, err := c.load() // which logs its warnings
	if err != nil {
		return err
	}
	text, err := i.Config.YAML()
	if err != nil {
		return err
	}
	file := i.File
	if file == "" {
		file = "none"
	}
	if _, err := fmt.Fprintf(c.out, "# configuration file: %s\n%s", file, text); err != nil {
		return err
	}
	dangers := i.Config.Dangers()
	for _, w := range dangers {
		c.notef("warning: %s: %s", w.Setting, w.Problem)
	}
	if o.Strict && len(dangers)+len(i.Warnings) > 0 {
		return silentError{"the configuration has warnings"}
	}
	return nil
}
