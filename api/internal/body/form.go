package body

import (
	"context"
	"maps"
	"slices"

	"github.com/countersign/countersign/api/internal/openapi"
)

// Form declares the fields of a body by name, for the description of the API. Observe returns the fields that a
// handler reads, so that tests can compare both.
type Form map[string]Field

// Field declares the values of a field.
type Field struct {
	schema   *openapi.Schema
	required bool
}

// The fields that the readers of the same names read.
var (
	Text        = Field{schema: &openapi.Schema{Type: openapi.Types{"string"}, MinLength: 1}}
	Secret      = Field{schema: openapi.Text().OrNull()}.writeOnly()
	Count       = Int(1)
	Seconds     = Field{schema: atLeast(openapi.Number(), 0).OrNull()}
	Bool        = Field{schema: openapi.Bool()}
	Texts       = Field{schema: texts}
	Labels      = Field{schema: openapi.MapOf(openapi.Text().OrNull())}
	Time        = Field{schema: openapi.Time()}
	Reference   = Field{schema: openapi.Text().OrNull()}
	WebURL      = Field{schema: (&openapi.Schema{Type: openapi.Types{"string"}, MinLength: 1, Format: "uri"}).OrNull()}
	Headers     = Field{schema: openapi.List(openapi.MapOf(openapi.Text())).OrNull()}
	Certificate = Text.Nullable()
	PrivateKey  = Secret
	Value       = Field{schema: openapi.Any()}

	OptionalTexts = Texts.Nullable()
	OptionalTime  = Time.Nullable()

	texts = &openapi.Schema{
		Type: openapi.Types{"array"}, MaxItems: maxTexts, Items: &openapi.Schema{Type: openapi.Types{"string"}, MinLength: 1},
	}
)

// Int is the field that the reader of the same name reads.
func Int(least int64) Field {
	s := atLeast(openapi.Integer(), float64(least))
	most := float64(1<<31 - 1)
	s.Maximum = &most
	return Field{schema: s.OrNull()}
}

func atLeast(s *openapi.Schema, least float64) *openapi.Schema {
	s.Minimum = &least
	return s
}

// edit returns the field with a changed copy of its schema.
func (f Field) edit(change func(*openapi.Schema)) Field {
	s := *f.schema
	change(&s)
	f.schema = &s
	return f
}

// Required returns the field as one that the body must have.
func (f Field) Required() Field {
	f.required = true
	return f
}

// Optional returns the field as one that the body may lack.
func (f Field) Optional() Field {
	f.required = false
	return f
}

// Nullable returns the field as one that may be null.
func (f Field) Nullable() Field {
	f.schema = f.schema.OrNull()
	return f
}

// NotNull returns the field as one that may not be null, which its handler checks.
func (f Field) NotNull() Field {
	return f.edit(func(s *openapi.Schema) {
		s.Type = slices.DeleteFunc(slices.Clone(s.Type), func(t string) bool { return t == "null" })
	})
}

// Blank returns the field as one whose text may be empty.
func (f Field) Blank() Field { return f.edit(func(s *openapi.Schema) { s.MinLength = 0 }) }

// AtMost returns the field with the largest number of characters of its text, or of items of its list.
func (f Field) AtMost(n int) Field {
	return f.edit(func(s *openapi.Schema) {
		if slices.Contains(s.Type, "array") {
			s.MaxItems = n
		} else {
			s.MaxLength = n
		}
	})
}

// NotEmpty returns the field as one whose list may not be empty.
func (f Field) NotEmpty() Field { return f.edit(func(s *openapi.Schema) { s.MinItems = 1 }) }

// OneOf returns the field with the possible texts, or the possible items of a list.
func (f Field) OneOf(possible ...string) Field {
	return f.edit(func(s *openapi.Schema) {
		if slices.Contains(s.Type, "array") {
			s.Items = openapi.Choice(possible...)
			return
		}
		s.Enum = openapi.Choice(possible...).Enum
		if slices.Contains(s.Type, "null") {
			s.Enum = append(s.Enum, nil)
		}
	})
}

// Matching returns the field with a regular expression for its text.
func (f Field) Matching(pattern string) Field {
	return f.edit(func(s *openapi.Schema) { s.Pattern = pattern })
}

// Default returns the field with the value that counts when the body lacks it.
func (f Field) Default(v any) Field { return f.edit(func(s *openapi.Schema) { s.Default = v }) }

// Described returns the field with a description.
func (f Field) Described(text string) Field {
	return f.edit(func(s *openapi.Schema) { s.Description = text })
}

func (f Field) writeOnly() Field { return f.edit(func(s *openapi.Schema) { s.WriteOnly = true }) }

// With returns the form with more fields, some of which may replace its own.
func (f Form) With(more Form) Form {
	all := maps.Clone(f)
	maps.Copy(all, more)
	return all
}

// Partial returns the form with no required fields, for PATCH.
func (f Form) Partial() Form {
	all := make(Form, len(f))
	for name, field := range f {
		all[name] = field.Optional()
	}
	return all
}

// Schema returns the schema of bodies.
func (f Form) Schema() *openapi.Schema {
	properties, required := map[string]*openapi.Schema{}, []string{}
	for name, field := range f {
		properties[name] = field.schema
		if field.required {
			required = append(required, name)
		}
	}
	return openapi.Object(properties, required...)
}

// Required reports whether the body must have fields.
func (f Form) Required() bool {
	for _, field := range f {
		if field.required {
			return true
		}
	}
	return false
}

// observed is the key of the function of Observe in a context.
type observed struct{}

// Observe returns a context whose requests call a function with the fields that their handlers have read, for each
// body that Finish accepts.
func Observe(ctx context.Context, done func(read Form)) context.Context {
	return context.WithValue(ctx, observed{}, done)
}

// note notes that a reader has read a field, if the request is observed.
func (f *Fields) note(name string, field Field) {
	if _, known := f.reads[name]; f.reads != nil && (!known || len(field.schema.Type) > 0) {
		f.reads[name] = field
	}
}

// observe makes the fields note what readers read, if the request is observed.
func (f *Fields) observe(ctx context.Context) {
	if done, ok := ctx.Value(observed{}).(func(Form)); ok {
		f.reads, f.done = Form{}, done
	}
}

// CompareDeclared returns the differences between the declared fields of a form and the fields that its handler read. A
// declaration may restrict the values that the reader accepts, because handlers check values further.
func (f Form) CompareDeclared(read Form) []string {
	var all []string
	for _, name := range slices.Sorted(maps.Keys(read)) {
		declared, ok := f[name]
		switch {
		case !ok:
			all = append(all, name+" is read and not declared")
			continue
		case read[name].required && !declared.required:
			all = append(all, name+" is required and not declared so")
		}
		if !restricts(declared.schema, read[name].schema) {
			all = append(all, name+" is declared with values that its reader refuses")
		}
	}
	for _, name := range slices.Sorted(maps.Keys(f)) {
		if _, ok := read[name]; !ok {
			all = append(all, name+" is declared and not read")
		}
	}
	return all
}

// restricts reports whether values of a schema have the types and bounds of another.
func restricts(s, of *openapi.Schema) bool {
	if len(of.Type) == 0 {
		return true
	}
	for _, t := range s.Type {
		if !slices.Contains(of.Type, t) {
			return false
		}
	}
	below := func(v, least *float64) bool { return least != nil && (v == nil || *v < *least) }
	return len(s.Type) > 0 && !below(s.Minimum, of.Minimum) && (s.MinLength >= of.MinLength || len(s.Enum) > 0) &&
		(s.Items == nil) == (of.Items == nil)
}
