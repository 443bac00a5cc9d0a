package api_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/api"
	"github.com/countersign/countersign/internal/auth"
	"github.com/countersign/countersign/internal/ingest"
	"github.com/countersign/countersign/internal/mirror"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/signonpush"
	"github.com/countersign/countersign/internal/signservice"
	"github.com/countersign/countersign/internal/store/content"
	"github.com/countersign/countersign/internal/store/record"
	"github.com/countersign/countersign/internal/store/taskstore"
	"github.com/countersign/countersign/proxy"
	"github.com/countersign/countersign/signing"
	"github.com/countersign/countersign/signing/signtest"
	"github.com/countersign/countersign/storage/embedded"
	"github.com/countersign/countersign/tasks"
	"github.com/countersign/countersign/tasks/jobs"
	"github.com/countersign/countersign/tasks/memqueue"
)

// The recorded host and key, and the digests of the recorded images: latest and 1.0 (latestImage), 2.0 (secondImage), the index multi and its two images.
// The recordings show the blobs of two images.
const (
	recordedHost = "localhost:24817"
	recordedKey  = "D1B86E06B4D88886"
	latestImage  = digest.Digest("sha256:7fbe918c3928bd80381de7c89b41da7ba4811e89a1f877aec1f49f0aaac8cbc2")
	secondImage  = digest.Digest("sha256:94eeb1e76e514e4e8f60edcf5f3149822f8aa0690ca327daeced55180aa12a70")
	multiIndex   = digest.Digest("sha256:75333678cfaf7347e234dbd4b9c9b5700553ad123a08e4246c147952e509f05c")
	multiFirst   = digest.Digest("sha256:7cdd477d802c4f47dc702a995c767e6c3f2adb161c8ab1ebe32159c52c22646c")
	multiSecond  = digest.Digest("sha256:881b95f6b805f5da28f6c86821f5efb55b9a0ea91660eaa96c417e81f816ba7f")
	latestConfig = digest.Digest("sha256:4715652fe45f8a81eee2928098fd44c9793f36ef88b1c9a96ff0dee59b7f5445")
	multiConfig  = digest.Digest("sha256:87e4ebb858889c59ebc374b3462781799c32e87709a7f45231d9dd9f1dafe17b")
	multiLayer   = digest.Digest("sha256:a227b0347b63f02a2f20ed6e0d3a0f3f9637acb12cc578de828b7eefc4748fd5")
	latestLayer  = digest.Digest("sha256:0eb234fcbbfced3c948189f85031659e2d49dcb092d10b936cdf3de62f9744b5")
)

// story is a server with the recorded names that receives the recorded requests one after another. From the answers it learns which of its ids corresponds
// to which recorded id. The map ids has the last 12 digits of recorded ids as keys.
type story struct {
	*world
	ids      map[string]string
	upstream *httptest.Server // takes the place of the recorded remote
	key      *signtest.Key    // of the signing service
	made     atomic.Int64     // number of signatures
	foreign  *auth.Tokens
	closed   atomic.Bool // whether the registry requires a token for all requests
}

// spaced formats JSON as the recorded manifests were when they were pushed: on one line, with a space after each comma and colon.
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

// keyed signs with a test key, with a different time for each signature: two signatures of one claim in the same second are identical.
type keyed struct {
	t    *testing.T
	key  *signtest.Key
	made *atomic.Int64
}

func (k keyed) Sign(_ context.Context, r signing.Request) ([]byte, error) {
	return k.key.Sign(k.t, r.Claim, time.Now().Add(-time.Duration(k.made.Add(1))*time.Second)), nil
}

func newStory(t *testing.T) *story {
	t.Helper()
	s, database := openStore(t)
	p := &story{world: &world{t: t, store: s, database: database}, ids: map[string]string{}, key: signtest.NewKey(t, time.Now().Add(-time.Hour), 0)}
	hash, err := auth.HashPassword("secret")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"admin", "ctru"} {
		if _, err := s.Accounts.PutUser(t.Context(), name, hash, name == "admin", true); err != nil {
			t.Fatal(err)
		}
	}
	p.start()
	p.fill()
	p.serveUpstream()
	return p
}

