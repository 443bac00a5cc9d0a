package api_test

import (
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/countersign/countersign/api"
	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/audit/audittest"
	"github.com/countersign/countersign/internal/auth"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/taskstore"
)

// audited is an entry of the audit log in the log of the server.
type audited struct {
	Who, Kind, Action, Object, Result string
	Status                            int
	Task                              string
}

// withAudit sets an audit log whose entries go to entries.
func withAudit(entries *audittest.Recorder) func(*api.Options) {
	return func(o *api.Options) {
		o.Audit, o.Upstream = entries.Log(), true
		o.Logins = &api.PersonLogins{Login: func(*http.Request, string, string) (auth.PersonLogin, error) {
			return auth.PersonLogin{Account: pulp.User{ID: 77, Username: "dana"}}, nil
		}}
	}
}

// mutation is a call of a route that changes something.
type mutation struct {
	path   string
	body   string
	status int // of an administrator; 0: a success
	// outsider is the status of a caller without rights; 0: 403. Objects that the caller does not see are not found.
	outsider int
	reads    bool // only refusals have an entry
	person   bool // the call logs a person in, who is the actor
}

// mutations returns a call for each route that can change something, by its method and path.
func (m *mirrors) mutations() map[string]mutation {
	push, full, empty := m.repoHref(), href(m.full), href(m.empty)
	distribution := m.results("distributions/container/container/?base_path=acme/app", "pulp_href")[0]
	namespace := m.results("pulp_container/namespaces/?name=acme", "pulp_href")[0]
	version := fmt.Sprintf("%sversions/1/", full)
	waiting := func() string {
		k, err := m.store.Tasks.CreateTask(m.t.Context(), taskstore.NewTask{Name: "x", Origin: taskstore.OriginCommand, Args: struct{}{}})
		if err != nil {
			m.t.Fatal(err)
		}
		return pulp.Href(pulp.TaskCollection, k.ID)
	}
	ended := waiting()
	m.expect(call{method: http.MethodPatch, path: ended, json: `{"state":"canceled"}`}, http.StatusOK, "")
	label, tag := `{"key":"k","value":"v"}`, fmt.Sprintf(`{"tag":"new","digest":"%s"}`, m.manifest)
	units := fmt.Sprintf(`{"content_units":["%s"]}`, m.results(pulp.TagCollection+"?name=latest", "pulp_href")[0])
	copied := fmt.Sprintf(`{"source_repository":"%s"}`, full)
	sign := fmt.Sprintf(`{"manifest_signing_service":"%s","tags_list":["latest"]}`, m.serviceHref())
	remote := m.remoteHref()
	const repositories = "/pulp/api/v3/repositories/container/"
	all := map[string]mutation{
		"POST /pulp/api/v3/distributions/container/container/": {
			path: "distributions/container/container/", body: `{"name":"acme/n","base_path":"acme/n","repository":"` + empty + `"}`,
		},
		"DELETE /pulp/api/v3/distributions/container/container/{}/": {path: distribution},
		"PATCH /pulp/api/v3/distributions/container/container/{}/":  {path: distribution, body: `{"description":"x"}`},
		"PUT /pulp/api/v3/distributions/container/container/{}/": {
			path: distribution, body: `{"name":"acme/app","base_path":"acme/app","description":"y"}`,
		},
		"POST /pulp/api/v3/distributions/container/container/{}/set_label/":   {path: distribution + "set_label/", body: label},
		"POST /pulp/api/v3/distributions/container/container/{}/unset_label/": {path: distribution + "unset_label/", body: `{"key":"k"}`},
		"POST /pulp/api/v3/oidc/login/": {
			path: "oidc/login/", body: `{"id_token":"x","challenge":"y"}`, outsider: http.StatusOK, person: true,
		},
		"POST /pulp/api/v3/orphans/cleanup/":                {path: "orphans/cleanup/", body: `{}`},
		"POST /pulp/api/v3/pulp_container/namespaces/":      {path: "pulp_container/namespaces/", body: `{"name":"new"}`},
		"DELETE /pulp/api/v3/pulp_container/namespaces/{}/": {path: namespace},
		"POST /pulp/api/v3/remotes/container/container/": {
			path: "remotes/container/container/", body: `{"name":"acme/r","url":"https://h.example","upstream_name":"a"}`,
		},
		"DELETE /pulp/api/v3/remotes/container/container/{}/": {path: remote, outsider: 404},
		"PATCH /pulp/api/v3/remotes/container/container/{}/":  {path: remote, body: `{"rate_limit":7}`, outsider: 404},
		"PUT /pulp/api/v3/remotes/container/container/{}/": {
			path: remote, body: `{"name":"acme/remote","url":"https://h.example","upstream_name":"b"}`, outsider: 404,
		},
		"POST /pulp/api/v3/remotes/container/container/{}/set_label/":   {path: remote + "set_label/", body: label, outsider: 404},
		"POST /pulp/api/v3/remotes/container/container/{}/unset_label/": {path: remote + "unset_label/", body: `{"key":"k"}`, outsider: 404},
		"PATCH " + repositories + "container-push/{}/":                  {path: push, body: `{"description":"x"}`},
		"PUT " + repositories + "container-push/{}/":                    {path: push, body: `{"name":"acme/app","description":"y"}`},
		"POST " + repositories + "container-push/{}/migrate/":           {path: push + "migrate/", body: `{}`},
		"POST " + repositories + "container-push/{}/remove_image/": {
			path: push + "remove_image/", body: fmt.Sprintf(`{"digest":"%s"}`, m.manifest),
		},
		"POST " + repositories + "container-push/{}/remove_signatures/": {
			path: push + "remove_signatures/", body: `{"signed_with_key_id":"` + serviceKey[24:] + `"}`,
		},
		"POST " + repositories + "container-push/{}/rollback/":           {path: push + "rollback/", body: `{"version":1}`},
		"POST " + repositories + "container-push/{}/sign/":               {path: push + "sign/", body: sign},
		"POST " + repositories + "container-push/{}/tag/":                {path: push + "tag/", body: tag},
		"POST " + repositories + "container-push/{}/untag/":              {path: push + "untag/", body: `{"tag":"latest"}`},
		"POST " + repositories + "container-push/{}/verify/":             {path: push + "verify/", body: `{"tag":"latest"}`, reads: true},
		"DELETE " + repositories + "container-push/{}/versions/{}/":      {path: push + "versions/1/", status: 403},
		"POST " + repositories + "container-push/{}/versions/{}/repair/": {path: push + "versions/1/repair/", body: `{}`},
		"POST " + repositories + "container/":                            {path: repositories + "container/", body: `{"name":"acme/made"}`},
		"DELETE " + repositories + "container/{}/":                       {path: full, outsider: 404},
		"PATCH " + repositories + "container/{}/":                        {path: full, body: `{"description":"x"}`, outsider: 404},
		"PUT " + repositories + "container/{}/":                          {path: full, body: `{"name":"acme/full","description":"y"}`, outsider: 404},
		"POST " + repositories + "container/{}/add/":                     {path: full + "add/", body: units, outsider: 404},
		"POST " + repositories + "container/{}/remove/":                  {path: full + "remove/", body: units, outsider: 404},
		"POST " + repositories + "container/{}/copy_manifests/":          {path: empty + "copy_manifests/", body: copied, outsider: 404},
		"POST " + repositories + "container/{}/copy_tags/":               {path: empty + "copy_tags/", body: copied, outsider: 404},
		"POST " + repositories + "container/{}/rollback/":                {path: full + "rollback/", body: `{"version":0}`, outsider: 404},
		"POST " + repositories + "container/{}/set_label/":               {path: full + "set_label/", body: label, outsider: 404},
		"POST " + repositories + "container/{}/unset_label/":             {path: full + "unset_label/", body: `{"key":"k"}`, outsider: 404},
		"POST " + repositories + "container/{}/sign/":                    {path: full + "sign/", body: `{"manifest_signing_service":"` + m.serviceHref() + `","future_base_path":"acme/full"}`, outsider: 404},
		"POST " + repositories + "container/{}/sync/":                    {path: full + "sync/", body: `{}`, outsider: 404},
		"POST " + repositories + "container/{}/tag/":                     {path: full + "tag/", body: tag, outsider: 404},
		"POST " + repositories + "container/{}/untag/":                   {path: full + "untag/", body: `{"tag":"latest"}`, outsider: 404},
		"POST " + repositories + "container/{}/verify/":                  {path: full + "verify/", body: `{"tag":"latest"}`, reads: true, outsider: 404},
		"DELETE " + repositories + "container/{}/versions/{}/":           {path: version, outsider: 404},
		"POST " + repositories + "container/{}/versions/{}/repair/":      {path: version + "repair/", body: `{}`, outsider: 404},
		"PATCH /pulp/api/v3/task-groups/{}/": {
			path: "task-groups/" + pulp.NewID() + "/", body: `{"state":"canceled"}`, status: 404, outsider: 404,
		},
		"POST /pulp/api/v3/tasks/purge/": {path: "tasks/purge/", body: `{}`},
		"DELETE /pulp/api/v3/tasks/{}/":  {path: ended, outsider: 404},
		"PATCH /pulp/api/v3/tasks/{}/":   {path: waiting(), body: `{"state":"canceled"}`, outsider: 404},
		"POST /pulp/api/v3/repair/":      {path: "repair/", body: `{}`},
		"POST /pulp/api/v3/repositories/reclaim_space/": {
			path: "repositories/reclaim_space/", body: `{"repo_hrefs":["*"]}`, status: 400, // there is an upstream
		},
		"POST /pulp/api/v3/upstream/adopt/":   {path: "upstream/adopt/", body: `{"pattern":"*"}`},
		"POST /pulp/api/v3/upstream/compare/": {path: "upstream/compare/", body: `{}`},
	}
	maps.Copy(all, m.accountMutations())
	maps.Copy(all, m.pullThroughMutations())
	for _, collection := range []string{pulp.BlobCollection, pulp.ManifestCollection, pulp.SignatureCollection, pulp.TagCollection} {
		unit := m.results(collection+"?repository_version="+push+"versions/1/", "pulp_href")
		if collection == pulp.SignatureCollection {
			unit = m.results(collection, "pulp_href")
		}
		all["POST "+pulp.Root+collection+"{}/set_label/"] = mutation{path: unit[0] + "set_label/", body: label}
		all["POST "+pulp.Root+collection+"{}/unset_label/"] = mutation{path: unit[0] + "unset_label/", body: `{"key":"k"}`}
	}
	for collection, object := range map[string]string{
		"distributions/container/container/": distribution, "remotes/container/container/": remote, "repositories/container/container/": full,
		"pulp_container/namespaces/": namespace, "repositories/container/container-push/": push, "tasks/": waiting(),
		"signing-services/": m.serviceHref(), pulp.PullThroughCollection: pulp.Href(pulp.PullThroughCollection, m.cache().ID),
		pulp.PullThroughRemoteCollection: pulp.Href(pulp.PullThroughRemoteCollection, m.cache().RemoteID),
	} {
		_, model, _ := strings.Cut(pulp.PRN(collection, ""), ":")
		role := strings.Replace(strings.TrimSuffix(model, ":"), "pushrepository", "repository", 1) + "_owner"
		body := `{"role":"` + role + `","users":["carol"]}`
		outsider := http.StatusNotFound
		if slices.Contains([]string{distribution, namespace, push, m.serviceHref()}, object) || collection == pulp.PullThroughCollection {
			outsider = http.StatusForbidden
		}
		for _, action := range []string{"add_role/", "remove_role/"} {
			all["POST "+pulp.Root+collection+"{}/"+action] = mutation{path: object + action, body: body, outsider: outsider}
		}
	}
	return all
}

