package proxy_test

import (
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/audit/audittest"
	"github.com/countersign/countersign/internal/auth"
	"github.com/countersign/countersign/proxy"
)

// audited is an entry of the audit log in the log of the server.
type audited struct {
	Who, Action, Object, Result string
	Status                      int
	Error                       string
}

func newAuditedWorld(t *testing.T, edits ...func(*proxy.Options)) (*world, *audittest.Recorder) {
	t.Helper()
	lines := &audittest.Recorder{}
	return newWorld(t, append(edits, func(o *proxy.Options) {
		o.Audit = lines.Log()
	})...), lines
}

// mutations returns a call for each route that can change something, by its method and kind, with the action in the
// audit log. An action of "" has an entry only if it is refused. latest is the digest of the tag latest.
func (w *world) mutations(latest digest.Digest) map[string]struct {
	request
	action string
	status int
} {
	type mutation = struct {
		request
		action string
		status int
	}
	image := w.imageOf("acme/app", "new")
	put := manifestPut("/v2/acme/app/manifests/new", image, "application/vnd.oci.image.manifest.v1+json")
	upload := func() string {
		r := w.expect(request{as: "admin", method: http.MethodPost, path: "/v2/acme/app/blobs/uploads/"}, http.StatusAccepted)
		return r.header.Get("Location")
	}
	data := "data of a blob"
	signature := request{method: http.MethodPut, path: "/extensions/v2/acme/app/signatures/" + string(latest), body: `{}`}
	return map[string]mutation{
		"POST uploads":   {request{method: http.MethodPost, path: "/v2/acme/app/blobs/uploads/"}, "", 202},
		"PATCH upload":   {request{method: http.MethodPatch, path: upload(), body: data}, "", 202},
		"PUT upload":     {request{method: http.MethodPut, path: upload() + "?digest=" + string(digest.FromString(data)), body: data}, "push blob", 201},
		"DELETE upload":  {request{method: http.MethodDelete, path: upload()}, "cancel upload", 204},
		"PUT manifest":   {request{method: http.MethodPut, path: put.path, body: put.body, headers: put.headers}, "push manifest", 201},
		"PUT signatures": {signature, "put signature", 400}, // a valid signature needs a key; see TestPutSignature
		"DELETE blob": {
			request{method: http.MethodDelete, path: "/v2/acme/app/blobs/" + string(w.pushBlob("acme/app", "unused"))}, "delete blob", 202,
		},
		"DELETE manifest": {request{method: http.MethodDelete, path: "/v2/acme/app/manifests/latest"}, "delete manifest", 202},
	}
}

// TestEveryMutatingRouteIsAudited calls each route that can change something as a caller without rights and as an
// administrator. Each call has exactly one entry; those that prepare an upload have none if they are permitted.
func TestEveryMutatingRouteIsAudited(t *testing.T) {
	t.Parallel()
	w, lines := newAuditedWorld(t)
	calls := w.mutations(w.pushImage("acme/app", "one", "latest"))
	audittest.Take[audited](t, lines)
	routes := proxy.MutatingRoutes()
	slices.Sort(routes)
	slices.Reverse(routes) // deletions last
	refused := map[string]bool{}
	for _, route := range routes {
		c, ok := calls[route]
		if !ok {
			t.Errorf("%s: mutations has no call of this route", route)
			continue
		}
		delete(calls, route)
		c.as = "carol"
		if got := w.send(c.request).status; got != http.StatusUnauthorized {
			t.Errorf("%s as a caller without rights: status %d", route, got)
		}
		action := c.action
		if action == "" {
			action = "push blob"
		}
		want := []audited{{Who: "carol", Action: action, Object: "acme/app", Result: "denied", Status: 401, Error: "UNAUTHORIZED"}}
		if refused[action] { // it is counted
			want = nil
		}
		refused[action] = true
		if diff := cmp.Diff(want, audittest.Take[audited](t, lines)); diff != "" {
			t.Errorf("%s as a caller without rights (-want +got):\n%s", route, diff)
		}
		c.as = "admin"
		r := w.send(c.request)
		if r.status != c.status {
			t.Errorf("%s as an administrator: status %d", route, r.status)
		}
		want = []audited{{Who: "admin", Action: c.action, Object: "acme/app", Result: "done"}}
		switch {
		case c.action == "":
			want = nil
		case c.status >= http.StatusBadRequest:
			want[0].Result, want[0].Status, want[0].Error = "failed", c.status, "SIGNATURE_INVALID"
		}
		if diff := cmp.Diff(want, audittest.Take[audited](t, lines)); diff != "" {
			t.Errorf("%s as an administrator: %s (-want +got):\n%s", route, r.body, diff)
		}
	}
	for route := range calls {
		t.Errorf("%s: there is no such route", route)
	}
}

