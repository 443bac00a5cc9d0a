package api_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/content"
	"github.com/countersign/countersign/internal/store/record"
	"github.com/countersign/countersign/internal/store/taskstore"
	"github.com/countersign/countersign/tasks"
)

// TestContentActions compares the task of each action of a repository, and the errors that it returns.
func TestContentActions(t *testing.T) {
	t.Parallel()
	m := newMirrors(t)
	push, full, empty := m.repoHref(), href(m.full), href(m.empty)
	pushID, fullID, emptyID := m.repo.Repository.ID, m.full.ID, m.empty.ID
	secret := m.target("b/secret")
	hidden := m.pushImage(secret, "hidden", "amd64", "hidden")
	m.hide("b/secret")
	id := func(collection, filter string) string {
		ref, _ := pulp.ParseRef(m.results(collection+"?"+filter, "pulp_href")[0])
		return ref.ID
	}
	tag, image := id(pulp.TagCollection, "name=latest"), id(pulp.ManifestCollection, "digest="+string(m.manifest))
	hiddenHref := pulp.Href(pulp.TagCollection, id(pulp.TagCollection, "name=hidden"))
	tagHref, imageHref := pulp.Href(pulp.TagCollection, tag), pulp.Href(pulp.ManifestCollection, image)
	units := []record.Unit{{Kind: pulp.KindTag, ID: tag}, {Kind: pulp.KindManifest, ID: image}}
	other, err := m.store.Catalog.CreateRemote(
		t.Context(), pulp.Remote{Name: "acme/second", URL: "https://h.example", UpstreamName: "x", Policy: pulp.Immediate}, 0,
	)
	if err != nil {
		t.Fatal(err)
	}
	otherHref := pulp.Href(pulp.RemoteCollection, other.ID)
	alone := func(h string, shared ...string) []taskstore.Resource {
		all := []taskstore.Resource{{Href: h, Exclusive: true}}
		for _, s := range shared {
			all = append(all, taskstore.Resource{Href: s})
		}
		return all
	}
	app := fmt.Sprintf("<Repository: acme/app; Version: %d>", m.latest(pulp.ContainerPush, pushID))
	fullVersion, err := m.store.Content.Version(t.Context(), fullID, 1)
	if err != nil {
		t.Fatal(err)
	}
	noMatch, wrongMatch, none := `"Invalid hyperlink - No URL match."`, `"Invalid hyperlink - Incorrect URL match."`, `"Invalid hyperlink - Object does not exist."`
	missing := func(h string) string { return `["Could not find the following content units: ['` + h + `']"]` }
	for name, c := range map[string]struct {
		path, user, body string
		status           int
		want             string // of an error
		spec             tasks.Spec
	}{
		"sync, from its remote": {path: full + "sync/", body: `{}`, status: 202, spec: tasks.Spec{
			Name: tasks.Sync, Args: tasks.SyncArgs{
				RepositoryID: fullID, RemoteID: m.remote.ID,
			}, Resources: alone(full, m.remoteHref()),
		}},
		"sync, remote null": {path: full + "sync/", body: `{"remote":null}`, status: 202, spec: tasks.Spec{
			Name: tasks.Sync, Args: tasks.SyncArgs{
				RepositoryID: fullID, RemoteID: m.remote.ID,
			}, Resources: alone(full, m.remoteHref()),
		}},
		"sync, from another": {
			path: full + "sync/", body: `{"remote":"` + otherHref + `","mirror":true,"signed_only":true}`, status: 202,
			spec: tasks.Spec{
				Name: tasks.Sync, Args: tasks.SyncArgs{
					RepositoryID: fullID, RemoteID: other.ID, Mirror: true, SignedOnly: true,
				}, Resources: alone(full, otherHref),
			},
		},
		"sync, by PRN, as owner": {
			path: empty + "sync/", user: "acme", body: `{"remote":"prn:container.containerremote:` + other.ID + `"}`,
			status: 202, spec: tasks.Spec{
				Name: tasks.Sync, Args: tasks.SyncArgs{
					RepositoryID: emptyID, RemoteID: other.ID,
				}, Resources: alone(empty, otherHref),
			},
		},
		"sync, flags for missing content": {
			path: full + "sync/", body: `{"mirror":true,"allow_shrink":true,"skip_corrupt":"true"}`, status: 202,
			spec: tasks.Spec{
				Name: tasks.Sync, Args: tasks.SyncArgs{
					RepositoryID: fullID, RemoteID: m.remote.ID, Mirror: true, AllowShrink: true, SkipCorrupt: true,
				}, Resources: alone(full, m.remoteHref()),
			},
		},
		"sync, more flags": {
			path: full + "sync/", body: `{"allow_shrink":3,"skip_corrupt":null}`, status: 400,
			want: `{"allow_shrink":["Must be a valid boolean."],"skip_corrupt":["This field may not be null."]}`,
		},
		"sync, an invalid remote": {
			path: full + "sync/", body: `{"remote":"abc"}`, status: 400, want: `{"remote":[` + noMatch + `]}`,
		},
		"sync, an unknown remote": {
			path: full + "sync/", body: `{"remote":"` + pulp.Href(pulp.RemoteCollection, pulp.NewID()) + `"}`, status: 400,
			want: `{"remote":[` + none + `]}`,
		},
		"sync, flags": {
			path: full + "sync/", body: `{"mirror":null,"signed_only":2}`, status: 400,
			want: `{"mirror":["This field may not be null."],"signed_only":["Must be a valid boolean."]}`,
		},
		"sync, limit": {
			path: full + "sync/", body: `{"limit":1}`, status: 400, want: `{"limit":["Unexpected field"]}`,
		},
		"sync, a push repository": {path: push + "sync/", body: `{}`, status: 404, want: `{"detail":"Not found."}`},

		"tag": {
			path: full + "tag/", body: `{"tag":"stable","digest":"` + string(m.manifest) + `"}`, status: 202, spec: tasks.Spec{
				Name: tasks.Tag, Args: tasks.TagArgs{
					RepositoryID: fullID, Tag: "stable", Digest: m.manifest,
				}, Resources: alone(full), Immediate: true,
			},
		},
		"tag, a manifest of another repository": {
			path: empty + "tag/", body: `{"tag":"stable","digest":"` + string(m.manifest) + `"}`, status: 400,
			want: `{"non_field_errors":["A manifest with the digest '` + string(
				m.manifest,
			) + `' does not exist in the latest repository version '<Repository: acme/empty; Version: 0>'"]}`,
		},
		"tag, too long": {
			path: full + "tag/", body: `{"tag":"` + strings.Repeat("a", 129) + `","digest":"` + string(m.manifest) + `"}`,
			status: 400, want: `{"tag":["Ensure this field has no more than 128 characters."]}`,
		},
		"tag, with a slash": {
			path: full + "tag/", body: `{"tag":"a/b","digest":"x"}`, status: 400, want: `{"tag":["` + badTag + `"]}`,
		},
		"tag, a leading underscore": {
			path: full + "tag/", body: `{"tag":"_x","digest":"` + string(m.manifest) + `"}`, status: 202, spec: tasks.Spec{
				Name: tasks.Tag, Args: tasks.TagArgs{
					RepositoryID: fullID, Tag: "_x", Digest: m.manifest,
				}, Resources: alone(full), Immediate: true,
			},
		},
		"tag, a malformed companion tag": {
			path: full + "tag/", body: `{"tag":"sha256-abc.sig","digest":"` + string(m.manifest) + `"}`, status: 400,
			want: `{"tag":["A tag of cosign's must contain a complete digest: sha256-, 64 hexadecimal digits and .sig, .att or .sbom."]}`,
		},
		"tag, a pin tag": {
			path: full + "tag/", body: `{"tag":"countersign-keep.x","digest":"` + string(m.manifest) + `"}`, status: 400,
			want: `{"tag":["Tags with this prefix are reserved for this registry's own use in its upstream."]}`,
		},
		"tag, a line break": {
			path: full + "tag/", body: `{"tag":"a\nb","digest":"x"}`, status: 400, want: `{"tag":["` + badTag + `"]}`,
		},
		"untag": {path: push + "untag/", body: `{"tag":"latest"}`, status: 202, spec: tasks.Spec{
			Name: tasks.Untag, Args: tasks.TagArgs{RepositoryID: pushID, Tag: "latest"}, Resources: alone(push), Immediate: true,
		}},
		"untag, an unknown tag": {
			path: full + "untag/", body: `{}`, status: 400, want: `{"tag":["This field is required."]}`,
		},
		"untag, another user's repository": {
			path: full + "untag/", body: `{"tag":"hidden"}`, status: 400,
			want: `{"non_field_errors":["The tag 'hidden' does not exist in the latest repository version '<Repository: acme/full; Version: 1>'"]}`,
		},
		"remove_image": {
			path: push + "remove_image/", body: `{"digest":"` + string(m.manifest) + `"}`, status: 202, spec: tasks.Spec{
				Name: tasks.RemoveContent, Args: tasks.RemoveArgs{
					RepositoryID: pushID, Image: m.manifest,
				}, Resources: alone(push), Immediate: true,
			},
		},
		"remove_image, another user's repository": {
			path: push + "remove_image/", body: `{"digest":"` + string(hidden) + `"}`, status: 400,
			want: `{"non_field_errors":["A manifest with the digest '` + string(
				hidden,
			) + `' does not exist in the latest repository version '` + app + `'"]}`,
		},
		"remove_image, other repository": {path: full + "remove_image/", body: `{}`, status: 404},
		"remove_signatures, a short key": {
			path: push + "remove_signatures/", body: `{"signed_with_key_id":"d1b86e06b4d88886"}`, status: 400,
			want: `{"non_field_errors":["There are no signatures in the latest repository version '` + app + `' produced with the specified key_id 'd1b86e06b4d88886'"]}`,
		},
		"migrate": {path: push + "migrate/", body: ``, status: 202, spec: tasks.Spec{
			Name: tasks.Migrate, Args: tasks.ObjectArgs{
				Collection: pulp.PushCollection, ID: pushID,
			}, Resources: alone(push), Immediate: true,
		}},
		"migrate, an unknown field": {
			path: push + "migrate/", body: `{"name":"x"}`, status: 400, want: `{"name":["Unexpected field"]}`,
		},
		"migrate, other type": {path: full + "migrate/", body: `{}`, status: 404},

		"add": {
			path: empty + "add/",
			body: `{"content_units":["` + tagHref + `","prn:container.manifest:` + image + `","` + tagHref + `"]}`, status: 202,
			spec: tasks.Spec{
				Name: tasks.AddContent, Args: tasks.AddArgs{
					RepositoryID: emptyID, Units: units,
				}, Resources: alone(empty), Immediate: true,
			},
		},
		"add, as owner": {
			path: empty + "add/", user: "acme",
			body: `{"content_units":["` + tagHref + `","http://h.example` + imageHref + `"]}`, status: 202, spec: tasks.Spec{
				Name: tasks.AddContent, Args: tasks.AddArgs{
					RepositoryID: emptyID, Units: units,
				}, Resources: alone(empty), Immediate: true,
			},
		},
		"add, a hidden unit": {
			path: empty + "add/", user: "acme", body: `{"content_units":["` + tagHref + `","` + hiddenHref + `"]}`, status: 400,
			want: missing(hiddenHref),
		},
		"add, a repository": {
			path: empty + "add/", body: `{"content_units":["` + full + `"]}`, status: 400, want: missing(full),
		},
		"add, several unknown units": {
			path: empty + "add/", body: `{"content_units":["` + full + `","` + tagHref + `","` + push + `"]}`, status: 400,
			want: missing(full + "', '" + push),
		},
		"add, everything": {path: empty + "add/", body: `{"content_units":["*"]}`, status: 400, want: `["URI not valid: *"]`},
		"add, no list": {
			path: empty + "add/", body: `{"content_units":"` + tagHref + `"}`, status: 400,
			want: `{"content_units":["Expected a list of items but got type \"str\"."]}`,
		},
		"add, null": {
			path: empty + "add/", body: `{"content_units":null}`, status: 400,
			want: `{"content_units":["This field may not be null."]}`,
		},
		"add, nothing": {path: empty + "add/", body: `{}`, status: 202, spec: tasks.Spec{
			Name: tasks.AddContent, Args: tasks.AddArgs{RepositoryID: emptyID}, Resources: alone(empty), Immediate: true,
		}},
		"add, no body": {path: empty + "add/", body: ``, status: 202, spec: tasks.Spec{
			Name: tasks.AddContent, Args: tasks.AddArgs{RepositoryID: emptyID}, Resources: alone(empty), Immediate: true,
		}},
		"remove, nothing": {path: full + "remove/", body: `{}`, status: 202, spec: tasks.Spec{
			Name: tasks.RemoveContent, Args: tasks.RemoveArgs{RepositoryID: fullID}, Resources: alone(full), Immediate: true,
		}},
		"add, push repository": {path: push + "add/", body: `{}`, status: 404},
		"remove": {
			path: full + "remove/", body: `{"content_units":["` + tagHref + `","` + imageHref + `"]}`, status: 202,
			spec: tasks.Spec{
				Name: tasks.RemoveContent, Args: tasks.RemoveArgs{
					RepositoryID: fullID, Units: units,
				}, Resources: alone(full), Immediate: true,
			},
		},
		"remove, everything": {path: full + "remove/", body: `{"content_units":["*"]}`, status: 202, spec: tasks.Spec{
			Name: tasks.RemoveContent, Args: tasks.RemoveArgs{
				RepositoryID: fullID, All: true,
			}, Resources: alone(full), Immediate: true,
		}},
		"remove, a hidden unit": {
			path: full + "remove/", user: "acme", body: `{"content_units":["` + hiddenHref + `"]}`, status: 400,
			want: missing(hiddenHref),
		},

		"copy tags": {path: empty + "copy_tags/", body: `{"source_repository":"` + full + `"}`, status: 202, spec: tasks.Spec{
			Name: tasks.AddContent, Args: tasks.AddArgs{
				RepositoryID: emptyID, Copy: &content.Copy{RepositoryID: fullID, Number: 1, Tags: true},
			}, Resources: alone(empty, full), Immediate: true,
		}},
		"copy tags, names null": {
			path: empty + "copy_tags/", user: "acme", body: `{"source_repository":"` + full + `","names":null}`, status: 202,
			spec: tasks.Spec{
				Name: tasks.AddContent, Args: tasks.AddArgs{
					RepositoryID: emptyID, Copy: &content.Copy{RepositoryID: fullID, Number: 1, Tags: true},
				}, Resources: alone(empty, full), Immediate: true,
			},
		},
		"copy tags, none of them": {
			path: empty + "copy_tags/", body: `{"source_repository":"` + full + `","names":[]}`, status: 202, spec: tasks.Spec{
				Name: tasks.AddContent, Args: tasks.AddArgs{
					RepositoryID: emptyID, Copy: &content.Copy{RepositoryID: fullID, Number: 1, Tags: true, Names: []string{}},
				}, Resources: alone(empty, full), Immediate: true,
			},
		},
		"copy tags, from a version of a push repository": {
			path: empty + "copy_tags/", body: `{"source_repository_version":"` + push + `versions/2/","names":["latest"]}`,
			status: 202, spec: tasks.Spec{
				Name: tasks.AddContent, Args: tasks.AddArgs{
					RepositoryID: emptyID, Copy: &content.Copy{RepositoryID: pushID, Number: 2, Tags: true, Names: []string{"latest"}},
				}, Resources: alone(empty, push), Immediate: true,
			},
		},
		"copy tags, from a version by PRN": {
			path: empty + "copy_tags/", body: `{"source_repository_version":"` + pulp.VersionPRN(fullVersion.ID) + `"}`,
			status: 202, spec: tasks.Spec{
				Name: tasks.AddContent, Args: tasks.AddArgs{
					RepositoryID: emptyID, Copy: &content.Copy{RepositoryID: fullID, Number: 1, Tags: true},
				}, Resources: alone(empty, full), Immediate: true,
			},
		},
		"copy tags, from itself": {
			path: full + "copy_tags/", body: `{"source_repository_version":"` + full + `versions/0/"}`, status: 202,
			spec: tasks.Spec{
				Name: tasks.AddContent, Args: tasks.AddArgs{
					RepositoryID: fullID, Copy: &content.Copy{RepositoryID: fullID, Tags: true},
				}, Resources: alone(full), Immediate: true,
			},
		},
		"copy manifests": {
			path:   empty + "copy_manifests/",
			body:   `{"source_repository":"` + full + `","digests":["sha256:0"],"media_types":["` + pulp.OCIIndex + `"]}`,
			status: 202, spec: tasks.Spec{
				Name: tasks.AddContent, Args: tasks.AddArgs{
					RepositoryID: emptyID,
					Copy: &content.Copy{
						RepositoryID: fullID, Number: 1, Digests: []string{"sha256:0"}, MediaTypes: []string{pulp.OCIIndex},
					},
				},
				Resources: alone(empty, full), Immediate: true,
			},
		},
		"copy, a hidden version": {
			path: empty + "copy_tags/", user: "acme",
			body:   `{"source_repository_version":"` + pulp.VersionHref(pulp.ContainerPush, secret.Repository.ID, 1) + `"}`,
			status: 400, want: `{"source_repository_version":[` + none + `]}`,
		},
		"copy, an unknown version": {
			path: empty + "copy_tags/", body: `{"source_repository_version":"` + full + `versions/7/"}`, status: 400,
			want: `{"source_repository_version":[` + none + `]}`,
		},
		"copy, a version of another type": {
			path: empty + "copy_tags/",
			body: `{"source_repository_version":"` + pulp.VersionHref(pulp.Container, pushID, 1) + `"}`, status: 400,
			want: `{"source_repository_version":[` + none + `]}`,
		},
		"copy, a repository as a version": {
			path: empty + "copy_tags/", body: `{"source_repository_version":"` + full + `"}`, status: 400,
			want: `{"source_repository_version":[` + wrongMatch + `]}`,
		},
		"copy, an invalid version": {
			path: empty + "copy_tags/", body: `{"source_repository_version":"7"}`, status: 400,
			want: `{"source_repository_version":[` + noMatch + `]}`,
		},
		"copy, an unknown repository": {
			path: empty + "copy_tags/",
			body: `{"source_repository":"` + pulp.RepositoryHref(pulp.Container, pulp.NewID()) + `"}`, status: 400,
			want: `{"source_repository":[` + none + `]}`,
		},
		"copy tags, with digests": {
			path: empty + "copy_tags/", body: `{"source_repository":"` + full + `","digests":[]}`, status: 400,
			want: `{"digests":["Unexpected field"]}`,
		},
		"copy manifests, types of no list": {
			path: empty + "copy_manifests/", body: `{"source_repository":"` + full + `","media_types":"x"}`, status: 400,
			want: `{"media_types":["Expected a list of items but got type \"str\"."]}`,
		},

		"roll back, by number": {path: push + "rollback/", user: "acme", body: `{"version":1}`, status: 202, spec: tasks.Spec{
			Name: tasks.Restore, Args: tasks.VersionArgs{
				RepositoryID: pushID, Number: 1,
			}, Resources: alone(push), Immediate: true,
		}},
		"roll back, by a text": {path: full + "rollback/", body: `{"version":"0"}`, status: 202, spec: tasks.Spec{
			Name: tasks.Restore, Args: tasks.VersionArgs{RepositoryID: fullID}, Resources: alone(full), Immediate: true,
		}},
		"roll back, by href": {
			path: full + "rollback/", body: `{"version":"` + full + `versions/1/"}`, status: 202, spec: tasks.Spec{
				Name: tasks.Restore, Args: tasks.VersionArgs{
					RepositoryID: fullID, Number: 1,
				}, Resources: alone(full), Immediate: true,
			},
		},
		"roll back, by PRN": {
			path: full + "rollback/", body: `{"version":"` + pulp.VersionPRN(fullVersion.ID) + `"}`, status: 202,
			spec: tasks.Spec{
				Name: tasks.Restore, Args: tasks.VersionArgs{
					RepositoryID: fullID, Number: 1,
				}, Resources: alone(full), Immediate: true,
			},
		},
		"roll back, another repository's version": {
			path: full + "rollback/", body: `{"version":"` + push + `versions/1/"}`, status: 400,
			want: `{"version":["The repository has no such version."]}`,
		},
		"roll back, an unknown version": {
			path: full + "rollback/", body: `{"version":7}`, status: 400,
			want: `{"version":["The repository has no such version."]}`,
		},
		"roll back, a negative version": {
			path: full + "rollback/", body: `{"version":-1}`, status: 400,
			want: `{"version":["The repository has no such version."]}`,
		},
		"roll back, an invalid version": {
			path: full + "rollback/", body: `{"version":"abc"}`, status: 400,
			want: `{"version":["The repository has no such version."]}`,
		},
		"roll back, null": {
			path: full + "rollback/", body: `{"version":null}`, status: 400,
			want: `{"version":["Incorrect type. Expected a number or a URL string, received NoneType."]}`,
		},
		"roll back, no version": {
			path: full + "rollback/", body: `{}`, status: 400, want: `{"version":["This field is required."]}`,
		},

		"repair": {path: full + "versions/1/repair/", body: `{}`, status: 202, spec: tasks.Spec{
			Name: tasks.Repair, Args: tasks.VersionArgs{
				RepositoryID: fullID, Number: 1, VerifyChecksums: true,
			}, Resources: []taskstore.Resource{{Href: full}},
		}},
		"repair, without checksums": {
			path: push + "versions/1/repair/", user: "acme", body: `{"verify_checksums":false}`, status: 202, spec: tasks.Spec{
				Name: tasks.Repair, Args: tasks.VersionArgs{
					RepositoryID: pushID, Number: 1,
				}, Resources: []taskstore.Resource{{Href: push}},
			},
		},
		"repair, an unknown version": {
			path: full + "versions/7/repair/", body: `{}`, status: 404,
			want: `{"detail":"No RepositoryVersion matches the given query."}`,
		},
		"repair, an invalid flag": {
			path: full + "versions/1/repair/", body: `{"verify_checksums":7}`, status: 400,
			want: `{"verify_checksums":["Must be a valid boolean."]}`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			before := len(m.dispatcher.specs)
			m.expect(call{method: http.MethodPost, path: c.path, user: c.user, json: c.body}, c.status, c.want)
			if c.status != 202 {
				if len(m.dispatcher.specs) != before {
					t.Error("a task was started")
				}
				return
			}
			c.spec.Namespace = "acme"
			m.dispatcher.wantFrom(t, map[string]int64{"": 1, "acme": 2}[c.user])
			if diff := cmp.Diff(c.spec, m.dispatcher.last()); diff != "" {
				t.Errorf("task (-want +got):\n%s", diff)
			}
		})
	}
	for _, path := range []string{
		full + "sync/", full + "add/", full + "remove/", full + "copy_tags/", full + "copy_manifests/", full + "tag/", full + "untag/", full + "rollback/", full + "versions/1/repair/",
		push + "tag/", push + "untag/", push + "remove_image/", push + "remove_signatures/", push + "migrate/", push + "rollback/", push + "versions/1/repair/",
	} {
		status := 404 // carol may not see acme/full, which no distribution serves
		if strings.HasPrefix(path, push) {
			status = 403
		}
		m.expect(call{method: http.MethodPost, path: path, user: "carol", json: `{bad`}, status, "")
		m.expect(call{method: http.MethodPost, path: path, user: "-", json: `{}`}, 401, "")
	}
}

