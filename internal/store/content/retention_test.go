package content_test

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store"
	"github.com/countersign/countersign/internal/store/content"
	"github.com/countersign/countersign/internal/store/list"
	"github.com/countersign/countersign/internal/store/record"
	"github.com/countersign/countersign/internal/store/storetest"
	"github.com/countersign/countersign/internal/store/taskstore"
)

// held is the content of a version: the unit under each kind and key.
type held map[record.Unit]string // Unit.ID is the key here

// versionModel is a repository as it has to be: each version that there is with all that it holds.
type versionModel struct {
	*testing.T
	store    *store.Store
	id       string
	random   *rand.Rand
	versions map[int64]held
	next     int64
	retain   *int64
	pinned   map[int64]string // distribution by version
}

func (m *versionModel) numbers() []int64 { return slices.Sorted(maps.Keys(m.versions)) }

func (m *versionModel) latest() int64 { n := m.numbers(); return n[len(n)-1] }

// dropOld applies retention to the model.
func (m *versionModel) dropOld() {
	if m.retain == nil {
		return
	}
	all := m.numbers()
	for i, n := range all {
		if _, pinned := m.pinned[n]; !pinned && i < len(all)-int(*m.retain) {
			delete(m.versions, n)
		}
	}
}

// put makes the model's next version, unless nothing changed.
func (m *versionModel) put(now held) {
	if maps.Equal(now, m.versions[m.latest()]) {
		return
	}
	m.versions[m.next] = now
	m.next++
	m.dropOld()
}

// push adds, replaces and removes some units one by one, as pushes do.
func (m *versionModel) push() {
	now := maps.Clone(m.versions[m.latest()])
	_, err := m.store.Content.ChangeFor(m.Context(), nil, m.id, func(c *content.Change) ([]taskstore.Created, error) {
		for range 1 + m.random.IntN(4) {
			kind := pulp.Kinds[m.random.IntN(len(pulp.Kinds))]
			key := fmt.Sprint("k", m.random.IntN(6))
			id := key
			if kind == pulp.KindTag {
				id = fmt.Sprint("t", m.random.IntN(3))
			}
			if m.random.IntN(3) == 0 {
				delete(now, record.Unit{Kind: kind, ID: key})
				if err := c.Remove(kind, key); err != nil {
					return nil, err
				}
				continue
			}
			now[record.Unit{Kind: kind, ID: key}] = id
			if err := c.Add(kind, key, id); err != nil {
				return nil, err
			}
		}
		return nil, nil
	})
	if err != nil {
		m.Fatal(err)
	}
	m.put(now)
}

// set changes the content as sets do: some units come, or some go, or all others go.
func (m *versionModel) set() {
	now := maps.Clone(m.versions[m.latest()])
	chosen := held{}
	for range m.random.IntN(6) {
		kind, key := pulp.Kinds[m.random.IntN(len(pulp.Kinds))], fmt.Sprint("k", m.random.IntN(6))
		id := key
		if kind == pulp.KindTag {
			id = fmt.Sprint("t", m.random.IntN(3))
		}
		chosen[record.Unit{Kind: kind, ID: key}] = id
	}
	how := m.random.IntN(3)
	_, err := m.store.Content.ChangeFor(m.Context(), nil, m.id, func(c *content.Change) ([]taskstore.Created, error) {
		if err := c.Gather(); err != nil {
			return nil, err
		}
		for u, id := range chosen {
			if _, err := c.Tx.Exec(`INSERT INTO change_unit (kind, key, content_id) VALUES ($1, $2, $3)`, u.Kind, u.ID, id); err != nil {
				return nil, err
			}
		}
		switch how {
		case 0:
			maps.Copy(now, chosen)
			return nil, c.AddGathered()
		case 1:
			maps.DeleteFunc(now, func(u record.Unit, _ string) bool { _, gone := chosen[u]; return gone })
			return nil, c.RemoveGathered()
		default:
			now = maps.Clone(chosen)
			return nil, errors.Join(c.KeepGathered(), c.AddGathered())
		}
	})
	if err != nil {
		m.Fatal(err)
	}
	m.put(now)
}

