package audit_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/countersign/countersign/internal/actor"
	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/telemetry"
)

var alice = actor.Actor{ID: 7, Name: "alice", Kind: actor.User, Identity: "token ci", Address: "192.0.2.1"}

// rows keeps entries, and fails while err is set.
type rows struct {
	mu      sync.Mutex
	err     error
	batches [][]audit.Entry
}

func (r *rows) Add(_ context.Context, entries []audit.Entry) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err == nil {
		r.batches = append(r.batches, append([]audit.Entry{}, entries...))
	}
	return r.err
}

func (r *rows) fail(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.err = err
}

func (r *rows) all() (all []audit.Entry) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, b := range r.batches {
		all = append(all, b...)
	}
	return all
}

// discard is a log that nobody reads.
func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }

// open returns a Log that writes to a new file and to rows.
func open(t *testing.T, into audit.Rows, log *slog.Logger) (l *audit.Log, path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "audit.log")
	to, err := audit.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	return audit.New(audit.Options{Log: log, To: to, Rows: into}), path
}

// lines returns the lines of a file.
func lines(t *testing.T, path string) []map[string]any {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var all []map[string]any
	for _, text := range strings.Split(strings.TrimSuffix(string(raw), "\n"), "\n") {
		if text == "" {
			continue
		}
		var line map[string]any
		if err := json.Unmarshal([]byte(text), &line); err != nil {
			t.Fatalf("line %q: %v", text, err)
		}
		all = append(all, line)
	}
	return all
}

func TestRecordWritesALineAndARow(t *testing.T) {
	t.Parallel()
	into := &rows{}
	l, path := open(t, into, discard())
	ctx := telemetry.WithCorrelation(actor.With(t.Context(), alice), "request-1")
	l.Record(ctx, audit.Entry{Action: "push manifest", Object: "acme/app", Result: audit.Done, Status: 201},
		slog.String("digest", "sha256:1"), slog.Any("tags", []string{"a", "b"}), slog.Int64("size", 5),
		slog.Any("secret", errors.New("password=x")), slog.Any("public", fault.New(fault.Denied, "Not yours.")))
	written := lines(t, path) // at once
	if len(written) != 1 {
		t.Fatalf("%d lines, want 1", len(written))
	}
	got := written[0]
	at, err := time.Parse(time.RFC3339Nano, fmt.Sprint(got["time"]))
	if err != nil || time.Since(at) > time.Minute || at.Location() != time.UTC {
		t.Errorf("time = %v (%v)", got["time"], err)
	}
	for name, want := range map[string]any{
		"actor": "alice", "actor_id": 7.0, "actor_kind": "user", "identity": "token ci", "address": "192.0.2.1",
		"action": "push manifest", "object": "acme/app", "result": "done", "status": 201.0, "count": 1.0, "correlation_id": "request-1",
	} {
		if got[name] != want {
			t.Errorf("%s = %v, want %v", name, got[name], want)
		}
	}
	details, _ := json.Marshal(got["details"])
	if strings.Contains(string(details), "password") || !strings.Contains(string(details), `"public":"Not yours."`) ||
		!strings.Contains(string(details), `"tags":["a","b"]`) || !strings.Contains(string(details), `"size":5`) {
		t.Errorf("details = %s", details)
	}
	if err := l.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	stored := into.all()
	if len(stored) != 1 || stored[0].ID != got["id"] || !stored[0].At.Equal(at) || stored[0].Actor != alice || stored[0].Count != 1 {
		t.Errorf("the rows are %+v, want the entry of the line", stored)
	}
}

// TestLinesCannotBeForged writes names with line breaks, terminal sequences and text that changes its direction.
func TestLinesCannotBeForged(t *testing.T) {
	t.Parallel()
	into := &rows{}
	l, path := open(t, into, discard())
	name := "a\n{\"actor\":\"root\"}\r\x1b[2J\u009b2J\u202egnp.exe\u2028\x00\xff<&>\U000e0001é"
	l.Record(t.Context(), audit.Entry{Action: "login", Object: name, Result: audit.Denied}, slog.String(name, name))
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for i, r := range string(raw[:len(raw)-1]) {
		if r < ' ' || r == 0x7f || r == 0x9b || r == 0x202e || r == 0x2028 || r == 0xe0001 {
			t.Errorf("the line has %U at %d: %q", r, i, raw)
		}
	}
	want := strings.NewReplacer("\x00", "\ufffd", "\xff", "\ufffd").Replace(name)
	if got := lines(t, path); len(got) != 1 || got[0]["object"] != want {
		t.Errorf("the line is %q", raw)
	}
	if err := l.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := into.all(); len(got) != 1 || got[0].Object != want {
		t.Errorf("the rows are %+v", got)
	}
}

