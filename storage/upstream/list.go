package upstream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/bearer"
	"github.com/countersign/countersign/storage"
)

// Bounds of lists. How long a page is the upstream decides: some refuse what is more than they like.
const (
	maxListPage = 16 << 20 // bytes
	maxListed   = 1_000_000
)

// Tags implements storage.Manifests.
func (s *Storage) Tags(ctx context.Context, name string) ([]string, error) {
	var all []string
	err := s.pages(ctx, request{method: http.MethodGet, name: name, path: "/tags/list"}, func(page []byte) (int, error) {
		var list struct{ Tags []string }
		err := json.Unmarshal(page, &list)
		all = append(all, list.Tags...)
		return len(all), err
	})
	return all, err
}

// Catalog implements storage.Manifests.
func (s *Storage) Catalog(ctx context.Context) ([]string, error) {
	var all []string
	first := *s.base
	first.Path = "/v2/_catalog"
	listed := 0
	err := s.pages(ctx, request{method: http.MethodGet, at: &first}, func(page []byte) (int, error) {
		var list struct{ Repositories []string }
		err := json.Unmarshal(page, &list)
		for _, name := range list.Repositories {
			if rest, ours := strings.CutPrefix(name, s.prefix); ours {
				all = append(all, rest)
			}
		}
		listed += len(list.Repositories)
		return listed, err
	})
	if errors.Is(err, storage.ErrNotFound) {
		return nil, storage.ErrUnsupported
	}
	return all, err
}

// nextLink finds the next page in a Link header (RFC 8288).
var nextLink = regexp.MustCompile(`<([^>]*)>\s*;[^,]*\brel="?next"?`)

// pages reads a list page by page. take returns how much it has in all.
func (s *Storage) pages(ctx context.Context, q request, take func(page []byte) (int, error)) error {
	seen := map[string]bool{}
	for {
		next, err := s.page(ctx, q, take)
		if err != nil || next == nil {
			return err
		}
		if seen[next.String()] {
			return unavailable(errors.New("its list has no end"))
		}
		seen[next.String()] = true
		q.at, q.path = next, ""
	}
}

// page reads one page and returns where the next is; nil: there is none.
func (s *Storage) page(ctx context.Context, q request, take func(page []byte) (int, error)) (*url.URL, error) {
	res, err := s.do(ctx, q)
	if err != nil {
		return nil, err
	}
	defer drain(res)
	switch res.StatusCode {
	case http.StatusOK:
	case http.StatusNotFound, http.StatusMethodNotAllowed:
		return nil, storage.ErrNotFound
	case http.StatusUnauthorized, http.StatusForbidden:
		if res.Request.URL.Path == "/v2/_catalog" { // for many that is for administrators
			return nil, storage.ErrNotFound
		}
		return nil, refused("a list", res, res.Body)
	default:
		return nil, refused("a list", res, res.Body)
	}
	page, err := io.ReadAll(io.LimitReader(res.Body, maxListPage+1))
	if err != nil {
		return nil, unavailable(err)
	}
	n, err := take(page)
	if err != nil || len(page) > maxListPage || n > maxListed {
		return nil, unavailable(fmt.Errorf("a list that is malformed or too long: %w", err))
	}
	m := nextLink.FindStringSubmatch(strings.Join(res.Header.Values("Link"), ","))
	if m == nil {
		return nil, nil
	}
	next, err := res.Request.URL.Parse(m[1])
	if err != nil || !bearer.SameHost(next, s.base) { // our credentials go there
		return nil, unavailable(errors.New("the next page of a list is on another host"))
	}
	return next, nil
}

// Resolve implements storage.Manifests. An upstream that does not say the digest is asked for the manifest itself.
func (s *Storage) Resolve(ctx context.Context, name, reference string) (digest.Digest, error) {
	res, err := s.do(ctx, request{method: http.MethodHead, name: name, path: "/manifests/" + reference, header: http.Header{"Accept": {manifestTypes}}})
	if err != nil {
		return "", err
	}
	drain(res)
	switch res.StatusCode {
	case http.StatusOK:
	case http.StatusNotFound:
		return "", storage.ErrNotFound
	default:
		return "", refused("HEAD of a manifest", res, nil)
	}
	if d := digest.Digest(res.Header.Get("Docker-Content-Digest")); d.Validate() == nil {
		return d, nil
	}
	payload, _, err := s.GetManifest(ctx, name, reference)
	return digest.FromBytes(payload), err
}
