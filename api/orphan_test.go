package api_test

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/api"
	"github.com/countersign/countersign/internal/ingest"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/record"
	"github.com/countersign/countersign/internal/store/taskstore"
	"github.com/countersign/countersign/storage"
	"github.com/countersign/countersign/storage/embedded"
	"github.com/countersign/countersign/tasks"
	"github.com/countersign/countersign/tasks/jobs"
	"github.com/countersign/countersign/tasks/memqueue"
)

func cleanup(json any) call {
	return call{method: http.MethodPost, path: "orphans/cleanup/", json: json}
}

func testOrphanCleanupIsTheReferences(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for name, c := range map[string]struct {
		json   string
		status int
	}{
		"117-orphans-cleanup":  {json: `{"orphan_protection_time":100000,"content_hrefs":null}`, status: 400},
		"117b-orphans-cleanup": {json: `{"orphan_protection_time":100000}`, status: 202},
		"117c-orphans-bad":     {json: `{"orphan_protection_time":-1,"content_hrefs":[]}`, status: 400},
	} {
		want, allow := golden(t, name)
		r := w.expect(cleanup(c.json), c.status, "")
		if got := r.Header.Get("Allow"); got != allow {
			t.Errorf("%s: Allow: %s, want %s", name, got, allow)
		}
		compareWhole(t, name, want, r.body)
	}
}

func TestOrphanCleanupIsChecked(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	tag, absent := w.results(
		"content/container/tags/?name=2.0", "pulp_href",
	)[0], pulp.Href(pulp.BlobCollection, pulp.NewID())
	bad := func(field, text string) string { return `{"` + field + `":["` + text + `"]}` }
	const time, hrefs = "orphan_protection_time", "content_hrefs"
	for body, want := range map[string]string{
		`{"orphan_protection_time":"abc"}`:           bad(time, "A valid integer is required."),
		`{"orphan_protection_time":1.5}`:             bad(time, "A valid integer is required."),
		`{"orphan_protection_time":true}`:            bad(time, "A valid integer is required."),
		`{"orphan_protection_time":9999999999}`:      bad(time, "Ensure this value is less than or equal to 2147483647."),
		`{"content_hrefs":"abc"}`:                    bad(hrefs, `Expected a list of items but got type \"str\".`),
		`{"content_hrefs":[7]}`:                      bad(hrefs, "Not a valid string."),
		`{"content_hrefs":[""]}`:                     bad(hrefs, "Not a valid string."),
		`{"content_hrefs":["abc"]}`:                  bad(hrefs, "URI not valid: abc"),
		`{"content_hrefs":["` + absent + `"]}`:       bad(hrefs, "URI "+absent+" not found for content."),
		`{"content_hrefs":["` + w.repoHref() + `"]}`: bad(hrefs, "URI "+w.repoHref()+" not found for content."),
		`{"content_hrefs":["` + tag + `","x","y"]}`:  `{"content_hrefs":["URI not valid: x","URI not valid: y"]}`,
		`{"foo":1}`: bad("foo", "Unexpected field"),
		`[]`:        bad("non_field_errors", "Invalid data. Expected a dictionary, but got list."),
		`{"orphan_protection_time":-1,"content_hrefs":["abc"]}`: `{"content_hrefs":["URI not valid: abc"],"orphan_protection_time":["Ensure this value is greater than or equal to 0."]}`,
	} {
		w.expect(cleanup(body), http.StatusBadRequest, want)
	}
	form := cleanup("content_hrefs=")
	form.kind = "application/x-www-form-urlencoded"
	w.expect(form, http.StatusBadRequest, `{"content_hrefs":["Must not be []."]}`) // and not a cleanup of all content
	for user, status := range map[string]int{
		"carol": http.StatusForbidden, "acme": http.StatusForbidden, "-": http.StatusUnauthorized,
	} {
		c := cleanup(`{"orphan_protection_time":-1}`)
		c.user = user
		w.expect(c, status, "")
	}
	w.expect(call{path: "orphans/cleanup/"}, http.StatusMethodNotAllowed, `{"detail":"Method \"GET\" not allowed."}`)
	if len(w.dispatcher.specs) != 0 {
		t.Errorf("tasks were started: %+v", w.dispatcher.specs)
	}
}

