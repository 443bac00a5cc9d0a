package adopt_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/storage"
)

// registry is an upstream registry in memory. The adopter's storage and its interface for manifests are the same registry.
type registry struct {
	storage.Storage // panics for methods that an adopter does not call

	mu        sync.Mutex
	blobs     map[string][]byte // by name@digest
	manifests map[string]manifest
	tags      map[string]digest.Digest // by name:tag
	referrers map[digest.Digest][]digest.Digest
	catalog   []string // nil: not supported
	keepsTags bool     // does not support deleting tags
	down      bool     // does not answer pings
	downPings int      // number of next pings that are not answered
	requests  []string // "operation name reference"
	// fail returns the error of a request, if any. It is called without the lock.
	fail func(operation, name, reference string) error
}

type manifest struct {
	mediaType string
	payload   []byte
}

var errDown = fault.NewOutage(fault.Upstream, nil, "The upstream registry does not answer.")

func newRegistry() *registry {
	return &registry{blobs: map[string][]byte{}, manifests: map[string]manifest{}, tags: map[string]digest.Digest{}}
}

// begin records a request and returns its injected error, if any.
func (r *registry) begin(operation, name, reference string) error {
	r.mu.Lock()
	r.requests = append(r.requests, strings.TrimSpace(operation+" "+name+" "+reference))
	fail, down := r.fail, r.down
	r.mu.Unlock()
	if down {
		return errDown
	}
	if fail != nil {
		return fail(operation, name, reference)
	}
	return nil
}

// asked returns the number of recorded requests with this prefix.
func (r *registry) asked(prefix string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := 0
	for _, request := range r.requests {
		if strings.HasPrefix(request, prefix) {
			n++
		}
	}
	return n
}

func (r *registry) PutManifest(_ context.Context, name, reference, mediaType string, payload []byte) error {
	if err := r.begin("put", name, reference); err != nil {
		return err
	}
	r.store(name, reference, mediaType, payload)
	return nil
}

func (r *registry) store(name, reference, mediaType string, payload []byte) digest.Digest {
	r.mu.Lock()
	defer r.mu.Unlock()
	d := digest.FromBytes(payload)
	r.manifests[name+"@"+string(d)] = manifest{mediaType, payload}
	if pulp.ValidTag(reference) {
		r.tags[name+":"+reference] = d
	}
	return d
}

func (r *registry) GetManifest(_ context.Context, name, reference string) ([]byte, string, error) {
	if err := r.begin("get", name, reference); err != nil {
		return nil, "", err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	m, ok := r.manifests[name+"@"+reference]
	if !ok {
		return nil, "", storage.ErrNotFound
	}
	return m.payload, m.mediaType, nil
}

func (r *registry) DeleteManifest(_ context.Context, name, reference string) error {
	if err := r.begin("delete", name, reference); err != nil {
		return err
	}
	if r.keepsTags {
		return storage.ErrUnsupported
	}
	r.remove(name, reference)
	return nil
}

// remove deletes a tag or a manifest as another client does.
func (r *registry) remove(name, reference string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.tags, name+":"+reference)
	delete(r.manifests, name+"@"+reference)
}

