package api_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/countersign/countersign/internal/pulp"
)

// keys returns the names of a JSON object's fields in their order.
func keys(t *testing.T, raw string) []string {
	t.Helper()
	d := json.NewDecoder(strings.NewReader(raw))
	var names []string
	for depth, name := 0, true; ; {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			return names
		}
		if err != nil {
			t.Fatal(err)
		}
		switch {
		case token == json.Delim('{') || token == json.Delim('['):
			depth++
			name = true
		case token == json.Delim('}') || token == json.Delim(']'):
			depth--
			name = true
		case depth == 1 && name:
			names = append(names, fmt.Sprint(token))
			name = false
		default:
			name = true
		}
	}
}

var namedVersion = regexp.MustCompile(`<Repository: [^;]*; Version: \d+>`)

// testChangesAreAnsweredAsTheReference compares responses to changes with the recordings.
func testChangesAreAnsweredAsTheReference(t *testing.T) {
	t.Parallel()
	m := newMirrors(t)
	post := func(path string, body any) call { return call{method: http.MethodPost, path: path, json: body} }
	patch := func(path string, body any) call {
		return call{method: http.MethodPatch, path: path, json: body}
	}
	remove := func(path string) call { return call{method: http.MethodDelete, path: path} }
	type fields = map[string]any
	push, full, empty, remote := m.repoHref(), href(m.full), href(m.empty), m.remoteHref()
	app := m.repo.Repository
	app.LatestVersion = m.latest(app.Type, app.ID)
	full1 := pulp.VersionHref(pulp.Container, m.full.ID, 1)
	absent := "01a20539-5d7d-7e4f-bae7-2b830c817fff"
	// Two more repositories: one with two distributions, and one with a pinned version.
	many := m.container("acme/many", "")
	dest := m.serve(pulp.Distribution{Name: "acme-dest", BasePath: "acme/dest", RepositoryID: many.ID})
	m.serve(pulp.Distribution{Name: "acme-dest-2", BasePath: "acme/dest2", RepositoryID: many.ID})
	pinned := m.pin("acme/pin", m.copyApp(m.container("acme/pinned", "")).ID, 1)
	migrated := m.target("acme/migrated").Repository
	if err := m.store.Catalog.MigrateRepository(t.Context(), nil, migrated.ID); err != nil {
		t.Fatal(err)
	}
	ns, err := m.store.Catalog.CreateNamespace(t.Context(), pulp.Namespace{Name: "there"}, 0)
	if err != nil {
		t.Fatal(err)
	}
	tagHref := m.results("content/container/tags/?name=latest", "pulp_href")[0]
	signature := m.results("content/container/signatures/?limit=1", "pulp_href")[0]
	distribution := pulp.Href(pulp.DistributionCollection, dest.ID)
	service := fields{"manifest_signing_service": m.serviceHref()}
	with := func(more fields) fields {
		all := maps.Clone(service)
		maps.Copy(all, more)
		return all
	}
	for _, c := range []struct {
		name   string
		call   call
		status int
	}{
		{
			name: "80-repo-create",
			call: post(
				pulp.ContainerCollection,
				fields{"name": "ctr/mirror", "description": "d", "pulp_labels": fields{"env": "prod"}, "retain_repo_versions": nil},
			),
			status: 201,
		},
		{
			name: "80b-repo-create-dup", call: post(pulp.ContainerCollection, fields{"name": "acme/app"}), status: 400,
		}, // a push repository's name
		{name: "80c-repo-create-empty", call: post(pulp.ContainerCollection, fields{}), status: 400},
		{
			name: "80d-repo-create-badfield",
			call: post(
				pulp.ContainerCollection,
				fields{"name": "zz", "foo": 1, "retain_repo_versions": 0, "pulp_labels": fields{"a": "b(c"}},
			),
			status: 400,
		},
		{
			name: "80e-form",
			call: call{
				method: http.MethodPost, path: pulp.ContainerCollection, json: "name=ctr%2Fmirror-form&description=x",
				kind: "application/x-www-form-urlencoded",
			},
			status: 201,
		},
		{name: "80f-multipart", call: call{
			method: http.MethodPost, path: pulp.ContainerCollection, kind: "multipart/form-data; boundary=x",
			json: "--x\r\nContent-Disposition: form-data; name=\"name\"\r\n\r\nctr/mirror-mp\r\n--x\r\nContent-Disposition: form-data; name=\"retain_repo_versions\"\r\n\r\n3\r\n--x--\r\n",
		}, status: 201},
		{name: "81-remote-create", call: post(pulp.RemoteCollection, fields{
			"name": "ctr/rem", "url": "http://localhost:24817", "upstream_name": "ctr/push", "policy": "immediate", "include_tags": []string{"*"}, "username": "admin", "password": "password",
		}), status: 201},
		{
			name: "81c-remote-url-creds",
			call: post(
				pulp.RemoteCollection,
				fields{"name": "ctr/rem3", "upstream_name": "x", "url": "http://u:p@localhost:24817", "username": "u"},
			),
			status: 400,
		},
		{name: "82-sync-noremote", call: post(empty+"sync/", fields{}), status: 400},
		{name: "82a-sync-bad-remote", call: post(full+"sync/", fields{"remote": m.serviceHref()}), status: 400},
		{
			name: "82b-sync", call: post(full+"sync/", fields{"remote": remote, "mirror": false, "signed_only": false}),
			status: 202,
		},
		{name: "82d-mirror-version", call: call{path: full1}, status: 200},
		{name: "83-sign-mirror-no-fbp", call: post(full+"sign/", service), status: 400},
		{
			name:   "83b-sign-mirror",
			call:   post(full+"sign/", with(fields{"future_base_path": "library/busybox", "tags_list": []string{"multi"}})),
			status: 202,
		},
		{name: "84-sync-again-noop", call: post(full+"sync/", fields{"remote": remote}), status: 202},
		{
			name: "84b-sync-bad-upstream",
			call: post(
				pulp.RemoteCollection,
				fields{"name": "ctr/remx", "url": "http://localhost:24817", "upstream_name": "ctr/doesnotexist"},
			),
			status: 201,
		},
		{name: "90-tag", call: post(push+"tag/", fields{"tag": "stable", "digest": m.manifest}), status: 202},
		{name: "90d-tag-bad", call: post(push+"tag/", fields{"tag": "-x", "digest": m.manifest}), status: 400},
		{name: "90e-tag-baddigest", call: post(push+"tag/", fields{"tag": "x", "digest": "sha256:0"}), status: 400},
		{name: "90f-tag-missing", call: post(push+"tag/", fields{}), status: 400},
		{name: "91-untag", call: post(push+"untag/", fields{"tag": "latest"}), status: 202},
		{name: "91b-untag-missing", call: post(push+"untag/", fields{"tag": "nope"}), status: 400},
		{
			name: "92-remove-signatures", call: post(push+"remove_signatures/", fields{"signed_with_key_id": "0000"}),
			status: 400,
		},
		{
			name: "92b-remove-signatures-ok",
			call: post(push+"remove_signatures/", fields{"signed_with_key_id": "D1B86E06B4D88886"}), status: 202,
		},
		{name: "92c-missing", call: post(push+"remove_signatures/", fields{}), status: 400},
		{name: "93-remove-image-bad", call: post(push+"remove_image/", fields{"digest": "x"}), status: 400},
		{name: "93b-remove-image", call: post(push+"remove_image/", fields{"digest": m.manifest}), status: 202},
		{name: "94-patch-push-repo", call: patch(push, with(fields{"description": "hello"})), status: 202},
		{name: "94g-patch-remote-on-push", call: patch(push, fields{"remote": remote}), status: 400},
		{name: "94j-set-label-container", call: post(full+"set_label/", fields{"key": "a", "value": "b"}), status: 201},
		{name: "94k-unset-label", call: post(full+"unset_label/", fields{"key": "a"}), status: 201},
		{name: "94l-patch-label-with-space-ok", call: patch(full, fields{"pulp_labels": fields{"a b": "x"}}), status: 202},
		{
			name: "95-repo-create2", call: post(pulp.ContainerCollection, with(fields{"name": "ctr/dest", "remote": remote})),
			status: 201,
		},
		{
			name: "96-copy-tags",
			call: post(empty+"copy_tags/", fields{"source_repository": full, "names": []string{"multi", "1.0"}}), status: 202,
		},
		{name: "96b-copy-none", call: post(empty+"copy_tags/", fields{}), status: 400},
		{
			name: "96c-copy-both",
			call: post(empty+"copy_tags/", fields{"source_repository": full, "source_repository_version": full1}), status: 400,
		},
		{
			name: "96d-copy-manifests",
			call: post(
				empty+"copy_manifests/",
				fields{"source_repository_version": full1, "digests": []any{m.manifest}, "media_types": []string{pulp.OCIManifest}},
			),
			status: 202,
		},
		{name: "96e-copy-push-source", call: post(empty+"copy_tags/", fields{"source_repository": push}), status: 400},
		{
			name: "96f-copy-manifests-bad-mt",
			call: post(empty+"copy_manifests/", fields{"source_repository": full, "media_types": []string{"x"}}), status: 400,
		},
		{
			name: "96g-copy-tags-push-version",
			call: post(
				empty+"copy_tags/", fields{"source_repository_version": push + "versions/4/", "names": []string{"latest"}},
			),
			status: 202,
		},
		{name: "97-add", call: post(empty+"add/", fields{"content_units": []string{tagHref}}), status: 202},
		{name: "97a-add-signature", call: post(empty+"add/", fields{"content_units": []string{signature}}), status: 202},
		{
			name: "97b-add-bad",
			call: post(empty+"add/", fields{"content_units": []string{pulp.Href(pulp.TagCollection, absent)}}), status: 400,
		},
		{name: "97c-add-garbage", call: post(empty+"add/", fields{"content_units": []string{"abc"}}), status: 400},
		{name: "97d-remove", call: post(full+"remove/", fields{"content_units": []string{tagHref}}), status: 202},
		{name: "97e-remove-star", call: post(full+"remove/", fields{"content_units": []string{"*"}}), status: 202},
		{name: "97f-remove-star-plus", call: post(full+"remove/", fields{"content_units": []string{"*", "x"}}), status: 400},
		{name: "98-version-delete", call: remove(full1), status: 202},
		{name: "98b-version-delete-zero", call: remove(full + "versions/0/"), status: 202},
		{name: "98c-repair", call: post(full1+"repair/", fields{"verify_checksums": true}), status: 202},
		{
			name:   "100-dist-create",
			call:   post(pulp.DistributionCollection, fields{"name": "ctr-dest", "base_path": "ctr/dest", "repository": full}),
			status: 202,
		},
		{
			name: "100c-dist-dup",
			call: post(pulp.DistributionCollection, fields{"name": "acme-dest", "base_path": "acme/dest"}), status: 400,
		},
		{
			name: "100d-dist-overlap",
			call: post(pulp.DistributionCollection, fields{"name": "ctr-dest2", "base_path": "acme/dest/sub"}), status: 400,
		},
		{
			name: "100e-dist-badpath", call: post(pulp.DistributionCollection, fields{"name": "ctr-dest3", "base_path": "UP/x"}),
			status: 400,
		},
		{
			name: "100f-dist-both",
			call: post(
				pulp.DistributionCollection,
				fields{"name": "ctr-dest4", "base_path": "ctr/d4", "repository": full, "repository_version": full1},
			),
			status: 400,
		},
		{
			name: "100g-dist-push-version",
			call: post(
				pulp.DistributionCollection,
				fields{"name": "ctr-dest5", "base_path": "ctr/d5", "repository_version": push + "versions/4/"},
			),
			status: 400,
		},
		{name: "100h-dist-version", call: post(pulp.DistributionCollection, fields{
			"name": "ctr-pin", "base_path": "ctr/pin", "repository_version": full1, "private": true, "description": "pin", "pulp_labels": fields{
				"x": "y",
			},
		}), status: 202},
		{name: "100i-dist-empty", call: post(pulp.DistributionCollection, fields{}), status: 400},
		{
			name: "100j-dist-patch",
			call: patch(
				pulp.Href(pulp.DistributionCollection, pinned.ID),
				fields{"private": false, "repository_version": nil, "repository": full},
			),
			status: 202,
		},
		{name: "100k-dist-patch-base", call: patch(distribution, fields{"base_path": "ctr/pin2"}), status: 202},
		{
			name: "101-sign-multi-dist", call: post(href(many)+"sign/", with(fields{"tags_list": []string{"multi"}})),
			status: 400,
		},
		{name: "101a-dist-delete", call: remove(distribution), status: 202},
		{name: "102-namespace-create", call: post(pulp.NamespaceCollection, fields{"name": "ctrns"}), status: 201},
		{
			name: "102c-ns-patch-405", call: patch(pulp.Href(pulp.NamespaceCollection, ns.ID), fields{"name": "x"}), status: 405,
		},
		{name: "102d-ns-delete", call: remove(pulp.Href(pulp.NamespaceCollection, ns.ID)), status: 202},
		{name: "103-repo-delete", call: remove(full), status: 202},
		{name: "103c-remote-patch", call: patch(remote, fields{"includes": []string{"w*"}}), status: 202},
		{name: "103d-remote-delete", call: remove(remote), status: 202},
		{name: "115-migrate", call: post(push+"migrate/", fields{}), status: 202},
		{
			name: "115b-old-href-after-migrate", call: call{path: pulp.RepositoryHref(pulp.ContainerPush, migrated.ID)},
			status: 404,
		},
		{
			name: "121-delete-pinned-version", call: remove(pulp.VersionHref(pulp.Container, pinned.Pinned.RepositoryID, 1)),
			status: 400,
		},
		{
			name: "124-dist-delete-takes-repo", call: remove(pulp.Href(pulp.DistributionCollection, m.repo.Distribution.ID)),
			status: 202,
		},
		{name: "124b-repo-gone", call: call{path: pulp.RepositoryHref(pulp.Container, absent)}, status: 404},
		{name: "127-delete-only-version", call: remove(empty + "versions/0/"), status: 202},
	} {
		t.Run(c.name, func(t *testing.T) {
			want, allow := golden(t, c.name)
			r := m.do(c.call)
			if r.StatusCode != c.status {
				t.Fatalf("status %d, want %d: %s", r.StatusCode, c.status, r.raw)
			}
			if got := r.Header.Get("Allow"); got != allow {
				t.Errorf("Allow: %s, want %s", got, allow)
			}
			if c.status < 400 && !strings.Contains(c.name, "set-label") {
				compareWhole(t, c.name, want, r.body)
				compareCreated(t, r)
				return
			}
			have := r.body
			encoded, err := json.Marshal(want)
			if err != nil {
				t.Fatal(err)
			}
			version := fmt.Sprintf(`<Repository: %s; Version: %d>`, app.Name, app.LatestVersion)
			encoded = bytes.ReplaceAll(bytes.ReplaceAll(encoded, []byte(`\u003c`), []byte("<")), []byte(`\u003e`), []byte(">"))
			if err := json.Unmarshal(namedVersion.ReplaceAll(encoded, []byte(version)), &want); err != nil {
				t.Fatal(err)
			}
			compareWhole(t, c.name, want, have)
		})
	}
}

