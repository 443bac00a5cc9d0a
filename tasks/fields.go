package tasks

import (
	"encoding/json"

	"github.com/countersign/countersign/internal/pulp"
)

// Optional is a JSON value that distinguishes absent from null.
type Optional[T any] struct {
	Set   bool
	Value *T // nil: null
}

// MarshalJSON implements json.Marshaler.
func (o Optional[T]) MarshalJSON() ([]byte, error) { return json.Marshal(o.Value) }

// UnmarshalJSON implements json.Unmarshaler. It is called only for a value that is present, null included.
func (o *Optional[T]) UnmarshalJSON(b []byte) error {
	o.Set = true
	return json.Unmarshal(b, &o.Value)
}

// set assigns o's value to *to if it is present.
func (o Optional[T]) set(to **T) {
	if o.Set {
		*to = o.Value
	}
}

// put assigns *v to *to if v is not nil.
func put[T any](to *T, v *T) {
	if v != nil {
		*to = *v
	}
}

// RepositoryFields are new values of a repository's fields. Absent fields keep their values.
type RepositoryFields struct {
	Name               *string             `json:"name,omitempty"`
	Description        Optional[string]    `json:"description,omitzero"`
	Labels             *map[string]*string `json:"labels,omitempty"`
	RetainRepoVersions Optional[int64]     `json:"retain_repo_versions,omitzero"`
	SigningServiceID   *string             `json:"signing_service,omitempty"`  // empty: no service
	SigningAssigned    *pulp.Assigner      `json:"signing_assigned,omitempty"` // the kind of assigner of SigningServiceID
	SignOnPush         *bool               `json:"sign_on_push,omitempty"`
	RemoteID           *string             `json:"remote,omitempty"` // empty: no remote
	AllowShrink        *bool               `json:"allow_shrink,omitempty"`
}

// DistributionFields are new values of a distribution's fields. Absent fields keep their values.
type DistributionFields struct {
	Name         *string                      `json:"name,omitempty"`
	BasePath     *string                      `json:"base_path,omitempty"`
	RepositoryID *string                      `json:"repository,omitempty"` // empty: no repository
	Version      Optional[pulp.PinnedVersion] `json:"repository_version,omitzero"`
	RemoteID     *string                      `json:"remote,omitempty"` // of a pull-through distribution
	Private      *bool                        `json:"private,omitempty"`
	Hidden       *bool                        `json:"hidden,omitempty"`
	Description  Optional[string]             `json:"description,omitzero"`
	Labels       *map[string]*string          `json:"labels,omitempty"`
}

// RemoteFields are new values of a remote's fields. Absent fields keep their values.
type RemoteFields struct {
	Name                *string                       `json:"name,omitempty"`
	URL                 *string                       `json:"url,omitempty"`
	UpstreamName        *string                       `json:"upstream_name,omitempty"`
	Policy              *pulp.Policy                  `json:"policy,omitempty"`
	Includes            Optional[[]string]            `json:"includes,omitzero"`
	Excludes            Optional[[]string]            `json:"excludes,omitzero"`
	Sigstore            Optional[string]              `json:"sigstore,omitzero"`
	CACert              Optional[string]              `json:"ca_cert,omitzero"`
	ClientCert          Optional[string]              `json:"client_cert,omitzero"`
	TLSValidation       *bool                         `json:"tls_validation,omitempty"`
	ProxyURL            Optional[string]              `json:"proxy_url,omitzero"`
	MaxRetries          Optional[int64]               `json:"max_retries,omitzero"`
	TotalTimeout        Optional[float64]             `json:"total_timeout,omitzero"`
	ConnectTimeout      Optional[float64]             `json:"connect_timeout,omitzero"`
	SockConnectTimeout  Optional[float64]             `json:"sock_connect_timeout,omitzero"`
	SockReadTimeout     Optional[float64]             `json:"sock_read_timeout,omitzero"`
	Headers             Optional[[]map[string]string] `json:"headers,omitzero"`
	DownloadConcurrency Optional[int64]               `json:"download_concurrency,omitzero"`
	RateLimit           Optional[int64]               `json:"rate_limit,omitzero"`
	TokenHosts          Optional[[]string]            `json:"token_hosts,omitzero"`
	Labels              *map[string]*string           `json:"labels,omitempty"`
	Username            Optional[string]              `json:"username,omitzero"`
	Password            Optional[string]              `json:"password,omitzero"`
	ClientKey           Optional[string]              `json:"client_key,omitzero"`
	ProxyUsername       Optional[string]              `json:"proxy_username,omitzero"`
	ProxyPassword       Optional[string]              `json:"proxy_password,omitzero"`
}

