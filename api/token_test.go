package api_test

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/api"
	"github.com/countersign/countersign/internal/access"
	"github.com/countersign/countersign/internal/pulp"
)

// storedTokens accepts what accounts accepts. The header "Token" has the id of the API token of the caller.
type storedTokens struct{ accounts }

func (a storedTokens) Basic(r *http.Request) (*access.Caller, error) {
	c, err := a.accounts.Basic(r)
	if id := r.Header.Get("Token"); c != nil && id != "" {
		k, err := a.store.Accounts.APIToken(r.Context(), id)
		if err != nil {
			return nil, err
		}
		c.Token = &k.Token
	}
	return c, err
}

func newTokenWorld(t *testing.T) *world {
	t.Helper()
	return newWorld(t, func(o *api.Options) { o.Auth = storedTokens{accounts{o.Store}} })
}

// madeToken is the part of a created token that tests use.
type madeToken struct {
	Href   string `json:"pulp_href"`
	Hint   string `json:"hint"`
	Secret string `json:"token"`
}

func (m madeToken) id() string { return strings.Split(m.Href, "/")[5] }

func (w *world) makeToken(as, json string) madeToken {
	w.t.Helper()
	got := w.expect(call{user: as, method: "POST", path: "tokens/", json: json}, http.StatusCreated, "")
	var made madeToken
	if err := unmarshal(got.raw, &made); err != nil {
		w.t.Fatal(err)
	}
	return made
}

func unmarshal(text string, v any) error { return json.Unmarshal([]byte(text), v) }

func TestTokens(t *testing.T) {
	t.Parallel()
	w := newTokenWorld(t)
	expires := time.Now().Add(time.Hour).UTC().Format("2006-01-02T15:04:05.000000Z")
	made := w.makeToken("carol", `{"name":"ci","expires":"`+expires+`","patterns":["acme/*"],"actions":["pull","push","pull"]}`)
	if !access.IsSecret(made.Secret) || !strings.HasPrefix(made.Secret, made.Hint) {
		t.Errorf("created: %+v", made)
	}
	shown := w.get(made.Href)
	if shown["token"] != nil || shown["account"] != "carol" || shown["expires"] != expires || shown["last_used"] != nil ||
		len(shown["actions"].([]any)) != 2 || shown["prn"] != "prn:countersign.token:"+made.id() {
		t.Errorf("shown: %v", shown)
	}
	stored, err := w.store.Accounts.APITokenByHash(t.Context(), access.HashSecret(made.Secret))
	if err != nil || stored.Account != "carol" || !slices.Equal(stored.Actions, []access.Use{access.UsePull, access.UsePush}) {
		t.Errorf("stored: %+v, %v", stored, err)
	}
	for body, want := range map[string]string{
		`{}`:                                      `{"name":["This field is required."]}`,
		`{"name":"x","expires":"2020-01-01"}`:     `{"expires":["The time has passed."]}`,
		`{"name":"x","expires":"soon"}`:           "",
		`{"name":"x","actions":["fly"]}`:          `{"actions":["\"fly\" is not a valid choice."]}`,
		`{"name":"x","actions":[]}`:               `{"actions":["This list may not be empty. Use null for a token without this limit."]}`,
		`{"name":"x","patterns":[]}`:              `{"patterns":["This list may not be empty. Use null for a token without this limit."]}`,
		`{"name":"x","patterns":[""]}`:            "",
		`{"name":"x","patterns":"acme/*"}`:        "",
		`{"name":"x","secret":"mine"}`:            `{"secret":["Unexpected field"]}`,
		`{"name":"x","account":"nobody at home"}`: `{"account":["Object with username=nobody at home does not exist."]}`,
	} {
		w.expect(call{method: "POST", path: "tokens/", json: body}, 400, want)
	}

	// Users see and create only their own tokens; administrators all.
	w.expect(call{user: "acme", path: made.Href}, 404, "")
	w.expect(call{user: "acme", method: "DELETE", path: made.Href}, 404, "")
	w.expect(call{user: "acme", path: "tokens/"}, 200, `{"count":0,"next":null,"previous":null,"results":[]}`)
	for _, account := range []string{"carol", "admin", "nobody"} {
		w.expect(call{user: "acme", method: "POST", path: "tokens/", json: `{"name":"x","account":"` + account + `"}`}, 403, "")
	}
	if made := w.makeToken("admin", `{"name":"for acme","account":"acme"}`); w.get(made.Href)["account"] != "acme" {
		t.Errorf("a token for another account: %v", w.get(made.Href))
	}
	if names := w.results("tokens/?ordering=name", "name"); !slices.Equal(names, []string{"ci", "for acme"}) {
		t.Errorf("the administrator sees the tokens %v", names)
	}
	w.expect(call{user: "carol", method: "DELETE", path: made.Href}, http.StatusNoContent, "")
	w.expect(call{user: "carol", path: made.Href}, 404, "")
	w.expect(call{user: "carol", method: "PATCH", path: made.Href, json: `{}`}, http.StatusMethodNotAllowed, "")
}

