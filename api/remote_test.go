package api_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/countersign/countersign/api"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/taskstore"
	"github.com/countersign/countersign/tasks"
)

func TestEditRemote(t *testing.T) {
	t.Parallel()
	m := newMirrors(t)
	if _, err := m.store.Catalog.CreateRemote(
		t.Context(), pulp.Remote{Name: "acme/other", URL: "https://h.example", UpstreamName: "x", Policy: pulp.Immediate}, 0,
	); err != nil {
		t.Fatal(err)
	}
	list := func(v ...string) tasks.Optional[[]string] {
		return tasks.Optional[[]string]{Set: true, Value: &v}
	}
	for name, c := range map[string]struct {
		method, body string
		fields       *tasks.RemoteFields // nil: no change
	}{
		"no fields": {body: `{}`},
		"present values": {
			body: `{"name":"acme/remote","url":"https://upstream.example","upstream_name":"library/app","policy":"immediate","includes":["v*"],"excludes":null,"username":"robot","password":"tellnobody","tls_validation":true}`,
		},
		"PUT with present values": {
			method: http.MethodPut,
			body:   `{"name":"acme/remote","url":"https://upstream.example","upstream_name":"library/app"}`,
		},
		"an older name without new patterns": {body: `{"include_tags":["v*"]}`},
		"older names as null":                {body: `{"include_tags":null,"exclude_tags":null}`},
		"fields that are not settable":       {body: `{"hidden_fields":[{"name":"password","is_set":false}]}`},
		"other patterns": {
			body: `{"includes":["w*"]}`, fields: &tasks.RemoteFields{Includes: list("w*")},
		},
		"no patterns": {
			body: `{"includes":null}`, fields: &tasks.RemoteFields{Includes: tasks.Optional[[]string]{Set: true}},
		},
		"an older name adds": {
			body:   `{"include_tags":["v*","w*"],"exclude_tags":["x"]}`,
			fields: &tasks.RemoteFields{Includes: list("v*", "w*"), Excludes: list("x")},
		},
		"an older name adds to new patterns": {
			body: `{"includes":["a"],"include_tags":["b"]}`, fields: &tasks.RemoteFields{Includes: list("a", "b")},
		},
		"another password": {
			body:   `{"password":" x "}`,
			fields: &tasks.RemoteFields{Password: tasks.Optional[string]{Set: true, Value: ptr(" x ")}},
		},
		"no password": {
			body: `{"password":null}`, fields: &tasks.RemoteFields{Password: tasks.Optional[string]{Set: true}},
		},
		"another policy": {body: `{"policy":"streamed"}`, fields: &tasks.RemoteFields{Policy: ptr(pulp.Streamed)}},
	} {
		t.Run(name, func(t *testing.T) {
			if c.method == "" {
				c.method = http.MethodPatch
			}
			edit, before := call{method: c.method, path: m.remoteHref(), json: c.body}, len(m.dispatcher.specs)
			if c.fields == nil {
				if r := m.expect(
					edit, 200, "",
				); r.body.(map[string]any)["name"] != "acme/remote" || len(m.dispatcher.specs) != before {
					t.Errorf("body %s", r.raw)
				}
				return
			}
			m.expect(edit, 202, "")
			want := tasks.Spec{
				Name: tasks.Edit, Immediate: true, Resources: []taskstore.Resource{{Href: m.remoteHref(), Exclusive: true}},
				Args: tasks.EditArgs{Collection: pulp.RemoteCollection, ID: m.remote.ID, Remote: c.fields},
			}
			m.dispatcher.wantFrom(t, 1)
			if diff := cmp.Diff(want, m.dispatcher.last()); diff != "" {
				t.Errorf("task (-want +got):\n%s", diff)
			}
		})
	}
	m.expect(
		call{method: http.MethodPatch, path: m.remoteHref(), json: `{"name":"acme/other"}`}, 400,
		`{"name":["This field must be unique."]}`,
	)
	m.expect(call{method: http.MethodDelete, path: m.remoteHref()}, 202, "")
	want := tasks.Spec{
		Name: tasks.Delete, Immediate: true, Resources: []taskstore.Resource{{Href: m.remoteHref(), Exclusive: true}},
		Args: tasks.ObjectArgs{Collection: pulp.RemoteCollection, ID: m.remote.ID},
	}
	m.dispatcher.wantFrom(t, 1)
	if diff := cmp.Diff(want, m.dispatcher.last()); diff != "" {
		t.Errorf("task (-want +got):\n%s", diff)
	}
}

