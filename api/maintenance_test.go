package api_test

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/access"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/content"
	"github.com/countersign/countersign/internal/store/storetest"
	"github.com/countersign/countersign/internal/store/taskstore"
	"github.com/countersign/countersign/tasks"
)

func TestArtifacts(t *testing.T) {
	t.Parallel()
	m := newMirrors(t)
	blobs := m.get(pulp.BlobCollection)["results"].([]any)
	all := m.results(pulp.ArtifactCollection, "pulp_href")
	if len(all) == 0 || len(all) != len(blobs) {
		t.Fatalf("%d artifacts of %d blobs", len(all), len(blobs))
	}
	first := blobs[0].(map[string]any)
	hex := digest.Digest(first["digest"].(string)).Encoded()
	one := m.get(first["artifact"].(string))
	for field, want := range map[string]any{
		"file": "artifact/" + hex[:2] + "/" + hex[2:], "sha256": hex, "sha512": nil, "md5": nil, "pulp_href": first["artifact"],
	} {
		if one[field] != want {
			t.Errorf("%s: %v, want %v", field, one[field], want)
		}
	}
	v := href(m.full) + "versions/1/"
	inVersion := m.get(v)["content_summary"].(map[string]any)["present"].(map[string]any)["container.blob"].(map[string]any)["count"]
	for query, want := range map[string]int{
		"?sha256=" + hex: 1, "?sha256=" + hex[1:]: 0, "?sha512=" + hex: 0, "?md5=x": 0, "?sha1=x": 0, "?sha224=x": 0, "?sha384=x": 0,
		"?repository_version=" + v: int(inVersion.(float64)), "?orphaned_for=0": 0, "?orphaned_for=-1": 0,
		"?pulp_href__in=" + all[0]:                      1,
		"?q=" + url.QueryEscape(`NOT sha256="`+hex+`"`): len(all) - 1,
	} {
		if got := m.results(pulp.ArtifactCollection+query, "pulp_href"); len(got) != want {
			t.Errorf("%s: %d artifacts, want %d", query, len(got), want)
		}
	}
	sizes := m.results(pulp.ArtifactCollection+"?ordering=-size,md5,file&fields=size", "size")
	if len(sizes) != len(all) {
		t.Errorf("sizes %v", sizes)
	}
	m.expect(call{path: pulp.ArtifactCollection + "?orphaned_for=x"}, 400, `{"orphaned_for":["Enter a number."]}`)
	m.expect(call{path: pulp.ArtifactCollection + "?name=x"}, 400, `{"errors":["Invalid Filter: 'name'"]}`)
	for _, user := range []string{"acme", "carol"} {
		m.expect(call{path: pulp.ArtifactCollection, user: user}, 403, "")
		m.expect(call{path: all[0], user: user}, 403, "")
	}
	m.expect(call{path: pulp.Href(pulp.ArtifactCollection, pulp.NewID())}, 404, `{"detail":"No Artifact matches the given query."}`)
}

// TestArtifactsOfAbsentBlobs proves that a blob shows its artifact only if a repository that the caller sees has the bytes.
func TestArtifactsOfAbsentBlobs(t *testing.T) {
	t.Parallel()
	m := newMirrors(t)
	b := m.get(pulp.BlobCollection + "?limit=1")["results"].([]any)[0].(map[string]any)
	id := b["pulp_href"].(string)
	storetest.Exec(t, m.store, `INSERT INTO blob_claim (repository_id, blob_id, size)
		SELECT DISTINCT c.repository_id, c.content_id, CAST(1 AS BIGINT) FROM repository_content c WHERE c.content_id = $1`, id[len(id)-37:len(id)-1])
	if got := m.do(call{path: id, user: "carol"}).body.(map[string]any)["artifact"]; got != nil {
		t.Errorf("a caller whose repositories only claim the blob sees the artifact %v", got)
	}
	if got := m.get(id)["artifact"]; got != b["artifact"] {
		t.Errorf("an administrator sees the artifact %v", got)
	}
	storetest.Exec(t, m.store, `UPDATE blob SET absent = TRUE`)
	if got := m.get(id)["artifact"]; got != nil {
		t.Errorf("an absent blob has the artifact %v", got)
	}
	if n := m.get(pulp.ArtifactCollection)["count"]; n != 0.0 {
		t.Errorf("%v artifacts of absent blobs", n)
	}
}

