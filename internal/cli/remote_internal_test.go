package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	registry "github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/countersign/countersign/config"
	"github.com/countersign/countersign/internal/app/apptest"
)

// world is an installation for the tests of commands.
type world struct {
	config config.Config
	server *apptest.Server // nil: none runs
	dir    string          // the home directory of the person
}

// newWorld returns an installation with a running server.
func newWorld(t *testing.T, variables ...string) *world {
	t.Helper()
	c := apptest.Load(t, variables...)
	return &world{config: c, server: apptest.Start(t, c), dir: t.TempDir()}
}

// host returns the host of image references.
func (w *world) host() string { return w.config.Public().Host }

// local runs a command with the settings of the installation.
func (w *world) local(t *testing.T, args ...string) outcome {
	t.Helper()
	return w.run(t, []string{
		"COUNTERSIGN_DATA=" + w.config.Data, "COUNTERSIGN_LISTEN=" + w.config.Listen, "COUNTERSIGN_PUBLIC_URL=" + w.config.PublicURL,
		"COUNTERSIGN_DATABASE_URL=" + w.config.DatabaseURL,
	}, args...)
}

// remote runs a command on another machine, as a user of the server.
func (w *world) remote(t *testing.T, user, password string, args ...string) outcome {
	t.Helper()
	environ := []string{"COUNTERSIGN_SERVER=" + w.server.URL}
	if user != "" {
		environ = append(environ, "COUNTERSIGN_USERNAME="+user, "COUNTERSIGN_PASSWORD="+password)
	}
	return w.run(t, environ, args...)
}

// admin runs a command on another machine, as the administrator.
func (w *world) admin(t *testing.T, args ...string) outcome {
	t.Helper()
	return w.remote(t, "admin", apptest.AdminPassword, args...)
}

// run runs a command with variables only, in an empty home directory.
func (w *world) run(t *testing.T, environ []string, args ...string) outcome {
	t.Helper()
	var out, errOut bytes.Buffer
	p := Program{
		Version: "1.2.3", Args: append([]string{"countersign"}, args...),
		Environ: append([]string{"HOME=" + w.dir, "COUNTERSIGN_DATA=" + filepath.Join(w.dir, "absent"), "XDG_RUNTIME_DIR=" + w.dir}, environ...),
		In:      strings.NewReader(""), Out: &out, ErrOut: &errOut,
	}
	command, err := p.run(t.Context())
	return outcome{out: out.String(), errOut: errOut.String(), err: err, status: exitStatus(command, err)}
}

// push pushes a new image, and returns its digest.
func (w *world) push(t *testing.T, path string) string {
	t.Helper()
	image, err := random.Image(64, 1)
	if err != nil {
		t.Fatal(err)
	}
	return w.pushImage(t, path, image)
}

// credentials are those of the administrator.
var credentials = registry.WithAuth(&authn.Basic{Username: "admin", Password: apptest.AdminPassword})

func (w *world) pushImage(t *testing.T, path string, image v1.Image) string {
	t.Helper()
	ref, err := name.ParseReference(w.config.Listen+"/"+path, name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	if err := registry.Write(ref, image, credentials, registry.WithContext(t.Context())); err != nil {
		t.Fatal(err)
	}
	digest, err := image.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return digest.String()
}

// pushList pushes a list of n images.
func (w *world) pushList(t *testing.T, path string, n int) {
	t.Helper()
	list := v1.ImageIndex(empty.Index)
	for i := range n {
		image, err := random.Image(64, 1)
		if err != nil {
			t.Fatal(err)
		}
		list = mutate.AppendManifests(list, mutate.IndexAddendum{
			Add: image, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: fmt.Sprintf("a%d", i)}},
		})
	}
	ref, err := name.ParseReference(w.config.Listen+"/"+path, name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	if err := registry.WriteIndex(ref, list, credentials, registry.WithContext(t.Context())); err != nil {
		t.Fatal(err)
	}
}

// addUser creates a user.
func (w *world) addUser(t *testing.T, name, password string) {
	t.Helper()
	body := fmt.Sprintf(`{"username": %q, "password": %q}`, name, password)
	if got := w.server.Do(t, http.MethodPost, "/pulp/api/v3/users/", "application/json", strings.NewReader(body)); got.StatusCode != http.StatusCreated {
		t.Fatalf("user %s: %d %s", name, got.StatusCode, got.Body)
	}
}