// accountMutations are the mutations of users, groups and roles.
func (m *mirrors) accountMutations() map[string]mutation {
	made := func(path, body string) string {
		r := m.expect(call{method: http.MethodPost, path: path, json: body}, http.StatusCreated, "")
		return fmt.Sprint(r.body.(map[string]any)["pulp_href"])
	}
	user, doomed := made("users/", `{"username":"dora"}`), made("users/", `{"username":"doomed"}`)
	group, last := made("groups/", `{"name":"g1"}`), made("groups/", `{"name":"g2"}`)
	role := made("roles/", `{"name":"r1","permissions":["core.view_task"]}`)
	const grant = `{"role":"core.task_viewer","content_object":null}`
	const hook = `","url":"https://receiver.example/","patterns":["*"]}`
	webhook := made("webhooks/", `{"name":"w1`+hook)
	delivered := made(webhook+"ping/", ``)
	userRole, groupRole := made(user+"roles/", grant), made(group+"roles/", grant)
	m.expect(call{method: http.MethodPost, path: last + "users/", json: `{"username":"dora"}`}, http.StatusCreated, "")
	viewer, other := `{"role":"core.group_viewer","users":["carol"]}`, `{"role":"core.group_viewer","content_object":null}`
	return map[string]mutation{
		"POST /pulp/api/v3/webhooks/":                            {path: "webhooks/", body: `{"name":"w2` + hook},
		"PATCH /pulp/api/v3/webhooks/{}/":                        {path: webhook, body: `{"patterns":["acme/*"]}`, outsider: 404},
		"PUT /pulp/api/v3/webhooks/{}/":                          {path: webhook, body: `{"name":"w1` + hook, outsider: 404},
		"DELETE /pulp/api/v3/webhooks/{}/":                       {path: made("webhooks/", `{"name":"w3`+hook), outsider: 404},
		"POST /pulp/api/v3/webhooks/{}/ping/":                    {path: webhook + "ping/", outsider: 404},
		"POST /pulp/api/v3/webhooks/{}/deliveries/{}/redeliver/": {path: delivered + "redeliver/", outsider: 404},
		"POST /pulp/api/v3/webhooks/{}/add_role/": {
			path: webhook + "add_role/", body: `{"role":"countersign.webhook_viewer","users":["dora"]}`, outsider: 404,
		},
		"POST /pulp/api/v3/webhooks/{}/remove_role/": {
			path: webhook + "remove_role/", body: `{"role":"countersign.webhook_viewer","users":["dora"]}`, outsider: 404,
		},
		"POST /pulp/api/v3/users/":                 {path: "users/", body: `{"username":"new"}`},
		"PATCH /pulp/api/v3/users/{}/":             {path: user, body: `{"first_name":"D"}`, outsider: 404},
		"PUT /pulp/api/v3/users/{}/":               {path: user, body: `{"username":"dora","last_name":"D"}`, outsider: 404},
		"DELETE /pulp/api/v3/users/{}/":            {path: doomed, outsider: 404},
		"POST /pulp/api/v3/users/{}/roles/":        {path: user + "roles/", body: other, outsider: 404},
		"DELETE /pulp/api/v3/users/{}/roles/{}/":   {path: userRole, outsider: 404},
		"POST /pulp/api/v3/groups/":                {path: "groups/", body: `{"name":"g3"}`},
		"PATCH /pulp/api/v3/groups/{}/":            {path: group, body: `{"name":"g4"}`, outsider: 404},
		"PUT /pulp/api/v3/groups/{}/":              {path: group, body: `{"name":"g5"}`, outsider: 404},
		"DELETE /pulp/api/v3/groups/{}/":           {path: made("groups/", `{"name":"g6"}`), outsider: 404},
		"POST /pulp/api/v3/groups/{}/users/":       {path: group + "users/", body: `{"username":"carol"}`, outsider: 404},
		"DELETE /pulp/api/v3/groups/{}/users/{}/":  {path: last + "users/" + strings.Split(user, "/")[5] + "/", outsider: 404},
		"POST /pulp/api/v3/groups/{}/roles/":       {path: group + "roles/", body: other, outsider: 404},
		"DELETE /pulp/api/v3/groups/{}/roles/{}/":  {path: groupRole, outsider: 404},
		"POST /pulp/api/v3/groups/{}/add_role/":    {path: group + "add_role/", body: viewer, outsider: 404},
		"POST /pulp/api/v3/groups/{}/remove_role/": {path: group + "remove_role/", body: viewer, outsider: 404},
		"POST /pulp/api/v3/roles/":                 {path: "roles/", body: `{"name":"r2","permissions":["core.view_task"]}`},
		"PATCH /pulp/api/v3/roles/{}/":             {path: role, body: `{"description":"x"}`},
		"PUT /pulp/api/v3/roles/{}/":               {path: role, body: `{"name":"r1","permissions":["core.delete_task"]}`},
		"POST /pulp/api/v3/tokens/":                {path: "tokens/", body: `{"name":"x","account":"admin"}`},
		"DELETE /pulp/api/v3/tokens/{}/":           {path: made("tokens/", `{"name":"y"}`), outsider: 404},
		"POST /pulp/api/v3/robots/":                {path: "robots/", body: `{"name":"x","namespace":"acme"}`},
		"DELETE /pulp/api/v3/robots/{}/":           {path: made("robots/", `{"name":"y","namespace":"acme"}`), outsider: 404},
		"DELETE /pulp/api/v3/roles/{}/":            {path: made("roles/", `{"name":"r3","permissions":["core.view_task"]}`)},
	}
}

