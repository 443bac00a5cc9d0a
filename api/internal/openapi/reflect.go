package openapi

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
)

// Schemer is a type whose JSON form does not follow from its Go type.
type Schemer interface {
	// OpenAPISchema returns the schema of the type's values. It does not use the receiver's value.
	OpenAPISchema() *Schema
}

// Types of Go whose JSON form does not follow from their kind.
var (
	schemer    = reflect.TypeFor[Schemer]()
	rawMessage = reflect.TypeFor[json.RawMessage]()
	marshaler  = reflect.TypeFor[json.Marshaler]()
)

// Schemas collects the schemas of the Go types of responses, as components of a document.
type Schemas struct {
	Named   map[string]*Schema // by name of the component
	Strict  bool               // objects have no other members, and partial ones have all
	types   map[string]reflect.Type
	partial map[reflect.Type]bool
	choices map[reflect.Type]*Schema
}

// NewSchemas returns an empty collection.
func NewSchemas() *Schemas {
	return &Schemas{
		Named: map[string]*Schema{}, types: map[string]reflect.Type{}, partial: map[reflect.Type]bool{},
		choices: map[reflect.Type]*Schema{},
	}
}

// Partial declares that objects of v's type may lack members. It must be called before Of.
func (s *Schemas) Partial(v any) { s.partial[reflect.TypeOf(v)] = true }

// Choices declares the possible texts of v's type. It must be called before Of.
func (s *Schemas) Choices(v any, texts ...string) { s.choices[reflect.TypeOf(v)] = Choice(texts...) }

// Of returns the schema of the JSON form of values of v's type. A named struct becomes a component, to which the schema
// refers. A *Schema is its own schema. It panics if a type has no JSON form or if two structs have one name.
func (s *Schemas) Of(v any) *Schema {
	if own, ok := v.(*Schema); ok {
		return own
	}
	return s.of(reflect.TypeOf(v))
}

func (s *Schemas) of(t reflect.Type) *Schema {
	switch {
	case t == nil || t == rawMessage:
		return Any()
	case t.Implements(schemer) && t.Kind() != reflect.Pointer:
		return reflect.Zero(t).Interface().(Schemer).OpenAPISchema()
	case t.Implements(marshaler) && t.Kind() != reflect.Pointer:
		panic(fmt.Sprintf("openapi: the JSON form of %v is unknown: it needs the method OpenAPISchema", t))
	}
	if s.choices[t] != nil {
		return s.choices[t]
	}
	switch t.Kind() { //nolint:exhaustive // other kinds have no JSON form
	case reflect.Pointer:
		return s.of(t.Elem()).OrNull()
	case reflect.Interface:
		return Any()
	case reflect.String:
		return Text()
	case reflect.Bool:
		return Bool()
	case reflect.Int, reflect.Int32, reflect.Int64, reflect.Uint64:
		return Integer()
	case reflect.Float64:
		return Number()
	case reflect.Slice:
		return List(s.of(t.Elem()))
	case reflect.Map:
		return MapOf(s.of(t.Elem()))
	case reflect.Struct:
		return s.named(t)
	}
	panic(fmt.Sprintf("openapi: %v has no JSON form", t))
}

// named returns the schema of a struct type. A type with a name becomes a component.
func (s *Schemas) named(t reflect.Type) *Schema {
	name := t.Name()
	if name == "" {
		return s.object(t)
	}
	name = strings.ToUpper(name[:1]) + name[1:]
	if known := s.types[name]; known == nil {
		s.types[name] = t
		s.Named[name] = s.object(t)
	} else if known != t {
		panic(fmt.Sprintf("openapi: %v and %v have the same name", known, t))
	}
	return RefTo(name)
}

// object returns the schema of the JSON object of a struct. Members with "omitempty" are not required. Members with
// the tag openapi:"nullable" may be null; for pointers, this follows from the type.
func (s *Schemas) object(t reflect.Type) *Schema {
	o := Object(map[string]*Schema{})
	s.addMembers(o, t)
	slices.Sort(o.Required)
	if !s.Strict {
		o.Additional = nil
		if s.partial[t] {
			o.Required = nil
		}
	}
	return o
}

// addMembers adds the members of a struct to the schema of an object. Members of embedded structs are members of the
// object.
func (s *Schemas) addMembers(o *Schema, t reflect.Type) {
	for i := range t.NumField() {
		f := t.Field(i)
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case f.Anonymous && name == "":
			s.addMembers(o, f.Type)
			continue
		case name == "-" || !f.IsExported():
			continue
		case name == "":
			name = f.Name
		}
		optional := slices.Contains(strings.Split(options, ","), "omitempty")
		of := f.Type
		if optional && of.Kind() == reflect.Pointer {
			of = of.Elem()
		}
		o.Properties[name] = s.of(of)
		if f.Tag.Get("openapi") == "nullable" {
			o.Properties[name] = o.Properties[name].OrNull()
		}
		if !optional {
			o.Required = append(o.Required, name)
		}
	}
}
