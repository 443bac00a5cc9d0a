package config

import (
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/caarlos0/env/v11"
)

// parsers read values of the basic types. Unlike those of the library, their errors say the expected form and the given value.
var parsers = map[reflect.Type]env.ParserFunc{
	reflect.TypeFor[bool]():          parser(strconv.ParseBool, "true or false"),
	reflect.TypeFor[int]():           parser(strconv.Atoi, "a whole number"),
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

// readEnvironment sets in c what the variables say. Its error names each variable whose value cannot be read.
func readEnvironment(c *Config, vars map[string]string) error {
	err := env.ParseWithOptions(c, env.Options{Environment: vars, Prefix: prefix, FuncMap: parsers})
	if err == nil {
		return nil
	}
	known, paramsErr := env.GetFieldParamsWithOptions(&Config{}, env.Options{Prefix: prefix})
	if paramsErr != nil {
		return paramsErr
	}
	var wrong []error
	for _, f := range known { // the library's error names the field of a struct; each variable alone shows which one is wrong
		one := env.Options{Environment: map[string]string{f.Key: vars[f.Key]}, Prefix: prefix, FuncMap: parsers}
		if cause, ok := errors.AsType[env.ParseError](env.ParseWithOptions(&Config{}, one)); ok {
			if cause.Type == reflect.TypeFor[slog.Level]() {
				cause.Err = fmt.Errorf("want debug, info, warn or error, got %q", vars[f.Key])
			}
			key := strings.ToLower(strings.TrimPrefix(f.Key, prefix)) // some types name their key, for the file
			wrong = append(wrong, fmt.Errorf("%s: %s", f.Key, strings.TrimPrefix(cause.Err.Error(), key+": ")))
		}
	}
	if len(wrong) == 0 {
		return fmt.Errorf("environment: %w", err)
	}
	return errors.Join(wrong...)
}
