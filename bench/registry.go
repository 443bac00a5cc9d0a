package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
)

const (
	manifestType = "application/vnd.oci.image.manifest.v1+json"
	configType   = "application/vnd.oci.image.config.v1+json"
	layerType    = "application/vnd.oci.image.layer.v1.tar"
)

// registry is a registry under measurement. The requests are those of docker: tokens if the registry requires them,
// POST and PUT for a small blob, and POST, PATCH and PUT for a big one.
type registry struct {
	name    string
	base    string
	service string // of tokens; empty for a registry without authentication

	user, password string

	// settled waits until a number of tags of a repository has reached the upstream. nil: there is no upstream.
	settled func(ctx context.Context, repository string, tags int) error

	cli     func(ctx context.Context, arguments ...string) error // runs a command of the program; nil for distribution
	cleanup []func()                                             // run at the end
}

// session is a registry with a token for one repository. The token is valid for five minutes; a round is shorter.
type session struct {
	*registry
	client     *http.Client
	repository string
	token      string
}

// open returns a session with a token to push to a repository.
func (r *registry) open(ctx context.Context, clients int, repository string) (*session, error) {
	s := &session{registry: r, repository: repository, client: &http.Client{
		Timeout: 5 * time.Minute, Transport: &http.Transport{MaxIdleConnsPerHost: clients, DisableCompression: true},
	}}
	if r.service == "" {
		return s, nil
	}
	query := url.Values{"service": {r.service}, "scope": {"repository:" + repository + ":pull,push"}}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, r.base+"/token/?"+query.Encode(), nil)
	if err != nil {
		return nil, err
	}
	request.SetBasicAuth(r.user, r.password)
	_, answer, err := s.send(request, http.StatusOK)
	if err != nil {
		return nil, err
	}
	var got struct{ Token string }
	if err := json.Unmarshal(answer, &got); err != nil {
		return nil, fmt.Errorf("token: %w", err)
	}
	s.token = got.Token
	return s, nil
}

// anonymous returns a session with the same connections and without the token.
func (s *session) anonymous() *session {
	plain := *s
	plain.token = ""
	return &plain
}

func (s *session) close() { s.client.CloseIdleConnections() }

// send sends a request and returns the headers and the body of the response. A status other than want is an error.
func (s *session) send(request *http.Request, want int) (http.Header, []byte, error) {
	if s.token != "" {
		request.Header.Set("Authorization", "Bearer "+s.token)
	}
	response, err := s.client.Do(request)
	if err != nil {
		return nil, nil, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return nil, nil, err
	}
	if response.StatusCode != want {
		return nil, nil, fmt.Errorf("%s: %s %s: %d %.300s", s.name, request.Method, request.URL.Path, response.StatusCode, body)
	}
	return response.Header, body, nil
}

