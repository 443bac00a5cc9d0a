// Package openapi models and encodes documents of OpenAPI 3.1, as far as the REST API uses it.
package openapi

import (
	"bytes"
	"encoding/json"
	"fmt"

	"go.yaml.in/yaml/v3"
)

// Version is the version of OpenAPI that documents state.
const Version = "3.1.1"

// JSON is the only media type of responses.
const JSON = "application/json"

// Document is a whole description of an API.
type Document struct {
	OpenAPI    string           `json:"openapi"`
	Info       map[string]any   `json:"info"`
	Servers    []Server         `json:"servers,omitempty"`
	Tags       []Tag            `json:"tags,omitempty"`
	Paths      map[string]*Path `json:"paths"`
	Components Components       `json:"components"`
}

// Server is a base URL of the API.
type Server struct {
	URL string `json:"url"`
}

// Tag is a group of operations.
type Tag struct {
	Name        string `json:"name"`
	Description string `json:"description,omitempty"`
}

// Path holds the operations of one path by method, in lower case, and its parameters.
type Path struct {
	Parameters []Parameter
	Operations map[string]*Operation
}

// MarshalJSON implements json.Marshaler.
func (p *Path) MarshalJSON() ([]byte, error) {
	members := map[string]any{}
	for method, o := range p.Operations {
		members[method] = o
	}
	if len(p.Parameters) > 0 {
		members["parameters"] = p.Parameters
	}
	return encode(members)
}

// Operation is one method of a path.
type Operation struct {
	ID          string                `json:"operationId"`
	Summary     string                `json:"summary,omitempty"`
	Description string                `json:"description,omitempty"`
	Tags        []string              `json:"tags,omitempty"`
	Parameters  []Parameter           `json:"parameters,omitempty"`
	Body        *RequestBody          `json:"requestBody,omitempty"`
	Responses   map[string]Response   `json:"responses"`
	Security    []map[string][]string `json:"security"` // empty: none is needed
}

// Parameter is a part of the path or of the query string.
type Parameter struct {
	Name        string  `json:"name"`
	In          string  `json:"in"`
	Description string  `json:"description,omitempty"`
	Required    bool    `json:"required,omitempty"`
	Style       string  `json:"style,omitempty"`
	Explode     *bool   `json:"explode,omitempty"`
	Schema      *Schema `json:"schema"`
}

// InPath returns a parameter of the path.
func InPath(name, description string) Parameter {
	return Parameter{Name: name, In: "path", Description: description, Required: true, Schema: Text()}
}

// InQuery returns a parameter of the query string. A list has commas between its items.
func InQuery(name, description string, s *Schema) Parameter {
	p := Parameter{Name: name, In: "query", Description: description, Schema: s}
	if s.Is("array") {
		explode := false
		p.Style, p.Explode = "form", &explode
	}
	return p
}

// RequestBody describes the bodies of requests by media type.
type RequestBody struct {
	Required bool             `json:"required,omitempty"`
	Content  map[string]Media `json:"content"`
}

// Response describes a response.
type Response struct {
	Description string           `json:"description"`
	Headers     map[string]any   `json:"headers,omitempty"`
	Content     map[string]Media `json:"content,omitempty"` // none: the body is empty
}

// Media is a body of one media type.
type Media struct {
	Schema *Schema `json:"schema"`
}

// Components are the parts to which others refer.
type Components struct {
	Schemas         map[string]*Schema `json:"schemas"`
	SecuritySchemes map[string]any     `json:"securitySchemes"`
}

// JSON returns the document as JSON. Equal documents have equal texts.
func (d *Document) JSON() ([]byte, error) {
	raw, err := encode(d)
	if err != nil {
		return nil, fmt.Errorf("encode the OpenAPI document: %w", err)
	}
	return raw, nil
}

// YAML returns the JSON form of a document as YAML, with its members in the same order.
func YAML(document []byte) ([]byte, error) {
	var node yaml.Node
	if err := yaml.Unmarshal(document, &node); err != nil {
		return nil, fmt.Errorf("convert the OpenAPI document to YAML: %w", err)
	}
	setBlockStyle(&node)
	var b bytes.Buffer
	enc := yaml.NewEncoder(&b)
	enc.SetIndent(2)
	if err := enc.Encode(&node); err != nil {
		return nil, fmt.Errorf("encode the OpenAPI document as YAML: %w", err)
	}
	return b.Bytes(), nil
}

// setBlockStyle drops the style of JSON from a node and those below it.
func setBlockStyle(n *yaml.Node) {
	n.Style &^= yaml.FlowStyle
	if n.Kind == yaml.ScalarNode && n.Tag == "!!str" {
		n.Style = 0 // the encoder quotes texts that would be read as another type
	}
	for _, child := range n.Content {
		setBlockStyle(child)
	}
}

func encode(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}