// want fails the test unless an outcome has the exit status, and its output matches the regular expression.
func (o outcome) want(t *testing.T, status int, output string) {
	t.Helper()
	if o.status != status {
		t.Errorf("exit status %d, want %d: %v\n%s", o.status, status, o.err, o.errOut)
	}
	if !regexp.MustCompile(output).MatchString(o.out) {
		t.Errorf("output does not match %s:\n%s", output, o.out)
	}
}

// wantError fails the test unless an outcome has the exit status, and its error matches the regular expression.
func (o outcome) wantError(t *testing.T, status int, text string) {
	t.Helper()
	if o.status != status || o.err == nil || !regexp.MustCompile(text).MatchString(o.err.Error()) {
		t.Errorf("exit status %d, error %v, want %d and %s", o.status, o.err, status, text)
	}
}

// decode reads the JSON output of a command.
func decode[T any](t *testing.T, o outcome) (v T) {
	t.Helper()
	if o.err != nil {
		t.Fatalf("error %v\n%s", o.err, o.errOut)
	}
	if err := json.Unmarshal([]byte(o.out), &v); err != nil {
		t.Fatalf("%v in:\n%s", err, o.out)
	}
	return v
}

// TestCommandsOfAnInstallation runs the commands about content on one installation, with its data directory and as a client
// of its server. Both have the same results.
func TestCommandsOfAnInstallation(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	digest := w.push(t, "team/app:v1")
	w.push(t, "team/app:v2")
	w.pushList(t, "team/app:list", 2)
	w.push(t, "team/tools:v1")
	for name, run := range map[string]func(*testing.T, ...string) outcome{"local": w.local, "server": w.admin} {
		t.Run(name, func(t *testing.T) {
			run(t, "status").want(t, 0, `(?s)public URL +\S+\n.*database +connected\n.*workers +1 online\n.*signing service countersign +usable by 1 worker\n`)
			run(t, "repository", "list").want(t, 0, `(?m)^NAME .*\nteam/app +container-push +3 `)
			run(t, "repository", "list", "--name", "tools").want(t, 0, `^NAME .*\nteam/tools .*\n$`)
			limited := run(t, "repository", "list", "--limit", "1")
			limited.want(t, 0, `^NAME .*\nteam/app .*\n$`)
			if !strings.Contains(limited.errOut, "1 of 2 are shown") {
				t.Errorf("notice: %q", limited.errOut)
			}
			run(t, "repository", "show", "team/app").want(t, 0, `(?m)^served as +`+w.host()+`/team/app \(public\)$`)
			run(t, "repository", "show", w.host()+"/team/app").want(t, 0, `(?m)^name +team/app$`)
			run(t, "tag", "list", "team/app").want(t, 0, `(?m)^list +sha256:\S+ +\S+ +0 of 2 images\nv1 +`+digest+` +image +none\n`)
			run(t, "tag", "list", "team/app", "--version", "1").want(t, 0, `^TAG.*\nv1 .*\n$`)
			run(t, "version", "list", "team/app").want(t, 0, `(?m)^1 +\S+ +admin +1 tag, 1 manifest, 2 blobs +-$`)
			run(t, "version", "show", "team/app", "3").want(t, 0, `(?m)^content +3 tags, 5 manifests, 8 blobs$`)
			run(t, "version", "diff", "team/app", "1", "2").want(t, 0, `^CHANGE.*\nadded +tag +v2 +sha256:\S+\nadded +manifest +sha256:\S+\n$`)
			run(t, "version", "diff", "team/app", "2", "1").want(t, 0, `(?m)^removed +tag +v2 `)
			run(t, "version", "diff", "team/app", "3").want(t, 0, `^no differences\n$`)
			run(t, "version", "diff", "team/app", "1", "--stat").want(t, 0, `(?m)^tag +2 +0 +0\nmanifest +4 +0 +0\n`)

			run(t, "repository", "show", "team/none").wantError(t, 4, "there is no repository team/none")
			run(t, "version", "show", "team/app", "99").wantError(t, 4, "version 99 of team/app: ")
			run(t, "version", "diff", "team/app", "99").wantError(t, 4, "version 99 of team/app: ")
			run(t, "tag", "list", "team/app:v1").wantError(t, 2, "names an image")
			run(t, "tag", "list", "team/app@x").wantError(t, 2, "is no reference")
			run(t, "task", "show", "x").wantError(t, 2, "is not the id of a task")
			run(t, "task", "show", "01a231db-efcf-75c9-80b0-9d2ace79d6cd").wantError(t, 4, "there is no task")
			run(t, "sign", "team/none:v1").wantError(t, 4, "there is no repository team/none")
			run(t, "sign", "team/app:none").wantError(t, 4, "team/app:none: the repository has no such tag")
			run(t, "sign", "team/app:v1", "--service", "none").wantError(t, 4, "there is no signing service none")
			run(t, "rollback", "team/app", "99").wantError(t, 4, "version 99 of team/app")
			run(t, "sync", "team/app").wantError(t, 1, "is a repository for pushes")
			run(t, "repository", "list", "--output", "xml").wantError(t, 2, "must be one of")

			all := decode[[]map[string]any](t, run(t, "repository", "list", "-o", "json"))
			if len(all) != 2 || all[0]["name"] != "team/app" || all[0]["pulp_href"] == nil || all[0]["versions_href"] == nil {
				t.Errorf("repositories: %v", all)
			}
			one := decode[map[string]any](t, run(t, "repository", "show", "team/app", "-o", "json"))
			if one["name"] != "team/app" || one["latest_version_href"] == nil {
				t.Errorf("repository: %v", one)
			}
			changes := decode[[]change](t, run(t, "version", "diff", "team/app", "1", "2", "-o", "json"))
			if len(changes) != 2 || changes[0].Kind != "tag" || changes[0].Name != "v2" || changes[0].Change != added || changes[0].To == "" {
				t.Errorf("changes: %+v", changes)
			}
		})
	}
}

