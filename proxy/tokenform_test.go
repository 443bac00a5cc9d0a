package proxy_test

import (
	"encoding/json"
	"net/http"
	"net/url"
	"testing"

	"github.com/countersign/countersign/internal/access"
)

// TestTokensByForm requests bearer tokens with the grants of OAuth 2.0 that docker and containerd use.
func TestTokensByForm(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.pushImage("acme/secret", "one", "v1")
	w.setPrivate("acme/secret")
	acme := w.account("acme")
	made, secret, err := w.store.Accounts.CreateAPIToken(t.Context(), access.APIToken{AccountID: acme.ID, Name: "test"})
	if err != nil {
		t.Fatal(err)
	}
	form := func(pairs ...string) url.Values {
		v := url.Values{"service": {publicHost}, "scope": {"repository:acme/secret:pull,push"}, "client_id": {"test"}}
		for i := 0; i < len(pairs); i += 2 {
			v.Set(pairs[i], pairs[i+1])
		}
		return v
	}
	for name, c := range map[string]struct {
		form    url.Values
		status  int
		refresh string // expected refresh token
	}{
		"a password": {form: form("grant_type", "password", "username", "acme", "password", "secret"), status: 200},
		"a password, offline": {
			form: form("grant_type", "password", "username", "acme", "password", "secret", "access_type", "offline"), status: 200,
		},
		"an API token, offline": {
			form:   form("grant_type", "password", "username", "acme", "password", secret, "access_type", "offline"),
			status: 200, refresh: secret,
		},
		"a refresh token":            {form: form("grant_type", "refresh_token", "refresh_token", secret), status: 200, refresh: secret},
		"a wrong password":           {form: form("grant_type", "password", "username", "acme", "password", "x"), status: 401},
		"no password":                {form: form("grant_type", "password"), status: 401},
		"a wrong account":            {form: form("grant_type", "password", "username", "carol", "password", secret), status: 401},
		"an API token of no account": {form: form("grant_type", "password", "password", secret), status: 401},
		"a password as a refresh token": {
			form: form("grant_type", "refresh_token", "username", "acme", "refresh_token", "secret"), status: 401,
		},
		"no refresh token": {form: form("grant_type", "refresh_token"), status: 401},
		"no service": {
			form: form("grant_type", "password", "username", "acme", "password", "secret", "service", ""), status: 400,
		},
		"no grant": {form: form("username", "acme", "password", "secret"), status: 405},
	} {
		got := w.exchange(c.form)
		var answer struct {
			AccessToken  string `json:"access_token"`
			RefreshToken string `json:"refresh_token"`
			Error        string
		}
		if got.status != http.StatusMethodNotAllowed {
			if err := json.Unmarshal([]byte(got.body), &answer); err != nil {
				t.Errorf("%s: %v", name, got)
			}
		}
		if got.status != c.status || answer.RefreshToken != c.refresh || (answer.Error != "") != (c.status == 400 || c.status == 401) {
			t.Errorf("%s: %d %s, want %d", name, got.status, got.body, c.status)
		}
		if c.status == http.StatusOK {
			w.expect(request{as: "Bearer " + answer.AccessToken, path: "/v2/acme/secret/manifests/v1"}, http.StatusOK)
		}
	}
	if err := w.store.Accounts.DeleteAPIToken(t.Context(), made.ID); err != nil {
		t.Fatal(err)
	}
	if got := w.exchange(form("grant_type", "refresh_token", "refresh_token", secret)); got.status != http.StatusUnauthorized {
		t.Errorf("the refresh token after its deletion: %v", got)
	}
}
