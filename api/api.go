// Package api serves the REST API that Pulp's container plugin speaks, under /pulp/api/v3/: one file a resource, one machinery for lists.
//
// It validates what it is asked, reads through internal/store and hands every change to a task; what tasks do is in tasks/jobs. It alone imports
// gin. Which words, texts and statuses are right is the contract with Pulp's clients; tests hold the answers against recorded ones.
package api

import (
	"context"
	"log/slog"
	"net/http"
	"net/url"

	"github.com/countersign/countersign/internal/auth"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store"
	"github.com/countersign/countersign/tasks"
)

// Dispatcher makes and cancels tasks: *tasks.Dispatcher.
type Dispatcher interface {
	Dispatch(ctx context.Context, from tasks.Origin, spec tasks.Spec) (store.Task, error)
	Cancel(ctx context.Context, id string) (store.Task, error)
}

// Authenticator says who makes a request: *auth.Auth. The user is nil when the request carries no credentials.
type Authenticator interface {
	Basic(r *http.Request) (*pulp.User, error)
}

var (
	_ Dispatcher    = (*tasks.Dispatcher)(nil)
	_ Authenticator = (*auth.Auth)(nil)
)

// Options are what the API is built from. All but DataDir, Ready, SignLists and SigningUse are needed.
type Options struct {
	Store     *store.Store
	Tasks     Dispatcher
	Auth      Authenticator
	Log       *slog.Logger
	PublicURL *url.URL // what clients type; its host stands in registry paths (D5)
	Process   string   // this process, as <pid>@<host>, in the status
	Version   string   // of this binary, in the status
	DataDir   string   // where the status looks for free space; empty: it says nothing about it
	Upstream  bool     // whether there is an upstream registry
	SignLists bool     // whether signing signs lists and indexes too, when the call does not say (D2)
	// SigningUse decides which repositories may use which signing services.
	SigningUse pulp.SigningUse
	// Redis says whether the queue's Redis answers; nil: the queue is in the process.
	Redis func(context.Context) error
	// Ready says whether this process can do its work, beside the database; nil: it can.
	Ready func(context.Context) error
}

// API is the REST API. Make one with New.
type API struct {
	Options
	origins *auth.Origins
	allowed map[string]string // the Allow header by declared path
	open    map[string]bool   // the paths that are served without authentication
}

// New returns the handler of everything under /pulp/. It panics when PublicURL is not of the form scheme://host[:port].
func New(o Options) http.Handler {
	origins, err := auth.NewOrigins(o.PublicURL)
	if err != nil {
		panic(err)
	}
	return (&API{Options: o, origins: origins}).router()
}