func TestPermissionsOnRemotes(t *testing.T) {
	t.Parallel()
	m := newMirrors(t)
	make := func(name string) string {
		return `{"name":"` + name + `","url":"https://h.example","upstream_name":"x"}`
	}
	absent := `{"detail":"No ContainerRemote matches the given query."}`
	for name, c := range map[string]struct {
		call   call
		status int
		body   string
	}{
		"its owner reads": {call: call{path: m.remoteHref(), user: "acme"}, status: 200},
		"another user reads": {
			call: call{path: m.remoteHref(), user: "carol"}, status: 404, body: absent,
		},
		"another user edits": {
			call: call{method: http.MethodPatch, path: m.remoteHref(), user: "carol", json: `{bad`}, status: 404, body: absent,
		},
		"another user deletes": {
			call: call{method: http.MethodDelete, path: m.remoteHref(), user: "carol"}, status: 404, body: absent,
		},
		"another user sets a label": {
			call: call{
				method: http.MethodPost, path: m.remoteHref() + "set_label/", user: "carol", json: `{"key":"a","value":"b"}`,
			},
			status: 404, body: absent,
		},
		"in the own namespace": {
			call: call{method: http.MethodPost, path: pulp.RemoteCollection, user: "carol", json: make("carol/x")}, status: 201,
		},
		"in another namespace": {
			call: call{method: http.MethodPost, path: pulp.RemoteCollection, user: "carol", json: make("acme/x")}, status: 403,
		},
		"its owner renames it into another namespace": {
			call: call{method: http.MethodPatch, path: m.remoteHref(), user: "acme", json: `{"name":"carol/y"}`}, status: 403,
		},
		"a repository with another user's remote": {
			call: call{
				method: http.MethodPost, path: pulp.ContainerCollection, user: "carol",
				json: `{"name":"carol/r","remote":"` + m.remoteHref() + `"}`,
			},
			status: 400, body: `{"remote":["Invalid hyperlink - Object does not exist."]}`,
		},
		"a sync from another user's remote": {
			call: call{
				method: http.MethodPost, path: href(m.container("carol/s", "")) + "sync/", user: "carol",
				json: `{"remote":"` + m.remoteHref() + `"}`,
			},
			status: 400, body: `{"remote":["Invalid hyperlink - Object does not exist."]}`,
		},
		"anonymous": {call: call{path: m.remoteHref(), user: "-"}, status: 401},
		"a label": {
			call: call{
				method: http.MethodPost, path: m.remoteHref() + "set_label/", user: "acme", json: `{"key":"a","value":null}`,
			},
			status: 201, body: `{"key":"a","value":null}`,
		},
		"unsetting an absent label": {
			call:   call{method: http.MethodPost, path: m.remoteHref() + "unset_label/", user: "acme", json: `{"key":"b"}`},
			status: 400, body: `{"key":["Label with the key 'b' does not exist."]}`,
		},
		"a label with invalid characters": {
			call:   call{method: http.MethodPost, path: m.remoteHref() + "set_label/", json: `{"key":"ä","value":"b"}`},
			status: 400, body: `{"key":["Key 'ä' contains non-alphanumerics."]}`,
		},
		"a label with a parenthesis": {
			call:   call{method: http.MethodPost, path: m.remoteHref() + "set_label/", json: `{"key":"a","value":"("}`},
			status: 400, body: `{"value":["Key 'a' contains value with parenthesis."]}`,
		},
		"a label without a value": {
			call: call{method: http.MethodPost, path: m.remoteHref() + "set_label/", json: `{"key":"a"}`}, status: 400,
			body: `{"value":["This field is required."]}`,
		},
		"a label without a key": {
			call: call{method: http.MethodPost, path: m.remoteHref() + "set_label/", json: `{"value":"a"}`}, status: 400,
			body: `{"key":["This field is required."]}`,
		},
		"a label with an unknown field": {
			call: call{method: http.MethodPost, path: m.remoteHref() + "unset_label/", json: `{"key":"a","foo":1}`}, status: 400,
			body: `{"foo":["Unexpected field"]}`,
		},
		"a push repository's label": {
			call: call{method: http.MethodPost, path: m.repoHref() + "unset_label/", json: `{"key":"a"}`}, status: 404,
			body: `{"detail":"Not found."}`,
		},
		"remotes of every type, staff": {
			call: call{path: "remotes/?name=acme/remote&fields=name"}, status: 200,
			body: `{"count":1,"next":null,"previous":null,"results":[{"name":"acme/remote"}]}`,
		},
		"remotes of every type, carol": {
			call: call{path: "remotes/?name=acme/remote", user: "carol"}, status: 200,
			body: `{"count":0,"next":null,"previous":null,"results":[]}`,
		},
	} {
		t.Run(name, func(t *testing.T) { m.expect(c.call, c.status, c.body) })
	}
	generic := keys(t, encoded(t, m.get("remotes/")["results"].([]any)[0]))
	for _, own := range []string{"upstream_name", "includes", "excludes", "sigstore"} {
		for _, k := range generic {
			if k == own {
				t.Errorf("the list of all types shows %s", own)
			}
		}
	}
}

