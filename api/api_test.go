package api_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/api"
	"github.com/countersign/countersign/internal/access"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store"
	"github.com/countersign/countersign/internal/store/catalog"
	"github.com/countersign/countersign/internal/store/content"
	"github.com/countersign/countersign/internal/store/record"
	"github.com/countersign/countersign/internal/store/storetest"
	"github.com/countersign/countersign/internal/store/taskstore"
	"github.com/countersign/countersign/internal/telemetry"
	"github.com/countersign/countersign/tasks"
)

// accounts accepts the password "secret" for every account.
type accounts struct{ store *store.Store }

func (a accounts) Basic(r *http.Request) (*access.Caller, error) {
	name, password, ok := r.BasicAuth()
	if !ok {
		return nil, nil
	}
	u, err := a.store.Accounts.UserByName(r.Context(), name)
	if err != nil || password != "secret" {
		return nil, fault.New(fault.Unauthenticated, "Invalid username/password.")
	}
	return &access.Caller{Account: u}, nil
}

// dispatcher stores tasks and keeps their specifications. No worker runs them.
type dispatcher struct {
	store *store.Store
	mu    sync.Mutex
	specs []tasks.Spec
	from  []tasks.Origin // of specs, in the same order
}

func (d *dispatcher) Dispatch(ctx context.Context, from tasks.Origin, spec tasks.Spec) (taskstore.Task, error) {
	d.mu.Lock()
	d.specs, d.from = append(d.specs, spec), append(d.from, from)
	d.mu.Unlock()
	return d.store.Tasks.CreateTask(ctx, taskstore.NewTask{
		Name: spec.Name, Args: spec.Args, CID: telemetry.Correlation(
			ctx,
		), Origin: from.Kind, CreatedBy: from.User, Resources: spec.Resources,
	})
}

func (d *dispatcher) Cancel(ctx context.Context, id string) (taskstore.Task, error) {
	k, _, err := d.store.Tasks.CancelTask(ctx, id)
	return k, err
}

func (d *dispatcher) last() tasks.Spec {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.specs[len(d.specs)-1]
}

// wantFrom checks that the account with an id started the latest task.
func (d *dispatcher) wantFrom(t *testing.T, user int64) {
	t.Helper()
	d.mu.Lock()
	defer d.mu.Unlock()
	if got := d.from[len(d.from)-1]; got != tasks.ByUser(user) {
		t.Errorf("origin of the task: %+v, want user %d", got, user)
	}
}

// world is an API over a real store with at least one object of most kinds.
type world struct {
	t          *testing.T
	server     *httptest.Server
	store      *store.Store
	dispatcher *dispatcher
	database   string // its URL

	repo     record.Target // acme/app: tags latest, 1.0 (one image), 2.0, multi (an index of two), and two signatures
	service  pulp.SigningService
	manifest digest.Digest // of latest
	signed   pulp.Version  // the version that the first signature created
}

// openStore returns a new, migrated store and its URL.
func openStore(t *testing.T) (s *store.Store, database string) {
	t.Helper()
	database = storetest.Database(t)
	return storetest.OpenURL(t, database), database
}

func newWorld(t *testing.T, set ...func(*api.Options)) *world {
	t.Helper()
	s, database := openStore(t)
	public, _ := url.Parse("https://registry.example:8443")
	w := &world{t: t, store: s, database: database, dispatcher: &dispatcher{store: s}}
	o := api.Options{
		Store: s, Tasks: w.dispatcher, Auth: accounts{s}, Log: slog.New(slog.DiscardHandler), PublicURL: public,
		Process: "1@test", Version: "0.1.0", DataDir: t.TempDir(),
	}
	for _, f := range set {
		f(&o)
	}
	w.server = httptest.NewServer(api.Validated(t, api.New(o)))
	t.Cleanup(w.server.Close)
	w.fill()
	return w
}