// TestSign signs images by tag, by digest, and all of a repository, with the data directory and as a client of the server.
func TestSign(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	digest := w.push(t, "team/app:v1")
	for _, path := range []string{"team/app:v2", "team/app:v3", "team/tools:v1"} {
		w.push(t, path)
	}
	w.pushList(t, "team/list:v1", 2)
	w.local(t, "sign", w.host()+"/team/app:v2", "--wait").want(t, 0, `(?m)^team/app +completed +Signing manifests: 1 of 1; new version 4 `)
	w.admin(t, "sign", "team/app@"+digest, "team/tools", "--wait", "--service", "countersign").want(t, 0,
		`(?m)^team/app +completed +Signing manifests: 1 of 1; .*\nteam/tools +completed +Signing manifests: 1 of 1; `)
	w.admin(t, "tag", "list", "team/app").want(t, 0, `(?m)^v1 .* 1\nv2 .* 1\nv3 .* none\n`)
	started := w.admin(t, "sign", "team/app")
	started.want(t, 0, `(?m)^team/app +\w+ `)
	id := regexp.MustCompile(`[0-9a-f-]{36}`).FindString(started.out)
	w.admin(t, "task", "follow", id).want(t, 0, `(?m)^state +completed$`)
	w.admin(t, "task", "list", "--name", "sign", "--state", "completed").want(t, 0, `(?m)^`+id+` +completed `)
	w.admin(t, "task", "cancel", id).wantError(t, 1, "has ended already")
	w.admin(t, "sign", "team/list:v1", "-w").want(t, 0, `Signing manifests: 2 of 2`)
	w.admin(t, "tag", "list", "team/list").want(t, 0, `(?m)^v1 .* 2 of 2 images$`)
	w.admin(t, "sign", "team/list:v1", "-w", "--sign-lists").want(t, 0, `Signing manifests: 1 of 1`)
	w.admin(t, "tag", "list", "team/list").want(t, 0, `(?m)^v1 .* 1, and 2 of 2 images$`)
	w.admin(t, "sign", "team/list:v1", "-w", "--force").want(t, 0, `Signing manifests: 2 of 2`)
	done := decode[[]task](t, w.admin(t, "sign", "team/app:v3", "-w", "-o", "json"))
	if len(done) != 1 || done[0].State != completed {
		t.Errorf("tasks: %+v", done)
	}
	absent := "sha256:" + strings.Repeat("0", 64)
	w.admin(t, "sign", "team/app@"+absent).wantError(t, 4, "no tag of the repository has this digest")
	w.admin(t, "sign", "other.example/app:v1", "team/app").wantError(t, 2, "are of different servers")
	w.admin(t, "sign", w.host()+"/team/app:v1", "-w").want(t, 0, `Signing manifests: 0 of 0; no new version`)
}

