package config

import (
	"fmt"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Storage is a storage driver of distribution with its parameters. Its text form is filesystem:<dir>. The YAML file
// also accepts a block as in the configuration of distribution (filesystem: {rootdirectory: …}).
type Storage struct {
	Driver     string
	Parameters map[string]any
}

// UnmarshalText parses filesystem:<dir>.
func (s *Storage) UnmarshalText(text []byte) error {
	driver, dir, ok := strings.Cut(string(text), ":")
	if !ok || driver != "filesystem" || dir == "" {
		return fmt.Errorf("storage: want filesystem:<dir>, got %q", text)
	}
	*s = Storage{Driver: driver, Parameters: map[string]any{"rootdirectory": dir}}
	return nil
}

// UnmarshalYAML decodes a block with one driver, or filesystem:<dir>.
func (s *Storage) UnmarshalYAML(node *yaml.Node) error {
	if node.Kind == yaml.ScalarNode {
		return s.UnmarshalText([]byte(node.Value))
	}
	var block map[string]map[string]any
	if err := node.Decode(&block); err != nil {
		return err
	}
	if len(block) != 1 {
		return fmt.Errorf("line %d: storage: want one driver, got %d", node.Line, len(block))
	}
	for driver, parameters := range block {
		*s = Storage{Driver: driver, Parameters: parameters}
	}
	return nil
}

// MarshalYAML returns the block that UnmarshalYAML decodes.
func (s Storage) MarshalYAML() (any, error) {
	return map[string]map[string]any{s.Driver: s.Parameters}, nil
}
