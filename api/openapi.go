package api

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/countersign/countersign/api/internal/body"
	"github.com/countersign/countersign/api/internal/openapi"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/taskstore"
)

// documentForm selects the form of the OpenAPI document.
type documentForm struct {
	// plainPaths: paths have a variable for each id, as OpenAPI has it. Otherwise they are Pulp's, whose variables are
	// whole hrefs (compatibility.md#pulp-cli).
	plainPaths bool
	// strict: objects have all members and no others. This holds for responses to requests without "fields",
	// "exclude_fields" and "minimal".
	strict bool
}

// document builds the OpenAPI document of the routes.
func (a *API) document(form documentForm) *openapi.Document {
	b := &documentBuilder{
		form: form, routes: a.declaredRoutes(), schemas: openapi.NewSchemas(), hrefs: map[string]string{},
		paths: map[string]*openapi.Path{},
	}
	b.schemas.Strict = form.strict
	b.schemas.Choices(taskstore.TaskState(""), taskStates...)
	b.schemas.Choices(pulp.Policy(""), string(pulp.Immediate), string(pulp.OnDemand), string(pulp.Streamed))
	for _, r := range b.routes {
		if r.href != "" {
			b.hrefs[r.path] = r.href
		}
		for _, o := range r.methods {
			b.markSelected(o.replies)
		}
	}
	for _, r := range b.routes {
		b.add(r)
	}
	b.schemas.Named["Error"] = openapi.Object(map[string]*openapi.Schema{"detail": openapi.Text()}, "detail")
	b.schemas.Named["Invalid"] = &openapi.Schema{
		Description: "The errors of the fields by name, errors without a field as non_field_errors; or a list of errors.",
		AnyOf:       []*openapi.Schema{openapi.MapOf(openapi.Any()), openapi.List(openapi.Text())},
	}
	return &openapi.Document{
		OpenAPI: openapi.Version,
		Info: map[string]any{
			"title": "Countersign", "version": Versions(a.Version)["countersign"],
			"description":           "Container registry with image signing. The API is that of Pulp's container plugin.",
			"x-pulp-app-versions":   Versions(a.Version),
			"x-pulp-domain-enabled": false,
		},
		Servers: []openapi.Server{{URL: strings.TrimSuffix(a.PublicURL.String(), "/")}},
		Paths:   b.paths,
		Components: openapi.Components{
			Schemas:         b.schemas.Named,
			SecuritySchemes: map[string]any{"basicAuth": map[string]string{"type": "http", "scheme": "basic"}},
		},
	}
}

// documentBuilder builds the paths and components of a document.
type documentBuilder struct {
	form    documentForm
	routes  []route
	schemas *openapi.Schemas
	hrefs   map[string]string // the variables of objects by route
	paths   map[string]*openapi.Path
}

// markSelected marks the forms of which requests can select members.
func (b *documentBuilder) markSelected(r replies) {
	for _, v := range r {
		switch v := v.(type) {
		case selected:
			b.schemas.Partial(v.form)
		case pageOf:
			b.schemas.Partial(v.form)
		}
	}
}

// add adds the operations of a route.
func (b *documentBuilder) add(r route) {
	path, parameters := b.path(r.path)
	p := &openapi.Path{Parameters: parameters, Operations: map[string]*openapi.Operation{}}
	for method, o := range r.methods {
		p.Operations[strings.ToLower(method)] = b.operation(r, method, o)
	}
	if b.paths[path] != nil {
		panic(fmt.Sprintf("two routes have the path %s in the OpenAPI document", path))
	}
	b.paths[path] = p
}

// path returns the path of a route in the document, with its parameters.
func (b *documentBuilder) path(route string) (string, []openapi.Parameter) {
	if b.form.plainPaths {
		return plainPath(route)
	}
	object := route
	for object != "" && b.hrefs[object] == "" {
		object = object[:strings.LastIndexByte(strings.TrimSuffix(object, "/"), '/')+1]
	}
	if object == "" {
		return pulp.Root + route, nil
	}
	name := b.hrefs[object]
	return "{" + name + "}" + strings.TrimPrefix(route, object), []openapi.Parameter{
		openapi.InPath(name, "The href of the object, such as "+pulp.Root+strings.ReplaceAll(object, ":", "")),
	}
}