func (r *registry) Resolve(_ context.Context, name, reference string, _ ...string) (digest.Digest, error) {
	if err := r.begin("resolve", name, reference); err != nil {
		return "", err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if d, ok := r.tags[name+":"+reference]; ok {
		return d, nil
	}
	if _, ok := r.manifests[name+"@"+reference]; ok {
		return digest.Digest(reference), nil
	}
	return "", storage.ErrNotFound
}

func (r *registry) Tags(_ context.Context, name string) ([]string, error) {
	if err := r.begin("tags", name, ""); err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	var found []string
	for _, at := range slices.Sorted(maps.Keys(r.tags)) {
		if tag, ok := strings.CutPrefix(at, name+":"); ok {
			found = append(found, tag)
		}
	}
	if len(found) == 0 {
		return nil, storage.ErrNotFound
	}
	return found, nil
}

func (r *registry) Referrers(_ context.Context, name string, subject digest.Digest) ([]digest.Digest, error) {
	if err := r.begin("referrers", name, string(subject)); err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.referrers == nil {
		return nil, storage.ErrUnsupported
	}
	return r.referrers[subject], nil
}

func (r *registry) Catalog(context.Context) ([]string, error) {
	if err := r.begin("catalog", "", ""); err != nil {
		return nil, err
	}
	if r.catalog == nil {
		return nil, storage.ErrUnsupported
	}
	return r.catalog, nil
}

func (r *registry) Ping(context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.downPings > 0 {
		r.downPings--
		return errDown
	}
	if r.down {
		return errDown
	}
	return nil
}

func (r *registry) Stat(_ context.Context, name string, d digest.Digest) (int64, error) {
	if err := r.begin("stat", name, string(d)); err != nil {
		return 0, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	content, ok := r.blobs[name+"@"+string(d)]
	if !ok {
		return 0, storage.ErrNotFound
	}
	return int64(len(content)), nil
}

type nopCloser struct{ io.ReadSeeker }

func (nopCloser) Close() error { return nil }

func (r *registry) Open(_ context.Context, name string, d digest.Digest) (io.ReadSeekCloser, int64, error) {
	if err := r.begin("open", name, string(d)); err != nil {
		return nil, 0, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	content, ok := r.blobs[name+"@"+string(d)]
	if !ok {
		return nil, 0, storage.ErrNotFound
	}
	return nopCloser{bytes.NewReader(content)}, int64(len(content)), nil
}

func (r *registry) Mount(_ context.Context, from, name string, d digest.Digest) error {
	if err := r.begin("mount", from+" "+name, string(d)); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	content, ok := r.blobs[from+"@"+string(d)]
	if !ok {
		return storage.ErrNotFound
	}
	r.blobs[name+"@"+string(d)] = content
	return nil
}

// upload is an upload of a whole blob.
type upload struct {
	to   *registry
	name string
	bytes.Buffer
}

func (r *registry) Create(_ context.Context, name string) (storage.Upload, error) {
	return &upload{to: r, name: name}, r.begin("create", name, "")
}

func (u *upload) Close() error                 { return nil }
func (u *upload) Ref() string                  { return "" }
func (u *upload) Size() int64                  { return int64(u.Len()) }
func (u *upload) Cancel(context.Context) error { return nil }

func (u *upload) Commit(_ context.Context, d digest.Digest) error {
	u.to.blob(u.name, u.String())
	return nil
}

type object = map[string]any

// blob stores a blob and returns its descriptor.
func (r *registry) blob(name, content string) object {
	r.mu.Lock()
	defer r.mu.Unlock()
	d := digest.FromString(content)
	r.blobs[name+"@"+string(d)] = []byte(content)
	return object{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": d, "size": len(content)}
}

// lose deletes a blob.
func (r *registry) lose(name string, d digest.Digest) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.blobs, name+"@"+string(d))
}

func (r *registry) push(name string, m object, tags ...string) digest.Digest {
	payload, err := json.Marshal(m)
	if err != nil {
		panic(err)
	}
	mediaType, _ := m["mediaType"].(string)
	for _, tag := range tags {
		r.store(name, tag, mediaType, payload)
	}
	return r.store(name, "", mediaType, payload)
}

// image stores an image as another client does, with a config and one layer for each of the texts.
func (r *registry) image(name, text string, tags ...string) digest.Digest {
	return r.push(name, r.imageOf(name, text), tags...)
}

func (r *registry) imageOf(name, text string) object {
	config := r.blob(name, `{"architecture":"amd64","os":"linux","text":"`+text+`"}`)
	config["mediaType"] = "application/vnd.oci.image.config.v1+json"
	return object{
		"schemaVersion": 2, "mediaType": pulp.OCIManifest,
		"config": config, "layers": []object{r.blob(name, "layer "+text)},
	}
}

// list stores an image index.
func (r *registry) list(name, tag string, children ...digest.Digest) digest.Digest {
	list := []object{}
	for _, d := range children {
		list = append(list, object{"mediaType": pulp.OCIManifest, "digest": d, "size": 2})
	}
	return r.push(name, object{"schemaVersion": 2, "mediaType": pulp.OCIIndex, "manifests": list}, tag)
}