// TestWithoutAServer runs tasks in the process of the command while no server uses the data directory.
func TestWithoutAServer(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.push(t, "team/app:v1")
	w.push(t, "team/app:v2")
	if err := w.server.Stop(t); err != nil {
		t.Fatal(err)
	}
	signed := w.local(t, "sign", "team/app:v1")
	signed.want(t, 0, `(?m)^team/app +completed +Signing manifests: 1 of 1; new version 3 `)
	for _, text := range []string{
		"no server uses this database: this command runs the task itself\n", `msg=audit who="command line" kind=command action=sign `,
	} {
		if !strings.Contains(signed.errOut, text) {
			t.Errorf("no %s in:\n%s", text, signed.errOut)
		}
	}
	if strings.Contains(signed.errOut, "task started") {
		t.Errorf("the log of the worker is shown:\n%s", signed.errOut)
	}
	w.local(t, "tag", "list", "team/app").want(t, 0, `(?m)^v1 .* 1\nv2 .* none\n`)
	w.local(t, "rollback", "team/app", "1").want(t, 0, `(?m)^team/app +completed +new version 4 `)
	w.local(t, "status").want(t, 0, `(?m)^workers +none online: tasks wait$`)
	w.admin(t, "repository", "list").wantError(t, 5, "^countersign: cannot reach http://127.0.0.1:")
	w.local(t, "mirror", "add", "hub/x", "http://127.0.0.1:1/x", "--wait").wantError(t, 1, "task .* failed: The address 127.0.0.1")
	w.local(t, "sync", "hub/x").wantError(t, 1, "task .* failed: The address 127.0.0.1")
	w.server = apptest.Start(t, w.config)
	w.admin(t, "version", "list", "team/app").want(t, 0, `(?m)^4 +\S+ +command line +- `)
}