func TestOrphanCleanupTasks(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	tag := w.results("content/container/tags/?name=2.0", "pulp_href")[0]
	prn := w.results("content/container/tags/?name=2.0", "prn")[0]
	unit := []record.Unit{{Kind: pulp.KindTag, ID: tag[len(tag)-37 : len(tag)-1]}}
	const day = 24 * 60
	for body, want := range map[string]struct {
		minutes int64
		units   []record.Unit
	}{
		`{}`:                                    {minutes: day},
		``:                                      {minutes: day},
		`{"orphan_protection_time":null}`:       {minutes: day},
		`{"orphan_protection_time":0}`:          {},
		`{"orphan_protection_time":"5"}`:        {minutes: 5},
		`{"orphan_protection_time":2147483647}`: {minutes: 2147483647},
		`{"content_hrefs":["` + tag + `","` + prn + `","` + w.server.URL + tag + `"]}`: {minutes: day, units: unit},
	} {
		asked := time.Now().UnixMicro()
		w.expect(cleanup(body), http.StatusAccepted, "")
		spec := w.dispatcher.last()
		w.dispatcher.wantFrom(t, 1)
		args := spec.Args.(tasks.OrphanArgs)
		if late := args.Before + want.minutes*60_000_000 - asked; late < 0 || late > time.Minute.Microseconds() || !slices.Equal(
			args.Units, want.units,
		) {
			t.Errorf("%s: %+v", body, args)
		}
		if spec.Name != "pulpcore.app.tasks.orphan.orphan_cleanup" || spec.Immediate ||
			!slices.Equal(spec.Resources, []taskstore.Resource{{Href: "/pulp/api/v3/orphans/cleanup/", Exclusive: true}}) {
			t.Errorf("%s: %+v", body, spec)
		}
	}
}

// atOnce runs every task before the response.
type atOnce struct{ *tasks.Dispatcher }

func (d atOnce) Dispatch(ctx context.Context, from tasks.Origin, spec tasks.Spec) (taskstore.Task, error) {
	spec.Immediate = true
	return d.Dispatcher.Dispatch(ctx, from, spec)
}

// withStorage makes the world's API run all tasks before their responses, and returns the storage of blobs.
func (w *world) withStorage() storage.Storage {
	w.t.Helper()
	files, err := embedded.New(
		w.t.Context(), embedded.Options{Driver: "filesystem", Parameters: map[string]any{"rootdirectory": w.t.TempDir()}},
	)
	if err != nil {
		w.t.Fatal(err)
	}
	public, _ := url.Parse("https://registry.example:8443")
	log, queue := slog.New(slog.DiscardHandler), &memqueue.Queue{}
	worker := tasks.NewWorker(tasks.WorkerOptions{
		Store: w.store, Queue: queue, Log: log, Slots: 1, Name: "1@test",
		Jobs: jobs.All(jobs.Options{Store: w.store, Log: log, Blobs: ingest.Blobs{Storage: files}}),
	})
	w.server = httptest.NewServer(api.Validated(w.t, api.New(api.Options{
		Store: w.store, Tasks: atOnce{
			tasks.NewDispatcher(w.store, queue, worker, log),
		}, Auth: accounts{w.store}, Log: log, PublicURL: public, Process: "1@test",
	})))
	w.t.Cleanup(w.server.Close)
	return files
}

