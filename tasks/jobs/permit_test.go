package jobs_test

import (
	"context"
	"database/sql"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/eventually"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/signonpush"
	"github.com/countersign/countersign/internal/signservice"
	"github.com/countersign/countersign/internal/store"
	"github.com/countersign/countersign/internal/store/catalog"
	"github.com/countersign/countersign/internal/store/content"
	"github.com/countersign/countersign/internal/store/list"
	"github.com/countersign/countersign/internal/store/sqldb"
	"github.com/countersign/countersign/internal/store/storetest"
	"github.com/countersign/countersign/internal/store/taskstore"
	"github.com/countersign/countersign/signing"
	"github.com/countersign/countersign/tasks"
	"github.com/countersign/countersign/tasks/jobs"
	"github.com/countersign/countersign/tasks/memqueue"

	_ "github.com/jackc/pgx/v5/stdlib"
	_ "modernc.org/sqlite"
)

// shop is a worker with all jobs and a real store. Tests change rows of the store by SQL, as an administrator
// of the database could.
type shop struct {
	*testing.T
	store      *store.Store
	raw        *sql.DB
	dispatcher *tasks.Dispatcher
	jobs       map[string]tasks.Job // tests may replace some
	repo       pulp.Repository      // acme/app, of type container
	push       pulp.Repository      // acme/push, created by a push
	other      pulp.Repository      // zeta/private, which acme may not view
	remotes    map[string]pulp.Remote
	user       pulp.User // acme, not an administrator
}

func newShop(t *testing.T) *shop {
	t.Helper()
	file := storetest.Database(t)
	s := storetest.OpenURL(t, file)
	driver, source := "sqlite", "file:"+strings.TrimPrefix(file, "sqlite:")+"?_pragma=busy_timeout(60000)&_pragma=foreign_keys(1)"
	if sqldb.IsPostgres(file) {
		driver, source = "pgx", file
	}
	raw, err := sql.Open(driver, source)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = raw.Close() })
	quiet, queue := slog.New(slog.DiscardHandler), &memqueue.Queue{}
	w := &shop{T: t, store: s, raw: raw, remotes: map[string]pulp.Remote{}}
	signer := &signservice.Signer{
		Store: s, SignerFor: func(pulp.SigningService) (signing.Signer, error) {
			return nil, fault.New(fault.Invalid, "The job ran.")
		},
	}
	w.jobs = jobs.All(jobs.Options{
		Store: s, Log: quiet, Host: "registry.example", Parallel: 1, Signer: signer, SignOnPush: &signonpush.Runner{Store: s, Log: quiet, Signer: signer},
	})
	worker := tasks.NewWorker(tasks.WorkerOptions{Store: s, Queue: queue, Log: quiet, Jobs: w.jobs, Name: "1@test", Lease: 300 * time.Millisecond})
	w.dispatcher = tasks.NewDispatcher(s, queue, worker, quiet)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	w.user, err = s.Accounts.PutUser(t.Context(), "acme", "", false, true)
	must(err)
	w.repo, err = s.Catalog.CreateRepository(t.Context(), pulp.Repository{Type: pulp.Container, Name: "acme/app"}, 0)
	must(err)
	target, err := s.Catalog.PushTarget(t.Context(), catalog.FirstPush{BasePath: "acme/push", Type: pulp.ContainerPush})
	must(err)
	w.push = target.Repository
	storetest.Own(t, s, "acme")
	w.other, err = s.Catalog.CreateRepository(t.Context(), pulp.Repository{Type: pulp.Container, Name: "zeta/private"}, 0)
	must(err)
	for _, name := range []string{"acme/remote", "zeta/remote"} {
		w.remotes[name], err = s.Catalog.CreateRemote(t.Context(), pulp.Remote{Name: name, URL: "http://127.0.0.1:1", UpstreamName: "x", Policy: pulp.Immediate}, 0)
		must(err)
	}
	return w
}