func TestContentOfAllKinds(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	version := w.repoHref() + "versions/5/"
	want := 0
	for _, collection := range []string{pulp.BlobCollection, pulp.ManifestCollection, pulp.TagCollection, pulp.SignatureCollection} {
		n := w.results(collection+"?repository_version="+version, "pulp_href")
		want += len(n)
		model := pulp.Model(collection)
		if model == "container.manifestsignature" {
			model = "container.signature"
		}
		got := w.results(pulp.ContentCollection+"?repository_version="+version+"&pulp_type="+model, "pulp_href")
		if slices.Sort(got); !cmp.Equal(got, slices.Sorted(slices.Values(n))) {
			t.Errorf("%s: %v, want %v", model, got, n)
		}
	}
	if got := w.results(pulp.ContentCollection+"?repository_version="+version, "prn"); len(got) != want {
		t.Errorf("%d units, want %d", len(got), want)
	}
	if got := w.results(pulp.ContentCollection+"?pulp_type__in=container.tag,container.blob&ordering=pk&limit=3", "pulp_href"); len(got) != 3 {
		t.Errorf("a page of tags and blobs: %v", got)
	}
	pages := w.results(pulp.ContentCollection+"?ordering=-pk", "pulp_created")
	if len(pages) < want {
		t.Errorf("%d units in all", len(pages))
	}
	blob := w.get(pulp.ContentCollection + "?pulp_type=container.blob&limit=1")["results"].([]any)[0].(map[string]any)
	for digest, artifact := range blob["artifacts"].(map[string]any) {
		if one := w.get(blob["pulp_href"].(string)); one["digest"] != digest || one["artifact"] != artifact || artifact == nil {
			t.Errorf("artifacts %v of %v", blob["artifacts"], one)
		}
	}
	w.expect(call{path: pulp.ContentCollection + "?pulp_type=x"}, 400,
		`{"pulp_type":["Select a valid choice. x is not one of the available choices."]}`)
	if n := w.do(call{path: pulp.ContentCollection, user: "stranger"}).StatusCode; n != http.StatusUnauthorized {
		t.Errorf("a stranger gets %d", n)
	}
}

// TestOrphanedFor lists the content that is in no version.
func TestOrphanedFor(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	storetest.PushBlob(t, w.store, w.repo.Repository.ID, "new") // it is pending: used just now
	orphans := func(minutes string) int {
		return len(w.results(pulp.ContentCollection+"?orphaned_for="+minutes, "pulp_href"))
	}
	if n := orphans("1"); n != 0 {
		t.Errorf("%d orphans", n)
	}
	before := orphans("0")
	storetest.Exec(t, w.store, `DELETE FROM unversioned_content`)
	storetest.Exec(t, w.store, `UPDATE blob SET updated = updated - 7200000000`)
	storetest.Exec(t, w.store, `UPDATE tag SET created = created - 7200000000, updated = updated - 7200000000`)
	for minutes, want := range map[string]int{"60": 1, "119.5": 1, "121": 0, "-1": 0, "1e300": 0} {
		if n := orphans(minutes); n != want {
			t.Errorf("orphaned for %s minutes: %d, want %d (%d before)", minutes, n, want, before)
		}
	}
	if n := w.results(pulp.BlobCollection+"?orphaned_for=60", "digest"); len(n) != 1 || n[0] != string(digest.FromString("new")) {
		t.Errorf("orphaned blobs %v", n)
	}
	if n := w.do(call{path: pulp.ContentCollection + "?orphaned_for=60", user: "acme"}).body.(map[string]any)["count"]; n != 0.0 {
		t.Errorf("a user sees %v orphans", n)
	}
}

// TestContentLabels sets labels of content of each kind: administrators and holders of the role core.content_labeler may, if
// they see the unit.
func TestContentLabels(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	storetest.User(t, w.store, "labeler")
	storetest.Grant(t, w.store, storetest.User(t, w.store, "labeler").ID, "core.content_labeler", "")
	post := func(path, user, body string) call {
		return call{method: http.MethodPost, path: path, user: user, json: body}
	}
	for _, collection := range []string{pulp.BlobCollection, pulp.ManifestCollection, pulp.TagCollection, pulp.SignatureCollection} {
		unit := w.results(collection+"?limit=1", "pulp_href")[0]
		w.expect(post(unit+"set_label/", "admin", `{"key":"team","value":"a"}`), 201, `{"key":"team","value":"a"}`)
		w.expect(post(unit+"set_label/", "labeler", `{"key":"team","value":"b"}`), 201, `{"key":"team","value":"b"}`)
		for _, user := range []string{"acme", "carol"} { // acme owns the namespace
			w.expect(post(unit+"set_label/", user, `{"key":"team","value":"c"}`), 403, "")
			w.expect(post(unit+"unset_label/", user, `{"key":"team"}`), 403, "")
		}
		w.expect(post(unit+"set_label/", "admin", `{"key":"a(b)","value":"c"}`), 400, `{"key":["Key 'a(b)' contains non-alphanumerics."]}`)
		if got := w.get(unit)["pulp_labels"]; !cmp.Equal(got, map[string]any{"team": "b"}) {
			t.Errorf("%s: labels %v", unit, got)
		}
		for query, want := range map[string]int{"team=b": 1, "team=a": 0, "team": 1} {
			for _, from := range []string{collection, pulp.ContentCollection} {
				if got := w.results(from+"?pulp_label_select="+query, "pulp_href"); len(got) != want || want == 1 && got[0] != unit {
					t.Errorf("%s?pulp_label_select=%s: %v", from, query, got)
				}
			}
		}
		w.expect(post(unit+"unset_label/", "labeler", `{"key":"team"}`), 201, `{"key":"team","value":"b"}`)
		w.expect(post(unit+"unset_label/", "admin", `{"key":"team"}`), 400, "")
		w.expect(post(pulp.Href(collection, pulp.NewID())+"set_label/", "admin", `{"key":"k","value":"v"}`), 404, "")
	}
	unit := w.results(pulp.TagCollection+"?limit=1", "pulp_href")[0]
	if err := w.store.Catalog.SetPrivate(t.Context(), "acme/app", true); err != nil {
		t.Fatal(err)
	}
	w.expect(post(unit+"set_label/", "labeler", `{"key":"k","value":"v"}`), 404, `{"detail":"No Tag matches the given query."}`)
	if !slices.Contains(access.Permissions, access.ManageContentLabels) {
		t.Error("the permission is unknown")
	}
}

