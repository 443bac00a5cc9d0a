package api

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"math"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/net/http/httpguts"

	"github.com/countersign/countersign/internal/auth"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store"
	"github.com/countersign/countersign/tasks"
)

// baseRemote are the fields that remotes of every type have (contract 2.6).
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
	TokenHosts   []string `json:"token_hosts,omitempty"` // ours: Pulp has no such field
}

// hiddenField says that a field that is never shown is set.
type hiddenField struct {
	Name  string `json:"name"`
	IsSet bool   `json:"is_set"`
}

func showBaseRemote(r pulp.Remote) baseRemote {
	c, s := r.Connection, r.Secrets
	return baseRemote{
		object: objectOf(pulp.RemoteCollection, r.ID, r.Stamps), Name: r.Name, URL: r.URL, Labels: labelsOf(r.Labels), Policy: r.Policy,
		Hidden: []hiddenField{
			{"client_key", s.ClientKey != nil}, {"proxy_username", s.ProxyUsername != nil}, {"proxy_password", s.ProxyPassword != nil},
			{"username", s.Username != nil}, {"password", s.Password != nil}, {"include_tags", false}, {"exclude_tags", false},
		},
		CACert: c.CACert, ClientCert: c.ClientCert, TLSValidation: c.TLSValidation, ProxyURL: c.ProxyURL, MaxRetries: c.MaxRetries,
		TotalTimeout: c.TotalTimeout, ConnectTimeout: c.ConnectTimeout, SockConnectTimeout: c.SockConnectTimeout, SockReadTimeout: c.SockReadTimeout,
		Headers: c.Headers, Concurrency: c.DownloadConcurrency, RateLimit: c.RateLimit,
	}
}

func showRemote(r pulp.Remote) any {
	return remote{showBaseRemote(r), r.UpstreamName, r.Includes, r.Excludes, r.Sigstore, r.Connection.TokenHosts}
}

var remoteOrderings = []string{"name", "url", "policy"}

func remoteFilters() filters {
	return filterSets(identity(), names(), labelSelect(), dates("pulp_last_updated"))
}

func (a *API) remotes() resource[pulp.Remote] {
	return resource[pulp.Remote]{
		model: "ContainerRemote", list: store.RemoteList, show: each(showRemote), within: visible,
		orderings: append([]string{"upstream_name", "sigstore"}, remoteOrderings...), filters: remoteFilters(),
	}
}

// anyRemotes are those of every type, with the fields that all have.
func (a *API) anyRemotes() resource[pulp.Remote] {
	return resource[pulp.Remote]{
		model: "Remote", list: store.RemoteList, within: visible, orderings: remoteOrderings, filters: remoteFilters(),
		show: each(func(r pulp.Remote) any { return showBaseRemote(r) }),
	}
}

func (a *API) remoteRoutes() []route {
	r := a.remotes()
	return slices.Concat([]route{
		{path: "remotes/", methods: get(listOf(a, a.anyRemotes()))},
		{path: pulp.RemoteCollection, methods: map[string]handler{http.MethodGet: listOf(a, r), http.MethodPost: a.createRemote}},
		{path: pulp.RemoteCollection + ":id/", methods: map[string]handler{
			http.MethodGet: readOf(a, r), http.MethodPut: a.editRemote(true), http.MethodPatch: a.editRemote(false), http.MethodDelete: a.deleteRemote,
		}},
	}, labelRoutes(a, pulp.RemoteCollection, a.permittedRemote))
}

// mayOwn says whether the caller may make or change an object of this name: their own namespace's, unless they are staff.
func mayOwn(req *request, name string) bool {
	return auth.Allow(req.user, auth.Modify, auth.Object{Path: name})
}

// permittedRemote finds the remote that the path names and sees that the caller may change it.
func (a *API) permittedRemote(req *request) (pulp.Remote, error) {
	r, err := one(a, a.remotes(), req)
	if err == nil && !mayOwn(req, r.Name) {
		err = errDenied
	}
	return r, err
}

