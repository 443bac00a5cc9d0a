package app_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/config"
	"github.com/countersign/countersign/internal/app/apptest"
	"github.com/countersign/countersign/internal/oidc"
	"github.com/countersign/countersign/internal/oidc/oidctest"
	"github.com/countersign/countersign/internal/oidclogin"
)

const loginPath = "/pulp/api/v3/oidc/login/"

// startWithLogins starts a server with logins of an issuer.
func startWithLogins(t *testing.T, i *oidctest.Issuer, change func(*config.OIDCLogin)) *apptest.Server {
	t.Helper()
	c := apptest.Load(t)
	c.PublicURL = "http://" + c.Listen
	l := &c.OIDC.Login
	l.Issuer, l.ClientID, l.CAFile, l.AllowPrivateAddresses = i.URL, oidctest.ClientID, i.CAFile(t), []string{"127.0.0.0/8"}
	l.Groups, l.AdminGroups = config.GroupMap{"idp-dev": "developers"}, []string{"idp-admin"}
	if change != nil {
		change(l)
	}
	return apptest.Start(t, c)
}

// loginAs logs a person in with the command's code.
func loginAs(t *testing.T, s *apptest.Server, i *oidctest.Issuer, device bool) (oidclogin.Result, error) {
	t.Helper()
	client, err := oidclogin.Client(i.CAFile(t))
	if err != nil {
		t.Fatal(err)
	}
	return oidclogin.Run(t.Context(), oidclogin.Options{
		Registry: s.URL, HTTP: client, Out: io.Discard, Device: device,
		Browser: func(ctx context.Context, url string) error {
			r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
			if err != nil {
				return err
			}
			res, err := client.Do(r)
			if err != nil {
				return err
			}
			return res.Body.Close()
		},
	})
}

// TestPersonLogin logs a person in, whose account and groups are those of the issuer, and refuses others.
func TestPersonLogin(t *testing.T) {
	t.Parallel()
	i := oidctest.New(t)
	s := startWithLogins(t, i, nil)
	i.SetPerson(oidctest.Claims{"preferred_username": "alice", "groups": []string{"idp-dev", "other"}})
	got, err := loginAs(t, s, i, false)
	if err != nil || got.Username != "alice" || !strings.HasPrefix(got.Token, "cst_") || time.Until(got.Expires) < 23*time.Hour {
		t.Fatalf("login = %+v, %v", got, err)
	}
	if log := s.Log.String(); !strings.Contains(log, "action=login object=alice") || strings.Contains(log, got.Token) {
		t.Errorf("audit log: %s", log)
	}
	body := s.Get(t, "/pulp/api/v3/users/?username=alice").Body
	for _, want := range []string{`"is_staff":false`, `"developers"`} {
		if !strings.Contains(strings.ReplaceAll(body, `": `, `":`), want) {
			t.Errorf("the user lacks %s: %s", want, body)
		}
	}
	i.SetPerson(oidctest.Claims{"preferred_username": "boss", "groups": []string{"idp-admin"}})
	if _, err := loginAs(t, s, i, false); err != nil {
		t.Error(err)
	}
	if body := s.Get(t, "/pulp/api/v3/users/?username=boss").Body; !strings.Contains(strings.ReplaceAll(body, `": `, `":`), `"is_staff":true`) {
		t.Errorf("a member of the administrators: %s", body)
	}
	for name, tt := range map[string]struct {
		person oidctest.Claims
		device bool
		want   string
	}{
		"name of a local account": {person: oidctest.Claims{"preferred_username": "admin"}, want: "its name belongs to another account"},
		"name of another person":  {person: oidctest.Claims{"preferred_username": "alice", "sub": "x"}, want: "its name belongs to another account"},
		"name of a rule":          {person: oidctest.Claims{"preferred_username": "oidc:app"}, want: "cannot be used here"},
		"device flow":             {person: oidctest.Claims{"preferred_username": "alice"}, device: true, want: "does not allow the device flow"},
		"refusal of the person":   {want: "access_denied"},
	} {
		i.SetPerson(tt.person)
		if got, err := loginAs(t, s, i, tt.device); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %+v, %v, want %q", name, got, err, tt.want)
		}
	}
}

// TestUsedLogins verifies that an id token and a challenge are for one login at one server.
func TestUsedLogins(t *testing.T) {
	t.Parallel()
	i := oidctest.New(t)
	s := startWithLogins(t, i, nil)
	var offer struct{ Challenge, Origin string }
	if err := json.Unmarshal([]byte(s.Get(t, loginPath).Body), &offer); err != nil || offer.Origin != s.URL {
		t.Fatalf("offer %+v, %v", offer, err)
	}
	post := func(token, challenge, want string, status int) {
		t.Helper()
		text, err := json.Marshal(map[string]string{"id_token": token, "challenge": challenge})
		if err != nil {
			t.Fatal(err)
		}
		a := s.Do(t, http.MethodPost, loginPath, "application/json", bytes.NewReader(text))
		if a.StatusCode != status || !strings.Contains(a.Body, want) {
			t.Errorf("POST = %d %s, want %d with %q", a.StatusCode, a.Body, status, want)
		}
	}
	token := i.Token(t, i.Person("alice", oidc.Nonce(offer.Challenge, s.URL)))
	post(token, offer.Challenge, `"token"`, http.StatusOK)
	post(token, offer.Challenge, "was used before", http.StatusUnauthorized)
	post(i.Token(t, i.Person("alice", oidc.Nonce("mine", s.URL))), "mine", "began at another server", http.StatusUnauthorized)
	post(i.Token(t, i.Person("alice", oidc.Nonce(offer.Challenge, "https://evil.example"))), offer.Challenge, "not accepted", http.StatusUnauthorized)
	post(i.Token(t, i.Person("alice", "")), offer.Challenge, "not accepted", http.StatusUnauthorized)
	post("", "", "This field may not be blank", http.StatusBadRequest)
	none := apptest.Start(t, apptest.Load(t))
	if a := none.Get(t, loginPath); a.StatusCode != http.StatusNotFound {
		t.Errorf("a server without logins: %d %s", a.StatusCode, a.Body)
	}
}