func (w *world) fill() {
	w.t.Helper()
	ctx := w.t.Context()
	for _, u := range []struct {
		name  string
		staff bool
	}{{name: "admin", staff: true}, {name: "acme"}, {name: "carol"}} {
		if _, err := w.store.Accounts.PutUser(ctx, u.name, "x", u.staff, true); err != nil {
			w.t.Fatal(err)
		}
	}
	w.repo = w.target("acme/app")
	w.manifest = w.pushImage(w.repo, "one", "amd64", "latest")
	w.pushImage(w.repo, "one", "amd64", "1.0")
	w.pushImage(w.repo, "two", "arm64", "2.0")
	w.pushIndex(
		w.repo, []digest.Digest{w.pushImage(w.repo, "three", "amd64"), w.pushImage(w.repo, "four", "s390x")}, "multi",
	)
	w.service = w.addService("ctr-svc")
	w.signed = w.sign(w.repo, w.manifest, "first")
	w.sign(w.repo, w.manifest, "second")
	if err := w.store.Tasks.Beat(
		ctx, pulp.Worker{ID: pulp.NewID(), Name: "7@test", Versions: map[string]string{"core": "3.123.1"}},
	); err != nil {
		w.t.Fatal(err)
	}
}

// assign sets the signing service of a repository and its assigner.
func (w *world) assign(r pulp.Repository, service string, by pulp.Assigner) {
	w.t.Helper()
	if _, err := w.store.Catalog.EditRepository(
		w.t.Context(), nil, r.Type, r.ID, func(r *pulp.Repository) { r.SigningServiceID, r.SigningAssigned = service, by },
	); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) target(path string) record.Target {
	w.t.Helper()
	target, err := w.store.Catalog.PushTarget(w.t.Context(), catalog.FirstPush{BasePath: path, Type: pulp.ContainerPush})
	if err != nil {
		w.t.Fatal(err)
	}
	w.own(path)
	return target
}

// own makes the account with the name of a path's namespace its owner, if there is such an account.
func (w *world) own(path string) {
	w.t.Helper()
	if w.owner(path) != 0 {
		storetest.Own(w.t, w.store, pulp.NamespaceOf(path))
	}
}

// owner returns the id of the account with the name of a path's namespace; 0 if there is none.
func (w *world) owner(path string) int64 {
	w.t.Helper()
	u, err := w.store.Accounts.UserByName(w.t.Context(), pulp.NamespaceOf(path))
	if err != nil {
		return 0
	}
	return u.ID
}

// serviceKey is the fingerprint of the key of the services that addService adds.
const serviceKey = "2950DA0EEA6F1C907BE918A6D1B86E06B4D88886"

