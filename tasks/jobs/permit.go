package jobs

import (
	"cmp"
	"context"
	"fmt"

	"github.com/countersign/countersign/internal/access"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/list"
	"github.com/countersign/countersign/tasks"
)

// The permissions of tasks. Each function requires, of the user and of the objects in their present state, the
// permissions that the REST endpoint requires when it dispatches the task. All assigns one of these functions
// to each kind of task; TestTasksOfUsersWithoutPermission must include every kind.

// permitted returns a job with a function that runs it and a function that checks its user's permissions. Both
// receive the task's arguments.
func permitted[T any](run func(context.Context, *tasks.Run, T) error, permit func(context.Context, pulp.User, T) error) tasks.Job {
	return tasks.Job{
		Run: with(run),
		Permit: func(ctx context.Context, r *tasks.Run, u pulp.User) error {
			var args T
			if err := r.Decode(&args); err != nil {
				return err
			}
			return permit(ctx, u, args)
		},
	}
}

// require returns a Denied error unless a user may perform all of some actions on an object. id is the object's; empty if it
// does not exist. description is the object's in the error.
func (o Options) require(
	ctx context.Context, u pulp.User, on access.Object, id, description string, actions ...access.Action,
) error {
	caller := &access.Caller{Account: u}
	on, err := o.Access.Load(ctx, caller, on, id)
	if err != nil {
		return err
	}
	for _, action := range actions {
		if !access.Allow(caller, action, on) {
			return denied(action, description)
		}
	}
	return nil
}

func denied(action access.Action, description string) error {
	return fault.New(fault.Denied, "The user who started this task no longer has the permission %s on %s.", action, description)
}

// administrator returns the function that requires that the user is an administrator.
func administrator[T any](o Options) func(context.Context, pulp.User, T) error {
	return func(ctx context.Context, u pulp.User, _ T) error {
		return o.require(ctx, u, access.OfServer(), "", "the server", access.Administer)
	}
}

// mayCreatePath requires that the user may create a distribution of a kind with a name or base path.
func (o Options) mayCreatePath(ctx context.Context, u pulp.User, kind access.Kind, path string) error {
	caller := &access.Caller{Account: u}
	on, err := o.Access.Load(ctx, caller, access.Object{Kind: kind, Name: path}, "")
	if err == nil && !access.MayCreatePath(caller, on) {
		err = denied(access.Create, path)
	}
	return err
}

var errObjectDeleted = fault.New(fault.NotFound, "An object that this task needs was deleted.")

// needed returns an object that a task needs. If it was deleted the error says so.
func needed[T any](object T, err error) (T, error) {
	if fault.Is(err, fault.NotFound) {
		err = errObjectDeleted
	}
	return object, err
}

// first returns the object with an id among those that a query returns. The error is NotFound if there is none.
func first[T any](ctx context.Context, read func(context.Context, list.Query) ([]T, int64, error), id string, where ...list.Filter) (object T, err error) {
	found, _, err := read(ctx, list.Query{Where: append(where, list.Where("pulp_id", list.Equal, id)), Limit: 1})
	switch {
	case err != nil:
		return object, err
	case len(found) == 0:
		return object, errObjectDeleted
	}
	return found[0], nil
}

// sees requires that the user sees an object in lists. It returns the object.
func sees[T any](
	ctx context.Context, o Options, read func(context.Context, list.Query) ([]T, int64, error), u pulp.User, id, description string,
) (T, error) {
	object, err := first(ctx, read, id)
	if err != nil {
		return object, err
	}
	viewer, err := o.Access.Viewer(ctx, &access.Caller{Account: u})
	if err != nil || viewer == nil {
		return object, err
	}
	if object, err = first(ctx, read, id, list.VisibleTo(viewer)); fault.Is(err, fault.NotFound) {
		err = denied(access.View, description)
	}
	return object, err
}

// onRepository requires permissions on a repository of any type, and the one to view it. It returns the repository.
func (o Options) onRepository(
	ctx context.Context, u pulp.User, id string, actions ...access.Action,
) (pulp.Repository, error) {
	repo, err := needed(o.Store.Catalog.RepositoryByID(ctx, id))
	if err != nil {
		return repo, err
	}
	actions = append(actions, access.View)
	return repo, o.require(ctx, u, access.OfRepository(repo), id, "repository "+repo.Name, actions...)
}

// may requires a permission on the repository of a task. id returns its id from the task's arguments.
func may[T any](o Options, action access.Action, id func(T) string) func(context.Context, pulp.User, T) error {
	return func(ctx context.Context, u pulp.User, args T) error {
		_, err := o.onRepository(ctx, u, id(args), action)
		return err
	}
}