// storedBlob stores a blob that is pending in a repository.
func (w *world) storedBlob(files storage.Storage, text string) digest.Digest {
	w.t.Helper()
	u, err := files.Create(w.t.Context(), "")
	if err != nil {
		w.t.Fatal(err)
	}
	d := digest.FromString(text)
	if _, err := u.ReadFrom(strings.NewReader(text)); err != nil {
		w.t.Fatal(err)
	}
	b := pulp.Blob{Digest: d, Size: int64(len(text))}
	if err := errors.Join(
		u.Commit(w.t.Context(), d), w.store.Content.CommitBlob(w.t.Context(), w.repo.Repository.ID, b, "", 0),
	); err != nil {
		w.t.Fatal(err)
	}
	return d
}

// age makes all content older than any protection time.
func (w *world) age() {
	w.t.Helper()
	w.exec(`UPDATE unversioned_content SET touched = 1 WHERE reason = 'pending'`)
	for _, table := range []string{"blob", "manifest", "tag", "signature"} {
		w.exec(`UPDATE ` + table + ` SET created = 1, updated = 1`)
	}
}

// cleaned are the numbers of units and artifacts that a cleanup deleted.
type cleaned struct{ content, artifacts float64 }

// clean runs a cleanup and returns the numbers that its task reports.
func (w *world) clean(json any) cleaned {
	w.t.Helper()
	k := w.get(w.expect(cleanup(json), http.StatusAccepted, "").body.(map[string]any)["task"].(string))
	reports := k["progress_reports"].([]any)
	if k["state"] != "completed" || k["error"] != nil || len(reports) != 2 {
		w.t.Fatalf("task %v", k)
	}
	var done [2]float64
	for i, code := range []string{"clean-up.content", "clean-up.artifacts"} {
		r := reports[i].(map[string]any)
		if r["code"] != code || r["state"] != "completed" || r["total"] != nil {
			w.t.Errorf("progress report %v, want %s", r, code)
		}
		done[i] = r["done"].(float64)
	}
	return cleaned{content: done[0], artifacts: done[1]}
}

func TestOrphansAreCleanedUp(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	files := w.withStorage()
	w.age()
	held := len(w.results("content/container/blobs/", "prn"))
	if got := w.clean(`{"orphan_protection_time":0}`); got != (cleaned{}) || len(
		w.results("content/container/blobs/", "prn"),
	) != held {
		t.Errorf("content of versions: deleted %v, want none", got)
	}
	forgotten, named := w.storedBlob(files, "forgotten"), w.storedBlob(files, "named")
	child := w.put(
		w.repo,
		pulp.Manifest{
			MediaType: pulp.OCIManifest, Payload: []byte("by digest"), Config: &pulp.Descriptor{Digest: named}, Type: "image",
		},
	)
	w.pushIndex(w.repo, []digest.Digest{child})
	has := func(want bool, digests ...digest.Digest) {
		t.Helper()
		for _, d := range digests {
			if _, err := files.Stat(t.Context(), "", d); (err == nil) != want {
				t.Errorf("bytes of %s: %v", d, err)
			}
		}
	}
	if got := w.clean(`{}`); got != (cleaned{}) { // all of it could belong to a running push
		t.Errorf("young content: deleted %v, want none", got)
	}
	has(true, forgotten, named)
	w.exec(`UPDATE unversioned_content SET touched = 1 WHERE reason = 'pending' AND key = $1`, string(forgotten))
	w.exec(`UPDATE blob SET updated = 1 WHERE digest = $1`, string(forgotten))
	if got := w.clean(``); got != (cleaned{content: 1, artifacts: 1}) {
		t.Errorf("one old blob: deleted %v", got)
	}
	has(false, forgotten)
	has(true, named)
	if _, err := w.store.Serving.ServedManifest(t.Context(), w.repo, string(child)); err != nil {
		t.Errorf("a young manifest pushed by digest: %v", err)
	}
	if got := w.clean(`{"orphan_protection_time":0}`); got != (cleaned{
		content: 3, artifacts: 1,
	}) { // the index, its image and the image's blob
		t.Errorf("all orphans: deleted %v", got)
	}
	has(false, named)
	if got := len(w.results("content/container/manifests/?digest__in="+string(child), "prn")); got != 0 {
		t.Error("a manifest pushed by digest still exists")
	}
	if got := len(w.results("content/container/blobs/", "prn")); got != held {
		t.Errorf("%d blobs, want %d", got, held)
	}
	w.storedBlob(files, "forgotten") // the same bytes can be uploaded again
	has(true, forgotten)
}

