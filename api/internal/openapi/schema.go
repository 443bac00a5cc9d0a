package openapi

import (
	"encoding/json"
	"slices"
)

// Types are the possible types of a value.
type Types []string

// MarshalJSON implements json.Marshaler.
func (t Types) MarshalJSON() ([]byte, error) {
	if len(t) == 1 {
		return json.Marshal(t[0])
	}
	return json.Marshal([]string(t))
}

// Schema describes values. The zero value describes all.
type Schema struct {
	Ref         string             `json:"$ref,omitempty"`
	Type        Types              `json:"type,omitempty"`
	Format      string             `json:"format,omitempty"`
	Description string             `json:"description,omitempty"`
	Enum        []any              `json:"enum,omitempty"`
	Default     any                `json:"default,omitempty"`
	Properties  map[string]*Schema `json:"properties,omitempty"`
	Required    []string           `json:"required,omitempty"`
	Additional  any                `json:"additionalProperties,omitempty"` // false or a *Schema
	Items       *Schema            `json:"items,omitempty"`
	AnyOf       []*Schema          `json:"anyOf,omitempty"`
	Minimum     *float64           `json:"minimum,omitempty"`
	Maximum     *float64           `json:"maximum,omitempty"`
	MinLength   int                `json:"minLength,omitempty"`
	MaxLength   int                `json:"maxLength,omitempty"`
	MinItems    int                `json:"minItems,omitempty"`
	MaxItems    int                `json:"maxItems,omitempty"`
	Pattern     string             `json:"pattern,omitempty"`
	WriteOnly   bool               `json:"writeOnly,omitempty"`
}

// Any returns the schema of any value.
func Any() *Schema { return &Schema{} }

// Text returns the schema of texts.
func Text() *Schema { return &Schema{Type: Types{"string"}} }

// Bool returns the schema of booleans.
func Bool() *Schema { return &Schema{Type: Types{"boolean"}} }

// Integer returns the schema of integers.
func Integer() *Schema { return &Schema{Type: Types{"integer"}} }

// Number returns the schema of numbers.
func Number() *Schema { return &Schema{Type: Types{"number"}} }

// Time returns the schema of times.
func Time() *Schema { return &Schema{Type: Types{"string"}, Format: "date-time"} }

// List returns the schema of lists of elements.
func List(of *Schema) *Schema { return &Schema{Type: Types{"array"}, Items: of} }

// MapOf returns the schema of objects with members of one schema.
func MapOf(of *Schema) *Schema { return &Schema{Type: Types{"object"}, Additional: of} }

// RefTo returns a reference to a schema with a name.
func RefTo(name string) *Schema { return &Schema{Ref: "#/components/schemas/" + name} }

// Choice returns the schema of some possible texts.
func Choice(texts ...string) *Schema {
	s := Text()
	for _, t := range texts {
		s.Enum = append(s.Enum, t)
	}
	return s
}

// Object returns the schema of an object with some members, some of which are required, and no others.
func Object(properties map[string]*Schema, required ...string) *Schema {
	slices.Sort(required)
	return &Schema{Type: Types{"object"}, Properties: properties, Required: required, Additional: false}
}

// Is reports whether values have only one type.
func (s *Schema) Is(kind string) bool { return len(s.Type) == 1 && s.Type[0] == kind }

// OrNull returns a schema for the same values and null.
func (s *Schema) OrNull() *Schema {
	if s.Ref != "" {
		return &Schema{AnyOf: []*Schema{s, {Type: Types{"null"}}}}
	}
	c := *s
	if len(c.Type) > 0 && !slices.Contains(c.Type, "null") {
		c.Type = append(slices.Clone(c.Type), "null")
	}
	if len(c.Enum) > 0 {
		c.Enum = append(slices.Clone(c.Enum), nil)
	}
	return &c
}

// Described returns the schema with a description.
func (s *Schema) Described(text string) *Schema {
	c := *s
	c.Description = text
	return &c
}
