package config

import (
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caarlos0/env/v11"
)

const (
	// prefix begins the names of all variables with settings.
	prefix = "COUNTERSIGN_"
	// configVariable names the YAML file. It is not a setting.
	configVariable = prefix + "CONFIG"
	// defaultServiceVariable is the one variable that has a meaning when it is empty.
	defaultServiceVariable = prefix + "SIGNING_DEFAULT_SERVICE"
)

// kubernetesVariable matches the variables that Kubernetes defines for a service named countersign.
var kubernetesVariable = regexp.MustCompile(`^COUNTERSIGN_(SERVICE_|PORT($|_))`)

// clientVariables are the variables of commands that use a server. They are no settings of a server.
var clientVariables = []string{prefix + "SERVER", prefix + "USERNAME", prefix + "PASSWORD", prefix + "CA_FILE"}

// parsers parse values of the basic types. Their errors, unlike those of the env library, contain the expected form
// and the value.
var parsers = map[reflect.Type]env.ParserFunc{
	reflect.TypeFor[bool]():          parser(strconv.ParseBool, "true or false"),
	reflect.TypeFor[int]():           parser(strconv.Atoi, "a whole number"),
	reflect.TypeFor[float64]():       parser(func(text string) (float64, error) { return strconv.ParseFloat(text, 64) }, "a number"),
	reflect.TypeFor[time.Duration](): parser(time.ParseDuration, "a duration like 90s, 5m or 24h"),
}

func parser[T any](parse func(string) (T, error), form string) env.ParserFunc {
	return func(text string) (any, error) {
		v, err := parse(text)
		if err != nil {
			return nil, fmt.Errorf("want %s, got %q", form, text)
		}
		return v, nil
	}
}

// readEnvironment sets c from variables and returns a warning for each variable that has the prefix and is not a
// setting. The error names each variable with an invalid value.
func (c *Config) readEnvironment(vars map[string]string) ([]Warning, error) {
	known, err := env.GetFieldParamsWithOptions(&Config{}, env.Options{Prefix: prefix})
	if err != nil {
		return nil, err
	}
	settings := map[string]string{}
	for _, f := range known {
		if value, set := vars[f.Key]; set {
			settings[f.Key] = value
		}
	}
	if err := env.ParseWithOptions(c, env.Options{Environment: settings, Prefix: prefix, FuncMap: parsers}); err != nil {
		return nil, invalidVariables(known, settings, err)
	}
	if name, set := vars[defaultServiceVariable]; set { // the env library ignores empty variables
		c.Signing.DefaultService = name
	}
	var unknown []Warning
	for name := range vars {
		_, isSetting := settings[name]
		if strings.HasPrefix(name, prefix) && !isSetting && name != configVariable && !slices.Contains(clientVariables, name) &&
			!kubernetesVariable.MatchString(name) {
			unknown = append(unknown, Warning{Setting: name, Problem: "unknown setting in the environment"})
		}
	}
	slices.SortFunc(unknown, func(a, b Warning) int { return strings.Compare(a.Setting, b.Setting) })
	return unknown, nil
}

// invalidVariables returns an error for each variable with an invalid value. The error of the env library names
// fields of structs instead of variables, so each variable is parsed alone.
func invalidVariables(known []env.FieldParams, vars map[string]string, err error) error {
	var invalid []error
	for _, f := range known {
		one := env.Options{Environment: map[string]string{f.Key: vars[f.Key]}, Prefix: prefix, FuncMap: parsers}
		if cause, ok := errors.AsType[env.ParseError](env.ParseWithOptions(&Config{}, one)); ok {
			if cause.Type == reflect.TypeFor[slog.Level]() {
				cause.Err = fmt.Errorf("want debug, info, warn or error, got %q", vars[f.Key])
			}
			key := strings.ToLower(strings.TrimPrefix(f.Key, prefix)) // some types name their key, for the file
			invalid = append(invalid, fmt.Errorf("%s: %s", f.Key, strings.TrimPrefix(cause.Err.Error(), key+": ")))
		}
	}
	if len(invalid) == 0 {
		return fmt.Errorf("environment: %w", err)
	}
	return errors.Join(invalid...)
}