func (m *versionModel) restore() {
	all := m.numbers()
	n := all[m.random.IntN(len(all))]
	if _, err := m.store.Content.Restore(m.Context(), nil, m.id, n); err != nil {
		m.Fatal(err)
	}
	m.put(maps.Clone(m.versions[n]))
}

func (m *versionModel) delete() {
	all := m.numbers()
	n := all[m.random.IntN(len(all))]
	err := m.store.Content.DeleteVersion(m.Context(), nil, m.id, n)
	if _, pinned := m.pinned[n]; pinned || len(all) == 1 {
		if !fault.Is(err, fault.Conflict) {
			m.Fatalf("delete of version %d: %v, want Conflict", n, err)
		}
		return
	}
	if err != nil {
		m.Fatal(err)
	}
	delete(m.versions, n)
}

func (m *versionModel) setRetention() {
	m.retain = nil
	if m.random.IntN(3) > 0 {
		n := 1 + m.random.Int64N(6)
		m.retain = &n
	}
	if _, err := m.store.Catalog.EditRepository(m.Context(), nil, pulp.Container, m.id, func(r *pulp.Repository) { r.RetainRepoVersions = m.retain }); err != nil {
		m.Fatal(err)
	}
	m.dropOld()
}

func (m *versionModel) pin() {
	for n, d := range m.pinned { // at most one
		if err := m.store.Catalog.DeleteDistribution(m.Context(), nil, d); err != nil {
			m.Fatal(err)
		}
		delete(m.pinned, n)
		return
	}
	all := m.numbers()
	n := all[m.random.IntN(len(all))]
	v, err := m.store.Content.Version(m.Context(), m.id, n)
	if err != nil {
		m.Fatal(err)
	}
	path := fmt.Sprint("pin/", m.id, "-", m.next)
	d, err := m.store.Catalog.CreateDistribution(m.Context(), nil, pulp.Distribution{Name: path, BasePath: path, Pinned: &pulp.PinnedVersion{VersionID: v.ID}}, 0)
	if err != nil {
		m.Fatal(err)
	}
	m.pinned[n] = d.ID
}

// rows returns the units of a version under a condition.
func (m *versionModel) rows(condition string, n int64) held {
	got := held{}
	rows, err := m.store.DB.Read().QueryContext(m.Context(), `SELECT c.kind, c.key, c.content_id FROM repository_content c WHERE c.repository_id = $1 AND `+condition, m.id, n)
	if err != nil {
		m.Fatal(err)
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var u record.Unit
		var id string
		if err := rows.Scan(&u.Kind, &u.ID, &id); err != nil {
			m.Fatal(err)
		}
		if _, twice := got[u]; twice && condition == record.InVersion("$2") {
			m.Errorf("version %d holds %v twice", n, u)
		}
		got[u] = id
	}
	if err := rows.Err(); err != nil {
		m.Fatal(err)
	}
	return got
}

func without(a, b held) held {
	left := held{}
	for u, id := range a {
		if b[u] != id {
			left[u] = id
		}
	}
	return left
}

func (h held) of(kind pulp.Kind) (n int64) {
	for u := range h {
		if u.Kind == kind {
			n++
		}
	}
	return n
}

// check compares everything that the store says of the repository with the model.
func (m *versionModel) check(after string) {
	m.Helper()
	found, _, err := m.store.Lists.Versions(m.Context(), list.Query{Where: []list.Filter{list.Where("repository", list.Equal, m.id)}, Limit: 1000, Order: []list.Order{{Field: "number"}}})
	if err != nil {
		m.Fatal(err)
	}
	var numbers []int64
	before := held{}
	for _, v := range found {
		numbers = append(numbers, v.Number)
		want := m.versions[v.Number]
		if got := m.rows(record.InVersion("$2"), v.Number); !maps.Equal(got, want) {
			m.Fatalf("after %s version %d holds %v, want %v", after, v.Number, got, want)
		}
		added, removed := without(want, before), without(before, want)
		if got := m.rows(record.AddedIn("$1", "$2"), v.Number); !maps.Equal(got, added) {
			m.Fatalf("after %s version %d added %v, want %v", after, v.Number, got, added)
		}
		if got := m.rows(record.RemovedIn("$1", "$2"), v.Number); !maps.Equal(got, removed) {
			m.Fatalf("after %s version %d removed %v, want %v", after, v.Number, got, removed)
		}
		for _, kind := range pulp.Kinds {
			if got, want := v.Counts[kind], (pulp.Count{Present: want.of(kind), Added: added.of(kind), Removed: removed.of(kind)}); got != want {
				m.Fatalf("after %s version %d counts %v %+v, want %+v", after, v.Number, kind, got, want)
			}
		}
		before = want
	}
	if !slices.Equal(numbers, m.numbers()) {
		m.Fatalf("after %s there are versions %v, want %v", after, numbers, m.numbers())
	}
	r, err := m.store.Catalog.Repository(m.Context(), pulp.Container, m.id)
	if err != nil || r.LatestVersion != m.latest() {
		m.Fatalf("after %s the latest version is %d, %v, want %d", after, r.LatestVersion, err, m.latest())
	}
}