func (o Options) maySign(ctx context.Context, u pulp.User, args tasks.SignArgs) error {
	repo, err := o.onRepository(ctx, u, args.RepositoryID, access.Sign)
	if err != nil {
		return err
	}
	if err := o.mayUse(ctx, u, repo, args.ServiceID); err != nil {
		return err
	}
	holder, err := o.Store.Serving.Resolve(ctx, args.BasePath)
	absent := fault.Is(err, fault.NotFound)
	if err != nil && !absent {
		return err
	}
	caller := &access.Caller{Account: u}
	on, err := o.Access.LoadPath(ctx, caller, access.Object{Kind: access.Distribution, Name: args.BasePath})
	switch {
	case err != nil:
		return err
	case !absent && holder.Repository.ID == repo.ID && holder.Distribution.Pinned == nil:
		return nil // the permission on the repository suffices for the paths that serve it
	case !access.Allow(caller, access.Sign, on) && !(absent && access.MayCreatePath(caller, on)):
		return denied(access.Push, "path "+args.BasePath)
	case !absent && holder.Repository.ID != args.RepositoryID:
		return fault.New(fault.Denied, "The path %s serves another repository now.", args.BasePath)
	}
	return nil
}

// mayUse requires that the user may sign with a service, or that the service is assigned to the repository.
func (o Options) mayUse(ctx context.Context, u pulp.User, repo pulp.Repository, serviceID string) error {
	service, err := o.Store.Signatures.SigningService(ctx, serviceID)
	if fault.Is(err, fault.NotFound) { // the job reports this error
		return nil
	} else if err != nil {
		return err
	}
	ok, err := o.Access.SignsWith(ctx, &access.Caller{Account: u}, o.SigningUse, repo, service)
	if err == nil && !ok {
		err = o.assigned(repo, service)
	}
	return err
}

// assigned requires that a repository may use a signing service, for any user.
func (o Options) assigned(repo pulp.Repository, service pulp.SigningService) error {
	if o.SigningUse.Allows(repo, service) {
		return nil
	}
	return fault.New(fault.Denied, "The signing service %s is not assigned to the repository %s.", service.Name, repo.Name)
}

func (o Options) maySync(ctx context.Context, u pulp.User, args tasks.SyncArgs) error {
	repo, err := o.onRepository(ctx, u, args.RepositoryID, access.Sync)
	if err != nil || args.RemoteID == repo.RemoteID { // setting the repository's remote required the permission to view it
		return err
	}
	err = o.viewsRemote(ctx, u, args.RemoteID)
	if fault.Is(err, fault.NotFound) {
		return fault.New(fault.NotFound, "The remote was removed before the task ran.")
	}
	return err
}

// viewsRemote requires the permission to view a remote.
func (o Options) viewsRemote(ctx context.Context, u pulp.User, id string) error {
	remote, err := needed(o.Store.Catalog.Remote(ctx, id))
	if err != nil {
		return err
	}
	return o.require(ctx, u, access.OfRemote(remote), id, "the remote", access.View)
}

// mayAdd does not check single units: the store only adds those that the user may read (see addContent).
func (o Options) mayAdd(ctx context.Context, u pulp.User, args tasks.AddArgs) error {
	_, err := o.onRepository(ctx, u, args.RepositoryID, access.Modify)
	if err == nil && args.Copy != nil && args.Copy.RepositoryID != args.RepositoryID {
		_, err = sees(ctx, o, o.Store.Lists.Repositories, u, args.Copy.RepositoryID, "the source repository")
	}
	return err
}

func (o Options) mayCreate(ctx context.Context, u pulp.User, args tasks.CreateArgs) error {
	if args.PullThrough != nil {
		return o.mayPullThrough(ctx, u, pulp.Distribution{}, *args.PullThrough)
	}
	return o.mayServe(ctx, u, pulp.Distribution{}, args.Distribution)
}

func (o Options) mayEdit(ctx context.Context, u pulp.User, args tasks.EditArgs) error {
	switch {
	case args.Remote != nil:
		return o.mayEditRemote(ctx, u, args.Collection, args.ID, *args.Remote)
	case args.Collection == pulp.PullThroughCollection && args.Distribution != nil:
		d, err := needed(o.Store.Catalog.PullThrough(ctx, args.ID))
		if err == nil {
			err = o.require(ctx, u, access.OfDistribution(d), d.ID, d.BasePath, access.Change, access.View)
		}
		if err == nil {
			err = o.mayPullThrough(ctx, u, d, *args.Distribution)
		}
		return err
	case args.Distribution != nil:
		d, err := needed(o.Store.Catalog.Distribution(ctx, args.ID))
		if err == nil {
			err = o.require(ctx, u, access.OfDistribution(d), d.ID, d.BasePath, access.Change, access.View)
		}
		if err == nil {
			err = o.mayServe(ctx, u, d, *args.Distribution)
		}
		return err
	case args.Repository != nil:
		return o.mayEditRepository(ctx, u, args.ID, *args.Repository)
	}
	return fmt.Errorf("an edit of no object: %+v", args)
}

func (o Options) mayEditRemote(ctx context.Context, u pulp.User, collection, id string, f tasks.RemoteFields) error {
	remote, err := o.remoteOf(ctx, collection, id)
	if err == nil {
		err = o.require(ctx, u, access.OfRemote(remote), id, remote.Name, access.Change, access.View)
	}
	if err == nil && f.Name != nil && *f.Name != remote.Name {
		renamed := access.OfRemote(pulp.Remote{Name: *f.Name, PullThrough: remote.PullThrough})
		err = o.require(ctx, u, renamed, "", *f.Name, access.Create)
	}
	return err
}

