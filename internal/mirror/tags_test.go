package mirror_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/countersign/countersign/internal/mirror"
)

// TestPagesOfTags proves that tags are read from all pages, and that malformed and endless lists end with an error.
func TestPagesOfTags(t *testing.T) {
	t.Parallel()
	page := func(w http.ResponseWriter, link string, tags ...string) {
		if link != "" {
			w.Header().Set("Link", link)
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"tags": tags})
	}
	other := newWitness(t, nil)
	for name, c := range map[string]struct {
		answer func(w http.ResponseWriter, last string)
		want   string // the tags; empty: an error
	}{
		"two pages": {want: "[a b]", answer: func(w http.ResponseWriter, last string) {
			if last == "" {
				page(w, `</v2/src/app/tags/list?n=1&last=a>; rel="next"`, "a")
				return
			}
			page(w, "", "b", "a")
		}},
		"an absolute link behind a proxy": {want: "[a b]", answer: func(w http.ResponseWriter, last string) {
			if last == "" {
				page(w, `<http://internal.example/v2/src/app/tags/list?last=a>; rel=next`, "a")
				return
			}
			page(w, "", "b")
		}},
		"malformed tags": {want: "[a]", answer: func(w http.ResponseWriter, _ string) {
			page(w, "", "a", "../x", ".y", "", strings.Repeat("z", 129))
		}},
		"the same page": {answer: func(w http.ResponseWriter, _ string) {
			page(w, `</v2/src/app/tags/list?last=a>; rel="next"`, "a")
		}},
		"empty pages": {answer: func(w http.ResponseWriter, _ string) { page(w, `</v2/src/app/tags/list?last=q>; rel="next"`) }},
		"another host": {answer: func(w http.ResponseWriter, _ string) {
			page(w, `<`+other.URL+`/elsewhere?last=a>; rel="next"`, "a")
		}},
		"no JSON": {answer: func(w http.ResponseWriter, _ string) { _, _ = io.WriteString(w, "<html>") }},
	} {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { c.answer(w, r.URL.Query().Get("last")) }))
		tags, err := open127(t, s.URL).Tags(t.Context())
		if c.want != "" && (err != nil || fmt.Sprint(tags) != c.want) || c.want == "" && err == nil {
			t.Errorf("%s: %v, %v", name, tags, err)
		}
		s.Close()
	}
	other.check(t, false)
	var n atomic.Int64
	many := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		names := make([]string, 20_000)
		for i := range names {
			names[i] = fmt.Sprintf("t%d", n.Add(1))
		}
		page(w, `</v2/src/app/tags/list?last=`+names[0]+`>; rel="next"`, names...)
	}))
	defer many.Close()
	if _, err := open127(t, many.URL).Tags(t.Context()); err == nil || n.Load() > 200_000 {
		t.Errorf("an endless list: %v after %d tags", err, n.Load())
	}
}

// TestMalformedTagsAreBounded proves that malformed tags count for the maximum, and that only some of them are logged.
func TestMalformedTagsAreBounded(t *testing.T) {
	t.Parallel()
	var pages atomic.Int64
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		names := make([]string, 10_000)
		for i := range names {
			names[i] = fmt.Sprintf("no/tag/%d/%d", pages.Load(), i)
		}
		w.Header().Set("Link", fmt.Sprintf(`</v2/src/app/tags/list?last=%d>; rel="next"`, pages.Add(1)))
		_ = json.NewEncoder(w).Encode(map[string]any{"tags": names})
	}))
	defer s.Close()
	var lines bytes.Buffer
	g := open(t, s.URL, mirror.Options{AllowPrivate: loopback, Log: slog.New(slog.NewTextHandler(&lines, nil))})
	if _, err := g.Tags(t.Context()); err == nil || pages.Load() > 12 {
		t.Errorf("%v after %d pages", err, pages.Load())
	}
	if n := strings.Count(lines.String(), "tag left out"); n == 0 || n > 20 {
		t.Errorf("%d lines in the log", n)
	}
	// The number of pages without tags is bounded too.
	pages.Store(0)
	empty := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Link", fmt.Sprintf(`<?last=%d>; rel="next"`, pages.Add(1)))
		_, _ = io.WriteString(w, `{"tags":null}`)
	}))
	defer empty.Close()
	if _, err := open127(t, empty.URL).Tags(t.Context()); err == nil || pages.Load() != 1000 {
		t.Errorf("%v after %d empty pages", err, pages.Load())
	}
}
