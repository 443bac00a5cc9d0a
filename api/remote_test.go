package api_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"log/slog"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/countersign/countersign/api"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/taskstore"
	"github.com/countersign/countersign/tasks"
)

// pair returns a new certificate and its key, in PEM.
func pair(t *testing.T) (certificate, key string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, &template, &template, &k.PublicKey, k)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return string(
		pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
	), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}))
}

func encoded(t *testing.T, v any) string {
	t.Helper()
	raw, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

func TestRemoteFields(t *testing.T) {
	t.Parallel()
	m := newMirrors(t)
	certificate, key := pair(t)
	_, otherKey := pair(t)
	const (
		noNumber, noInteger = `"A valid number is required."`, `"A valid integer is required."`
		noURL, credentials  = `"Enter a valid URL."`, `"The remote url contains username or password. Please use remote username or password instead."`
	)
	for name, c := range map[string]struct {
		body string // fields other than the required ones
		want string // the errors of one field; empty: none
	}{
		"required fields only": {},
		"all fields": {
			body: `"policy":"on_demand","includes":["v*"],"excludes":["*-rc?"],"sigstore":"https://s.example/sigs","tls_validation":false,"proxy_url":"http://proxy:3128","max_retries":0,"total_timeout":1.5,"connect_timeout":0,"sock_connect_timeout":"2","sock_read_timeout":3,"headers":[{"X-A":"b"}],"download_concurrency":1,"rate_limit":1,"pulp_labels":{"a":null}`,
		},
		"all nullable fields as null": {
			body: `"includes":null,"excludes":null,"include_tags":null,"exclude_tags":null,"sigstore":null,"ca_cert":null,"client_cert":null,"client_key":null,"proxy_url":null,"proxy_username":null,"proxy_password":null,"username":null,"password":null,"max_retries":null,"total_timeout":null,"connect_timeout":null,"sock_connect_timeout":null,"sock_read_timeout":null,"headers":null,"download_concurrency":null,"rate_limit":null`,
		},
		"fields that are not settable": {
			body: `"hidden_fields":[],"pulp_href":"x","prn":"x","pulp_created":"x","pulp_last_updated":"x"`,
		},
		"a password without a name":    {body: `"password":"x"`},
		"a URL with a prefix":          {body: `"url":"https://h.example:5000/prefix/"`},
		"a URL with another scheme":    {body: `"url":"ftp://h.example"`, want: `"url":[` + noURL + `]`},
		"a URL without a host":         {body: `"url":"https:///x"`, want: `"url":[` + noURL + `]`},
		"a URL with a password":        {body: `"url":"https://u:p@h.example"`, want: `"url":[` + credentials + `]`},
		"a URL with a user":            {body: `"url":"https://u@h.example"`, want: `"url":[` + credentials + `]`},
		"a URL with a broken password": {body: `"url":"https://u:%zz@h.example"`, want: `"url":[` + noURL + `]`},
		"a URL that is a list":         {body: `"url":[]`, want: `"url":["Not a valid string."]`},
		"a blank name":                 {body: `"name":" "`, want: `"name":["This field may not be blank."]`},
		"a null upstream": {
			body: `"upstream_name":null`, want: `"upstream_name":["This field may not be null."]`,
		},
		"an unknown policy": {
			body: `"policy":"never"`, want: `"policy":["\"never\" is not a valid choice."]`,
		},
		"a null policy":                  {body: `"policy":null`, want: `"policy":["This field may not be null."]`},
		"a signature store of files":     {body: `"sigstore":"file:///sigs"`, want: `"sigstore":[` + noURL + `]`},
		"a signature store, credentials": {body: `"sigstore":"http://u:p@h.example"`, want: `"sigstore":[` + noURL + `]`},
		"a proxy with credentials": {
			body: `"proxy_url":"http://u:p@h.example"`, want: `"proxy_url":[` + noURL + `]`,
		},
		"negative retries": {
			body: `"max_retries":-1`, want: `"max_retries":["Ensure this value is greater than or equal to 0."]`,
		},
		"zero downloads": {
			body: `"download_concurrency":0`,
			want: `"download_concurrency":["Ensure this value is greater than or equal to 1."]`,
		},
		"half a download": {
			body: `"download_concurrency":0.5`, want: `"download_concurrency":[` + noInteger + `]`,
		},
		"zero requests a second": {
			body: `"rate_limit":0`, want: `"rate_limit":["Ensure this value is greater than or equal to 1."]`,
		},
		"a negative timeout": {
			body: `"total_timeout":-0.1`, want: `"total_timeout":["Ensure this value is greater than or equal to 0.0."]`,
		},
		"an infinite timeout": {body: `"connect_timeout":1e999`, want: `"connect_timeout":[` + noNumber + `]`},
		"a timeout that is not a number": {
			body: `"sock_read_timeout":"NaN"`, want: `"sock_read_timeout":[` + noNumber + `]`,
		},
		"a boolean timeout": {
			body: `"sock_connect_timeout":true`, want: `"sock_connect_timeout":[` + noNumber + `]`,
		},
		"headers as an object": {
			body: `"headers":{"a":"b"}`, want: `"headers":["Expected a list of items but got type \"dict\"."]`,
		},
		"headers of texts": {
			body: `"headers":["a"]`, want: `"headers":["Expected a dictionary of items but got type \"str\"."]`,
		},
		"headers of numbers": {body: `"headers":[{"a":1}]`, want: `"headers":["Not a valid string."]`},
		"a header that splits": {
			body: `"headers":[{"a":"b\r\nc: d"}]`, want: `"headers":["Not a valid string."]`,
		},
		"a header's name with a space": {body: `"headers":[{"a b":"c"}]`, want: `"headers":["Not a valid string."]`},
		"a header without a name":      {body: `"headers":[{"":"c"}]`, want: `"headers":["Not a valid string."]`},
		"patterns as a text": {
			body: `"includes":"v*"`, want: `"includes":["Expected a list of items but got type \"str\"."]`,
		},
		"patterns of numbers": {body: `"excludes":[1]`, want: `"excludes":["Not a valid string."]`},
		"null validation": {
			body: `"tls_validation":null`, want: `"tls_validation":["This field may not be null."]`,
		},
		"a password that is a number": {body: `"password":1`, want: `"password":["Not a valid string."]`},
		"a certificate":               {body: `"ca_cert":` + encoded(t, certificate+certificate)},
		"a text as the certificate": {
			body: `"ca_cert":"secret"`, want: `"ca_cert":["No certificate in PEM was found."]`,
		},
		"a broken certificate": {
			body: `"ca_cert":"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"`,
			want: `"ca_cert":["The certificate cannot be read."]`,
		},
		"a certificate and a truncated key": {
			body: `"ca_cert":` + encoded(t, certificate+key[:len(key)/2]), want: `"ca_cert":["The certificate cannot be read."]`,
		},
		"a truncated key and a certificate": {
			body: `"ca_cert":` + encoded(t, key[:len(key)/2]+"\n"+certificate),
			want: `"ca_cert":["The certificate cannot be read."]`,
		},
		"a certificate with a comment": {body: `"ca_cert":` + encoded(t, "# the root\n"+certificate)},
		"a certificate with its key": {
			body: `"client_cert":` + encoded(t, certificate+key), want: `"client_cert":["The certificate cannot be read."]`,
		},
		"a key": {body: `"client_key":` + encoded(t, key)},
		"a text as the key": {
			body: `"client_key":"secret"`, want: `"client_key":["No unencrypted private key in PEM was found."]`,
		},
		"a certificate as the key": {
			body: `"client_key":` + encoded(t, certificate),
			want: `"client_key":["No unencrypted private key in PEM was found."]`,
		},
		"a certificate and its key": {
			body: `"client_cert":` + encoded(t, certificate) + `,"client_key":` + encoded(t, key),
		},
		"a certificate and another key": {
			body: `"client_cert":` + encoded(t, certificate) + `,"client_key":` + encoded(t, otherKey),
			want: `"client_key":["The key is not the one of client_cert."]`,
		},
		"a label with parentheses": {
			body: `"pulp_labels":{"a":"("}`, want: `"pulp_labels":["Key 'a' contains value with parenthesis."]`,
		},
		"an unknown field":     {body: `"limit":1`, want: `"limit":["Unexpected field"]`},
		"a name that is taken": {body: `"name":"acme/remote"`, want: `"name":["This field must be unique."]`},
	} {
		t.Run(name, func(t *testing.T) {
			required := `"name":"acme/` + strings.ReplaceAll(name, " ", "-") + `","url":"https://h.example","upstream_name":"x"`
			body := "{" + strings.TrimSuffix(required+","+c.body, ",") + "}" // the last value of a repeated field counts
			status := http.StatusCreated
			if c.want != "" {
				status, c.want = http.StatusBadRequest, "{"+c.want+"}"
			}
			m.expect(call{method: http.MethodPost, path: pulp.RemoteCollection, json: body}, status, c.want)
			if c.want == "" || strings.Contains(c.want, "unique") {
				return
			}
			m.expect(call{method: http.MethodPatch, path: m.remoteHref(), json: "{" + c.body + "}"}, status, c.want)
		})
	}
	m.expect(
		call{method: http.MethodPost, path: pulp.RemoteCollection, json: `{"name":"acme/remote","policy":"never"}`}, 400,
		`{"name":["This field must be unique."],"policy":["\"never\" is not a valid choice."],"upstream_name":["This field is required."],"url":["This field is required."]}`,
	)
	m.expect(call{method: http.MethodPost, path: pulp.RemoteCollection, json: `{}`}, 400,
		`{"name":["This field is required."],"upstream_name":["This field is required."],"url":["This field is required."]}`)
	m.expect(
		call{method: http.MethodPut, path: m.remoteHref(), json: `{"name":"acme/remote"}`}, 400,
		`{"upstream_name":["This field is required."],"url":["This field is required."]}`,
	)
}

func TestEditRemote(t *testing.T) {
	t.Parallel()
	m := newMirrors(t)
	if _, err := m.store.Catalog.CreateRemote(
		t.Context(), pulp.Remote{Name: "acme/other", URL: "https://h.example", UpstreamName: "x", Policy: pulp.Immediate},
	); err != nil {
		t.Fatal(err)
	}
	list := func(v ...string) tasks.Optional[[]string] {
		return tasks.Optional[[]string]{Set: true, Value: &v}
	}
	for name, c := range map[string]struct {
		method, body string
		fields       *tasks.RemoteFields // nil: no change
	}{
		"no fields": {body: `{}`},
		"present values": {
			body: `{"name":"acme/remote","url":"https://upstream.example","upstream_name":"library/app","policy":"immediate","includes":["v*"],"excludes":null,"username":"robot","password":"tellnobody","tls_validation":true}`,
		},
		"PUT with present values": {
			method: http.MethodPut,
			body:   `{"name":"acme/remote","url":"https://upstream.example","upstream_name":"library/app"}`,
		},
		"an older name without new patterns": {body: `{"include_tags":["v*"]}`},
		"older names as null":                {body: `{"include_tags":null,"exclude_tags":null}`},
		"fields that are not settable":       {body: `{"hidden_fields":[{"name":"password","is_set":false}]}`},
		"other patterns": {
			body: `{"includes":["w*"]}`, fields: &tasks.RemoteFields{Includes: list("w*")},
		},
		"no patterns": {
			body: `{"includes":null}`, fields: &tasks.RemoteFields{Includes: tasks.Optional[[]string]{Set: true}},
		},
		"an older name adds": {
			body:   `{"include_tags":["v*","w*"],"exclude_tags":["x"]}`,
			fields: &tasks.RemoteFields{Includes: list("v*", "w*"), Excludes: list("x")},
		},
		"an older name adds to new patterns": {
			body: `{"includes":["a"],"include_tags":["b"]}`, fields: &tasks.RemoteFields{Includes: list("a", "b")},
		},
		"another password": {
			body:   `{"password":" x "}`,
			fields: &tasks.RemoteFields{Password: tasks.Optional[string]{Set: true, Value: ptr(" x ")}},
		},
		"no password": {
			body: `{"password":null}`, fields: &tasks.RemoteFields{Password: tasks.Optional[string]{Set: true}},
		},
		"another policy": {body: `{"policy":"streamed"}`, fields: &tasks.RemoteFields{Policy: ptr(pulp.Streamed)}},
	} {
		t.Run(name, func(t *testing.T) {
			if c.method == "" {
				c.method = http.MethodPatch
			}
			edit, before := call{method: c.method, path: m.remoteHref(), json: c.body}, len(m.dispatcher.specs)
			if c.fields == nil {
				if r := m.expect(
					edit, 200, "",
				); r.body.(map[string]any)["name"] != "acme/remote" || len(m.dispatcher.specs) != before {
					t.Errorf("body %s", r.raw)
				}
				return
			}
			m.expect(edit, 202, "")
			want := tasks.Spec{
				Name: tasks.Edit, Immediate: true, Resources: []taskstore.Resource{{Href: m.remoteHref(), Exclusive: true}},
				Args: tasks.EditArgs{Collection: pulp.RemoteCollection, ID: m.remote.ID, Remote: c.fields},
			}
			m.dispatcher.wantFrom(t, 1)
			if diff := cmp.Diff(want, m.dispatcher.last()); diff != "" {
				t.Errorf("task (-want +got):\n%s", diff)
			}
		})
	}
	m.expect(
		call{method: http.MethodPatch, path: m.remoteHref(), json: `{"name":"acme/other"}`}, 400,
		`{"name":["This field must be unique."]}`,
	)
	m.expect(call{method: http.MethodDelete, path: m.remoteHref()}, 202, "")
	want := tasks.Spec{
		Name: tasks.Delete, Immediate: true, Resources: []taskstore.Resource{{Href: m.remoteHref(), Exclusive: true}},
		Args: tasks.ObjectArgs{Collection: pulp.RemoteCollection, ID: m.remote.ID},
	}
	m.dispatcher.wantFrom(t, 1)
	if diff := cmp.Diff(want, m.dispatcher.last()); diff != "" {
		t.Errorf("task (-want +got):\n%s", diff)
	}
}

func TestPermissionsOnRemotes(t *testing.T) {
	t.Parallel()
	m := newMirrors(t)
	make := func(name string) string {
		return `{"name":"` + name + `","url":"https://h.example","upstream_name":"x"}`
	}
	absent := `{"detail":"No ContainerRemote matches the given query."}`
	for name, c := range map[string]struct {
		call   call
		status int
		body   string
	}{
		"its owner reads": {call: call{path: m.remoteHref(), user: "acme"}, status: 200},
		"another user reads": {
			call: call{path: m.remoteHref(), user: "carol"}, status: 404, body: absent,
		},
		"another user edits": {
			call: call{method: http.MethodPatch, path: m.remoteHref(), user: "carol", json: `{bad`}, status: 404, body: absent,
		},
		"another user deletes": {
			call: call{method: http.MethodDelete, path: m.remoteHref(), user: "carol"}, status: 404, body: absent,
		},
		"another user sets a label": {
			call: call{
				method: http.MethodPost, path: m.remoteHref() + "set_label/", user: "carol", json: `{"key":"a","value":"b"}`,
			},
			status: 404, body: absent,
		},
		"in the own namespace": {
			call: call{method: http.MethodPost, path: pulp.RemoteCollection, user: "carol", json: make("carol/x")}, status: 201,
		},
		"in another namespace": {
			call: call{method: http.MethodPost, path: pulp.RemoteCollection, user: "carol", json: make("acme/x")}, status: 403,
		},
		"its owner renames it into another namespace": {
			call: call{method: http.MethodPatch, path: m.remoteHref(), user: "acme", json: `{"name":"carol/y"}`}, status: 403,
		},
		"a repository with another user's remote": {
			call: call{
				method: http.MethodPost, path: pulp.ContainerCollection, user: "carol",
				json: `{"name":"carol/r","remote":"` + m.remoteHref() + `"}`,
			},
			status: 400, body: `{"remote":["Invalid hyperlink - Object does not exist."]}`,
		},
		"a sync from another user's remote": {
			call: call{
				method: http.MethodPost, path: href(m.container("carol/s", "")) + "sync/", user: "carol",
				json: `{"remote":"` + m.remoteHref() + `"}`,
			},
			status: 400, body: `{"remote":["Invalid hyperlink - Object does not exist."]}`,
		},
		"anonymous": {call: call{path: m.remoteHref(), user: "-"}, status: 401},
		"a label": {
			call: call{
				method: http.MethodPost, path: m.remoteHref() + "set_label/", user: "acme", json: `{"key":"a","value":null}`,
			},
			status: 201, body: `{"key":"a","value":null}`,
		},
		"unsetting an absent label": {
			call:   call{method: http.MethodPost, path: m.remoteHref() + "unset_label/", user: "acme", json: `{"key":"b"}`},
			status: 400, body: `{"key":["Label with the key 'b' does not exist."]}`,
		},
		"a label with invalid characters": {
			call:   call{method: http.MethodPost, path: m.remoteHref() + "set_label/", json: `{"key":"ä","value":"b"}`},
			status: 400, body: `{"key":["Key 'ä' contains non-alphanumerics."]}`,
		},
		"a label with a parenthesis": {
			call:   call{method: http.MethodPost, path: m.remoteHref() + "set_label/", json: `{"key":"a","value":"("}`},
			status: 400, body: `{"value":["Key 'a' contains value with parenthesis."]}`,
		},
		"a label without a value": {
			call: call{method: http.MethodPost, path: m.remoteHref() + "set_label/", json: `{"key":"a"}`}, status: 400,
			body: `{"value":["This field is required."]}`,
		},
		"a label without a key": {
			call: call{method: http.MethodPost, path: m.remoteHref() + "set_label/", json: `{"value":"a"}`}, status: 400,
			body: `{"key":["This field is required."]}`,
		},
		"a label with an unknown field": {
			call: call{method: http.MethodPost, path: m.remoteHref() + "unset_label/", json: `{"key":"a","foo":1}`}, status: 400,
			body: `{"foo":["Unexpected field"]}`,
		},
		"a push repository's label": {
			call: call{method: http.MethodPost, path: m.repoHref() + "unset_label/", json: `{"key":"a"}`}, status: 404,
			body: `{"detail":"Not found."}`,
		},
		"remotes of every type, staff": {
			call: call{path: "remotes/?name=acme/remote&fields=name"}, status: 200,
			body: `{"count":1,"next":null,"previous":null,"results":[{"name":"acme/remote"}]}`,
		},
		"remotes of every type, carol": {
			call: call{path: "remotes/?name=acme/remote", user: "carol"}, status: 200,
			body: `{"count":0,"next":null,"previous":null,"results":[]}`,
		},
	} {
		t.Run(name, func(t *testing.T) { m.expect(c.call, c.status, c.body) })
	}
	generic := keys(t, encoded(t, m.get("remotes/")["results"].([]any)[0]))
	for _, own := range []string{"upstream_name", "includes", "excludes", "sigstore"} {
		for _, k := range generic {
			if k == own {
				t.Errorf("the list of all types shows %s", own)
			}
		}
	}
}

// lines is a log that can be read while it is written.
type lines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// TestNoSecretIsShown proves that the secrets of a remote occur in no response, error, task or log line.
func TestNoSecretIsShown(t *testing.T) {
	t.Parallel()
	m := newMirrors(t)
	m.withWorker()
	log := &lines{}
	public, _ := url.Parse("https://registry.example:8443")
	logged := httptest.NewServer(api.New(api.Options{
		Store: m.store, Tasks: m.dispatcher, Auth: accounts{
			m.store,
		}, PublicURL: public, Log: slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}))
	t.Cleanup(logged.Close)
	certificate, key := pair(t)
	_, otherKey := pair(t)
	const secret = "tellnobody"
	body := func(name string, more map[string]any) string {
		all := map[string]any{
			"name": name, "url": "https://upstream.example", "upstream_name": "library/app", "username": secret + "1", "password": secret + "2",
			"proxy_username": secret + "3", "proxy_password": secret + "4", "client_cert": certificate, "client_key": key,
		}
		for k, v := range more {
			all[k] = v
		}
		return encoded(t, all)
	}
	var answers strings.Builder
	for _, server := range []*httptest.Server{m.server, logged} {
		m.server = server
		name := fmt.Sprintf("acme/of-%p", server)
		r := m.expect(call{method: http.MethodPost, path: pulp.RemoteCollection, json: body(name, nil)}, 201, "")
		made, _ := r.body.(map[string]any)["pulp_href"].(string)
		all := []reply{r}
		for _, c := range []call{
			{path: made},
			{path: made + "?fields=password,username,client_key,hidden_fields"},
			{path: pulp.RemoteCollection},
			{path: "remotes/"},
			{method: http.MethodPatch, path: made, json: body(name, map[string]any{"description": "x"})},
			{method: http.MethodPatch, path: made, json: `{"username":"` + secret + `5","password":"` + secret + `6"}`},
			{method: http.MethodPatch, path: made, json: `{"client_key":"` + secret + `"}`},
			{method: http.MethodPatch, path: made, json: encoded(t, map[string]string{"client_key": otherKey})},
			{method: http.MethodPatch, path: made, json: encoded(t, map[string]string{"client_cert": certificate + key})},
			{method: http.MethodPatch, path: made, json: `{"url":"https://` + secret + `:` + secret + `@h.example"}`},
			{method: http.MethodPatch, path: made, json: `{"url":"https://` + secret + `:%zz@h.example"}`},
			{method: http.MethodPatch, path: made, json: `{"proxy_url":"http://` + secret + `:` + secret + `@h.example"}`},
			{method: http.MethodPatch, path: made, json: `{"password":["` + secret + `"]}`},
			{method: http.MethodPatch, path: made, json: `{"password":"` + secret},
			{method: http.MethodPost, path: made + "set_label/", json: `{"key":"a","value":"b"}`},
			{path: "tasks/"},
			{method: http.MethodDelete, path: made},
			{path: "tasks/"},
		} {
			all = append(all, m.do(c))
		}
		for _, r := range all {
			answers.WriteString(r.raw + "\n")
		}
	}
	shown := answers.String() + log.String()
	inner := func(text string) string { return strings.Split(strings.TrimSpace(text), "\n")[1] }
	for _, s := range []string{secret, inner(key), inner(otherKey)} {
		if at := strings.Index(shown, s); at >= 0 {
			t.Errorf("%s is shown: %s", s, shown[max(0, at-300):min(len(shown), at+100)])
		}
	}
	if !strings.Contains(
		log.String(), `action="edit remote"`,
	) || !strings.Contains(answers.String(), `{"name":"password","is_set":true}`) {
		t.Errorf("the log lacks the changes: %s", log.String())
	}
}