// Apply assigns the present fields to a repository.
func (f RepositoryFields) Apply(r *pulp.Repository) {
	put(&r.Name, f.Name)
	f.Description.set(&r.Description)
	put((*map[string]*string)(&r.Labels), f.Labels)
	f.RetainRepoVersions.set(&r.RetainRepoVersions)
	put(&r.SigningServiceID, f.SigningServiceID)
	put(&r.SigningAssigned, f.SigningAssigned)
	put(&r.SignOnPush, f.SignOnPush)
	put(&r.RemoteID, f.RemoteID)
	put(&r.AllowShrink, f.AllowShrink)
}

// Apply assigns the present fields to a distribution.
func (f DistributionFields) Apply(d *pulp.Distribution) {
	put(&d.Name, f.Name)
	put(&d.BasePath, f.BasePath)
	put(&d.RepositoryID, f.RepositoryID)
	f.Version.set(&d.Pinned)
	put(&d.RemoteID, f.RemoteID)
	put(&d.Private, f.Private)
	put(&d.Hidden, f.Hidden)
	f.Description.set(&d.Description)
	put((*map[string]*string)(&d.Labels), f.Labels)
}

// Apply assigns the present fields to a remote. Stored credentials that another host would receive are removed, unless
// the fields have new ones: see pulp.Remote.KeepsPassword.
func (f RemoteFields) Apply(r *pulp.Remote) {
	old := *r
	put(&r.Name, f.Name)
	put(&r.URL, f.URL)
	put(&r.UpstreamName, f.UpstreamName)
	put(&r.Policy, f.Policy)
	setList(&r.Includes, f.Includes)
	setList(&r.Excludes, f.Excludes)
	f.Sigstore.set(&r.Sigstore)
	put((*map[string]*string)(&r.Labels), f.Labels)
	c, s := &r.Connection, &r.Secrets
	f.CACert.set(&c.CACert)
	f.ClientCert.set(&c.ClientCert)
	put(&c.TLSValidation, f.TLSValidation)
	f.ProxyURL.set(&c.ProxyURL)
	f.MaxRetries.set(&c.MaxRetries)
	f.TotalTimeout.set(&c.TotalTimeout)
	f.ConnectTimeout.set(&c.ConnectTimeout)
	f.SockConnectTimeout.set(&c.SockConnectTimeout)
	f.SockReadTimeout.set(&c.SockReadTimeout)
	setList(&c.Headers, f.Headers)
	f.DownloadConcurrency.set(&c.DownloadConcurrency)
	f.RateLimit.set(&c.RateLimit)
	if setList(&c.TokenHosts, f.TokenHosts); len(c.TokenHosts) == 0 { // an empty list is stored as null
		c.TokenHosts = nil
	}
	if !r.KeepsPassword(old) {
		s.Username, s.Password = nil, nil
	}
	if !r.KeepsProxyPassword(old) {
		s.ProxyUsername, s.ProxyPassword = nil, nil
	}
	f.Username.set(&s.Username)
	f.Password.set(&s.Password)
	f.ClientKey.set(&s.ClientKey)
	f.ProxyUsername.set(&s.ProxyUsername)
	f.ProxyPassword.set(&s.ProxyPassword)
}

// setList assigns o's list to *to if it is present; null becomes nil.
func setList[T any](to *[]T, o Optional[[]T]) {
	switch {
	case !o.Set:
	case o.Value == nil:
		*to = nil
	default:
		*to = *o.Value
	}
}
