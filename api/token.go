package api

import (
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/countersign/countersign/api/internal/body"
	"github.com/countersign/countersign/api/internal/reply"
	"github.com/countersign/countersign/api/internal/timestamp"
	"github.com/countersign/countersign/internal/access"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/list"
)

// apiToken is the form of an API token (compatibility.md#api-tokens).
type apiToken struct {
	object
	Name     string          `json:"name"`
	Account  string          `json:"account"`
	Hint     string          `json:"hint"`
	Patterns []string        `json:"patterns" openapi:"nullable"`
	Actions  []access.Use    `json:"actions" openapi:"nullable"`
	Expires  *timestamp.Time `json:"expires"`
	LastUsed *timestamp.Time `json:"last_used"`
	Secret   string          `json:"token,omitempty"` // in the response to its creation only
}

func showToken(k access.APIToken) any { return tokenForm(k) }

func tokenForm(k access.APIToken) apiToken {
	return apiToken{
		object: objectOf(pulp.TokenCollection, k.ID, k.Stamps), Name: k.Name, Account: k.Account, Hint: k.Hint,
		Patterns: k.Patterns, Actions: k.Actions,
		Expires: (*timestamp.Time)(k.Expires), LastUsed: (*timestamp.Time)(k.LastUsed),
	}
}

// apiTokens are the API tokens that the caller may manage: the own ones, those of robots whose namespace the caller
// manages, and all for administrators.
func (a *API) apiTokens() resource[access.APIToken] {
	return resource[access.APIToken]{
		model: "Token", form: apiToken{}, list: list.TokenList, show: showEach(showToken), within: a.managedTokens,
		orderings: []string{"name", "account", "expires", "last_used"},
		filters: mergeFilters(identityFilters(), nameFilters(), textFilters("account"), dateFilters("pulp_created"),
			dateFilters("expires"), dateFilters("last_used")),
	}
}

func (a *API) tokenRoutes() []route {
	r := a.apiTokens()
	return []route{
		{path: pulp.TokenCollection, methods: map[string]operation{
			http.MethodGet: listOf(a, r), http.MethodPost: create(a.createToken, tokenFields, r.creates()),
		}},
		{path: pulp.TokenCollection + ":id/", href: "token_href", methods: map[string]operation{
			http.MethodGet: readOf(a, r), http.MethodDelete: remove(a.deleteToken, deletes),
		}},
	}
}

// managedTokens returns the condition for the tokens that the caller may manage. Limited tokens manage none.
func (a *API) managedTokens(req *request) ([]list.Filter, error) {
	switch {
	case req.caller.Token.Limited():
		return nil, errDenied
	case administers(req):
		return nil, nil
	}
	viewer, err := a.viewer(req)
	return []list.Filter{list.TokensManagedBy(req.caller.Account.ID, viewer)}, err
}

// Limits of the fields of tokens.
const (
	maxTokenPatterns = 100
	maxTokenPattern  = 255 // bytes
)

// tokenFields are the fields of the bodies of tokens.
var tokenFields = body.Form{
	"name":     accountName.Required(),
	"account":  accountName,
	"expires":  body.OptionalTime,
	"patterns": body.OptionalTexts.NotEmpty().AtMost(maxTokenPatterns),
	"actions":  body.OptionalTexts.NotEmpty().OneOf(uses()...),
}

// uses are the possible actions of tokens.
func uses() []string {
	var all []string
	for _, u := range access.Uses {
		all = append(all, string(u))
	}
	return all
}

// createToken creates a token for the caller, for a robot whose namespace the caller manages, or, as an administrator,
// for any account that may have tokens. The response has the secret, which is not stored.
func (a *API) createToken(req *request) (reply.Reply, error) {
	if req.caller.Token.Limited() {
		return reply.Reply{}, errDenied
	}
	b, err := body.Read(req.Request)
	if err != nil {
		return reply.Reply{}, err
	}
	owner := readName(b, "account")
	var parent *access.Token
	if owner == nil || *owner == req.caller.Account.Username {
		parent = req.caller.Token
	}
	k := a.readToken(req, b, parent)
	if err := b.Finish(); err != nil {
		return reply.Reply{}, err
	}
	account := req.caller.Account
	if owner != nil && *owner != account.Username {
		if account, err = a.tokenOwner(req, *owner); err != nil {
			return reply.Reply{}, err
		}
	}
	if account.Kind == pulp.RuleIdentity {
		return reply.Reply{}, fault.Field("account", "CI jobs have no tokens: they log in with their id tokens.")
	}
	k.AccountID = account.ID
	made, secret, err := a.Store.Accounts.CreateAPIToken(req.Context(), k)
	if err != nil {
		return reply.Reply{}, err
	}
	shown := tokenForm(made)
	shown.Secret = secret
	r := created(req, "create token", shown, shown.Href, tokenDetails(made)...)
	r.Header.Set("Cache-Control", "no-store")
	return r, nil
}

