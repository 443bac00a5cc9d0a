// Package pulp defines the domain types and their rules: repositories, versions, content units, distributions, signing
// services, and the hrefs that identify them. Terms and wire formats are those of Pulp's container plugin.
//
// It does no I/O. Of this module it imports only internal/fault.
package pulp

import (
	"time"

	"github.com/google/uuid"
	"github.com/opencontainers/go-digest"
)

// NewID returns an id for a new row. It is a UUIDv7, so ids sort by time of creation.
func NewID() string { return uuid.Must(uuid.NewV7()).String() }

// Kind is a kind of content unit. The database stores the numbers.
type Kind int

// The kinds of content.
const (
	KindBlob      Kind = 1
	KindManifest  Kind = 2
	KindTag       Kind = 3
	KindSignature Kind = 4
)

// Kinds lists every kind of content in the order of Pulp's responses.
var Kinds = []Kind{KindBlob, KindManifest, KindSignature, KindTag}

// String returns Pulp's name of the kind, as in content summaries.
func (k Kind) String() string {
	switch k {
	case KindBlob:
		return "container.blob"
	case KindManifest:
		return "container.manifest"
	case KindTag:
		return "container.tag"
	case KindSignature:
		return "container.signature"
	}
	return "container.unknown"
}

// Stamps are the timestamps of every object, in UTC with microseconds.
type Stamps struct {
	Created time.Time
	Updated time.Time
}

// RepositoryType distinguishes repositories that clients push to from those that are synced.
type RepositoryType string

// The types of repository.
const (
	Container     RepositoryType = "container"
	ContainerPush RepositoryType = "container-push"
)

// PulpType returns the type as the value of Pulp's pulp_type filter.
func (t RepositoryType) PulpType() string { return "container." + string(t) }

// MaxLabels is the limit of labels per object.
const MaxLabels = 1000

// Labels are the labels of an object by key. The value nil is null.
type Labels map[string]*string

// Repository is a named series of versions.
type Repository struct {
	ID                 string
	Type               RepositoryType
	Name               string
	Description        *string
	Labels             Labels
	RetainRepoVersions *int64
	SigningServiceID   string   // empty if none is assigned
	SigningAssigned    Assigner // the origin of the assignment of the signing service
	SignOnPush         bool     // tags become visible only after the signing service signed them
	RemoteID           string   // the remote that it mirrors; empty if none
	AllowShrink        bool     // a sync with mirror may remove more than half of the tags that the remote listed before
	MadeByPush         bool
	PushedAs           string // the path whose first push created it, if its name differs from that path
	LatestVersion      int64
	Stamps
}

// PolicyName returns the name that the patterns of the configuration match: PushedAs if set, else the name.
func (r Repository) PolicyName() string {
	if r.PushedAs != "" {
		return r.PushedAs
	}
	return r.Name
}

// Count is the number of units of one kind that a version contains, added and removed.
type Count struct{ Present, Added, Removed int64 }

// Version is one immutable state of a repository's content.
type Version struct {
	ID           string
	RepositoryID string
	Type         RepositoryType // of the repository
	Number       int64
	Counts       map[Kind]Count
	Actor        string // the name of the author; empty for versions of earlier programs
	ActorID      int64  // the account of the author; 0 if there is none or, in lists, no longer
	Stamps
}

// Namespace is the first segment of repository names.
type Namespace struct {
	ID     string
	Name   string
	Labels Labels
	Stamps
}

// Distribution serves a repository, or one version of it, under a base path. A pull-through distribution serves none: pulls
// create repositories and distributions below its path. See compatibility.md#pull-through.
type Distribution struct {
	ID           string
	Name         string
	BasePath     string
	RepositoryID string         // empty if it serves nothing or a pinned version
	Repository   RepositoryType // of the repository that is served
	Pinned       *PinnedVersion // the version that is served; nil for the latest
	NamespaceID  string
	Private      bool
	Hidden       bool
	Description  *string
	Labels       Labels
	PullThrough  bool   // it is a pull-through distribution
	RemoteID     string // of a pull-through distribution: its pull-through remote; of a cached one: the remote of its repository
	CacheID      string // of a cached one: the pull-through distribution whose pull created it; else empty
	// Cached are the ids of the newest distributions that pulls of a pull-through distribution have created. Only
	// catalog.EditPullThrough and the API set it.
	Cached []string
	Stamps
}

// Collection returns the collection of the distribution.
func (d Distribution) Collection() string {
	if d.PullThrough {
		return PullThroughCollection
	}
	return DistributionCollection
}

// PinnedVersion identifies the repository version that a distribution serves.
type PinnedVersion struct {
	VersionID    string
	RepositoryID string
	Number       int64
}

// Blob is a config, a layer or other content that manifests reference.
type Blob struct {
	ID       string
	Digest   digest.Digest
	Size     int64
	Data     []byte // the content of an inline blob; else nil
	Inline   bool   // the content is Data, which may be empty; else it is in the storage
	Location string // with an upstream: the name of an upstream repository that contains the blob
	Absent   bool   // the content was not fetched from the remote yet
	RemoteID string // of an absent blob; empty if no remote has the content: then the blob cannot be served
	Labels   Labels // only set in lists
	// AbsentSince is the Updated of the absent row for which the bytes are recorded, which were in the storage after that;
	// zero: the caller knows of no such row.
	AbsentSince time.Time
	Stamps
}