func TestWithoutADestinationLinesGoToTheLog(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	l := audit.Or(nil, slog.New(slog.NewTextHandler(&out, nil)))
	l.Record(actor.With(t.Context(), alice), audit.Entry{Action: "push manifest", Object: "acme/app", Result: audit.Done},
		slog.String("digest", "sha256:1"))
	want := `level=INFO msg=audit who=alice kind=user action="push manifest" object=acme/app result=done identity="token ci" address=192.0.2.1 digest=sha256:1`
	if _, got, _ := strings.Cut(strings.TrimSpace(out.String()), " "); got != want {
		t.Errorf("the log is\n%s, want\n%s", got, want)
	}
	if audit.Or(l, discard()) != l {
		t.Error("Or does not return the given Log")
	}
}

// TestRepeatedDenialsAreCounted repeats a denial for three minutes: the first one and the count of each window are
// written, and their counts sum up to the number of denials.
func TestRepeatedDenialsAreCounted(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		into := &rows{}
		l := audit.New(audit.Options{Log: discard(), Rows: into})
		ctx := actor.With(t.Context(), actor.Unknown("192.0.2.9:1"))
		const n = 3*60 + 30
		for i := range n {
			l.Record(ctx, audit.Entry{Action: "login", Object: "admin", Result: audit.Denied, Status: 401}, slog.Int("n", i))
			if i == 30 { // others are not affected
				l.Record(ctx, audit.Entry{Action: "login", Object: "root", Result: audit.Denied, Status: 401})
				l.Record(ctx, audit.Entry{Action: "login", Object: "admin", Result: audit.Done})
			}
			time.Sleep(time.Second)
		}
		time.Sleep(2 * audit.Window)
		var sum int64
		var entries []audit.Entry
		for _, e := range into.all() {
			if e.Object == "admin" && e.Result == audit.Denied {
				entries, sum = append(entries, e), sum+e.Count
			}
		}
		if sum != n || len(entries) != 8 {
			t.Errorf("%d entries count %d denials, want 8 and %d: %+v", len(entries), sum, n, entries)
		}
		if first := entries[0]; first.Count != 1 || string(first.Details) != `{"n":0}` {
			t.Errorf("the first entry is %+v", first)
		}
		if second := entries[1]; second.Count != 59 || !strings.Contains(string(second.Details), `"first":"2000-01-01T00:00:01`) {
			t.Errorf("the second entry is %+v", second)
		}
		if got := len(into.all()); got != 10 {
			t.Errorf("%d entries, want 10", got)
		}
		if err := l.Close(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// TestDifferentDenialsAreBounded sends denials that all differ: from one address, from many networks, and from
// accounts. None is lost, because the counts include them.
func TestDifferentDenialsAreBounded(t *testing.T) {
	t.Parallel()
	const n = 20_000
	for name, tt := range map[string]struct {
		actor func(int) actor.Actor
		most  int
	}{
		"one address":   {func(int) actor.Actor { return actor.Unknown("192.0.2.9") }, 32},
		"one network":   {func(i int) actor.Actor { return actor.Unknown(fmt.Sprintf("2001:db8::%x", i+1)) }, 32},
		"many networks": {func(i int) actor.Actor { return actor.Unknown(fmt.Sprintf("2001:db8:0:%x::1", i)) }, 302},
		"no address":    {func(i int) actor.Actor { return actor.Unknown(fmt.Sprint("@", i)) }, 302},
		"one account":   {func(int) actor.Actor { return alice }, 32},
		"many accounts": {func(i int) actor.Actor { return actor.Actor{ID: int64(i), Name: fmt.Sprint("u", i), Kind: actor.Robot} }, 3002},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				into := &rows{}
				l := audit.New(audit.Options{Log: discard(), Rows: into})
				for i := range n {
					e := audit.Entry{Action: "pull", Object: fmt.Sprint("acme/", i), Result: audit.Denied, Status: 401}
					l.Record(actor.With(t.Context(), tt.actor(i)), e)
				}
				// Another account is not affected by what others do.
				l.Record(actor.With(t.Context(), actor.Actor{ID: 1, Name: "carol", Kind: actor.User}),
					audit.Entry{Action: "pull", Object: "other/app", Result: audit.Denied, Status: 401})
				time.Sleep(2 * audit.Window)
				if err := l.Close(t.Context()); err != nil {
					t.Error(err)
				}
				var sum int64
				carol := 0
				for _, e := range into.all() {
					sum += e.Count
					if e.Actor.Name == "carol" {
						carol++
					}
				}
				if got := len(into.all()); sum != n+1 || got > tt.most+1 {
					t.Errorf("%d entries count %d denials, want at most %d and %d", got, sum, tt.most+1, n+1)
				}
				if carol != 1 && name != "many accounts" {
					t.Errorf("%d entries of another account, want 1", carol)
				}
			})
		})
	}
}

