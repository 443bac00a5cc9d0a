package config

import (
	"net/url"
	"regexp"

	"go.yaml.in/yaml/v3"
)

// secretParameter matches the names of parameters of storage drivers that are secrets.
var secretParameter = regexp.MustCompile(`(?i)secret|password|token|key|credential`)

// YAML returns the settings as a YAML file, without secrets.
func (c Config) YAML() ([]byte, error) {
	if u, err := url.Parse(c.DatabaseURL); err == nil {
		query := u.Query()
		for name := range query {
			if secretParameter.MatchString(name) {
				query.Set(name, "***")
				u.RawQuery = query.Encode()
			}
		}
		if _, has := u.User.Password(); has {
			u.User = url.UserPassword(u.User.Username(), "xxxxx")
		}
		c.DatabaseURL = u.String()
	} else {
		c.DatabaseURL = "***"
	}
	shown := map[string]any{}
	for name, value := range c.Storage.Parameters {
		if secretParameter.MatchString(name) {
			value = "***"
		}
		shown[name] = value
	}
	c.Storage.Parameters = shown
	return yaml.Marshal(c)
}
