package tasks

import (
	"context"
	"log/slog"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/taskstore"
)

// Origin identifies the starter of a task. Dispatch rejects the zero Origin, so that no caller can omit it.
type Origin struct {
	Kind taskstore.Origin
	User int64 // the id of the account, for taskstore.OriginUser
}

// ByUser returns the origin of tasks that the account with this id starts. Such a task runs with the
// permissions that the account has while the task runs.
func ByUser(id int64) Origin { return Origin{taskstore.OriginUser, id} }

// ByCommand returns the origin of tasks that the command line starts. They run with all permissions.
func ByCommand() Origin { return Origin{Kind: taskstore.OriginCommand} }

// BySystem returns the origin of tasks that the server starts itself. They run with all permissions.
func BySystem() Origin { return Origin{Kind: taskstore.OriginSystem} }

// Reasons for which a task is not run, or does not continue, on behalf of its user.
var (
	errUnknownOrigin = fault.New(fault.Denied,
		"The record of this task does not say who started it, because an older version queued it. Start it again.")
	errUserDeleted  = fault.New(fault.Denied, "The user who started this task was deleted.")
	errUserDisabled = fault.New(fault.Denied, "The user who started this task is disabled.")
	errUserDemoted  = fault.New(fault.Denied,
		"The user who started this task ceased to be an administrator while it ran. Start it again.")
	errNotForUsers = fault.New(fault.Denied, "Only the server itself may start a task of this kind.")
)

// permit reports whether the task may start or continue. It reads the task's user again, keeps it for Run.User,
// and calls the job's Permit. The error is Denied if the user was deleted, was disabled or lacks a permission.
func (w *Worker) permit(ctx context.Context, r *Run) error {
	switch r.Task.Origin {
	case taskstore.OriginCommand, taskstore.OriginSystem:
		r.user.Store(&pulp.User{Staff: true, Active: true})
		return nil
	case taskstore.OriginUser, taskstore.OriginUnknown:
	default:
		return errUnknownOrigin
	}
	t, err := w.store.Tasks.Task(ctx, r.Task.ID) // read again, because deleting an account removes it from its tasks
	switch {
	case err != nil:
		return err
	case t.Origin == taskstore.OriginUnknown && t.CreatedBy == 0:
		return errUnknownOrigin
	}
	u, err := w.store.Accounts.User(ctx, t.CreatedBy)
	if err == nil {
		u, err = w.confirm(ctx, u)
	}
	switch {
	case fault.Is(err, fault.NotFound):
		return errUserDeleted
	case fault.IsOutage(err, fault.Directory):
		return RetryLater(err)
	case err != nil:
		return err
	case !u.Active:
		return errUserDisabled
	case r.job.Permit == nil:
		return errNotForUsers
	}
	r.user.Store(&u) // before the job's Permit, which may call Run.User
	return r.job.Permit(ctx, r, u)
}

// Permit checks the permissions of the task's user again. A job calls it before it stores results that took
// long to compute; the worker calls it before the job runs and at each heartbeat.
func (r *Run) Permit(ctx context.Context) error { return r.permit(ctx) }

// User returns the user whose permissions limit the task, as read by the latest check. For tasks of the command
// line and of the server it is an administrator without a name.
func (r *Run) User() pulp.User {
	if u := r.user.Load(); u != nil {
		return *u
	}
	return pulp.User{} // without any permission
}

// stillPermitted compares the user that the completing transaction read (nil: deleted) with the one of the
// latest check.
func (r *Run) stillPermitted(u *pulp.User) error {
	switch {
	case u == nil:
		return errUserDeleted
	case !u.Active:
		return errUserDisabled
	case r.User().Staff && !u.Staff:
		return errUserDemoted
	}
	return nil
}

// checkPermission cancels the task's context, with the reason, if its user no longer has the permissions.
func (w *Worker) checkPermission(ctx context.Context, r *Run, cancel context.CancelCauseFunc) {
	err := r.permit(ctx)
	switch {
	case fault.Is(err, fault.Denied):
		cancel(err)
	case err != nil && ctx.Err() == nil:
		r.log.WarnContext(ctx, "cannot check the permissions of the task's user; the next heartbeat checks them again", slog.Any("err", err))
	}
}