// mutatingRoutes returns the routes of testdata/routes.tsv that can change something.
func mutatingRoutes(t *testing.T) []string {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("testdata", "routes.tsv"))
	if err != nil {
		t.Fatal(err)
	}
	parameter := regexp.MustCompile(`\{[^/]+\}`)
	var all []string
	for _, line := range strings.Split(strings.TrimSpace(string(raw)), "\n")[1:] {
		fields := strings.Split(line, "\t")
		if fields[1] != http.MethodGet {
			all = append(all, fields[1]+" "+parameter.ReplaceAllString(fields[2], "{}"))
		}
	}
	slices.Sort(all)
	return all
}

// TestEveryMutatingRouteIsAudited calls each route that can change something as a caller without rights and as an
// administrator. Each call has exactly one entry, and both have the same action. A new route needs a row in mutations.
func TestEveryMutatingRouteIsAudited(t *testing.T) {
	t.Parallel()
	lines := &audittest.Recorder{}
	m := newMirrors(t, withAudit(lines))
	calls := m.mutations()
	audittest.Take[audited](t, lines)
	routes := mutatingRoutes(t)
	slices.SortStableFunc(routes, func(x, y string) int { // deletions and removals are the last
		last := func(route string) bool {
			return strings.HasPrefix(route, "DELETE") || strings.HasSuffix(route, "/remove_role/")
		}
		switch {
		case last(x) == last(y):
			return 0
		case last(x):
			return 1
		}
		return -1
	})
	for i, route := range routes {
		c, ok := calls[route]
		if !ok {
			t.Errorf("%s: mutations has no call of this route", route)
			continue
		}
		delete(calls, route)
		method, _, _ := strings.Cut(route, " ")
		outsider := fmt.Sprint("outsider", i) // equal refusals of one caller would be counted
		if _, err := m.store.Accounts.PutUser(t.Context(), outsider, "x", false, true); err != nil {
			t.Fatal(err)
		}
		send := func(user string) (int, []audited) {
			request := call{method: method, path: c.path, user: user}
			if c.body != "" {
				request.json = c.body
			}
			r := m.do(request)
			return r.StatusCode, audittest.Take[audited](t, lines)
		}
		status, refused := send(outsider)
		want := c.outsider
		if want == 0 {
			want = http.StatusForbidden
		}
		if status != want {
			t.Errorf("%s as a caller without rights: status %d, want %d", route, status, want)
		}
		wantOne(t, route, outsider, status, c, refused)
		status, done := send("admin")
		if ok := status < 300; c.status == 0 && !ok || c.status != 0 && status != c.status {
			t.Errorf("%s as an administrator: status %d", route, status)
		}
		wantOne(t, route, "admin", status, c, done)
		if len(done) == 1 && len(refused) == 1 && done[0].Action != refused[0].Action {
			t.Errorf("%s: the action of a change is %q, that of its refusal %q", route, done[0].Action, refused[0].Action)
		}
	}
	for route := range calls {
		t.Errorf("%s: there is no such route", route)
	}
}

