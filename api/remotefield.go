package api

import (
	"crypto/tls"
	"net/url"
	"slices"

	"github.com/countersign/countersign/api/internal/body"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/tasks"
)

// remoteFields are the fields of the bodies of remotes.
var remoteFields = body.Form{
	"name":                 body.Text.Required(),
	"url":                  body.Text.Required(),
	"upstream_name":        body.Text.Required(),
	"policy":               body.Text.OneOf(string(pulp.Immediate), string(pulp.OnDemand), string(pulp.Streamed)),
	"includes":             body.OptionalTexts,
	"excludes":             body.OptionalTexts,
	"include_tags":         body.OptionalTexts,
	"exclude_tags":         body.OptionalTexts,
	"sigstore":             body.WebURL,
	"pulp_labels":          body.Labels,
	"ca_cert":              body.Certificate,
	"client_cert":          body.Certificate,
	"client_key":           body.PrivateKey,
	"tls_validation":       body.Bool,
	"proxy_url":            body.WebURL,
	"max_retries":          body.Int(0),
	"download_concurrency": body.Count,
	"rate_limit":           body.Count,
	"total_timeout":        body.Seconds,
	"connect_timeout":      body.Seconds,
	"sock_connect_timeout": body.Seconds,
	"sock_read_timeout":    body.Seconds,
	"headers":              body.Headers,
	"token_hosts":          body.OptionalTexts.AtMost(maxTokenHosts),
	"username":             body.Secret,
	"password":             body.Secret,
	"proxy_username":       body.Secret,
	"proxy_password":       body.Secret,
}

// readRemote reads and checks the fields of a remote. Fields that the body lacks keep their values in old; when
// whole, the required ones must be present.
func readRemote(b *body.Fields, old pulp.Remote, whole bool) tasks.RemoteFields {
	f := readBaseRemote(b, whole)
	f.UpstreamName = b.Text("upstream_name", body.RequiredIf(whole)).Value
	f.Policy = readSyncPolicy(b, pulp.Immediate, pulp.OnDemand, pulp.Streamed)
	// The older names of these fields add to the list (compatibility.md#remotes).
	f.Includes = appendTexts(f.Includes, b.OptionalTexts("include_tags"), old.Includes)
	f.Excludes = appendTexts(f.Excludes, b.OptionalTexts("exclude_tags"), old.Excludes)
	checkKeyPair(b, old, f)
	return f
}

// readSyncPolicy reads the policy of a remote, which must be one of some.
func readSyncPolicy(b *body.Fields, allowed ...pulp.Policy) *pulp.Policy {
	v := b.Text("policy").Value
	if v == nil {
		return nil
	}
	p := pulp.Policy(*v)
	if !slices.Contains(allowed, p) {
		b.Fail("policy", "\"%s\" is not a valid choice.", *v)
	}
	return &p
}

// readBaseRemote reads the fields that remotes of every kind have.
func readBaseRemote(b *body.Fields, whole bool) tasks.RemoteFields {
	b.Ignore("hidden_fields")
	return tasks.RemoteFields{
		Name:                b.Text("name", body.RequiredIf(whole)).Value,
		URL:                 readRemoteURL(b, whole),
		Includes:            b.OptionalTexts("includes"),
		Excludes:            b.OptionalTexts("excludes"),
		Sigstore:            b.WebURL("sigstore"),
		Labels:              b.Labels("pulp_labels"),
		CACert:              b.Certificate("ca_cert"),
		ClientCert:          b.Certificate("client_cert"),
		ClientKey:           b.PrivateKey("client_key"),
		TLSValidation:       b.Bool("tls_validation"),
		ProxyURL:            b.WebURL("proxy_url"),
		MaxRetries:          b.Int("max_retries", 0),
		DownloadConcurrency: b.Count("download_concurrency"),
		RateLimit:           b.Count("rate_limit"),
		TotalTimeout:        b.Seconds("total_timeout"),
		ConnectTimeout:      b.Seconds("connect_timeout"),
		SockConnectTimeout:  b.Seconds("sock_connect_timeout"),
		SockReadTimeout:     b.Seconds("sock_read_timeout"),
		Headers:             b.Headers("headers"),
		TokenHosts:          readTokenHosts(b, "token_hosts"),
		Username:            b.Secret("username"),
		Password:            b.Secret("password"),
		ProxyUsername:       b.Secret("proxy_username"),
		ProxyPassword:       b.Secret("proxy_password"),
	}
}

// checkKeyPair checks that the client's key belongs to its certificate, if an edit changes one of them.
func checkKeyPair(b *body.Fields, old pulp.Remote, f tasks.RemoteFields) {
	after := old
	f.Apply(&after)
	cert, key := after.Connection.ClientCert, after.Secrets.ClientKey
	if cert == nil || key == nil || !f.ClientCert.Set && !f.ClientKey.Set || !b.Valid("client_cert", "client_key") {
		return
	}
	if _, err := tls.X509KeyPair([]byte(*cert), []byte(*key)); err != nil {
		b.Fail("client_key", "The key does not match client_cert.")
	}
}

// appendTexts appends texts to the list in the body, or to the old list when the body has none. It omits duplicates.
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

// readRemoteURL reads the URL of a remote registry. It must not contain credentials, since it is shown; they have
// fields of their own.
func readRemoteURL(b *body.Fields, required bool) *string {
	v := b.Text("url", body.RequiredIf(required)).Value
	if v == nil || !b.Valid("url") {
		return v
	}
	u, err := url.Parse(*v)
	switch {
	case err == nil && u.User != nil:
		b.Fail("url", "The remote url contains username or password. Please use remote username or password instead.")
	case err != nil || !body.IsWebURL(u):
		b.Fail("url", "Enter a valid URL.")
	}
	return v
}

// maxTokenHosts is the largest number of token services of a remote.
const maxTokenHosts = 20

// readTokenHosts reads a list of token services, each as host or host:port, that may be null.
func readTokenHosts(b *body.Fields, name string) tasks.Optional[[]string] {
	v := b.OptionalTexts(name)
	if v.Value == nil || !b.Valid(name) {
		return v
	}
	if len(*v.Value) > maxTokenHosts {
		b.Fail(name, "Ensure this field has no more than %d elements.", maxTokenHosts)
	}
	for _, host := range *v.Value {
		if !pulp.ValidTokenHost(host) {
			b.Fail(name, "Enter host or host:port of a token service, without a scheme.")
			break
		}
	}
	return v
}
