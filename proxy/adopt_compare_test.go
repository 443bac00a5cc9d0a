package proxy_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/adopt"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/signservice"
	"github.com/countersign/countersign/internal/store/content"
)

// TestUpstreamPreconditions checks that a precondition of a push applies to a tag that another client pushed to the
// upstream, whether a comparison has detected that or not.
func TestUpstreamPreconditions(t *testing.T) {
	t.Parallel()
	for name, follow := range map[string]bool{"followed": true, "not followed": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := newAdopting(t)
			a.adopter.Follow = follow
			image := a.imageOf("company/app", "ours")
			ours := digest.FromString(image)
			put := func(status int, tag string, header ...string) {
				t.Helper()
				code := ""
				if status == http.StatusPreconditionFailed {
					code = "PRECONDITION_FAILED"
				}
				a.expectError(
					request{
						as:      "admin",
						method:  http.MethodPut,
						path:    "/v2/company/app/manifests/" + tag,
						body:    image,
						headers: append([]string{"Content-Type", pulp.OCIManifest}, header...),
					},
					status,
					code,
				)
			}
			theirs := a.pushImageUpstream("company/app", "theirs", "v1", layerType)
			put(http.StatusPreconditionFailed, "v1", "If-None-Match", "*")
			put(http.StatusPreconditionFailed, string(ours)+"?tag=new&tag=v1", "If-None-Match", "*")
			put(http.StatusPreconditionFailed, "v1", "If-Match", `"`+string(ours)+`"`)
			a.expectError(
				request{
					as:      "admin",
					method:  http.MethodDelete,
					path:    "/v2/company/app/manifests/v1",
					headers: []string{"If-Match", `"` + string(ours) + `"`},
				},
				http.StatusPreconditionFailed,
				"PRECONDITION_FAILED",
			)
			status := http.StatusPreconditionFailed // this server has another digest for the tag
			if follow {
				status = http.StatusCreated
			}
			put(status, "v1", "If-Match", `"`+string(theirs)+`"`)
			put(http.StatusCreated, "v1") // a push without a precondition overwrites it
			put(http.StatusPreconditionFailed, "v1", "If-None-Match", "*")
			put(http.StatusCreated, "new", "If-None-Match", "*")

			// The precondition also applies to content that cannot be adopted.
			refused := a.pushImageUpstream("company/app", "refused", "v2", layerType)
			a.refused = func(d digest.Digest) bool { return d == refused }
			put(http.StatusPreconditionFailed, "v2", "If-None-Match", "*")
			// A precondition on a pin tag never holds.
			hidden := pulp.PinTag(theirs)
			a.pushImageUpstream("company/app", "theirs", hidden, layerType)
			for _, demand := range []string{`"sha256:1234"`, "*"} {
				a.expectError(
					request{
						as:      "admin",
						method:  http.MethodDelete,
						path:    "/v2/company/app/manifests/" + hidden,
						headers: []string{"If-Match", demand},
					},
					http.StatusNotFound,
					"MANIFEST_UNKNOWN",
				)
			}
			if list := a.expect(request{as: "admin", path: "/v2/company/app/tags/list"}, http.StatusOK); strings.Contains(
				list.body,
				hidden,
			) {
				t.Errorf("the tags: %s", list.body)
			}
		})
	}
}

// TestReferrersNeedTheirImage checks that the referrers of an image are not adopted if the index that contains the
// image cannot be adopted.
func TestReferrersNeedTheirImage(t *testing.T) {
	t.Parallel()
	a := newAdopting(t)
	byDigest := func(text string) digest.Digest {
		return a.pushImageUpstream(
			"company/app",
			text,
			string(a.pushImageUpstream("elsewhere", text, text, layerType)),
			layerType,
		)
	}
	good, bad := byDigest("good"), byDigest("bad")
	a.referrers = map[digest.Digest][]digest.Digest{good: {a.attachUpstream("company/app", "review", good)}}
	list, err := json.Marshal(object{"schemaVersion": 2, "mediaType": pulp.OCIIndex, "manifests": []object{
		{
			"mediaType": pulp.OCIManifest,
			"digest":    good,
			"size":      1,
		}, {"mediaType": pulp.OCIManifest, "digest": bad, "size": 1},
	}})
	if err != nil {
		t.Fatal(err)
	}
	a.sendUpstream(
		http.StatusCreated,
		http.MethodPut,
		a.upstream+"/v2/company/app/manifests/list",
		pulp.OCIIndex,
		string(list),
	)
	a.lost = digest.FromString("layer bad")
	found, err := a.adopter.Repository(t.Context(), signservice.Caller{User: "alice"}, "company/app")
	if err != nil || found.Version != nil || len(found.Drift) != 1 {
		t.Errorf("adoption: version %+v, error %v, differences %+v", found.Version, err, found.Drift)
	}
	a.lost = ""
	found, err = a.adopter.Repository(t.Context(), signservice.Caller{User: "alice"}, "company/app")
	if err != nil || found.Version == nil || found.Version.Counts[pulp.KindManifest].Added != 4 {
		t.Errorf("when it is whole, %+v, %v", found.Version, err)
	}
}

