package api

import (
	"net/http"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/api/internal/body"
	"github.com/countersign/countersign/api/internal/query"
	"github.com/countersign/countersign/api/internal/reply"
	"github.com/countersign/countersign/api/internal/timestamp"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/tasks"
)

// upstreamCollection is the path of operations on the upstream registry, which Pulp does not have. Its href is the
// resource that their tasks reserve, so that one runs at a time.
const upstreamCollection = "upstream/"

// maxPattern is the largest length of a pattern of repository names, in bytes.
const maxPattern = 512

// drift is one difference between a repository and the upstream.
type drift struct {
	Repository string         `json:"repository"`
	Name       string         `json:"repository_name"`
	Kind       string         `json:"kind"` // tag, manifest, blob
	Unit       string         `json:"name"` // a tag's name, or the digest
	Here       *digest.Digest `json:"here"`
	Upstream   *digest.Digest `json:"upstream"`
	Note       string         `json:"note"` // Countersign's reaction
	Found      timestamp.Time `json:"found_at"`
}

func (a *API) upstreamRoutes() []route {
	return []route{
		{path: upstreamCollection + "adopt/", methods: post(upstreamTask(a.adopt, body.Form{"pattern": body.Text.Required()}))},
		{path: upstreamCollection + "compare/", methods: post(upstreamTask(a.compareUpstream, body.Form{
			"pattern": body.Text, "deep": body.Bool,
		}))},
		{path: upstreamCollection + "drift/", methods: get(operation{
			verb: "list", handle: a.drift, query: paging(), replies: replies{http.StatusOK: pageOf{drift{}}}, fails: []int{http.StatusNotFound},
		})},
	}
}

// upstreamTask returns an action that starts a task, or fails with 404 without an upstream registry.
func upstreamTask(h handler, fields body.Form) operation {
	o := action(h, fields)
	o.fails = []int{http.StatusNotFound}
	return o
}

// requireUpstream returns an error unless the caller is an administrator and there is an upstream registry.
func (a *API) requireUpstream(req *request) error {
	if err := req.requireAdministrator(); err != nil {
		return err
	}
	if !a.Upstream {
		return fault.New(fault.NotFound, "There is no upstream registry.")
	}
	return nil
}

// adopt starts a task that adopts the upstream's content in repositories whose names match a pattern.
func (a *API) adopt(req *request) (reply.Reply, error) {
	if err := a.requireUpstream(req); err != nil {
		return reply.Reply{}, err
	}
	b, err := body.Read(req.Request)
	if err != nil {
		return reply.Reply{}, err
	}
	pattern := readPattern(b, true)
	if err := b.Finish(); err != nil {
		return reply.Reply{}, err
	}
	return a.dispatch(req, "adopt", pulp.Root+upstreamCollection, tasks.AdoptSpec(pattern, ""))
}

// compareUpstream starts a task that records the differences between repositories and the upstream, and changes
// neither.
func (a *API) compareUpstream(req *request) (reply.Reply, error) {
	if err := a.requireUpstream(req); err != nil {
		return reply.Reply{}, err
	}
	b, err := body.Read(req.Request)
	if err != nil {
		return reply.Reply{}, err
	}
	pattern, deep := readPattern(b, false), b.Bool("deep")
	if err := b.Finish(); err != nil {
		return reply.Reply{}, err
	}
	return a.dispatch(req, "compare", pulp.Root+upstreamCollection, tasks.CompareSpec(pattern, deep != nil && *deep, ""))
}

// readPattern reads a pattern of repository names; "*" when it is absent.
func readPattern(b *body.Fields, required bool) string {
	text := b.Text("pattern", body.RequiredIf(required)).Value
	if text == nil {
		return "*"
	}
	if !b.Valid("pattern") {
		return ""
	}
	if len(*text) > maxPattern || !pulp.ValidName(strings.Trim(strings.ReplaceAll(*text, "*", "x"), "/")) {
		b.Fail("pattern", "Enter the name of a repository or a pattern of names with *.")
	}
	return *text
}

// drift lists the differences that the last comparison recorded.
func (a *API) drift(req *request) (reply.Reply, error) {
	if err := a.requireUpstream(req); err != nil {
		return reply.Reply{}, err
	}
	p := query.PageOf(req.query)
	found, count, err := a.Store.Upstream.Drifts(req.Context(), p.Limit, p.Offset)
	if err != nil {
		return reply.Reply{}, err
	}
	shown := make([]any, len(found))
	for i, d := range found {
		shown[i] = drift{
			Repository: pulp.RepositoryHref(d.Type, d.RepositoryID), Name: d.Repository, Kind: d.Kind, Unit: d.Name,
			Here: orNull(d.Here), Upstream: orNull(d.Upstream), Note: d.Note, Found: timestamp.Time(d.Found),
		}
	}
	next, previous := p.Links(req.Request, req.query, count)
	return reply.OK(page{count, next, previous, shown}), nil
}

// orNull returns nil for an empty digest.
func orNull(d digest.Digest) *digest.Digest {
	if d == "" {
		return nil
	}
	return &d
}