func (w *shop) exec(text string, args ...any) {
	w.Helper()
	if _, err := w.raw.ExecContext(w.Context(), text, args...); err != nil {
		w.Fatal(text, err)
	}
}

// taskCase is a task of a user and the loss of a permission that it needs.
type taskCase struct {
	title  string
	name   string
	args   func(w *shop) any
	staff  bool          // only administrators may start it; otherwise the user is acme, who owns the namespace acme
	lose   func(w *shop) // nil: the user is demoted, or the object is renamed out of the user's namespace
	reason string        // part of the reason after the loss
}

// rename moves an object out of the user's namespace.
func rename(table, column string) func(w *shop) {
	return func(w *shop) {
		w.exec(`UPDATE ` + table + ` SET ` + column + ` = 'zeta' || SUBSTR(` + column + `, 5) WHERE ` + column + ` LIKE 'acme/%'`)
	}
}

func text(s string) *string { return &s }

// permissionCases returns every kind of task that users may start, with each permission that it needs.
func permissionCases() []taskCase {
	onRepo := rename("repository", "name")
	d := digest.FromString("x")
	version := func(w *shop) any { return tasks.VersionArgs{RepositoryID: w.repo.ID} }
	object := func(collection string, id func(w *shop) string) func(w *shop) any {
		return func(w *shop) any { return tasks.ObjectArgs{Collection: collection, ID: id(w)} }
	}
	repository := func(w *shop) string { return w.repo.ID }
	distribution := func(w *shop) string {
		t, err := w.store.Serving.Resolve(w.Context(), "acme/push")
		if err != nil {
			w.Fatal(err)
		}
		return t.Distribution.ID
	}
	edit := func(change func(w *shop, a *tasks.EditArgs)) func(w *shop) any {
		return func(w *shop) any {
			a := tasks.EditArgs{}
			change(w, &a)
			return a
		}
	}
	fields := func(change func(w *shop, f *tasks.DistributionFields)) func(w *shop) any {
		return func(w *shop) any {
			f := tasks.DistributionFields{Name: text("acme/new"), BasePath: text("acme/new")}
			change(w, &f)
			return tasks.CreateArgs{Distribution: f}
		}
	}
	nothing := func(*shop) {}
	return append(pullThroughCases(), []taskCase{
		{title: "sign", name: tasks.Sign, args: func(w *shop) any {
			return tasks.SignArgs{RepositoryID: w.push.ID, BasePath: "acme/push", ServiceID: addService(w)}
		}, lose: onRepo, reason: "sign on repository zeta/push"},
		{title: "sign, for a path that is no longer the user's", name: tasks.Sign, args: func(w *shop) any {
			return tasks.SignArgs{RepositoryID: w.push.ID, BasePath: "zeta/push", ServiceID: addService(w)}
		}, lose: nothing, reason: "push on path zeta/push"},
		{title: "sign, for a path that is another repository's by now", name: tasks.Sign, args: func(w *shop) any {
			return tasks.SignArgs{RepositoryID: w.repo.ID, BasePath: "acme/push", ServiceID: addService(w)}
		}, lose: nothing, reason: "The path acme/push serves another repository now."},
		{title: "sign, with a service whose assignment was revoked", name: tasks.Sign, args: func(w *shop) any {
			return tasks.SignArgs{RepositoryID: w.push.ID, BasePath: "acme/push", ServiceID: addService(w)}
		}, lose: func(w *shop) { w.exec(`UPDATE repository SET signing_service_id = NULL, signing_assigned = ''`) }, reason: "is not assigned to the repository acme/push"},
		{title: "sign, as an administrator, with a service of no repository", name: tasks.Sign, args: func(w *shop) any {
			id := addService(w)
			w.exec(`UPDATE repository SET signing_service_id = NULL, signing_assigned = ''`)
			return tasks.SignArgs{RepositoryID: w.push.ID, BasePath: "acme/push", ServiceID: id}
		}, staff: true, reason: "is not assigned to the repository acme/push"},
		{title: "sync", name: tasks.Sync, args: func(w *shop) any {
			return tasks.SyncArgs{RepositoryID: w.repo.ID, RemoteID: w.remotes["acme/remote"].ID}
		}, lose: onRepo, reason: "sync on repository zeta/app"},
		{title: "sync, from a remote that the user no longer sees", name: tasks.Sync, args: func(w *shop) any {
			return tasks.SyncArgs{RepositoryID: w.repo.ID, RemoteID: w.remotes["acme/remote"].ID}
		}, lose: rename("remote", "name"), reason: "view on the remote"},
		{title: "tag", name: tasks.Tag, args: func(w *shop) any { return tasks.TagArgs{RepositoryID: w.repo.ID, Tag: "v1", Digest: d} }, lose: onRepo, reason: "modify on repository zeta/app"},
		{title: "untag", name: tasks.Untag, args: func(w *shop) any { return tasks.TagArgs{RepositoryID: w.repo.ID, Tag: "v1"} }, lose: onRepo, reason: "modify on repository zeta/app"},
		{title: "add", name: tasks.AddContent, args: func(w *shop) any { return tasks.AddArgs{RepositoryID: w.repo.ID} }, lose: onRepo, reason: "modify on repository zeta/app"},
		{title: "copy", name: tasks.AddContent, args: func(w *shop) any {
			return tasks.AddArgs{RepositoryID: w.repo.ID, Copy: &content.Copy{RepositoryID: w.push.ID, Tags: true}}
		}, lose: onRepo, reason: "modify on repository zeta/app"},
		{title: "copy, from a repository that the user no longer sees", name: tasks.AddContent, args: func(w *shop) any {
			return tasks.AddArgs{RepositoryID: w.repo.ID, Copy: &content.Copy{RepositoryID: w.other.ID, Tags: true}}
		}, lose: nothing, reason: "view on the source repository"},
		{title: "remove", name: tasks.RemoveContent, args: func(w *shop) any { return tasks.RemoveArgs{RepositoryID: w.repo.ID, All: true} }, lose: onRepo, reason: "modify on repository zeta/app"},
		{title: "remove signatures", name: tasks.RemoveSignatures, args: func(w *shop) any {
			return tasks.RemoveSignaturesArgs{RepositoryID: w.push.ID, KeyID: "0123456789ABCDEF"}
		}, lose: onRepo, reason: "modify on repository zeta/push"},
		{title: "repair", name: tasks.Repair, args: version, lose: onRepo, reason: "modify on repository zeta/app"},
		{title: "restore", name: tasks.Restore, args: version, lose: onRepo, reason: "modify on repository zeta/app"},
		{title: "delete a version", name: tasks.DeleteVersion, args: version, lose: onRepo, reason: "remove-versions on repository zeta/app"},
		{title: "migrate", name: tasks.Migrate, args: object(pulp.PushCollection, func(w *shop) string { return w.push.ID }), lose: onRepo, reason: "change on repository zeta/push"},
		{title: "create a distribution, on another's path", name: tasks.Create, args: fields(func(_ *shop, f *tasks.DistributionFields) { f.BasePath = text("zeta/new") }), lose: nothing, reason: "create on zeta/new"},
		{title: "create a distribution, with another's name", name: tasks.Create, args: fields(func(_ *shop, f *tasks.DistributionFields) { f.Name = text("zeta/new") }), lose: nothing, reason: "create on zeta/new"},
		{title: "create a distribution, of a repository", name: tasks.Create, args: fields(func(w *shop, f *tasks.DistributionFields) { f.RepositoryID = &w.repo.ID }), lose: onRepo, reason: "modify on repository zeta/app"},
		{title: "create a distribution, of a version", name: tasks.Create, args: fields(func(w *shop, f *tasks.DistributionFields) {
			f.Version = tasks.Optional[pulp.PinnedVersion]{Set: true, Value: &pulp.PinnedVersion{RepositoryID: w.repo.ID}}
		}), lose: onRepo, reason: "view on repository zeta/app"},
		{title: "edit a distribution", name: tasks.Edit, args: edit(func(w *shop, a *tasks.EditArgs) {
			a.Collection, a.ID, a.Distribution = pulp.DistributionCollection, distribution(w), &tasks.DistributionFields{}
		}), lose: rename("distribution", "base_path"), reason: "change on zeta/push"},
		{title: "edit a distribution, to another's path", name: tasks.Edit, args: edit(func(w *shop, a *tasks.EditArgs) {
			a.Collection, a.ID, a.Distribution = pulp.DistributionCollection, distribution(w), &tasks.DistributionFields{BasePath: text("zeta/new")}
		}), lose: nothing, reason: "create on zeta/new"},
		{title: "edit a remote", name: tasks.Edit, args: edit(func(w *shop, a *tasks.EditArgs) {
			a.Collection, a.ID, a.Remote = pulp.RemoteCollection, w.remotes["acme/remote"].ID, &tasks.RemoteFields{}
		}), lose: rename("remote", "name"), reason: "change on zeta/remote2"},
		{title: "edit a remote, to another's name", name: tasks.Edit, args: edit(func(w *shop, a *tasks.EditArgs) {
			a.Collection, a.ID, a.Remote = pulp.RemoteCollection, w.remotes["acme/remote"].ID, &tasks.RemoteFields{Name: text("zeta/new")}
		}), lose: nothing, reason: "create on zeta/new"},
		{title: "edit a repository", name: tasks.Edit, args: edit(func(w *shop, a *tasks.EditArgs) {
			a.Collection, a.ID, a.Repository = pulp.ContainerCollection, w.repo.ID, &tasks.RepositoryFields{}
		}), lose: onRepo, reason: "change on repository zeta/app"},
		{title: "edit a repository, to another's name", name: tasks.Edit, args: edit(func(w *shop, a *tasks.EditArgs) {
			a.Collection, a.ID, a.Repository = pulp.ContainerCollection, w.repo.ID, &tasks.RepositoryFields{Name: text("zeta/new")}
		}), lose: nothing, reason: "create on zeta/new"},
		{title: "edit a repository, to another's remote", name: tasks.Edit, args: edit(func(w *shop, a *tasks.EditArgs) {
			id := w.remotes["zeta/remote"].ID
			a.Collection, a.ID, a.Repository = pulp.ContainerCollection, w.repo.ID, &tasks.RepositoryFields{RemoteID: &id}
		}), lose: nothing, reason: "view on the remote"},
		{title: "edit a repository, assigning a signing service", name: tasks.Edit, args: edit(func(w *shop, a *tasks.EditArgs) {
			id, by := addService(w), pulp.AssignedByAdmin
			a.Collection, a.ID, a.Repository = pulp.ContainerCollection, w.repo.ID, &tasks.RepositoryFields{SigningServiceID: &id, SigningAssigned: &by}
		}), staff: true, reason: "assign-key on the signing service"},
		{title: "edit a repository, as an owner who could assign a signing service", name: tasks.Edit, args: edit(func(w *shop, a *tasks.EditArgs) {
			id, by := addService(w), pulp.AssignedByOwner
			a.Collection, a.ID, a.Repository = pulp.ContainerCollection, w.repo.ID, &tasks.RepositoryFields{SigningServiceID: &id, SigningAssigned: &by}
		}), lose: nothing, reason: "assign-key on the signing service"},
		{title: "create a distribution, with a name that is another's namespace", name: tasks.Create, args: fields(func(_ *shop, f *tasks.DistributionFields) { f.Name = text("nginx") }), lose: nothing, reason: "create on nginx"},
		{title: "delete a repository", name: tasks.Delete, args: object(pulp.ContainerCollection, repository), lose: onRepo, reason: "delete on repository zeta/app"},
		{title: "delete a remote", name: tasks.Delete, args: object(pulp.RemoteCollection, func(w *shop) string { return w.remotes["acme/remote"].ID }),
			lose: rename("remote", "name"), reason: "delete on zeta/remote2"},
		{title: "delete a namespace", name: tasks.Delete, args: object(pulp.NamespaceCollection, func(w *shop) string {
			found, _, err := w.store.Lists.Namespaces(w.Context(), list.Query{Where: []list.Filter{list.Where("name", list.Equal, "acme")}, Limit: 1})
			if err != nil || len(found) != 1 {
				w.Fatal(found, err)
			}
			return found[0].ID
		}), lose: func(w *shop) { w.exec(`DELETE FROM role_assignment`) }, reason: "delete on acme"},
		{title: "delete a distribution", name: tasks.DeleteDistribution, args: object(pulp.DistributionCollection, distribution), lose: rename("distribution", "base_path"),
			reason: "delete on distribution"},
		{title: "adopt", name: tasks.Adopt, args: func(*shop) any { return tasks.AdoptArgs{Pattern: "*"} }, staff: true, reason: "administer on the server"},
		{title: "compare", name: tasks.Compare, args: func(*shop) any { return tasks.CompareArgs{Pattern: "*"} }, staff: true, reason: "administer on the server"},
		{title: "purge", name: tasks.Purge, args: func(*shop) any { return tasks.PurgeArgs{} }, staff: true, reason: "administer on the server"},
		{title: "repair of all content", name: tasks.RepairAll, args: func(*shop) any { return tasks.RepairAllArgs{} }, staff: true, reason: "administer on the server"},
		{title: "reclaim", name: tasks.ReclaimSpace, args: func(*shop) any { return tasks.ReclaimArgs{} }, staff: true, reason: "administer on the server"},
		{title: "orphans", name: tasks.CleanOrphans, args: func(*shop) any { return tasks.OrphanArgs{} }, staff: true, reason: "administer on the server"},
		{title: "sign missing", name: tasks.SignMissing, args: func(w *shop) any { return tasks.SignMissingArgs{RepositoryID: w.repo.ID} }, lose: nothing, reason: "Only the server itself may start"},
	}...)
}

