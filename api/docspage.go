package api

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"fmt"
	"html/template"
	"maps"
	"slices"
	"strings"

	"github.com/countersign/countersign/api/internal/openapi"
)

// Files of the page that shows the OpenAPI document. The page has no scripts and requests nothing else.
var (
	//go:embed docs/index.html.tmpl
	pageTemplate string
	//go:embed docs/style.css
	pageStyle string
)

const htmlMedia media = "text/html; charset=utf-8"

// pagePolicy is the Content-Security-Policy of the page: nothing but its own style.
func pagePolicy() string {
	sum := sha256.Sum256([]byte(pageStyle))
	return "default-src 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) +
		"'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
}

// documentPage is what the page shows.
type documentPage struct {
	Title, Version, Description any
	Style                       template.CSS
	Groups                      []documentGroup
	Schemas                     []documentSchema
}

type documentGroup struct {
	ID, Name   string
	Operations []documentOperation
}

type documentOperation struct {
	Method, Path string
	Operation    *openapi.Operation
	Parameters   []openapi.Parameter
	Body         []documentMember
}

type documentSchema struct {
	Name    string
	Members []documentMember
}

type documentMember struct {
	Name     string
	Schema   *openapi.Schema
	Required bool
}

// renderPage returns the page that shows a document.
func renderPage(d *openapi.Document) ([]byte, error) {
	page := documentPage{
		Title: d.Info["title"], Version: d.Info["version"], Description: d.Info["description"],
		Style: template.CSS(pageStyle), //nolint:gosec // an embedded file
	}
	groups := map[string][]documentOperation{}
	for path, p := range d.Paths {
		for method, o := range p.Operations {
			shown := documentOperation{
				Method: strings.ToUpper(method), Path: path, Operation: o, Parameters: slices.Concat(p.Parameters, o.Parameters),
			}
			if o.Body != nil {
				shown.Body = membersOf(o.Body.Content[openapi.JSON].Schema)
			}
			groups[o.Tags[0]] = append(groups[o.Tags[0]], shown)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(groups)) {
		slices.SortFunc(groups[name], func(x, y documentOperation) int {
			return cmp.Compare(x.Operation.ID, y.Operation.ID)
		})
		id := "group-" + strings.NewReplacer(": ", "-", "_", "-").Replace(strings.ToLower(name))
		page.Groups = append(page.Groups, documentGroup{id, name, groups[name]})
	}
	for _, name := range slices.Sorted(maps.Keys(d.Components.Schemas)) {
		page.Schemas = append(page.Schemas, documentSchema{name, membersOf(d.Components.Schemas[name])})
	}
	t, err := template.New("docs").Funcs(template.FuncMap{"type": typeHTML}).Parse(pageTemplate)
	if err != nil {
		return nil, fmt.Errorf("parse the page of the API's documentation: %w", err)
	}
	var b bytes.Buffer
	if err := t.Execute(&b, page); err != nil {
		return nil, fmt.Errorf("render the API's documentation: %w", err)
	}
	return b.Bytes(), nil
}

// membersOf returns the members of an object in the order of their names, required ones first.
func membersOf(s *openapi.Schema) []documentMember {
	var all []documentMember
	for name, of := range s.Properties {
		all = append(all, documentMember{name, of, slices.Contains(s.Required, name)})
	}
	slices.SortFunc(all, func(x, y documentMember) int {
		if x.Required != y.Required {
			if x.Required {
				return -1
			}
			return 1
		}
		return cmp.Compare(x.Name, y.Name)
	})
	return all
}

// typeHTML returns a short form of a schema, with links to components.
func typeHTML(s *openapi.Schema) template.HTML {
	return template.HTML(typeText(s)) //nolint:gosec // typeText escapes all texts
}

func typeText(s *openapi.Schema) string {
	switch {
	case s.Ref != "":
		name := template.HTMLEscapeString(s.Ref[strings.LastIndexByte(s.Ref, '/')+1:])
		return `<a href="#schema-` + name + `">` + name + `</a>`
	case len(s.AnyOf) > 0:
		var all []string
		for _, of := range s.AnyOf {
			all = append(all, typeText(of))
		}
		return strings.Join(all, " or ")
	case len(s.Enum) > 0:
		var all []string
		for _, v := range s.Enum {
			all = append(all, "<code>"+template.HTMLEscapeString(fmt.Sprint(cmp.Or(v, any("null"))))+"</code>")
		}
		return strings.Join(all, ", ")
	case len(s.Type) == 0:
		return "any"
	}
	text := strings.Join(s.Type, " or ")
	if s.Items != nil {
		text += " of " + typeText(s.Items)
	}
	if s.Properties["results"] != nil {
		text = "page of " + typeText(s.Properties["results"].Items)
	}
	if s.Format != "" {
		text += " (" + template.HTMLEscapeString(s.Format) + ")"
	}
	return text
}
