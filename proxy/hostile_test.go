package proxy_test

import (
	"bufio"
	"cmp"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/list"
)

// sendRaw sends a request with exactly this path as its target and exactly these headers. The body must be a string
// and may be shorter than the Content-Length.
func (w *world) sendRaw(r request) response {
	w.t.Helper()
	conn, err := (&net.Dialer{}).DialContext(w.t.Context(), "tcp", w.server.Listener.Addr().String())
	if err != nil {
		w.t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	method := cmp.Or(r.method, http.MethodGet)
	text := method + " " + r.path + " HTTP/1.1\r\nHost: " + publicHost + "\r\nConnection: close\r\n"
	if r.as != "" {
		text += "Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte(r.as+":secret")) + "\r\n"
	}
	for i := 0; i+1 < len(r.headers); i += 2 {
		text += r.headers[i] + ": " + r.headers[i+1] + "\r\n"
	}
	body, _ := r.body.(string)
	if _, err := io.WriteString(conn, text+"\r\n"+body); err != nil {
		w.t.Fatal(err)
	}
	res, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: method})
	if err != nil {
		w.t.Fatalf("%s %.120s: %v", method, r.path, err)
	}
	defer func() { _ = res.Body.Close() }()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	return response{res.StatusCode, res.Header, string(b)}
}

// expectState checks the version number and the tags of a repository.
func (w *world) expectState(name string, version int64, tags string) {
	w.t.Helper()
	target, err := w.store.Serving.Resolve(w.t.Context(), name)
	if err != nil || target.Repository.LatestVersion != version {
		w.t.Errorf("%s is at version %d, %v, want %d", name, target.Repository.LatestVersion, err, version)
	}
	if a := w.send(request{as: "admin", path: "/v2/" + name + "/tags/list"}); a.body != `{"name":"`+name+`","tags":[`+tags+`]}` {
		w.t.Errorf("unexpected content: %.300s", a.body)
	}
}

// hostileNames are request targets whose names are malformed after decoding.
var hostileNames = []string{
	"", ".", "..", "../..", "../../etc", "%2e%2e", "%2e%2e/acme/secret", "carol/../acme/secret", "carol/%2e%2e/acme/secret", "carol/..%2facme/secret", "carol/./x", "./acme/secret", "acme/secret/.",
	"acme%2fsecret", "acme%2Fsecret", "carol%2f..%2f..%2facme%2fsecret", "acme//secret", "/acme/secret", "acme/secret/", "acme%5csecret", "carol/..%5c..%5cacme/secret",
	"%252e%252e", "acme%252fsecret", "%c0%ae%c0%ae/acme/secret", "acme%c0%afsecret", "acme%00/secret", "acme/secret%00", "acme/secret%0a", "acme/secret%0d%0aX-Evil:%20yes", "acme%20/secret", "acme/secret%20", "acme%09/secret",
	"ACME/secret", "Acme/Secret", "%D0%B0cme/secret", "\u0430cme/secret", "%EF%BD%81cme/secret", "acme\u2215secret", "acme%E2%88%95secret", "acme/s%E2%80%8Becret", "acme/\u017fecret", "acme/secre%CC%81t",
	"_catalog", "acme/_catalog", "_", "-acme", "acme-", "acme/-", ".acme/secret", "acme./secret", "acme._/secret", "acme___/x", "a..b", "a___b", "~acme", "acme;v=1/secret", "acme:443/secret", "acme@x/secret", "acme+x", "acme,x",
	"acme&x", "acme%3fx", "acme%23x", "$acme", "*", "acme/*", "{acme}", "acme'--", "acme%22x", "acme%27%20OR%201=1", "%25s%25n",
}

