package api_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/api"
	"github.com/countersign/countersign/internal/access"
	"github.com/countersign/countersign/internal/auth"
	"github.com/countersign/countersign/internal/ingest"
	"github.com/countersign/countersign/internal/mirror"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/signonpush"
	"github.com/countersign/countersign/internal/signservice"
	assign "github.com/countersign/countersign/internal/store/accounts"
	"github.com/countersign/countersign/internal/store/catalog"
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
	if _, err := s.Accounts.PutUser(t.Context(), "admin", hash, true, true); err != nil {
		t.Fatal(err)
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
	public, quiet, queue := &url.URL{Scheme: "http", Host: recordedHost}, slog.New(slog.DiscardHandler), &memqueue.Queue{}
	logins := auth.New(p.store.Accounts, quiet)
	signer := &signservice.Signer{
		Store: p.store, Parallel: 1, Usable: func(pulp.SigningService) bool { return true },
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
	rest := api.Validated(t, api.New(api.Options{
		Store: p.store, Tasks: atOnce{tasks.NewDispatcher(p.store, queue, worker, quiet)}, Auth: logins, Log: quiet, PublicURL: public,
		Process: "1@test", Version: "0.1.0", DataDir: t.TempDir(),
	}))
	options := proxy.Options{
		Store: p.store, Auth: logins, Tokens: tokens, Storage: files, Log: quiet, PublicURL: public, PushType: pulp.Container, InlineLimit: 16 << 10,
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
		target, err := p.store.Catalog.PushTarget(t.Context(), catalog.FirstPush{BasePath: name, Type: pulp.Container})
		if err != nil {
			t.Fatal(err)
		}
		p.recordedImage(target, latestImage, spaced(t, recording(t, "56-manifest-tag").RawBody), "latest")
	}
	push, err := p.store.Catalog.PushTarget(t.Context(), catalog.FirstPush{BasePath: "ctr/push", Type: pulp.ContainerPush})
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

// own makes the administrator the owner of a distribution, as if the administrator had pushed to it.
func (p *story) own(path string) {
	p.t.Helper()
	href := p.results(pulp.DistributionCollection+"?base_path="+path, "pulp_href")[0]
	on := access.Key(access.Distribution, anyID.FindString(href))
	to := assign.Assignee{Account: p.userID("admin"), Name: "admin"}
	if _, err := p.store.Accounts.AssignRole(p.t.Context(), access.DistributionOwner, on, to); err != nil {
		p.t.Fatal(err)
	}
}

// passwordOf returns the password of a user: for ctru the one with which the recordings create the user.
func passwordOf(user string) string {
	if user == "ctru" {
		return "Zx9!kkpq12"
	}
	return "secret"
}

// keyID returns the key id of the service's key: the last 16 digits of its fingerprint.
func (p *story) keyID() string {
	f := p.key.Public.Fingerprint()
	return f[len(f)-16:]
}
