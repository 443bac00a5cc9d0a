package sweep_test

import (
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/pgtest"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store"
	"github.com/countersign/countersign/internal/store/content"
	"github.com/countersign/countersign/internal/store/record"
	"github.com/countersign/countersign/internal/store/sqldb"
	"github.com/countersign/countersign/internal/store/storetest"
	"github.com/countersign/countersign/internal/store/sweep"
)

// waiting returns the numbers of pending units by kind.
func waiting(t *testing.T, s *store.Store) map[pulp.Kind]int {
	t.Helper()
	kinds, err := sqldb.Collect(t.Context(), s.DB.Read(), func(row sqldb.Scanner) (pulp.Kind, error) {
		var k pulp.Kind
		err := row.Scan(&k)
		return k, err
	}, `SELECT kind FROM unversioned_content WHERE reason = 'pending'`)
	if err != nil {
		t.Fatal(err)
	}
	n := map[pulp.Kind]int{}
	for _, k := range kinds {
		n[k]++
	}
	return n
}

// old makes all units older than any grace period.
func old(t *testing.T, s *store.Store) {
	t.Helper()
	storetest.Exec(t, s, `UPDATE unversioned_content SET touched = 1 WHERE reason = 'pending'`)
	for _, table := range []string{"blob", "manifest", "tag", "signature"} {
		storetest.Exec(t, s, `UPDATE `+table+` SET created = 1, updated = 1`)
	}
}

var longAgo = time.UnixMicro(1000)

func sweepManifests(t *testing.T, s *store.Store, want ...int64) {
	t.Helper()
	for _, w := range append(want, 0) {
		n, err := s.Sweeps.SweepPendingManifests(t.Context(), longAgo, 100)
		if err != nil || n != w {
			t.Fatalf("SweepPendingManifests = %d, %v, want %d", n, err, w)
		}
	}
}

func TestPendingManifestsAreSweptWhenNothingRefersToThem(t *testing.T) {
	t.Parallel()
	put := func(s *store.Store, to record.Target, m pulp.Manifest, tags ...string) {
		t.Helper()
		if _, err := s.Content.PutManifest(t.Context(), content.PutManifest{RepositoryID: to.Repository.ID, Manifest: m, Tags: tags}); err != nil {
			t.Fatal(err)
		}
	}
	for name, c := range map[string]struct {
		make func(t *testing.T, s *store.Store, to record.Target, m pulp.Manifest) // m is pending and old
		want []int64
	}{
		"alone":        {func(*testing.T, *store.Store, record.Target, pulp.Manifest) {}, []int64{1}},
		"pushed again": {func(t *testing.T, s *store.Store, to record.Target, m pulp.Manifest) { put(s, to, m) }, nil},
		"in an old list": {func(t *testing.T, s *store.Store, to record.Target, m pulp.Manifest) {
			put(s, to, storetest.Index(m))
			old(t, s)
		}, []int64{1, 1}},
		"in a young list": {func(t *testing.T, s *store.Store, to record.Target, m pulp.Manifest) { put(s, to, storetest.Index(m)) }, nil},
		"in another's list": {func(t *testing.T, s *store.Store, to record.Target, m pulp.Manifest) {
			put(s, storetest.Target(t, s, "acme/other"), storetest.Index(m))
		}, []int64{1}},
		"with a referrer": {func(t *testing.T, s *store.Store, to record.Target, m pulp.Manifest) {
			r := pulp.Manifest{Payload: []byte("referrer"), Subject: m.Digest, MediaType: pulp.OCIManifest, SchemaVersion: 2, Type: "artifact"}
			r.Digest = digest.FromBytes(r.Payload)
			put(s, to, r)
			old(t, s)
		}, nil},
		"in a version elsewhere": {func(t *testing.T, s *store.Store, _ record.Target, _ pulp.Manifest) {
			storetest.PushImage(t, s, storetest.Target(t, s, "acme/other").Repository.ID, "one", "v1")
			old(t, s)
		}, nil},
		"in a version that was": {func(t *testing.T, s *store.Store, to record.Target, m pulp.Manifest) {
			put(s, to, m, "v1")
			if _, err := s.Content.DeleteManifest(t.Context(), to.Repository.ID, m.Digest); err != nil {
				t.Fatal(err)
			}
			storetest.PushImage(t, s, to.Repository.ID, "one")
			old(t, s)
		}, nil},
		"signed long ago": {func(t *testing.T, s *store.Store, to record.Target, m pulp.Manifest) {
			if _, err := s.Signatures.PutSignature(t.Context(), to.Repository.ID, m.Digest, storetest.SignatureOf(t, s, to, m, "sig")); err != nil {
				t.Fatal(err)
			}
			old(t, s)
		}, []int64{1}},
		"signed just now": {func(t *testing.T, s *store.Store, to record.Target, m pulp.Manifest) {
			if _, err := s.Signatures.PutSignature(t.Context(), to.Repository.ID, m.Digest, storetest.SignatureOf(t, s, to, m, "sig")); err != nil {
				t.Fatal(err)
			}
		}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := storetest.Open(t)
			to := storetest.Target(t, s, "acme/app")
			m, _ := storetest.PushImage(t, s, to.Repository.ID, "one")
			old(t, s)
			c.make(t, s, to, m)
			sweepManifests(t, s, c.want...)
			if _, err := s.Serving.ServedManifest(t.Context(), to, string(m.Digest)); (err == nil) != (c.want == nil) {
				t.Errorf("ServedManifest: %v", err)
			}
			if left := waiting(t, s); c.want != nil && left[pulp.KindSignature] > 0 {
				t.Errorf("its signature waits on: %v", left)
			}
		})
	}
}