// TestHostileNames sends requests of every kind with malformed names and checks that they disclose and create
// nothing. It covers hostile-inputs.md#hostile-names.
func TestHostileNames(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	image := w.imageOf("acme/secret", "hidden")
	d := string(w.pushImage("acme/secret", "hidden", "v1"))
	layer := string(digest.FromString("layer hidden"))
	w.setPrivate("acme/secret")
	w.pushImage("carol/x", "own", "v1")
	before := w.expect(request{as: "admin", path: "/v2/_catalog"}, http.StatusOK).body
	names := append(
		hostileNames[:len(hostileNames):len(hostileNames)],
		strings.Repeat("a", 256),
		strings.Repeat("a/", 127)+"aa",
		strings.Repeat("a", 60_000),
		strings.Repeat("../", 1000)+"etc/passwd",
	)
	for _, name := range names {
		for _, caller := range []string{"", "carol", "admin"} {
			for _, r := range []struct{ method, path, body string }{
				{method: http.MethodGet, path: "/v2/" + name + "/manifests/v1"}, {method: http.MethodHead, path: "/v2/" + name + "/manifests/" + d}, {method: http.MethodGet, path: "/v2/" + name + "/blobs/" + layer},
				{method: http.MethodGet, path: "/v2/" + name + "/tags/list"}, {method: http.MethodGet, path: "/v2/" + name + "/referrers/" + d}, {method: http.MethodGet, path: "/extensions/v2/" + name + "/signatures/" + d},
				{method: http.MethodPost, path: "/v2/" + name + "/blobs/uploads/"}, {method: http.MethodPost, path: "/v2/" + name + "/blobs/uploads/?mount=" + layer + "&from=acme/secret"},
				{method: http.MethodPut, path: "/v2/" + name + "/manifests/v2", body: image}, {method: http.MethodPut, path: "/extensions/v2/" + name + "/signatures/" + d, body: "{}"},
				{method: http.MethodDelete, path: "/v2/" + name + "/manifests/v1"}, {method: http.MethodDelete, path: "/v2/" + name + "/blobs/" + layer},
			} {
				a := w.sendRaw(
					request{
						as:      caller,
						method:  r.method,
						path:    r.path,
						body:    r.body,
						headers: []string{"Content-Type", pulp.OCIManifest, "Content-Length", fmt.Sprint(len(r.body))},
					},
				)
				if a.status != http.StatusBadRequest && a.status != http.StatusNotFound ||
					a.header.Get("X-Evil") != "" ||
					len(a.body) > 100_000 {
					t.Errorf("%s %.150q as %q status %d %.200s", r.method, r.path, caller, a.status, a.body)
				}
				if strings.Contains(a.body, "hidden") || a.header.Get("Docker-Content-Digest") != "" {
					t.Errorf("%s %.150q as %q discloses %.300s", r.method, r.path, caller, a.body)
				}
			}
		}
		for _, from := range []string{name, url.QueryEscape(name)} {
			if a := w.sendRaw(request{as: "carol", method: http.MethodPost, path: "/v2/carol/x/blobs/uploads/?mount=" + layer + "&from=" + from, headers: []string{"Content-Length", "0"}}); a.status == http.StatusCreated {
				t.Errorf("a blob is mounted from %.150q", from)
			}
		}
	}
	if after := w.expect(request{as: "admin", path: "/v2/_catalog"}, http.StatusOK).body; after != before {
		t.Errorf("the catalog is %s, was %s", after, before)
	}
	w.expectError(request{as: "carol", path: "/v2/carol/x/blobs/" + layer}, http.StatusNotFound, "BLOB_UNKNOWN")
	w.expectState("acme/secret", 1, `"v1"`)
}

// TestInvalidText sends NUL and invalid UTF-8 in parameters and checks that the responses do not depend on the
// database. It covers hostile-inputs.md#ambiguous-json and #hostile-names.
func TestInvalidText(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	d := string(w.pushImage("acme/app", "one", "v1"))
	for _, text := range []string{"%00", "a%00", "%ff", "a%ffb"} {
		for _, query := range []string{"acme/app/tags/list?last=", "_catalog?last=", "acme/app/referrers/" + d + "?artifactType=", "acme/app/referrers/" + d + "?last="} {
			w.expectError(request{as: "admin", path: "/v2/" + query + text}, http.StatusBadRequest, "INVALID_REQUEST")
		}
		w.expect(
			request{
				as:     "admin",
				method: http.MethodPost,
				path:   "/v2/acme/app/blobs/uploads/?mount=" + d + "&from=" + text,
			},
			http.StatusAccepted,
		)
		w.expectError(
			request{as: "admin", method: http.MethodPost, path: "/v2/acme/app/blobs/uploads/?digest=" + text},
			http.StatusBadRequest,
			"DIGEST_INVALID",
		)
		w.expect(
			request{
				path:    "/token/?service=x&account=" + text,
				headers: []string{"Authorization", "Basic " + base64.StdEncoding.EncodeToString([]byte("a\x00:b"))},
			},
			http.StatusUnauthorized,
		)
	}
	config := `{"architecture":"amd64\u0000","os":"\u0000","config":{"Labels":{"a\u0000":"\u0000"}}}`
	image := fmt.Sprintf(
		`{"schemaVersion":2,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":%q,"size":%d},"layers":[]}`,
		w.pushBlob("acme/app", config),
		len(config),
	)
	w.expect(manifestPut("/v2/acme/app/manifests/null", image, pulp.OCIManifest), http.StatusCreated)
	m, err := w.store.Serving.ManifestByDigest(t.Context(), digest.FromString(image))
	if err != nil || m.Architecture == nil || *m.Architecture != "amd64\ufffd" || m.OS == nil || *m.OS != "\ufffd" {
		t.Errorf("the image is %v, %v, %v", m.Architecture, m.OS, err)
	}
	listed, _, err := w.store.Lists.Manifests(
		t.Context(),
		list.Query{Where: []list.Filter{list.Where("digest", list.Equal, string(m.Digest))}, Limit: 1},
	)
	if err != nil || len(listed) != 1 || string(listed[0].RawLabels) != "{\"a\ufffd\":\"\ufffd\"}" {
		t.Errorf("the labels are %+v, %v", listed, err)
	}
	w.wantBlob("acme/app", digest.FromString(config), []byte(config))
}

