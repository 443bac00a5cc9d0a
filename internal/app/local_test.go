package app_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/countersign/countersign/internal/app"
	"github.com/countersign/countersign/internal/app/apptest"
	"github.com/countersign/countersign/internal/store"
	"github.com/countersign/countersign/internal/store/storetest"
)

// TestLocalWithoutWorker verifies that a command does not wait for tasks of a worker that has failed.
func TestLocalWithoutWorker(t *testing.T) {
	t.Parallel()
	c := apptest.Load(t)
	a, _ := apptest.New(c)
	err := a.WithStore(t.Context(), func(s *store.Store) error {
		storetest.Exec(t, s, `CREATE TRIGGER refuse BEFORE INSERT ON worker BEGIN SELECT RAISE(ABORT, 'no worker today'); END`)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	err = a.WithLocal(t.Context(), app.LocalOptions{StartsTasks: true}, func(ctx context.Context, _ *app.Local) error {
		<-ctx.Done()
		if cause := context.Cause(ctx); !strings.Contains(cause.Error(), "no worker today") {
			t.Errorf("cause: %v", cause)
		}
		return ctx.Err()
	})
	if err == nil || !strings.Contains(err.Error(), "no worker today") || errors.Is(err, context.Canceled) {
		t.Errorf("error: %v, want that of the worker only", err)
	}
}