// lines is a log that can be read while it is written.
type lines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// TestNoSecretIsShown proves that the secrets of a remote occur in no response, error, task or log line.
func TestNoSecretIsShown(t *testing.T) {
	t.Parallel()
	m := newMirrors(t)
	m.withWorker()
	log := &lines{}
	public, _ := url.Parse("https://registry.example:8443")
	logged := httptest.NewServer(api.Validated(t, api.New(api.Options{
		Store: m.store, Tasks: m.dispatcher, Auth: accounts{
			m.store,
		}, PublicURL: public, Log: slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	})))
	t.Cleanup(logged.Close)
	certificate, key := pair(t)
	_, otherKey := pair(t)
	const secret = "tellnobody"
	body := func(name string, more map[string]any) string {
		all := map[string]any{
			"name": name, "url": "https://upstream.example", "upstream_name": "library/app", "username": secret + "1", "password": secret + "2",
			"proxy_username": secret + "3", "proxy_password": secret + "4", "client_cert": certificate, "client_key": key,
		}
		for k, v := range more {
			all[k] = v
		}
		return encoded(t, all)
	}
	var answers strings.Builder
	for _, server := range []*httptest.Server{m.server, logged} {
		m.server = server
		name := fmt.Sprintf("acme/of-%p", server)
		r := m.expect(call{method: http.MethodPost, path: pulp.RemoteCollection, json: body(name, nil)}, 201, "")
		made, _ := r.body.(map[string]any)["pulp_href"].(string)
		all := []reply{r}
		for _, c := range []call{
			{path: made},
			{path: made + "?fields=password,username,client_key,hidden_fields"},
			{path: pulp.RemoteCollection},
			{path: "remotes/"},
			{method: http.MethodPatch, path: made, json: body(name, map[string]any{"description": "x"})},
			{method: http.MethodPatch, path: made, json: `{"username":"` + secret + `5","password":"` + secret + `6"}`},
			{method: http.MethodPatch, path: made, json: `{"client_key":"` + secret + `"}`},
			{method: http.MethodPatch, path: made, json: encoded(t, map[string]string{"client_key": otherKey})},
			{method: http.MethodPatch, path: made, json: encoded(t, map[string]string{"client_cert": certificate + key})},
			{method: http.MethodPatch, path: made, json: `{"url":"https://` + secret + `:` + secret + `@h.example"}`},
			{method: http.MethodPatch, path: made, json: `{"url":"https://` + secret + `:%zz@h.example"}`},
			{method: http.MethodPatch, path: made, json: `{"proxy_url":"http://` + secret + `:` + secret + `@h.example"}`},
			{method: http.MethodPatch, path: made, json: `{"password":["` + secret + `"]}`},
			{method: http.MethodPatch, path: made, json: `{"password":"` + secret},
			{method: http.MethodPost, path: made + "set_label/", json: `{"key":"a","value":"b"}`},
			{path: "tasks/"},
			{method: http.MethodDelete, path: made},
			{path: "tasks/"},
		} {
			all = append(all, m.do(c))
		}
		for _, r := range all {
			answers.WriteString(r.raw + "\n")
		}
	}
	shown := answers.String() + log.String()
	inner := func(text string) string { return strings.Split(strings.TrimSpace(text), "\n")[1] }
	for _, s := range []string{secret, inner(key), inner(otherKey)} {
		if at := strings.Index(shown, s); at >= 0 {
			t.Errorf("%s is shown: %s", s, shown[max(0, at-300):min(len(shown), at+100)])
		}
	}
	if !strings.Contains(
		log.String(), `action="edit remote"`,
	) || !strings.Contains(answers.String(), `{"name":"password","is_set":true}`) {
		t.Errorf("the log lacks the changes: %s", log.String())
	}
}

