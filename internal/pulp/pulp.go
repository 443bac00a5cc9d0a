// Package pulp holds the nouns of the product and their rules: repositories, versions, content units, distributions,
// signing services, and the hrefs that name them. The words and wire forms are those of Pulp's container plugin.
//
// It does no I/O and imports nothing of this project but internal/fault.
package pulp

import (
	"time"

	"github.com/google/uuid"
	"github.com/opencontainers/go-digest"
)

// NewID returns an id for a new row: a UUIDv7, so that ids sort by creation.
func NewID() string { return uuid.Must(uuid.NewV7()).String() }

// Kind is a kind of content unit. The numbers are stored.
type Kind int

// The kinds of content.
const (
	KindBlob      Kind = 1
	KindManifest  Kind = 2
	KindTag       Kind = 3
	KindSignature Kind = 4
)

// Kinds lists every kind of content, in the order in which Pulp lists them.
var Kinds = []Kind{KindBlob, KindManifest, KindSignature, KindTag}

// String returns Pulp's name for the kind, as it stands in content summaries.
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

// Stamps are the times that every object carries, UTC, to the microsecond.
type Stamps struct {
	Created time.Time
	Updated time.Time
}

// RepositoryType tells repositories that pushes fill from those that syncs fill.
type RepositoryType string

// The types of repository.
const (
	Container     RepositoryType = "container"
	ContainerPush RepositoryType = "container-push"
)

// PulpType returns the type as Pulp's pulp_type filter spells it.
func (t RepositoryType) PulpType() string { return "container." + string(t) }

// MaxLabels is how many labels an object may have.
const MaxLabels = 1000

// Labels are an object's labels; a nil value is a label without one.
type Labels map[string]*string

// Repository is a named series of versions.
type Repository struct {
	ID                 string
	Type               RepositoryType
	Name               string
	Description        *string
	Labels             Labels
	RetainRepoVersions *int64
	SigningServiceID   string   // empty when none
	SigningAssigned    Assigner // who assigned it
	SignOnPush         bool     // no tag is visible before that service has signed it
	RemoteID           string   // where it is mirrored from; empty when nowhere
	AllowShrink        bool     // a sync with mirror may remove more than half of the tags that the remote listed before
	MadeByPush         bool
	PushedAs           string // the path whose first push made it, where another repository had that name; else empty
	LatestVersion      int64
	Stamps
}

// PolicyName is the name that patterns in the configuration are compared with: the repository's own, or that of the path it was made for.
func (r Repository) PolicyName() string {
	if r.PushedAs != "" {
		return r.PushedAs
	}
	return r.Name
}

// Count tells how many units of one kind a version holds, brought and took away.
type Count struct{ Present, Added, Removed int64 }

// Version is one immutable state of a repository's content.
type Version struct {
	ID           string
	RepositoryID string
	Type         RepositoryType // the repository's
	Number       int64
	Counts       map[Kind]Count
	Stamps
}

// Namespace is the first segment of repository names.
type Namespace struct {
	ID     string
	Name   string
	Labels Labels
	Stamps
}

// Distribution says under which path clients find a repository.
type Distribution struct {
	ID           string
	Name         string
	BasePath     string
	RepositoryID string         // empty when none or pinned
	Repository   RepositoryType // the type of that repository, or of the pinned version's
	Pinned       *PinnedVersion // the version served, when it is not the repository's latest
	NamespaceID  string
	Private      bool
	Hidden       bool
	Description  *string
	Labels       Labels
	Stamps
}

// PinnedVersion names the repository version that a distribution serves.
type PinnedVersion struct {
	VersionID    string
	RepositoryID string
	Number       int64
}

// Blob is a config, a layer or other bytes that a manifest names.
type Blob struct {
	ID       string
	Digest   digest.Digest
	Size     int64
	Data     []byte // the bytes of a small blob; nil: they are in the storage registry
	Inline   bool   // the bytes are Data, also when there are none
	Location string // upstream mode: a name under which the upstream holds the bytes
	Absent   bool   // the bytes are yet to be fetched, from RemoteID
	RemoteID string // of an absent blob; empty: no remote has the bytes, and the blob cannot be served
	Stamps
}

// Manifest is a manifest with its exact bytes and what they say.
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
	ArtifactType  string            // as the referrers API gives it: artifactType, else the config's media type
	Annotations   map[string]string // of a manifest that was parsed; not set in one from the store
	Labels        map[string]string // of the image config; not set in one from the store
	Type          string            // image, index, artifact, ... (contract 2.10)
	Architecture  *string
	OS            *string
	ImageSize     *int64 // the sum of the layers' sizes in bytes; nil for lists
	Stamps
}

// Descriptor is what a manifest says of something that it names.
type Descriptor struct {
	MediaType    string
	Digest       digest.Digest
	Size         int64
	URLs         []string // where a foreign layer is to be had
	ArtifactType string
	Architecture string
	OS           string
}

// Tag is a name for a manifest.
type Tag struct {
	ID         string
	Name       string
	ManifestID string
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
	Fingerprint *string // of the issuing key, upper-case hex; nil when the signature does not say
	VerifiedBy  string  // fingerprint of the primary key that it was verified with; empty when none is known
	Reference   string  // the docker reference that it claims
	Creator     string
	SignedAt    int64 // seconds since 1970, of the OpenPGP packet
	Stamps
}

// ServiceKind says how a signing service makes signatures.
type ServiceKind string

// The kinds of signing services.
const (
	ServiceScript  ServiceKind = "script"  // runs an operator's script
	ServiceOpenPGP ServiceKind = "openpgp" // signs in the process with a key from a file
	ServicePKCS11  ServiceKind = "pkcs11"  // signs with a key in a token
)

// ServiceConfig says what a signing service of another kind than script signs with. It holds no secret, only where one is.
type ServiceConfig struct {
	KeyFile        string `json:"key_file,omitempty"`        // path of an OpenPGP secret key; a relative one is below the data directory
	PassphraseFile string `json:"passphrase_file,omitempty"` // path; empty: the key has no passphrase
	PKCS11URI      string `json:"pkcs11_uri,omitempty"`      // of a key in a token; it names the file with the PIN
}

// ManifestSigningService is the class of signing services for manifests, as the command line spells it.
const ManifestSigningService = "container:ManifestSigningService"

// SigningService is a named key that can sign, and the way to use it.
type SigningService struct {
	ID          string
	Name        string
	Class       string
	Kind        ServiceKind
	Script      string // absolute path; empty when the kind is not script
	Fingerprint string // of the primary key, 40 upper-case hex digits
	PublicKey   string // ASCII armor
	GnuPGHome   string // GNUPGHOME for the script; empty: the server's own
	Config      ServiceConfig
	Stamps
}

// User is who makes requests.
type User struct {
	ID       int64
	Username string
	Hash     string // of the password; empty: no password login
	Staff    bool   // may do everything
	Active   bool
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
	TaskID    string // the task that it runs, when it runs one
}