// plainPath returns the path of a route with a variable for each parameter.
func plainPath(route string) (string, []openapi.Parameter) {
	var parameters []openapi.Parameter
	segments := strings.Split(pulp.Root+route, "/")
	for i, s := range segments {
		name, isParameter := strings.CutPrefix(s, ":")
		if !isParameter {
			continue
		}
		p := openapi.InPath(name, "")
		switch {
		case name == "number" || numbered(route) && name != "role":
			p.Schema = openapi.Integer()
		default:
			p.Schema.Format = "uuid"
		}
		segments[i], parameters = "{"+name+"}", append(parameters, p)
	}
	return strings.Join(segments, "/"), parameters
}

// numbered reports whether the objects of a route's collection have numbers as ids.
func numbered(route string) bool {
	return slices.ContainsFunc([]string{pulp.UserCollection, pulp.GroupCollection, pulp.RobotCollection}, func(c string) bool {
		return strings.HasPrefix(route, c)
	})
}

// operationID returns Pulp's id of an operation, or one of the same form.
func operationID(path string, o operation) string {
	var words []string
	for _, s := range strings.Split(strings.Trim(path, "/"), "/") {
		if !strings.HasPrefix(s, ":") {
			words = append(words, strings.ReplaceAll(s, "-", "_"))
		}
	}
	if o.verb != "" {
		words = append(words, o.verb)
	}
	return strings.Join(words, "_")
}

// tagOf returns the group of a route's operations, as Pulp forms it from the path.
func tagOf(path string) string {
	collection, _, _ := strings.Cut(path, ":")
	var words []string
	for _, s := range strings.Split(strings.Trim(collection, "/"), "/") {
		words = append(words, strings.ToUpper(s[:1])+s[1:])
	}
	if words[0] != "Content" && len(words) == 3 {
		words = slices.Delete(words, 1, 2) // the plugin
	}
	return strings.Join(words, ": ")
}

func (b *documentBuilder) operation(r route, method string, o operation) *openapi.Operation {
	summary := o.summary
	if summary == "" {
		action := auditAction(method, pulp.Root+r.path)
		summary = strings.ToUpper(action[:1]) + action[1:]
	}
	shown := &openapi.Operation{
		ID: operationID(r.path, o), Summary: summary, Tags: []string{tagOf(r.path)}, Parameters: o.query,
		Responses: map[string]openapi.Response{}, Security: []map[string][]string{},
	}
	if !r.open {
		shown.Security = append(shown.Security, map[string][]string{"basicAuth": {}})
	}
	if o.body != nil {
		shown.Body = requestBody(o.body)
	}
	for status, form := range o.replies {
		shown.Responses[strconv.Itoa(status)] = b.response(status, form)
	}
	for _, status := range o.failures(r) {
		schema := "Error"
		if status == http.StatusBadRequest {
			schema = "Invalid"
		}
		if _, declared := o.replies[status]; !declared {
			shown.Responses[strconv.Itoa(status)] = b.response(status, openapi.RefTo(schema))
		}
	}
	return shown
}

// requestBody describes the bodies of a form in the three media types that are read.
func requestBody(form body.Form) *openapi.RequestBody {
	media := openapi.Media{Schema: form.Schema()}
	return &openapi.RequestBody{Required: form.Required(), Content: map[string]openapi.Media{
		openapi.JSON: media, "application/x-www-form-urlencoded": media, "multipart/form-data": media,
	}}
}

// response describes a response with a body of a form; see replies.
func (b *documentBuilder) response(status int, form any) openapi.Response {
	r := openapi.Response{Description: http.StatusText(status)}
	var schema *openapi.Schema
	switch form := form.(type) {
	case nil:
		return r
	case media:
		r.Content = map[string]openapi.Media{string(form): {Schema: openapi.Any()}}
		return r
	case selected:
		schema = b.schemas.Of(form.form)
	case pageOf:
		schema = openapi.Object(map[string]*openapi.Schema{
			"count": openapi.Integer(), "next": openapi.Text().OrNull(), "previous": openapi.Text().OrNull(),
			"results": openapi.List(b.schemas.Of(form.form)),
		}, "count", "next", "previous", "results")
	default:
		schema = b.schemas.Of(form)
	}
	r.Content = map[string]openapi.Media{openapi.JSON: {Schema: schema}}
	return r
}
