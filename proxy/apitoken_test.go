package proxy_test

import (
	"encoding/base64"
	"net/http"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/access"
	"github.com/countersign/countersign/internal/eventually"
	"github.com/countersign/countersign/internal/pulp"
)

// apiToken creates an API token and returns it with the Authorization header of its account.
func (w *world) apiToken(u pulp.User, k access.APIToken) (access.APIToken, string) {
	w.t.Helper()
	k.AccountID, k.Name = u.ID, "test"
	made, secret, err := w.store.Accounts.CreateAPIToken(w.t.Context(), k)
	if err != nil {
		w.t.Fatal(err)
	}
	return made, basicOf(u.Username, secret)
}

func basicOf(username, password string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(username+":"+password))
}

// TestAPITokens uses an API token as a password, for requests and for bearer tokens, which end with it.
func TestAPITokens(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.pushImage("acme/secret", "two", "v1")
	w.setPrivate("acme/secret")
	acme := w.account("acme")
	made, header := w.apiToken(acme, access.APIToken{})
	bearer, _ := w.token(header, "repository:acme/secret:pull,push")
	pull := func(as string, status int) {
		t.Helper()
		if got := w.send(request{as: as, path: "/v2/acme/secret/manifests/v1"}); got.status != status {
			t.Errorf("pull: %d %s, want %d", got.status, got.code(), status)
		}
	}
	pull(header, http.StatusOK)
	pull(bearer, http.StatusOK)
	w.expect(request{as: bearer, method: http.MethodPost, path: "/v2/acme/secret/blobs/uploads/"}, http.StatusAccepted)
	eventually.True(t, time.Minute, func() bool {
		k, err := w.store.Accounts.APIToken(t.Context(), made.ID)
		return err == nil && k.LastUsed != nil
	}, "the use of the token is recorded")
	secret, err := base64.StdEncoding.DecodeString(header[len("Basic "):])
	if err != nil {
		t.Fatal(err)
	}
	pull(basicOf("carol", string(secret[len("acme:"):])), http.StatusUnauthorized) // another account's

	if err := w.store.Accounts.DeleteAPIToken(t.Context(), made.ID); err != nil {
		t.Fatal(err)
	}
	pull(header, http.StatusUnauthorized)
	pull(bearer, http.StatusUnauthorized)

	past := time.Now().Add(-time.Second)
	_, expired := w.apiToken(acme, access.APIToken{Expires: &past})
	pull(expired, http.StatusUnauthorized)

	_, header = w.apiToken(acme, access.APIToken{})
	bearer, _ = w.token(header, "repository:acme/secret:pull")
	pull(bearer, http.StatusOK)
	if _, err := w.store.Accounts.PutUser(t.Context(), "acme", hash(), false, false); err != nil {
		t.Fatal(err)
	}
	pull(header, http.StatusUnauthorized)
	pull(bearer, http.StatusUnauthorized)
}

// TestBearerTokensExpireWithTheirAPIToken requests a bearer token with an API token that expires soon.
func TestBearerTokensExpireWithTheirAPIToken(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	soon := time.Now().Add(3 * time.Second)
	_, header := w.apiToken(w.account("acme"), access.APIToken{Expires: &soon})
	bearer, _ := w.token(header, "repository:acme/app:pull")
	eventually.True(t, time.Minute, func() bool {
		return w.send(request{as: bearer, path: "/v2/"}).status == http.StatusUnauthorized
	}, "the bearer token ends with the API token")
}

// TestLimitedAPITokens checks the limits of API tokens at each request, with a password and with a bearer token.
func TestLimitedAPITokens(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	d := string(w.pushImage("acme/secret", "two", "v1"))
	w.setPrivate("acme/secret")
	w.pushImage("acme/public", "two", "v1")
	acme := w.account("acme")
	requests := map[string]request{
		"pull":   {path: "/v2/acme/secret/manifests/v1"},
		"public": {path: "/v2/acme/public/manifests/v1"},
		"push":   {method: http.MethodPost, path: "/v2/acme/secret/blobs/uploads/"},
		"create": {method: http.MethodPost, path: "/v2/acme/new/blobs/uploads/"},
		"remove": {method: http.MethodDelete, path: "/v2/acme/secret/manifests/absent"},
		"sign":   {method: http.MethodPut, path: "/extensions/v2/acme/secret/signatures/" + d, body: "{}"},
	}
	for name, tt := range map[string]struct {
		limits access.Token
		want   map[string]bool
	}{
		"no limits":     {access.Token{}, map[string]bool{"pull": true, "push": true, "create": true, "remove": true, "sign": true}},
		"pull":          {access.Token{Actions: []access.Use{access.UsePull}}, map[string]bool{"pull": true}},
		"push":          {access.Token{Actions: []access.Use{access.UsePush}}, map[string]bool{"push": true, "create": true}},
		"sign":          {access.Token{Actions: []access.Use{access.UseSign}}, map[string]bool{"sign": true}},
		"delete":        {access.Token{Actions: []access.Use{access.UseDelete}}, map[string]bool{"remove": true}},
		"manage":        {access.Token{Actions: []access.Use{access.UseManage}}, map[string]bool{}},
		"the name":      {access.Token{Patterns: []string{"acme/secret"}}, map[string]bool{"pull": true, "push": true, "remove": true, "sign": true}},
		"another name":  {access.Token{Patterns: []string{"acme/new"}}, map[string]bool{"create": true}},
		"no name":       {access.Token{Patterns: []string{}}, map[string]bool{}},
		"name and pull": {access.Token{Patterns: []string{"acme/s*"}, Actions: []access.Use{access.UsePull}}, map[string]bool{"pull": true}},
	} {
		_, header := w.apiToken(acme, access.APIToken{Token: tt.limits})
		bearer, _ := w.token(header, "repository:acme/secret:pull,push", "repository:acme/new:pull,push", "repository:acme/public:pull")
		for as, credentials := range map[string]string{"password": header, "bearer": bearer} {
			for what, r := range requests {
				r.as = credentials
				got := w.send(r)
				if permitted := got.status != http.StatusUnauthorized; permitted != (tt.want[what] || what == "public") {
					t.Errorf("%s, %s as %s: %d %s", name, what, as, got.status, got.code())
				}
			}
		}
		if target, err := w.store.Serving.Resolve(t.Context(), "acme/new"); err == nil { // created by the push
			if err := w.store.Catalog.DeleteDistribution(t.Context(), nil, target.Distribution.ID); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestRefusedAPITokensBlockTheAddress sends secrets of no token. They count as failed logins, without hindering valid tokens.
func TestRefusedAPITokensBlockTheAddress(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	_, valid := w.apiToken(w.account("acme"), access.APIToken{})
	status := http.StatusUnauthorized
	for range 20 {
		secret, _ := access.NewSecret()
		if status = w.send(request{as: basicOf("acme", secret), path: "/v2/"}).status; status == http.StatusTooManyRequests {
			break
		}
	}
	if status != http.StatusTooManyRequests {
		t.Errorf("the last guess got %d", status)
	}
	w.expect(request{as: valid, path: "/v2/"}, http.StatusOK)
	w.expectError(request{as: basicOf("acme", "secret"), path: "/v2/"}, http.StatusTooManyRequests, "TOOMANYREQUESTS")
}
