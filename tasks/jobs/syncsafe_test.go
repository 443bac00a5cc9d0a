package jobs_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/taskstore"
	"github.com/countersign/countersign/tasks"
	"github.com/countersign/countersign/tasks/jobs"
)

func mirrored(a *tasks.SyncArgs) { a.Mirror = true }

// is reports whether a request has the method and a path with this suffix.
func is(r *http.Request, method, end string) bool {
	return r.Method == method && strings.HasSuffix(r.URL.Path, end)
}

// answers makes a remote answer some requests with a status.
func answers(status int, some func(*http.Request) bool) func(http.ResponseWriter, *http.Request) bool {
	return func(w http.ResponseWriter, r *http.Request) bool {
		if some(r) {
			w.WriteHeader(status)
		}
		return some(r)
	}
}

// lists makes a remote list these tags.
func lists(body string) func(http.ResponseWriter, *http.Request) bool {
	return func(w http.ResponseWriter, r *http.Request) bool {
		if !is(r, http.MethodGet, "/tags/list") {
			return false
		}
		_, _ = io.WriteString(w, body)
		return true
	}
}

// report returns the progress report of a task with this code, or an empty one.
func report(k taskstore.Task, code string) taskstore.Progress {
	for _, p := range k.Progress {
		if p.Code == code {
			return p
		}
	}
	return taskstore.Progress{}
}

// wantReport compares the count of a progress report and expects names in its message.
func wantReport(t *testing.T, k taskstore.Task, code string, count int64, names ...string) {
	t.Helper()
	p := report(k, code)
	if p.Done != count || count > 0 && (p.Total == nil || *p.Total != count || p.State != taskstore.TaskCompleted) {
		t.Errorf("report %s is %+v, want %d; all: %+v", code, p, count, k.Progress)
	}
	for _, name := range names {
		if !strings.Contains(p.Message, name) {
			t.Errorf("report %s is %q, want %q in it", code, p.Message, name)
		}
	}
}

// A mirror keeps each listed tag and its image if the remote does not serve the manifest or serves one that
// cannot be stored. The task reports those tags.
func TestMirrorKeepsTagsThatCannotBeRead(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		outage func(http.ResponseWriter, *http.Request) bool
		code   string
		count  int64
		names  []string
	}{
		"no manifest is served": {answers(404, func(r *http.Request) bool { return strings.Contains(r.URL.Path, "/manifests/") }),
			"sync.skipped.unreadable_tags", 2, []string{"latest", "multi"}},
		"one manifest is not served": {answers(404, func(r *http.Request) bool { return strings.HasSuffix(r.URL.Path, "/manifests/latest") }),
			"sync.skipped.unreadable_tags", 1, []string{"latest"}},
		"HEAD is answered with 404": {answers(404, func(r *http.Request) bool { return r.Method == http.MethodHead }), "", 0, nil},
		"HEAD is answered with 403": {answers(403, func(r *http.Request) bool { return r.Method == http.MethodHead }), "", 0, nil},
		"HEAD is answered with 405": {answers(405, func(r *http.Request) bool { return r.Method == http.MethodHead }), "", 0, nil},
		"HEAD is answered with 400": {answers(400, func(r *http.Request) bool { return r.Method == http.MethodHead }), "", 0, nil},
		"HEAD is answered with 501": {answers(501, func(r *http.Request) bool { return r.Method == http.MethodHead }), "", 0, nil},
		"schema 1": {func(w http.ResponseWriter, r *http.Request) bool {
			old := `{"schemaVersion":1,"name":"src/app","tag":"latest"}`
			if !strings.HasSuffix(r.URL.Path, "/manifests/latest") && !strings.HasSuffix(r.URL.Path, string(digest.FromString(old))) {
				return false
			}
			w.Header().Set("Content-Type", "application/vnd.docker.distribution.manifest.v1+prettyjws")
			w.Header().Set("Docker-Content-Digest", string(digest.FromString(old)))
			_, _ = io.WriteString(w, old)
			return true
		}, "sync.skipped.unsupported", 1, []string{"latest"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := newRemote(t)
			fillRemote(g)
			w := newMirror(t, g, nil)
			w.sync(taskstore.TaskCompleted, mirrored)
			w.wantHeld(held{version: 1, blobs: 7, manifests: 4, tags: 2})
			g.set(c.outage)
			k := w.sync(taskstore.TaskCompleted, mirrored)
			w.wantHeld(held{version: 1, blobs: 7, manifests: 4, tags: 2})
			if c.code != "" {
				wantReport(t, k, c.code, c.count, c.names...)
			}
			for _, p := range k.Progress {
				if strings.HasPrefix(p.Code, "sync.skipped.") && p.Code != c.code {
					t.Errorf("unexpected report %+v", p)
				}
			}
			// A new tag is added all the same, and afterwards the mirror follows the remote again.
			g.set(nil)
			g.image("three", []int{10}, "new")
			g.set(c.outage)
			w.sync(taskstore.TaskCompleted, mirrored)
			g.set(nil)
			w.sync(taskstore.TaskCompleted, mirrored)
			if v := w.latest(); v.Counts[pulp.KindTag].Present != 3 || v.Counts[pulp.KindManifest].Present != 5 {
				t.Errorf("after the outage: %+v", v.Counts)
			}
		})
	}
}