func TestUnitsAreSweptByName(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	to := storetest.Target(t, s, "acme/app")
	kept, _ := storetest.PushImage(t, s, to.Repository.ID, "kept", "v1")
	m, _ := storetest.PushImage(t, s, to.Repository.ID, "one")
	if _, err := s.Signatures.PutSignature(t.Context(), to.Repository.ID, m.Digest, storetest.SignatureOf(t, s, to, m, "sig")); err != nil {
		t.Fatal(err)
	}
	id := func(table string, d digest.Digest) string {
		t.Helper()
		id, err := sqldb.ScanString(s.DB.Read().QueryRowContext(t.Context(), `SELECT id FROM `+table+` WHERE digest = $1`, d))
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	sweep := func(kind pulp.Kind, id string, want int64) {
		t.Helper()
		if n, err := s.Sweeps.SweepUnit(t.Context(), record.Unit{Kind: kind, ID: id}, longAgo); err != nil || n != want {
			t.Errorf("SweepUnit(%s) = %d, %v, want %d", kind, n, err, want)
		}
	}
	manifest, config, tag := id("manifest", m.Digest), id("blob", m.Config.Digest), "a tag of no version"
	signature := id("signature", digest.FromString("sig"))
	storetest.Exec(t, s, `INSERT INTO tag (id, name, manifest_id, created, updated) VALUES ($1, 'x', $2, 1, 1)`, tag, manifest) // older than its manifest
	sweep(pulp.KindManifest, manifest, 0)                                                                                       // young
	old(t, s)
	sweep(pulp.KindBlob, config, 0)         // a pending manifest names it
	sweep(pulp.KindSignature, signature, 0) // it is pending with its manifest
	sweep(pulp.KindManifest, manifest, 3)   // with its tag and its signature
	sweep(pulp.KindManifest, manifest, 0)
	sweep(pulp.KindTag, tag, 0)
	sweep(pulp.KindBlob, config, 1)
	sweep(pulp.KindManifest, id("manifest", kept.Digest), 0)
	sweep(pulp.KindBlob, id("blob", kept.Config.Digest), 0)
	if _, err := s.Sweeps.SweepUnit(t.Context(), record.Unit{ID: manifest}, longAgo); err == nil {
		t.Error("a unit of no kind is swept")
	}
	if left := waiting(t, s); left[pulp.KindManifest]+left[pulp.KindSignature] != 0 || left[pulp.KindBlob] != 1 {
		t.Errorf("%v waits", left)
	}
}

func TestBlobsAreDoomedByName(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	to := storetest.Target(t, s, "acme/app")
	b := pulp.Blob{Digest: digest.FromString("far"), Size: 3}
	if err := s.Content.CommitBlob(t.Context(), to.Repository.ID, b, "", 0); err != nil {
		t.Fatal(err)
	}
	stored, err := s.Serving.Blob(t.Context(), b.Digest)
	if err != nil {
		t.Fatal(err)
	}
	doom := func(want int) {
		t.Helper()
		doomed, err := s.Sweeps.DoomBlob(t.Context(), stored.ID, longAgo)
		if err != nil || len(doomed) != want || want > 0 && doomed[0] != (sweep.DoomedBlob{stored.ID, b.Digest, ""}) {
			t.Errorf("DoomBlob = %+v, %v, want %d", doomed, err, want)
		}
	}
	old(t, s)
	doom(0) // it is pending
	if n, err := s.Sweeps.SweepUnit(t.Context(), record.Unit{Kind: pulp.KindBlob, ID: stored.ID}, longAgo); n != 0 || err != nil {
		t.Errorf("SweepUnit = %d, %v: its bytes are still there", n, err)
	}
	doom(1)
	doom(1) // until it is forgotten
	if err := s.Content.CommitBlob(t.Context(), to.Repository.ID, b, "", 0); !errors.Is(err, content.ErrDeleting) {
		t.Errorf("a doomed blob is taken up: %v", err)
	}
	if err := s.Sweeps.ForgetBlob(t.Context(), stored.ID); err != nil {
		t.Fatal(err)
	}
	doom(0)
}

func TestOneRemovesAtATime(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	var busy sync.Mutex
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			err := s.DB.WithLock(t.Context(), sqldb.BlobRemoval, func(func() error) error {
				if !busy.TryLock() {
					return errors.New("two at once")
				}
				defer busy.Unlock()
				_, err := s.Sweeps.DoomBlobs(t.Context(), longAgo, 1) // it may write
				return err
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	broken := errors.New("no bytes")
	if err := s.DB.WithLock(t.Context(), sqldb.BlobRemoval, func(func() error) error { return broken }); !errors.Is(err, broken) {
		t.Errorf("Alone: %v", err)
	}
}

// TestWhoStandsStillHoldsNobodyUp has one process stand still in the middle of a change, and another work alone without asking whether it still may, both for longer than a process may
// stand still. A change of the first one's repository goes on elsewhere, and the second keeps its lock.
func TestWhoStandsStillHoldsNobodyUp(t *testing.T) {
	t.Parallel()
	if pgtest.URL(t) == "" {
		t.Skip("SQLite has one owner")
	}
	s := storetest.Open(t)
	id := storetest.Target(t, s, "acme/app").Repository.ID
	locked, other := make(chan struct{}), make(chan error, 1)
	var all sync.WaitGroup
	all.Go(func() {
		err := s.Content.InTx(t.Context(), func(x *content.Tx) error {
			if _, err := x.Begin(id); err != nil {
				return err
			}
			close(locked)
			if err := <-other; err != nil {
				t.Errorf("a change of the same repository: %v", err)
			}
			return nil
		})
		if !sqldb.IsUnavailable(err) {
			t.Errorf("the change that stood still: %v, want that the database does not answer", err)
		}
	})
	all.Go(func() {
		if err := s.DB.WithLock(t.Context(), sqldb.Comparison, func(func() error) error { time.Sleep(12500 * time.Millisecond); return nil }); err != nil {
			t.Errorf("work that is done alone: %v", err)
		}
	})
	<-locked
	other <- s.Content.CommitBlob(t.Context(), id, pulp.Blob{Digest: digest.FromString("other"), Size: 5, Data: []byte("other"), Inline: true}, "", 0)
	if _, err := s.Content.Change(t.Context(), id, func(*content.Change) error { return nil }); err != nil {
		t.Errorf("a change of the same repository: %v", err)
	}
	all.Wait()
}

// TestAloneIsToldOfALostLock cuts the connection beneath work that is done alone.
func TestAloneIsToldOfALostLock(t *testing.T) {
	t.Parallel()
	if pgtest.URL(t) == "" {
		t.Skip("only PostgreSQL has a connection that can break")
	}
	s := storetest.Open(t)
	err := s.DB.WithLock(t.Context(), sqldb.Comparison, func(still func() error) error {
		if err := still(); err != nil {
			return err
		}
		var cut int
		if err := s.DB.Read().QueryRowContext(t.Context(), `
			SELECT COUNT(pg_terminate_backend(pid)) FROM pg_stat_activity
			 WHERE datname = current_database() AND pid <> pg_backend_pid() AND state = 'idle in transaction'`).Scan(&cut); err != nil || cut != 1 {
			t.Fatalf("%d connections cut, %v", cut, err)
		}
		for began := time.Now(); time.Since(began) < 30*time.Second; time.Sleep(10 * time.Millisecond) {
			if err := still(); err != nil {
				return err
			}
		}
		t.Error("nobody says that the lock is lost")
		return nil
	})
	if !sqldb.IsUnavailable(err) {
		t.Errorf("Alone = %v, want that the database does not answer", err)
	}
}
