package api_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/api"
	"github.com/countersign/countersign/internal/auth"
	"github.com/countersign/countersign/internal/intake"
	"github.com/countersign/countersign/internal/pgtest"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store"
	"github.com/countersign/countersign/proxy"
	"github.com/countersign/countersign/storage/embedded"
	"github.com/countersign/countersign/tasks"
	"github.com/countersign/countersign/tasks/jobs"
	"github.com/countersign/countersign/tasks/memqueue"
)

// The recorded host, and digests of the recorded images: of latest and 1.0, of 2.0, of multi and of what multi names.
const (
	recordedHost = "localhost:24817"
	latestImage  = digest.Digest("sha256:7fbe918c3928bd80381de7c89b41da7ba4811e89a1f877aec1f49f0aaac8cbc2")
	secondImage  = digest.Digest("sha256:94eeb1e76e514e4e8f60edcf5f3149822f8aa0690ca327daeced55180aa12a70")
	multiIndex   = digest.Digest("sha256:75333678cfaf7347e234dbd4b9c9b5700553ad123a08e4246c147952e509f05c")
	multiFirst   = digest.Digest("sha256:7cdd477d802c4f47dc702a995c767e6c3f2adb161c8ab1ebe32159c52c22646c")
	multiSecond  = digest.Digest("sha256:881b95f6b805f5da28f6c86821f5efb55b9a0ea91660eaa96c417e81f816ba7f")
	latestConfig = digest.Digest("sha256:4715652fe45f8a81eee2928098fd44c9793f36ef88b1c9a96ff0dee59b7f5445")
	latestLayer  = digest.Digest("sha256:0eb234fcbbfced3c948189f85031659e2d49dcb092d10b936cdf3de62f9744b5")
)

// story is a server under the recorded names that is sent the recorded requests, one after the other. It learns which of its ids stands for which
// recorded one from the answers. A recorded id is known by its last 12 digits.
type story struct {
	*world
	ids     map[string]string
	foreign *auth.Tokens
	closed  atomic.Bool // the registry asks everybody for a token
}

// spaced returns JSON in the form that the recorded manifests had when they were pushed: one line, a space after each comma and colon.
func spaced(t *testing.T, raw []byte) []byte {
	t.Helper()
	var compact, out bytes.Buffer
	if err := json.Compact(&compact, raw); err != nil {
		t.Fatal(err)
	}
	for quoted, escaped, rest := false, false, compact.Bytes(); len(rest) > 0; rest = rest[1:] {
		c := rest[0]
		_ = out.WriteByte(c)
		if !quoted && (c == ',' || c == ':') {
			_ = out.WriteByte(' ')
		}
		if c == '"' && !escaped {
			quoted = !quoted
		}
		escaped = c == '\\' && !escaped
	}
	return out.Bytes()
}

// onlyQuick runs at once what a test can run, and leaves what signs and syncs waiting, in nobody's way.
type onlyQuick struct{ *tasks.Dispatcher }

func (d onlyQuick) Dispatch(ctx context.Context, spec tasks.Spec) (store.Task, error) {
	spec.Immediate = spec.Name != tasks.Sign && spec.Name != tasks.Sync
	if !spec.Immediate {
		spec.Resources = nil
	}
	return d.Dispatcher.Dispatch(ctx, spec)
}

func newStory(t *testing.T) *story {
	t.Helper()
	database := pgtest.Or(t, filepath.Join(t.TempDir(), "story.db"))
	s, err := store.Open(t.Context(), database)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	if err := s.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	p := &story{world: &world{t: t, store: s, database: database}, ids: map[string]string{}}
	hash, err := auth.HashPassword("secret")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"admin", "ctru"} {
		if _, err := s.PutUser(t.Context(), name, hash, name == "admin", true); err != nil {
			t.Fatal(err)
		}
	}
	p.start()
	p.fill()
	return p
}