// addService creates a signing service and assigns it to every repository.
func addService(w *shop) string {
	v, err := w.store.Signatures.AddSigningService(w.Context(), pulp.SigningService{Name: pulp.NewID(), Class: pulp.ManifestSigningService, Kind: pulp.ServiceScript})
	if err != nil {
		w.Fatal(err)
	}
	w.exec(`UPDATE repository SET signing_service_id = $1, signing_assigned = 'admin'`, v.ID)
	return v.ID
}

// dispatchBehind dispatches a task of the user behind another one. It returns a function that cancels the other one and
// runs the task to its end.
func (w *shop) dispatchBehind(c taskCase) func() taskstore.Task {
	w.Helper()
	if c.staff {
		w.exec(`UPDATE account SET is_staff = TRUE`)
	}
	on := []taskstore.Resource{{Href: "/test/" + pulp.NewID() + "/", Exclusive: true}}
	before, err := w.dispatcher.Dispatch(w.Context(), tasks.BySystem(), tasks.Spec{Name: "first", Resources: on})
	if err != nil {
		w.Fatal(err)
	}
	k, err := w.dispatcher.Dispatch(w.Context(), tasks.ByUser(w.user.ID), tasks.Spec{Name: c.name, Args: c.args(w), Resources: on, Immediate: true})
	if err != nil || k.State != taskstore.TaskWaiting {
		w.Fatalf("the task is %+v, %v; want it to wait", k, err)
	}
	return func() taskstore.Task {
		w.Helper()
		if _, err := w.dispatcher.Cancel(w.Context(), before.ID); err != nil {
			w.Fatal(err)
		}
		return w.end(k.ID)
	}
}

