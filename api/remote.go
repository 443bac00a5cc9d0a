package api

import (
	"context"
	"net/http"
	"reflect"
	"slices"

	"github.com/countersign/countersign/api/internal/body"
	"github.com/countersign/countersign/api/internal/reply"
	"github.com/countersign/countersign/internal/access"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/catalog"
	"github.com/countersign/countersign/internal/store/list"
	"github.com/countersign/countersign/internal/store/taskstore"
	"github.com/countersign/countersign/tasks"
)

// baseRemote holds the fields of remotes of every type (compatibility.md#remotes).
type baseRemote struct {
	object
	Name               string              `json:"name"`
	URL                string              `json:"url"`
	Labels             pulp.Labels         `json:"pulp_labels"`
	Policy             pulp.Policy         `json:"policy"`
	Hidden             []hiddenField       `json:"hidden_fields"`
	CACert             *string             `json:"ca_cert"`
	ClientCert         *string             `json:"client_cert"`
	TLSValidation      bool                `json:"tls_validation"`
	ProxyURL           *string             `json:"proxy_url"`
	MaxRetries         *int64              `json:"max_retries"`
	TotalTimeout       *float64            `json:"total_timeout"`
	ConnectTimeout     *float64            `json:"connect_timeout"`
	SockConnectTimeout *float64            `json:"sock_connect_timeout"`
	SockReadTimeout    *float64            `json:"sock_read_timeout"`
	Headers            []map[string]string `json:"headers" openapi:"nullable"`
	Concurrency        *int64              `json:"download_concurrency"`
	RateLimit          *int64              `json:"rate_limit"`
}

type remote struct {
	baseRemote
	UpstreamName string   `json:"upstream_name"`
	Includes     []string `json:"includes" openapi:"nullable"`
	Excludes     []string `json:"excludes" openapi:"nullable"`
	Sigstore     *string  `json:"sigstore"`
	TokenHosts   []string `json:"token_hosts,omitempty"` // a field of our own
}

// hiddenField reports whether a field that is never shown is set.
type hiddenField struct {
	Name  string `json:"name"`
	IsSet bool   `json:"is_set"`
}

func showBaseRemote(r pulp.Remote) baseRemote {
	c, s := r.Connection, r.Secrets
	v := baseRemote{
		object: objectOf(r.Collection(), r.ID, r.Stamps),
		Name:   r.Name,
		URL:    r.URL,
		Labels: labelsOf(r.Labels),
		Policy: r.Policy,
		Hidden: []hiddenField{
			{"client_key", s.ClientKey != nil},
			{"proxy_username", s.ProxyUsername != nil},
			{"proxy_password", s.ProxyPassword != nil},
			{"username", s.Username != nil},
			{"password", s.Password != nil},
		},
		CACert:             c.CACert,
		ClientCert:         c.ClientCert,
		TLSValidation:      c.TLSValidation,
		ProxyURL:           c.ProxyURL,
		MaxRetries:         c.MaxRetries,
		TotalTimeout:       c.TotalTimeout,
		ConnectTimeout:     c.ConnectTimeout,
		SockConnectTimeout: c.SockConnectTimeout,
		SockReadTimeout:    c.SockReadTimeout,
		Headers:            c.Headers,
		Concurrency:        c.DownloadConcurrency,
		RateLimit:          c.RateLimit,
	}
	if !r.PullThrough {
		v.Hidden = append(v.Hidden, hiddenField{"include_tags", false}, hiddenField{"exclude_tags", false})
	}
	return v
}

func showRemote(r pulp.Remote) any {
	return remote{showBaseRemote(r), r.UpstreamName, r.Includes, r.Excludes, r.Sigstore, r.Connection.TokenHosts}
}

var remoteOrderings = []string{"name", "url", "policy"}

func remoteFilters() filters {
	return mergeFilters(identityFilters(), nameFilters(), labelFilters(), dateFilters("pulp_last_updated"))
}

func (a *API) remotes() resource[pulp.Remote] {
	return resource[pulp.Remote]{
		model: "ContainerRemote", form: remote{}, list: list.RemoteList, show: showEach(showRemote), within: a.visible,
		orderings: append([]string{"upstream_name", "sigstore"}, remoteOrderings...), filters: remoteFilters(),
		object: func(r pulp.Remote) (access.Object, string) { return access.OfRemote(r), r.ID },
	}
}

// anyRemotes are the remotes of all types.
func (a *API) anyRemotes() resource[pulp.Remote] {
	return resource[pulp.Remote]{
		model: "Remote", form: baseRemote{}, list: list.AnyRemoteList, within: a.visible, orderings: remoteOrderings, filters: remoteFilters(),
		show: showEach(func(r pulp.Remote) any { return showBaseRemote(r) }),
	}
}

// remoteKind is a kind of remotes.
type remoteKind struct {
	resource func() resource[pulp.Remote]
	href     string      // name of the variable for hrefs in the OpenAPI document
	none     pulp.Remote // the defaults of a new remote
	form     body.Form
	// read reads and checks the fields of a remote. Fields that the body lacks keep their values in old; when whole, the
	// required ones must be present.
	read   func(b *body.Fields, old pulp.Remote, whole bool) tasks.RemoteFields
	create func(context.Context, pulp.Remote, int64) (pulp.Remote, error)
}

func (a *API) syncedRemotes() remoteKind {
	return remoteKind{
		resource: a.remotes, href: "container_container_remote_href", form: remoteFields, read: readRemote,
		create: func(ctx context.Context, r pulp.Remote, owner int64) (pulp.Remote, error) {
			return a.Store.Catalog.CreateRemote(ctx, r, owner)
		},
		none: pulp.Remote{Policy: pulp.Immediate, Connection: pulp.Connection{TLSValidation: true}},
	}
}

