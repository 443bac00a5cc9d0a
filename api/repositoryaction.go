package api

import (
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"strconv"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/api/internal/body"
	"github.com/countersign/countersign/api/internal/reply"
	"github.com/countersign/countersign/internal/access"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/list"
	"github.com/countersign/countersign/internal/store/taskstore"
	"github.com/countersign/countersign/tasks"
)

// contentTask reads and checks the body of a content action of a repository, and returns the task to start. The task
// repeats the checks against the version that is the latest when it runs.
type contentTask func(req *request, b *body.Fields, repo pulp.Repository) (tasks.Spec, error)

// repositoryActions returns the actions of a type of repository by the last segment of their path
// (compatibility.md#push-repositories, compatibility.md#container-repositories).
func (a *API) repositoryActions(t pulp.RepositoryType, r resource[pulp.Repository]) map[string]operation {
	actions := map[string]operation{
		"sign": action(a.sign(r), signFields),
		"verify": {
			handle: a.verify(r), body: verifyFields, replies: replies{http.StatusOK: verified{}},
		},
	}
	add := func(name string, needs access.Action, act contentTask, fields body.Form) {
		actions[name] = action(a.contentAction(r, name, needs, act), fields)
	}
	tag, digest := body.Form{"tag": body.Text.Required()}, body.Form{"digest": body.Text.Required()}
	add("tag", access.Modify, a.tag, tag.With(digest))
	add("untag", access.Modify, a.untag, tag)
	add("rollback", access.Modify, a.rollback, body.Form{"version": body.Value.Required()})
	if t == pulp.ContainerPush {
		add("remove_image", access.Modify, a.removeImage, digest)
		add("remove_signatures", access.Modify, a.removeSignatures, body.Form{"signed_with_key_id": body.Text.Required()})
		add("migrate", access.Change, a.migrate, body.Form{})
		return actions
	}
	units := body.Form{"content_units": body.Texts}
	source := body.Form{"source_repository": body.Reference, "source_repository_version": body.Reference}
	add("sync", access.Sync, a.sync, body.Form{
		"remote": body.Reference, "mirror": body.Bool, "signed_only": body.Bool, "allow_shrink": body.Bool, "skip_corrupt": body.Bool,
	})
	add("add", access.Modify, a.addContent, units)
	add("remove", access.Modify, a.removeContent, units)
	add("copy_tags", access.Modify, a.copyTags, source.With(body.Form{"names": body.OptionalTexts}))
	add("copy_manifests", access.Modify, a.copyManifests, source.With(body.Form{
		"digests": body.OptionalTexts, "media_types": body.OptionalTexts.OneOf(copyTypes...),
	}))
	return actions
}

// contentAction returns the handler that starts the task of an action, for callers with the permission that the action
// needs on the repository. The task reserves the repository exclusively.
func (a *API) contentAction(r resource[pulp.Repository], name string, needs access.Action, act contentTask) handler {
	return func(req *request) (reply.Reply, error) {
		repo, err := permitted(a, r, req, needs)
		if err != nil {
			return reply.Reply{}, err
		}
		b, err := body.Read(req.Request)
		if err != nil {
			return reply.Reply{}, err
		}
		spec, err := act(req, b, repo)
		if err != nil {
			return reply.Reply{}, err
		}
		href := pulp.RepositoryHref(repo.Type, repo.ID)
		spec.Namespace = pulp.NamespaceOf(repo.Name)
		spec.Resources = append([]taskstore.Resource{{Href: href, Exclusive: true}}, spec.Resources...)
		return a.dispatch(req, auditAction(req.Method, name), href, spec)
	}
}