// end runs the ready tasks of the store until the task has ended.
func (w *shop) end(id string) taskstore.Task {
	w.Helper()
	worker := tasks.NewWorker(tasks.WorkerOptions{
		Store: w.store, Queue: &memqueue.Queue{}, Log: slog.New(slog.DiscardHandler), Jobs: w.jobs, Slots: 1, Name: pulp.NewID(), Lease: 300 * time.Millisecond,
	})
	ctx, stop := context.WithCancel(w.Context())
	stopped := make(chan error, 1)
	go func() { stopped <- worker.Run(ctx, 0) }()
	defer func() {
		stop()
		if err := <-stopped; err != nil {
			w.Error(err)
		}
	}()
	var k taskstore.Task
	eventually.True(w, time.Minute, func() bool {
		var err error
		if k, err = w.store.Tasks.Task(w.Context(), id); err != nil {
			w.Fatal(err)
		}
		return k.State.Final()
	}, "task %s ends", id)
	return k
}

func (w *shop) wantRefused(k taskstore.Task, reason string) {
	w.Helper()
	if k.State != taskstore.TaskFailed || k.Error == nil || !strings.Contains(k.Error.Description, reason) {
		w.Errorf("the task is %s (%+v), want it to fail with %q", k.State, k.Error, reason)
	}
	versions, _, err := w.store.Lists.Versions(w.Context(), list.Query{Limit: 100})
	if err != nil {
		w.Fatal(err)
	}
	for _, v := range versions {
		if v.Number > 0 {
			w.Errorf("there is version %d", v.Number)
		}
	}
}

