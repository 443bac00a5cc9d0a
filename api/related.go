package api

import (
	"fmt"
	"strings"

	"github.com/countersign/countersign/api/internal/body"
	"github.com/countersign/countersign/api/internal/reply"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/list"
	"github.com/countersign/countersign/internal/store/record"
)

const notExist = "Invalid hyperlink - Object does not exist."

// readRelated reads a field that names an object of a collection. find returns the object with an id. set is false
// when the body lacks the field; the object is zero for null.
func readRelated[T any](
	b *body.Fields, name, collection string, find func(id string) (T, error),
) (object T, set bool, err error) {
	set = b.Has(name)
	ref, ok := b.Related(name, collection)
	if !ok {
		return object, set, nil
	}
	object, err = find(ref.ID)
	if fault.Is(err, fault.NotFound) {
		b.Fail(name, notExist)
		return object, set, nil
	}
	if err != nil {
		err = fmt.Errorf("read %s: %w", name, err)
	}
	return object, set, err
}

// readRemoteField reads the field remote, which names a remote that the caller may see. set is false when the body
// lacks it; the remote is zero for null.
func (a *API) readRemoteField(req *request, b *body.Fields) (remote pulp.Remote, set bool, err error) {
	return readRelated(b, "remote", pulp.RemoteCollection, func(id string) (pulp.Remote, error) {
		return findByID(a, a.remotes(), req, id)
	})
}

// readVersion reads a field that names a repository version that the caller may see. set is false when the field is
// null or absent.
func (a *API) readVersion(req *request, b *body.Fields, name string) (v pulp.Version, set bool, err error) {
	text := b.Reference(name)
	if text == "" {
		return v, false, nil
	}
	ref, refErr := parseReference(text)
	switch {
	case refErr != nil:
		b.Fail(name, "Invalid hyperlink - No URL match.")
		return v, true, nil
	case !isVersion(ref):
		b.Fail(name, "Invalid hyperlink - Incorrect URL match.")
		return v, true, nil
	}
	v, err = a.findVersion(req, text)
	if isMissing(err) {
		b.Fail(name, notExist)
		err = nil
	}
	return v, true, err
}

// isVersion reports whether a reference is to a repository version.
func isVersion(ref pulp.Ref) bool { return ref.Version >= 0 || ref.Collection == "" }

// findVersion returns the repository version with an href or PRN. isMissing recognises the error for a text that is no
// reference to a version that the caller may see.
func (a *API) findVersion(req *request, text string) (pulp.Version, error) {
	ref, err := parseReference(strings.TrimSpace(text))
	if err != nil {
		return pulp.Version{}, err
	}
	missing := reply.BadRequest("URI %s not found for repositoryversion.", text)
	if !isVersion(ref) {
		return pulp.Version{}, missing
	}
	where, err := a.visible(req)
	if err != nil {
		return pulp.Version{}, err
	}
	if ref.Version >= 0 {
		where = append(where, list.Where("repository", list.Equal, ref.ID), list.Where("number", list.Equal, ref.Version))
	} else {
		where = append(where, list.Where("pulp_id", list.Equal, ref.ID))
	}
	found, _, err := a.Store.Lists.Versions(req.Context(), list.Query{Where: where, Limit: 1})
	if err == nil && (len(found) == 0 || ref.Version >= 0 && found[0].Type.Collection() != ref.Collection) {
		err = missing
	}
	if err != nil {
		return pulp.Version{}, err
	}
	return found[0], nil
}

// isMissing reports whether an error of findVersion means that there is no such version.
func isMissing(err error) bool {
	_, missing := err.(*reply.Error) //nolint:errorlint // findVersion does not wrap it
	return missing
}

// unitKinds has the kind of content of each collection of content.
var unitKinds = map[string]pulp.Kind{
	pulp.BlobCollection:      pulp.KindBlob,
	pulp.ManifestCollection:  pulp.KindManifest,
	pulp.TagCollection:       pulp.KindTag,
	pulp.SignatureCollection: pulp.KindSignature,
}

// readUnits reads the field content_units: references to content that the caller may see, or "*" alone, for which all
// is true. It returns each unit once, in the order of the field, and finishes the body.
func (a *API) readUnits(req *request, b *body.Fields) (units []record.Unit, all bool, err error) {
	const field = "content_units"
	texts := b.Texts(field)
	if err := b.Finish(); err != nil {
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
	requested := make([]record.Unit, len(texts))
	byKind := map[pulp.Kind][]string{}
	for i, t := range texts {
		ref, err := parseReference(t)
		if err != nil {
			return nil, false, err
		}
		u := record.Unit{Kind: unitKinds[ref.Collection], ID: ref.ID}
		requested[i], byKind[u.Kind] = u, append(byKind[u.Kind], u.ID)
	}
	found := map[pulp.Kind]map[string]bool{}
	for kind, ids := range byKind {
		if found[kind], err = a.visibleUnits(req, kind, ids); err != nil {
			return nil, false, err
		}
	}
	var missing []string
	added := map[record.Unit]bool{}
	for i, u := range requested {
		switch {
		case !found[u.Kind][u.ID]:
			missing = append(missing, texts[i])
		case !added[u]:
			added[u] = true
			units = append(units, u)
		}
	}
	if missing != nil {
		return nil, false, reply.BadRequest("Could not find the following content units: ['%s']", strings.Join(missing, "', '"))
	}
	return units, false, nil
}

// visibleUnits returns the set of those ids that are units of a kind which the caller may see. A kind without a value
// has none.
func (a *API) visibleUnits(req *request, kind pulp.Kind, ids []string) (map[string]bool, error) {
	where, err := a.visible(req)
	if err != nil {
		return nil, err
	}
	q := list.Query{Where: append(where, list.OneOf("pulp_id", ids)), Limit: len(ids)}
	var found []string
	switch kind {
	case pulp.KindBlob:
		found, err = findIDs(a, req, list.BlobList, q)
	case pulp.KindManifest:
		found, err = findIDs(a, req, list.ManifestList, q)
	case pulp.KindTag:
		found, err = findIDs(a, req, list.TagList, q)
	case pulp.KindSignature:
		found, err = findIDs(a, req, list.SignatureList, q)
	}
	visible := make(map[string]bool, len(found))
	for _, id := range found {
		visible[id] = true
	}
	return visible, err
}

func findIDs[T any](a *API, req *request, l *list.List[T], q list.Query) ([]string, error) {
	found, err := l.Find(req.Context(), a.Store.Lists, q)
	if err != nil {
		return nil, err
	}
	return found.IDs, nil
}