// TestTokensOfTokens checks that a token creates none that permits more than itself.
func TestTokensOfTokens(t *testing.T) {
	t.Parallel()
	w := newTokenWorld(t)
	hour := time.Now().Add(time.Hour).UTC().Format(time.RFC3339)
	later := time.Now().Add(2 * time.Hour).UTC().Format(time.RFC3339)
	soon := time.Now().Add(time.Minute).UTC().Format(time.RFC3339)
	with := func(m madeToken) map[string]string { return map[string]string{"Token": m.id()} }
	all := w.makeToken("carol", `{"name":"all"}`)
	short := w.makeToken("carol", `{"name":"short","expires":"`+hour+`"}`)
	limited := w.makeToken("carol", `{"name":"limited","patterns":["*"]}`)
	const outlives = `{"expires":["A token cannot create one that outlives it."]}`
	for _, tt := range []struct {
		by     madeToken
		json   string
		status int
		want   string
	}{
		{all, `{"name":"x"}`, 201, ""},
		{short, `{"name":"x"}`, 400, outlives},
		{short, `{"name":"x","expires":"` + later + `"}`, 400, outlives},
		{short, `{"name":"x","expires":"` + soon + `"}`, 201, ""},
		{limited, `{"name":"x","patterns":["a"]}`, 403, ""},
	} {
		w.expect(call{user: "carol", method: "POST", path: "tokens/", json: tt.json, header: with(tt.by)}, tt.status, tt.want)
	}
	for _, path := range []string{"tokens/", all.Href, "robots/"} {
		w.expect(call{user: "carol", path: path, header: with(limited)}, 403, "")
	}
	w.expect(call{user: "carol", method: "DELETE", path: all.Href, header: with(limited)}, 403, "")
	w.expect(call{user: "carol", method: "POST", path: "robots/", json: `{"name":"x","namespace":"acme"}`, header: with(limited)}, 403, "")
}

func TestRobots(t *testing.T) {
	t.Parallel()
	w := newTokenWorld(t)
	if _, err := w.store.Accounts.PutUser(t.Context(), "eve", "x", false, true); err != nil {
		t.Fatal(err)
	}
	namespace := access.Key(access.Namespace, w.repo.Distribution.NamespaceID)
	post := func(as, json string, status int, want string) reply {
		t.Helper()
		return w.expect(call{user: as, method: "POST", path: "robots/", json: json}, status, want)
	}
	post("carol", `{"name":"ci","namespace":"acme"}`, 403, "")
	post("carol", `{"name":"ci","namespace":"nowhere"}`, 403, "")
	post("admin", `{"name":"ci","namespace":"nowhere"}`, 400, `{"namespace":["Object with name=nowhere does not exist."]}`)
	w.grant("carol", access.NamespaceOwner, namespace)
	made := post("carol", `{"name":"ci","namespace":"acme","description":"builds"}`, 201, "")
	href := made.Header.Get("Location")
	shown := w.get(href)
	if shown["name"] != "acme+ci" || shown["namespace"] != "acme" || shown["description"] != "builds" || shown["is_active"] != true {
		t.Errorf("shown: %v", shown)
	}
	robot := w.storedUser("acme+ci")
	if robot.Kind != pulp.Robot || robot.Hash != "" || robot.Staff || robot.NamespaceID != w.repo.Distribution.NamespaceID {
		t.Errorf("stored: %+v", robot)
	}
	g, _, err := w.store.Accounts.Granted(t.Context(), robot.ID, access.Keys{Namespace: "acme"})
	if want := (access.Granted{Namespace: access.Locked("container.containernamespace_collaborator")}); err != nil || g != want {
		t.Errorf("the robot has %v, %v, want %v", g, err, want)
	}
	for body, want := range map[string]string{
		`{"name":"ci","namespace":"acme"}`:                                           `{"name":["This field must be unique."]}`,
		`{"name":"acme+ci","namespace":"acme"}`:                                      `{"name":["This field must be unique."]}`,
		`{"name":"other+ci","namespace":"acme"}`:                                     "",
		`{"name":"C I","namespace":"acme"}`:                                          "",
		`{"name":"b","namespace":"acme","role":"none"}`:                              `{"role":["Object with name=none does not exist."]}`,
		`{"name":"b","namespace":"acme","role":"container.containerremote_creator"}`: "",
		`{"name":"b"}`: `{"namespace":["This field is required."]}`,
	} {
		post("carol", body, 400, want)
	}
	post("carol", `{"name":"reader","namespace":"acme","role":"container.containernamespace_consumer"}`, 201, "")
	idle := post("carol", `{"name":"idle","namespace":"acme","role":null}`, 201, "").Header.Get("Location")
	for as, want := range map[string][]string{"carol": {"acme+ci", "acme+idle", "acme+reader"}, "eve": {}, "admin": {"acme+ci", "acme+idle", "acme+reader"}} {
		var list struct{ Results []struct{ Name string } }
		got := w.expect(call{user: as, path: "robots/?ordering=name&namespace=acme"}, 200, "")
		if err := unmarshal(got.raw, &list); err != nil {
			t.Fatal(err)
		}
		names := []string{}
		for _, r := range list.Results {
			names = append(names, r.Name)
		}
		if !slices.Equal(names, want) {
			t.Errorf("%s sees %v, want %v", as, names, want)
		}
	}

	// The tokens of robots are managed by the same people.
	k := w.makeToken("carol", `{"name":"job","account":"acme+ci"}`)
	w.expect(call{user: "carol", path: k.Href}, 200, "")
	w.expect(call{user: "eve", path: k.Href}, 404, "")
	w.expect(call{user: "eve", method: "POST", path: "tokens/", json: `{"name":"job","account":"acme+ci"}`}, 403, "")
	w.expect(call{user: "eve", method: "DELETE", path: href}, 404, "")
	w.expect(call{user: "carol", method: "DELETE", path: idle}, http.StatusNoContent, "")
	w.expect(call{user: "carol", method: "DELETE", path: href}, http.StatusNoContent, "")
	w.expect(call{path: k.Href}, 404, "")
}
