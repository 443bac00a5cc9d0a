package upstream

import (
	"context"
	"io"
	"net/http"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/registryclient"
	"github.com/countersign/countersign/storage"
)

// maxManifest bounds a manifest, in bytes.
const maxManifest = 4 << 20

// PutManifest implements storage.Manifests.
func (s *Storage) PutManifest(ctx context.Context, name, reference, mediaType string, payload []byte) error {
	res, err := s.do(ctx, request{
		method: http.MethodPut, name: name, path: "/manifests/" + reference, body: payload,
		header: http.Header{"Content-Type": {mediaType}},
	})
	if err != nil {
		return err
	}
	defer drain(res)
	if res.StatusCode != http.StatusCreated {
		return refused("a manifest", res, res.Body)
	}
	return nil
}

// GetManifest implements storage.Manifests.
func (s *Storage) GetManifest(ctx context.Context, name, reference string) ([]byte, string, error) {
	return s.getManifest(ctx, name, reference, []string{registryclient.ManifestTypes})
}

// getManifest does the same as GetManifest with the Accept headers of the caller.
func (s *Storage) getManifest(ctx context.Context, name, reference string, accept []string) ([]byte, string, error) {
	q := request{method: http.MethodGet, name: name, path: "/manifests/" + reference, header: http.Header{"Accept": accept}}
	res, err := s.do(ctx, q)
	if err != nil {
		return nil, "", err
	}
	defer drain(res)
	switch res.StatusCode {
	case http.StatusOK:
	case http.StatusNotFound:
		return nil, "", storage.ErrNotFound
	default:
		return nil, "", refused("a manifest", res, res.Body)
	}
	payload, err := io.ReadAll(io.LimitReader(res.Body, maxManifest+1))
	if err != nil {
		return nil, "", outage(err)
	}
	if len(payload) > maxManifest {
		return nil, "", fault.New(fault.TooLarge, "The upstream registry's manifest has more than %d bytes.", maxManifest)
	}
	if d := digest.Digest(reference); d.Validate() == nil && d.Algorithm().FromBytes(payload) != d {
		return nil, "", fault.New(fault.Unavailable, "The upstream registry answers with other bytes than the digest's.")
	}
	return payload, res.Header.Get("Content-Type"), nil
}

// DeleteManifest implements storage.Manifests.
func (s *Storage) DeleteManifest(ctx context.Context, name, reference string) error {
	return s.delete(ctx, name, "/manifests/"+reference)
}

// Resolve implements storage.Manifests. It gets the manifest itself if the response to HEAD has no digest.
func (s *Storage) Resolve(ctx context.Context, name, reference string, accept ...string) (digest.Digest, error) {
	if len(accept) == 0 {
		accept = []string{registryclient.ManifestTypes}
	}
	q := request{method: http.MethodHead, name: name, path: "/manifests/" + reference, header: http.Header{"Accept": accept}}
	res, err := s.do(ctx, q)
	if err != nil {
		return "", err
	}
	drain(res)
	switch res.StatusCode {
	case http.StatusOK:
	case http.StatusNotFound, http.StatusNotAcceptable:
		return "", storage.ErrNotFound
	default:
		return "", refused("HEAD of a manifest", res, nil)
	}
	if d := digest.Digest(res.Header.Get("Docker-Content-Digest")); d.Validate() == nil {
		return d, nil
	}
	payload, _, err := s.getManifest(ctx, name, reference, accept)
	return digest.FromBytes(payload), err
}
