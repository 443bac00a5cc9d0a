package upstream_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	_ "github.com/distribution/distribution/v3/registry/storage/driver/filesystem"
	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/storage"
	"github.com/countersign/countersign/storage/upstream"
)

// TestLists proves that lists are read from all pages and not from other hosts, without the names outside of the
// prefix.
func TestLists(t *testing.T) {
	t.Parallel()
	pages := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path + "?" + r.URL.RawQuery {
		case "/v2/company/app/tags/list?":
			w.Header().Set("Link", `</v2/company/app/tags/list?last=b>; rel="next"`)
			_, _ = io.WriteString(w, `{"tags":["a","b"]}`)
		case "/v2/company/app/tags/list?last=b":
			_, _ = io.WriteString(w, `{"tags":["c"]}`)
		case "/v2/company/elsewhere/tags/list?":
			w.Header().Set("Link", `<http://other.example/v2/x>; rel="next"`)
			_, _ = io.WriteString(w, `{"tags":["a"]}`)
		case "/v2/company/endless/tags/list?", "/v2/company/endless/tags/list?again":
			w.Header().Set("Link", `</v2/company/endless/tags/list?again>; rel=next`)
			_, _ = io.WriteString(w, `{"tags":["a"]}`)
		case "/v2/company/none/tags/list?":
			_, _ = io.WriteString(w, `{"tags":null}`)
		case "/v2/company/app/referrers/" + string(digest.FromString("image")) + "?":
			w.Header().Set("Link", `<?page=2>; rel="next"`)
			_, _ = io.WriteString(w, `{"manifests":[{"digest":"`+string(digest.FromString("one"))+`"}]}`)
		case "/v2/company/app/referrers/" + string(digest.FromString("image")) + "?page=2":
			_, _ = io.WriteString(w, `{"manifests":[{"digest":"`+string(digest.FromString("two"))+`"}]}`)
		case "/v2/company/app/referrers/" + string(digest.FromString("bad")) + "?":
			_, _ = io.WriteString(w, `{"manifests":[{"digest":"../../else"}]}`)
		case "/v2/_catalog?":
			_, _ = io.WriteString(w, `{"repositories":["company/app","companyother/app","else","company/deep/app"]}`)
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	})
	s := open(t, pages, upstream.Options{Prefix: "company/"})
	if tags, err := s.Tags(t.Context(), "app"); err != nil || !slices.Equal(tags, []string{"a", "b", "c"}) {
		t.Errorf("Tags = %v, %v", tags, err)
	}
	if tags, err := s.Tags(t.Context(), "none"); err != nil || len(tags) != 0 {
		t.Errorf("Tags of an empty list = %v, %v", tags, err)
	}
	if _, err := s.Tags(t.Context(), "missing"); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("Tags of an unknown name = %v", err)
	}
	for _, name := range []string{"elsewhere", "endless"} {
		if _, err := s.Tags(t.Context(), name); !fault.IsOutage(err, fault.Upstream) {
			t.Errorf("Tags of %s = %v", name, err)
		}
	}
	found, err := s.Referrers(t.Context(), "app", digest.FromString("image"))
	if err != nil || !slices.Equal(found, []digest.Digest{digest.FromString("one"), digest.FromString("two")}) {
		t.Errorf("Referrers = %v, %v", found, err)
	}
	if _, err := s.Referrers(t.Context(), "app", digest.FromString("bad")); !fault.IsOutage(err, fault.Upstream) {
		t.Errorf("Referrers with a malformed digest = %v", err)
	}
	if _, err := s.Referrers(t.Context(), "app", digest.FromString("else")); !errors.Is(err, storage.ErrUnsupported) {
		t.Errorf("Referrers of an upstream without that list = %v", err)
	}
	if names, err := s.Catalog(t.Context()); err != nil || !slices.Equal(names, []string{"app", "deep/app"}) {
		t.Errorf("Catalog = %v, %v", names, err)
	}
	for _, status := range []int{http.StatusNotFound, http.StatusUnauthorized, http.StatusForbidden, http.StatusMethodNotAllowed} {
		s := open(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) }), upstream.Options{})
		if _, err := s.Catalog(t.Context()); !errors.Is(err, storage.ErrUnsupported) {
			t.Errorf("Catalog of an upstream that answers %d = %v", status, err)
		}
	}
	s = open(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/token" {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		w.Header().Set("WWW-Authenticate", `Bearer realm="http://`+r.Host+`/token",service="x"`)
		w.WriteHeader(http.StatusUnauthorized)
	}), upstream.Options{Username: "robot", Password: "secret"})
	if _, err := s.Catalog(t.Context()); !errors.Is(err, storage.ErrUnsupported) {
		t.Errorf("Catalog of a token service that refuses it = %v", err)
	}
	if _, err := s.Tags(t.Context(), "app"); errors.Is(err, storage.ErrNotFound) || !fault.Is(err, fault.Unavailable) {
		t.Errorf("Tags of a token service that refuses them = %v", err)
	}
}

// TestListsAreBounded proves that malformed, long and endless lists are outages.
func TestListsAreBounded(t *testing.T) {
	t.Parallel()
	var page atomic.Int64
	for name, text := range map[string]string{
		"many tags":      `{"tags":["t"` + strings.Repeat(`,"t"`, 80) + `]}`,
		"empty pages":    `{"tags":[]}`,
		"large pages":    `{"tags":[]` + strings.Repeat(" ", 1000) + `}`,
		"one large page": `{"tags":[]` + strings.Repeat(" ", 1<<10) + `}`,
		"no JSON":        `{"tags":`,
		"other JSON":     `{"tags":{"a":1}}`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := open(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Link", fmt.Sprintf(`<%s?page=%d>; rel="next"`, r.URL.Path, page.Add(1)))
				_, _ = io.WriteString(w, text)
			}), upstream.Options{})
			upstream.ShortLists(s)
			if tags, err := s.Tags(t.Context(), "app"); !fault.IsOutage(err, fault.Upstream) || strings.Contains(err.Error(), "%!") {
				t.Errorf("Tags = %d tags, %v", len(tags), err)
			}
		})
	}
}