// Manifest is a manifest: its exact bytes and the fields parsed from them.
type Manifest struct {
	ID            string
	Digest        digest.Digest
	MediaType     string
	SchemaVersion int
	Payload       []byte
	Config        *Descriptor  // nil for lists
	Layers        []Descriptor // of an image
	Children      []Descriptor // of a list or index
	Subject       digest.Digest
	ArtifactType  string            // as in the referrers API: artifactType, else the config's media type
	Annotations   map[string]string // only set by ParseManifest, not by the store
	Labels        map[string]string // of the image config; only set by ApplyConfig, not by the store
	Type          string            // image, index, artifact, ...: see compatibility.md#content
	Architecture  *string
	OS            *string
	ImageSize     *int64 // the sum of the layers' sizes in bytes; nil for lists
	Stamps
}

// Descriptor is a descriptor in a manifest.
type Descriptor struct {
	MediaType    string
	Digest       digest.Digest
	Size         int64
	URLs         []string // of a foreign layer
	ArtifactType string
	Architecture string
	OS           string
}

// Tag is a name for a manifest.
type Tag struct {
	ID         string
	Name       string
	ManifestID string
	Labels     Labels // only set in lists
	Stamps
}

// Signature is a stored signature of a manifest.
type Signature struct {
	ID          string
	Digest      digest.Digest // sha256 of Content
	Name        string        // <manifest digest>@<32 hex of Digest>
	ManifestID  string
	Content     []byte  // the binary OpenPGP message; nil in lists
	KeyID       string  // 16 upper-case hex digits
	Fingerprint *string // of the issuing key, upper-case hex; nil if the signature does not contain it
	// VerifiedBy is the fingerprint of the primary key of the signing service that verified the signature when it was
	// stored; empty if no service had the key.
	VerifiedBy string
	Reference  string // the docker reference in the payload
	Creator    string
	SignedAt   int64  // Unix time in seconds, from the OpenPGP packet
	Labels     Labels // only set in lists
	Stamps
}

// ServiceKind is the kind of signer of a signing service.
type ServiceKind string

// The kinds of signing services.
const (
	ServiceScript  ServiceKind = "script"  // runs an operator's script
	ServiceOpenPGP ServiceKind = "openpgp" // signs in this process with a key from a file
	ServicePKCS11  ServiceKind = "pkcs11"  // signs with a key in a PKCS #11 token
)

// ServiceConfig locates the key of a signing service whose kind is not script. It contains no secrets.
type ServiceConfig struct {
	KeyFile        string `json:"key_file,omitempty"`        // path of an OpenPGP secret key; a relative one is below the data directory
	PassphraseFile string `json:"passphrase_file,omitempty"` // path; empty if the key has no passphrase
	PKCS11URI      string `json:"pkcs11_uri,omitempty"`      // of a key in a token; it contains the path of the PIN file
}

// ManifestSigningService is the class of signing services for manifests on the command line.
const ManifestSigningService = "container:ManifestSigningService"

// SigningService is a named signing key and the way to use it.
type SigningService struct {
	ID          string
	Name        string
	Class       string
	Kind        ServiceKind
	Script      string // absolute path; empty if the kind is not script
	Fingerprint string // of the primary key, 40 upper-case hex digits
	PublicKey   string // ASCII armor
	GnuPGHome   string // GNUPGHOME of the script; empty for the server's own
	Config      ServiceConfig
	Stamps
}

// AccountKind is the kind of an account.
type AccountKind string

// The kinds of accounts.
const (
	LocalUser    AccountKind = "user"     // a person with a password of this server
	Robot        AccountKind = "robot"    // belongs to a namespace and has API tokens only
	ExternalUser AccountKind = "external" // a person that another source confirms
	RuleIdentity AccountKind = "oidc"     // the identity of a rule for CI tokens
)

// User is an account.
type User struct {
	ID          int64
	Username    string
	Hash        string // bcrypt hash of the password; empty if the user cannot log in with a password
	Staff       bool   // an administrator, who has all permissions
	Active      bool
	Kind        AccountKind
	Source      string    // of an external user: the source that confirms the account (ldap, htpasswd, oidc)
	ExternalID  string    // of an external user: KIND=VALUE, the identity in the source; empty if it has none
	Checked     time.Time // of an external user: the latest confirmation by the source; zero if it has no such person
	NamespaceID string    // of a robot
	FirstName   string
	LastName    string
	Email       string
	Description *string
	Stamps
}

// Worker is a process that runs tasks.
type Worker struct {
	ID        string
	Name      string // <pid>@<host>
	Versions  map[string]string
	Services  []string // names of the signing services that it can use
	Started   time.Time
	Heartbeat time.Time
	TaskID    string // the task that it runs; empty if it runs none
}