const badTag = "The provided tag is not valid. A tag may contain lowercase and uppercase ASCII alphabetic characters, digits, underscores, periods, and dashes. " +
	"A tag must not start with a period or a dash."

// TestACopyDoesNotBlockItsSource proves that tasks on another user's public repository do not wait for a copy from it
// which itself waits for a busy repository.
func TestACopyDoesNotBlockItsSource(t *testing.T) {
	t.Parallel()
	m := newMirrors(t)
	public := m.target("b/public")
	m.pushImage(public, "public", "amd64", "v1")
	source := pulp.RepositoryHref(pulp.ContainerPush, public.Repository.ID)
	before := task(m.world, m.userID("acme"), href(m.empty)) // a stalled sync, for example
	m.expect(
		call{
			method: http.MethodPost, path: href(m.empty) + "copy_tags/", user: "acme",
			json: `{"source_repository_version":"` + source + `versions/1/"}`,
		},
		202, "",
	)
	copies := m.results("tasks/?name="+tasks.AddContent, "reserved_resources_record")
	if len(copies) != 1 || copies[0] != "["+href(m.empty)+"]" {
		t.Errorf("the copy reserves %v", copies)
	}
	if owners := task(m.world, m.userID("admin"), source); owners.Unblocked == nil || before.Unblocked == nil {
		t.Error("a task on the source waits for another user's copy")
	}
}
