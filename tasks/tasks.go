// Package tasks runs work in the background: it makes tasks, hands them to workers one at a time per reserved resource, keeps
// their leases, cancels them, and reports their progress.
//
// The task's row in the database is the truth (internal/store); a Queue only says where to look. What the tasks do is in
// tasks/jobs; this package knows no signatures and no registry.
package tasks

import (
	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/store"
)

// The names of tasks, as clients of Pulp match them (contract 2.2).
const (
	Sign               = "pulp_container.app.tasks.sign.sign"
	Sync               = "pulp_container.app.tasks.synchronize.synchronize"
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
	Restore            = "countersign.tasks.restore_version" // Pulp has no such task
	Purge              = "pulpcore.app.tasks.purge.purge"
	CleanOrphans       = "pulpcore.app.tasks.orphan.orphan_cleanup"
	Seal               = store.SealTask            // Pulp has no such task
	Adopt              = "countersign.tasks.adopt" // nor these
	Compare            = "countersign.tasks.compare"
)

// SignArgs are the arguments of a Sign task.
type SignArgs struct {
	RepositoryID string   `json:"repository"`
	ServiceID    string   `json:"service"`
	BasePath     string   `json:"base_path"`     // of the references in the signatures
	Tags         []string `json:"tags"`          // none: all
	SignLists    bool     `json:"sign_lists"`    // sign lists and indexes too (D2)
	Force        bool     `json:"force"`         // sign again what this key has signed (D10)
	Who          string   `json:"who,omitempty"` // whose change is signed, where the task is no user's
}

// SealArgs are the arguments of a Seal task: signatures that a change waits for, which another process asks for because it has not the key (architecture 6).
type SealArgs struct {
	RepositoryID string           `json:"repository"`
	ServiceID    string           `json:"service"`
	Missing      []store.Unsealed `json:"missing"`
	Who          string           `json:"who"` // the user on whose behalf the key is used
}

// AdoptArgs are the arguments of an Adopt task: which of the upstream's repositories.
type AdoptArgs struct {
	Pattern string    `json:"pattern"`       // a name; * stands for any characters
	Who     string    `json:"who,omitempty"` // who asks, where that is no user
	Made    AdoptMade `json:"made,omitzero"` // by attempts that ended because the upstream was away
}

// AdoptMade is what attempts at an Adopt task have made: versions, by repository, and the same as resources.
type AdoptMade struct {
	Adopted map[string]int64 `json:"adopted"`
	Created []store.Created  `json:"created"`
}

// AdoptResult is the result of an Adopt task: the versions that it made, by repository, why others were not adopted, which had nothing new, and in how many things
// those differ that still do; and the content that could not be stored, the first of each repository.
type AdoptResult struct {
	Adopted     map[string]int64          `json:"adopted"`
	NotAdopted  map[string]string         `json:"not_adopted"`
	Unchanged   []string                  `json:"unchanged"`
	Differences map[string]int            `json:"differences"`
	Skipped     map[string][]AdoptSkipped `json:"skipped"`
}

// AdoptSkipped is content of the upstream that could not be stored: a tag, or a manifest by its digest.
type AdoptSkipped struct {
	Kind   string `json:"kind"`
	Name   string `json:"name"`
	Reason string `json:"reason"`
}

// CompareArgs are the arguments of a Compare task: which repositories are held against the upstream.
type CompareArgs struct {
	Pattern string `json:"pattern"`       // a name; * stands for any characters
	Deep    bool   `json:"deep"`          // manifests and blobs too
	Who     string `json:"who,omitempty"` // who asks, where that is no user
}

// SyncArgs are the arguments of a Sync task.
type SyncArgs struct {
	RepositoryID string `json:"repository"`
	RemoteID     string `json:"remote"`
	Mirror       bool   `json:"mirror"`                 // what the remote has not leaves the repository
	SignedOnly   bool   `json:"signed_only"`            // images without a signature are left out
	AllowShrink  bool   `json:"allow_shrink,omitempty"` // Mirror: the remote may have lost more than half of its tags
	SkipCorrupt  bool   `json:"skip_corrupt,omitempty"` // images whose content is missing or wrong are left out
}

// TagArgs are the arguments of a Tag and of an Untag task.
type TagArgs struct {
	RepositoryID string        `json:"repository"`
	Tag          string        `json:"tag"`
	Digest       digest.Digest `json:"digest,omitempty"` // what the tag shall stand for; empty for Untag
}

// AddArgs are the arguments of an AddContent task: units, or what to copy from another repository.
type AddArgs struct {
	RepositoryID string       `json:"repository"`
	Units        []store.Unit `json:"units,omitempty"`
	Copy         *store.Copy  `json:"copy,omitempty"`
}

// RemoveArgs are the arguments of a RemoveContent task: units, an image, or everything.
type RemoveArgs struct {
	RepositoryID string        `json:"repository"`
	Units        []store.Unit  `json:"units,omitempty"`
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
	VerifyChecksums bool   `json:"verify_checksums,omitempty"` // Repair: read the bytes too
}

// ObjectArgs name what a Delete or Migrate task is about.
type ObjectArgs struct {
	Collection string `json:"collection"` // pulp.ContainerCollection, pulp.RemoteCollection, pulp.NamespaceCollection, ...
	ID         string `json:"id"`
}

// CreateArgs are the arguments of a Create task: distributions are the only objects that a task creates. They were validated when it was made.
type CreateArgs struct {
	Distribution DistributionFields `json:"distribution"`
}

// EditArgs are the arguments of an Edit task: new values of the fields of one object. They were validated when it was made.
type EditArgs struct {
	Collection   string              `json:"collection"`
	ID           string              `json:"id"`
	Repository   *RepositoryFields   `json:"repository,omitempty"`
	Remote       *RemoteFields       `json:"remote,omitempty"`
	Distribution *DistributionFields `json:"distribution,omitempty"`
}

// PurgeArgs are the arguments of a Purge task.
type PurgeArgs struct {
	FinishedBefore int64             `json:"finished_before"` // microseconds since 1970
	States         []store.TaskState `json:"states"`
}

// OrphanArgs are the arguments of a CleanOrphans task.
type OrphanArgs struct {
	Before int64        `json:"before"`          // what is younger stays; microseconds since 1970
	Units  []store.Unit `json:"units,omitempty"` // only these are looked at; none: all content
}

// Spec is a task to be made.
type Spec struct {
	Name      string
	Args      any
	Resources []store.Resource
	ServiceID string // the signing service that the task uses; empty: none
	// Namespace is the one of the repository that the task is about; empty: none. The tasks of one user are shared out fairly among namespaces.
	Namespace string
	// Immediate runs the task at once, before Dispatch returns, when nothing that it reserves is taken; for work that takes
	// a transaction, not for work that takes time.
	Immediate bool
}