// TestTasksOfUsersWithoutPermission runs every kind of task for a user who was deleted, was disabled, or lost a
// permission after the task was queued, and for an unknown user. Each must fail with the reason. The table must
// contain every kind of task that All returns.
func TestTasksOfUsersWithoutPermission(t *testing.T) {
	t.Parallel()
	cases := permissionCases()
	covered := map[string]bool{}
	for _, c := range cases {
		covered[c.name] = true
	}
	for name := range jobs.All(jobs.Options{}) {
		if !covered[name] {
			t.Errorf("the table has no case for %s: add one with the permission that it needs", name)
		}
		if _, known := tasks.IsLong(name); !known {
			t.Errorf("%s is not classified as long or short: say so in longTasks of tasks/slot.go", name)
		}
	}
	for title, h := range map[string]struct{ happens, reason string }{
		"deleted":        {`DELETE FROM account`, "The user who started this task was deleted."},
		"disabled":       {`UPDATE account SET is_active = FALSE`, "The user who started this task is disabled."},
		"origin unknown": {`UPDATE task SET origin = '', created_by = NULL WHERE name <> 'first'`, "does not say who started it"},
	} {
		t.Run(title, func(t *testing.T) {
			t.Parallel()
			w := newShop(t)
			var err error
			for _, c := range cases {
				run := w.dispatchBehind(c)
				w.exec(h.happens)
				t.Log(c.title)
				w.wantRefused(run(), h.reason)
				w.user, err = w.store.Accounts.PutUser(t.Context(), "acme", "", false, true) // restore the user
				if err != nil {
					t.Fatal(err)
				}
				storetest.Own(t, w.store, "acme")
			}
		})
	}
	for _, c := range cases {
		t.Run("right lost, "+c.title, func(t *testing.T) {
			t.Parallel()
			w := newShop(t)
			if strings.Contains(c.reason, "remote2") { // the names of remotes are unique
				w.exec(`UPDATE remote SET name = 'acme/remote2' WHERE name = 'acme/remote'`)
			} else if strings.Contains(c.reason, "the remote") {
				w.exec(`UPDATE remote SET name = 'zeta/other' WHERE name = 'zeta/remote'`)
			}
			run := w.dispatchBehind(c)
			if c.lose == nil {
				w.exec(`UPDATE account SET is_staff = FALSE`)
			} else {
				c.lose(w)
			}
			w.wantRefused(run(), c.reason)
		})
	}
}

