package integration

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net/http"
	"testing"
)

const (
	ociManifest = "application/vnd.oci.image.manifest.v1+json"
	ociConfig   = "application/vnd.oci.image.config.v1+json"
	ociLayer    = "application/vnd.oci.image.layer.v1.tar"
)

// descriptor is a descriptor in a manifest.
type descriptor struct {
	MediaType string `json:"mediaType"`
	Digest    string `json:"digest"`
	Size      int    `json:"size"`
}

func describe(mediaType string, content []byte) descriptor {
	return descriptor{MediaType: mediaType, Digest: fmt.Sprintf("sha256:%x", sha256.Sum256(content)), Size: len(content)}
}

// pushed is an image whose push was acknowledged.
type pushed struct {
	tag   string
	name  string // digest of the manifest
	blobs []string
}

// pushTiny pushes an image of two blobs, both made from the text, in three requests. It may be called from any
// goroutine. It returns an error instead of failing the test, since the server may be killed meanwhile.
func (a api) pushTiny(t *testing.T, repository, tag, text string) (pushed, error) {
	config := []byte(`{"architecture":"amd64","os":"linux","author":"` + text + `","rootfs":{"type":"layers","diff_ids":[]}}`)
	layer := []byte(text)
	done := pushed{tag: tag}
	for _, blob := range [][]byte{config, layer} {
		digest := describe("", blob).Digest
		path := "/v2/" + repository + "/blobs/uploads/?digest=" + digest
		if err := a.created(t, http.MethodPost, path, "application/octet-stream", blob); err != nil {
			return pushed{}, err
		}
		done.blobs = append(done.blobs, digest)
	}
	manifest, err := json.Marshal(object{
		"schemaVersion": 2, "mediaType": ociManifest, "config": describe(ociConfig, config), "layers": []descriptor{describe(ociLayer, layer)},
	})
	if err != nil {
		return pushed{}, err
	}
	done.name = describe("", manifest).Digest
	return done, a.created(t, http.MethodPut, "/v2/"+repository+"/manifests/"+tag, ociManifest, manifest)
}

// created sends a body and returns an error for any status but 201.
func (a api) created(t *testing.T, method, path, contentType string, body []byte) error {
	status, _, answer, err := a.try(t, method, path, http.Header{"Content-Type": {contentType}}, body)
	if err != nil {
		return err
	}
	if status != http.StatusCreated {
		return fmt.Errorf("%s %s: %d %s", method, path, status, answer)
	}
	return nil
}

// isServed checks that a pushed image is complete: its tag, its manifest and its blobs.
func (a api) isServed(t *testing.T, repository string, image pushed) {
	t.Helper()
	status, header, manifest := a.do(t, http.MethodGet, "/v2/"+repository+"/manifests/"+image.tag, http.Header{"Accept": {ociManifest}}, nil)
	if status != http.StatusOK || header.Get("Docker-Content-Digest") != image.name || describe("", manifest).Digest != image.name {
		t.Errorf("%s:%s: %d %s, want %s", repository, image.tag, status, header.Get("Docker-Content-Digest"), image.name)
		return
	}
	for _, digest := range image.blobs {
		status, _, blob := a.do(t, http.MethodGet, "/v2/"+repository+"/blobs/"+digest, nil, nil)
		if status != http.StatusOK || describe("", blob).Digest != digest {
			t.Errorf("%s:%s: blob %s: %d", repository, image.tag, digest, status)
		}
	}
}

// versionsAreComplete checks that a repository's versions are numbered from 0 without gaps, that the counts of each
// match its changes, and that the counts of the latest version match its lists. It returns the latest version.
func (a api) versionsAreComplete(t *testing.T, repository string) object {
	t.Helper()
	versions := a.list(t, repository+"versions/").Results // newest first
	for i, version := range versions {
		if number := float64(len(versions) - 1 - i); version["number"] != number {
			t.Fatalf("version %v listed, want %v", version["number"], number)
		}
		if i+1 == len(versions) {
			continue
		}
		for _, kind := range []string{"container.blob", "container.manifest", "container.signature", "container.tag"} {
			want := count(versions[i+1], "present", kind) + count(version, "added", kind) - count(version, "removed", kind)
			if have := count(version, "present", kind); have != want {
				t.Errorf("%v: %d %s present, but its changes make %d", version["pulp_href"], have, kind, want)
			}
		}
	}
	latest := a.get(t, text(a.get(t, repository)["latest_version_href"]))
	if latest["number"] != versions[0]["number"] {
		t.Errorf("the latest version is %v, but %v is listed", latest["number"], versions[0]["number"])
	}
	countsMatchLists(t, a, latest)
	return latest
}