func TestOrphansAreCleanedUpByName(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	files := w.withStorage()
	one, other := w.storedBlob(files, "one"), w.storedBlob(files, "other")
	m := w.put(
		w.repo,
		pulp.Manifest{
			MediaType: pulp.OCIManifest, Payload: []byte("by digest"), Config: &pulp.Descriptor{Digest: one}, Type: "image",
		},
	)
	href := func(kind string, d digest.Digest) string {
		t.Helper()
		return w.results("content/container/"+kind+"/?digest="+string(d), "pulp_href")[0]
	}
	config, manifest, held := href("blobs", one), href("manifests", m), href("manifests", w.manifest)
	if got := w.clean(map[string]any{"content_hrefs": []string{config, manifest, held}}); got != (cleaned{}) {
		t.Errorf("young content: deleted %v, want none", got)
	}
	w.age()
	if got := w.clean(map[string]any{"content_hrefs": []string{config}}); got != (cleaned{}) {
		t.Errorf("a blob that a manifest refers to: deleted %v, want none", got)
	}
	if got := w.clean(
		map[string]any{"content_hrefs": []string{config, held, manifest}},
	); got != (cleaned{content: 2, artifacts: 1}) {
		t.Errorf("a manifest and its blob: deleted %v", got)
	}
	if _, err := files.Stat(t.Context(), "", one); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("the blob's bytes: %v", err)
	}
	if _, err := files.Stat(t.Context(), "", other); err != nil {
		t.Errorf("another blob's bytes: %v", err)
	}
	w.get(held)
	w.expect(call{path: manifest}, http.StatusNotFound, "")
	w.expect(cleanup(map[string]any{"content_hrefs": []string{manifest}}), http.StatusBadRequest, "")
}

func testPurgesTellTheirTotals(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.withStorage()
	for range 3 {
		if err := w.store.Tasks.CompleteTask(t.Context(), claim(w, task(w, 1)), taskstore.Outcome{}); err != nil {
			t.Fatal(err)
		}
	}
	task(w, 1) // is waiting
	r := w.expect(
		call{
			method: http.MethodPost, path: "tasks/purge/",
			json: `{"finished_before":"2099-01-01","states":["completed","failed"]}`,
		},
		http.StatusAccepted, "",
	)
	k := w.get(r.body.(map[string]any)["task"].(string))
	done := map[string]float64{}
	for _, v := range k["progress_reports"].([]any) {
		p := v.(map[string]any)
		done[p["code"].(string)] = p["done"].(float64)
		if p["state"] != "completed" {
			t.Errorf("progress report %v", p)
		}
	}
	if want := map[string]float64{
		"purge.tasks.key.core.Task": 3, "purge.tasks.total": 3, "purge.tasks.error": 0,
	}; !cmp.Equal(done, want) || k["state"] != "completed" {
		t.Errorf("task %s, reports %v, want %v", k["state"], done, want)
	}
	if got := w.results("tasks/?ordering=name", "state"); !slices.Equal(got, []string{"waiting", "completed"}) {
		t.Errorf("states of the remaining tasks: %v", got)
	}
	want, allow := golden(t, "118-purge")
	compareWhole(t, "118-purge", want, r.body)
	if got := r.Header.Get("Allow"); got != allow {
		t.Errorf("Allow: %s, want %s", got, allow)
	}
}
