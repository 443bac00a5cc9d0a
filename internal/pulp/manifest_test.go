package pulp_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
)

const (
	d1 = "sha256:7fbe918c3928bd80381de7c89b41da7ba4811e89a1f877aec1f49f0aaac8cbc2"
	d2 = "sha256:881b95f6b805f5da28f6c86821f5efb55b9a0ea91660eaa96c417e81f816ba7f"

	ociConfig    = "application/vnd.oci.image.config.v1+json"
	dockerConfig = "application/vnd.docker.container.image.v1+json"
	ociLayer     = "application/vnd.oci.image.layer.v1.tar+gzip"
)

func descriptor(mediaType, digest, more string) string {
	return fmt.Sprintf(`{"mediaType":%q,"digest":%q,"size":10%s}`, mediaType, digest, more)
}

func imageText(mediaType, config, layers, more string) string {
	return fmt.Sprintf(
		`{"schemaVersion":2,"mediaType":%q,"config":%s,"layers":[%s]%s}`,
		mediaType,
		config,
		layers,
		more,
	)
}

func indexText(mediaType, children, more string) string {
	return fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"manifests":[%s]%s}`, mediaType, children, more)
}

// TestParseManifest covers hostile-inputs.md#oversized-manifest, #ambiguous-json, #ambiguous-manifest and #deep-index.
func TestParseManifest(t *testing.T) {
	t.Parallel()
	oci := imageText(pulp.OCIManifest, descriptor(ociConfig, d1, ""), descriptor(ociLayer, d2, ""), "")
	docker := imageText(
		pulp.DockerManifest,
		descriptor(dockerConfig, d1, ""),
		descriptor("application/vnd.docker.image.rootfs.diff.tar.gzip", d2, ""),
		"",
	)
	platform := `,"platform":{"architecture":"amd64","os":"linux"}`
	list := indexText(pulp.DockerList, descriptor(pulp.DockerManifest, d1, platform), "")
	index := indexText(pulp.OCIIndex, descriptor(pulp.OCIManifest, d1, ""), "")
	untyped := strings.Replace(oci, `"mediaType":"`+pulp.OCIManifest+`",`, "", 1)
	tests := map[string]struct {
		give, contentType string
		want              string // the media type; empty if it is rejected
		says              string // the error contains it
	}{
		"an OCI image":                        {give: oci, contentType: pulp.OCIManifest, want: pulp.OCIManifest},
		"an OCI image without a Content-Type": {give: oci, want: pulp.OCIManifest},
		"a Content-Type with a parameter": {
			give:        oci,
			contentType: pulp.OCIManifest + "; charset=utf-8",
			want:        pulp.OCIManifest,
		},
		"a docker image": {
			give:        docker,
			contentType: pulp.DockerManifest,
			want:        pulp.DockerManifest,
		},
		"a docker list": {give: list, contentType: pulp.DockerList, want: pulp.DockerList},
		"an OCI index":  {give: index, contentType: pulp.OCIIndex, want: pulp.OCIIndex},
		"an empty index": {
			give:        indexText(pulp.OCIIndex, "", ""),
			contentType: pulp.OCIIndex,
			want:        pulp.OCIIndex,
		},
		"an image without a type of its own": {give: untyped, contentType: pulp.OCIManifest, want: pulp.OCIManifest},
		"an image without any type":          {give: untyped, want: pulp.OCIManifest},
		"an image sent as JSON":              {give: untyped, contentType: "application/json", want: pulp.OCIManifest},
		"an index without any type":          {give: `{"schemaVersion":2,"manifests":[]}`, want: pulp.OCIIndex},
		"no layers": {
			give: imageText(pulp.OCIManifest, descriptor(ociConfig, d1, ""), "", ""),
			want: pulp.OCIManifest,
		},
		"layers null": {
			give:        strings.Replace(oci, `[`+descriptor(ociLayer, d2, "")+`]`, "null", 1),
			contentType: pulp.OCIManifest,
			want:        pulp.OCIManifest,
		},
		"layers absent": {
			give: `{"schemaVersion":2,"config":` + descriptor(ociConfig, d1, "") + `}`,
			want: pulp.OCIManifest,
		},
		"manifests null": {give: `{"schemaVersion":2,"manifests":null}`, want: pulp.OCIIndex},
		"manifests null, in a docker list": {
			give: `{"schemaVersion":2,"mediaType":"` + pulp.DockerList + `","manifests":null}`,
			want: pulp.DockerList,
		},
		"manifests absent": {
			give: `{"schemaVersion":2,"mediaType":"` + pulp.OCIIndex + `"}`,
			want: pulp.OCIIndex,
		},
		"manifests absent, by Content-Type": {
			give:        `{"schemaVersion":2}`,
			contentType: pulp.OCIIndex,
			want:        pulp.OCIIndex,
		},
		"an image with manifests null": {
			give: `{"schemaVersion":2,"config":` + descriptor(ociConfig, d1, "") + `,"layers":[],"manifests":null}`,
			want: pulp.OCIManifest,
		},
		"an index with layers null": {
			give: indexText(pulp.OCIIndex, "", `,"config":null,"layers":null`),
			want: pulp.OCIIndex,
		},
		"a docker plugin": {
			give: imageText(
				pulp.DockerManifest,
				descriptor("application/vnd.docker.plugin.v1+json", d1, ""),
				descriptor("application/vnd.docker.image.rootfs.diff.tar.gzip", d2, ""),
				"",
			),
			want: pulp.DockerManifest,
		},
		"a docker image with another config": {
			give: imageText(pulp.DockerManifest, descriptor("application/x", d1, ""), "", ""),
			says: "config",
		},
		"layers null without a config": {give: `{"schemaVersion":2,"layers":null}`, says: "V1"},
		"layers that are an object": {
			give: strings.Replace(oci, `[`+descriptor(ociLayer, d2, "")+`]`, "{}", 1),
			says: "layers",
		},
		"manifests that are a number": {give: `{"schemaVersion":2,"manifests":1}`, says: "manifests"},
		"a sha512": {
			give: imageText(pulp.OCIManifest, descriptor(ociConfig, "sha512:"+d1[7:]+d2[7:], ""), "", ""),
			want: pulp.OCIManifest,
		},
		"unknown members": {
			give: imageText(pulp.OCIManifest, descriptor(ociConfig, d1, `,"x":{"y":[]}`), "", `,"org":1`),
			want: pulp.OCIManifest,
		},
		"another Content-Type":      {give: oci, contentType: pulp.DockerManifest, says: "mediaType"},
		"an image sent as an index": {give: untyped, contentType: pulp.OCIIndex, says: "mediaType"},
		"an index sent as an image": {
			give:        `{"schemaVersion":2,"manifests":[]}`,
			contentType: pulp.OCIManifest,
			says:        "mediaType",
		},
		"a docker image without a type": {
			give:        strings.Replace(docker, `"mediaType":"`+pulp.DockerManifest+`",`, "", 1),
			contentType: pulp.DockerManifest,
			says:        "mediaType",
		},
		"layers and manifests": {
			give: imageText(pulp.OCIManifest, descriptor(ociConfig, d1, ""), "", `,"manifests":[]`),
			says: "manifests",
		},
		"schema 1": {give: `{"schemaVersion":1,"name":"x","fsLayers":[]}`, says: "V1"},
		"schema 1 by its type": {
			give:        `{"schemaVersion":1}`,
			contentType: "application/vnd.docker.distribution.manifest.v1+prettyjws",
			says:        "V1",
		},
		"an unknown type": {
			give: strings.Replace(oci, pulp.OCIManifest, "application/x", 1),
			says: "unknown media type was provided: application/x",
		},
		"an invalid Content-Type": {give: oci, contentType: "a/b/c", says: "Content-Type"},
		"another schema version": {
			give: strings.Replace(oci, `"schemaVersion":2`, `"schemaVersion":3`, 1),
			says: "schemaVersion",
		},
		"no schema version": {
			give: strings.Replace(oci, `"schemaVersion":2,`, "", 1),
			says: "schemaVersion",
		},
		"a schema version that is a text": {
			give: strings.Replace(oci, `"schemaVersion":2`, `"schemaVersion":"2"`, 1),
			says: "schemaVersion",
		},
		"Layers in another case": {give: strings.Replace(oci, `"layers"`, `"Layers"`, 1), says: "layers"},
		"a duplicate key": {
			give: strings.Replace(oci, `"layers"`, `"layers":[],"layers"`, 1),
			says: "duplicate key",
		},
		"a duplicate nested key": {
			give: imageText(pulp.OCIManifest, descriptor(ociConfig, d1, `,"size":11`), "", ""),
			says: "duplicate key",
		},
		"a huge number in an unknown member": {
			give: imageText(pulp.OCIManifest, descriptor(ociConfig, d1, ""), "", `,"x":[-1e400]`),
			says: "number",
		},
		"a size of 20 digits": {
			give: strings.Replace(oci, `"size":10`, `"size":18446744073709551616`, 1),
			says: "size",
		},
		"layers twice, in two spellings": {
			give: strings.Replace(oci, `"layers"`, `"Layers":[],"layers"`, 1),
			says: `"Layers" is spelled "layers"`,
		},
		"layers with a long s": {
			give: imageText(pulp.OCIManifest, descriptor(ociConfig, d1, ""), "", `,"layer\u017f":[]`),
			says: "is spelled",
		},
		"manifests in another case": {
			give: imageText(pulp.OCIManifest, descriptor(ociConfig, d1, ""), "", `,"Manifests":[]`),
			says: "is spelled",
		},
		"a media type in another case": {
			give: imageText(pulp.OCIManifest, descriptor(ociConfig, d1, ""), "", `,"MediaType":"`+pulp.OCIIndex+`"`),
			says: "is spelled",
		},
		"a digest in another case": {
			give: imageText(pulp.OCIManifest, descriptor(ociConfig, d1, `,"Digest":"`+d2+`"`), "", ""),
			says: "config: the member \"Digest\"",
		},
		"a platform in another case": {
			give: indexText(
				pulp.OCIIndex,
				descriptor(pulp.OCIManifest, d1, `,"platform":{"architecture":"a","os":"b","OS":"c"}`),
				"",
			),
			says: "platform: the member",
		},
		"annotations in two cases": {
			give: imageText(
				pulp.OCIManifest,
				descriptor(ociConfig, d1, ""),
				"",
				`,"annotations":{"Size":"1","size":"2"}`,
			),
			want: pulp.OCIManifest,
		},
		"config and manifests": {
			give: indexText(pulp.OCIIndex, "", `,"config":`+descriptor(ociConfig, d1, "")),
			says: "manifests",
		},
		"layers without a config and a type": {
			give: `{"schemaVersion":2,"manifests":[],"layers":[]}`,
			says: "manifests",
		},
		"20,001 children": {
			give: indexText(
				pulp.OCIIndex,
				strings.Repeat(descriptor(pulp.OCIManifest, d2, "")+",", 20_000)+descriptor(pulp.OCIManifest, d2, ""),
				"",
			),
			says: "manifests",
		},
		"layers that are a text": {
			give: strings.Replace(oci, `[`+descriptor(ociLayer, d2, "")+`]`, `"x"`, 1),
			says: "layers",
		},
		"a layer that is a text": {
			give: imageText(pulp.OCIManifest, descriptor(ociConfig, d1, ""), `"x"`, ""),
			says: "layers[0]",
		},
		"no config": {
			give: `{"schemaVersion":2,"mediaType":"` + pulp.OCIManifest + `","layers":[]}`,
			says: "config",
		},
		"a digest of an unknown kind": {
			give: strings.Replace(oci, d2, "md5:d41d8cd98f00b204e9800998ecf8427e", 1),
			says: "digest",
		},
		"a digest that is a path": {
			give: strings.Replace(oci, d2, "sha256:../../etc/passwd", 1),
			says: "digest",
		},
		"a short digest":            {give: strings.Replace(oci, d2, d2[:70], 1), says: "digest"},
		"a negative size":           {give: strings.Replace(oci, `"size":10`, `"size":-1`, 1), says: "size"},
		"a size that is no integer": {give: strings.Replace(oci, `"size":10`, `"size":1.5`, 1), says: "size"},
		"a huge size": {
			give: strings.Replace(oci, `"size":10`, `"size":1e400`, 1),
			says: "number",
		},
		"sizes that overflow": {
			give: imageText(
				pulp.OCIManifest,
				descriptor(ociConfig, d1, ""),
				strings.ReplaceAll(
					descriptor(ociLayer, d1, "")+","+descriptor(ociLayer, d2, ""),
					`"size":10`,
					`"size":9223372036854775807`,
				),
				"",
			),
			says: "sizes",
		},
		"a docker list without a platform": {
			give: indexText(pulp.DockerList, descriptor(pulp.DockerManifest, d1, ""), ""),
			says: "platform",
		},
		"half a platform": {
			give: indexText(pulp.OCIIndex, descriptor(pulp.OCIManifest, d1, `,"platform":{"os":"linux"}`), ""),
			says: "platform",
		},
		"a docker list of something else": {
			give: indexText(pulp.DockerList, descriptor("text/plain", d1, platform), ""),
			says: "mediaType",
		},
		"a docker config of another type": {
			give: strings.Replace(docker, dockerConfig, ociConfig, 1),
			says: "config",
		},
		"a foreign layer without a place": {
			give: strings.Replace(docker, "rootfs.diff", "rootfs.foreign.diff", 1),
			says: "urls",
		},
		"annotations that are no texts": {
			give: imageText(pulp.OCIManifest, descriptor(ociConfig, d1, ""), "", `,"annotations":{"a":1}`),
			says: "annotations",
		},
		"too many layers": {
			give: imageText(
				pulp.OCIManifest,
				descriptor(ociConfig, d1, ""),
				strings.Repeat(descriptor(ociLayer, d2, "")+",", 10_000)+descriptor(ociLayer, d2, ""),
				"",
			),
			says: "layers",
		},
		"deep nesting": {
			give: imageText(
				pulp.OCIManifest,
				descriptor(ociConfig, d1, ""),
				"",
				`,"x":`+strings.Repeat("[", 10_000)+strings.Repeat("]", 10_000),
			),
			says: "deep",
		},
		"trailing data":     {give: oci + "{}", says: "more than one"},
		"truncated":         {give: oci[:len(oci)/2], says: "JSON"},
		"nothing":           {says: "JSON"},
		"a list":            {give: "[]", says: "object"},
		"null":              {give: "null", says: "object"},
		"a byte order mark": {give: "\ufeff" + oci, says: "JSON"},
		"no UTF-8": {
			give: strings.Replace(oci, "schemaVersion", "schema\xffVersion", 1),
			says: "UTF-8",
		},
		"a NUL": {give: strings.Replace(oci, "{", "{\x00", 1), says: "JSON"},
		"a NUL in a text": {
			give: imageText(pulp.OCIManifest, descriptor(ociConfig, d1, ""), "", `,"annotations":{"a":"b\u0000c"}`),
			says: "NUL",
		},
		"a NUL in a key": {
			give: imageText(pulp.OCIManifest, descriptor(ociConfig, d1, ""), "", `,"annotations":{"a\u0000":"b"}`),
			says: "NUL",
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m, err := pulp.ParseManifest([]byte(tt.give), tt.contentType)
			if tt.want != "" && (err != nil || m.MediaType != tt.want) {
				t.Errorf("ParseManifest = %s, %v, want %s", m.MediaType, err, tt.want)
			}
			if tt.want == "" &&
				(!fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), tt.says) || len(err.Error()) > 300) {
				t.Errorf("ParseManifest = %v, want Invalid about %q", err, tt.says)
			}
		})
	}
	if _, err := pulp.ParseManifest(make([]byte, pulp.MaxManifestSize+1), ""); !fault.Is(err, fault.TooLarge) {
		t.Errorf("a manifest that is too large: %v", err)
	}
}

func TestManifestType(t *testing.T) {
	t.Parallel()
	config := func(mediaType string) string { return descriptor(mediaType, d1, "") }
	layer := func(mediaType string) string { return descriptor(mediaType, d2, "") }
	tests := map[string]struct {
		give, config       string // the manifest, and the bytes of its image config
		kind, artifactType string
	}{
		"an image": {
			give:         imageText(pulp.OCIManifest, config(ociConfig), layer(ociLayer), ""),
			config:       `{"architecture":"arm64","os":"linux"}`,
			kind:         "image",
			artifactType: ociConfig,
		},
		"an index": {give: indexText(pulp.OCIIndex, "", ""), kind: "index"},
		"an index of a type": {
			give:         indexText(pulp.OCIIndex, "", `,"artifactType":"a/b"`),
			kind:         "index",
			artifactType: "a/b",
		},
		"a chart": {
			give:         imageText(pulp.OCIManifest, config("application/vnd.cncf.helm.config.v1+json"), "", ""),
			config:       "{}",
			kind:         "helm",
			artifactType: "application/vnd.cncf.helm.config.v1+json",
		},
		"an artifact": {
			give: imageText(
				pulp.OCIManifest,
				config("application/vnd.oci.empty.v1+json"),
				"",
				`,"artifactType":"a/b"`,
			),
			config:       "{}",
			kind:         "artifact",
			artifactType: "a/b",
		},
		"an artifact by config": {
			give:         imageText(pulp.OCIManifest, config("a/config"), "", ""),
			config:       "rubbish",
			kind:         "artifact",
			artifactType: "a/config",
		},
		"a cosign signature": {
			give: imageText(
				pulp.OCIManifest,
				config(ociConfig),
				layer("application/vnd.dev.cosign.simplesigning.v1+json"),
				"",
			),
			config:       "{}",
			kind:         "cosign_signature",
			artifactType: ociConfig,
		},
		"an SBOM": {
			give:         imageText(pulp.OCIManifest, config(ociConfig), layer("text/spdx+json"), ""),
			config:       "{}",
			kind:         "cosign_sbom",
			artifactType: ociConfig,
		},
		"a bootable image": {
			give:         imageText(pulp.OCIManifest, config(ociConfig), layer(ociLayer), ""),
			config:       `{"config":{"Labels":{"containers.bootc":"1"}}}`,
			kind:         "bootable",
			artifactType: ociConfig,
		},
		"bootable by annotation": {
			give: imageText(
				pulp.OCIManifest,
				config(ociConfig),
				layer(ociLayer),
				`,"annotations":{"containers.bootc":"1"}`,
			),
			config:       "{}",
			kind:         "bootable",
			artifactType: ociConfig,
		},
		"a flatpak": {
			give:         imageText(pulp.OCIManifest, config(ociConfig), layer(ociLayer), ""),
			config:       `{"config":{"Labels":{"org.flatpak.ref":"app/x"}}}`,
			kind:         "flatpak",
			artifactType: ociConfig,
		},
	}
	for name, tt := range tests {
		m, err := pulp.ParseManifest([]byte(tt.give), "")
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		m.ApplyConfig([]byte(tt.config))
		if m.Type != tt.kind || m.ArtifactType != tt.artifactType {
			t.Errorf(
				"%s: type %s, artifact type %s, want %s, %s",
				name,
				m.Type,
				m.ArtifactType,
				tt.kind,
				tt.artifactType,
			)
		}
	}
	m, err := pulp.ParseManifest(
		[]byte(
			imageText(
				pulp.OCIManifest,
				config(ociConfig),
				layer(ociLayer)+","+layer(ociLayer),
				`,"subject":`+descriptor(pulp.OCIManifest, d2, "")+`,"annotations":{"a":"b"}`,
			),
		),
		"",
	)
	if err != nil {
		t.Fatal(err)
	}
	m.ApplyConfig([]byte(`{"architecture":"arm64","os":"linux","config":{"Labels":{"c":"d"}}}`))
	if m.Subject != d2 || m.Annotations["a"] != "b" || m.Labels["c"] != "d" || *m.Architecture != "arm64" ||
		*m.OS != "linux" ||
		*m.ImageSize != 20 ||
		m.Config.Digest != d1 ||
		len(m.Layers) != 2 {
		t.Errorf("parsed %+v", m)
	}
}