// wantOne checks the entries of a call.
func wantOne(t *testing.T, route, user string, status int, c mutation, got []audited) {
	t.Helper()
	result := "done"
	switch {
	case status == http.StatusForbidden:
		result = "denied"
	case c.reads:
		if len(got) > 0 {
			t.Errorf("%s as %s: entries of a call that reads: %+v", route, user, got)
		}
		return
	case status >= http.StatusBadRequest:
		result = "failed"
	}
	kind := "user"
	if c.person {
		user, kind = "dana", "external"
	}
	if len(got) != 1 || got[0].Who != user || got[0].Kind != kind || got[0].Result != result || got[0].Status != status ||
		got[0].Action == "" || got[0].Object == "" {
		t.Errorf("%s as %s: status %d, entries %+v, want one of the result %s", route, user, status, got, result)
		return
	}
	if status == http.StatusAccepted && got[0].Task == "" {
		t.Errorf("%s as %s: the entry of a task does not name it", route, user)
	}
}

// TestRefusalsAreAudited checks the entries of refused logins and of refused requests that read, and that other
// requests have none.
func TestRefusalsAreAudited(t *testing.T) {
	t.Parallel()
	lines := &audittest.Recorder{}
	w := newWorld(t, withAudit(lines))
	repository := w.repoHref()
	w.hide("acme/app")
	for name, tt := range map[string]struct {
		call   call
		status int
		want   []audited
	}{
		"no credentials": {call: call{path: "tasks/", user: "-"}, status: 401},
		"a wrong password": {
			call: call{path: "tasks/", user: "mallory"}, status: 401,
			want: []audited{{Who: "anonymous", Kind: "anonymous", Action: "login", Object: "mallory", Result: "denied", Status: 401}},
		},
		"a user name that no account can have": {
			call: call{method: http.MethodPost, path: "tasks/purge/", user: strings.Repeat("x", 151)}, status: 401,
			want: []audited{{Who: "anonymous", Kind: "anonymous", Action: "login", Result: "denied", Status: 401}},
		},
		"a list for administrators": {
			call: call{path: "audit/", user: "carol"}, status: 403,
			want: []audited{{Who: "carol", Kind: "user", Action: "view audit log", Object: "/pulp/api/v3/audit/", Result: "denied", Status: 403}},
		},
		"a page of another origin": {
			call: call{method: http.MethodPost, path: "tasks/purge/", header: map[string]string{"Sec-Fetch-Site": "cross-site"}}, status: 403,
			want: []audited{{
				Who: "anonymous", Kind: "anonymous", Action: "purge tasks", Object: "/pulp/api/v3/tasks/purge/", Result: "denied", Status: 403,
			}},
		},
		"an invalid body": {
			call: call{method: http.MethodPost, path: "tasks/purge/", json: `{"x":1}`}, status: 400,
			want: []audited{{Who: "admin", Kind: "user", Action: "purge tasks", Object: "/pulp/api/v3/tasks/purge/", Result: "failed", Status: 400}},
		},
		"a path that names no object": {
			call: call{method: http.MethodDelete, path: "tasks/" + strings.Repeat("x", 5000) + "/"}, status: 404,
			want: []audited{{Who: "admin", Kind: "user", Action: "delete task", Object: "/pulp/api/v3/tasks/:id/", Result: "failed", Status: 404}},
		},
		"an object that the caller does not see": {call: call{path: repository, user: "carol"}, status: 404},
		"a method that a path does not have":     {call: call{method: http.MethodPut, path: "tasks/"}, status: 405},
		"an unknown path":                        {call: call{method: http.MethodPost, path: "nothing/"}, status: 404},
		"a read":                                 {call: call{path: "tasks/"}, status: 200},
		"OPTIONS":                                {call: call{method: http.MethodOptions, path: "tasks/purge/"}, status: 200},
	} {
		if got := w.do(tt.call).StatusCode; got != tt.status {
			t.Errorf("%s: status %d, want %d", name, got, tt.status)
		}
		if diff := cmp.Diff(tt.want, audittest.Take[audited](t, lines)); diff != "" {
			t.Errorf("%s: entries (-want +got):\n%s", name, diff)
		}
	}
}

