package api

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/auth"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store"
	"github.com/countersign/countersign/tasks"
)

// action reads what a content action of a repository is to do, and checks it. The task repeats the check against the version that is the latest when it runs.
type action func(req *request, b *body, repo pulp.Repository) (tasks.Spec, error)

// repositoryActions are the actions of a type of repository by the last segment of their path (contract 2.5.1, 2.5.2).
func (a *API) repositoryActions(t pulp.RepositoryType, r resource[pulp.Repository]) map[string]handler {
	actions := map[string]handler{"sign": a.sign(r), "verify": a.verify(r)}
	add := func(name string, act action) { actions[name] = a.contentAction(r, name, act) }
	add("tag", a.tag)
	add("untag", a.untag)
	add("rollback", a.rollback)
	if t == pulp.ContainerPush {
		add("remove_image", a.removeImage)
		add("remove_signatures", a.removeSignatures)
		add("migrate", a.migrate)
		return actions
	}
	add("sync", a.sync)
	add("add", a.addContent)
	add("remove", a.removeContent)
	add("copy_tags", a.copyTags)
	add("copy_manifests", a.copyManifests)
	return actions
}

// contentAction runs an action for who may change the repository, as a task that has the repository to itself.
func (a *API) contentAction(r resource[pulp.Repository], name string, act action) handler {
	return func(req *request) (answer, error) {
		repo, err := a.permitted(r, req, auth.Modify)
		if err != nil {
			return answer{}, err
		}
		b, err := req.body()
		if err != nil {
			return answer{}, err
		}
		spec, err := act(req, b, repo)
		if err != nil {
			return answer{}, err
		}
		href := pulp.RepositoryHref(repo.Type, repo.ID)
		spec.Namespace = pulp.NamespaceOf(repo.Name)
		spec.Resources = append([]store.Resource{{Href: href, Exclusive: true}}, spec.Resources...)
		return a.dispatch(req, name, href, spec)
	}
}

// sync reads what is to be synced and how (contract 6).
func (a *API) sync(req *request, b *body, repo pulp.Repository) (tasks.Spec, error) {
	remote, _, err := a.readRemoteOf(req, b)
	if err != nil {
		return tasks.Spec{}, err
	}
	args := tasks.SyncArgs{RepositoryID: repo.ID, RemoteID: remote.ID}
	for name, to := range map[string]*bool{
		"mirror": &args.Mirror, "signed_only": &args.SignedOnly, "allow_shrink": &args.AllowShrink, "skip_corrupt": &args.SkipCorrupt,
	} {
		if v := b.flag(name); v != nil {
			*to = *v
		}
	}
	if err := b.finish(); err != nil {
		return tasks.Spec{}, err
	}
	if args.RemoteID == "" {
		args.RemoteID = repo.RemoteID
	}
	if args.RemoteID == "" {
		return tasks.Spec{}, fault.Field("remote", "This field is required since a remote is not set on the repository.")
	}
	return tasks.Spec{Name: tasks.Sync, Args: args, Resources: []store.Resource{{Href: pulp.Href(pulp.RemoteCollection, args.RemoteID)}}}, nil
}

