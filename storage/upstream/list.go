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
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/registryclient"
	"github.com/countersign/countersign/storage"
)

// bounds are the bounds of lists. The upstream decides the length of pages: some refuse requests for long pages, and
// some send empty ones.
type bounds struct {
	page, all int // bytes of one page, and of all
	pages     int
	entries   int // on all pages
}

var listBounds = bounds{page: 16 << 20, all: 128 << 20, pages: 10_000, entries: 1_000_000}

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
	q := request{
		method: http.MethodGet, name: name, path: "/referrers/" + string(subject), header: http.Header{"Accept": {pulp.OCIIndex}},
	}
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

// Catalog implements storage.Manifests. It returns the names below the prefix, without it.
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
	errNoList  = fmt.Errorf("it has no such list: %w", storage.ErrNotFound)
)

// pages reads a list page by page. add reads the entries of one page and returns the number of entries so far.
func (s *Storage) pages(ctx context.Context, q request, add func(page []byte) (int, error)) error {
	seen, size := map[string]bool{}, 0
	for len(seen) < s.lists.pages && size <= s.lists.all {
		page, next, err := s.page(ctx, q)
		if err != nil {
			return err
		}
		entries, err := add(page)
		switch {
		case err != nil:
			return outage(fmt.Errorf("its list is malformed: %w", err))
		case entries > s.lists.entries:
			return outage(errTooLong)
		case next == nil:
			return nil
		case seen[next.String()]:
			return outage(errTooLong)
		}
		size += len(page)
		seen[next.String()] = true
		q.at, q.path = next, ""
	}
	return outage(errTooLong)
}

// page reads one page and returns the URL of the next one; nil if it is the last. It returns errNoList if the
// upstream does not have the list, or refuses the catalog: many show it to administrators only.
func (s *Storage) page(ctx context.Context, q request) (page []byte, next *url.URL, err error) {
	catalog := q.name == ""
	res, err := s.do(ctx, q)
	if _, refused := errors.AsType[*registryclient.RefusedError](err); refused && catalog && !fault.IsOutage(err, fault.Upstream) {
		return nil, nil, errNoList
	}
	if err != nil {
		return nil, nil, err
	}
	defer drain(res)
	switch code := res.StatusCode; {
	case code == http.StatusOK:
	case code == http.StatusNotFound, code == http.StatusMethodNotAllowed,
		catalog && (code == http.StatusUnauthorized || code == http.StatusForbidden):
		return nil, nil, errNoList
	default:
		return nil, nil, refused("a list", res, res.Body)
	}
	page, err = io.ReadAll(io.LimitReader(res.Body, int64(s.lists.page)+1))
	if err != nil {
		return nil, nil, outage(err)
	}
	if len(page) > s.lists.page {
		return nil, nil, outage(errTooLong)
	}
	next, err = registryclient.NextPage(res.Request.URL, res.Header)
	if err != nil || next != nil && !registryclient.SameHost(next, s.base) { // the credentials go there
		return nil, nil, outage(errors.New("the next page of a list is elsewhere"))
	}
	return page, next, nil
}
