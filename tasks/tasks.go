// Package tasks runs background work: it creates tasks, assigns them to workers one at a time per reserved
// resource, renews their leases, cancels them, and stores their progress.
//
// The task's row in the database (internal/store) is authoritative; a Queue only carries hints. The jobs
// themselves are in tasks/jobs. This package does not depend on signatures or registries.
package tasks

import (
	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/store/content"
	"github.com/countersign/countersign/internal/store/record"
	"github.com/countersign/countersign/internal/store/taskstore"
)

// The names of tasks. Clients of Pulp compare them, so those of Pulp's own tasks are Pulp's.
const (
	Sign               = "pulp_container.app.tasks.sign.sign"
	Sync               = taskstore.SyncTask
	Tag                = "pulp_container.app.tasks.tag.tag_image"
	Untag              = "pulp_container.app.tasks.untag.untag_image"
	AddContent         = "pulp_container.app.tasks.recursive_add.recursive_add_content"
	RemoveContent      = "pulp_container.app.tasks.recursive_remove.recursive_remove_content"
	RemoveSignatures   = "pulp_container.app.tasks.remove_signatures.remove_signatures"
	Migrate            = "pulp_container.app.tasks.migrate_push_repository.migrate_push_repository"
	Create             = "pulpcore.app.tasks.base.general_create"
	Edit               = "pulpcore.app.tasks.base.ageneral_update"
	Delete             = "pulpcore.app.tasks.base.ageneral_delete"
	DeleteDistribution = "pulpcore.app.tasks.base.general_multi_delete"
	DeleteVersion      = "pulpcore.app.tasks.repository.delete_version"
	Repair             = "pulpcore.app.tasks.repository.repair_version"
	RepairAll          = "pulpcore.app.tasks.repository.repair_all_artifacts"
	ReclaimSpace       = "pulpcore.app.tasks.reclaim_space.reclaim_space"
	Restore            = "countersign.tasks.restore_version" // not a task of Pulp's
	Purge              = "pulpcore.app.tasks.purge.purge"
	CleanOrphans       = "pulpcore.app.tasks.orphan.orphan_cleanup"
	SignMissing        = taskstore.PushSigningTask // not a task of Pulp's
	Adopt              = "countersign.tasks.adopt" // not a task of Pulp's, nor is Compare
	Compare            = "countersign.tasks.compare"
)

// SignArgs are the arguments of a Sign task.
type SignArgs struct {
	RepositoryID string   `json:"repository"`
	ServiceID    string   `json:"service"`
	BasePath     string   `json:"base_path"`     // of the references that are signed
	Tags         []string `json:"tags"`          // empty: all tags
	SignLists    bool     `json:"sign_lists"`    // sign manifest lists and image indexes, too
	Force        bool     `json:"force"`         // sign manifests again that this key has signed
	Who          string   `json:"who,omitempty"` // for the audit log, if the task is not a user's: the user whose change is signed
}

// SignMissingArgs are the arguments of a SignMissing task: the signatures that a change needs before it can be committed. A
// process that cannot use the key dispatches it to one that can.
type SignMissingArgs struct {
	RepositoryID string                     `json:"repository"`
	ServiceID    string                     `json:"service"`
	Missing      []content.MissingSignature `json:"missing"`
	Who          string                     `json:"who"` // for the audit log: the user on whose behalf the key is used
}

// AdoptArgs are the arguments of an Adopt task.
type AdoptArgs struct {
	Pattern string    `json:"pattern"`       // name of the upstream's repositories; * matches any characters
	Who     string    `json:"who,omitempty"` // for the audit log, if the task is not a user's
	Made    AdoptMade `json:"made,omitzero"` // results of earlier attempts, which ended because the upstream was unavailable
}

// AdoptMade contains the versions that earlier attempts at an Adopt task have created.
type AdoptMade struct {
	Adopted map[string]int64    `json:"adopted"`
	Created []taskstore.Created `json:"created"`
}

// AdoptResult is the result of an Adopt task. All maps have names of repositories as keys: the numbers of
// created versions, the reasons for which repositories were not adopted, the numbers of remaining differences,
// and content that cannot be stored (up to a limit for each repository). Unchanged lists repositories without
// new content.
type AdoptResult struct {
	Adopted     map[string]int64          `json:"adopted"`
	NotAdopted  map[string]string         `json:"not_adopted"`
	Unchanged   []string                  `json:"unchanged"`
	Differences map[string]int            `json:"differences"`
	Skipped     map[string][]AdoptSkipped `json:"skipped"`
}

// AdoptSkipped is content of the upstream that cannot be stored: a tag, or a manifest by its digest.
type AdoptSkipped struct {
	Kind   string `json:"kind"`
	Name   string `json:"name"`
	Reason string `json:"reason"`
}

// CompareArgs are the arguments of a Compare task.
type CompareArgs struct {
	Pattern string `json:"pattern"`       // name of the repositories; * matches any characters
	Deep    bool   `json:"deep"`          // compare all manifests and blobs, too
	Who     string `json:"who,omitempty"` // for the audit log, if the task is not a user's
}