// TestOddNamesAreServed pushes to names that contain keywords of the protocol and checks that each serves only its
// own content. It covers hostile-inputs.md#hostile-names.
func TestOddNamesAreServed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	names := []string{
		"a", "blobs", "manifests", "tags", "list", "v2", "token", "uploads", "referrers", "signatures", "extensions/v2", "a/blobs", "a/blobs/uploads", "a/blobs/uploads/b", "a/manifests", "a/manifests/v1", "a/tags/list", "a/tags",
		"a/referrers/b", "a/signatures/b", "blobs/uploads", "blobs/uploads/blobs/uploads", "manifests/manifests/manifests", "tags/list/tags/list", "catalog", "0", "a.b_c__d---e/0", strings.Repeat("a", 255), strings.Repeat("b/", 127) + "b",
	}
	for i, name := range names {
		text := fmt.Sprintf("odd %d.", i)
		d := w.pushImage(name, text, "v1")
		layer := digest.FromString("layer " + text)
		w.wantBlob(name, layer, []byte("layer "+text))
		for _, reference := range []string{"v1", string(d)} {
			if a := w.expect(request{path: "/v2/" + name + "/manifests/" + reference}, http.StatusOK); digest.FromString(
				a.body,
			) != d {
				t.Errorf("%s:%s is %s", name, reference, a.body)
			}
		}
		if a := w.expect(request{path: "/v2/" + name + "/tags/list"}, http.StatusOK); a.body != `{"name":"`+name+`","tags":["v1"]}` {
			t.Errorf("the tags of %s: %s", name, a.body)
		}
		w.expect(request{path: "/v2/" + name + "/referrers/" + string(d)}, http.StatusOK)
		w.expect(request{path: "/extensions/v2/" + name + "/signatures/" + string(d)}, http.StatusOK)
		at := w.startUpload(name)
		w.expect(request{as: "admin", method: http.MethodPatch, path: at, body: "chunk"}, http.StatusAccepted)
		w.expect(
			request{as: "admin", method: http.MethodPut, path: at + "?digest=" + string(digest.FromString("chunk"))},
			http.StatusCreated,
		)
		for j := range i {
			w.expectError(
				request{path: "/v2/" + names[j] + "/blobs/" + string(layer)},
				http.StatusNotFound,
				"BLOB_UNKNOWN",
			)
			w.expectError(
				request{path: "/v2/" + names[j] + "/manifests/" + string(d)},
				http.StatusNotFound,
				"MANIFEST_UNKNOWN",
			)
		}
	}
}