// TestRowsWaitForTheDatabase makes the database fail for a while: no row is lost, and their order stays.
func TestRowsWaitForTheDatabase(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		into := &rows{err: errors.New("no answer")}
		l := audit.New(audit.Options{Log: slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelWarn})), Rows: into})
		for i := range 250 {
			l.Record(actor.With(t.Context(), alice), audit.Entry{Action: "push blob", Object: fmt.Sprint(i), Result: audit.Done})
		}
		time.Sleep(30 * time.Second)
		into.fail(nil)
		time.Sleep(5 * time.Second)
		stored := into.all()
		if len(stored) != 250 || len(into.batches) != 3 {
			t.Fatalf("%d rows in %d batches, want 250 in 3", len(stored), len(into.batches))
		}
		for i, e := range stored {
			if e.Object != fmt.Sprint(i) {
				t.Fatalf("row %d is %s", i, e.Object)
			}
		}
		if n := strings.Count(out.String(), "cannot store audit entries"); n != 1 {
			t.Errorf("%d reports, want 1 a minute:\n%s", n, out.String())
		}
	})
}

// TestAFullQueueHoldsRequestsBack fills the queue while the database does not answer: further requests wait, and go on
// when it answers.
func TestAFullQueueHoldsRequestsBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		into := &rows{err: errors.New("no answer")}
		l := audit.New(audit.Options{Log: discard(), Rows: into})
		record := func() { l.Record(actor.With(t.Context(), alice), audit.Entry{Action: "push blob", Result: audit.Done}) }
		begun := time.Now()
		for range 4096 {
			record()
		}
		if time.Since(begun) != 0 {
			t.Errorf("requests waited for %v before the queue was full", time.Since(begun))
		}
		go func() {
			time.Sleep(3 * time.Second)
			into.fail(nil)
		}()
		record()
		if waited := time.Since(begun); waited < 3*time.Second || waited > 5*time.Second {
			t.Errorf("the request waited for %v, want until the database answered", waited)
		}
		time.Sleep(time.Minute)
		if got := len(into.all()); got != 4097 {
			t.Errorf("%d rows, want 4097", got)
		}
		into.fail(errors.New("gone"))
		for range 4096 {
			record()
		}
		begun = time.Now()
		record()
		if waited := time.Since(begun); waited != 10*time.Second {
			t.Errorf("the request waited for %v, want 10s", waited)
		}
		into.fail(nil)
		if err := l.Close(t.Context()); err != nil || len(into.all()) != 2*4096+1 {
			t.Errorf("Close = %v, %d rows, want all but the one that is lost", err, len(into.all()))
		}
	})
}

func TestCloseReportsLostRows(t *testing.T) {
	t.Parallel()
	l := audit.New(audit.Options{Log: discard(), Rows: &rows{err: errors.New("gone")}})
	l.Record(t.Context(), audit.Entry{Action: "x", Result: audit.Done})
	if err := l.Close(t.Context()); err == nil || !strings.Contains(err.Error(), "1 rows are lost: gone") {
		t.Errorf("Close = %v", err)
	}
}

func TestAFileThatWasRotatedIsCreatedAgain(t *testing.T) {
	t.Parallel()
	l, path := open(t, nil, discard())
	record := func(object string) {
		l.Record(t.Context(), audit.Entry{Action: "x", Object: object, Result: audit.Done})
	}
	record("one")
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	record("two")
	record("three")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	record("four")
	if err := os.Truncate(path, 0); err != nil { // as by copytruncate
		t.Fatal(err)
	}
	record("five")
	for file, want := range map[string]string{path + ".1": "one", path: "five"} {
		if got := lines(t, file); len(got) != 1 || got[0]["object"] != want {
			t.Errorf("%s has %v, want %s", file, got, want)
		}
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the mode is %v (%v), want 0600", info.Mode(), err)
	}
	if err := l.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestOpenRefusesWhatIsNotAFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	pipe := filepath.Join(dir, "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{dir, pipe, "/dev/null", filepath.Join(dir, "absent", "audit.log")} {
		if _, err := audit.Open(path); err == nil || !strings.Contains(err.Error(), "audit.file") || !strings.Contains(err.Error(), path) {
			t.Errorf("Open(%s) = %v, want an error that names the setting and the path", path, err)
		}
	}
	reader, err := os.OpenFile(pipe, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = reader.Close() }()
	if _, err := audit.Open(pipe); err == nil {
		t.Error("Open of a pipe with a reader succeeds")
	}
}

// TestProcessesShareAFile writes to one file through several destinations. No line is broken.
func TestProcessesShareAFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "audit.log")
	var writers sync.WaitGroup
	for p := range 4 {
		to, err := audit.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		l := audit.New(audit.Options{Log: discard(), To: to})
		for g := range 4 {
			writers.Go(func() {
				for i := range 100 {
					object := fmt.Sprint(p, g, i, strings.Repeat("x", 500))
					l.Record(t.Context(), audit.Entry{Action: "x", Object: object, Result: audit.Done})
				}
			})
		}
	}
	writers.Wait()
	if got := len(lines(t, path)); got != 1600 {
		t.Errorf("%d lines, want 1600", got)
	}
}