func (a *API) createRemote(req *request) (answer, error) {
	b, err := req.body()
	if err != nil {
		return answer{}, err
	}
	none := pulp.Remote{Policy: pulp.Immediate, Connection: pulp.Connection{TLSValidation: true}}
	fields := readRemote(b, none, true)
	if fields.Name != nil && len(b.errs["name"]) == 0 && !mayOwn(req, *fields.Name) {
		return answer{}, errDenied
	}
	if err := a.finishRemote(req, b, none, fields); err != nil {
		return answer{}, err
	}
	r := none
	fields.Apply(&r)
	if r, err = a.Store.CreateRemote(req.Context(), r); err != nil {
		return answer{}, err
	}
	return created(req, "create remote", showRemote(r), pulp.Href(pulp.RemoteCollection, r.ID)), nil
}

// created is the answer to an object that was made at once.
func created(req *request, action string, shown any, href string) answer {
	req.audit(action, href)
	return answer{status: http.StatusCreated, body: shown, header: http.Header{"Location": {href}}}
}

func (a *API) editRemote(whole bool) handler {
	return func(req *request) (answer, error) {
		r, err := a.permittedRemote(req)
		if err != nil {
			return answer{}, err
		}
		b, err := req.body()
		if err != nil {
			return answer{}, err
		}
		fields := readRemote(b, r, whole)
		if fields.Name != nil && len(b.errs["name"]) == 0 && !mayOwn(req, *fields.Name) {
			return answer{}, errDenied
		}
		if err := a.finishRemote(req, b, r, fields); err != nil {
			return answer{}, err
		}
		if !changed(r, fields.Apply) {
			return shownOne(a.remotes(), req, r)
		}
		href := pulp.Href(pulp.RemoteCollection, r.ID)
		return a.dispatch(req, "edit remote", href, tasks.Spec{
			Name: tasks.Edit, Args: tasks.EditArgs{Collection: pulp.RemoteCollection, ID: r.ID, Remote: &fields},
			Resources: []store.Resource{{Href: href, Exclusive: true}}, Immediate: true,
		})
	}
}

// finishRemote sees, last of all, that no other remote has the name.
func (a *API) finishRemote(req *request, b *body, old pulp.Remote, fields tasks.RemoteFields) error {
	if fields.Name != nil && *fields.Name != old.Name && len(b.errs["name"]) == 0 {
		taken, _, err := a.Store.Remotes(req.Context(), store.ListQuery{Where: []store.Filter{store.Where("name", store.Equal, *fields.Name)}, Limit: 1})
		if err != nil {
			return err
		}
		if len(taken) > 0 {
			b.fail("name", "This field must be unique.")
		}
	}
	return b.finish()
}

// changed says whether applying an edit to an object makes it another.
func changed[T any](object T, apply func(*T)) bool {
	edited := object
	apply(&edited)
	return !reflect.DeepEqual(object, edited)
}

func (a *API) deleteRemote(req *request) (answer, error) {
	r, err := a.permittedRemote(req)
	if err != nil {
		return answer{}, err
	}
	return a.deleteObject(req, "delete remote", pulp.RemoteCollection, r.ID)
}

// deleteObject has a task delete an object that it alone is about.
func (a *API) deleteObject(req *request, action, collection, id string) (answer, error) {
	href := pulp.Href(collection, id)
	return a.dispatch(req, action, href, tasks.Spec{
		Name: tasks.Delete, Args: tasks.ObjectArgs{Collection: collection, ID: id}, Resources: []store.Resource{{Href: href, Exclusive: true}}, Immediate: true,
	})
}