// TestHostileTags pushes, reads and deletes malformed tags, in the path and as a parameter. It covers
// hostile-inputs.md#hostile-tags.
func TestHostileTags(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	image := w.imageOf("acme/app", "one")
	d := w.pushImage("acme/app", "one", "v1")
	hex := d.Encoded()
	length := []string{"Content-Type", pulp.OCIManifest, "Content-Length", fmt.Sprint(len(image))}
	for _, tag := range []string{
		"..", "../x", "../../other/manifests/v1", "a/b", "/", ".v1", ".", "-v1", "v1 ", " v1", "v1\n", "\nv1", "a\nb", "a\r\nX-Evil: yes", "v1\x00", "\x00", "a:b", "a@b", "a+b", "a~b", "a%b", "a?b", "a#b", "a*", "a\\b", "é", "v\u0661", "v1\u200b",
		"ｖ1", "\xff", strings.Repeat("x", 129), strings.Repeat("x", 20_000), "sha256:" + hex[1:], "latest,v1", `"v1"`,
		// Malformed companion tags of cosign.
		"sha256-" + hex[1:] + ".sig", "sha256-" + hex + "0.att", "sha256-" + strings.ToUpper(hex) + ".sbom", "sha256-.sig", "sha256-" + hex + ".x.sig", "sha256-" + hex + "-.att", "sha256-../x.sig",
	} {
		a := w.sendRaw(
			request{
				as:      "admin",
				method:  http.MethodPut,
				path:    "/v2/acme/app/manifests/" + url.PathEscape(tag),
				body:    image,
				headers: length,
			},
		)
		if dots := tag == "." || tag == ".."; a.status != http.StatusBadRequest && !dots ||
			a.header.Get("X-Evil") != "" {
			t.Errorf("PUT %.150q status %d %.300s", tag, a.status, a.body)
		}
		named := w.expectError(
			manifestPut(
				"/v2/acme/app/manifests/"+string(d)+"?tag=good&tag="+url.QueryEscape(tag),
				image,
				pulp.OCIManifest,
			),
			http.StatusBadRequest,
			"TAG_INVALID",
		)
		if strings.Contains(named.body, hex+`"`) && !strings.Contains(tag, hex) {
			t.Errorf("the error for an invalid tag calls it a digest: %s", named.body)
		}
		for method, statuses := range map[string]string{http.MethodGet: "400 404", http.MethodHead: "400 404", http.MethodDelete: "400 404"} {
			if a := w.sendRaw(request{as: "admin", method: method, path: "/v2/acme/app/manifests/" + url.PathEscape(tag)}); !strings.Contains(
				statuses,
				fmt.Sprint(a.status),
			) {
				t.Errorf("%s %.150q status %d %.300s", method, tag, a.status, a.body)
			}
		}
	}
	// With unescaped slashes the path has no route.
	for _, target := range []string{"../x", "..", "../../app/manifests/v2", "a/../v2", "v2/", "./v2"} {
		if a := w.sendRaw(request{as: "admin", method: http.MethodPut, path: "/v2/acme/app/manifests/" + target, body: image, headers: length}); a.status != http.StatusNotFound &&
			a.status != http.StatusBadRequest {
			t.Errorf("PUT %s status %d %s", target, a.status, a.body)
		}
	}
	w.expectError(
		manifestPut("/v2/acme/app/manifests/"+string(d)+"?tag=", image, pulp.OCIManifest),
		http.StatusBadRequest,
		"TAG_INVALID",
	)
	many := "?tag=again"
	for i := range 100 {
		many += fmt.Sprintf("&tag=again&tag=t%d", i)
	}
	if a := w.expectError(manifestPut("/v2/acme/app/manifests/"+string(d)+many, image, pulp.OCIManifest), http.StatusBadRequest, "TAG_INVALID"); !strings.Contains(
		a.body,
		"A request can set at most 100 tags.",
	) {
		t.Errorf("101 tags: %s", a.body)
	}
	w.expectState("acme/app", 1, `"v1"`)

	for _, tag := range []string{"0", "_", "v1.2-3_4", "sha256-" + hex, "sha256-" + hex + ".sig", "sha256-short", "mine.sig", strings.Repeat("x", 128)} {
		w.expect(manifestPut("/v2/acme/app/manifests/"+tag, image, pulp.OCIManifest), http.StatusCreated)
		w.expect(request{path: "/v2/acme/app/manifests/" + tag}, http.StatusOK)
	}
}

// normalized returns everything that a response discloses, without times, upload ids and the given words.
func normalized(a response, words ...string) string {
	id := a.header.Get("Docker-Upload-Uuid")
	h := a.header.Clone()
	h.Del("Date")
	h.Del("Content-Length")
	text := fmt.Sprint(a.status, h, a.body)
	for _, word := range append([]string{id}, words...) {
		if word != "" {
			text = strings.ReplaceAll(text, word, "X")
		}
	}
	return text
}

