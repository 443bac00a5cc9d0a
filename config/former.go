package config

import "fmt"

// formerValue is a renamed value of a setting. The former value keeps working, with a warning.
type formerValue struct {
	setting string // its YAML key with the keys around it
	former  string
	current string
	field   func(*Config) *string
}

// formerValues are the renamed values of all settings.
var formerValues = []formerValue{
	{
		setting: "upstream.redirects", former: "hand_on", current: RedirectsPassThrough,
		field: func(c *Config) *string { return &c.Upstream.Redirects },
	},
}

// replaceFormerValues replaces the former values in c by the current ones and returns a warning for each.
func (c *Config) replaceFormerValues() (warnings []Warning) {
	for _, v := range formerValues {
		field := v.field(c)
		if *field != v.former {
			continue
		}
		*field = v.current
		warnings = append(warnings, Warning{Setting: v.setting, Problem: fmt.Sprintf("the value %s was renamed: use %s", v.former, v.current)})
	}
	return warnings
}
