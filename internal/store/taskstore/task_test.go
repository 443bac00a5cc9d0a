package taskstore_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store"
	"github.com/countersign/countersign/internal/store/storetest"
	"github.com/countersign/countersign/internal/store/taskstore"
)

const leaseForTests = time.Minute

func exclusive(names ...string) []taskstore.Resource { return resources(true, names) }

func shared(names ...string) []taskstore.Resource { return resources(false, names) }

func resources(exclusive bool, names []string) []taskstore.Resource {
	var r []taskstore.Resource
	for _, n := range names {
		r = append(r, taskstore.Resource{Href: n, Exclusive: exclusive})
	}
	return r
}

func createTask(t *testing.T, s *store.Store, r ...taskstore.Resource) taskstore.Task {
	t.Helper()
	k, err := s.Tasks.CreateTask(t.Context(), taskstore.NewTask{Name: "test", Origin: taskstore.OriginSystem, Args: map[string]int{"n": 1}, CID: "cid", Resources: r})
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func wantState(t *testing.T, s *store.Store, id string, want taskstore.TaskState) taskstore.Task {
	t.Helper()
	k, err := s.Tasks.Task(t.Context(), id)
	if err != nil || k.State != want {
		t.Errorf("task is %s, %v, want %s", k.State, err, want)
	}
	return k
}

func TestTaskLife(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	made := createTask(t, s, exclusive("a")...)
	if made.State != taskstore.TaskWaiting || made.Unblocked == nil || made.Started != nil {
		t.Errorf("a new task = %+v", made)
	}
	k, err := s.Tasks.ClaimNext(t.Context(), taskstore.Wanted{WorkerID: "worker", Lease: leaseForTests})
	if err != nil || k == nil || k.ID != made.ID || k.State != taskstore.TaskRunning || k.Attempt != 1 || k.Started == nil {
		t.Fatalf("ClaimTask = %+v, %v", k, err)
	}
	c := &taskstore.Claim{TaskID: k.ID, Attempt: k.Attempt}
	if err := s.Tasks.ReportProgress(t.Context(), c, []taskstore.Progress{{Message: "m", Code: "c", State: taskstore.TaskRunning, Done: 3}}); err != nil {
		t.Fatal(err)
	}
	if err := s.Tasks.CompleteTask(t.Context(), c, taskstore.Outcome{Result: map[string]int{"n": 1}}); err != nil {
		t.Fatal(err)
	}
	k2 := wantState(t, s, k.ID, taskstore.TaskCompleted)
	if string(k2.Result) != `{"n":1}` || k2.Finished == nil || k2.WorkerID != "worker" || len(k2.Progress) != 1 || k2.CID != "cid" {
		t.Errorf("the completed task = %+v", k2)
	}
	if err := s.Tasks.CompleteTask(t.Context(), c, taskstore.Outcome{}); !errors.Is(err, taskstore.ErrFenced) {
		t.Errorf("completing it again = %v, want ErrFenced", err)
	}
	if _, _, err := s.Tasks.CancelTask(t.Context(), k.ID); !fault.Is(err, fault.Conflict) {
		t.Errorf("canceling it = %v, want Conflict (recording 16i)", err)
	}
	if err := s.Tasks.DeleteTask(t.Context(), k.ID); err != nil {
		t.Errorf("deleting it = %v", err)
	}
	if err := s.Tasks.DeleteTask(t.Context(), k.ID); !fault.Is(err, fault.NotFound) {
		t.Errorf("deleting it again = %v, want NotFound", err)
	}
}

func TestCancel(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	running, waiting, behind := storetest.StartTask(t, s, exclusive("a")...), createTask(t, s, exclusive("a")...), createTask(t, s, exclusive("a")...)
	if k, _, err := s.Tasks.CancelTask(t.Context(), waiting.ID); err != nil || k.State != taskstore.TaskCanceled || k.Started != nil {
		t.Errorf("canceling a waiting task = %+v, %v (recording 16d)", k, err)
	}
	if k, _, err := s.Tasks.CancelTask(t.Context(), waiting.ID); err != nil || k.State != taskstore.TaskCanceled {
		t.Errorf("canceling it again = %+v, %v (recording 16e)", k, err)
	}
	if k, _, err := s.Tasks.CancelTask(t.Context(), running.TaskID); err != nil || k.State != taskstore.TaskCanceling {
		t.Errorf("canceling a running task = %+v, %v", k, err)
	}
	if err := s.Tasks.DeleteTask(t.Context(), running.TaskID); !fault.Is(err, fault.Conflict) {
		t.Errorf("deleting a canceling task = %v, want Conflict", err)
	}
	if err := s.Tasks.CompleteTask(t.Context(), running, taskstore.Outcome{}); !errors.Is(err, taskstore.ErrFenced) {
		t.Errorf("completing a canceling task = %v, want ErrFenced", err)
	}
	if err := s.Tasks.EndCanceled(t.Context(), running); err != nil {
		t.Fatal(err)
	}
	wantState(t, s, running.TaskID, taskstore.TaskCanceled)
	if k := wantState(t, s, behind.ID, taskstore.TaskWaiting); k.Unblocked == nil {
		t.Error("the task behind is still blocked")
	}
}

func TestLostWorkers(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	now := time.Now()
	s.DB.SetClock(func() time.Time { return now })
	c := storetest.StartTask(t, s, exclusive("a")...)
	for loss := 1; loss <= taskstore.MaxLosses; loss++ {
		now = now.Add(leaseForTests - time.Second)
		if r, err := s.Tasks.ReclaimTasks(t.Context(), false); err != nil || r != (taskstore.Reclaimed{}) {
			t.Fatalf("a task under its lease was taken back: %+v, %v", r, err)
		}
		now = now.Add(2 * time.Second)
		r, err := s.Tasks.ReclaimTasks(t.Context(), false)
		if err != nil || r.Waiting+r.Failed != 1 {
			t.Fatalf("loss %d: %+v, %v", loss, r, err)
		}
		if err := s.Tasks.ExtendLease(t.Context(), c, leaseForTests); !errors.Is(err, taskstore.ErrFenced) {
			t.Errorf("loss %d: the lost worker's beat = %v, want ErrFenced", loss, err)
		}
		if loss < taskstore.MaxLosses {
			k, err := s.Tasks.ClaimNext(t.Context(), taskstore.Wanted{WorkerID: "another", Lease: leaseForTests})
			if err != nil || k == nil {
				t.Fatalf("loss %d: %v, %v", loss, k, err)
			}
			c = &taskstore.Claim{TaskID: k.ID, Attempt: k.Attempt}
		}
	}
	k := wantState(t, s, c.TaskID, taskstore.TaskFailed)
	if k.Error == nil || k.Error.Description != "The task lost its worker 3 times." {
		t.Errorf("error = %+v", k.Error)
	}
}

func TestReturnedTaskRunsAgain(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	c := storetest.StartTask(t, s)
	for range 2 * taskstore.MaxLosses { // being stopped is no loss
		if err := s.Tasks.ReturnTask(t.Context(), c, 0); err != nil {
			t.Fatal(err)
		}
		k, err := s.Tasks.ClaimNext(t.Context(), taskstore.Wanted{WorkerID: "worker", Lease: leaseForTests})
		if err != nil || k == nil {
			t.Fatalf("claim = %v, %v", k, err)
		}
		c.Attempt = k.Attempt
	}
}

func TestPurge(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	for i := range 3 {
		c := storetest.StartTask(t, s)
		var err error
		if i == 0 {
			err = s.Tasks.FailTask(t.Context(), c, "no")
		} else {
			err = s.Tasks.CompleteTask(t.Context(), c, taskstore.Outcome{})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	left := createTask(t, s)
	n, err := s.Tasks.PurgeTasks(t.Context(), time.Now().Add(time.Hour), []taskstore.TaskState{taskstore.TaskCompleted}, 10)
	if err != nil || n != 2 {
		t.Errorf("purged %d, %v, want 2", n, err)
	}
	wantState(t, s, left.ID, taskstore.TaskWaiting)
}

// model is what the queue of tasks promises, told as simply as it can be. A task may run when no earlier one that has not ended holds one of its
// resources, unless both share it. Of those that may, long tasks and others are two classes. In a class the owners take turns, and of one owner the namespaces do.
type model struct {
	tasks []*modelTask
}

type modelTask struct {
	id        string
	resources []taskstore.Resource
	share     taskstore.Share
	long      bool
	turn, lap int64
	state     taskstore.TaskState
	claim     *taskstore.Claim
}

// ready returns the tasks that may run, in the order of dispatch.
func (m *model) ready() (found []*modelTask) {
	for i, k := range m.tasks {
		if k.state == taskstore.TaskWaiting && !m.blocked(i) {
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
	for _, o := range m.in(taskstore.TaskRunning) {
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
func (m *model) next(long bool, except taskstore.Share) *modelTask {
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
	placed := slices.DeleteFunc(slices.Clone(before), func(k *modelTask) bool { return k.state != taskstore.TaskWaiting })
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

func (m *model) in(state taskstore.TaskState) (found []*modelTask) {
	for _, k := range m.tasks {
		if k.state == state {
			found = append(found, k)
		}
	}
	return found
}

func TestReservationsFollowTheModel(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	run := 0
	rapid.Check(t, func(r *rapid.T) {
		run++
		m := &model{}
		defer endAll(t, s, m)
		for range rapid.IntRange(1, 40).Draw(r, "steps") {
			step(t, r, s, m, run)
			got, err := s.Tasks.ReadyTasks(t.Context(), nil, 100)
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

func step(t *testing.T, r *rapid.T, s *store.Store, m *model, run int) {
	running := m.in(taskstore.TaskRunning)
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
		if err := s.Tasks.CompleteTask(t.Context(), k.claim, taskstore.Outcome{}); err != nil {
			r.Fatal(err)
		}
		k.state = taskstore.TaskCompleted
		m.freed(r, before, k.claim.Freed())
	case "cancel":
		waiting := m.in(taskstore.TaskWaiting)
		if len(waiting) == 0 {
			return
		}
		k := rapid.SampledFrom(waiting).Draw(r, "canceled")
		before := m.ready()
		_, freed, err := s.Tasks.CancelTask(t.Context(), k.id)
		if err != nil {
			r.Fatal(err)
		}
		k.state = taskstore.TaskCanceled
		m.freed(r, before, freed)
	case "lose":
		if len(running) == 0 {
			return
		}
		k := rapid.SampledFrom(running).Draw(r, "lost")
		if err := s.Tasks.ReturnTask(t.Context(), k.claim, 0); err != nil {
			r.Fatal(err)
		}
		k.state = taskstore.TaskWaiting
	}
}

func (m *model) create(t *testing.T, r *rapid.T, s *store.Store, run int) {
	var res []taskstore.Resource
	for n := range 3 {
		switch rapid.IntRange(0, 3).Draw(r, "hold") {
		case 1:
			res = append(res, shared(fmt.Sprintf("%d/%d", run, n))...)
		case 2:
			res = append(res, exclusive(fmt.Sprintf("%d/%d", run, n))...)
		}
	}
	k := &modelTask{resources: res, state: taskstore.TaskWaiting, share: drawShare(r), long: rapid.Bool().Draw(r, "long")}
	made, err := s.Tasks.CreateTask(t.Context(), taskstore.NewTask{Name: "test", Origin: taskstore.OriginSystem, Resources: res, Long: k.long, Share: k.share})
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

func drawShare(r *rapid.T) taskstore.Share {
	return taskstore.Share{rapid.SampledFrom([]string{"a", "b", "c"}).Draw(r, "owner"), rapid.SampledFrom([]string{"m", "n", "o"}).Draw(r, "namespace")}
}

func (m *model) claim(t *testing.T, r *rapid.T, s *store.Store) {
	w := taskstore.Wanted{WorkerID: "worker", Lease: leaseForTests, Long: rapid.Bool().Draw(r, "long")}
	if rapid.Bool().Draw(r, "except one") {
		w.Except = drawShare(r)
	}
	want := m.next(w.Long, w.Except)
	k, err := s.Tasks.ClaimNext(t.Context(), w)
	if err != nil || (k == nil) != (want == nil) || k != nil && (k.ID != want.id || k.State != taskstore.TaskRunning) {
		r.Fatalf("claimed %+v, %v, want %+v", k, err, want)
	}
	if want != nil {
		want.state, want.claim = taskstore.TaskRunning, &taskstore.Claim{TaskID: k.ID, Attempt: k.Attempt}
	}
}

// endAll leaves nothing behind for the next run.
func endAll(t *testing.T, s *store.Store, m *model) {
	for _, k := range m.tasks {
		if k.state.Final() {
			continue
		}
		if _, _, err := s.Tasks.CancelTask(t.Context(), k.id); err != nil {
			t.Error(err)
		}
		if k.state == taskstore.TaskRunning {
			if err := s.Tasks.EndCanceled(t.Context(), k.claim); err != nil {
				t.Error(err)
			}
		}
	}
}

// A sign task waits for a worker that can use its service; one whose service is gone is anybody's, to fail.
func TestTasksThatNeedAService(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	service, err := s.Signatures.AddSigningService(t.Context(), pulp.SigningService{Name: "svc", Class: pulp.ManifestSigningService, Kind: pulp.ServiceScript})
	if err != nil {
		t.Fatal(err)
	}
	needy, err := s.Tasks.CreateTask(t.Context(), taskstore.NewTask{Name: "needy", Origin: taskstore.OriginSystem, ServiceID: service.ID})
	if err != nil {
		t.Fatal(err)
	}
	plain := createTask(t, s)
	claim := func(services ...string) string {
		t.Helper()
		k, err := s.Tasks.ClaimNext(t.Context(), taskstore.Wanted{WorkerID: "worker", Services: append([]string{}, services...), Lease: leaseForTests})
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
	orphan, err := s.Tasks.CreateTask(t.Context(), taskstore.NewTask{Name: "orphan", Origin: taskstore.OriginSystem, ServiceID: pulp.NewID()})
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
	s := storetest.Open(t)
	target, err := s.Catalog.PushTarget(t.Context(), "acme/app", pulp.ContainerPush)
	if err != nil {
		t.Fatal(err)
	}
	href := pulp.RepositoryHref(pulp.ContainerPush, target.Repository.ID)
	migration, one, two := createTask(t, s, exclusive(href)...), createTask(t, s, exclusive(href)...), createTask(t, s, exclusive(href)...)
	claim := func(k taskstore.Task) *taskstore.Claim {
		t.Helper()
		claimed, err := s.Tasks.ClaimNext(t.Context(), taskstore.Wanted{WorkerID: "worker", Lease: leaseForTests})
		if err != nil || claimed == nil || claimed.ID != k.ID {
			t.Fatalf("claimed %+v, %v, want task %d", claimed, err, k.Seq)
		}
		return &taskstore.Claim{TaskID: claimed.ID, Attempt: claimed.Attempt}
	}
	c := claim(migration)
	if err := s.Catalog.MigrateRepository(t.Context(), c, target.Repository.ID); err != nil || !slices.Equal(c.Freed(), []string{one.ID}) {
		t.Fatalf("the migration freed %v, %v", c.Freed(), err)
	}
	three := createTask(t, s, exclusive(pulp.RepositoryHref(pulp.Container, target.Repository.ID))...)
	for _, k := range []taskstore.Task{one, two, three} {
		c := claim(k)
		if err := s.Tasks.CompleteTask(t.Context(), c, taskstore.Outcome{}); err != nil {
			t.Fatal(err)
		}
	}
}

// TestTaskWithManyResources proves that a task may reserve more resources than an expression of the database may have terms, and waits for each of them.
func TestTaskWithManyResources(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
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
