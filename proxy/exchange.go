package proxy

import (
	"log/slog"
	"net/http"
	"net/url"

	"github.com/countersign/countersign/internal/access"
	"github.com/countersign/countersign/internal/fault"
)

// The names of token exchange (RFC 8693).
const (
	grantExchange   = "urn:ietf:params:oauth:grant-type:token-exchange"
	typeIDToken     = "urn:ietf:params:oauth:token-type:id_token" //nolint:gosec // a name, not a credential
	typeJWT         = "urn:ietf:params:oauth:token-type:jwt"
	notAccessTokens = "N_A" // the token_type of tokens that are not sent as Bearer
)

// maxForm is the length limit of the form of a request for a token in bytes.
const maxForm = 64 << 10

// postToken handles POST /token/. See compatibility.md#tokens.
func (c *call) postToken() error {
	body, err := c.readAll(maxForm, oauthError(http.StatusRequestEntityTooLarge, "invalid_request", "The form is too long."))
	if err != nil {
		return err
	}
	form, err := url.ParseQuery(string(body))
	if err != nil {
		return oauthError(http.StatusBadRequest, "invalid_request", "The body is not a form.")
	}
	switch form.Get("grant_type") {
	case grantExchange:
		return c.exchangeToken(form)
	case "password", "refresh_token":
		return c.tokenByForm(form)
	}
	// Clients that try POST first use GET after this response.
	return c.methodNotAllowed(map[string]handler{http.MethodGet: (*call).getToken})
}

// tokenByForm issues a bearer token for the credentials in a form. docker and containerd send it before they try GET, and
// repeat the latter after 401.
func (c *call) tokenByForm(form url.Values) error {
	username, password, refresh := form.Get("username"), form.Get("password"), form.Get("refresh_token")
	r := c.r.Clone(c.r.Context())
	r.Header.Del("Authorization") // the form has the credentials
	var who *access.Caller
	var err error
	if form.Get("grant_type") == "password" {
		r.SetBasicAuth(username, password)
		if who, err = c.Auth.Basic(r); form.Get("access_type") == "offline" && c.Auth.Refreshes(username, password) {
			refresh = password
		}
	} else {
		who, err = c.Auth.Refresh(r, refresh)
	}
	if fault.Is(err, fault.Unauthenticated) {
		message, _ := fault.Message(err)
		err = oauthError(http.StatusUnauthorized, "invalid_grant", message)
	}
	if err != nil {
		return c.loginFailed(username, err)
	}
	if form.Get("service") == "" {
		return oauthError(http.StatusBadRequest, "invalid_request", "service is required.")
	}
	answer, err := c.bearerToken(who, form["scope"])
	if err != nil {
		return err
	}
	if refresh != "" {
		answer["refresh_token"] = refresh
	}
	c.w.Header().Set("Cache-Control", "no-store")
	return c.writeJSON(http.StatusOK, answer)
}

// exchangeToken exchanges the id token of a CI job for a job token, which the job uses as a password until it expires.
// Each id token is exchanged once.
func (c *call) exchangeToken(form url.Values) error {
	if kind := form.Get("subject_token_type"); kind != typeIDToken && kind != typeJWT {
		return oauthError(http.StatusBadRequest, "invalid_request", "subject_token_type: want "+typeIDToken+".")
	}
	text := form.Get("subject_token")
	if text == "" {
		return oauthError(http.StatusBadRequest, "invalid_request", "subject_token is required.")
	}
	who, issued, err := c.Auth.ExchangeIDToken(c.r, text)
	message, _ := fault.Message(err)
	switch {
	case fault.Is(err, fault.NotFound):
		return oauthError(http.StatusBadRequest, "unsupported_grant_type", message)
	case fault.Is(err, fault.Unauthenticated):
		return c.loginFailed("", oauthError(http.StatusBadRequest, "invalid_grant", message))
	case err != nil:
		return c.loginFailed("", err)
	}
	c.caller = caller{Caller: who, authenticated: true}
	c.identify()
	c.audit("exchange id token", nil, slog.String("identity", who.Identity))
	c.w.Header().Set("Cache-Control", "no-store")
	return c.writeJSON(http.StatusOK, map[string]any{
		"access_token": issued.Token, "issued_token_type": typeJWT, "token_type": notAccessTokens,
		"expires_in": int(issued.Lifetime.Seconds()),
	})
}

// oauthError returns a failure in the format of OAuth 2.0 (RFC 6749, 5.2).
func oauthError(status int, code, description string) *failure {
	return &failure{
		status: status, code: "UNKNOWN", message: description,
		restBody: map[string]string{"error": code, "error_description": description},
	}
}