// sync syncs the repository from a remote: the given one, or that of the repository (compatibility.md#sync).
func (a *API) sync(req *request, b *body.Fields, repo pulp.Repository) (tasks.Spec, error) {
	remote, _, err := a.readRemoteField(req, b)
	if err != nil {
		return tasks.Spec{}, err
	}
	args := tasks.SyncArgs{RepositoryID: repo.ID, RemoteID: remote.ID}
	for name, to := range map[string]*bool{
		"mirror":       &args.Mirror,
		"signed_only":  &args.SignedOnly,
		"allow_shrink": &args.AllowShrink,
		"skip_corrupt": &args.SkipCorrupt,
	} {
		if v := b.Bool(name); v != nil {
			*to = *v
		}
	}
	if err := b.Finish(); err != nil {
		return tasks.Spec{}, err
	}
	if args.RemoteID == "" {
		args.RemoteID = repo.RemoteID
	}
	if args.RemoteID == "" {
		return tasks.Spec{}, fault.Field("remote", "This field is required since a remote is not set on the repository.")
	}
	reserved := []taskstore.Resource{{Href: pulp.Href(pulp.RemoteCollection, args.RemoteID)}}
	return tasks.Spec{Name: tasks.Sync, Args: args, Resources: reserved}, nil
}

// tagForm is the form of a tag of any length: Pulp's, and a leading underscore, which registries allow.
var tagForm = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]*$`)

const badTag = "The provided tag is not valid. A tag may contain lowercase and uppercase ASCII alphabetic characters, " +
	"digits, underscores, periods, and dashes. A tag must not start with a period or a dash."

// checkTag returns the error text for a tag that must not be created, or "".
func checkTag(name string) string {
	switch {
	case !tagForm.MatchString(name):
		return badTag
	case !pulp.ValidTag(name):
		return "Ensure this field has no more than 128 characters."
	case pulp.IsPinTag(name):
		return "Tags with this prefix are reserved for this registry's own use in its upstream."
	case !pulp.PushableTag(name):
		return "A tag of cosign's must contain a complete digest: sha256-, 64 hexadecimal digits and .sig, .att or .sbom."
	}
	return ""
}

// tag gives a manifest of the latest version a tag.
func (a *API) tag(req *request, b *body.Fields, repo pulp.Repository) (tasks.Spec, error) {
	name, d := b.Text("tag", body.Required).Value, b.Text("digest", body.Required).Value
	if name != nil && b.Valid("tag") {
		if text := checkTag(*name); text != "" {
			b.Fail("tag", "%s", text)
		}
	}
	if err := b.Finish(); err != nil {
		return tasks.Spec{}, err
	}
	if err := a.requireManifest(req, repo, *d); err != nil {
		return tasks.Spec{}, err
	}
	args := tasks.TagArgs{RepositoryID: repo.ID, Tag: *name, Digest: digest.Digest(*d)}
	return tasks.Spec{Name: tasks.Tag, Args: args, Immediate: true}, nil
}

// untag removes a tag of the latest version.
func (a *API) untag(req *request, b *body.Fields, repo pulp.Repository) (tasks.Spec, error) {
	name := b.Text("tag", body.Required).Value
	if err := b.Finish(); err != nil {
		return tasks.Spec{}, err
	}
	held, _, err := a.Store.Lists.Tags(req.Context(), list.Query{Limit: 1, Where: []list.Filter{
		list.Where("name", list.Equal, *name), list.InVersion(repo.ID, repo.LatestVersion, list.Present),
	}})
	if err == nil && len(held) == 0 {
		err = fault.New(fault.Invalid,
			"The tag '%s' does not exist in the latest repository version '%s'", *name, latestName(repo))
	}
	return tasks.Spec{Name: tasks.Untag, Args: tasks.TagArgs{RepositoryID: repo.ID, Tag: *name}, Immediate: true}, err
}

// latestName returns the name of a repository's latest version in Pulp's errors.
func latestName(r pulp.Repository) string {
	return fmt.Sprintf("<Repository: %s; Version: %d>", r.Name, r.LatestVersion)
}

// requireManifest returns an error unless a repository's latest version contains a manifest.
func (a *API) requireManifest(req *request, repo pulp.Repository, d string) error {
	held, _, err := a.Store.Lists.Manifests(req.Context(), list.Query{Limit: 1, Where: []list.Filter{
		list.Where("digest", list.Equal, d), list.InVersion(repo.ID, repo.LatestVersion, list.Present),
	}})
	if err == nil && len(held) == 0 {
		err = fault.New(fault.Invalid,
			"A manifest with the digest '%s' does not exist in the latest repository version '%s'", d, latestName(repo))
	}
	return err
}

// removeImage removes the manifest with a digest, and its tags.
func (a *API) removeImage(req *request, b *body.Fields, repo pulp.Repository) (tasks.Spec, error) {
	d := b.Text("digest", body.Required).Value
	if err := b.Finish(); err != nil {
		return tasks.Spec{}, err
	}
	args := tasks.RemoveArgs{RepositoryID: repo.ID, Image: digest.Digest(*d)}
	return tasks.Spec{Name: tasks.RemoveContent, Args: args, Immediate: true}, a.requireManifest(req, repo, *d)
}

// removeSignatures removes all signatures by one key.
func (a *API) removeSignatures(req *request, b *body.Fields, repo pulp.Repository) (tasks.Spec, error) {
	key := b.Text("signed_with_key_id", body.Required).Value
	if err := b.Finish(); err != nil {
		return tasks.Spec{}, err
	}
	held, _, err := a.Store.Lists.Signatures(req.Context(), list.Query{Limit: 1, Where: []list.Filter{
		list.Where("key_id", list.Equal, *key), list.InVersion(repo.ID, repo.LatestVersion, list.Present),
	}})
	if err == nil && len(held) == 0 {
		err = fault.New(fault.Invalid,
			"There are no signatures in the latest repository version '%s' produced with the specified key_id '%s'",
			latestName(repo), *key)
	}
	args := tasks.RemoveSignaturesArgs{RepositoryID: repo.ID, KeyID: *key}
	return tasks.Spec{Name: tasks.RemoveSignatures, Args: args, Immediate: true}, err
}

// migrate converts a push repository to a container repository.
func (a *API) migrate(_ *request, b *body.Fields, repo pulp.Repository) (tasks.Spec, error) {
	args := tasks.ObjectArgs{Collection: repo.Type.Collection(), ID: repo.ID}
	return tasks.Spec{Name: tasks.Migrate, Args: args, Immediate: true}, b.Finish()
}

// rollback creates a new version with the content of an older one, which the field version names by number, href or
// PRN. It is an operation of our own.
func (a *API) rollback(req *request, b *body.Fields, repo pulp.Repository) (tasks.Spec, error) {
	v, set := b.Value("version")
	text, isText := v.(string)
	if n, isNumber := v.(json.Number); isNumber {
		text, isText = n.String(), true
	}
	switch {
	case !set:
		b.Fail("version", "This field is required.")
	case !isText:
		b.Fail("version", "Incorrect type. Expected a number or a URL string, received %s.", body.PythonType(v))
	}
	if err := b.Finish(); err != nil {
		return tasks.Spec{}, err
	}
	if n, err := strconv.ParseInt(text, 10, 64); err == nil && n >= 0 {
		text = pulp.VersionHref(repo.Type, repo.ID, n)
	}
	version, err := a.findVersion(req, text)
	if isMissing(err) || err == nil && version.RepositoryID != repo.ID {
		err = fault.Field("version", "The repository has no such version.")
	}
	args := tasks.VersionArgs{RepositoryID: repo.ID, Number: version.Number}
	return tasks.Spec{Name: tasks.Restore, Args: args, Immediate: true}, err
}

// addContent adds units that the caller may see, with the content that they refer to.
func (a *API) addContent(req *request, b *body.Fields, repo pulp.Repository) (tasks.Spec, error) {
	units, all, err := a.readUnits(req, b)
	if err == nil && all { // "*" is for removals
		err = reply.BadRequest("URI not valid: *")
	}
	if err != nil {
		return tasks.Spec{}, err
	}
	return tasks.Spec{Name: tasks.AddContent, Args: tasks.AddArgs{RepositoryID: repo.ID, Units: units}, Immediate: true}, nil
}

// removeContent removes units, or all content for "*".
func (a *API) removeContent(req *request, b *body.Fields, repo pulp.Repository) (tasks.Spec, error) {
	units, all, err := a.readUnits(req, b)
	args := tasks.RemoveArgs{RepositoryID: repo.ID, Units: units, All: all}
	return tasks.Spec{Name: tasks.RemoveContent, Args: args, Immediate: true}, err
}
