package pulp

import (
	"regexp"
	"strconv"
	"strings"
)

// Root is the path prefix of the REST API.
const Root = "/pulp/api/v3/"

// Collections of the REST API: paths relative to Root, with the trailing slash.
const (
	TaskCollection           = "tasks/"
	WorkerCollection         = "workers/"
	UserCollection           = "users/"
	GroupCollection          = "groups/"
	RoleCollection           = "roles/"
	AccessPolicyCollection   = "access_policies/"
	SigningServiceCollection = "signing-services/"
	PushCollection           = "repositories/container/container-push/"
	ContainerCollection      = "repositories/container/container/"
	RemoteCollection         = "remotes/container/container/"
	DistributionCollection   = "distributions/container/container/"
	NamespaceCollection      = "pulp_container/namespaces/"
	BlobCollection           = "content/container/blobs/"
	ManifestCollection       = "content/container/manifests/"
	TagCollection            = "content/container/tags/"
	SignatureCollection      = "content/container/signatures/"
	ContentCollection        = "content/"
	ArtifactCollection       = "artifacts/"
	GuardCollection          = "contentguards/core/content_redirect/"
	AuditCollection          = "audit/"    // of our own
	TokenCollection          = "tokens/"   // of our own
	RobotCollection          = "robots/"   // of our own
	WebhookCollection        = "webhooks/" // of our own

	PullThroughRemoteCollection = "remotes/container/pull-through/"
	PullThroughCollection       = "distributions/container/pull-through/"
)

// Href returns the href (the path) of the object with the given id in a collection.
func Href(collection, id string) string { return Root + collection + id + "/" }

// UserHref returns the href of a user. The ids of users are numbers.
func UserHref(id int64) string { return Href(UserCollection, strconv.FormatInt(id, 10)) }

// Collection returns the collection of the repositories of this type.
func (t RepositoryType) Collection() string {
	if t == ContainerPush {
		return PushCollection
	}
	return ContainerCollection
}

// RepositoryHref returns the href of a repository.
func RepositoryHref(t RepositoryType, id string) string { return Href(t.Collection(), id) }

// VersionHref returns the href of a repository version.
func VersionHref(t RepositoryType, repositoryID string, number int64) string {
	return RepositoryHref(t, repositoryID) + "versions/" + strconv.FormatInt(number, 10) + "/"
}

// Collection returns the collection of the content units of this kind.
func (k Kind) Collection() string {
	switch k {
	case KindBlob:
		return BlobCollection
	case KindManifest:
		return ManifestCollection
	case KindTag:
		return TagCollection
	case KindSignature:
		return SignatureCollection
	}
	return ContentCollection
}

// prnModels maps a collection to the model in the PRNs of its objects. See compatibility.md#identifiers.
var prnModels = map[string]string{
	TaskCollection:           "core.task",
	WorkerCollection:         "core.appstatus",
	UserCollection:           "auth.user",
	GroupCollection:          "core.group",
	RoleCollection:           "core.role",
	AccessPolicyCollection:   "core.accesspolicy",
	SigningServiceCollection: "core.signingservice",
	PushCollection:           "container.containerpushrepository",
	ContainerCollection:      "container.containerrepository",
	RemoteCollection:         "container.containerremote",
	DistributionCollection:   "container.containerdistribution",
	NamespaceCollection:      "container.containernamespace",
	BlobCollection:           "container.blob",
	ManifestCollection:       "container.manifest",
	TagCollection:            "container.tag",
	SignatureCollection:      "container.manifestsignature",
	ArtifactCollection:       "core.artifact",
	GuardCollection:          "core.contentredirectcontentguard",
	AuditCollection:          "countersign.auditentry",
	TokenCollection:          "countersign.token",
	RobotCollection:          "countersign.robot",
	WebhookCollection:        "countersign.webhook",

	PullThroughRemoteCollection: "container.containerpullthroughremote",
	PullThroughCollection:       "container.containerpullthroughdistribution",
}

// Model returns Pulp's name of the model of a collection's objects, APP.MODEL; empty if there is no such collection.
func Model(collection string) string { return prnModels[collection] }

// PRN returns the Pulp resource name of the object with the given id in a collection.
func PRN(collection, id string) string { return "prn:" + prnModels[collection] + ":" + id }

// VersionPRN returns the Pulp resource name of a repository version.
func VersionPRN(id string) string { return "prn:core.repositoryversion:" + id }

// Ref is a parsed href or PRN.
type Ref struct {
	Collection string // empty for the PRN of a repository version
	ID         string // of the repository for a version href, of the version for a version PRN
	Version    int64  // the number in a version href, else -1
}

var (
	uuidForm     = regexp.MustCompile(`^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}$`)
	numberForm   = regexp.MustCompile(`^(0|[1-9][0-9]{0,17})$`)
	numberIDForm = regexp.MustCompile(`^[1-9][0-9]{0,17}$`)
	collections  = func() map[string]string { // model -> collection
		m := make(map[string]string, len(prnModels))
		for c, model := range prnModels {
			m[model] = c
		}
		return m
	}()
)

// ValidUUID reports whether s is a UUID. Both cases of letters are valid.
func ValidUUID(s string) bool { return uuidForm.MatchString(s) }

// ParseRef parses an href or a PRN. ok is false if s is neither, or refers to a kind of object that this server does not
// have. The object need not exist.
func ParseRef(s string) (ref Ref, ok bool) {
	if model, id, isPRN := cutPRN(s); isPRN {
		if model == "core.repositoryversion" && ValidUUID(id) {
			return Ref{ID: strings.ToLower(id), Version: -1}, true
		}
		c, known := collections[model]
		return Ref{Collection: c, ID: strings.ToLower(id), Version: -1}, known && validID(c, id)
	}
	rest, ok := strings.CutPrefix(s, Root)
	if !ok {
		return Ref{}, false
	}
	for c := range prnModels {
		tail, ok := strings.CutPrefix(rest, c)
		if !ok {
			continue
		}
		id, tail, ok := strings.Cut(tail, "/")
		if !ok || !validID(c, id) {
			continue
		}
		id = strings.ToLower(id)
		if tail == "" {
			return Ref{Collection: c, ID: id, Version: -1}, true
		}
		number, isVersion := strings.CutPrefix(tail, "versions/")
		number, closed := strings.CutSuffix(number, "/")
		if (c == PushCollection || c == ContainerCollection) && isVersion && closed && numberForm.MatchString(number) {
			n, err := strconv.ParseInt(number, 10, 64)
			return Ref{Collection: c, ID: id, Version: n}, err == nil
		}
	}
	return Ref{}, false
}

func cutPRN(s string) (model, id string, ok bool) {
	rest, ok := strings.CutPrefix(s, "prn:")
	if !ok {
		return "", "", false
	}
	return strings.Cut(rest, ":")
}

func validID(collection, id string) bool {
	if collection == UserCollection || collection == GroupCollection || collection == RobotCollection {
		return numberIDForm.MatchString(id)
	}
	return ValidUUID(id)
}