// TestPermissions verifies the answers to users without rights, with wrong passwords and without a login.
func TestPermissions(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.push(t, "team/app:v1")
	w.addUser(t, "bob", "bob-password-1")
	bob := func(t *testing.T, args ...string) outcome { return w.remote(t, "bob", "bob-password-1", args...) }
	bob(t, "repository", "list").want(t, 0, `(?m)^team/app `) // it is public
	bob(t, "status").want(t, 0, `(?m)^workers +1 online$`)
	bob(t, "repository", "show", "team/app").wantError(t, 3, "^countersign: team/app: You do not have permission")
	bob(t, "sign", "team/app:v1").wantError(t, 3, "^countersign: team/app: You do not have permission")
	bob(t, "repository", "show", "team/none").wantError(t, 4, "there is no repository team/none, or you may not see it")
	bob(t, "mirror", "add", "team/x", "https://registry.example/x").wantError(t, 3, "You do not have permission")
	w.remote(t, "bob", "wrong", "repository", "list").wantError(t, 3, "Invalid username/password. The login of bob comes from the environment")
	w.remote(t, "", "", "repository", "list").wantError(t, 3, "Authentication credentials were not provided. Log in with `podman login 127.0.0.1:")
	w.remote(t, "", "", "status").want(t, 0, `(?m)^database +connected$`)
	w.remote(t, "bob", "", "status").wantError(t, 2, "set both COUNTERSIGN_USERNAME and COUNTERSIGN_PASSWORD")

	// The login of the environment is for a chosen server, not for one that only a reference names.
	environment := []string{"COUNTERSIGN_USERNAME=admin", "COUNTERSIGN_PASSWORD=" + apptest.AdminPassword}
	w.run(t, environment, "repository", "show", "team/app", "--server", w.host()).want(t, 0, "team/app")
	w.run(t, environment, "repository", "show", w.host()+"/team/app").
		wantError(t, 3, "COUNTERSIGN_PASSWORD are not sent to a server that only a reference names: set COUNTERSIGN_SERVER=http://localhost:")

	// The stored login of podman, and a reference that names the server.
	text := fmt.Sprintf(`{"auths": {%q: {"auth": "Ym9iOmJvYi1wYXNzd29yZC0x"}}}`, w.host())
	if err := os.MkdirAll(filepath.Join(w.dir, "containers"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(w.dir, "containers/auth.json"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	w.run(t, nil, "task", "list", "--server", w.host()).want(t, 0, `^ID .*\n$`)
	w.run(t, nil, "sign", w.host()+"/team/app:v1").wantError(t, 3, "You do not have permission")
	w.run(t, environment, "sign", w.host()+"/team/app:v1").wantError(t, 3, "You do not have permission")
	w.run(t, nil, "task", "list", "--server", "http://"+w.host()+"/x").wantError(t, 2, "want http")
	w.run(t, nil, "task", "list").wantError(t, 1, "there is no database at .*: give a server with --server URL or COUNTERSIGN_SERVER")
}

// TestMirror adds a mirror of another installation, syncs it, and removes the remains of a failed attempt.
func TestMirror(t *testing.T) {
	t.Parallel()
	source := newWorld(t)
	source.push(t, "team/app:v1")
	source.push(t, "team/app:v2")
	w := newWorld(t, "MIRROR_ALLOW_PRIVATE_ADDRESSES=127.0.0.0/8")
	from := "http://" + source.config.Listen + "/team/app"
	w.admin(t, "mirror", "add", "copy/app", from, "--include", "v1", "--sync", "--wait").want(t, 0, `(?m)^copy/app +completed +.*new version 1 `)
	w.admin(t, "tag", "list", "copy/app").want(t, 0, `^TAG.*\nv1 .*\n$`)
	source.push(t, "team/app:v1")
	w.local(t, "sync", "copy/app", "-w").want(t, 0, `(?m)^copy/app +completed +.*new version 2 `)
	w.admin(t, "version", "diff", "copy/app", "1").want(t, 0, `(?m)^moved +tag +v1 +sha256:\S+ -> sha256:\S+$`)
	w.admin(t, "repository", "show", "copy/app").want(t, 0, `(?m)^remote +copy/app$`)
	w.admin(t, "mirror", "add", "copy/app", from).wantError(t, 1, "remote copy/app: .*unique")

	// A distribution has the path already: the remote and the repository are deleted again.
	w.push(t, "taken/app:v1")
	w.admin(t, "mirror", "add", "taken/app", from).wantError(t, 1, "repository taken/app: .*unique")
	w.push(t, "taken/over/app:v1")
	w.admin(t, "mirror", "add", "taken/over", from).wantError(t, 1, "distribution taken/over: .*[Oo]verlap")
	made := decode[map[string]any](t, w.admin(t, "mirror", "add", "made/app", from, "--private", "-o", "json"))
	if made["remote"] == nil || made["repository"] == nil || fmt.Sprint(made["distribution"]) == "<nil>" {
		t.Errorf("made: %v", made)
	}
	w.admin(t, "repository", "show", "made/app").want(t, 0, `(?m)^served as .*/made/app \(private\)$`)
	if got := w.server.Get(t, "/pulp/api/v3/remotes/container/container/?name__startswith=taken").Body; !strings.Contains(got, `"count":0`) {
		t.Errorf("remotes remain: %s", got)
	}
	if got := w.server.Get(t, "/pulp/api/v3/repositories/container/container/?name=taken/over").Body; !strings.Contains(got, `"count":0`) {
		t.Errorf("a repository remains: %s", got)
	}
	for _, wrong := range []string{"registry.example", "https://u:p@registry.example/x", "https://registry.example/x:v1", "ftp://registry.example/x"} {
		w.admin(t, "mirror", "add", "wrong", wrong).wantError(t, 2, "source .* want ")
	}
	w.admin(t, "mirror", "add", "wrong", from, "--username", "u").wantError(t, 2, "give both")
}