func (w *world) addService(name string) pulp.SigningService {
	w.t.Helper()
	v, err := w.store.Signatures.AddSigningService(w.t.Context(), pulp.SigningService{
		Name: name, Class: pulp.ManifestSigningService, Kind: pulp.ServiceScript, Script: "/srv/sign.sh",
		Fingerprint: serviceKey, PublicKey: "-----BEGIN PGP PUBLIC KEY BLOCK-----\n",
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return v
}

func (w *world) blob(target record.Target, data string) pulp.Descriptor {
	w.t.Helper()
	b := pulp.Blob{Digest: digest.FromString(data), Size: int64(len(data)), Data: []byte(data), Inline: true}
	if err := w.store.Content.CommitBlob(w.t.Context(), target.Repository.ID, b, "", 0); err != nil {
		w.t.Fatal(err)
	}
	return pulp.Descriptor{Digest: b.Digest, Size: b.Size}
}

func (w *world) put(target record.Target, m pulp.Manifest, tags ...string) digest.Digest {
	w.t.Helper()
	m.SchemaVersion, m.Digest = 2, digest.FromBytes(m.Payload)
	if _, err := w.store.Content.PutManifest(
		w.t.Context(), content.PutManifest{RepositoryID: target.Repository.ID, Manifest: m, Tags: tags},
	); err != nil {
		w.t.Fatal(err)
	}
	return m.Digest
}

func (w *world) pushImage(target record.Target, name, architecture string, tags ...string) digest.Digest {
	w.t.Helper()
	config, layer := w.blob(target, "config of "+name), w.blob(target, "layer of "+name)
	linux, size := "linux", layer.Size
	return w.put(target, pulp.Manifest{
		MediaType: pulp.OCIManifest, Payload: []byte(
			"image " + name,
		), Config: &config, Layers: []pulp.Descriptor{layer}, Type: "image",
		Architecture: &architecture, OS: &linux, ImageSize: &size, Annotations: map[string]string{
			"org.example": "yes",
		}, Labels: map[string]string{"maintainer": "ctr"},
	}, tags...)
}

func (w *world) pushIndex(target record.Target, children []digest.Digest, tags ...string) digest.Digest {
	w.t.Helper()
	m := pulp.Manifest{MediaType: pulp.OCIIndex, Payload: fmt.Appendf(nil, "index of %v", children), Type: "index"}
	for _, d := range children {
		m.Children = append(m.Children, pulp.Descriptor{Digest: d})
	}
	return w.put(target, m, tags...)
}

func (w *world) sign(target record.Target, manifest digest.Digest, content string) pulp.Version {
	w.t.Helper()
	g, fingerprint := storetest.SignatureOf(w.t, w.store, target, pulp.Manifest{Digest: manifest}, content), serviceKey
	g.Name = string(manifest) + "@" + g.Digest.Encoded()[:32]
	g.KeyID, g.Fingerprint, g.VerifiedBy = fingerprint[len(fingerprint)-16:], &fingerprint, fingerprint
	g.Reference, g.Creator, g.SignedAt = "registry.example:8443/acme/app:latest", "atomic 5.23.1", 1795384279
	v, err := w.store.Signatures.PutSignature(w.t.Context(), target.Repository.ID, manifest, g)
	if err != nil || v == nil {
		w.t.Fatal(v, err)
	}
	return *v
}

func (w *world) repoHref() string {
	return pulp.RepositoryHref(pulp.ContainerPush, w.repo.Repository.ID)
}

func (w *world) serviceHref() string { return pulp.Href(pulp.SigningServiceCollection, w.service.ID) }

// call is a request to the API. A path without a leading slash is relative to the API's root.
type call struct {
	method string // empty: GET
	path   string
	user   string // empty: admin; "-": no credentials
	json   any    // the body; a string is sent unchanged
	kind   string // the Content-Type; empty: JSON
	header map[string]string

	headers http.Header // with several values
}

type reply struct {
	*http.Response
	raw  string
	body any
}

func (w *world) do(c call) reply {
	w.t.Helper()
	if c.method == "" {
		c.method = http.MethodGet
	}
	if !strings.HasPrefix(c.path, "/") {
		c.path = pulp.Root + c.path
	}
	var body io.Reader
	switch v := c.json.(type) {
	case nil:
	case string:
		body = strings.NewReader(v)
	default:
		raw, err := json.Marshal(v)
		if err != nil {
			w.t.Fatal(err)
		}
		body = bytes.NewReader(raw)
	}
	r, err := http.NewRequestWithContext(w.t.Context(), c.method, w.server.URL+c.path, body)
	if err != nil {
		w.t.Fatal(err)
	}
	if body != nil {
		r.Header.Set("Content-Type", "application/json")
		if c.kind != "" {
			r.Header.Set("Content-Type", c.kind)
		}
	}
	switch c.user {
	case "":
		r.SetBasicAuth("admin", "secret")
	case "-":
	default:
		r.SetBasicAuth(c.user, "secret")
	}
	for name, value := range c.header {
		r.Header.Set(name, value)
	}
	for name, values := range c.headers {
		r.Header[name] = values
	}
	res, err := http.DefaultTransport.RoundTrip(r) // does not follow redirects
	if err != nil {
		w.t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	raw, err := io.ReadAll(res.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	out := reply{Response: res, raw: string(raw)}
	if kind := res.Header.Get("Content-Type"); len(raw) > 0 && kind != "application/yaml" && !strings.HasPrefix(kind, "text/html") {
		if err := json.Unmarshal(raw, &out.body); err != nil {
			w.t.Fatalf("%s %s: not JSON: %s", c.method, c.path, raw)
		}
	}
	return out
}

// get reads an object. The status must be 200.
func (w *world) get(path string) map[string]any {
	w.t.Helper()
	r := w.do(call{path: path})
	object, ok := r.body.(map[string]any)
	if r.StatusCode != http.StatusOK || !ok {
		w.t.Fatalf("GET %s: %d %s", path, r.StatusCode, r.raw)
	}
	return object
}

// results reads a list and returns one field of each result.
func (w *world) results(path, field string) []string {
	w.t.Helper()
	found := []string{}
	for _, v := range w.get(path)["results"].([]any) {
		found = append(found, fmt.Sprint(v.(map[string]any)[field]))
	}
	return found
}

// expect sends a request and compares the status and, unless it is empty, the body.
func (w *world) expect(c call, status int, body string) reply {
	w.t.Helper()
	r := w.do(c)
	if r.StatusCode != status || body != "" && r.raw != body {
		w.t.Errorf("%s %s: got %d %s\nwant %d %s", c.method, c.path, r.StatusCode, r.raw, status, body)
	}
	return r
}