// compareCreated checks that the response to a creation has the object's href as its Location.
func compareCreated(t *testing.T, r reply) {
	t.Helper()
	object, _ := r.body.(map[string]any)
	if href, made := object["pulp_href"]; r.StatusCode == http.StatusCreated && made && r.Header.Get("Location") != href {
		t.Errorf("Location %q of %v", r.Header.Get("Location"), href)
	}
}

// testObjectsHaveTheReferencesFields compares the order of fields and some values with the recordings.
func testObjectsHaveTheReferencesFields(t *testing.T) {
	t.Parallel()
	m := newMirrors(t)
	for name, c := range map[string]call{
		"80-repo-create": {
			path: pulp.ContainerCollection,
			json: `{"name":"ctr/mirror","description":"d","pulp_labels":{"env":"prod"},"retain_repo_versions":null}`,
		},
		"95-repo-create2": {
			path: pulp.ContainerCollection,
			json: `{"name":"ctr/dest","manifest_signing_service":"` + m.serviceHref() + `","remote":"prn:container.containerremote:` + m.remote.ID + `"}`,
		},
		"81-remote-create": {
			path: pulp.RemoteCollection,
			json: `{"name":"ctr/rem","url":"http://localhost:24817","upstream_name":"ctr/push","policy":"immediate","include_tags":["*"],"username":"admin","password":"password"}`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			recorded, _ := golden(t, name)
			c.method = http.MethodPost
			r := m.expect(c, http.StatusCreated, "")
			want, have := recorded.(map[string]any), r.body.(map[string]any)
			for field := range want {
				if strings.Contains(
					field, "pulp_href",
				) || strings.HasPrefix(field, "pulp_created") || strings.HasPrefix(field, "pulp_last") ||
					slices.Contains(
						[]string{"prn", "versions_href", "latest_version_href", "remote", "manifest_signing_service"}, field,
					) {
					if (want[field] == nil) != (have[field] == nil) {
						t.Errorf("%s: %v, the reference has %v", field, have[field], want[field])
					}
					delete(want, field)
					delete(have, field)
				}
			}
			if diff := cmp.Diff(want, have); diff != "" {
				t.Errorf("fields (-reference +ours):\n%s", diff)
			}
		})
	}
	// The order in the recordings, which decoding loses.
	const common = "pulp_href prn pulp_created pulp_last_updated"
	for path, want := range map[string]string{
		href(
			m.full,
		): common + " versions_href pulp_labels latest_version_href name description retain_repo_versions retain_checkpoints remote manifest_signing_service",
		m.remoteHref(): common + " name url pulp_labels policy hidden_fields ca_cert client_cert tls_validation proxy_url max_retries total_timeout connect_timeout " +
			"sock_connect_timeout sock_read_timeout headers download_concurrency rate_limit upstream_name includes excludes sigstore",
	} {
		if got := strings.Join(keys(t, m.expect(call{path: path}, 200, "").raw), " "); got != want {
			t.Errorf("%s: fields\n%s\nwant\n%s", path, got, want)
		}
	}
}