// start serves the REST API and the registry on one address, with real tasks and files.
func (p *story) start() {
	t := p.t
	t.Helper()
	files, err := embedded.New(t.Context(), embedded.Options{Driver: "filesystem", Parameters: map[string]any{"rootdirectory": t.TempDir()}})
	if err != nil {
		t.Fatal(err)
	}
	key, err := auth.KeptKey(t.Context(), p.store.DB)
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
	public, quiet, queue, accounts := &url.URL{Scheme: "http", Host: recordedHost}, slog.New(slog.DiscardHandler), &memqueue.Queue{}, auth.New(p.store.Accounts)
	signer := &signservice.Signer{
		Store: p.store, Log: quiet, Parallel: 1, Usable: func(pulp.SigningService) bool { return true },
		SignerFor: func(pulp.SigningService) (signing.Signer, error) { return keyed{t, p.key, &p.made}, nil },
	}
	worker := tasks.NewWorker(tasks.WorkerOptions{
		Store: p.store, Queue: queue, Log: quiet, Slots: 1, Name: "1@test", Versions: api.Versions("0.1.0"), Show: results,
		Jobs: jobs.All(jobs.Options{
			Store: p.store, Log: quiet, Host: recordedHost, Parallel: 1, Blobs: ingest.Blobs{Storage: files}, Validator: ingest.SignatureValidator{Store: p.store},
			Signer: signer, SignOnPush: &signonpush.Runner{Store: p.store, Log: quiet, Signer: signer, Timeout: time.Minute},
			Mirror: mirror.New(mirror.Options{AllowPrivate: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, Log: quiet}),
		}),
	})
	rest := api.New(api.Options{
		Store: p.store, Tasks: atOnce{tasks.NewDispatcher(p.store, queue, worker, quiet)}, Auth: accounts, Log: quiet, PublicURL: public,
		Process: "1@test", Version: "0.1.0", DataDir: t.TempDir(),
	})
	options := proxy.Options{
		Store: p.store, Auth: accounts, Tokens: tokens, Storage: files, Log: quiet, PublicURL: public, PushType: pulp.Container, InlineLimit: 16 << 10,
	}
	asking := proxy.New(options)
	options.AnonymousPull = auth.AnonymousPullOn
	letting := proxy.New(options)
	// Tokens by the same key for another host.
	p.foreign, err = auth.NewTokens(key, "http://"+recordedHost+"/token/", "127.0.0.1:24817", 5*time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	p.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasPrefix(r.URL.Path, "/pulp/"):
			rest.ServeHTTP(w, r)
		case p.closed.Load():
			asking.ServeHTTP(w, r)
		default:
			letting.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(p.server.Close)
}

// fill creates the objects that existed when the recording began: ctr/push with four tags, ctr/one, walk/one, a signing service and two workers.
func (p *story) fill() {
	t := p.t
	t.Helper()
	for _, name := range []string{"ctr/one", "walk/one"} {
		target, err := p.store.Catalog.PushTarget(t.Context(), name, pulp.Container)
		if err != nil {
			t.Fatal(err)
		}
		p.recordedImage(target, latestImage, spaced(t, recording(t, "56-manifest-tag").RawBody), "latest")
	}
	push, err := p.store.Catalog.PushTarget(t.Context(), "ctr/push", pulp.ContainerPush)
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
	if p.service, err = p.store.Signatures.AddSigningService(t.Context(), pulp.SigningService{
		Name: "ctr-svc", Class: pulp.ManifestSigningService, Kind: pulp.ServiceScript, Script: "/var/lib/ctr/sign.sh",
		Fingerprint: p.key.Public.Fingerprint(), PublicKey: p.key.Armor,
	}); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"5600@vm", "5601@vm"} {
		if err := p.store.Tasks.Beat(t.Context(), pulp.Worker{ID: pulp.NewID(), Name: name, Versions: api.Versions("0.1.0")}); err != nil {
			t.Fatal(err)
		}
	}
}

