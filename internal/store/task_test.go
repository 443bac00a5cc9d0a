package store

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
)

const leaseForTests = time.Minute

func exclusive(names ...string) []Resource { return resources(true, names) }

func shared(names ...string) []Resource { return resources(false, names) }

func resources(exclusive bool, names []string) []Resource {
	var r []Resource
	for _, n := range names {
		r = append(r, Resource{Href: n, Exclusive: exclusive})
	}
	return r
}

func createTask(t *testing.T, s *Store, r ...Resource) Task {
	t.Helper()
	k, err := s.CreateTask(t.Context(), NewTask{Name: "test", Origin: OriginSystem, Args: map[string]int{"n": 1}, CID: "cid", Resources: r})
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func wantState(t *testing.T, s *Store, id string, want TaskState) Task {
	t.Helper()
	k, err := s.Task(t.Context(), id)
	if err != nil || k.State != want {
		t.Errorf("task is %s, %v, want %s", k.State, err, want)
	}
	return k
}

func TestTaskLife(t *testing.T) {
	t.Parallel()
	s := open(t)
	made := createTask(t, s, exclusive("a")...)
	if made.State != TaskWaiting || made.Unblocked == nil || made.Started != nil {
		t.Errorf("a new task = %+v", made)
	}
	k, err := s.ClaimNext(t.Context(), Wanted{WorkerID: "worker", Lease: leaseForTests})
	if err != nil || k == nil || k.ID != made.ID || k.State != TaskRunning || k.Attempt != 1 || k.Started == nil {
		t.Fatalf("ClaimTask = %+v, %v", k, err)
	}
	c := &Claim{TaskID: k.ID, Attempt: k.Attempt}
	if err := s.ReportProgress(t.Context(), c, []Progress{{Message: "m", Code: "c", State: TaskRunning, Done: 3}}); err != nil {
		t.Fatal(err)
	}
	if err := s.CompleteTask(t.Context(), c, Outcome{Result: map[string]int{"n": 1}}); err != nil {
		t.Fatal(err)
	}
	k2 := wantState(t, s, k.ID, TaskCompleted)
	if string(k2.Result) != `{"n":1}` || k2.Finished == nil || k2.WorkerID != "worker" || len(k2.Progress) != 1 || k2.CID != "cid" {
		t.Errorf("the completed task = %+v", k2)
	}
	if err := s.CompleteTask(t.Context(), c, Outcome{}); !errors.Is(err, ErrFenced) {
		t.Errorf("completing it again = %v, want ErrFenced", err)
	}
	if _, _, err := s.CancelTask(t.Context(), k.ID); !fault.Is(err, fault.Conflict) {
		t.Errorf("canceling it = %v, want Conflict (golden 16i)", err)
	}
	if err := s.DeleteTask(t.Context(), k.ID); err != nil {
		t.Errorf("deleting it = %v", err)
	}
	if err := s.DeleteTask(t.Context(), k.ID); !fault.Is(err, fault.NotFound) {
		t.Errorf("deleting it again = %v, want NotFound", err)
	}
}

func TestCancel(t *testing.T) {
	t.Parallel()
	s := open(t)
	running, waiting, behind := startTask(t, s, exclusive("a")...), createTask(t, s, exclusive("a")...), createTask(t, s, exclusive("a")...)
	if k, _, err := s.CancelTask(t.Context(), waiting.ID); err != nil || k.State != TaskCanceled || k.Started != nil {
		t.Errorf("canceling a waiting task = %+v, %v (golden 16d)", k, err)
	}
	if k, _, err := s.CancelTask(t.Context(), waiting.ID); err != nil || k.State != TaskCanceled {
		t.Errorf("canceling it again = %+v, %v (golden 16e)", k, err)
	}
	if k, _, err := s.CancelTask(t.Context(), running.TaskID); err != nil || k.State != TaskCanceling {
		t.Errorf("canceling a running task = %+v, %v", k, err)
	}
	if err := s.DeleteTask(t.Context(), running.TaskID); !fault.Is(err, fault.Conflict) {
		t.Errorf("deleting a canceling task = %v, want Conflict", err)
	}
	if err := s.CompleteTask(t.Context(), running, Outcome{}); !errors.Is(err, ErrFenced) {
		t.Errorf("completing a canceling task = %v, want ErrFenced", err)
	}
	if err := s.EndCanceled(t.Context(), running); err != nil {
		t.Fatal(err)
	}
	wantState(t, s, running.TaskID, TaskCanceled)
	if k := wantState(t, s, behind.ID, TaskWaiting); k.Unblocked == nil {
		t.Error("the task behind is still blocked")
	}
}

func TestLostWorkers(t *testing.T) {
	t.Parallel()
	s := open(t)
	now := time.Now()
	s.now = func() time.Time { return now }
	c := startTask(t, s, exclusive("a")...)
	for loss := 1; loss <= MaxLosses; loss++ {
		now = now.Add(leaseForTests - time.Second)
		if r, err := s.ReclaimTasks(t.Context(), false); err != nil || r != (Reclaimed{}) {
			t.Fatalf("a task under its lease was taken back: %+v, %v", r, err)
		}
		now = now.Add(2 * time.Second)
		r, err := s.ReclaimTasks(t.Context(), false)
		if err != nil || r.Waiting+r.Failed != 1 {
			t.Fatalf("loss %d: %+v, %v", loss, r, err)
		}
		if err := s.ExtendLease(t.Context(), c, leaseForTests); !errors.Is(err, ErrFenced) {
			t.Errorf("loss %d: the lost worker's beat = %v, want ErrFenced", loss, err)
		}
		if loss < MaxLosses {
			k, err := s.ClaimNext(t.Context(), Wanted{WorkerID: "another", Lease: leaseForTests})
			if err != nil || k == nil {
				t.Fatalf("loss %d: %v, %v", loss, k, err)
			}
			c = &Claim{TaskID: k.ID, Attempt: k.Attempt}
		}
	}
	k := wantState(t, s, c.TaskID, TaskFailed)
	if k.Error == nil || k.Error.Description != "The task lost its worker 3 times." {
		t.Errorf("error = %+v", k.Error)
	}
}

func TestReturnedTaskRunsAgain(t *testing.T) {
	t.Parallel()
	s := open(t)
	c := startTask(t, s)
	for range 2 * MaxLosses { // being stopped is no loss
		if err := s.ReturnTask(t.Context(), c, 0); err != nil {
			t.Fatal(err)
		}
		k, err := s.ClaimNext(t.Context(), Wanted{WorkerID: "worker", Lease: leaseForTests})
		if err != nil || k == nil {
			t.Fatalf("claim = %v, %v", k, err)
		}
		c.Attempt = k.Attempt
	}
}

func TestPurge(t *testing.T) {
	t.Parallel()
	s := open(t)
	for i := range 3 {
		c := startTask(t, s)
		var err error
		if i == 0 {
			err = s.FailTask(t.Context(), c, "no")
		} else {
			err = s.CompleteTask(t.Context(), c, Outcome{})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	left := createTask(t, s)
	n, err := s.PurgeTasks(t.Context(), time.Now().Add(time.Hour), []TaskState{TaskCompleted}, 10)
	if err != nil || n != 2 {
		t.Errorf("purged %d, %v, want 2", n, err)
	}
	wantState(t, s, left.ID, TaskWaiting)
}

// model is what the queue of tasks promises, told as simply as it can be. A task may run when no earlier one that has not ended holds one of its
// resources, unless both share it. Of those that may, long tasks and others are two classes. In a class the owners take turns, and of one owner the namespaces do.
type model struct {
	tasks []*modelTask
}

type modelTask struct {
	id        string
	resources []Resource
	share     Share
	long      bool
	turn, lap int64
	state     TaskState
	claim     *Claim
}

// ready returns the tasks that may run, in the order of dispatch.
func (m *model) ready() (found []*modelTask) {
	for i, k := range m.tasks {
		if k.state == TaskWaiting && !m.blocked(i) {
			found = append(found, k)
		}
	}
	return found
}

func idsOf(tasks []*modelTask) []string {
	ids := make([]string, len(tasks))
	for i, k := range tasks {
		ids[i] = k.id
	}
	slices.Sort(ids)
	return ids
}

// place gives a task that has become ready its place: the present turn of its class, or the one after its owner's latest; the lap is the same in its owner's tasks.
func (m *model) place(k *modelTask, others []*modelTask) {
	var live, leased []*modelTask // of the class
	for _, o := range others {
		if o != k && o.long == k.long {
			live = append(live, o)
		}
	}
	for _, o := range m.in(TaskRunning) {
		if o.long == k.long {
			leased = append(leased, o)
		}
	}
	next := func(of func(*modelTask) int64, within, mine func(*modelTask) bool) int64 {
		var now, first int64 = 0, -1
		for _, o := range leased {
			if within(o) {
				now = max(now, of(o))
			}
			if mine(o) {
				now = max(now, of(o)+1)
			}
		}
		for _, o := range live {
			if within(o) && (first < 0 || of(o) < first) {
				first = of(o)
			}
			if mine(o) {
				now = max(now, of(o)+1)
			}
		}
		return max(now, first)
	}
	owned := func(o *modelTask) bool { return o.share.Owner == k.share.Owner }
	turn := next(func(o *modelTask) int64 { return o.turn }, func(*modelTask) bool { return true }, owned)
	lap := next(func(o *modelTask) int64 { return o.lap }, owned, func(o *modelTask) bool { return o.share == k.share })
	k.turn, k.lap = turn, lap
}

// next returns the task that a claim takes, and exchanges its turn for the one that it takes.
func (m *model) next(long bool, except Share) *modelTask {
	least := func(of func(*modelTask) int64, if_ func(*modelTask) bool) (found *modelTask) {
		for _, k := range m.ready() {
			if k.long == long && if_(k) && (found == nil || of(k) < of(found)) {
				found = k
			}
		}
		return found
	}
	turn, lap := func(k *modelTask) int64 { return k.turn }, func(k *modelTask) int64 { return k.lap }
	others := func(k *modelTask) bool { return except.Owner == "" || k.share.Owner != except.Owner }
	head := least(turn, others)
	var pick *modelTask
	if head != nil {
		pick = least(lap, func(k *modelTask) bool { return k.share.Owner == head.share.Owner })
	} else if pick = least(lap, func(k *modelTask) bool { return k.share != except }); pick != nil {
		head = least(turn, func(k *modelTask) bool { return k.share.Owner == except.Owner })
	}
	if pick != nil {
		head.turn, pick.turn = pick.turn, head.turn
	}
	return pick
}

// freed checks that exactly those tasks are said to be freed that are ready now and were not before, and gives them their places.
func (m *model) freed(r *rapid.T, before []*modelTask, got []string) {
	fresh := slices.DeleteFunc(m.ready(), func(k *modelTask) bool { return slices.Contains(before, k) })
	if fmt.Sprint(slices.Sorted(slices.Values(got))) != fmt.Sprint(idsOf(fresh)) {
		r.Fatalf("freed: %v, want %v", got, idsOf(fresh))
	}
	placed := slices.DeleteFunc(slices.Clone(before), func(k *modelTask) bool { return k.state != TaskWaiting })
	for _, id := range got {
		k := fresh[slices.IndexFunc(fresh, func(k *modelTask) bool { return k.id == id })]
		m.place(k, placed)
		placed = append(placed, k)
	}
}

func (m *model) blocked(i int) bool {
	for _, earlier := range m.tasks[:i] {
		if earlier.state.Final() {
			continue
		}
		for _, a := range earlier.resources {
			for _, b := range m.tasks[i].resources {
				if a.Href == b.Href && (a.Exclusive || b.Exclusive) {
					return true
				}
			}
		}
	}
	return false
}

func (m *model) in(state TaskState) (found []*modelTask) {
	for _, k := range m.tasks {
		if k.state == state {
			found = append(found, k)
		}
	}
	return found
}

func TestReservationsFollowTheModel(t *testing.T) {
	t.Parallel()
	s := open(t)
	run := 0
	rapid.Check(t, func(r *rapid.T) {
		run++
		m := &model{}
		defer endAll(t, s, m)
		for range rapid.IntRange(1, 40).Draw(r, "steps") {
			step(t, r, s, m, run)
			got, err := s.ReadyTasks(t.Context(), nil, 100)
			if err != nil {
				r.Fatal(err)
			}
			slices.Sort(got)
			if want := idsOf(m.ready()); fmt.Sprint(got) != fmt.Sprint(want) {
				r.Fatalf("ready: %v, want %v", got, want)
			}
		}
	})
}

func step(t *testing.T, r *rapid.T, s *Store, m *model, run int) {
	running := m.in(TaskRunning)
	switch rapid.SampledFrom([]string{"create", "create", "claim", "claim", "end", "cancel", "lose"}).Draw(r, "step") {
	case "create":
		m.create(t, r, s, run)
	case "claim":
		m.claim(t, r, s)
	case "end":
		if len(running) == 0 {
			return
		}
		k := rapid.SampledFrom(running).Draw(r, "ends")
		before := m.ready()
		if err := s.CompleteTask(t.Context(), k.claim, Outcome{}); err != nil {
			r.Fatal(err)
		}
		k.state = TaskCompleted
		m.freed(r, before, k.claim.Freed())
	case "cancel":
		waiting := m.in(TaskWaiting)
		if len(waiting) == 0 {
			return
		}
		k := rapid.SampledFrom(waiting).Draw(r, "canceled")
		before := m.ready()
		_, freed, err := s.CancelTask(t.Context(), k.id)
		if err != nil {
			r.Fatal(err)
		}
		k.state = TaskCanceled
		m.freed(r, before, freed)
	case "lose":
		if len(running) == 0 {
			return
		}
		k := rapid.SampledFrom(running).Draw(r, "lost")
		if err := s.ReturnTask(t.Context(), k.claim, 0); err != nil {
			r.Fatal(err)
		}
		k.state = TaskWaiting
	}
}

func (m *model) create(t *testing.T, r *rapid.T, s *Store, run int) {
	var res []Resource
	for n := range 3 {
		switch rapid.IntRange(0, 3).Draw(r, "hold") {
		case 1:
			res = append(res, shared(fmt.Sprintf("%d/%d", run, n))...)
		case 2:
			res = append(res, exclusive(fmt.Sprintf("%d/%d", run, n))...)
		}
	}
	k := &modelTask{resources: res, state: TaskWaiting, share: drawShare(r), long: rapid.Bool().Draw(r, "long")}
	made, err := s.CreateTask(t.Context(), NewTask{Name: "test", Origin: OriginSystem, Resources: res, Long: k.long, Share: k.share})
	if err != nil {
		r.Fatal(err)
	}
	k.id = made.ID
	before := m.ready()
	m.tasks = append(m.tasks, k)
	if made.Unblocked != nil {
		m.place(k, before)
	}
}

func drawShare(r *rapid.T) Share {
	return Share{rapid.SampledFrom([]string{"a", "b", "c"}).Draw(r, "owner"), rapid.SampledFrom([]string{"m", "n", "o"}).Draw(r, "namespace")}
}

func (m *model) claim(t *testing.T, r *rapid.T, s *Store) {
	w := Wanted{WorkerID: "worker", Lease: leaseForTests, Long: rapid.Bool().Draw(r, "long")}
	if rapid.Bool().Draw(r, "except one") {
		w.Except = drawShare(r)
	}
	want := m.next(w.Long, w.Except)
	k, err := s.ClaimNext(t.Context(), w)
	if err != nil || (k == nil) != (want == nil) || k != nil && (k.ID != want.id || k.State != TaskRunning) {
		r.Fatalf("claimed %+v, %v, want %+v", k, err, want)
	}
	if want != nil {
		want.state, want.claim = TaskRunning, &Claim{TaskID: k.ID, Attempt: k.Attempt}
	}
}

// endAll leaves nothing behind for the next run.
func endAll(t *testing.T, s *Store, m *model) {
	for _, k := range m.tasks {
		if k.state.Final() {
			continue
		}
		if _, _, err := s.CancelTask(t.Context(), k.id); err != nil {
			t.Error(err)
		}
		if k.state == TaskRunning {
			if err := s.EndCanceled(t.Context(), k.claim); err != nil {
				t.Error(err)
			}
		}
	}
}

// A sign task waits for a worker that can use its service; one whose service is gone is anybody's, to fail.
func TestTasksThatNeedAService(t *testing.T) {
	t.Parallel()
	s := open(t)
	service, err := s.AddSigningService(t.Context(), pulp.SigningService{Name: "svc", Class: pulp.ManifestSigningService, Kind: pulp.ServiceScript})
	if err != nil {
		t.Fatal(err)
	}
	needy, err := s.CreateTask(t.Context(), NewTask{Name: "needy", Origin: OriginSystem, ServiceID: service.ID})
	if err != nil {
		t.Fatal(err)
	}
	plain := createTask(t, s)
	claim := func(services ...string) string {
		t.Helper()
		k, err := s.ClaimNext(t.Context(), Wanted{WorkerID: "worker", Services: append([]string{}, services...), Lease: leaseForTests})
		if err != nil {
			t.Fatal(err)
		}
		if k == nil {
			return ""
		}
		return k.ID
	}
	if got := claim("other"); got != plain.ID {
		t.Errorf("claimed %q, want the task that needs none", got)
	}
	if got := claim("other"); got != "" {
		t.Errorf("claimed %q without its service", got)
	}
	if got := claim("other", service.ID); got != needy.ID {
		t.Errorf("claimed %q, want the one that needs the service", got)
	}
	orphan, err := s.CreateTask(t.Context(), NewTask{Name: "orphan", Origin: OriginSystem, ServiceID: pulp.NewID()})
	if err != nil {
		t.Fatal(err)
	}
	if got := claim(); got != orphan.ID {
		t.Errorf("claimed %q, want the one whose service is gone", got)
	}
}

// Tasks that wait for a repository which gets another name go on waiting for it, in their order, and are freed.
func TestTasksBehindAMigration(t *testing.T) {
	t.Parallel()
	s := open(t)
	target, err := s.PushTarget(t.Context(), "acme/app", pulp.ContainerPush)
	if err != nil {
		t.Fatal(err)
	}
	href := pulp.RepositoryHref(pulp.ContainerPush, target.Repository.ID)
	migration, one, two := createTask(t, s, exclusive(href)...), createTask(t, s, exclusive(href)...), createTask(t, s, exclusive(href)...)
	claim := func(k Task) *Claim {
		t.Helper()
		claimed, err := s.ClaimNext(t.Context(), Wanted{WorkerID: "worker", Lease: leaseForTests})
		if err != nil || claimed == nil || claimed.ID != k.ID {
			t.Fatalf("claimed %+v, %v, want task %d", claimed, err, k.Seq)
		}
		return &Claim{TaskID: claimed.ID, Attempt: claimed.Attempt}
	}
	c := claim(migration)
	if err := s.MigrateRepository(t.Context(), c, target.Repository.ID); err != nil || !slices.Equal(c.Freed(), []string{one.ID}) {
		t.Fatalf("the migration freed %v, %v", c.Freed(), err)
	}
	three := createTask(t, s, exclusive(pulp.RepositoryHref(pulp.Container, target.Repository.ID))...)
	for _, k := range []Task{one, two, three} {
		c := claim(k)
		if err := s.CompleteTask(t.Context(), c, Outcome{}); err != nil {
			t.Fatal(err)
		}
	}
}

// TestTaskWithManyResources proves that a task may reserve more resources than an expression of the database may have terms, and waits for each of them.
func TestTaskWithManyResources(t *testing.T) {
	t.Parallel()
	s := open(t)
	names := make([]string, 1500)
	for i := range names {
		names[i] = fmt.Sprintf("resource %d", i)
	}
	first := createTask(t, s, shared(names...)...)
	if first.Unblocked == nil {
		t.Error("the first task waits")
	}
	if k := createTask(t, s, append(exclusive(names[1499]), shared("another")...)...); k.Unblocked != nil {
		t.Error("a task that needs a reserved resource alone does not wait")
	}
	if k := createTask(t, s, shared(names[:1499]...)...); k.Unblocked == nil {
		t.Error("a task that shares resources waits")
	}
	if k := createTask(t, s, shared(names...)...); k.Unblocked != nil {
		t.Error("a task behind one that needs a resource alone does not wait")
	}
}
