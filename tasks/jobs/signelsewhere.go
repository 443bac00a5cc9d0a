package jobs

import (
	"context"
	"time"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/signservice"
	"github.com/countersign/countersign/internal/store"
	"github.com/countersign/countersign/internal/store/content"
	"github.com/countersign/countersign/internal/store/taskstore"
	"github.com/countersign/countersign/tasks"
)

const (
	signPollInterval = 20 * time.Millisecond // between looks at a delegated task
	abandonTimeout   = 10 * time.Second      // for canceling a delegated task
)

// SignTasks makes the signatures of changes in other processes, by tasks. Its methods are the values of
// signonpush.Runner's SignElsewhere and SignLater.
type SignTasks struct {
	Store *store.Store
	// Dispatch and Cancel are those of a tasks.Dispatcher.
	Dispatch func(context.Context, tasks.Origin, tasks.Spec) (taskstore.Task, error)
	Cancel   func(context.Context, string) (taskstore.Task, error)
}

// Sign dispatches an internal task that makes the missing signatures and waits until it ends. When ctx ends first, Sign
// cancels the task. A task that does not complete is an outage of fault.SigningKey.
func (s SignTasks) Sign(ctx context.Context, caller signservice.Caller, missing *content.MissingSignatures) error {
	t, err := s.Dispatch(ctx, tasks.BySystem(), tasks.Spec{
		Name: tasks.SignMissing,
		Args: tasks.SignMissingArgs{
			RepositoryID: missing.RepositoryID, ServiceID: missing.Service.ID, Missing: missing.Missing, Who: caller.User,
		},
		ServiceID: missing.Service.ID, Namespace: missing.Namespace,
	})
	if err != nil {
		return err
	}
	defer s.abandon(context.WithoutCancel(ctx), t.ID)
	tick := time.NewTicker(signPollInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return fault.NewOutage(fault.SigningKey, context.Cause(ctx), "no process that can use its key has signed in time; "+
				"/pulp/api/v3/status/ shows administrators how many processes can use it.")
		case <-tick.C:
		}
		now, err := s.Store.Tasks.Task(ctx, t.ID)
		switch {
		case err != nil && ctx.Err() == nil:
			return err
		case err != nil || !now.State.Final():
		case now.State == taskstore.TaskCompleted:
			return nil
		case now.Error != nil:
			return fault.NewOutage(fault.SigningKey, nil, "%s", now.Error.Description)
		default:
			return fault.NewOutage(fault.SigningKey, nil, "the task that signs was %s.", now.State)
		}
	}
}

// abandon cancels a delegated task if it still runs, and deletes its row. A task that does not end at once is left to
// the deletion of old tasks.
func (s SignTasks) abandon(ctx context.Context, id string) {
	ctx, cancel := context.WithTimeout(ctx, abandonTimeout)
	defer cancel()
	if _, err := s.Cancel(ctx, id); err == nil || fault.Is(err, fault.Conflict) {
		_ = s.Store.Tasks.DeleteTask(ctx, id)
	}
}

// SignLater dispatches a sign task for each distribution that serves the repository.
func (s SignTasks) SignLater(ctx context.Context, caller signservice.Caller, missing *content.MissingSignatures) error {
	served, err := s.Store.Catalog.RepositoryDistributions(ctx, missing.RepositoryID)
	if err != nil {
		return err
	}
	for _, d := range served {
		_, err := s.Dispatch(ctx, tasks.BySystem(), tasks.Spec{
			Name: tasks.Sign,
			Args: tasks.SignArgs{
				RepositoryID: missing.RepositoryID, ServiceID: missing.Service.ID, BasePath: d.BasePath, Who: caller.User,
			},
			Resources: []taskstore.Resource{{Href: pulp.RepositoryHref(d.Repository, missing.RepositoryID), Exclusive: true}},
			ServiceID: missing.Service.ID, Namespace: missing.Namespace,
		})
		if err != nil {
			return err
		}
	}
	return nil
}
