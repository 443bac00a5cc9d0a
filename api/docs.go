package api

import (
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"sync"

	"github.com/countersign/countersign/api/internal/openapi"
	"github.com/countersign/countersign/api/internal/reply"
)

// docsPath is the path of the documentation.
const docsPath = "docs/"

// media is the media type of a response that is not JSON, in the replies of an operation.
type media string

const yamlMedia media = "application/yaml"

// docsRoutes are the routes of the OpenAPI document (compatibility.md#pulp-cli).
func (a *API) docsRoutes() []route {
	document := a.documents()
	variants := []openapi.Parameter{openapi.InQuery("pk_path", "Use a variable for each id in paths instead of whole hrefs.", openapi.Text())}
	return []route{
		{path: docsPath + "api.json", open: true, methods: get(operation{
			verb: "get", summary: "Read the OpenAPI document", query: variants, handle: document(jsonForm),
			replies: replies{http.StatusOK: openapi.MapOf(openapi.Any())},
		})},
		{path: docsPath + "api.yaml", open: true, media: yamlMedia, methods: get(operation{
			verb: "get", summary: "Read the OpenAPI document as YAML", query: variants, handle: document(yamlForm),
			replies: replies{http.StatusOK: yamlMedia},
		})},
		{path: docsPath, open: true, methods: get(operation{
			verb: "redoc", summary: "Read the documentation as a page", query: variants, handle: document(pageForm),
			replies: replies{http.StatusOK: htmlMedia},
		})},
	}
}

// encodedDocument is the OpenAPI document in one media type.
type encodedDocument struct {
	media media
	text  []byte
	etag  string
}

func newEncoded(m media, text []byte) *encodedDocument {
	sum := sha256.Sum256(text)
	return &encodedDocument{m, text, `"` + hex.EncodeToString(sum[:16]) + `"`}
}

func jsonForm(d *openapi.Document) (*encodedDocument, error) {
	text, err := d.JSON()
	return newEncoded(openapi.JSON, text), err
}

func yamlForm(d *openapi.Document) (*encodedDocument, error) {
	text, err := d.JSON()
	if err == nil {
		text, err = openapi.YAML(text)
	}
	return newEncoded(yamlMedia, text), err
}

func pageForm(d *openapi.Document) (*encodedDocument, error) {
	text, err := renderPage(d)
	return newEncoded(htmlMedia, text), err
}

// documents returns a function that makes the handlers which serve the document in a form. Each form is made when the
// first request asks for it. The parameter "pk_path" selects plain paths, as on the reference; other parameters have no
// effect.
func (a *API) documents() func(encode func(*openapi.Document) (*encodedDocument, error)) handler {
	return func(encode func(*openapi.Document) (*encodedDocument, error)) handler {
		form := func(f documentForm) func() (*encodedDocument, error) {
			return sync.OnceValues(func() (*encodedDocument, error) {
				return encode(a.document(f))
			})
		}
		hrefs, plain := form(documentForm{}), form(documentForm{plainPaths: true})
		return func(req *request) (reply.Reply, error) {
			read := hrefs
			if req.query.Has("pk_path") {
				read = plain
			}
			d, err := read()
			if err != nil {
				return reply.Reply{}, err
			}
			return d.reply(req.Request), nil
		}
	}
}

// reply returns the response to a request, which is 304 for a client that has the document already.
func (d *encodedDocument) reply(r *http.Request) reply.Reply {
	h := http.Header{"Etag": {d.etag}, "Cache-Control": {"no-cache"}}
	if r.Header.Get("If-None-Match") == d.etag {
		return reply.Reply{Status: http.StatusNotModified, Header: h}
	}
	h.Set("Content-Type", string(d.media))
	if d.media == htmlMedia {
		h.Set("Content-Security-Policy", pagePolicy())
	}
	return reply.Reply{Status: http.StatusOK, Raw: d.text, Header: h}
}
