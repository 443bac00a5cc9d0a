package adopt_test

import (
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/adopt"
	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/ingest"
	"github.com/countersign/countersign/internal/pgtest"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/signonpush"
	"github.com/countersign/countersign/internal/signservice"
	"github.com/countersign/countersign/internal/store"
	"github.com/countersign/countersign/internal/store/catalog"
	"github.com/countersign/countersign/internal/store/content"
	"github.com/countersign/countersign/internal/store/storetest"
	"github.com/countersign/countersign/internal/store/upstreamstate"
)

func TestMain(m *testing.M) { os.Exit(pgtest.Main(m)) }

// logged collects the messages of a logger.
type logged struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// fixture is an adopter with a real store and an upstream in memory.
type fixture struct {
	*testing.T
	store    *store.Store
	upstream *registry
	adopter  *adopt.Adopter
	log      *logged
}

const name = "acme/app"

var caller = signservice.Caller{User: "alice"}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	s := storetest.Open(t)
	s.Content.EnableOutbox()
	f := &fixture{T: t, store: s, upstream: newRegistry(), log: &logged{}}
	log := slog.New(slog.NewTextHandler(f.log, nil))
	f.adopter = &adopt.Adopter{
		Store: s, Upstream: f.upstream, Blobs: ingest.Blobs{Storage: f.upstream, Foreign: true}, Log: log, Audit: audit.New(audit.Options{Log: log}),
		SignOnPush: &signonpush.Runner{Store: s, Log: log}, Type: pulp.ContainerPush,
	}
	return f
}

// here returns the repository with this name, creating it if necessary.
func (f *fixture) here(name string) pulp.Repository {
	f.Helper()
	target, err := f.store.Catalog.PushTarget(f.Context(), catalog.FirstPush{BasePath: name, Type: pulp.ContainerPush})
	if err != nil {
		f.Fatal(err)
	}
	return target.Repository
}

// push pushes an image to this server. Its blobs and its manifest are upstream, as the proxy would have put them there; its
// tags wait in the outbox.
func (f *fixture) push(name, text string, tags ...string) digest.Digest {
	f.Helper()
	d := f.upstream.image(name, text)
	payload, mediaType, err := f.upstream.GetManifest(f.Context(), name, string(d))
	if err != nil {
		f.Fatal(err)
	}
	m, err := pulp.ParseManifest(payload, mediaType)
	if err != nil {
		f.Fatal(err)
	}
	m.Digest = d
	repo := f.here(name)
	for _, part := range append(slices.Clone(m.Layers), *m.Config) {
		b := pulp.Blob{Digest: part.Digest, Size: part.Size, Location: name}
		if err := f.store.Content.CommitBlob(f.Context(), repo.ID, b, "", 0); err != nil {
			f.Fatal(err)
		}
	}
	if _, err := f.store.Content.PutManifest(f.Context(), content.PutManifest{RepositoryID: repo.ID, Manifest: m, Tags: tags}); err != nil {
		f.Fatal(err)
	}
	return d
}

// untag deletes a tag on this server. The deletion waits in the outbox.
func (f *fixture) untag(tag string) {
	f.Helper()
	if _, err := f.store.Content.DeleteTag(f.Context(), f.here(name).ID, tag, nil); err != nil {
		f.Fatal(err)
	}
}

// flush writes all outbox entries to the upstream and records that.
func (f *fixture) flush() {
	f.Helper()
	for {
		due, err := f.store.Upstream.OutboxTags(f.Context(), 100)
		if err != nil {
			f.Fatal(err)
		}
		if len(due) == 0 {
			return
		}
		if err := f.store.Upstream.MarkWriting(f.Context(), due); err != nil {
			f.Fatal(err)
		}
		for i, entry := range due {
			repo := pulp.Repository{ID: entry.RepositoryID, Name: entry.Repository}
			if entry.Digest != "" {
				err = f.adopter.Put(f.Context(), repo, entry.Name, digest.Digest(entry.Digest))
			} else if err = f.upstream.DeleteManifest(f.Context(), entry.Repository, entry.Name); err != nil {
				due[i].Undeleted, err = string(f.upstream.tags[entry.Repository+":"+entry.Name]), nil
			}
			if err != nil {
				f.Fatal(err)
			}
		}
		if err := f.store.Upstream.MarkWritten(f.Context(), due); err != nil {
			f.Fatal(err)
		}
	}
}

// interrupt begins to write all outbox entries, as a process that is killed during the requests: the writes may still
// arrive.
func (f *fixture) interrupt() {
	f.Helper()
	due, err := f.store.Upstream.OutboxTags(f.Context(), 100)
	if err != nil {
		f.Fatal(err)
	}
	if err := f.store.Upstream.MarkWriting(f.Context(), due); err != nil {
		f.Fatal(err)
	}
}

// tags returns the tags of the latest version of a repository.
func (f *fixture) tags(name string) map[string]digest.Digest {
	f.Helper()
	found, err := f.store.Content.HeldTags(f.Context(), f.here(name).ID)
	if err != nil {
		f.Fatal(err)
	}
	return found
}

func (f *fixture) wantTag(tag string, want digest.Digest) {
	f.Helper()
	if got := f.tags(name)[tag]; got != want {
		f.Errorf("tag %s is %q here, want %q", tag, got, want)
	}
}

// version returns the number of the latest version; 0 if the repository does not exist.
func (f *fixture) version(name string) int64 {
	f.Helper()
	repo, err := f.store.Catalog.RepositoryByName(f.Context(), name)
	if err != nil {
		return 0
	}
	return repo.LatestVersion
}

func (f *fixture) wantPulled(reference string, want bool) {
	f.Helper()
	if got, err := f.adopter.Pulled(f.Context(), "alice", name, reference, false); err != nil || got != want {
		f.Errorf("Pulled(%s) = %t, %v, want %t", reference, got, err, want)
	}
}

func (f *fixture) compare(options adopt.CompareOptions) adopt.Found {
	f.Helper()
	found, err := f.adopter.Compare(f.Context(), caller, f.here(name), options)
	if err != nil {
		f.Fatalf("Compare = %v", err)
	}
	return found
}

// notes returns the differences of a comparison as "kind name: note".
func notes(drift []upstreamstate.Drift) []string {
	var all []string
	for _, d := range drift {
		all = append(all, d.Kind+" "+d.Name+": "+d.Note)
	}
	return all
}

// failing makes requests fail whose "operation name reference" has the prefix.
func (f *fixture) failing(prefix string, err error) {
	f.upstream.fail = func(operation, name, reference string) error {
		if strings.HasPrefix(operation+" "+name+" "+reference, prefix) {
			return err
		}
		return nil
	}
}