// A sync with mirror fails and removes nothing if the remote's tag list is empty, lost more than half of its
// tags, or cannot be read completely. A failed sync does not change the number that later syncs compare.
func TestMirrorOfAShrinkingList(t *testing.T) {
	t.Parallel()
	page := func(next func(http.ResponseWriter)) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, r *http.Request) bool {
			switch {
			case !is(r, http.MethodGet, "/tags/list"):
				return false
			case r.URL.Query().Get("last") != "":
				next(w)
			default:
				w.Header().Set("Link", `</v2/src/app/tags/list?n=3&last=t3>; rel="next"`)
				_, _ = io.WriteString(w, `{"tags":["t1","t2","t3"]}`)
			}
			return true
		}
	}
	for name, c := range map[string]struct {
		list   func(http.ResponseWriter, *http.Request) bool
		reason string // empty: the sync completes
		tags   int64
	}{
		"empty":                  {lists(`{"name":"src/app","tags":[]}`), "allow_shrink", 5},
		"null":                   {lists(`{"name":"src/app","tags":null}`), "allow_shrink", 5},
		"without tags":           {lists(`{"name":"src/app"}`), "allow_shrink", 5},
		"less than half":         {lists(`{"name":"src/app","tags":["t1","t2"]}`), "allow_shrink", 5},
		"the same twice":         {lists(`{"name":"src/app","tags":["t1","t2","t1","t2","t1","t2"]}`), "allow_shrink", 5},
		"malformed names":        {lists(`{"name":"src/app","tags":["t1","t2","-a","-b","-c"]}`), "allow_shrink", 5},
		"more than half":         {lists(`{"name":"src/app","tags":["t1","t2","t3"]}`), "", 3},
		"not a list":             {lists(`{"errors":[]}`), "cannot be read", 5},
		"text":                   {lists(`maintenance`), "cannot be read", 5},
		"an unknown name":        {answers(404, func(r *http.Request) bool { return is(r, http.MethodGet, "/tags/list") }), "404", 5},
		"a server error":         {answers(500, func(r *http.Request) bool { return is(r, http.MethodGet, "/tags/list") }), "500", 5},
		"a next page with 404":   {page(func(w http.ResponseWriter) { w.WriteHeader(http.StatusNotFound) }), "404", 5},
		"a next page with 500":   {page(func(w http.ResponseWriter) { w.WriteHeader(http.StatusInternalServerError) }), "500", 5},
		"a next page of text":    {page(func(w http.ResponseWriter) { _, _ = io.WriteString(w, "<html>") }), "cannot be read", 5},
		"a next page of nothing": {page(func(http.ResponseWriter) {}), "cannot be read", 5},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := newRemote(t)
			for i := range 5 {
				g.image(fmt.Sprintf("image%d", i), []int{10}, fmt.Sprintf("t%d", i+1))
			}
			w := newMirror(t, g, nil)
			w.sync(taskstore.TaskCompleted, mirrored)
			g.set(c.list)
			if c.reason == "" {
				w.sync(taskstore.TaskCompleted, mirrored)
			} else {
				for range 2 { // a failed sync does not change the number for the next one
					if k := w.sync(taskstore.TaskFailed, mirrored); !strings.Contains(k.Error.Description, c.reason) {
						t.Errorf("error %q, want %q in it", k.Error.Description, c.reason)
					}
				}
			}
			if v := w.latest(); v.Counts[pulp.KindTag].Present != c.tags {
				t.Errorf("%d tags, want %d", v.Counts[pulp.KindTag].Present, c.tags)
			}
		})
	}
}

