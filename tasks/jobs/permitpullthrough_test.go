package jobs_test

import (
	"github.com/countersign/countersign/internal/access"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/storetest"
	"github.com/countersign/countersign/tasks"
)

// addCache returns the pull-through distribution acme/hub and its remote, which the user owns. The first call creates them.
func addCache(w *shop) (pulp.Remote, pulp.Distribution) {
	w.Helper()
	if d, err := w.store.Catalog.PullThroughAbove(w.Context(), "acme/hub"); err == nil {
		r, err := w.store.Catalog.PullThroughRemote(w.Context(), d.RemoteID)
		if err != nil {
			w.Fatal(err)
		}
		return r, d
	}
	r, err := w.store.Catalog.CreatePullThroughRemote(w.Context(), pulp.Remote{Name: "hub", URL: "http://127.0.0.1:1"}, w.user.ID)
	if err != nil {
		w.Fatal(err)
	}
	d, err := w.store.Catalog.CreatePullThrough(w.Context(), nil, pulp.Distribution{Name: "acme/hub", BasePath: "acme/hub", RemoteID: r.ID}, 0)
	if err != nil {
		w.Fatal(err)
	}
	return r, d
}

// pullThroughCases returns the tasks on pull-through caches, as permissionCases does.
func pullThroughCases() []taskCase {
	moved := rename("pull_through_distribution", "base_path")
	noRole := func(w *shop) { w.exec(`DELETE FROM role_assignment WHERE object LIKE 'pull_through_remote:%'`) }
	nothing := func(*shop) {}
	create := func(path string) func(w *shop) any {
		return func(w *shop) any {
			r, _ := addCache(w)
			return tasks.NewPullThrough(tasks.DistributionFields{Name: text("new"), BasePath: text(path), RemoteID: &r.ID})
		}
	}
	edit := func(f tasks.DistributionFields) func(w *shop) any {
		return func(w *shop) any {
			_, d := addCache(w)
			return tasks.EditArgs{Collection: pulp.PullThroughCollection, ID: d.ID, Distribution: &f}
		}
	}
	editRemote := func(f tasks.RemoteFields) func(w *shop) any {
		return func(w *shop) any {
			r, _ := addCache(w)
			return tasks.EditArgs{Collection: pulp.PullThroughRemoteCollection, ID: r.ID, Remote: &f}
		}
	}
	return []taskCase{
		{title: "create a pull-through distribution, on another's path", name: tasks.Create, args: create("zeta/new"), lose: nothing, reason: "create on zeta/new"},
		{title: "create a pull-through distribution, of another's remote", name: tasks.Create, args: create("acme/new"), lose: noRole, reason: "view on the remote"},
		{title: "edit a pull-through distribution", name: tasks.Edit, args: edit(tasks.DistributionFields{}), lose: moved, reason: "change on zeta/hub"},
		{title: "edit a pull-through distribution, to another's path", name: tasks.Edit, args: edit(tasks.DistributionFields{BasePath: text("zeta/new")}), lose: nothing, reason: "create on zeta/new"},
		{title: "edit a pull-through distribution, to another's remote", name: tasks.Edit, args: func(w *shop) any {
			_, d := addCache(w)
			other, err := w.store.Catalog.CreatePullThroughRemote(w.Context(), pulp.Remote{Name: pulp.NewID(), URL: "http://127.0.0.1:1"}, 0)
			if err != nil {
				w.Fatal(err)
			}
			return tasks.EditArgs{Collection: pulp.PullThroughCollection, ID: d.ID, Distribution: &tasks.DistributionFields{RemoteID: &other.ID}}
		}, lose: nothing, reason: "view on the remote"},
		{title: "edit a pull-through remote", name: tasks.Edit, args: editRemote(tasks.RemoteFields{}), lose: noRole, reason: "change on hub"},
		{title: "edit a pull-through remote, to a new name", name: tasks.Edit, args: editRemote(tasks.RemoteFields{Name: text("x")}), lose: nothing, reason: "create on x"},
		{title: "delete a pull-through remote", name: tasks.Delete, args: func(w *shop) any {
			r, _ := addCache(w)
			return tasks.ObjectArgs{Collection: pulp.PullThroughRemoteCollection, ID: r.ID}
		}, lose: noRole, reason: "delete on hub"},
		{title: "delete a pull-through distribution", name: tasks.DeleteDistribution, args: func(w *shop) any {
			_, d := addCache(w)
			return tasks.ObjectArgs{Collection: pulp.PullThroughCollection, ID: d.ID}
		}, lose: moved, reason: "delete on distribution"},
		{title: "change a cached repository, as the owner of the cache", name: tasks.Untag, args: func(w *shop) any {
			_, d := addCache(w)
			target, err := w.store.Catalog.CacheTarget(w.Context(), d.ID, "acme/hub/x", "x")
			if err != nil {
				w.Fatal(err)
			}
			w.exec(`DELETE FROM role_assignment WHERE object LIKE 'namespace:%'`)
			storetest.Grant(w.T, w.store, w.user.ID, access.PullThroughOwner, access.Key(access.PullThrough, d.ID))
			return tasks.TagArgs{RepositoryID: target.Repository.ID, Tag: "v1"}
		}, lose: func(w *shop) { w.exec(`DELETE FROM role_assignment`) }, reason: "modify on repository acme/hub/x"},
	}
}