// readRemote reads and checks the fields of a remote; those that the body lacks stay as they are in old. whole is whether the required ones must be there.
func readRemote(b *body, old pulp.Remote, whole bool) tasks.RemoteFields {
	b.ignore("hidden_fields")
	f := tasks.RemoteFields{
		Name: b.text("name", whole, false).Value, URL: b.remoteURL(whole), UpstreamName: b.text("upstream_name", whole, false).Value,
		Includes: b.optionalTexts("includes"), Excludes: b.optionalTexts("excludes"), Sigstore: b.webURL("sigstore"), Labels: b.labels("pulp_labels"),
		CACert: b.certificate("ca_cert"), ClientCert: b.certificate("client_cert"), ClientKey: b.privateKey("client_key"),
		TLSValidation: b.flag("tls_validation"), ProxyURL: b.webURL("proxy_url"),
		MaxRetries: b.number("max_retries", 0), DownloadConcurrency: b.count("download_concurrency"), RateLimit: b.count("rate_limit"),
		TotalTimeout: b.duration("total_timeout"), ConnectTimeout: b.duration("connect_timeout"),
		SockConnectTimeout: b.duration("sock_connect_timeout"), SockReadTimeout: b.duration("sock_read_timeout"), Headers: b.headers("headers"),
		TokenHosts: b.tokenHosts("token_hosts"),
		Username:   b.secret("username"), Password: b.secret("password"), ProxyUsername: b.secret("proxy_username"), ProxyPassword: b.secret("proxy_password"),
	}
	if v := b.text("policy", false, false).Value; v != nil {
		p := pulp.Policy(*v)
		if p != pulp.Immediate && p != pulp.OnDemand && p != pulp.Streamed {
			b.fail("policy", "\"%s\" is not a valid choice.", *v)
		}
		f.Policy = &p
	}
	// The older names of these fields add to what is there (contract 2.6).
	f.Includes = appendTexts(f.Includes, b.optionalTexts("include_tags"), old.Includes)
	f.Excludes = appendTexts(f.Excludes, b.optionalTexts("exclude_tags"), old.Excludes)
	after := old
	f.Apply(&after)
	if cert, key := after.Connection.ClientCert, after.Secrets.ClientKey; cert != nil && key != nil && (f.ClientCert.Set || f.ClientKey.Set) && len(b.errs["client_cert"])+len(b.errs["client_key"]) == 0 {
		if _, err := tls.X509KeyPair([]byte(*cert), []byte(*key)); err != nil {
			b.fail("client_key", "The key is not the one of client_cert.")
		}
	}
	return f
}

// appendTexts adds texts to a list: the one that the body has, or else what was there.
func appendTexts(list, more tasks.Optional[[]string], old []string) tasks.Optional[[]string] {
	if more.Value == nil {
		return list
	}
	if !list.Set {
		list = tasks.Optional[[]string]{Set: true, Value: &old}
	}
	all := []string{}
	if list.Value != nil {
		all = append(all, *list.Value...)
	}
	for _, t := range *more.Value {
		if !slices.Contains(all, t) {
			all = append(all, t)
		}
	}
	return tasks.Optional[[]string]{Set: true, Value: &all}
}

// remoteURL reads where a remote is. It may not hold credentials: those have fields that nobody is shown.
func (b *body) remoteURL(required bool) *string {
	v := b.text("url", required, false).Value
	if v == nil || len(b.errs["url"]) > 0 {
		return v
	}
	u, err := url.Parse(*v)
	switch {
	case err == nil && u.User != nil:
		b.fail("url", "The remote url contains username or password. Please use remote username or password instead.")
	case err != nil || u.Hostname() == "" || u.Scheme != "http" && u.Scheme != "https":
		b.fail("url", "Enter a valid URL.")
	}
	return v
}

// webURL reads an http or https URL without credentials, which may be null.
func (b *body) webURL(name string) tasks.Optional[string] {
	v := b.text(name, false, true)
	if v.Value == nil || len(b.errs[name]) > 0 {
		return v
	}
	if u, err := url.Parse(*v.Value); err != nil || u.Hostname() == "" || u.Scheme != "http" && u.Scheme != "https" || u.User != nil {
		b.fail(name, "Enter a valid URL.")
	}
	return v
}

// certificate reads certificates in PEM, which may be null. Everybody who sees the remote is shown them: nothing else may be among them, and above all no key.
func (b *body) certificate(name string) tasks.Optional[string] {
	v := b.text(name, false, true)
	if v.Value == nil || len(b.errs[name]) > 0 {
		return v
	}
	block, rest := pem.Decode([]byte(*v.Value))
	if block == nil {
		b.fail(name, "No certificate in PEM was found.")
	}
	for ; block != nil; block, rest = pem.Decode(rest) {
		if _, err := x509.ParseCertificate(block.Bytes); err != nil || block.Type != "CERTIFICATE" {
			b.fail(name, "The certificate cannot be read.")
			return v
		}
	}
	if strings.Contains(*v.Value, "PRIVATE KEY") && len(b.errs[name]) == 0 { // a block that is cut short is none to the decoder
		b.fail(name, "The certificate cannot be read.")
	}
	return v
}

