package cli

import (
	"context"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/countersign/countersign/internal/apiclient"
)

// tagCommands are the commands about tags.
type tagCommands struct {
	List listTagsCommand `cmd:"" help:"List the tags of a repository with their manifests and signatures."`
}

// namesPerRequest is the number of objects that one request names: the length of URLs is limited.
const namesPerRequest = 50

type (
	tag struct {
		Href     string `json:"pulp_href"`
		Name     string `json:"name"`
		Manifest string `json:"tagged_manifest"`
	}
	manifest struct {
		Href         string   `json:"pulp_href"`
		Digest       string   `json:"digest"`
		MediaType    string   `json:"media_type"`
		Type         string   `json:"type"`
		Architecture *string  `json:"architecture"`
		OS           *string  `json:"os"`
		Listed       []string `json:"listed_manifests"`
	}
	signature struct {
		Href      string `json:"pulp_href"`
		Name      string `json:"name"`
		KeyID     string `json:"key_id"`
		Manifest  string `json:"signed_manifest"`
		Reference string `json:"docker_reference"`
	}
)

type listTagsCommand struct {
	Repository string `arg:"" help:"Name or path of the repository."`
	Version    *int64 `help:"Version of the repository. Default: the latest." placeholder:"N"`
	listOptions
	apiOptions
}

// Run runs the command.
func (o listTagsCommand) Run(ctx context.Context, c *console) error {
	r, err := parseReference(o.Repository)
	if err != nil {
		return err
	}
	return c.connect(ctx, connection{options: o.apiOptions, reference: r}, func(ctx context.Context, s *session) error {
		repo, err := s.repositoryOf(ctx, r)
		if err != nil {
			return err
		}
		number := repo.V.latest()
		if o.Version != nil {
			number = *o.Version
		}
		in := url.Values{"repository_version": {repo.V.versionHref(number)}, "ordering": {"name"}}
		found, total, err := apiclient.List[apiclient.Object[tag]](ctx, s.api, tagsPath, in, o.Limit)
		if err != nil {
			return err
		}
		o.notice(c, len(found), total)
		if c.json {
			return s.show(found, table{})
		}
		manifests, signed, err := s.signaturesOf(ctx, repo.V.versionHref(number), found)
		if err != nil {
			return err
		}
		return s.show(found, tagTable(found, manifests, signed))
	})
}

// tagTable returns tags as a table, with their manifests and the number of signatures of these.
func tagTable(all []apiclient.Object[tag], manifests map[string]manifest, signed map[string]int) table {
	t := table{header: []string{"TAG", "DIGEST", "TYPE", "SIGNATURES"}}
	for _, v := range all {
		m := manifests[v.V.Manifest]
		t.rows = append(t.rows, []cell{{text: v.V.Name}, {text: m.Digest}, {text: m.Type}, signedCell(m, signed)})
	}
	return t
}

// signedCell returns the number of signatures of a manifest, or of a list the number of its images that have some.
func signedCell(m manifest, signed map[string]int) cell {
	if len(m.Listed) == 0 {
		if n := signed[m.Href]; n > 0 {
			return cell{strconv.Itoa(n), green}
		}
		return cell{"none", yellow}
	}
	images := 0
	for _, href := range m.Listed {
		if signed[href] > 0 {
			images++
		}
	}
	text := fmt.Sprintf("%d of %s", images, count(len(m.Listed), "image"))
	if n := signed[m.Href]; n > 0 {
		return cell{fmt.Sprintf("%d, and %s", n, text), green}
	}
	if images < len(m.Listed) {
		return cell{text, yellow}
	}
	return cell{text, green}
}

// signaturesOf returns the manifests of tags, with those that lists list, and the numbers of their signatures in a version. All
// are by the hrefs of manifests.
func (s *session) signaturesOf(
	ctx context.Context, version string, tags []apiclient.Object[tag],
) (manifests map[string]manifest, signed map[string]int, err error) {
	manifests, signed = map[string]manifest{}, map[string]int{}
	hrefs := make([]string, len(tags))
	for i, t := range tags {
		hrefs[i] = t.V.Manifest
	}
	if err := s.addManifests(ctx, manifests, hrefs); err != nil {
		return nil, nil, err
	}
	var listed []string
	for _, m := range manifests {
		listed = append(listed, m.Listed...)
	}
	if err := s.addManifests(ctx, manifests, listed); err != nil {
		return nil, nil, err
	}
	digests := make([]string, 0, len(manifests))
	for _, m := range manifests {
		digests = append(digests, m.Digest)
	}
	for some := range slices.Chunk(digests, namesPerRequest) {
		query := url.Values{
			"repository_version": {version}, "manifest": {strings.Join(some, ",")}, "fields": {"pulp_href,signed_manifest"},
		}
		all, _, err := apiclient.List[signature](ctx, s.api, signaturesPath, query, 0)
		if err != nil {
			return nil, nil, err
		}
		for _, g := range all {
			signed[g.Manifest]++
		}
	}
	return manifests, signed, nil
}

// addManifests adds the manifests with some hrefs to found.
func (s *session) addManifests(ctx context.Context, found map[string]manifest, hrefs []string) error {
	slices.Sort(hrefs)
	for some := range slices.Chunk(slices.Compact(hrefs), namesPerRequest) {
		query := url.Values{
			"pulp_href__in": {strings.Join(some, ",")},
			"fields":        {"pulp_href,digest,media_type,type,architecture,os,listed_manifests"},
		}
		all, _, err := apiclient.List[manifest](ctx, s.api, manifestsPath, query, 0)
		if err != nil {
			return err
		}
		for _, m := range all {
			found[m.Href] = m
		}
	}
	return nil
}