// SyncArgs are the arguments of a Sync task.
type SyncArgs struct {
	RepositoryID string `json:"repository"`
	RemoteID     string `json:"remote"`
	Mirror       bool   `json:"mirror"`                 // remove content that the remote does not have
	SignedOnly   bool   `json:"signed_only"`            // skip images without a signature
	AllowShrink  bool   `json:"allow_shrink,omitempty"` // with Mirror: accept that the remote has lost more than half of its tags
	SkipCorrupt  bool   `json:"skip_corrupt,omitempty"` // skip images whose content is missing or corrupt
}

// TagArgs are the arguments of a Tag and of an Untag task.
type TagArgs struct {
	RepositoryID string        `json:"repository"`
	Tag          string        `json:"tag"`
	Digest       digest.Digest `json:"digest,omitempty"` // the tag's new manifest; empty for Untag
}

// AddArgs are the arguments of an AddContent task: either units, or the content to copy from another
// repository.
type AddArgs struct {
	RepositoryID string        `json:"repository"`
	Units        []record.Unit `json:"units,omitempty"`
	Copy         *content.Copy `json:"copy,omitempty"`
}

// RemoveArgs are the arguments of a RemoveContent task: units, an image, or all content.
type RemoveArgs struct {
	RepositoryID string        `json:"repository"`
	Units        []record.Unit `json:"units,omitempty"`
	Image        digest.Digest `json:"image,omitempty"`
	All          bool          `json:"all,omitempty"`
}

// RemoveSignaturesArgs are the arguments of a RemoveSignatures task.
type RemoveSignaturesArgs struct {
	RepositoryID string `json:"repository"`
	KeyID        string `json:"key_id"` // 16 upper-case hex digits
}

// VersionArgs are the arguments of a DeleteVersion, a Repair and a Restore task.
type VersionArgs struct {
	RepositoryID    string `json:"repository"`
	Number          int64  `json:"number"`
	VerifyChecksums bool   `json:"verify_checksums,omitempty"` // Repair: verify the digests of all blobs, too
}

// RepairAllArgs are the arguments of a RepairAll task.
type RepairAllArgs struct {
	VerifyChecksums bool `json:"verify_checksums"` // verify the digests of all content, too
}

// ReclaimArgs are the arguments of a ReclaimSpace task.
type ReclaimArgs struct {
	Repositories []string              `json:"repositories"`   // ids; null: all repositories
	Keep         []content.KeptVersion `json:"keep,omitempty"` // versions whose blobs stay
}

// ObjectArgs identify the object of a Delete or Migrate task.
type ObjectArgs struct {
	Collection string `json:"collection"` // pulp.ContainerCollection, pulp.RemoteCollection, pulp.NamespaceCollection, ...
	ID         string `json:"id"`
}

// CreateArgs are the arguments of a Create task, which creates a distribution. The endpoint has validated them.
type CreateArgs struct {
	Distribution DistributionFields  `json:"distribution"`
	PullThrough  *DistributionFields `json:"pull_through,omitempty"` // of a pull-through distribution; else nil
}

// NewPullThrough returns the arguments of a task that creates a pull-through distribution.
func NewPullThrough(f DistributionFields) CreateArgs {
	// A worker of an earlier version ignores PullThrough. Its task fails, because the repository does not exist.
	absent := "pull-through"
	return CreateArgs{Distribution: DistributionFields{Name: f.Name, BasePath: f.BasePath, RepositoryID: &absent}, PullThrough: &f}
}

// EditArgs are the arguments of an Edit task: new values of the fields of one object. The endpoint has
// validated them.
type EditArgs struct {
	Collection   string              `json:"collection"`
	ID           string              `json:"id"`
	Repository   *RepositoryFields   `json:"repository,omitempty"`
	Remote       *RemoteFields       `json:"remote,omitempty"`
	Distribution *DistributionFields `json:"distribution,omitempty"`
}

// PurgeArgs are the arguments of a Purge task.
type PurgeArgs struct {
	FinishedBefore int64                 `json:"finished_before"` // microseconds since 1970
	States         []taskstore.TaskState `json:"states"`
}

// OrphanArgs are the arguments of a CleanOrphans task.
type OrphanArgs struct {
	Before int64         `json:"before"`          // younger content stays; microseconds since 1970
	Units  []record.Unit `json:"units,omitempty"` // check only these; empty: all content
}

// Spec describes a task to dispatch.
type Spec struct {
	Name      string
	Args      any
	Resources []taskstore.Resource
	ServiceID string // the signing service that the task uses; empty: none
	// Namespace is the namespace of the repository that the task is about; empty: none. The tasks of one user
	// are distributed fairly among namespaces.
	Namespace string
	// Immediate runs the task before Dispatch returns if none of its resources is reserved. It is for work of a
	// single transaction.
	Immediate bool
}