// privateKey reads an unencrypted private key in PEM, which may be null and is never shown.
func (b *body) privateKey(name string) tasks.Optional[string] {
	v := b.secret(name)
	if v.Value == nil || len(b.errs[name]) > 0 {
		return v
	}
	for block, rest := pem.Decode([]byte(*v.Value)); block != nil; block, rest = pem.Decode(rest) {
		_, pkcs8 := x509.ParsePKCS8PrivateKey(block.Bytes)
		_, pkcs1 := x509.ParsePKCS1PrivateKey(block.Bytes)
		_, ec := x509.ParseECPrivateKey(block.Bytes)
		if pkcs8 == nil || pkcs1 == nil || ec == nil {
			return v
		}
	}
	b.fail(name, "No unencrypted private key in PEM was found.")
	return v
}

// maxTokenHosts is how many token services a remote may name.
const maxTokenHosts = 20

// tokenHosts reads a list of host[:port], which may be null.
func (b *body) tokenHosts(name string) tasks.Optional[[]string] {
	v := b.optionalTexts(name)
	if v.Value == nil || len(b.errs[name]) > 0 {
		return v
	}
	if len(*v.Value) > maxTokenHosts {
		b.fail(name, "Ensure this field has no more than %d elements.", maxTokenHosts)
	}
	for _, host := range *v.Value {
		if !pulp.ValidTokenHost(host) {
			b.fail(name, "Enter host or host:port of a token service, without a scheme.")
			break
		}
	}
	return v
}

// secret reads a text that is never shown, exactly as it is. It may be null; blank is null too, as in forms.
func (b *body) secret(name string) tasks.Optional[string] {
	v, set := b.value(name, false)
	if !set || v == nil || v == "" {
		return tasks.Optional[string]{Set: set}
	}
	s, ok := v.(string)
	switch {
	case !ok:
		b.fail(name, "Not a valid string.")
	case strings.ContainsRune(s, 0):
		b.fail(name, nullCharacters)
	}
	return tasks.Optional[string]{Set: true, Value: &s}
}

// duration reads seconds, which may be null.
func (b *body) duration(name string) tasks.Optional[float64] {
	v, set := b.value(name, false)
	if !set || v == nil || v == "" {
		return tasks.Optional[float64]{Set: set}
	}
	var n float64
	var err error
	switch t := v.(type) {
	case json.Number:
		n, err = t.Float64()
	case string:
		n, err = strconv.ParseFloat(strings.TrimSpace(t), 64)
	default:
		err = strconv.ErrSyntax
	}
	switch {
	case err != nil || math.IsNaN(n) || math.IsInf(n, 0):
		b.fail(name, "A valid number is required.")
	case n < 0:
		b.fail(name, "Ensure this value is greater than or equal to 0.0.")
	}
	return tasks.Optional[float64]{Set: true, Value: &n}
}

// headers reads a list of objects of texts, which may be null: headers that requests to a remote carry.
func (b *body) headers(name string) tasks.Optional[[]map[string]string] {
	v, set := b.value(name, true)
	if !set || v == nil {
		return tasks.Optional[[]map[string]string]{Set: set}
	}
	list, ok := v.([]any)
	if !ok {
		b.fail(name, "Expected a list of items but got type \"%s\".", pythonType(v))
	}
	all := make([]map[string]string, 0, len(list))
	for _, item := range list {
		object, ok := item.(map[string]any)
		if !ok {
			b.fail(name, "Expected a dictionary of items but got type \"%s\".", pythonType(item))
			continue
		}
		one := make(map[string]string, len(object))
		for key, value := range object {
			s, ok := value.(string)
			if !ok || !httpguts.ValidHeaderFieldName(key) || !httpguts.ValidHeaderFieldValue(s) {
				b.fail(name, "Not a valid string.")
			}
			one[key] = s
		}
		all = append(all, one)
	}
	return tasks.Optional[[]map[string]string]{Set: true, Value: &all}
}