// TestNoOracleOfForeignBlobs checks that responses do not disclose whether a repository that the caller may not read
// contains a digest, and that the caller's own repository does not gain the blob. It covers
// hostile-inputs.md#foreign-blobs.
func TestNoOracleOfForeignBlobs(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.pushImage("carol/x", "own", "v1")
	w.pushImage("acme/secret", "hidden", "v1")
	large := w.pushBlob("acme/secret", string(random(50_000, 90)))
	w.setPrivate("acme/secret")
	manifest := digest.FromString(
		w.expect(request{as: "acme", path: "/v2/acme/secret/manifests/v1"}, http.StatusOK).body,
	)
	config := digest.FromString(
		w.expect(request{as: "carol", path: "/v2/carol/x/manifests/v1"}, http.StatusOK).body,
	) // any manifest
	token, _ := w.token("carol", "repository:carol/x:pull,push")
	wide, _ := w.token("carol", "repository:carol/x:pull,push", "repository:acme/secret:pull")
	none := digest.FromString("no repository has this")
	image := func(d digest.Digest) string {
		return fmt.Sprintf(
			`{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":"a/b","digest":%q,"size":1},"layers":[]}`,
			pulp.OCIManifest,
			d,
		)
	}
	for _, hidden := range []digest.Digest{digest.FromString("layer hidden"), large, manifest} {
		for _, caller := range []string{"carol", token, wide, ""} {
			for _, from := range []string{"&from=acme/secret", "", "&from=", "&from=carol/x", "&from=acme/none", "&from=acme%2Fsecret", "&from=../acme/secret", "&from=ACME/secret", "&from=acme/secret&from=carol/x"} {
				try := func(d digest.Digest) response {
					return w.send(
						request{
							as:     caller,
							method: http.MethodPost,
							path:   "/v2/carol/x/blobs/uploads/?mount=" + string(d) + from,
						},
					)
				}
				there, not := try(hidden), try(none)
				if normalized(there, string(hidden)) != normalized(not, string(none)) ||
					caller != "" && there.status != http.StatusAccepted {
					t.Errorf("mount%s as %.10q: %s\nand for an absent digest %s", from, caller, normalized(there), normalized(not))
				}
			}
			for _, r := range []struct {
				method, path string
				body         func(digest.Digest) any
			}{
				{method: http.MethodHead, path: "/v2/carol/x/blobs/%s"}, {method: http.MethodGet, path: "/v2/carol/x/blobs/%s"}, {method: http.MethodDelete, path: "/v2/carol/x/blobs/%s"},
				{method: http.MethodHead, path: "/v2/carol/x/manifests/%s"}, {method: http.MethodGet, path: "/v2/carol/x/manifests/%s"}, {method: http.MethodDelete, path: "/v2/carol/x/manifests/%s"},
				{method: http.MethodGet, path: "/v2/carol/x/referrers/%s"}, {method: http.MethodGet, path: "/extensions/v2/carol/x/signatures/%s"},
				{method: http.MethodPost, path: "/v2/carol/x/blobs/uploads/?digest=%s", body: func(digest.Digest) any { return "" }},
				{method: http.MethodPut, path: "/v2/carol/x/manifests/v2", body: func(d digest.Digest) any { return image(d) }},
				// The repository itself looks absent.
				{method: http.MethodHead, path: "/v2/acme/secret/blobs/%s"}, {method: http.MethodGet, path: "/v2/acme/secret/blobs/%s"}, {method: http.MethodDelete, path: "/v2/acme/secret/blobs/%s"},
				{method: http.MethodHead, path: "/v2/acme/secret/manifests/%s"}, {method: http.MethodPost, path: "/v2/acme/secret/blobs/uploads/?mount=%s&from=carol/x"},
			} {
				try := func(d digest.Digest, name string) response {
					path := strings.Replace(r.path, "acme/secret", name, 1)
					if strings.Contains(path, "%s") {
						path = fmt.Sprintf(path, d)
					}
					var body any
					if r.body != nil {
						body = r.body(d)
					}
					return w.send(
						request{
							as:      caller,
							method:  r.method,
							path:    path,
							body:    body,
							headers: []string{"Content-Type", pulp.OCIManifest, "Range", "bytes=0-0"},
						},
					)
				}
				there := try(hidden, "acme/secret")
				for _, not := range []response{try(none, "acme/secret"), try(hidden, "acme/nowhere")} {
					if normalized(
						there,
						string(hidden),
						"acme/secret",
					) != normalized(
						not,
						string(none),
						string(hidden),
						"acme/nowhere",
						"acme/secret",
					) {
						t.Errorf("%s %s as %.10q: %s\nand for an absent digest %s", r.method, r.path, caller, normalized(there), normalized(not))
					}
				}
				if there.status < http.StatusBadRequest && !strings.Contains(r.path, "referrers") {
					t.Errorf("%s %s as %.10q status %d", r.method, r.path, caller, there.status)
				}
			}
		}
		w.expect(request{as: "acme", path: "/v2/acme/secret/manifests/" + string(manifest)}, http.StatusOK)
	}
	w.expect(
		request{as: "acme", method: http.MethodHead, path: "/v2/acme/secret/blobs/" + string(large)},
		http.StatusOK,
	)
	w.expect(request{as: "carol", path: "/v2/carol/x/manifests/" + string(config)}, http.StatusOK)
	w.expectState("carol/x", 1, `"v1"`)
}