// TestDeepComparisonOfCopies checks that a deep comparison reports content that the upstream lost. For content that
// was copied by digest it reports the manifest, which the upstream does not have under the other name, but not the
// blobs.
func TestDeepComparisonOfCopies(t *testing.T) {
	t.Parallel()
	a := newAdopting(t)
	d := a.pushImageUpstream("company/app", "one", "v1", layerType)
	a.expect(request{as: "admin", path: "/v2/company/app/manifests/v1"}, http.StatusOK)
	from := a.repository("company/app")
	to, _, err := a.store.Catalog.AdoptTarget(t.Context(), "company/copy", pulp.ContainerPush, false)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.store.Content.CopyContent(t.Context(), nil, to.ID, content.Copy{RepositoryID: from.ID, Number: from.LatestVersion, Digests: []string{string(d)}}); err != nil {
		t.Fatal(err)
	}
	layer := digest.FromString("layer one")
	a.expect(request{as: "admin", path: "/v2/company/copy/manifests/" + string(d)}, http.StatusOK)
	a.expect(request{as: "admin", path: "/v2/company/copy/blobs/" + string(layer)}, http.StatusOK)
	differs := func(repo pulp.Repository, want ...string) {
		t.Helper()
		found, err := a.adopter.Compare(
			t.Context(),
			signservice.Caller{User: "alice"},
			repo,
			adopt.CompareOptions{Deep: true},
		)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, d := range found.Drift {
			got = append(got, d.Kind+" "+d.Name)
		}
		if !slices.Equal(got, want) {
			t.Errorf("with %q lost upstream, %s differs in %v, want %v", a.lost, repo.Name, got, want)
		}
	}
	manifest := "manifest " + string(d)
	differs(from)
	differs(to, manifest) // the upstream has no manifest under this name, but has the blobs in the source repository
	a.lost = layer
	differs(to, "blob "+string(layer), manifest)
	differs(from, "blob "+string(layer))
	a.lost = d
	differs(from, manifest)
}

// TestRefusedTagsStopNoOthers checks that tags that the upstream refuses to serve do not prevent the adoption of
// others, however many they are.
func TestRefusedTagsStopNoOthers(t *testing.T) {
	t.Parallel()
	a := newAdopting(t)
	good := a.pushImageUpstream("company/app", "good", "good", layerType)
	const refused = 30
	for i := range refused {
		a.pushImageUpstream("company/app", fmt.Sprint("bad", i), fmt.Sprint("bad", i), layerType)
	}
	a.refused = func(d digest.Digest) bool { return d != good }
	found, err := a.adopter.Repository(t.Context(), signservice.Caller{User: "alice"}, "company/app")
	if err != nil || found.Version == nil || found.Version.Counts[pulp.KindTag].Present != 1 ||
		len(found.Drift) != refused {
		t.Fatalf("adoption: version %+v, error %v, %d differences", found.Version, err, len(found.Drift))
	}
	if note := found.Drift[0].Note; !strings.Contains(note, "412 Precondition Failed") {
		t.Errorf("reported difference: %s", note)
	}
}

// TestDeletedByDigestStaysDeleted checks that a manifest that was deleted by digest is not adopted again by a pull by
// digest, even after the versions that contained it are deleted.
func TestDeletedByDigestStaysDeleted(t *testing.T) {
	t.Parallel()
	a := newAdopting(t)
	d := a.pushImageUpstream("company/app", "one", "v1", layerType)
	path := "/v2/company/app/manifests/" + string(d)
	a.expect(request{as: "admin", path: path}, http.StatusOK)
	one := int64(1)
	if _, err := a.store.Catalog.EditRepository(t.Context(), nil, pulp.ContainerPush, a.repository("company/app").ID, func(r *pulp.Repository) { r.RetainRepoVersions = &one }); err != nil {
		t.Fatal(err)
	}
	a.expect(request{as: "admin", method: http.MethodDelete, path: path}, http.StatusAccepted)
	a.expectError(request{as: "admin", path: path}, http.StatusNotFound, "MANIFEST_UNKNOWN")
}