// TestAuditList reads the audit log over REST.
func TestAuditList(t *testing.T) {
	t.Parallel()
	var log *audit.Log
	w := newWorld(t, func(o *api.Options) {
		log = audit.New(audit.Options{Log: slog.New(slog.DiscardHandler), Rows: o.Store.Audits})
		o.Audit = log
	})
	w.expect(call{method: http.MethodPost, path: "pulp_container/namespaces/", json: `{"name":"new"}`}, http.StatusCreated, "")
	w.expect(call{method: http.MethodPost, path: "pulp_container/namespaces/", json: `{"name":"other"}`, user: "carol"}, http.StatusForbidden, "")
	w.expect(call{path: "audit/", user: "carol"}, http.StatusForbidden, "")
	if err := log.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"view audit log", "create namespace", "create namespace"}, w.results("audit/", "action")); diff != "" {
		t.Errorf("actions (-want +got):\n%s", diff)
	}
	admin, err := w.store.Accounts.UserByName(t.Context(), "admin")
	if err != nil {
		t.Fatal(err)
	}
	first := w.get("audit/?ordering=at&limit=1")["results"].([]any)[0].(map[string]any)
	href := fmt.Sprint(first["pulp_href"])
	for field, want := range map[string]any{
		"actor": "admin", "actor_href": pulp.UserHref(admin.ID), "actor_kind": "user", "identity": "", "address": "127.0.0.1",
		"object": w.results("pulp_container/namespaces/?name=new", "pulp_href")[0], "result": "done", "status": 201.0, "count": 1.0,
		"at": first["pulp_created"], "prn": "prn:countersign.auditentry:" + strings.Split(href, "/")[5],
	} {
		if first[field] != want {
			t.Errorf("%s = %v, want %v", field, first[field], want)
		}
	}
	if got := w.get(href)["action"]; got != "create namespace" {
		t.Errorf("the entry at its href has the action %v", got)
	}
	for query, want := range map[string][]string{
		"actor=carol":                                           {"denied", "denied"},
		"actor__in=carol,nobody":                                {"denied", "denied"},
		"actor=carol&action=create namespace":                   {"denied"},
		"actor_kind=user&result=done":                           {"done"},
		"result__in=done,failed":                                {"done"},
		"object__startswith=/pulp/api/v3/aud":                   {"denied"},
		"correlation_id=" + fmt.Sprint(first["correlation_id"]): {"done"},
		"at__lte=" + fmt.Sprint(first["at"]):                    {"done"},
		"at__gt=2999-01-01T00:00:00Z":                           {},
		"ordering=-result,at":                                   {"done", "denied", "denied"},
	} {
		if diff := cmp.Diff(want, w.results("audit/?"+strings.ReplaceAll(query, " ", "%20"), "result")); diff != "" {
			t.Errorf("%s (-want +got):\n%s", query, diff)
		}
	}
	w.expect(call{path: "audit/?result=unknown"}, http.StatusBadRequest, "")
	w.expect(call{path: "audit/?details=x"}, http.StatusBadRequest, "")
	w.expect(call{path: href, user: "carol"}, http.StatusForbidden, "")
	for _, method := range []string{http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete} {
		w.expect(call{method: method, path: href, json: `{}`}, http.StatusMethodNotAllowed, "")
	}
}
