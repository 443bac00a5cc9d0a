package oidctest

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
)

// ClientID is the public client that an Issuer knows.
const ClientID = "countersign-cli"

// client is the state of logins of people at an Issuer.
type client struct {
	person  Claims            // of the id tokens; nil: the person refuses
	grants  map[string]grant  // by authorization code
	devices map[string]device // by device code
	noNonce bool              // ignore the nonce of the device flow
}

// grant is an authorization code that was issued.
type grant struct {
	redirect, challenge, nonce string
}

// device is a device code that was issued.
type device struct {
	nonce string
	polls int
}

// SetPerson sets the claims of the person that logs in from now on, in addition to those of every token. nil makes the
// person refuse.
func (i *Issuer) SetPerson(c Claims) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.client.person = c
}

// IgnoreNonce makes the device flow ignore the nonce, as some issuers do.
func (i *Issuer) IgnoreNonce() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.client.noNonce = true
}

// Person returns the claims of an id token for a login with a nonce, which may be empty.
func (i *Issuer) Person(name, nonce string) Claims {
	now := time.Now()
	c := Claims{
		"iss": i.URL, "aud": ClientID, "sub": "id-of-" + name, "iat": now.Unix(), "exp": now.Add(lifetime).Unix(),
		"jti": uuid.NewString(), "preferred_username": name,
	}
	if nonce != "" {
		c["nonce"] = nonce
	}
	return c
}

// serveAuthorize is the authorization endpoint. The person agrees at once.
func (i *Issuer) serveAuthorize(w http.ResponseWriter, r *http.Request) {
	i.mu.Lock()
	defer i.mu.Unlock()
	q := r.URL.Query()
	to, err := url.Parse(q.Get("redirect_uri"))
	loopback := err == nil && to.Scheme == "http" && to.Hostname() == "127.0.0.1"
	if !loopback || q.Get("client_id") != ClientID || q.Get("response_type") != "code" ||
		q.Get("code_challenge_method") != "S256" || !strings.Contains(q.Get("scope"), "openid") {
		http.Error(w, "invalid request", http.StatusBadRequest)
		return
	}
	answer := url.Values{"state": {q.Get("state")}}
	if i.client.person == nil {
		answer.Set("error", "access_denied")
	} else {
		code := uuid.NewString()
		i.client.grants[code] = grant{q.Get("redirect_uri"), q.Get("code_challenge"), q.Get("nonce")}
		answer.Set("code", code)
	}
	to.RawQuery = answer.Encode()
	http.Redirect(w, r, to.String(), http.StatusFound) //nolint:gosec // to a loopback address
}

// serveDevice is the device authorization endpoint.
func (i *Issuer) serveDevice(w http.ResponseWriter, r *http.Request) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if r.FormValue("client_id") != ClientID {
		http.Error(w, "invalid client", http.StatusBadRequest)
		return
	}
	code := uuid.NewString()
	d := device{nonce: r.FormValue("nonce")}
	if i.client.noNonce {
		d.nonce = ""
	}
	i.client.devices[code] = d
	_ = json.NewEncoder(w).Encode(map[string]any{
		"device_code": code, "user_code": "ABCD-EFGH", "verification_uri": i.URL + "/device", "expires_in": 60, "interval": 1,
	})
}

// serveToken returns a handler of the token endpoint. The second request for a device code succeeds.
func (i *Issuer) serveToken(tb testing.TB) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		i.mu.Lock()
		defer i.mu.Unlock()
		nonce, problem := i.redeem(r)
		w.Header().Set("Content-Type", "application/json")
		if problem != "" {
			w.WriteHeader(http.StatusBadRequest)
			_ = json.NewEncoder(w).Encode(map[string]any{"error": problem})
			return
		}
		name, _ := i.client.person["preferred_username"].(string)
		token := i.Token(tb, i.Person(name, nonce).With(i.client.person))
		_ = json.NewEncoder(w).Encode(map[string]any{
			"access_token": "unused", "token_type": "Bearer", "expires_in": 60, "id_token": token,
		})
	}
}

// redeem returns the nonce of an authorization code or a device code, or the error of OAuth.
func (i *Issuer) redeem(r *http.Request) (nonce, problem string) {
	switch r.FormValue("grant_type") {
	case "authorization_code":
		code := r.FormValue("code")
		g, ok := i.client.grants[code]
		delete(i.client.grants, code)
		sum := sha256.Sum256([]byte(r.FormValue("code_verifier")))
		if !ok || g.redirect != r.FormValue("redirect_uri") || g.challenge != base64.RawURLEncoding.EncodeToString(sum[:]) {
			return "", "invalid_grant"
		}
		return g.nonce, ""
	case "urn:ietf:params:oauth:grant-type:device_code":
		code := r.FormValue("device_code")
		d, ok := i.client.devices[code]
		switch {
		case !ok:
			return "", "invalid_grant"
		case i.client.person == nil:
			return "", "access_denied"
		case d.polls == 0:
			d.polls++
			i.client.devices[code] = d
			return "", "authorization_pending"
		}
		delete(i.client.devices, code)
		return d.nonce, ""
	}
	return "", "unsupported_grant_type"
}
