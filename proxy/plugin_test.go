package proxy_test

import (
	"fmt"
	"net/http"
	"testing"

	"github.com/countersign/countersign/internal/pulp"
)

// TestDockerPlugin pushes and pulls a plugin as Docker does, with its own token scope and config media type.
func TestDockerPlugin(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	config := `{"Description":"a plugin","Interface":{"Types":["docker.volumedriver/1.0"]}}`
	push, _ := w.token("admin", "repository(plugin):acme/plugin:pull,push")
	c, l := w.pushBlob("acme/plugin", config), w.pushBlob("acme/plugin", "rootfs")
	plugin := fmt.Sprintf(
		`{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":"application/vnd.docker.plugin.v1+json","size":%d,"digest":%q},`+
			`"layers":[{"mediaType":"application/vnd.docker.image.rootfs.diff.tar.gzip","size":6,"digest":%q}]}`,
		pulp.DockerManifest,
		len(config),
		c,
		l,
	)
	w.expect(
		request{
			as:      push,
			method:  http.MethodPut,
			path:    "/v2/acme/plugin/manifests/latest",
			body:    plugin,
			headers: []string{"Content-Type", pulp.DockerManifest},
		},
		http.StatusCreated,
	)
	w.setPrivate("acme/plugin")
	pull, _ := w.token("admin", "repository(plugin):acme/plugin:pull")
	if a := w.expect(request{as: pull, path: "/v2/acme/plugin/manifests/latest", headers: []string{"Accept", pulp.DockerManifest}}, http.StatusOK); a.body != plugin {
		t.Errorf("the plugin is %s", a.body)
	}
	w.expectError(
		request{
			as:      pull,
			method:  http.MethodPut,
			path:    "/v2/acme/plugin/manifests/latest",
			body:    plugin,
			headers: []string{"Content-Type", pulp.DockerManifest},
		},
		http.StatusUnauthorized,
		"UNAUTHORIZED",
	)
	// Other builders omit layers or manifests, or write null.
	for i, body := range []string{
		fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","size":%d,"digest":%q},"layers":null}`, pulp.OCIManifest, len(config), c),
		fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","size":%d,"digest":%q}}`, pulp.OCIManifest, len(config), c),
	} {
		at := fmt.Sprintf("/v2/acme/plugin/manifests/bare%d", i)
		w.expect(manifestPut(at, body, pulp.OCIManifest), http.StatusCreated)
		w.expect(request{as: "admin", path: at}, http.StatusOK)
	}
	for i, body := range []string{`{"schemaVersion":2,"mediaType":"` + pulp.OCIIndex + `","manifests":null}`, `{"schemaVersion":2,"mediaType":"` + pulp.OCIIndex + `"}`} {
		at := fmt.Sprintf("/v2/acme/plugin/manifests/list%d", i)
		w.expect(manifestPut(at, body, pulp.OCIIndex), http.StatusCreated)
		w.expect(request{as: "admin", path: at}, http.StatusOK)
	}
}