// TestTasksQueuedByAnOlderVersion runs tasks that a process of an older version queued after the migration of
// the schema. Their rows have a user and no origin. They run with the permissions of that user.
func TestTasksQueuedByAnOlderVersion(t *testing.T) {
	t.Parallel()
	for happens, refused := range map[string]string{
		`UPDATE account SET is_active = TRUE`:  "",
		`UPDATE account SET is_active = FALSE`: "The user who started this task is disabled.",
		`DELETE FROM account`:                  "does not say who started it",
	} {
		t.Run(happens, func(t *testing.T) {
			t.Parallel()
			w := newShop(t)
			run := w.dispatchBehind(taskCase{name: tasks.RemoveContent, args: func(w *shop) any { return tasks.RemoveArgs{RepositoryID: w.repo.ID, All: true} }})
			w.exec(`UPDATE task SET origin = '' WHERE name <> 'first'`)
			w.exec(happens)
			if k := run(); refused != "" {
				w.wantRefused(k, refused)
			} else if k.State != taskstore.TaskCompleted {
				t.Errorf("the task is %s (%+v)", k.State, k.Error)
			}
		})
	}
}

// TestTasksOfUsersWithPermission checks the table itself: with the permission no task fails with the reason.
func TestTasksOfUsersWithPermission(t *testing.T) {
	t.Parallel()
	for _, c := range permissionCases() {
		t.Run(c.title, func(t *testing.T) {
			t.Parallel()
			w := newShop(t)
			c.staff = true // administrators may start all tasks of users
			run := w.dispatchBehind(c)
			k := run()
			if k.Error != nil && strings.Contains(k.Error.Description, "The user who") {
				t.Errorf("the task of an administrator is %s (%+v)", k.State, k.Error)
			}
		})
	}
}