// The sync, the repository and the configuration may each allow that a list shrinks. Later syncs compare with
// the smaller list. Filters and lists of other remotes do not count. A sync without mirror removes nothing and
// does not lower the number.
func TestAllowShrink(t *testing.T) {
	t.Parallel()
	fresh := func(t *testing.T) (*remoteRegistry, *mirrorWorld) {
		t.Helper()
		g := newRemote(t)
		for i := range 5 {
			g.image(fmt.Sprintf("image%d", i), []int{10}, fmt.Sprintf("t%d", i+1))
		}
		w := newMirror(t, g, nil)
		w.sync(taskstore.TaskCompleted, mirrored)
		g.set(lists(`{"tags":["t1"]}`))
		return g, w
	}
	tagsAre := func(w *mirrorWorld, want int64) {
		w.Helper()
		if n := w.latest().Counts[pulp.KindTag].Present; n != want {
			w.Errorf("%d tags, want %d", n, want)
		}
	}
	t.Run("the sync", func(t *testing.T) {
		t.Parallel()
		g, w := fresh(t)
		w.sync(taskstore.TaskCompleted, func(a *tasks.SyncArgs) { a.Mirror, a.AllowShrink = true, true })
		tagsAre(w, 1)
		w.sync(taskstore.TaskCompleted, mirrored)
		g.set(lists(`{"tags":null}`))
		w.sync(taskstore.TaskFailed, mirrored)
		tagsAre(w, 1)
		w.sync(taskstore.TaskCompleted, func(a *tasks.SyncArgs) { a.Mirror, a.AllowShrink = true, true })
		tagsAre(w, 0)
		w.sync(taskstore.TaskCompleted, mirrored) // the list is empty, but so is the repository
	})
	t.Run("the repository", func(t *testing.T) {
		t.Parallel()
		_, w := fresh(t)
		if _, err := w.store.Catalog.EditRepository(t.Context(), nil, pulp.Container, w.repo.ID, func(r *pulp.Repository) { r.AllowShrink = true }); err != nil {
			t.Fatal(err)
		}
		w.sync(taskstore.TaskCompleted, mirrored)
		tagsAre(w, 1)
	})
	t.Run("the configuration", func(t *testing.T) {
		t.Parallel()
		_, w := fresh(t)
		w.serve(func(o *jobs.Options) { o.AllowShrink = true })
		w.sync(taskstore.TaskCompleted, mirrored)
		tagsAre(w, 1)
	})
	t.Run("without mirror", func(t *testing.T) {
		t.Parallel()
		g, w := fresh(t)
		w.sync(taskstore.TaskCompleted, nil)
		g.set(lists(`{"tags":[]}`))
		w.sync(taskstore.TaskCompleted, nil)
		tagsAre(w, 5)
		w.sync(taskstore.TaskFailed, mirrored)
		g.set(lists(`{"tags":["t1"]}`))
		w.sync(taskstore.TaskFailed, mirrored)
		tagsAre(w, 5)
	})
	t.Run("filters", func(t *testing.T) {
		t.Parallel()
		g, w := fresh(t)
		g.set(nil)
		edit(w, func(r *pulp.Remote) { r.Includes = []string{"t1"} })
		w.sync(taskstore.TaskCompleted, mirrored)
		tagsAre(w, 1)
		edit(w, func(r *pulp.Remote) { r.Includes = nil })
		w.sync(taskstore.TaskCompleted, mirrored)
		tagsAre(w, 5)
	})
	t.Run("another remote", func(t *testing.T) {
		t.Parallel()
		g, w := fresh(t)
		other := newRemote(t)
		other.image("other", []int{10}, "t9")
		edit(w, func(r *pulp.Remote) { r.URL = other.server.URL })
		w.sync(taskstore.TaskCompleted, mirrored)
		tagsAre(w, 1)
		other.set(lists(`{"tags":[]}`))
		w.sync(taskstore.TaskFailed, mirrored)
		edit(w, func(r *pulp.Remote) { r.URL = g.server.URL + "/" })
		w.sync(taskstore.TaskFailed, mirrored) // the number is still five
		tagsAre(w, 1)
	})
	t.Run("another remote without tags", func(t *testing.T) {
		t.Parallel()
		_, w := fresh(t)
		other := newRemote(t)
		other.image("other", []int{10}, "t9")
		other.set(lists(`{"tags":[]}`))
		edit(w, func(r *pulp.Remote) { r.URL = other.server.URL })
		w.sync(taskstore.TaskFailed, mirrored)
		tagsAre(w, 5)
	})
}