// do sends a request with a body as send does.
func (s *session) do(ctx context.Context, method, path, contentType string, body []byte, want int) (http.Header, error) {
	request, err := http.NewRequestWithContext(ctx, method, s.absolute(path), bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	if contentType != "" {
		request.Header.Set("Content-Type", contentType)
	}
	header, _, err := s.send(request, want)
	return header, err
}

// absolute returns the URL of a path, or of a Location that can be absolute, on the listening address of this registry.
func (s *session) absolute(path string) string {
	if at, err := url.Parse(path); err == nil && at.IsAbs() {
		path = at.RequestURI()
	}
	return s.base + path
}

func (s *session) path(rest string) string { return "/v2/" + s.repository + rest }

// finish returns the URL of the request that finishes an upload.
func finish(location, digest string) string {
	separator := "?"
	if strings.Contains(location, "?") {
		separator = "&"
	}
	return location + separator + "digest=" + url.QueryEscape(digest)
}

// pushBlob uploads a small blob.
func (s *session) pushBlob(ctx context.Context, blob []byte, digest string) error {
	header, err := s.do(ctx, http.MethodPost, s.path("/blobs/uploads/"), "", nil, http.StatusAccepted)
	if err != nil {
		return err
	}
	_, err = s.do(ctx, http.MethodPut, finish(header.Get("Location"), digest), "application/octet-stream", blob, http.StatusCreated)
	return err
}

// pushBig uploads a big blob.
func (s *session) pushBig(ctx context.Context, blob []byte, digest string) error {
	header, err := s.do(ctx, http.MethodPost, s.path("/blobs/uploads/"), "", nil, http.StatusAccepted)
	if err != nil {
		return err
	}
	header, err = s.do(ctx, http.MethodPatch, header.Get("Location"), "application/octet-stream", blob, http.StatusAccepted)
	if err != nil {
		return err
	}
	_, err = s.do(ctx, http.MethodPut, finish(header.Get("Location"), digest), "", nil, http.StatusCreated)
	return err
}

// pullBig downloads a blob and discards it.
func (s *session) pullBig(ctx context.Context, digest string, size int) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, s.absolute(s.path("/blobs/"+digest)), nil)
	if err != nil {
		return err
	}
	response, err := s.client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	got, err := io.Copy(io.Discard, response.Body)
	if err == nil && (response.StatusCode != http.StatusOK || got != int64(size)) {
		err = fmt.Errorf("%s: blob: %d with %d bytes", s.name, response.StatusCode, got)
	}
	return err
}

type descriptor struct {
	MediaType string `json:"mediaType"`
	Digest    string `json:"digest"`
	Size      int    `json:"size"`
}

type manifest struct {
	SchemaVersion int          `json:"schemaVersion"`
	MediaType     string       `json:"mediaType"`
	Config        descriptor   `json:"config"`
	Layers        []descriptor `json:"layers"`
}

// pushTiny pushes an image with a new config of 0.6 kB and a new layer of 1 kB to a tag, with five requests.
func (s *session) pushTiny(ctx context.Context, tag string) error {
	config := fmt.Appendf(nil, `{"architecture":"amd64","os":"linux","author":"%s","comment":"%s","rootfs":{"type":"layers","diff_ids":[]}}`,
		s.repository+tag, strings.Repeat("c", 500))
	layer := fmt.Appendf(nil, "%s%s%s", s.repository, tag, strings.Repeat("l", 1000))
	for _, blob := range [][]byte{config, layer} {
		if err := s.pushBlob(ctx, blob, digestOf(blob)); err != nil {
			return err
		}
	}
	return s.pushManifest(ctx, tag, config, descriptor{layerType, digestOf(layer), len(layer)})
}

// pushBigImage pushes an image with a big blob, which was uploaded before, as its layer, so that the blob can be
// pulled.
func (s *session) pushBigImage(ctx context.Context, digest string, size int) error {
	config := fmt.Appendf(nil, `{"architecture":"amd64","os":"linux","author":"%s"}`, digest)
	if err := s.pushBlob(ctx, config, digestOf(config)); err != nil {
		return err
	}
	return s.pushManifest(ctx, "big", config, descriptor{layerType, digest, size})
}

func (s *session) pushManifest(ctx context.Context, tag string, config []byte, layer descriptor) error {
	text, err := json.Marshal(manifest{
		SchemaVersion: 2, MediaType: manifestType, Config: descriptor{configType, digestOf(config), len(config)}, Layers: []descriptor{layer},
	})
	if err != nil {
		return err
	}
	_, err = s.do(ctx, http.MethodPut, s.path("/manifests/"+tag), manifestType, text, http.StatusCreated)
	return err
}

// getManifest reads a manifest by its tag.
func (s *session) getManifest(ctx context.Context, tag string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, s.absolute(s.path("/manifests/"+tag)), nil)
	if err != nil {
		return err
	}
	request.Header.Set("Accept", manifestType)
	_, _, err = s.send(request, http.StatusOK)
	return err
}

func digestOf(content []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(content)) }