// TestRefusedFormsAreAudited checks the entries of refused credentials in the form of a request for a token.
func TestRefusedFormsAreAudited(t *testing.T) {
	t.Parallel()
	w, lines := newAuditedWorld(t)
	for _, tt := range []struct {
		form url.Values
		name string
	}{
		{url.Values{"grant_type": {"password"}, "username": {"carol"}, "password": {"hunter2"}, "service": {"x"}}, "carol"},
		{url.Values{"grant_type": {"refresh_token"}, "refresh_token": {"hunter2"}, "service": {"x"}}, ""},
	} {
		if got := w.exchange(tt.form); got.status != http.StatusUnauthorized {
			t.Errorf("%v: %v", tt.form, got)
		}
		want := []audited{{Who: "anonymous", Action: "login", Object: tt.name, Result: "denied", Status: http.StatusUnauthorized}}
		if diff := cmp.Diff(want, audittest.Take[audited](t, lines)); diff != "" {
			t.Errorf("%v: entries (-want +got):\n%s", tt.form, diff)
		}
	}
}

// TestCertificatesAreAudited checks the entries of a caller whose credentials are a client certificate.
func TestCertificatesAreAudited(t *testing.T) {
	t.Parallel()
	w, lines := newAuditedWorld(t)
	w.pushImage("acme/app", "one", "latest")
	w.options.Auth.AcceptCertificates(auth.CertificateNames{Field: auth.CommonName, Pattern: "*"})
	name := pkix.AttributeTypeAndValue{Type: asn1.ObjectIdentifier{2, 5, 4, 3}, Value: "carol"}
	carol := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{Names: []pkix.AttributeTypeAndValue{name}}}
	audittest.Take[audited](t, lines)
	r := httptest.NewRequestWithContext(t.Context(), http.MethodDelete, "/v2/acme/app/manifests/latest", nil)
	r.TLS = &tls.ConnectionState{VerifiedChains: [][]*x509.Certificate{{carol}}}
	answer := httptest.NewRecorder()
	proxy.New(w.options).ServeHTTP(answer, r)
	want := []audited{{
		Who: "carol", Action: "delete manifest", Object: "acme/app", Result: "denied", Status: http.StatusUnauthorized,
		Error: "UNAUTHORIZED",
	}}
	if diff := cmp.Diff(want, audittest.Take[audited](t, lines)); answer.Code != http.StatusUnauthorized || diff != "" {
		t.Errorf("status %d, entries (-want +got):\n%s", answer.Code, diff)
	}
}

