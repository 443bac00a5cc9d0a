// Package tasks runs work in the background: it makes tasks, hands them to workers one at a time per reserved resource, keeps
// their leases, cancels them, and reports their progress.
//
// The task's row in the database is the truth (internal/store); a Queue only says where to look. What the tasks do is in
// tasks/jobs; this package knows no signatures and no registry.
package tasks

import (
	"encoding/json"

	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store"
)

// The names of tasks, as clients of Pulp match them (contract 2.2).
const (
	Sign               = "pulp_container.app.tasks.sign.sign"
	EditRepository     = "pulpcore.app.tasks.base.ageneral_update"
	DeleteDistribution = "pulpcore.app.tasks.base.general_multi_delete"
	Purge              = "pulpcore.app.tasks.purge.purge"
)

// SignArgs are the arguments of a Sign task.
type SignArgs struct {
	RepositoryID string   `json:"repository"`
	ServiceID    string   `json:"service"`
	BasePath     string   `json:"base_path"`  // of the references in the signatures
	Tags         []string `json:"tags"`       // none: all
	SignLists    bool     `json:"sign_lists"` // sign lists and indexes too (D2)
	Force        bool     `json:"force"`      // sign again what this key has signed (D10)
}

// EditRepositoryArgs are the arguments of an EditRepository task. They were validated when it was made.
type EditRepositoryArgs struct {
	RepositoryID string              `json:"repository"`
	Type         pulp.RepositoryType `json:"type"`
	Fields       RepositoryFields    `json:"fields"`
}

// RepositoryFields are new values of a repository's fields; absent fields stay.
type RepositoryFields struct {
	Name               *string             `json:"name,omitempty"`
	Description        Optional[string]    `json:"description,omitzero"`
	Labels             *map[string]*string `json:"labels,omitempty"`
	RetainRepoVersions Optional[int64]     `json:"retain_repo_versions,omitzero"`
	SigningServiceID   *string             `json:"signing_service,omitempty"` // empty: none
}

// Optional is a value that may be absent, null or there.
type Optional[T any] struct {
	Set   bool
	Value *T // nil is null
}

// MarshalJSON implements json.Marshaler.
func (o Optional[T]) MarshalJSON() ([]byte, error) { return json.Marshal(o.Value) }

// UnmarshalJSON implements json.Unmarshaler; it is called when the value is there, null included.
func (o *Optional[T]) UnmarshalJSON(b []byte) error {
	o.Set = true
	return json.Unmarshal(b, &o.Value)
}

// DeleteDistributionArgs are the arguments of a DeleteDistribution task.
type DeleteDistributionArgs struct {
	DistributionID string `json:"distribution"`
}

// PurgeArgs are the arguments of a Purge task.
type PurgeArgs struct {
	FinishedBefore int64             `json:"finished_before"` // microseconds since 1970
	States         []store.TaskState `json:"states"`
}

// Spec is a task to be made.
type Spec struct {
	Name      string
	Args      any
	CreatedBy int64 // a user's id; 0: nobody's
	Resources []store.Resource
	// Immediate runs the task at once, before Dispatch returns, when nothing that it reserves is taken; for work that takes
	// a transaction, not for work that takes time.
	Immediate bool
}