// start puts the REST API and the registry, with real tasks and files, on one address.
func (p *story) start() {
	t := p.t
	t.Helper()
	files, err := embedded.New(t.Context(), embedded.Options{Driver: "filesystem", Parameters: map[string]any{"rootdirectory": t.TempDir()}})
	if err != nil {
		t.Fatal(err)
	}
	key, err := auth.KeptKey(t.Context(), p.store)
	if err != nil {
		t.Fatal(err)
	}
	tokens, err := auth.NewTokens(key, "http://"+recordedHost+"/token/", recordedHost, 5*time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	results, err := api.Results(t.Context(), p.store)
	if err != nil {
		t.Fatal(err)
	}
	public, log, queue, accounts := &url.URL{Scheme: "http", Host: recordedHost}, slog.New(slog.DiscardHandler), &memqueue.Queue{}, auth.New(p.store)
	worker := tasks.NewWorker(tasks.WorkerOptions{
		Store: p.store, Queue: queue, Log: log, Slots: 1, Name: "1@test", Versions: api.Versions("0.1.0"), Show: results,
		Jobs: jobs.All(jobs.Options{Store: p.store, Log: log, Blobs: intake.Blobs{Storage: files}}),
	})
	rest := api.New(api.Options{
		Store: p.store, Tasks: onlyQuick{tasks.NewDispatcher(p.store, queue, worker, log)}, Auth: accounts, Log: log, PublicURL: public,
		Process: "1@test", Version: "0.1.0", DataDir: t.TempDir(),
	})
	options := proxy.Options{
		Store: p.store, Auth: accounts, Tokens: tokens, Storage: files, Log: log, PublicURL: public, PushType: pulp.Container, InlineLimit: 16 << 10,
	}
	closed := proxy.New(options)
	options.AnonymousPull = true
	open := proxy.New(options)
	// A token of the same key for another host.
	p.foreign, err = auth.NewTokens(key, "http://"+recordedHost+"/token/", "127.0.0.1:24817", 5*time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	p.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasPrefix(r.URL.Path, "/pulp/"):
			rest.ServeHTTP(w, r)
		case p.closed.Load():
			closed.ServeHTTP(w, r)
		default:
			open.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(p.server.Close)
}

// fill makes what there was when the recording began: ctr/push with four images' tags and signatures, ctr/one, walk/one, a signing service.
func (p *story) fill() {
	t := p.t
	t.Helper()
	for _, name := range []string{"ctr/one", "walk/one"} {
		target, err := p.store.PushTarget(t.Context(), name, pulp.Container)
		if err != nil {
			t.Fatal(err)
		}
		p.recordedImage(target, latestImage, spaced(t, recording(t, "56-manifest-tag").RawBody), "latest")
	}
	push, err := p.store.PushTarget(t.Context(), "ctr/push", pulp.ContainerPush)
	if err != nil {
		t.Fatal(err)
	}
	p.repo = push
	p.recordedImage(push, latestImage, spaced(t, recording(t, "56-manifest-tag").RawBody), "latest")
	p.recordedImage(push, latestImage, spaced(t, recording(t, "56-manifest-tag").RawBody), "1.0")
	p.recordedImage(push, secondImage, []byte("second"), "2.0")
	p.recordedImage(push, multiFirst, []byte("first of multi"))
	p.recordedImage(push, multiSecond, []byte("second of multi"))
	p.recorded(push, pulp.Manifest{
		MediaType: pulp.OCIIndex, Payload: spaced(t, recording(t, "56f-noaccept").RawBody), Digest: multiIndex, Type: "index",
		Children: []pulp.Descriptor{{Digest: multiFirst}, {Digest: multiSecond}},
	}, "multi")
	svc := recording(t, "03b-signing-service-get").Body.(map[string]any)
	p.service, err = p.store.AddSigningService(t.Context(), pulp.SigningService{
		Name: "ctr-svc", Class: pulp.ManifestSigningService, Kind: pulp.ServiceScript, Script: "/srv/sign.sh",
		Fingerprint: svc["pubkey_fingerprint"].(string), PublicKey: svc["public_key"].(string),
	})
	if err != nil {
		t.Fatal(err)
	}
	p.sign(push, secondImage, "first")
	p.sign(push, latestImage, "second")
	if err := p.store.Beat(t.Context(), pulp.Worker{ID: pulp.NewID(), Name: "7@test", Versions: map[string]string{"core": "3.123.1"}}); err != nil {
		t.Fatal(err)
	}
}

// recordedImage stores an image under its recorded digest. Of its blobs, and of a manifest that no recording shows, only the digests are real.
func (p *story) recordedImage(target store.Target, d digest.Digest, payload []byte, tags ...string) {
	p.t.Helper()
	config, layer := pulp.Descriptor{Digest: latestConfig, Size: 239}, pulp.Descriptor{Digest: latestLayer, Size: 110}
	for _, b := range []pulp.Descriptor{config, layer} {
		data := bytes.Repeat([]byte("x"), int(b.Size))
		if err := p.store.CommitBlob(p.t.Context(), target.Repository.ID, pulp.Blob{Digest: b.Digest, Size: b.Size, Data: data, Inline: true}, "", 0); err != nil {
			p.t.Fatal(err)
		}
	}
	architecture, linux := "amd64", "linux"
	p.recorded(target, pulp.Manifest{
		MediaType: pulp.OCIManifest, Payload: payload, Digest: d, Type: "image", Config: &config, Layers: []pulp.Descriptor{layer},
		Architecture: &architecture, OS: &linux, ImageSize: &layer.Size, Annotations: map[string]string{"org.example": "yes"}, Labels: map[string]string{"maintainer": "ctr"},
	}, tags...)
}

func (p *story) recorded(target store.Target, m pulp.Manifest, tags ...string) {
	p.t.Helper()
	m.SchemaVersion = 2
	if _, err := p.store.PutManifest(p.t.Context(), store.PutManifest{RepositoryID: target.Repository.ID, Manifest: m, Tags: tags}); err != nil {
		p.t.Fatal(err)
	}
}

var (
	anyID        = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`)
	anyVersion   = regexp.MustCompile(`; Version: \d+(>|\\u003e)`)
	anySignature = regexp.MustCompile(`@[0-9a-f]{32}`)
	parseError   = regexp.MustCompile(`JSON parse error - [^"]*`)
	// recordedToken is a token as the recordings write it: decoded, without its signature.
	recordedToken = regexp.MustCompile(`^JWT header=(\{.*\}) claims=(\{.*\})$`)
	anyTime       = regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z`)
)

// translate puts our ids in the place of the recorded ones that are known.
func (p *story) translate(s string) string {
	return anyID.ReplaceAllStringFunc(s, func(id string) string {
		if ours, ok := p.ids[id[24:]]; ok {
			return ours
		}
		return id
	})
}

// learn walks two values together, and notes the ids of ours that stand where the recorded one has one.
func (p *story) learn(recorded, ours any) {
	switch r := recorded.(type) {
	case string:
		o, _ := ours.(string)
		if a, b := anyID.FindAllString(r, -1), anyID.FindAllString(o, -1); len(a) == len(b) {
			for i := range a {
				if _, known := p.ids[a[i][24:]]; !known {
					p.ids[a[i][24:]] = b[i]
				}
			}
		}
	case map[string]any:
		if o, ok := ours.(map[string]any); ok {
			for k, v := range r {
				p.learn(v, o[k])
			}
		}
	case []any:
		if o, ok := ours.([]any); ok && len(o) == len(r) {
			for i, v := range r {
				p.learn(v, o[i])
			}
		}
	}
}

// know says which of our objects a recorded id stands for: the first of a list.
func (p *story) know(id, list string) {
	p.t.Helper()
	if found := p.results(list, "pulp_href"); len(found) > 0 {
		p.ids[id] = anyID.FindString(found[0])
		return
	}
	p.t.Fatalf("%s is empty", list)
}

// token returns a Bearer token's header for a user, or for nobody.
func (p *story) token(user string, scopes ...string) string {
	p.t.Helper()
	r, err := http.NewRequestWithContext(p.t.Context(), http.MethodGet, p.server.URL+"/token/?"+url.Values{"service": {recordedHost}, "scope": scopes}.Encode(), nil)
	if err != nil {
		p.t.Fatal(err)
	}
	if user != "-" {
		r.SetBasicAuth(user, "secret")
	}
	res, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		p.t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	var body struct{ Token string }
	if err := json.NewDecoder(res.Body).Decode(&body); err != nil || body.Token == "" {
		p.t.Fatalf("no token: %d %v", res.StatusCode, err)
	}
	return "Bearer " + body.Token
}

// tokenFor returns the token that a step comes with: an administrator's for scopes, another's whose name stands before them, or one for another host.
func (p *story) tokenFor(words []string) string {
	p.t.Helper()
	if words[0] == "foreign" {
		issued, err := p.foreign.Issue("admin", nil)
		if err != nil {
			p.t.Fatal(err)
		}
		return "Bearer " + issued.Token
	}
	if !strings.Contains(words[0], ":") {
		return p.token(words[0], words[1:]...)
	}
	return p.token("admin", words...)
}

// send sends a recorded request. as is a user's name; "-" for nobody; a token as tokenFor has it; or a whole Authorization header. An administrator comes to the registry with
// a token for the repository.
func (p *story) send(t *testing.T, e exchange, as string) (*http.Response, string) {
	t.Helper()
	line := strings.Fields(e.Request.Line)
	path, body := p.translate(line[1]), []byte(nil)
	if raw := e.Request.Body; len(raw) > 0 && string(raw) != "null" {
		var text string
		if json.Unmarshal(raw, &text) == nil {
			body = []byte(p.translate(text))
		} else {
			body = []byte(p.translate(string(spaced(t, raw))))
		}
	}
	r, err := http.NewRequestWithContext(t.Context(), line[0], p.server.URL+path, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for k, v := range e.Request.Headers {
		r.Header.Set(k, v)
	}
	name := regexp.MustCompile(`^/(?:v2|extensions/v2)/(.+)/(?:blobs|manifests|tags|signatures|referrers)/`).FindStringSubmatch(path)
	scopes, scoped := strings.CutPrefix(as, "token ")
	switch {
	case scoped:
		r.Header.Set("Authorization", p.tokenFor(strings.Fields(scopes)))
	case strings.Contains(as, " "):
		r.Header.Set("Authorization", as)
	case as == "-":
	case as == "" && name != nil:
		r.Header.Set("Authorization", p.token("admin", "repository:"+name[1]+":pull,push,delete", "repository:ctr/push:pull"))
	case as == "" && strings.HasPrefix(path, "/v2/"):
		r.Header.Set("Authorization", p.token("admin", "registry:catalog:*"))
	case as == "":
		r.SetBasicAuth("admin", "secret")
	default:
		r.SetBasicAuth(as, "secret")
	}
	r.Host = recordedHost
	res, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	raw, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res, string(raw)
}

// replay sends a recorded request and holds the answer against the recorded one: the status, the headers that clients read, errors and what the
// registry says whole, objects of the REST API by their shape. Of the pages in HTML that the reference has for paths that it does not know, only the
// status counts (contract 1.4).
func (p *story) replay(t *testing.T, s step) {
	t.Helper()
	e := record(t, s.name)
	res, raw := p.send(t, e, s.as)
	if res.StatusCode != e.Status {
		t.Fatalf("status %d, want %d: %.300s", res.StatusCode, e.Status, raw)
	}
	var have any
	if raw != "" && json.Unmarshal([]byte(raw), &have) != nil {
		have = raw
	}
	p.learn(e.Body, have)
	rest := strings.Contains(e.Request.Line, " /pulp/")
	page := strings.HasPrefix(e.header("Content-Type"), "text/html")
	for _, h := range []string{
		"Allow", "Content-Type", "Location", "WWW-Authenticate", "Docker-Content-Digest", "Docker-Upload-UUID", "Docker-Distribution-Api-Version",
		"X-Registry-Supports-Signatures", "Range", "Link",
	} {
		want, got := e.header(h), res.Header.Get(h)
		p.learn(want, got)
		if want == "" || page && h == "Content-Type" || h == "Allow" && !rest {
			continue
		}
		if normal(got) != normal(want) {
			t.Errorf("%s: %s, want %s", h, got, want)
		}
	}
	if page || e.Body == "None" { // the reference's way to say nothing (contract 9)
		return
	}
	if s.shape || rest && e.Status < 400 && !strings.Contains(e.Request.Line, "fields=name") {
		compareShape(t, e.Body, have)
		return
	}
	want, err := json.Marshal(e.Body)
	if err != nil {
		t.Fatal(err)
	}
	got, err := json.Marshal(have)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(normalJSON(t, normal(string(want))), normalJSON(t, normal(string(got)))); diff != "" {
		t.Errorf("body (-reference +ours):\n%s", diff)
	}
}

// normal takes out of a text what is another each time: ids, times, numbers of versions, names of signatures, and what a JSON decoder says.
func normal(s string) string {
	for _, n := range []struct {
		what *regexp.Regexp
		to   string
	}{{anyID, "<id>"}, {anyTime, "<time>"}, {anyVersion, "; Version: 0>"}, {anySignature, "@0"}, {parseError, "JSON parse error"}} {
		s = n.what.ReplaceAllString(s, n.to)
	}
	return s
}

// normalJSON decodes JSON, and a token in it into what it says beside its times, ids and key.
func normalJSON(t *testing.T, s string) any {
	t.Helper()
	var v any
	if err := json.Unmarshal([]byte(s), &v); err != nil {
		t.Fatal(err)
	}
	object, _ := v.(map[string]any)
	for _, field := range []string{"token", "access_token"} {
		text, _ := object[field].(string)
		header, claims := recordedToken.ReplaceAllString(text, "$1"), recordedToken.ReplaceAllString(text, "$2")
		if parts := strings.Split(text, "."); !recordedToken.MatchString(text) && len(parts) == 3 {
			a, errA := base64.RawURLEncoding.DecodeString(parts[0])
			b, errB := base64.RawURLEncoding.DecodeString(parts[1])
			if err := errors.Join(errA, errB); err != nil {
				t.Fatal(err)
			}
			header, claims = string(a), string(b)
		}
		if text != "" {
			said := map[string]any{"header": normalJSON(t, header), "claims": normalJSON(t, claims)}
			delete(said["header"].(map[string]any), "kid")
			for _, c := range []string{"exp", "iat", "nbf", "jti"} {
				delete(said["claims"].(map[string]any), c)
			}
			object[field] = said
		}
	}
	return v
}

// step is one recorded exchange of the story.
type step struct {
	name   string
	as     string // as send has it
	shape  bool   // the answer is compared by its shape: it shows more than the story made
	before func()
}

func testTheRecordedStory(t *testing.T) {
	t.Parallel()
	p := newStory(t)
	for _, s := range p.steps() {
		if s.before != nil {
			s.before()
		}
		t.Run(s.name, func(t *testing.T) { p.replay(t, s) })
	}
}

// upload begins an upload, in the place of one that was recorded elsewhere.
func (p *story) upload(id string) {
	p.t.Helper()
	e := recording(p.t, "60-upload-start-creates-repo")
	res, raw := p.send(p.t, e, "")
	if res.StatusCode != http.StatusAccepted {
		p.t.Fatalf("%d %s", res.StatusCode, raw)
	}
	p.ids[id] = res.Header.Get("Docker-Upload-UUID")
}

// forget deletes a distribution, and with it the repository that a push created.
func (p *story) forget(path string) {
	p.t.Helper()
	p.expect(call{method: http.MethodDelete, path: p.results(pulp.DistributionCollection+"?name="+path, "pulp_href")[0]}, http.StatusAccepted, "")
}

// signedByTask makes the task that the recorded server had signed ctr/push with.
func (p *story) signedByTask() {
	p.t.Helper()
	k, err := p.store.CreateTask(p.t.Context(), store.NewTask{
		Name: tasks.Sign, Args: struct{}{}, CreatedBy: 1, CID: "abc", Resources: []store.Resource{{Href: p.repoHref(), Exclusive: true}},
	})
	if err != nil {
		p.t.Fatal(err)
	}
	v, err := p.store.Version(p.t.Context(), p.repo.Repository.ID, 5)
	if err != nil {
		p.t.Fatal(err)
	}
	made := store.Created{Href: pulp.VersionHref(pulp.ContainerPush, p.repo.Repository.ID, v.Number), PRN: pulp.VersionPRN(v.ID)}
	if err := p.store.CompleteTask(p.t.Context(), claim(p.world, k), store.Outcome{Created: []store.Created{made}}); err != nil {
		p.t.Fatal(err)
	}
}

// mirrored puts into the mirror what the recorded sync brought.
func (p *story) mirrored() {
	p.t.Helper()
	r, err := p.store.Repository(p.t.Context(), pulp.Container, p.ids["6f35d08bb5d6"])
	if err != nil {
		p.t.Fatal(err)
	}
	p.copyApp(r)
}

// signedMirror signs an image of the mirror, as the recorded task did.
func (p *story) signedMirror() {
	p.t.Helper()
	r, err := p.store.Repository(p.t.Context(), pulp.Container, p.ids["6f35d08bb5d6"])
	if err != nil {
		p.t.Fatal(err)
	}
	p.sign(store.Target{Repository: r}, latestImage, "mirrored")
}

// two makes the recorded repository ctr/two with its distribution.
func (p *story) two() {
	p.t.Helper()
	r := p.copyApp(p.container("ctr/two", ""))
	p.ids["c45cdb9cab8a"] = r.ID
	p.serve(pulp.Distribution{Name: "ctr/two", BasePath: "ctr/two", RepositoryID: r.ID})
}
