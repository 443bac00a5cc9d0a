package api

import (
	"log/slog"
	"net/http"

	"github.com/countersign/countersign/api/internal/body"
	"github.com/countersign/countersign/api/internal/reply"
	"github.com/countersign/countersign/api/internal/timestamp"
	"github.com/countersign/countersign/internal/actor"
	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/auth"
	"github.com/countersign/countersign/internal/fault"
)

// loginCollection is the path of logins with OpenID Connect, which Pulp does not have.
const loginCollection = "oidc/login/"

// PersonLogins lets people log in with OpenID Connect.
type PersonLogins struct {
	Issuer     string
	ClientID   string
	Scopes     []string
	DeviceFlow bool
	// Challenge returns a new challenge for a login.
	Challenge func() string
	// Login exchanges an id token, which is the answer to a challenge, for an API token.
	Login func(r *http.Request, idToken, challenge string) (auth.PersonLogin, error)
}

// loginOffer tells the command line how people log in.
type loginOffer struct {
	Issuer     string   `json:"issuer"`
	ClientID   string   `json:"client_id"`
	Scopes     []string `json:"scopes"`
	DeviceFlow bool     `json:"device_flow"`
	Challenge  string   `json:"challenge"`
	Origin     string   `json:"origin"`
}

type loginResult struct {
	Username string         `json:"username"`
	Token    string         `json:"token"`
	Expires  timestamp.Time `json:"expires"`
}

func (a *API) loginRoutes() []route {
	return []route{{path: loginCollection, open: true, methods: map[string]operation{
		http.MethodGet: {
			verb: "read", handle: a.offerLogin, replies: replies{http.StatusOK: loginOffer{}}, fails: []int{http.StatusNotFound},
		},
		http.MethodPost: {
			verb: "create", handle: a.login, replies: replies{http.StatusOK: loginResult{}},
			body:  body.Form{"id_token": body.Text.Required(), "challenge": body.Text.Required()},
			fails: []int{http.StatusUnauthorized, http.StatusNotFound, http.StatusConflict, http.StatusTooManyRequests},
		},
	}}}
}

var errNoLogins = fault.New(fault.NotFound, "This server has no login with OpenID Connect.")

// offerLogin describes logins, with a challenge for one of them.
func (a *API) offerLogin(*request) (reply.Reply, error) {
	if a.Logins == nil {
		return reply.Reply{}, errNoLogins
	}
	return reply.OK(loginOffer{
		Issuer: a.Logins.Issuer, ClientID: a.Logins.ClientID, Scopes: a.Logins.Scopes, DeviceFlow: a.Logins.DeviceFlow,
		Challenge: a.Logins.Challenge(), Origin: a.PublicURL.String(),
	}), nil
}

// login exchanges an id token for an API token.
func (a *API) login(req *request) (reply.Reply, error) {
	if a.Logins == nil {
		return reply.Reply{}, errNoLogins
	}
	b, err := body.Read(req.Request)
	if err != nil {
		return reply.Reply{}, err
	}
	idToken, challenge := b.Text("id_token", body.Required), b.Text("challenge", body.Required)
	if err := b.Finish(); err != nil {
		return reply.Reply{}, err
	}
	result, err := a.Logins.Login(req.Request, *idToken.Value, *challenge.Value)
	entry := audit.Entry{Actor: actor.From(req.Context()), Action: audit.Login, Object: result.Account.Username, Result: audit.Done}
	if err != nil {
		if entry.Result = audit.Failed; fault.Is(err, fault.Unauthenticated) {
			entry.Result = audit.Denied
		}
		req.noted = append(req.noted, note{entry: entry})
		return reply.Reply{}, err
	}
	u := result.Account
	entry.Actor.ID, entry.Actor.Name, entry.Actor.Kind, entry.Actor.Identity = u.ID, u.Username, actor.External, "OpenID Connect"
	req.noted = append(req.noted, note{entry, []slog.Attr{slog.Time("expires", result.Expires)}})
	return reply.OK(loginResult{result.Account.Username, result.Token, timestamp.Time(result.Expires)}), nil
}
