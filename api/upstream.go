package api

import (
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/tasks"
)

// Where the upstream is: what it has is adopted, and held against what is here. Pulp has no such calls. Tasks about it reserve it: one runs at a time.
const upstreamCollection = "upstream/"

// maxPattern bounds the pattern of names that a call is about, in bytes.
const maxPattern = 512

// drift is one difference between a repository and the upstream.
type drift struct {
	Repository string         `json:"repository"`
	Name       string         `json:"repository_name"`
	Kind       string         `json:"kind"` // tag, manifest, blob
	Unit       string         `json:"name"` // of the tag; the digest of the others
	Here       *digest.Digest `json:"here"`
	Upstream   *digest.Digest `json:"upstream"`
	Note       string         `json:"note"` // what becomes of it
	Found      stamp          `json:"found_at"`
}

func (a *API) upstreamRoutes() []route {
	return []route{
		{path: upstreamCollection + "adopt/", methods: post(a.adopt)},
		{path: upstreamCollection + "compare/", methods: post(a.compareUpstream)},
		{path: upstreamCollection + "drift/", methods: get(a.drift)},
	}
}

// behind sees that there is an upstream, and that an administrator asks.
func (a *API) behind(req *request) error {
	if err := req.staff(); err != nil {
		return err
	}
	if !a.Upstream {
		return fault.New(fault.NotFound, "There is no upstream registry.")
	}
	return nil
}

// adopt has a task adopt what the upstream has under the names that match a pattern.
func (a *API) adopt(req *request) (answer, error) {
	if err := a.behind(req); err != nil {
		return answer{}, err
	}
	b, err := req.body()
	if err != nil {
		return answer{}, err
	}
	pattern := readPattern(b, true)
	if err := b.finish(); err != nil {
		return answer{}, err
	}
	return a.dispatch(req, "adopt", pulp.Root+upstreamCollection, tasks.AdoptSpec(pattern, ""))
}

// compareUpstream has a task write down in what repositories and the upstream differ; nothing changes.
func (a *API) compareUpstream(req *request) (answer, error) {
	if err := a.behind(req); err != nil {
		return answer{}, err
	}
	b, err := req.body()
	if err != nil {
		return answer{}, err
	}
	pattern, deep := readPattern(b, false), b.flag("deep")
	if err := b.finish(); err != nil {
		return answer{}, err
	}
	return a.dispatch(req, "compare", pulp.Root+upstreamCollection, tasks.CompareSpec(pattern, deep != nil && *deep, ""))
}

func readPattern(b *body, required bool) string {
	text := b.text("pattern", required, false).Value
	if text == nil {
		return "*"
	}
	if len(b.errs["pattern"]) > 0 {
		return ""
	}
	if len(*text) > maxPattern || !pulp.ValidName(strings.Trim(strings.ReplaceAll(*text, "*", "x"), "/")) {
		b.fail("pattern", "Not the name of a repository, nor a pattern of names with *.")
	}
	return *text
}

// drift lists in what repositories and the upstream differed when they were last compared.
func (a *API) drift(req *request) (answer, error) {
	if err := a.behind(req); err != nil {
		return answer{}, err
	}
	limit, offset := window(req.query)
	found, count, err := a.Store.Drifts(req.Context(), limit, offset)
	if err != nil {
		return answer{}, err
	}
	shown := make([]any, len(found))
	for i, d := range found {
		shown[i] = drift{
			Repository: pulp.RepositoryHref(d.Type, d.RepositoryID), Name: d.Repository, Kind: d.Kind, Unit: d.Name,
			Here: orNull(d.Here), Upstream: orNull(d.Upstream), Note: d.Note, Found: stamp(d.Found),
		}
	}
	next, previous := links(req.Request, req.query, count, limit, offset)
	return ok(page{count, next, previous, shown}), nil
}

func orNull(d digest.Digest) *digest.Digest {
	if d == "" {
		return nil
	}
	return &d
}