// TestVersionsAgainstAModel changes a repository at random, and deletes, retains, pins and restores its versions, and holds every version against a model that knows nothing of
// how they are stored.
func TestVersionsAgainstAModel(t *testing.T) {
	t.Parallel()
	for seed := range uint64(8) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			s := storetest.Open(t)
			r, err := s.Catalog.CreateRepository(t.Context(), pulp.Repository{Type: pulp.Container, Name: "m"}, 0)
			if err != nil {
				t.Fatal(err)
			}
			m := &versionModel{T: t, store: s, id: r.ID, random: rand.New(rand.NewPCG(seed, 1)), versions: map[int64]held{0: {}}, next: 1, pinned: map[int64]string{}}
			for range 250 {
				what, do := "a push", m.push
				switch m.random.IntN(12) {
				case 0, 1, 2:
					what, do = "a deletion", m.delete
				case 3, 4:
					what, do = "a set", m.set
				case 5:
					what, do = "a restore", m.restore
				case 6:
					what, do = "retention", m.setRetention
				case 7:
					what, do = "a pin", m.pin
				}
				do()
				m.check(what)
			}
		})
	}
}

// TestDeletedVersionsBesidePushes deletes the latest version again and again while tags are added. The latest version must always be
// the newest one, and its content must agree with its counts at the end.
func TestDeletedVersionsBesidePushes(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	id := storetest.Target(t, s, "acme/app").Repository.ID
	m, _ := storetest.PushImage(t, s, id, "one", "v1")
	stop := make(chan struct{})
	var pushing sync.WaitGroup
	for p := range 3 {
		pushing.Go(func() {
			for n := range 60 {
				if _, err := s.Content.TagManifest(t.Context(), nil, id, fmt.Sprintf("t%d-%d", p, n), m.Digest); err != nil {
					t.Errorf("tag: %v", err)
				}
			}
		})
	}
	go func() { pushing.Wait(); close(stop) }()
	for done := false; !done; {
		select {
		case <-stop:
			done = true
		default:
		}
		r, err := s.Catalog.Repository(t.Context(), pulp.ContainerPush, id)
		if err != nil {
			t.Fatal(err)
		}
		if r.LatestVersion == 1 { // which has the image
			continue
		}
		if err := s.Content.DeleteVersion(t.Context(), nil, id, r.LatestVersion); err != nil && !fault.Is(err, fault.NotFound) && !fault.Is(err, fault.Conflict) {
			t.Fatal(err)
		}
	}
	r, err := s.Catalog.Repository(t.Context(), pulp.ContainerPush, id)
	if err != nil {
		t.Fatal(err)
	}
	all, _, err := s.Lists.Versions(t.Context(), list.Query{Where: []list.Filter{list.Where("repository", list.Equal, id)}, Order: []list.Order{{Field: "number", Desc: true}}, Limit: 1})
	if err != nil || len(all) != 1 || all[0].Number != r.LatestVersion {
		t.Fatalf("the newest version is %v, the latest %d (%v)", all, r.LatestVersion, err)
	}
	held, err := s.Content.HeldTags(t.Context(), id)
	if err != nil || int64(len(held)) != all[0].Counts[pulp.KindTag].Present {
		t.Errorf("%d tags are there, and the version counts %d (%v)", len(held), all[0].Counts[pulp.KindTag].Present, err)
	}
}