func TestRemotesAreFiltered(t *testing.T) {
	t.Parallel()
	m := newMirrors(t)
	for _, r := range []pulp.Remote{
		{
			Name: "acme/other", URL: "https://b.example", UpstreamName: "b", Policy: pulp.OnDemand,
			Labels: pulp.Labels{"env": ptr("prod"), "old": nil},
		},
		{
			Name: "b/third", URL: "https://a.example", UpstreamName: "a", Policy: pulp.Streamed,
			Labels: pulp.Labels{"env": ptr("test")},
		},
	} {
		if _, err := m.store.Catalog.CreateRemote(t.Context(), r, 0); err != nil {
			t.Fatal(err)
		}
	}
	const remote, other, third = "acme/remote", "acme/other", "b/third"
	ids := m.results(pulp.RemoteCollection+"?ordering=name", "prn")
	hrefs := m.results(pulp.RemoteCollection+"?ordering=name", "pulp_href")
	for _, list := range []string{"remotes/", pulp.RemoteCollection} {
		for filter, want := range map[string][]string{
			"ordering=name":           {other, remote, third},
			"ordering=-name":          {third, remote, other},
			"ordering=url":            {third, other, remote},
			"":                        {third, other, remote}, // newest first
			"name=acme/other":         {other},
			"name__iexact=ACME/Other": {other},
			"name__in=acme/other,b/third,x&ordering=name":                   {other, third},
			"name__contains=the":                                            {other},
			"name__icontains=TH&ordering=name":                              {other, third},
			"name__startswith=acme/&ordering=name":                          {other, remote},
			"name__istartswith=B":                                           {third},
			"name__regex=%5Eacme/r":                                         {remote},
			"name__iregex=THIRD$":                                           {third},
			"pulp_label_select=env&ordering=name":                           {other, third},
			"pulp_label_select=env%3Dprod":                                  {other},
			"pulp_label_select=env!%3Dprod":                                 {third},
			"pulp_label_select=env~RO":                                      {other},
			"pulp_label_select=!env":                                        {remote},
			"pulp_label_select=env,!old":                                    {third},
			"pulp_last_updated__gte=2020-01-01&name=b/third":                {third},
			"pulp_last_updated__lt=2020-01-01":                              {},
			"pulp_last_updated__range=2020-01-01,2120-01-01&name=x":         {},
			"pulp_last_updated__isnull=true":                                {},
			"prn__in=" + ids[0]:                                             {other},
			"pulp_href__in=" + hrefs[1] + "," + hrefs[2] + "&ordering=name": {remote, third},
			"q=" + url.QueryEscape(`name__startswith="acme/" AND NOT pulp_label_select=old`): {remote},
		} {
			if got := m.results(list+"?"+filter, "name"); !cmp.Equal(got, want) {
				t.Errorf("%s?%s: %v, want %v", list, filter, got, want)
			}
		}
		m.expect(call{path: list + "?pulp_last_updated=soon"}, 400, `{"pulp_last_updated":["Enter a valid date/time."]}`)
		m.expect(
			call{path: list + "?pulp_created__gte=2020-01-01"}, 400, `{"errors":["Invalid Filter: 'pulp_created__gte'"]}`,
		)
		m.expect(call{path: list + "?password=tellnobody"}, 400, `{"errors":["Invalid Filter: 'password'"]}`)
		m.expect(
			call{path: list + "?ordering=password"}, 400,
			`{"ordering":["Select a valid choice. password is not one of the available choices."]}`,
		)
		m.expect(call{path: list + "?pulp_label_select=!a%3Db"}, 400, `["Cannot use an operator with '!a'."]`)
		m.expect(call{path: list + "?pulp_label_select=a,,b"}, 400, `["Invalid search term: ''."]`)
	}
	if got := m.results(
		pulp.RemoteCollection+"?ordering=upstream_name", "name",
	); !cmp.Equal(got, []string{third, other, remote}) {
		t.Errorf("by upstream: %v", got)
	}
	if r := m.do(call{path: "remotes/", user: "carol"}); r.body.(map[string]any)["count"] != 0.0 {
		t.Errorf("carol sees %s", r.raw)
	}
}

