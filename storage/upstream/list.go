package upstream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/registryclient"
	"github.com/countersign/countersign/storage"
)

// bounds are those of lists. How long a page is the upstream decides: some refuse what is more than they like, and some send empty ones in between.
type bounds struct {
	page, all     int // bytes
	pages, listed int
}

var usual = bounds{page: 16 << 20, all: 128 << 20, pages: 10_000, listed: 1_000_000}

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

// Referrers implements storage.Manifests.
func (s *Storage) Referrers(ctx context.Context, name string, subject digest.Digest) ([]digest.Digest, error) {
	var all []digest.Digest
	q := request{method: http.MethodGet, name: name, path: "/referrers/" + string(subject), header: http.Header{"Accept": {"application/vnd.oci.image.index.v1+json"}}}
	err := s.pages(ctx, q, func(page []byte) (int, error) {
		var list struct {
			Manifests []struct{ Digest digest.Digest }
		}
		err := json.Unmarshal(page, &list)
		for _, m := range list.Manifests {
			if err == nil {
				err = m.Digest.Validate()
			}
			all = append(all, m.Digest)
		}
		return len(all), err
	})
	if errors.Is(err, errNoList) {
		return nil, storage.ErrUnsupported
	}
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
	if errors.Is(err, errNoList) {
		return nil, storage.ErrUnsupported
	}
	return all, err
}

var (
	errTooLong = errors.New("its list is too long, or has no end")
	errNoList  = fmt.Errorf("it shows no such list: %w", storage.ErrNotFound)
)

// pages reads a list page by page. take returns how much it has in all.
func (s *Storage) pages(ctx context.Context, q request, take func(page []byte) (int, error)) error {
	seen, bytes := map[string]bool{}, 0
	for len(seen) < s.lists.pages && bytes <= s.lists.all {
		page, next, err := s.page(ctx, q)
		if err != nil {
			return err
		}
		listed, err := take(page)
		switch {
		case err != nil:
			return unavailable(fmt.Errorf("its list is malformed: %w", err))
		case listed > s.lists.listed:
			return unavailable(errTooLong)
		case next == nil:
			return nil
		case seen[next.String()]:
			return unavailable(errTooLong)
		}
		bytes += len(page)
		seen[next.String()] = true
		q.at, q.path = next, ""
	}
	return unavailable(errTooLong)
}

// page reads one page, and where the next is; nil: there is none.
func (s *Storage) page(ctx context.Context, q request) (page []byte, next *url.URL, err error) {
	res, err := s.do(ctx, q)
	if _, refused := errors.AsType[*registryclient.RefusedError](err); refused && q.name == "" && !fault.IsOutage(err, fault.Upstream) {
		return nil, nil, errNoList // for many the catalog is for administrators
	}
	if err != nil {
		return nil, nil, err
	}
	defer drain(res)
	switch res.StatusCode {
	case http.StatusOK:
	case http.StatusNotFound, http.StatusMethodNotAllowed:
		return nil, nil, errNoList
	case http.StatusUnauthorized, http.StatusForbidden:
		if q.name == "" {
			return nil, nil, errNoList
		}
		return nil, nil, refused("a list", res, res.Body)
	default:
		return nil, nil, refused("a list", res, res.Body)
	}
	page, err = io.ReadAll(io.LimitReader(res.Body, int64(s.lists.page)+1))
	if err != nil {
		return nil, nil, unavailable(err)
	}
	if len(page) > s.lists.page {
		return nil, nil, unavailable(errTooLong)
	}
	if next, err = registryclient.NextPage(res.Request.URL, res.Header); err != nil || next != nil && !registryclient.SameHost(next, s.base) { // our credentials go there
		return nil, nil, unavailable(errors.New("the next page of a list is elsewhere"))
	}
	return page, next, nil
}

// Resolve implements storage.Manifests. An upstream that does not say the digest is asked for the manifest itself.
func (s *Storage) Resolve(ctx context.Context, name, reference string, accept ...string) (digest.Digest, error) {
	if len(accept) == 0 {
		accept = []string{manifestTypes}
	}
	res, err := s.do(ctx, request{method: http.MethodHead, name: name, path: "/manifests/" + reference, header: http.Header{"Accept": accept}})
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
