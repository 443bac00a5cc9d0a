package tasks

import (
	"context"
	"log/slog"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store"
)

// Origin says where a task comes from. Dispatch refuses the zero Origin, so no caller can forget to say it.
type Origin struct {
	Kind store.Origin
	User int64 // the id of the account, with store.OriginUser
}

// ByUser is the origin of tasks that the account with this id starts. Such a task runs with the permissions that the account has while the task runs.
func ByUser(id int64) Origin { return Origin{store.OriginUser, id} }

// ByCommand is the origin of tasks that the command line starts. They may do everything.
func ByCommand() Origin { return Origin{Kind: store.OriginCommand} }

// BySystem is the origin of tasks that the server starts for its own purposes. They may do everything.
func BySystem() Origin { return Origin{Kind: store.OriginSystem} }

// Why a task is not run for its user.
var (
	errUnknownOrigin = fault.New(fault.Denied, "The record of this task does not say who started it, because an older version queued it. Start it again.")
	errUserDeleted   = fault.New(fault.Denied, "The user who started this task was deleted.")
	errUserDisabled  = fault.New(fault.Denied, "The user who started this task is disabled.")
	errUserDemoted   = fault.New(fault.Denied, "The user who started this task ceased to be an administrator while it ran. Start it again.")
	errNotForUsers   = fault.New(fault.Denied, "Only the server itself may start a task of this kind.")
)

// permit reports whether the task may run, or go on, for the one who started it: it reads the user again and asks the job's Permit. It keeps the user for
// Run.User. The error is Denied if the user was deleted, disabled, or lacks a permission.
func (w *Worker) permit(ctx context.Context, r *Run) error {
	switch r.Task.Origin {
	case store.OriginCommand, store.OriginSystem:
		r.user.Store(&pulp.User{Staff: true, Active: true})
		return nil
	case store.OriginUser, store.OriginUnknown:
	default:
		return errUnknownOrigin
	}
	t, err := w.store.Task(ctx, r.Task.ID) // deleting an account removes it from its tasks
	switch {
	case err != nil:
		return err
	case t.Origin == store.OriginUnknown && t.CreatedBy == 0:
		return errUnknownOrigin
	}
	u, err := w.store.User(ctx, t.CreatedBy)
	switch {
	case fault.Is(err, fault.NotFound):
		return errUserDeleted
	case err != nil:
		return err
	case !u.Active:
		return errUserDisabled
	case r.job.Permit == nil:
		return errNotForUsers
	}
	r.user.Store(&u) // before the job's Permit, which may ask for it
	return r.job.Permit(ctx, r, u)
}

// Permit evaluates again whether the task's user may have it done. A job calls it before it stores results that took long to make; the worker calls it before
// the job runs and a few times a minute while it runs.
func (r *Run) Permit(ctx context.Context) error { return r.permit(ctx) }

// User returns the user whose permissions bound what the task may read and change, as the latest check found them. For tasks of the command line and of the server it
// is an administrator without a name.
func (r *Run) User() pulp.User {
	if u := r.user.Load(); u != nil {
		return *u
	}
	return pulp.User{} // may do nothing
}

// stillPermitted compares the user, as the completing transaction sees it (nil: deleted), with the one of the latest check.
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

// checkPermission ends the task's context, with the reason, if its user may no longer have it done.
func (w *Worker) checkPermission(ctx context.Context, r *Run, cancel context.CancelCauseFunc) {
	err := r.permit(ctx)
	switch {
	case fault.Is(err, fault.Denied):
		cancel(err)
	case err != nil && ctx.Err() == nil:
		r.log.WarnContext(ctx, "permission of the task's user not checked", slog.Any("err", err))
	}
}