// tokenDetails describes a new token for the audit log, without its secret.
func tokenDetails(k access.APIToken) []slog.Attr {
	details := []slog.Attr{slog.String("account", k.Account), slog.String("name", k.Name)}
	if k.Patterns != nil {
		details = append(details, slog.Any("patterns", k.Patterns))
	}
	if k.Actions != nil {
		details = append(details, slog.Any("actions", k.Actions))
	}
	if k.Expires != nil {
		details = append(details, slog.Time("expires", k.Expires.UTC()))
	}
	return details
}

// readToken reads the fields of a token. parent is the token that creates it for the same account; nil for none. The new
// token ends with its parent.
func (a *API) readToken(req *request, b *body.Fields, parent *access.Token) access.APIToken {
	k := access.APIToken{}
	if parent != nil {
		k.Parent = parent.ID
	}
	if name := readName(b, "name", body.Required); name != nil {
		k.Name = *name
	}
	k.Expires = b.OptionalTime("expires")
	if k.Expires != nil && b.Valid("expires") && !k.Expires.After(time.Now()) {
		b.Fail("expires", "The time has passed.")
	}
	if parent != nil && b.Valid("expires") {
		own, err := a.Store.Accounts.APIToken(req.Context(), parent.ID)
		if err != nil || own.Expires != nil && (k.Expires == nil || k.Expires.After(*own.Expires)) {
			b.Fail("expires", "A token cannot create one that outlives it.")
		}
	}
	if v := b.OptionalTexts("patterns").Value; v != nil {
		k.Patterns = *v
		checkPatterns(b, k.Patterns)
	}
	if v := b.OptionalTexts("actions").Value; v != nil {
		for _, text := range *v {
			if !slices.Contains(access.Uses, access.Use(text)) {
				b.Fail("actions", `"%s" is not a valid choice.`, text)
			}
			if !slices.Contains(k.Actions, access.Use(text)) {
				k.Actions = append(k.Actions, access.Use(text))
			}
		}
		if len(*v) == 0 {
			b.Fail("actions", notEmpty)
		}
	}
	return k
}

const notEmpty = "This list may not be empty. Use null for a token without this limit."

func checkPatterns(b *body.Fields, patterns []string) {
	tooLong := func(p string) bool { return len(p) > maxTokenPattern || !pulp.ValidText(p) }
	switch {
	case len(patterns) == 0:
		b.Fail("patterns", notEmpty)
	case len(patterns) > maxTokenPatterns:
		b.Fail("patterns", "Ensure this field has no more than %d elements.", maxTokenPatterns)
	case slices.ContainsFunc(patterns, tooLong):
		b.Fail("patterns", "Ensure that the patterns have no more than %d characters.", maxTokenPattern)
	}
}

// tokenOwner returns the other account with a name, if the caller may create tokens for it. Callers without permission
// cannot distinguish accounts from absent names.
func (a *API) tokenOwner(req *request, name string) (pulp.User, error) {
	u, err := a.Store.Accounts.UserByName(req.Context(), name)
	if err != nil && !fault.Is(err, fault.NotFound) {
		return u, err
	}
	absent := err != nil
	if !administers(req) {
		if absent || u.Kind != pulp.Robot {
			return u, errDenied
		}
		return u, a.requireRobotManager(req, u)
	}
	if absent {
		return u, fault.Field("account", "Object with username=%s does not exist.", name)
	}
	return u, nil
}

// requireRobotManager returns an error unless the caller may manage the roles on the namespace of a robot.
func (a *API) requireRobotManager(req *request, robot pulp.User) error {
	namespace, _, _ := strings.Cut(robot.Username, pulp.RobotSeparator)
	on := access.Object{Kind: access.Namespace, Name: namespace, Exists: true, Private: true}
	return a.require(req, access.ManageRoles, on, robot.NamespaceID)
}

func (a *API) deleteToken(req *request) (reply.Reply, error) {
	k, err := findByPath(a, a.apiTokens(), req)
	if err == nil {
		err = a.Store.Accounts.DeleteAPIToken(req.Context(), k.ID)
	}
	if err != nil {
		return reply.Reply{}, err
	}
	req.audit("delete token", pulp.Href(pulp.TokenCollection, k.ID))
	return reply.Reply{Status: http.StatusNoContent}, nil
}