// TestUserIsDisabledWhileATaskRuns disables, deletes or demotes the user of a running task. The task must stop,
// and its results must not be stored.
func TestUserIsDisabledWhileATaskRuns(t *testing.T) {
	t.Parallel()
	for title, c := range map[string]struct {
		happens, reason string
		deaf            bool // the job ignores the end of its context and completes the task
	}{
		"disabled":                    {`UPDATE account SET is_active = FALSE`, "is disabled", false},
		"deleted":                     {`DELETE FROM account`, "was deleted", false},
		"demoted":                     {`UPDATE account SET is_staff = FALSE`, "no longer has the permission modify on repository zeta/private", false},
		"disabled, before the commit": {`UPDATE account SET is_active = FALSE`, "is disabled", true},
		"deleted, before the commit":  {`DELETE FROM account`, "was deleted", true},
		"demoted, before the commit":  {`UPDATE account SET is_staff = FALSE`, "ceased to be an administrator", true},
	} {
		t.Run(title, func(t *testing.T) {
			t.Parallel()
			w := newShop(t)
			w.exec(`UPDATE account SET is_staff = TRUE`)
			job := w.jobs[tasks.RemoveContent]
			job.Run = func(ctx context.Context, r *tasks.Run) error {
				w.exec(c.happens)
				if !c.deaf {
					<-ctx.Done()
					return context.Cause(ctx)
				}
				_, err := w.store.Catalog.CreateDistribution(context.WithoutCancel(ctx), r.Claim, pulp.Distribution{Name: "made", BasePath: "zeta/made"}, 0)
				return err
			}
			w.jobs[tasks.RemoveContent] = job
			k, err := w.dispatcher.Dispatch(t.Context(), tasks.ByUser(w.user.ID), tasks.Spec{
				Name: tasks.RemoveContent, Args: tasks.RemoveArgs{RepositoryID: w.other.ID, All: true}, Immediate: true,
			})
			if err != nil {
				t.Fatal(err)
			}
			w.wantRefused(k, c.reason)
			if _, err := w.store.Serving.Resolve(t.Context(), "zeta/made"); !fault.Is(err, fault.NotFound) {
				t.Errorf("a result of the task is stored: %v", err)
			}
		})
	}
}