// others creates seven completed tasks that existed on the recorded server.
func (p *story) others() {
	p.t.Helper()
	repo := pulp.RepositoryHref(pulp.ContainerPush, p.repo.Repository.ID)
	for range 4 {
		p.completed(tasks.Tag, taskstore.Resource{Href: repo, Exclusive: true})
	}
	for range 3 {
		p.completed(tasks.Tag)
	}
}

// again repeats signatures, as happened on the recorded server: of one tag, then of all tags. Between them it creates two tasks without results.
func (p *story) again() {
	p.t.Helper()
	repo := pulp.RepositoryHref(pulp.ContainerPush, p.repo.Repository.ID)
	sign := func(tags []string) {
		p.t.Helper()
		p.expect(call{method: http.MethodPost, path: repo + "sign/", json: map[string]any{
			"manifest_signing_service": p.serviceHref(), "force": true, "tags_list": tags,
		}}, http.StatusAccepted, "")
	}
	sign([]string{"2.0"})
	for range 2 {
		p.completed(tasks.Sign, taskstore.Resource{Href: repo, Exclusive: true})
	}
	sign([]string{})
}

// signature adds a signature of 2.0 with the reference of tag. So it makes a version of ctr/push that the reference made and Countersign did not.
func (p *story) signature(tag string) {
	p.t.Helper()
	p.signWith(signingKey{entity: p.key.Entity}, p.repo, secondImage, recordedHost+"/ctr/push:"+tag)
}

func (p *story) completed(name string, resources ...taskstore.Resource) {
	p.t.Helper()
	k, err := p.store.Tasks.CreateTask(p.t.Context(), taskstore.NewTask{Name: name, Args: struct{}{}, CID: "cid", Origin: taskstore.OriginUser, CreatedBy: p.userID("admin"), Resources: resources})
	if err == nil {
		err = p.store.Tasks.CompleteTask(p.t.Context(), claim(p.world, k), taskstore.Outcome{})
	}
	if err != nil {
		p.t.Fatal(err)
	}
}

// recordedImage stores an image under its recorded digest. If no recording shows the manifest, its bytes are made up. The bytes of blobs always are, and
// also the digests of blobs that no recording shows.
func (p *story) recordedImage(target record.Target, d digest.Digest, payload []byte, tags ...string) {
	p.t.Helper()
	config, layer := pulp.Descriptor{Digest: digest.FromString("config of " + string(d)), Size: 239}, pulp.Descriptor{Digest: digest.FromString("layer of " + string(d)), Size: 110}
	switch d {
	case latestImage:
		config.Digest, layer.Digest = latestConfig, latestLayer
	case multiSecond:
		config.Digest, layer.Digest = multiConfig, multiLayer
	}
	for _, b := range []pulp.Descriptor{layer, config} {
		data := bytes.Repeat([]byte("x"), int(b.Size))
		if err := p.store.Content.CommitBlob(p.t.Context(), target.Repository.ID, pulp.Blob{Digest: b.Digest, Size: b.Size, Data: data, Inline: true}, "", 0); err != nil {
			p.t.Fatal(err)
		}
	}
	architecture, linux := "amd64", "linux"
	if d == multiSecond {
		architecture = "arm64"
	}
	p.recorded(target, pulp.Manifest{
		MediaType: pulp.OCIManifest, Payload: payload, Digest: d, Type: "image", Config: &config, Layers: []pulp.Descriptor{layer},
		Architecture: &architecture, OS: &linux, ImageSize: &layer.Size, Annotations: map[string]string{"org.example": "yes"}, Labels: map[string]string{"maintainer": "ctr"},
	}, tags...)
}

