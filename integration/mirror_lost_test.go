package integration

import (
	"net/http"
	"strings"
	"testing"
)

// TestMirrorLosesItsRemote deletes the remotes of mirrors whose layers were never downloaded. Then pulls fail, HEAD of
// the layers is 404, and repair reports them. A sync of a new remote restores one mirror; a push by skopeo, which
// checks each layer before it sends it, restores another.
func TestMirrorLosesItsRemote(t *testing.T) {
	t.Parallel()
	need(t, "skopeo")
	source := startPeer(t)
	s := startServer(t, allowLoopback)
	admin := asAdmin(t, s)
	for _, policy := range []string{"on_demand", "streamed"} {
		for _, how := range []string{"sync", "push"} {
			name := "mirror/" + policy + "-" + how
			content := image(t, "amd64", name)
			copyTo(t, source, name+":v1", content)
			layers, err := content.Layers()
			if err != nil {
				t.Fatal(err)
			}
			layer, err := layers[0].Digest()
			if err != nil {
				t.Fatal(err)
			}
			fields := object{"name": name, "url": source, "upstream_name": name, "policy": policy}
			remote := s.make(t, remotes, fields)
			repository := s.make(t, containerRepos, object{"name": name, "remote": remote})
			s.act(t, repository+"sync/", object{})
			s.distribute(t, name, object{"repository": repository})
			head := func(want int) {
				t.Helper()
				if status, _, _ := s.do(t, http.MethodHead, "/v2/"+name+"/blobs/"+layer.String(), nil, nil); status != want {
					t.Errorf("%s: HEAD of the layer is answered %d, want %d", name, status, want)
				}
			}
			unavailable := func() (report string) {
				t.Helper()
				reports, _ := s.act(t, repository+"versions/1/repair/", object{"verify_checksums": false})["progress_reports"].([]any)
				for _, r := range reports {
					if p, _ := r.(object); p["code"] == "repair.unavailable" {
						report = text(p["message"])
					}
				}
				return report
			}
			pull := func() error {
				_, err := output(t, admin.env(), "skopeo", "--insecure-policy", "copy", "--quiet", "--src-tls-verify=false", "docker://"+s.host+"/"+name+":v1", "dir:"+t.TempDir())
				return err
			}
			head(http.StatusOK)
			if deleted := s.finished(t, s.startTask(t, http.MethodDelete, remote, nil)); deleted["state"] != "completed" {
				t.Fatal(deleted)
			}
			head(http.StatusNotFound)
			if err := pull(); err == nil {
				t.Errorf("%s: pulled a layer that no remote has", name)
			}
			if said := unavailable(); !strings.Contains(said, layer.String()) {
				t.Errorf("%s: repair reports %q", name, said)
			}
			if how == "sync" {
				s.act(t, repository+"sync/", object{"remote": s.make(t, remotes, fields)})
			} else {
				admin.push(t, ociLayout(t, content), name+":v1")
			}
			head(http.StatusOK)
			if said := unavailable(); said != "" {
				t.Errorf("%s: repair reports %q", name, said)
			}
			for range 2 {
				if err := pull(); err != nil {
					t.Errorf("%s: pull after the %s: %v", name, how, err)
				}
			}
			if number := s.latest(t, repository)["number"]; number != 1.0 {
				t.Errorf("%s: the latest version is %v", name, number)
			}
		}
	}
}
