package api_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/pulp"
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
			want: `"client_key":["The key does not match client_cert."]`,
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