func (a *API) remoteRoutes() []route {
	return slices.Concat(
		[]route{{path: "remotes/", methods: get(listOf(a, a.anyRemotes()))}},
		a.remoteRoutesOf(a.syncedRemotes()),
	)
}

// remoteRoutesOf returns the routes of the remotes of one kind.
func (a *API) remoteRoutesOf(k remoteKind) []route {
	r, collection := k.resource(), k.none.Collection()
	changeable := func(req *request) (pulp.Remote, error) { return permitted(a, r, req, access.Change) }
	return slices.Concat([]route{
		{path: collection, methods: map[string]operation{
			http.MethodGet: listOf(a, r), http.MethodPost: create(a.createRemote(k), k.form, r.creates()),
		}},
		{path: collection + ":id/", href: k.href, methods: map[string]operation{
			http.MethodGet: readOf(a, r), http.MethodDelete: remove(a.deleteRemote(k), startsTask),
			http.MethodPut:   update(a.editRemote(k, true), k.form, r.edits()),
			http.MethodPatch: partialUpdate(a.editRemote(k, false), k.form, r.edits()),
		}},
	}, labelRoutes(a, collection, changeable))
}

// requireNewRemote returns an error unless the caller may create a remote of a kind with a new name.
func (a *API) requireNewRemote(req *request, k remoteKind, b *body.Fields, name *string, old string) error {
	if name == nil || *name == old || !b.Valid("name") {
		return nil
	}
	renamed := k.none
	renamed.Name = *name
	return a.require(req, access.Create, access.OfRemote(renamed), "")
}

// createRemote returns the handler that creates a remote without a task.
func (a *API) createRemote(k remoteKind) handler {
	return func(req *request) (reply.Reply, error) {
		b, err := body.Read(req.Request)
		if err != nil {
			return reply.Reply{}, err
		}
		r := k.none
		fields := k.read(b, r, true)
		if err := a.requireNewRemote(req, k, b, fields.Name, ""); err != nil {
			return reply.Reply{}, err
		}
		if err := a.finishRemote(req, k, b, r, fields); err != nil {
			return reply.Reply{}, err
		}
		fields.Apply(&r)
		if r, err = k.create(req.Context(), r, req.caller.Owner()); err != nil {
			return reply.Reply{}, err
		}
		shown, err := k.resource().show(req, []pulp.Remote{r})
		if err != nil {
			return reply.Reply{}, err
		}
		return created(req, "create remote", shown[0], pulp.Href(r.Collection(), r.ID)), nil
	}
}

// editRemote returns the handler of PATCH or, when whole, of PUT, which requires the fields that creation requires. It
// starts a task unless nothing changes.
func (a *API) editRemote(k remoteKind, whole bool) handler {
	return func(req *request) (reply.Reply, error) {
		r, err := permitted(a, k.resource(), req, access.Change)
		if err != nil {
			return reply.Reply{}, err
		}
		b, err := body.Read(req.Request)
		if err != nil {
			return reply.Reply{}, err
		}
		fields := k.read(b, r, whole)
		if err := a.requireNewRemote(req, k, b, fields.Name, r.Name); err != nil {
			return reply.Reply{}, err
		}
		if err := a.finishRemote(req, k, b, r, fields); err != nil {
			return reply.Reply{}, err
		}
		if !changed(r, fields.Apply) {
			return showOne(k.resource(), req, r)
		}
		if r.CacheID != "" && changed(r, withLabelsOf(r, fields)) {
			return reply.Reply{}, catalog.ErrCacheRemote
		}
		href := pulp.Href(r.Collection(), r.ID)
		return a.dispatch(req, "edit remote", href, tasks.Spec{
			Name: tasks.Edit, Args: tasks.EditArgs{Collection: r.Collection(), ID: r.ID, Remote: &fields},
			Resources: []taskstore.Resource{{Href: href, Exclusive: true}}, Immediate: true,
		})
	}
}

// withLabelsOf returns the edit of a remote with fields that keeps its labels.
func withLabelsOf(old pulp.Remote, fields tasks.RemoteFields) func(*pulp.Remote) {
	return func(r *pulp.Remote) {
		fields.Apply(r)
		r.Labels = old.Labels
	}
}

// finishRemote finishes the body of a remote after checking that no other remote has its name.
func (a *API) finishRemote(req *request, k remoteKind, b *body.Fields, old pulp.Remote, fields tasks.RemoteFields) error {
	if fields.Name != nil && *fields.Name != old.Name && b.Valid("name") {
		taken, _, err := k.resource().list.Rows(req.Context(), a.Store.Lists, list.Query{
			Where: []list.Filter{list.Where("name", list.Equal, *fields.Name)}, Limit: 1,
		})
		if err != nil {
			return err
		}
		if len(taken) > 0 {
			b.Fail("name", "This field must be unique.")
		}
	}
	return b.Finish()
}

// changed reports whether an edit changes an object.
func changed[T any](object T, apply func(*T)) bool {
	edited := object
	apply(&edited)
	return !reflect.DeepEqual(object, edited)
}

// deleteRemote returns the handler that deletes a remote.
func (a *API) deleteRemote(k remoteKind) handler {
	return func(req *request) (reply.Reply, error) {
		r, err := permitted(a, k.resource(), req, access.Delete)
		if err != nil {
			return reply.Reply{}, err
		}
		return a.deleteObject(req, "delete remote", r.Collection(), r.ID)
	}
}