func edit(w *mirrorWorld, change func(*pulp.Remote)) {
	w.Helper()
	if _, err := w.store.Catalog.EditRemote(w.Context(), nil, w.remote.ID, change); err != nil {
		w.Fatal(err)
	}
}

// A list is stored without an image that the remote does not serve. The task reports it, and a later sync adds
// the image.
func TestListsAreCompletedLater(t *testing.T) {
	t.Parallel()
	for _, mirror := range []bool{false, true} {
		g := newRemote(t)
		arm := g.image("arm", []int{40_000})
		g.index([]digest.Digest{g.image("amd", []int{40_000}), arm}, "multi")
		g.set(answers(404, func(r *http.Request) bool { return strings.HasSuffix(r.URL.Path, string(arm)) }))
		w := newMirror(t, g, nil)
		change := func(a *tasks.SyncArgs) { a.Mirror = mirror }
		k := w.sync(taskstore.TaskCompleted, change)
		wantReport(t, k, "sync.skipped.absent_images", 1, string(arm))
		w.wantHeld(held{version: 1, blobs: 2, manifests: 2, tags: 1})
		g.set(nil)
		w.sync(taskstore.TaskCompleted, change)
		w.wantHeld(held{version: 2, blobs: 4, manifests: 3, tags: 1})
	}
}

// A sync reports skipped content with a limited number of names.
func TestSyncReportsSkippedContent(t *testing.T) {
	t.Parallel()
	g := newRemote(t)
	one, _ := fillRemote(g)
	g.signatures = map[digest.Digest][]string{one: {"bm8=", "bm8=", "!"}}
	for i := range 25 {
		g.manifest("application/vnd.unknown+json", fmt.Sprintf(`{"schemaVersion":2,"mediaType":"application/vnd.unknown+json","n":%d}`, i), fmt.Sprintf("odd%02d", i))
	}
	g.set(func(w http.ResponseWriter, r *http.Request) bool {
		if !is(r, http.MethodGet, "/tags/list") {
			return false
		}
		tags := `"latest","multi","-bad\u0000\u00ff"`
		for i := range 25 {
			tags += fmt.Sprintf(`,"odd%02d"`, i)
		}
		_, _ = io.WriteString(w, `{"tags":[`+tags+`]}`)
		return true
	})
	w := newMirror(t, g, nil)
	k := w.sync(taskstore.TaskCompleted, nil)
	wantReport(t, k, "sync.skipped.unsupported", 25, "odd", "and 5 more")
	wantReport(t, k, "sync.skipped.malformed_tags", 1, `"-bad\x00\u00ff"`)
	wantReport(t, k, "sync.skipped.signatures", 3, string(one))
	w.wantHeld(held{version: 1, blobs: 7, manifests: 4, tags: 2})
}