// TestTokenHostsOfARemote proves that remotes have the field token_hosts, and that it is shown when it is set.
func TestTokenHostsOfARemote(t *testing.T) {
	t.Parallel()
	m := newMirrors(t)
	m.withWorker()
	r := m.expect(
		call{
			method: http.MethodPost, path: pulp.RemoteCollection,
			json: `{"name":"acme/tokens","url":"https://h.example","upstream_name":"x","token_hosts":["auth.example.com","[2001:db8::1]:8443"]}`,
		},
		201, "",
	)
	made, _ := r.body.(map[string]any)["pulp_href"].(string)
	wants := func(want string) {
		t.Helper()
		if got := encoded(t, m.get(made)["token_hosts"]); got != want {
			t.Errorf("token_hosts are %s, want %s", got, want)
		}
	}
	wants(`["auth.example.com","[2001:db8::1]:8443"]`)
	m.expect(call{method: http.MethodPatch, path: made, json: `{"policy":"on_demand"}`}, 202, "")
	wants(`["auth.example.com","[2001:db8::1]:8443"]`)
	m.expect(call{method: http.MethodPatch, path: made, json: `{"token_hosts":["auth.example.com:5000"]}`}, 202, "")
	m.expect(call{method: http.MethodPatch, path: made, json: `{"token_hosts":["auth.example.com:5000"]}`}, 200, "")
	wants(`["auth.example.com:5000"]`)
	for _, bad := range []string{
		`["https://auth.example.com"]`, `["auth.example.com/token"]`, `["a b"]`, `[""]`, `["user@host"]`, `["*"]`,
		`"auth.example.com"`, `[1]`,
	} {
		m.expect(call{method: http.MethodPatch, path: made, json: `{"token_hosts":` + bad + `}`}, 400, "")
	}
	wants(`["auth.example.com:5000"]`)
	for _, none := range []string{`[]`, `null`} {
		m.expect(call{method: http.MethodPatch, path: made, json: `{"token_hosts":["a.example"]}`}, 202, "")
		m.expect(call{method: http.MethodPatch, path: made, json: `{"token_hosts":` + none + `}`}, 202, "")
		wants(`null`)
		m.expect(call{method: http.MethodPatch, path: made, json: `{"token_hosts":` + none + `}`}, 200, "")
	}
}