// remoteOf returns the remote of a collection that a task needs.
func (o Options) remoteOf(ctx context.Context, collection, id string) (pulp.Remote, error) {
	if collection == pulp.PullThroughRemoteCollection {
		return needed(o.Store.Catalog.PullThroughRemote(ctx, id))
	}
	return needed(o.Store.Catalog.Remote(ctx, id))
}

// mayPullThrough requires the permissions for new values of a pull-through distribution's fields: the user may create one with
// the path, and may view the remote.
func (o Options) mayPullThrough(ctx context.Context, u pulp.User, old pulp.Distribution, f tasks.DistributionFields) error {
	if f.BasePath != nil && *f.BasePath != old.BasePath {
		if err := o.mayCreatePath(ctx, u, access.PullThrough, *f.BasePath); err != nil {
			return err
		}
	}
	if f.RemoteID == nil || *f.RemoteID == old.RemoteID {
		return nil
	}
	remote, err := o.remoteOf(ctx, pulp.PullThroughRemoteCollection, *f.RemoteID)
	if err == nil {
		err = o.require(ctx, u, access.OfRemote(remote), remote.ID, "the remote", access.View)
	}
	return err
}

func (o Options) mayEditRepository(ctx context.Context, u pulp.User, id string, f tasks.RepositoryFields) error {
	repo, err := o.onRepository(ctx, u, id, access.Change)
	if err == nil && f.Name != nil && *f.Name != repo.Name {
		renamed := repo
		renamed.Name = *f.Name
		err = o.require(ctx, u, access.OfRepository(renamed), "", *f.Name, access.Create)
	}
	if err == nil && f.RemoteID != nil && *f.RemoteID != "" && *f.RemoteID != repo.RemoteID {
		err = o.viewsRemote(ctx, u, *f.RemoteID)
	}
	byAdmin := f.SigningAssigned != nil && *f.SigningAssigned == pulp.AssignedByAdmin
	if err == nil && f.SigningServiceID != nil && (byAdmin || !o.SigningUse.ByOwners) {
		err = o.mayAssign(ctx, u, cmp.Or(*f.SigningServiceID, repo.SigningServiceID))
	}
	return err
}

// mayAssign requires the permission to make a signing service that of a repository, or to remove it.
func (o Options) mayAssign(ctx context.Context, u pulp.User, id string) error {
	if id == "" {
		return nil
	}
	service, err := needed(o.Store.Signatures.SigningService(ctx, id))
	if err != nil {
		return err
	}
	return o.require(ctx, u, access.OfService(service), id, "the signing service "+service.Name, access.AssignKey)
}

// mayServe requires the permissions for new values of a distribution's fields: the user may create distributions with the
// name and the path, may change the content of the repository, and may view the repository of the version.
func (o Options) mayServe(ctx context.Context, u pulp.User, old pulp.Distribution, f tasks.DistributionFields) error {
	if f.BasePath != nil && *f.BasePath != old.BasePath {
		if err := o.mayCreatePath(ctx, u, access.Distribution, *f.BasePath); err != nil {
			return err
		}
	}
	if f.Name != nil && *f.Name != old.Name && pulp.ValidName(*f.Name) {
		if err := o.mayCreatePath(ctx, u, access.Distribution, *f.Name); err != nil {
			return err
		}
	}
	if f.RepositoryID != nil && *f.RepositoryID != "" && *f.RepositoryID != old.RepositoryID {
		if _, err := o.onRepository(ctx, u, *f.RepositoryID, access.Modify); err != nil {
			return err
		}
	}
	if f.Version.Value != nil {
		if _, err := o.onRepository(ctx, u, f.Version.Value.RepositoryID); err != nil {
			return err
		}
	}
	return nil
}

func (o Options) mayDelete(ctx context.Context, u pulp.User, args tasks.ObjectArgs) error {
	switch args.Collection {
	case pulp.DistributionCollection:
		d, err := needed(o.Store.Catalog.Distribution(ctx, args.ID))
		if err != nil {
			return err
		}
		return o.require(ctx, u, access.OfDistribution(d), d.ID, "distribution "+d.Name, access.Delete)
	case pulp.PullThroughCollection:
		d, err := needed(o.Store.Catalog.PullThrough(ctx, args.ID))
		if err != nil {
			return err
		}
		return o.require(ctx, u, access.OfDistribution(d), d.ID, "distribution "+d.Name, access.Delete)
	case pulp.RemoteCollection, pulp.PullThroughRemoteCollection:
		remote, err := o.remoteOf(ctx, args.Collection, args.ID)
		if err != nil {
			return err
		}
		return o.require(ctx, u, access.OfRemote(remote), remote.ID, remote.Name, access.Delete)
	case pulp.NamespaceCollection:
		n, err := first(ctx, o.Store.Lists.Namespaces, args.ID)
		if err != nil {
			return err
		}
		return o.require(ctx, u, access.OfNamespace(n, false), n.ID, n.Name, access.Delete)
	}
	_, err := o.onRepository(ctx, u, args.ID, access.Delete)
	return err
}