// A sync with skip_corrupt keeps an image without a tag, like tags, if the remote does not have a layer any
// more that was to be fetched on demand.
func TestCorruptImagesWithoutTags(t *testing.T) {
	t.Parallel()
	g := newRemote(t)
	one := g.image("one", []int{50_000})
	g.image("two", []int{60_000}, "two")
	w := newMirror(t, g, func(r *pulp.Remote) { r.Policy, r.Includes = pulp.OnDemand, []string{string(one), "two"} })
	w.sync(taskstore.TaskCompleted, mirrored)
	w.wantHeld(held{version: 1, blobs: 4, manifests: 2, tags: 1})
	edit(w, func(r *pulp.Remote) { r.Policy = pulp.Immediate })
	layer := digest.FromBytes(bytes.Repeat([]byte("one0"), 50_000/len("one0")+1))
	g.set(answers(404, func(r *http.Request) bool { return is(r, http.MethodGet, string(layer)) }))
	k := w.sync(taskstore.TaskCompleted, func(a *tasks.SyncArgs) { a.Mirror, a.SkipCorrupt = true, true })
	wantReport(t, k, "sync.skipped.corrupt", 1, string(one))
	w.wantHeld(held{version: 1, blobs: 4, manifests: 2, tags: 1})
}

// A sync fails if the remote lacks a layer of an image or has another one; the error names the tag. With
// skip_corrupt it continues, leaves the tag unchanged, and reports it.
func TestCorruptImages(t *testing.T) {
	t.Parallel()
	for name, lie := range map[string]func(w http.ResponseWriter, r *http.Request, layer []byte){
		"a layer is missing":  func(w http.ResponseWriter, _ *http.Request, _ []byte) { w.WriteHeader(http.StatusNotFound) },
		"a layer is another":  func(w http.ResponseWriter, _ *http.Request, layer []byte) { _, _ = w.Write(make([]byte, len(layer))) },
		"a layer is too long": func(w http.ResponseWriter, _ *http.Request, layer []byte) { _, _ = w.Write(append(layer, 'x')) },
		"a layer is cut": func(w http.ResponseWriter, r *http.Request, layer []byte) {
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(layer[:len(layer)/2]))
		},
	} {
		for _, how := range []string{"sync", "configuration"} {
			t.Run(name+", "+how, func(t *testing.T) {
				t.Parallel()
				g := newRemote(t)
				g.image("old", []int{50}, "broken")
				w := newMirror(t, g, nil)
				w.sync(taskstore.TaskCompleted, mirrored)
				g.image("good", []int{50_000}, "good")
				g.image("new", []int{60_000}, "broken")
				layer := bytes.Repeat([]byte("new0"), 60_000/len("new0")+1)
				d := digest.FromBytes(layer)
				g.set(func(w http.ResponseWriter, r *http.Request) bool {
					if !is(r, http.MethodGet, string(d)) {
						return false
					}
					lie(w, r, bytes.Clone(layer))
					return true
				})
				if k := w.sync(taskstore.TaskFailed, mirrored); !strings.Contains(k.Error.Description, "broken") || !strings.Contains(k.Error.Description, "skip_corrupt") {
					t.Errorf("error %q does not name the tag and the option", k.Error.Description)
				}
				w.wantHeld(held{version: 1, blobs: 2, manifests: 1, tags: 1})
				skip := mirrored
				if how == "sync" {
					skip = func(a *tasks.SyncArgs) { a.Mirror, a.SkipCorrupt = true, true }
				} else {
					w.serve(func(o *jobs.Options) { o.SkipCorrupt = true })
				}
				k := w.sync(taskstore.TaskCompleted, skip)
				wantReport(t, k, "sync.skipped.corrupt", 1, "broken")
				w.wantHeld(held{version: 2, blobs: 4, manifests: 2, tags: 2})
				// Transient failures are not corruption.
				g.set(answers(503, func(r *http.Request) bool { return is(r, http.MethodGet, string(d)) }))
				w.sync(taskstore.TaskFailed, skip)
				g.set(nil)
				w.sync(taskstore.TaskCompleted, skip)
				w.wantHeld(held{version: 3, blobs: 4, manifests: 2, tags: 2})
			})
		}
	}
}
