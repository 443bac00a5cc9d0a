package api

import (
	"net/http"
	"reflect"
	"slices"

	"github.com/countersign/countersign/api/internal/body"
	"github.com/countersign/countersign/api/internal/reply"
	"github.com/countersign/countersign/internal/access"
	"github.com/countersign/countersign/internal/pulp"
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
	Headers            []map[string]string `json:"headers"`
	Concurrency        *int64              `json:"download_concurrency"`
	RateLimit          *int64              `json:"rate_limit"`
}

type remote struct {
	baseRemote
	UpstreamName string   `json:"upstream_name"`
	Includes     []string `json:"includes"`
	Excludes     []string `json:"excludes"`
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
	return baseRemote{
		object: objectOf(pulp.RemoteCollection, r.ID, r.Stamps),
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
			{"include_tags", false},
			{"exclude_tags", false},
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
		model: "Remote", form: baseRemote{}, list: list.RemoteList, within: a.visible, orderings: remoteOrderings, filters: remoteFilters(),
		show: showEach(func(r pulp.Remote) any { return showBaseRemote(r) }),
	}
}

func (a *API) remoteRoutes() []route {
	r := a.remotes()
	return slices.Concat([]route{
		{path: "remotes/", methods: get(listOf(a, a.anyRemotes()))},
		{path: pulp.RemoteCollection, methods: map[string]operation{
			http.MethodGet: listOf(a, r), http.MethodPost: create(a.createRemote, remoteFields, r.creates()),
		}},
		{path: pulp.RemoteCollection + ":id/", href: "container_container_remote_href", methods: map[string]operation{
			http.MethodGet: readOf(a, r), http.MethodDelete: remove(a.deleteRemote, startsTask),
			http.MethodPut:   update(a.editRemote(true), remoteFields, r.edits()),
			http.MethodPatch: partialUpdate(a.editRemote(false), remoteFields, r.edits()),
		}},
	}, labelRoutes(a, pulp.RemoteCollection, a.permittedRemote))
}

// permittedRemote returns the remote that the path names, if the caller may change it.
func (a *API) permittedRemote(req *request) (pulp.Remote, error) {
	return permitted(a, a.remotes(), req, access.Change)
}

// requireNewRemote returns an error unless the caller may create a remote with a new name.
func (a *API) requireNewRemote(req *request, b *body.Fields, name *string, old string) error {
	if name == nil || *name == old || !b.Valid("name") {
		return nil
	}
	return a.require(req, access.Create, access.Object{Kind: access.Remote, Name: *name}, "")
}

// createRemote creates a remote without a task.
func (a *API) createRemote(req *request) (reply.Reply, error) {
	b, err := body.Read(req.Request)
	if err != nil {
		return reply.Reply{}, err
	}
	none := pulp.Remote{Policy: pulp.Immediate, Connection: pulp.Connection{TLSValidation: true}}
	fields := readRemote(b, none, true)
	if err := a.requireNewRemote(req, b, fields.Name, ""); err != nil {
		return reply.Reply{}, err
	}
	if err := a.finishRemote(req, b, none, fields); err != nil {
		return reply.Reply{}, err
	}
	r := none
	fields.Apply(&r)
	if r, err = a.Store.Catalog.CreateRemote(req.Context(), r, req.caller.Owner()); err != nil {
		return reply.Reply{}, err
	}
	return created(req, "create remote", showRemote(r), pulp.Href(pulp.RemoteCollection, r.ID)), nil
}

// editRemote returns the handler of PATCH or, when whole, of PUT, which requires name, url and upstream_name. It
// starts a task unless nothing changes.
func (a *API) editRemote(whole bool) handler {
	return func(req *request) (reply.Reply, error) {
		r, err := a.permittedRemote(req)
		if err != nil {
			return reply.Reply{}, err
		}
		b, err := body.Read(req.Request)
		if err != nil {
			return reply.Reply{}, err
		}
		fields := readRemote(b, r, whole)
		if err := a.requireNewRemote(req, b, fields.Name, r.Name); err != nil {
			return reply.Reply{}, err
		}
		if err := a.finishRemote(req, b, r, fields); err != nil {
			return reply.Reply{}, err
		}
		if !changed(r, fields.Apply) {
			return showOne(a.remotes(), req, r)
		}
		href := pulp.Href(pulp.RemoteCollection, r.ID)
		return a.dispatch(req, "edit remote", href, tasks.Spec{
			Name: tasks.Edit, Args: tasks.EditArgs{Collection: pulp.RemoteCollection, ID: r.ID, Remote: &fields},
			Resources: []taskstore.Resource{{Href: href, Exclusive: true}}, Immediate: true,
		})
	}
}

// finishRemote finishes the body of a remote after checking that no other remote has its name.
func (a *API) finishRemote(req *request, b *body.Fields, old pulp.Remote, fields tasks.RemoteFields) error {
	if fields.Name != nil && *fields.Name != old.Name && b.Valid("name") {
		taken, _, err := a.Store.Lists.Remotes(req.Context(), list.Query{
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

func (a *API) deleteRemote(req *request) (reply.Reply, error) {
	r, err := permitted(a, a.remotes(), req, access.Delete)
	if err != nil {
		return reply.Reply{}, err
	}
	return a.deleteObject(req, "delete remote", pulp.RemoteCollection, r.ID)
}