// tagForm is the reference's form of a tag; ours, which the registry protocol has, is a little wider.
var tagForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*$`)

const badTag = "The provided tag is not valid. A tag may contain lowercase and uppercase ASCII alphabetic characters, digits, underscores, periods, and dashes. " +
	"A tag must not start with a period or a dash."

func (a *API) tag(req *request, b *body, repo pulp.Repository) (tasks.Spec, error) {
	name, d := b.text("tag", true, false).Value, b.text("digest", true, false).Value
	if name != nil && len(b.errs["tag"]) == 0 && !tagForm.MatchString(*name) && !pulp.ValidTag(*name) {
		b.fail("tag", badTag)
	}
	if name != nil && len(b.errs["tag"]) == 0 && !pulp.ValidTag(*name) {
		b.fail("tag", "Ensure this field has no more than 128 characters.")
	}
	if name != nil && pulp.IsPinTag(*name) {
		b.fail("tag", "Tags that begin so are this registry's own in an upstream.")
	}
	if err := b.finish(); err != nil {
		return tasks.Spec{}, err
	}
	if err := a.mustHoldManifest(req, repo, *d); err != nil {
		return tasks.Spec{}, err
	}
	return tasks.Spec{Name: tasks.Tag, Args: tasks.TagArgs{RepositoryID: repo.ID, Tag: *name, Digest: digest.Digest(*d)}, Immediate: true}, nil
}

func (a *API) untag(req *request, b *body, repo pulp.Repository) (tasks.Spec, error) {
	name := b.text("tag", true, false).Value
	if err := b.finish(); err != nil {
		return tasks.Spec{}, err
	}
	held, _, err := a.Store.Tags(req.Context(), store.ListQuery{Limit: 1, Where: []store.Filter{
		store.Where("name", store.Equal, *name), store.InVersion(repo.ID, repo.LatestVersion, store.Present),
	}})
	if err == nil && len(held) == 0 {
		err = fault.New(fault.Invalid, "The tag '%s' does not exist in the latest repository version '%s'", *name, latestName(repo))
	}
	return tasks.Spec{Name: tasks.Untag, Args: tasks.TagArgs{RepositoryID: repo.ID, Tag: *name}, Immediate: true}, err
}

// latestName names a repository's latest version as Pulp's errors do.
func latestName(r pulp.Repository) string {
	return fmt.Sprintf("<Repository: %s; Version: %d>", r.Name, r.LatestVersion)
}

// mustHoldManifest sees that a repository's latest version holds a manifest.
func (a *API) mustHoldManifest(req *request, repo pulp.Repository, d string) error {
	held, _, err := a.Store.Manifests(req.Context(), store.ListQuery{Limit: 1, Where: []store.Filter{
		store.Where("digest", store.Equal, d), store.InVersion(repo.ID, repo.LatestVersion, store.Present),
	}})
	if err == nil && len(held) == 0 {
		err = fault.New(fault.Invalid, "A manifest with the digest '%s' does not exist in the latest repository version '%s'", d, latestName(repo))
	}
	return err
}

func (a *API) removeImage(req *request, b *body, repo pulp.Repository) (tasks.Spec, error) {
	d := b.text("digest", true, false).Value
	if err := b.finish(); err != nil {
		return tasks.Spec{}, err
	}
	return tasks.Spec{Name: tasks.RemoveContent, Args: tasks.RemoveArgs{RepositoryID: repo.ID, Image: digest.Digest(*d)}, Immediate: true}, a.mustHoldManifest(req, repo, *d)
}

func (a *API) removeSignatures(req *request, b *body, repo pulp.Repository) (tasks.Spec, error) {
	key := b.text("signed_with_key_id", true, false).Value
	if err := b.finish(); err != nil {
		return tasks.Spec{}, err
	}
	held, _, err := a.Store.Signatures(req.Context(), store.ListQuery{Limit: 1, Where: []store.Filter{
		store.Where("key_id", store.Equal, *key), store.InVersion(repo.ID, repo.LatestVersion, store.Present),
	}})
	if err == nil && len(held) == 0 {
		err = fault.New(fault.Invalid, "There are no signatures in the latest repository version '%s' produced with the specified key_id '%s'", latestName(repo), *key)
	}
	return tasks.Spec{Name: tasks.RemoveSignatures, Args: tasks.RemoveSignaturesArgs{RepositoryID: repo.ID, KeyID: *key}, Immediate: true}, err
}

func (a *API) migrate(_ *request, b *body, repo pulp.Repository) (tasks.Spec, error) {
	return tasks.Spec{Name: tasks.Migrate, Args: tasks.ObjectArgs{Collection: repo.Type.Collection(), ID: repo.ID}, Immediate: true}, b.finish()
}

// rollback makes a new version with the content of an older one. Pulp has no such call: version is a number, or the version's href or PRN.
func (a *API) rollback(req *request, b *body, repo pulp.Repository) (tasks.Spec, error) {
	v, set := b.value("version", false)
	text, isText := v.(string)
	if n, isNumber := v.(json.Number); isNumber {
		text, isText = n.String(), true
	}
	switch {
	case !set:
		b.fail("version", "This field is required.")
	case !isText:
		b.fail("version", "Incorrect type. Expected a number or a URL string, received %s.", pythonType(v))
	}
	if err := b.finish(); err != nil {
		return tasks.Spec{}, err
	}
	if n, err := strconv.ParseInt(text, 10, 64); err == nil && n >= 0 {
		text = pulp.VersionHref(repo.Type, repo.ID, n)
	}
	version, err := a.versionNamed(req, text)
	if _, missing := err.(*httpError); missing || err == nil && version.RepositoryID != repo.ID { //nolint:errorlint // it is not wrapped
		err = fault.Field("version", "The repository has no such version.")
	}
	return tasks.Spec{Name: tasks.Restore, Args: tasks.VersionArgs{RepositoryID: repo.ID, Number: version.Number}, Immediate: true}, err
}

// addContent adds units that the caller sees, with all that they name.
func (a *API) addContent(req *request, b *body, repo pulp.Repository) (tasks.Spec, error) {
	units, all, err := a.readUnits(req, b)
	if err == nil && all { // that is for what can be removed
		err = badList("URI not valid: *")
	}
	if err != nil {
		return tasks.Spec{}, err
	}
	return tasks.Spec{Name: tasks.AddContent, Args: tasks.AddArgs{RepositoryID: repo.ID, Units: units}, Immediate: true}, nil
}

// removeContent removes units, or with "*" everything.
func (a *API) removeContent(req *request, b *body, repo pulp.Repository) (tasks.Spec, error) {
	units, all, err := a.readUnits(req, b)
	return tasks.Spec{Name: tasks.RemoveContent, Args: tasks.RemoveArgs{RepositoryID: repo.ID, Units: units, All: all}, Immediate: true}, err
}

// unitKinds are the kinds of content by their collections; other collections have none.
var unitKinds = map[string]pulp.Kind{
	pulp.BlobCollection: pulp.KindBlob, pulp.ManifestCollection: pulp.KindManifest, pulp.TagCollection: pulp.KindTag, pulp.SignatureCollection: pulp.KindSignature,
}

// readUnits reads the field content_units: references to content that the caller sees, each once and in its order, or "*" alone. A body without the field
// names none.
func (a *API) readUnits(req *request, b *body) (units []store.Unit, all bool, err error) {
	const field = "content_units"
	texts := b.texts(field)
	if err := b.finish(); err != nil {
		return nil, false, err
	}
	for _, t := range texts {
		if t == "*" && len(texts) > 1 {
			return nil, false, fault.New(fault.Invalid, "'*' should be the only item present in the ['%s']", strings.Join(texts, "', '"))
		}
	}
	if len(texts) == 1 && texts[0] == "*" {
		return nil, true, nil
	}
	wanted := make([]store.Unit, len(texts))
	byKind := map[pulp.Kind][]string{}
	for i, t := range texts {
		ref, err := reference(t)
		if err != nil {
			return nil, false, err
		}
		wanted[i] = store.Unit{Kind: unitKinds[ref.Collection], ID: ref.ID}
		byKind[wanted[i].Kind] = append(byKind[wanted[i].Kind], ref.ID)
	}
	seen := map[pulp.Kind]map[string]bool{}
	for kind, ids := range byKind {
		if seen[kind], err = a.seenUnits(req, kind, ids); err != nil {
			return nil, false, err
		}
	}
	var missing []string
	have := map[store.Unit]bool{}
	for i, u := range wanted {
		switch {
		case !seen[u.Kind][u.ID]:
			missing = append(missing, texts[i])
		case !have[u]:
			have[u] = true
			units = append(units, u)
		}
	}
	if missing != nil {
		return nil, false, badList("Could not find the following content units: ['%s']", strings.Join(missing, "', '"))
	}
	return units, false, nil
}

// seenUnits returns which units of a kind the caller sees.
func (a *API) seenUnits(req *request, kind pulp.Kind, ids []string) (map[string]bool, error) {
	where, err := visible(req)
	if err != nil {
		return nil, err
	}
	q := store.ListQuery{Where: append(where, store.OneOf("pulp_id", ids)), Limit: len(ids)}
	var found []string
	switch kind {
	case pulp.KindBlob:
		found, err = findIDs(a, req, store.BlobList, q)
	case pulp.KindManifest:
		found, err = findIDs(a, req, store.ManifestList, q)
	case pulp.KindTag:
		found, err = findIDs(a, req, store.TagList, q)
	case pulp.KindSignature:
		found, err = findIDs(a, req, store.SignatureList, q)
	}
	seen := make(map[string]bool, len(found))
	for _, id := range found {
		seen[id] = true
	}
	return seen, err
}

func findIDs[T any](a *API, req *request, l *store.List[T], q store.ListQuery) ([]string, error) {
	found, err := l.Find(req.Context(), a.Store, q)
	if err != nil {
		return nil, err
	}
	return found.IDs, nil
}

func (a *API) copyTags(req *request, b *body, repo pulp.Repository) (tasks.Spec, error) {
	names := b.optionalTexts("names")
	return a.copyContent(req, b, repo, store.Copy{Tags: true, Names: listOrAll(names)})
}

// copiedTypes are the media types that manifests may be copied by (contract 2.5.2).
var copiedTypes = []string{
	"application/vnd.docker.distribution.manifest.v1+json", pulp.DockerManifest, pulp.DockerList, pulp.OCIManifest, pulp.OCIIndex,
}

func (a *API) copyManifests(req *request, b *body, repo pulp.Repository) (tasks.Spec, error) {
	from := store.Copy{Digests: listOrAll(b.optionalTexts("digests")), MediaTypes: listOrAll(b.optionalTexts("media_types"))}
	for _, t := range from.MediaTypes {
		if !slices.Contains(copiedTypes, t) {
			b.fail("media_types", "\"%s\" is not a valid choice.", t)
		}
	}
	return a.copyContent(req, b, repo, from)
}

// listOrAll is a list of what to copy; nil, which is all, when it was left out or null. An empty list is nothing (contract 2.5.2).
func listOrAll(o tasks.Optional[[]string]) []string {
	if o.Value == nil {
		return nil
	}
	return *o.Value
}

// copyContent reads where to copy from: a repository, whose latest version is meant, or a version of one, which may be a push repository's.
func (a *API) copyContent(req *request, b *body, repo pulp.Repository, from store.Copy) (tasks.Spec, error) {
	source, _, err := readRelated(b, "source_repository", pulp.ContainerCollection, func(id string) (pulp.Repository, error) {
		return seen(a, a.repositories(pulp.Container), req, id)
	})
	if err != nil {
		return tasks.Spec{}, err
	}
	version, versionSet, err := a.readVersion(req, b, "source_repository_version")
	if err != nil {
		return tasks.Spec{}, err
	}
	if err := b.finish(); err != nil {
		return tasks.Spec{}, err
	}
	switch {
	case source.ID == "" && !versionSet:
		return tasks.Spec{}, fault.New(fault.Invalid, "Either the 'repository' or 'repository_version' needs to be specified")
	case source.ID != "" && versionSet:
		return tasks.Spec{}, fault.New(fault.Invalid, "Either the 'repository' or 'repository_version' need to be specified but not both.")
	case versionSet:
		from.RepositoryID, from.Number = version.RepositoryID, version.Number
		source.Type = version.Type
	default:
		from.RepositoryID, from.Number = source.ID, source.LatestVersion
	}
	spec := tasks.Spec{Name: tasks.AddContent, Args: tasks.AddArgs{RepositoryID: repo.ID, Copy: &from}, Immediate: true}
	if from.RepositoryID == repo.ID {
		return spec, nil
	}
	// Tasks on the source wait for those that have reserved it. Callers who only see it must not hold up its owners: the copy runs without a reservation, as pushes to the source do.
	source, err = a.Store.Repository(req.Context(), source.Type, from.RepositoryID)
	if err == nil && mayOwn(req, source.Name) {
		spec.Resources = []store.Resource{{Href: pulp.RepositoryHref(source.Type, source.ID)}}
	}
	return spec, err
}

// readVersion reads a field that names a repository version that the caller sees, of any type of repository.
func (a *API) readVersion(req *request, b *body, name string) (v pulp.Version, set bool, err error) {
	text := b.reference(name)
	if text == "" {
		return v, false, nil
	}
	ref, refErr := reference(text)
	switch {
	case refErr != nil:
		b.fail(name, "Invalid hyperlink - No URL match.")
		return v, true, nil
	case !isVersion(ref):
		b.fail(name, "Invalid hyperlink - Incorrect URL match.")
		return v, true, nil
	}
	v, err = a.versionNamed(req, text)
	if _, missing := err.(*httpError); missing { //nolint:errorlint // it is not wrapped
		b.fail(name, "Invalid hyperlink - Object does not exist.")
		err = nil
	}
	return v, true, err
}