func (p *story) recorded(target record.Target, m pulp.Manifest, tags ...string) {
	p.t.Helper()
	m.SchemaVersion = 2
	if _, err := p.store.Content.PutManifest(p.t.Context(), content.PutManifest{RepositoryID: target.Repository.ID, Manifest: m, Tags: tags}); err != nil {
		p.t.Fatal(err)
	}
}

var (
	anyID        = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`)
	otherHost    = regexp.MustCompile(`127\.0\.0\.1:24817`)
	anySignature = regexp.MustCompile(`@[0-9a-f]{32}`)
	parseError   = regexp.MustCompile(`JSON parse error - [^"]*`)
	// recordedToken matches a token as the recordings show it: decoded, without its signature.
	recordedToken = regexp.MustCompile(`^JWT header=(\{.*\}) claims=(\{.*\})$`)
	anyTime       = regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z`)
)

// translate replaces known recorded ids, the recorded key and the URL of the recorded remote by those of this server.
func (p *story) translate(s string) string {
	s = strings.ReplaceAll(s, recordedKey, p.keyID())
	s = strings.ReplaceAll(s, `"http://`+recordedHost+`"`, `"`+p.upstream.URL+`"`)
	return anyID.ReplaceAllStringFunc(s, func(id string) string {
		if ours, ok := p.ids[id[24:]]; ok {
			return ours
		}
		return id
	})
}

// learn compares a recorded value and ours, and notes which of our ids are at the places of recorded ids.
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

// know maps a recorded id to the first object of a list.
func (p *story) know(id, list string) {
	p.t.Helper()
	if found := p.results(list, "pulp_href"); len(found) > 0 {
		p.ids[id] = anyID.FindString(found[0])
		return
	}
	p.t.Fatalf("%s is empty", list)
}

// token returns an Authorization header with a bearer token for a user, or with an anonymous token for "-".
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

// tokenFor returns the Authorization header of a step. The words are scopes for an administrator, or a user's name and scopes, or "foreign": a token for
// another host.
func (p *story) tokenFor(words []string) string {
	p.t.Helper()
	if words[0] == "foreign" {
		issued, err := p.foreign.Issue(&pulp.User{Username: "admin"}, nil)
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

// send sends a recorded request. The argument as is the name of a user, "-" for no credentials, "token" and words for tokenFor, a whole Authorization header,
// or empty for an administrator, who sends the registry a token for the repository.
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

// replay sends a recorded request and returns how the answer differs in its status, in the headers that clients read, and in its body or the shape of it.
// For HTML pages, with which the reference answers unknown paths, only the status is compared (compatibility.md#errors). The first result is that of
// answered.
func (p *story) replay(t *testing.T, s step, shape bool) (answer string, faults []string) {
	t.Helper()
	e := recording(t, s.name)
	res, raw := p.send(t, e, s.as)
	var have any
	if raw != "" && json.Unmarshal([]byte(raw), &have) != nil {
		have = raw
	}
	answer = answered(res.StatusCode, have)
	if res.StatusCode != e.Status {
		return answer, []string{fmt.Sprintf("status %d, want %d: %.300s", res.StatusCode, e.Status, raw)}
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
		recorded, ours := p.alike(t, map[string]any{h + ":": want}, map[string]any{h + ":": got})
		faults = append(faults, wholeDiff(s.name, recorded, ours)...)
	}
	if e.Body == "None" { // Countersign sends an empty body instead (compatibility.md#faults-of-the-reference)
		e.Body = nil
	}
	if page {
		return answer, faults
	}
	if shape {
		if diff := shapeDiff(s.name, e.Body, have); diff != "" {
			faults = append(faults, "shape (-reference +ours):\n"+diff)
		}
		return answer, faults
	}
	want, have := p.alike(t, e.Body, have)
	return answer, append(faults, wholeDiff(s.name, want, have)...)
}

// answered summarises an answer as golden.tsv does: the status, followed by the codes of the registry's errors, or by the names of the fields in the
// REST API's error.
func answered(status int, body any) string {
	words := []string{strconv.Itoa(status)}
	object, _ := body.(map[string]any)
	failures, registry := object["errors"].([]any)
	switch {
	case status < http.StatusBadRequest:
	case registry:
		for _, f := range failures {
			if object, is := f.(map[string]any); is {
				words = append(words, fmt.Sprint(object["code"]))
			}
		}
	default:
		fields := slices.Sorted(maps.Keys(object))
		words = append(words, slices.DeleteFunc(fields, func(f string) bool { return f == "detail" })...)
	}
	return strings.Join(words, " ")
}

// alike normalises a recorded answer and ours so that they can be compared: values that differ in each run are replaced, ids of corresponding objects
// become equal, and our key and remote are replaced by the recorded ones.
func (p *story) alike(t *testing.T, want, have any) (recorded, ours any) {
	t.Helper()
	service, _ := recording(t, "03b-signing-service-get").Body.(map[string]any)
	recorded = plain(t, anyID.ReplaceAllStringFunc(encoded(t, want), func(id string) string {
		if ours, known := p.ids[id[24:]]; known {
			return "<" + ours[24:] + ">"
		}
		return id
	}))
	known := map[string]bool{}
	for _, id := range p.ids {
		known[id] = true
	}
	return recorded, plain(t, anyID.ReplaceAllStringFunc(strings.NewReplacer(
		encoded(t, p.key.Armor), encoded(t, service["public_key"]), p.key.Public.Fingerprint(), service["pubkey_fingerprint"].(string),
		p.keyID(), recordedKey, p.upstream.URL, "http://"+recordedHost,
	).Replace(encoded(t, have)), func(id string) string {
		if known[id] {
			return "<" + id[24:] + ">"
		}
		return id
	}))
}

// plain decodes JSON after normal has replaced the values that differ in each run.
func plain(t *testing.T, encoded string) any {
	t.Helper()
	return normalJSON(t, normal(encoded))
}

// normal replaces the values of a text that differ in each run: ids, times, names of signatures, and messages of JSON decoders.
func normal(s string) string {
	for _, n := range []struct {
		pattern     *regexp.Regexp
		replacement string
	}{{anyID, "<id>"}, {anyTime, "<time>"}, {otherHost, recordedHost}, {anySignature, "@0"}, {parseError, "JSON parse error"}} {
		s = n.pattern.ReplaceAllString(s, n.replacement)
	}
	return s
}

// normalJSON decodes JSON. A token in it is replaced by its header and claims, without times, ids and key.
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
			for _, c := range []string{"exp", "iat", "nbf", "jti", "cred"} { // the reference's tokens have no credential
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
	as     string // the argument of send
	before func()
}

// testTheRecordedStory replays the steps. The answer to a step that the table does not list as replayed must differ from the recording, in the way that the
// table says; otherwise the step is in the wrong column.
func testTheRecordedStory(t *testing.T) {
	t.Parallel()
	p := newStory(t)
	listed := map[string]row{}
	for _, r := range readTable(t) {
		listed[r.file] = r
	}
	for _, s := range p.steps() {
		if s.before != nil {
			s.before()
		}
		t.Run(s.name, func(t *testing.T) {
			r := listed[s.name]
			answer, faults := p.replay(t, s, r.answer == "shape")
			switch {
			case r.column != "replayed":
				compares(t, s.name, answer)
			case r.answer == "shape":
				compares(t, s.name, "shape")
			default:
				compares(t, s.name, "whole")
			}
			switch {
			case r.column == "replayed":
				for _, f := range faults {
					t.Error(f)
				}
			case len(faults) == 0:
				t.Errorf("listed as %s, but answered as recorded", r.column)
			case answer != r.answer:
				t.Errorf("listed as %s: answered %s, want %s", r.column, answer, r.answer)
			}
		})
	}
}

// upload starts an upload that corresponds to the recorded upload id, whose start was recorded elsewhere.
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

// serveUpstream starts the registry that syncs read. Its ctr/push has as many images, blobs and tags as the recorded one, and no signatures.
func (p *story) serveUpstream() {
	p.t.Helper()
	p.upstream = httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	p.t.Cleanup(p.upstream.Close)
	send := func(method, path, kind, body string) {
		p.t.Helper()
		r, err := http.NewRequestWithContext(p.t.Context(), method, p.upstream.URL+"/v2/ctr/push/"+path, strings.NewReader(body))
		if err != nil {
			p.t.Fatal(err)
		}
		r.Header.Set("Content-Type", kind)
		res, err := http.DefaultTransport.RoundTrip(r)
		if err != nil || res.StatusCode != http.StatusCreated {
			p.t.Fatalf("%s: %v %v", path, res, err)
		}
		_ = res.Body.Close()
	}
	descriptor := func(kind, body string) string {
		return fmt.Sprintf(`{"mediaType":%q,"digest":%q,"size":%d}`, kind, digest.FromString(body), len(body))
	}
	var images []string
	for i := range 4 {
		config, layer := fmt.Sprintf(`{"architecture":"amd64","os":"linux","author":"%d"}`, i), fmt.Sprintf("layer %d", i)
		for _, b := range []string{config, layer} {
			send(http.MethodPost, "blobs/uploads/?digest="+string(digest.FromString(b)), "application/octet-stream", b)
		}
		images = append(images, fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"config":%s,"layers":[%s]}`, pulp.OCIManifest,
			descriptor("application/vnd.oci.image.config.v1+json", config), descriptor("application/vnd.oci.image.layer.v1.tar", layer)))
		send(http.MethodPut, "manifests/"+string(digest.FromString(images[i])), pulp.OCIManifest, images[i])
	}
	send(http.MethodPut, "manifests/latest", pulp.OCIManifest, images[0])
	send(http.MethodPut, "manifests/1.0", pulp.OCIManifest, images[0])
	send(http.MethodPut, "manifests/2.0", pulp.OCIManifest, images[1])
	send(http.MethodPut, "manifests/multi", pulp.OCIIndex, fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"manifests":[%s,%s]}`, pulp.OCIIndex,
		descriptor(pulp.OCIManifest, images[2]), descriptor(pulp.OCIManifest, images[3])))
}

// failedSync starts the sync whose end is recorded, from the remote that the step 84b created.
func (p *story) failedSync() {
	p.t.Helper()
	remote := p.results(pulp.RemoteCollection+"?name=ctr/remx", "pulp_href")[0]
	r := p.expect(call{
		method: http.MethodPost, path: pulp.RepositoryHref(pulp.Container, p.ids["6f35d08bb5d6"]) + "sync/", json: map[string]string{"remote": remote},
	}, http.StatusAccepted, "")
	p.ids["9663b8bbfcaf"] = anyID.FindString(r.raw)
}

// mirrored copies the images of ctr/push to the mirror, because recorded copies refer to their digests.
func (p *story) mirrored() {
	p.t.Helper()
	p.copyApp(p.mirror())
}

func (p *story) mirror() pulp.Repository {
	p.t.Helper()
	r, err := p.store.Catalog.Repository(p.t.Context(), pulp.Container, p.ids["6f35d08bb5d6"])
	if err != nil {
		p.t.Fatal(err)
	}
	return r
}

// two creates the recorded repository ctr/two and its distribution.
func (p *story) two() {
	p.t.Helper()
	r := p.copyApp(p.container("ctr/two", ""))
	p.ids["c45cdb9cab8a"] = r.ID
	p.serve(pulp.Distribution{Name: "ctr/two", BasePath: "ctr/two", RepositoryID: r.ID})
}

// keyID returns the key id of the service's key: the last 16 digits of its fingerprint.
func (p *story) keyID() string {
	f := p.key.Public.Fingerprint()
	return f[len(f)-16:]
}
