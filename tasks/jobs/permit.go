package jobs

import (
	"context"
	"fmt"

	"github.com/countersign/countersign/internal/access"
	"github.com/countersign/countersign/internal/auth"
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

// require returns a Denied error unless a user may perform an action on an object. description is the object's
// in the error.
func require(u pulp.User, action auth.Action, on auth.Object, description string) error {
	if auth.Allow(&u, action, on) {
		return nil
	}
	return fault.New(fault.Denied, "The user who started this task no longer has the permission %s on %s.", action, description)
}

// administrator requires that the user is an administrator.
func administrator[T any](_ context.Context, u pulp.User, _ T) error {
	return require(u, auth.Administer, auth.Object{Exists: true}, "the server")
}

// own requires that the user may create or change objects with this name or path.
func own(u pulp.User, name string) error {
	return require(u, auth.Modify, auth.Object{Path: name}, name)
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
		err = fault.New(fault.Denied, "The user who started this task no longer has the permission %s on %s.", access.View, description)
	}
	return object, err
}

// onRepository requires a permission on a repository of any type. It returns the repository.
func (o Options) onRepository(ctx context.Context, u pulp.User, action auth.Action, id string) (pulp.Repository, error) {
	repo, err := needed(o.Store.Catalog.RepositoryByID(ctx, id))
	if err != nil {
		return repo, err
	}
	return repo, require(u, action, auth.Object{Path: repo.Name, Exists: true}, "repository "+repo.Name)
}

// may requires a permission on the repository of a task. id returns its id from the task's arguments.
func may[T any](o Options, action auth.Action, id func(T) string) func(context.Context, pulp.User, T) error {
	return func(ctx context.Context, u pulp.User, args T) error {
		_, err := o.onRepository(ctx, u, action, id(args))
		return err
	}
}

func (o Options) maySign(ctx context.Context, u pulp.User, args tasks.SignArgs) error {
	repo, err := o.onRepository(ctx, u, auth.Sign, args.RepositoryID)
	if err != nil {
		return err
	}
	service, err := o.Store.Signatures.SigningService(ctx, args.ServiceID)
	switch {
	case fault.Is(err, fault.NotFound): // the job reports this error
	case err != nil:
		return err
	case !auth.Allow(&u, auth.Administer, auth.Object{Exists: true}):
		if err := o.assigned(repo, service); err != nil {
			return err
		}
	}
	if err := require(u, auth.Push, auth.Object{Path: args.BasePath, Exists: true}, "path "+args.BasePath); err != nil {
		return err
	}
	holder, err := o.Store.Serving.Resolve(ctx, args.BasePath)
	switch {
	case fault.Is(err, fault.NotFound): // the path serves nothing yet
		return nil
	case err == nil && holder.Repository.ID != args.RepositoryID:
		return fault.New(fault.Denied, "The path %s serves another repository now.", args.BasePath)
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
	repo, err := o.onRepository(ctx, u, auth.Modify, args.RepositoryID)
	if err != nil || args.RemoteID == repo.RemoteID { // setting the repository's remote required the permission to view it
		return err
	}
	_, err = sees(ctx, o, o.Store.Lists.Remotes, u, args.RemoteID, "the remote")
	if fault.Is(err, fault.NotFound) {
		return fault.New(fault.NotFound, "The remote was removed before the task ran.")
	}
	return err
}

// mayAdd does not check single units: the store only adds those that the user may read (see addContent).
func (o Options) mayAdd(ctx context.Context, u pulp.User, args tasks.AddArgs) error {
	_, err := o.onRepository(ctx, u, auth.Modify, args.RepositoryID)
	if err == nil && args.Copy != nil && args.Copy.RepositoryID != args.RepositoryID {
		_, err = sees(ctx, o, o.Store.Lists.Repositories, u, args.Copy.RepositoryID, "the source repository")
	}
	return err
}

func (o Options) mayCreate(ctx context.Context, u pulp.User, args tasks.CreateArgs) error {
	return o.mayServe(ctx, u, pulp.Distribution{}, args.Distribution)
}

func (o Options) mayEdit(ctx context.Context, u pulp.User, args tasks.EditArgs) error {
	switch {
	case args.Remote != nil:
		remote, err := needed(o.Store.Catalog.Remote(ctx, args.ID))
		if err == nil {
			err = own(u, remote.Name)
		}
		if err == nil && args.Remote.Name != nil {
			err = own(u, *args.Remote.Name)
		}
		return err
	case args.Distribution != nil:
		d, err := needed(o.Store.Catalog.Distribution(ctx, args.ID))
		if err == nil {
			err = own(u, d.BasePath)
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

func (o Options) mayEditRepository(ctx context.Context, u pulp.User, id string, f tasks.RepositoryFields) error {
	repo, err := o.onRepository(ctx, u, auth.Modify, id)
	if err == nil && f.Name != nil && *f.Name != repo.Name {
		err = own(u, *f.Name)
	}
	if err == nil && f.RemoteID != nil && *f.RemoteID != "" && *f.RemoteID != repo.RemoteID {
		_, err = sees(ctx, o, o.Store.Lists.Remotes, u, *f.RemoteID, "the remote")
	}
	byAdmin := f.SigningAssigned != nil && *f.SigningAssigned == pulp.AssignedByAdmin
	if err == nil && f.SigningServiceID != nil && (byAdmin || !o.SigningUse.ByOwners) {
		err = require(u, auth.Administer, auth.Object{Exists: true}, "the server, which assigning a signing service needs")
	}
	return err
}

// mayServe requires the permissions for new values of a distribution's fields: the user owns the name and the
// path, may change the repository, and may view the repository of the version.
func (o Options) mayServe(ctx context.Context, u pulp.User, old pulp.Distribution, f tasks.DistributionFields) error {
	if f.BasePath != nil {
		if err := own(u, *f.BasePath); err != nil {
			return err
		}
	}
	if f.Name != nil && *f.Name != old.Name && pulp.ValidName(*f.Name) {
		if err := own(u, *f.Name); err != nil {
			return err
		}
	}
	if f.RepositoryID != nil && *f.RepositoryID != "" && *f.RepositoryID != old.RepositoryID {
		if _, err := o.onRepository(ctx, u, auth.Modify, *f.RepositoryID); err != nil {
			return err
		}
	}
	if f.Version.Value != nil {
		if _, err := sees(ctx, o, o.Store.Lists.Repositories, u, f.Version.Value.RepositoryID, "the repository of the version"); err != nil {
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
		return require(u, auth.Delete, auth.Object{Path: d.BasePath, Private: d.Private, Exists: true}, "distribution "+d.Name)
	case pulp.RemoteCollection:
		remote, err := needed(o.Store.Catalog.Remote(ctx, args.ID))
		if err != nil {
			return err
		}
		return own(u, remote.Name)
	case pulp.NamespaceCollection:
		n, err := first(ctx, o.Store.Lists.Namespaces, args.ID)
		if err != nil {
			return err
		}
		return own(u, n.Name)
	}
	_, err := o.onRepository(ctx, u, auth.Delete, args.ID)
	return err
}