// TestRefusalsAreAudited checks the entries of refused logins and reads, and that the requests by which clients begin
// have none.
func TestRefusalsAreAudited(t *testing.T) {
	t.Parallel()
	w, lines := newAuditedWorld(t, func(o *proxy.Options) { o.AnonymousPull = auth.AnonymousPullWithToken })
	w.pushImage("acme/app", "one", "latest")
	w.pushImage("acme/secret", "two", "latest")
	w.setPrivate("acme/secret")
	carol, _ := w.token("carol", "repository:acme/app:pull")
	anonymous, _ := w.token("", "repository:acme/app:pull")
	audittest.Take[audited](t, lines)
	denied := func(who, action, object string, status int) []audited {
		return []audited{{Who: who, Action: action, Object: object, Result: "denied", Status: status, Error: "UNAUTHORIZED"}}
	}
	login := func(name string) []audited {
		return []audited{{Who: "anonymous", Action: "login", Object: name, Result: "denied", Status: 401}}
	}
	basic := func(name, password string) string {
		r, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://x", nil)
		r.SetBasicAuth(name, password)
		return r.Header.Get("Authorization")
	}
	const secret = "/v2/acme/secret/manifests/latest"
	for _, tt := range []struct {
		name string
		request
		status int
		want   []audited
	}{
		{"the start of a client", request{path: "/v2/"}, 401, nil},
		{"a pull without a token", request{path: secret}, 401, nil},
		{"a push without a token", request{method: http.MethodPost, path: "/v2/acme/app/blobs/uploads/"}, 401, nil},
		{"a pull", request{as: carol, path: "/v2/acme/app/manifests/latest"}, 200, nil},
		{"a pull of what does not exist", request{as: carol, path: "/v2/acme/app/manifests/none"}, 404, nil},
		{"a private pull", request{as: carol, path: secret}, 401, denied("carol", "pull", "acme/secret", 401)},
		{"a private pull with an anonymous token", request{as: anonymous, path: secret}, 401, denied("anonymous", "pull", "acme/secret", 401)},
		{"a push with a token for pulls", request{as: carol, method: http.MethodPut, path: "/v2/acme/app/manifests/x"}, 401,
			denied("carol", "push manifest", "acme/app", 401)},
		{"a forged token", request{as: "Bearer x", path: "/v2/"}, 401, login("")},
		{"a wrong password", request{as: basic("root", "hunter2"), path: "/v2/"}, 401, login("root")},
		{"a wrong password for a token", request{as: basic("toor", "hunter2"), path: "/token/?service=x"}, 401, login("toor")},
		{"a name that no account can have", request{as: basic(strings.Repeat("ü", 151), "x"), path: "/token/?service=x"}, 401, nil}, // counted with the forged token
		{"a page of another origin", request{method: http.MethodDelete, path: "/v2/acme/app/manifests/latest", headers: []string{"Sec-Fetch-Site", "cross-site"}}, 403,
			[]audited{{Who: "anonymous", Action: "delete manifest", Object: "acme/app", Result: "denied", Status: 403, Error: "DENIED"}}},
		{"an invalid manifest", request{as: "admin", method: http.MethodPut, path: "/v2/acme/app/manifests/x", body: "{"}, 400,
			[]audited{{Who: "admin", Action: "push manifest", Object: "acme/app", Result: "failed", Status: 400, Error: "MANIFEST_INVALID"}}},
		{"an invalid reference", request{as: "admin", method: http.MethodDelete, path: "/v2/acme/app/blobs/" + strings.Repeat("x", 5000)}, 400,
			[]audited{{Who: "admin", Action: "delete blob", Object: "acme/app", Result: "failed", Status: 400, Error: "INVALID_REQUEST"}}},
		{"a first push", request{as: "admin", method: http.MethodPost, path: "/v2/acme/first/blobs/uploads/"}, 202,
			[]audited{{Who: "admin", Action: "create repository", Object: "acme/first", Result: "done"}}},
	} {
		if got := w.send(tt.request).status; got != tt.status {
			t.Errorf("%s: status %d, want %d", tt.name, got, tt.status)
		}
		if diff := cmp.Diff(tt.want, audittest.Take[audited](t, lines)); diff != "" {
			t.Errorf("%s: entries (-want +got):\n%s", tt.name, diff)
		}
	}
}
