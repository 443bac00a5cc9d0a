package taskstore_test

import (
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/countersign/countersign/internal/store"
	"github.com/countersign/countersign/internal/store/storetest"
	"github.com/countersign/countersign/internal/store/taskstore"
)

// model is a simple implementation of the queue of tasks. A task is ready if no earlier task that has not ended
// reserves one of its resources, unless both share the resource. Long and short tasks are two classes of ready tasks.
// In a class the owners take turns, and within an owner its namespaces do.
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

// ready returns the ready tasks in the order of dispatch.
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

// place sets the turn and lap of a task that has become ready: its turn is the current one of its class, or the one
// after its owner's latest. The lap is the same among the owner's tasks.
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

// next returns the task that a claim returns, and exchanges its turn and that of its owner's first task.
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

// freed verifies that the ids of freed tasks are those of the tasks that are ready now and were not before, and
// places these tasks.
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
	made, err := s.Tasks.CreateTask(
		t.Context(),
		taskstore.NewTask{Name: "test", Origin: taskstore.OriginSystem, Resources: res, Long: k.long, Share: k.share},
	)
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
	return taskstore.Share{
		Owner:     rapid.SampledFrom([]string{"a", "b", "c"}).Draw(r, "owner"),
		Namespace: rapid.SampledFrom([]string{"m", "n", "o"}).Draw(r, "namespace"),
	}
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

// endAll ends all tasks of a run, so that the next run begins without tasks.
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