func TestRepairOfAllContent(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for body, checksums := range map[string]bool{`{}`: true, `{"verify_checksums":false}`: false, `{"verify_checksums":true}`: true} {
		w.expect(call{method: http.MethodPost, path: "repair/", json: body}, 202, "")
		spec := w.dispatcher.last()
		if spec.Name != tasks.RepairAll || spec.Args != (tasks.RepairAllArgs{VerifyChecksums: checksums}) ||
			!slices.Equal(spec.Resources, []taskstore.Resource{{Href: "/pulp/api/v3/repair/", Exclusive: true}}) {
			t.Errorf("%s: %+v", body, spec)
		}
	}
	w.expect(call{method: http.MethodPost, path: "repair/", json: `{"verify_checksums":"x"}`}, 400, `{"verify_checksums":["Must be a valid boolean."]}`)
	w.expect(call{method: http.MethodPost, path: "repair/", json: `{}`, user: "acme"}, 403, "")
}

func TestReclaimSpace(t *testing.T) {
	t.Parallel()
	m := newMirrors(t)
	const path = "repositories/reclaim_space/"
	reclaim := func(body string) call { return call{method: http.MethodPost, path: path, json: body} }
	full, push, version := href(m.full), m.repoHref(), href(m.full)+"versions/1/"
	server := taskstore.Resource{Href: "/pulp/api/v3/repositories/reclaim_space/", Exclusive: true}
	for body, want := range map[string]tasks.ReclaimArgs{
		`{"repo_hrefs":["*"]}`: {},
		fmt.Sprintf(`{"repo_hrefs":["%s","%s","%[1]s"]}`, full, push): {Repositories: []string{m.full.ID, m.repo.Repository.ID}},
		fmt.Sprintf(`{"repo_hrefs":["*"],"repo_versions_keeplist":["%s"]}`, version): {
			Keep: []content.KeptVersion{{RepositoryID: m.full.ID, Number: 1}},
		},
	} {
		m.expect(reclaim(body), 202, "")
		spec := m.dispatcher.last()
		if diff := cmp.Diff(want, spec.Args); diff != "" || spec.Name != "pulpcore.app.tasks.reclaim_space.reclaim_space" {
			t.Errorf("%s: %s (-want +got):\n%s", body, spec.Name, diff)
		}
		reserved := []taskstore.Resource{server}
		if want.Repositories != nil {
			reserved = []taskstore.Resource{{Href: full, Exclusive: true}, {Href: push, Exclusive: true}, server}
		}
		if !slices.Equal(spec.Resources, reserved) {
			t.Errorf("%s: reserves %+v", body, spec.Resources)
		}
	}
	absent := pulp.RepositoryHref(pulp.Container, pulp.NewID())
	for body, want := range map[string]string{
		`{}`:                                                  `{"repo_hrefs":["This field is required."]}`,
		`{"repo_hrefs":[]}`:                                   `{"repo_hrefs":["Must not be []."]}`,
		`{"repo_hrefs":"*"}`:                                  `{"repo_hrefs":["Expected a list of items but got type \"str\"."]}`,
		`{"repo_hrefs":["abc"]}`:                              `{"repo_hrefs":["URI not valid: abc"]}`,
		`{"repo_hrefs":["*","` + full + `"]}`:                 `{"repo_hrefs":["Can't specify specific HREFs when using '*'."]}`,
		`{"repo_hrefs":["` + absent + `"]}`:                   `{"repo_hrefs":["URI ` + absent + ` not found for repository."]}`,
		`{"repo_hrefs":["` + m.remoteHref() + `"]}`:           `{"repo_hrefs":["URI ` + m.remoteHref() + ` not found for repository."]}`,
		`{"repo_hrefs":["*"],"force":true}`:                   `{"force":["Unexpected field"]}`,
		`{"repo_hrefs":["*"],"repo_versions_keeplist":["x"]}`: `{"repo_versions_keeplist":["URI x not found for repositoryversion."]}`,
	} {
		m.expect(reclaim(body), 400, want)
	}
	owner := reclaim(`{"repo_hrefs":["` + full + `"]}`)
	owner.user = "acme"
	m.expect(owner, 403, "")
}
