package pulp_test

import (
	"encoding/json"
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
	return fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"config":%s,"layers":[%s]%s}`, mediaType, config, layers, more)
}

func indexText(mediaType, children, more string) string {
	return fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"manifests":[%s]%s}`, mediaType, children, more)
}

// TestParseManifest reads manifests that are right and wrong. Hostile inputs 18, 19, 20 and 22.
func TestParseManifest(t *testing.T) {
	t.Parallel()
	oci := imageText(pulp.OCIManifest, descriptor(ociConfig, d1, ""), descriptor(ociLayer, d2, ""), "")
	docker := imageText(pulp.DockerManifest, descriptor(dockerConfig, d1, ""), descriptor("application/vnd.docker.image.rootfs.diff.tar.gzip", d2, ""), "")
	platform := `,"platform":{"architecture":"amd64","os":"linux"}`
	list := indexText(pulp.DockerList, descriptor(pulp.DockerManifest, d1, platform), "")
	index := indexText(pulp.OCIIndex, descriptor(pulp.OCIManifest, d1, ""), "")
	untyped := strings.Replace(oci, `"mediaType":"`+pulp.OCIManifest+`",`, "", 1)
	tests := map[string]struct {
		give, contentType string
		want              string // the media type; empty: refused
		says              string // in the error
	}{
		"an OCI image":                        {oci, pulp.OCIManifest, pulp.OCIManifest, ""},
		"an OCI image without a Content-Type": {oci, "", pulp.OCIManifest, ""},
		"a Content-Type with a parameter":     {oci, pulp.OCIManifest + "; charset=utf-8", pulp.OCIManifest, ""},
		"a docker image":                      {docker, pulp.DockerManifest, pulp.DockerManifest, ""},
		"a docker list":                       {list, pulp.DockerList, pulp.DockerList, ""},
		"an OCI index":                        {index, pulp.OCIIndex, pulp.OCIIndex, ""},
		"an empty index":                      {indexText(pulp.OCIIndex, "", ""), pulp.OCIIndex, pulp.OCIIndex, ""},
		"an image without a type of its own":  {untyped, pulp.OCIManifest, pulp.OCIManifest, ""},
		"an image without any type":           {untyped, "", pulp.OCIManifest, ""},
		"an image sent as JSON":               {untyped, "application/json", pulp.OCIManifest, ""},
		"an index without any type":           {`{"schemaVersion":2,"manifests":[]}`, "", pulp.OCIIndex, ""},
		"no layers":                           {imageText(pulp.OCIManifest, descriptor(ociConfig, d1, ""), "", ""), "", pulp.OCIManifest, ""},
		"layers null":                         {strings.Replace(oci, `[`+descriptor(ociLayer, d2, "")+`]`, "null", 1), pulp.OCIManifest, pulp.OCIManifest, ""},
		"layers absent":                       {`{"schemaVersion":2,"config":` + descriptor(ociConfig, d1, "") + `}`, "", pulp.OCIManifest, ""},
		"manifests null":                      {`{"schemaVersion":2,"manifests":null}`, "", pulp.OCIIndex, ""},
		"manifests null, in a docker list":    {`{"schemaVersion":2,"mediaType":"` + pulp.DockerList + `","manifests":null}`, "", pulp.DockerList, ""},
		"manifests absent":                    {`{"schemaVersion":2,"mediaType":"` + pulp.OCIIndex + `"}`, "", pulp.OCIIndex, ""},
		"manifests absent, by Content-Type":   {`{"schemaVersion":2}`, pulp.OCIIndex, pulp.OCIIndex, ""},
		"an image with manifests null":        {`{"schemaVersion":2,"config":` + descriptor(ociConfig, d1, "") + `,"layers":[],"manifests":null}`, "", pulp.OCIManifest, ""},
		"an index with layers null":           {indexText(pulp.OCIIndex, "", `,"config":null,"layers":null`), "", pulp.OCIIndex, ""},
		"a docker plugin":                     {imageText(pulp.DockerManifest, descriptor("application/vnd.docker.plugin.v1+json", d1, ""), descriptor("application/vnd.docker.image.rootfs.diff.tar.gzip", d2, ""), ""), "", pulp.DockerManifest, ""},
		"a docker image with another config":  {imageText(pulp.DockerManifest, descriptor("application/x", d1, ""), "", ""), "", "", "config"},
		"layers null without a config":        {`{"schemaVersion":2,"layers":null}`, "", "", "V1"},
		"layers that are an object":           {strings.Replace(oci, `[`+descriptor(ociLayer, d2, "")+`]`, "{}", 1), "", "", "layers"},
		"manifests that are a number":         {`{"schemaVersion":2,"manifests":1}`, "", "", "manifests"},
		"a sha512":                            {imageText(pulp.OCIManifest, descriptor(ociConfig, "sha512:"+d1[7:]+d2[7:], ""), "", ""), "", pulp.OCIManifest, ""},
		"members that nobody knows":           {imageText(pulp.OCIManifest, descriptor(ociConfig, d1, `,"x":{"y":[]}`), "", `,"org":1`), "", pulp.OCIManifest, ""},
		"another Content-Type":                {oci, pulp.DockerManifest, "", "mediaType"},
		"an image sent as an index":           {untyped, pulp.OCIIndex, "", "mediaType"},
		"an index sent as an image":           {`{"schemaVersion":2,"manifests":[]}`, pulp.OCIManifest, "", "mediaType"},
		"a docker image without a type":       {strings.Replace(docker, `"mediaType":"`+pulp.DockerManifest+`",`, "", 1), pulp.DockerManifest, "", "mediaType"},
		"layers and manifests":                {imageText(pulp.OCIManifest, descriptor(ociConfig, d1, ""), "", `,"manifests":[]`), "", "", "manifests"},
		"schema 1":                            {`{"schemaVersion":1,"name":"x","fsLayers":[]}`, "", "", "V1"},
		"schema 1 by its type":                {`{"schemaVersion":1}`, "application/vnd.docker.distribution.manifest.v1+prettyjws", "", "V1"},
		"an unknown type":                     {strings.Replace(oci, pulp.OCIManifest, "application/x", 1), "", "", "unknown media type was provided: application/x"},
		"a Content-Type that is none":         {oci, "a/b/c", "", "Content-Type"},
		"another schema version":              {strings.Replace(oci, `"schemaVersion":2`, `"schemaVersion":3`, 1), "", "", "schemaVersion"},
		"no schema version":                   {strings.Replace(oci, `"schemaVersion":2,`, "", 1), "", "", "schemaVersion"},
		"a schema version that is a text":     {strings.Replace(oci, `"schemaVersion":2`, `"schemaVersion":"2"`, 1), "", "", "schemaVersion"},
		"Layers in another case":              {strings.Replace(oci, `"layers"`, `"Layers"`, 1), "", "", "layers"},
		"a key twice":                         {strings.Replace(oci, `"layers"`, `"layers":[],"layers"`, 1), "", "", "twice"},
		"a key twice deep down":               {imageText(pulp.OCIManifest, descriptor(ociConfig, d1, `,"size":11`), "", ""), "", "", "twice"},
		"a huge number that nobody knows":     {imageText(pulp.OCIManifest, descriptor(ociConfig, d1, ""), "", `,"x":[-1e400]`), "", "", "number"},
		"a size of 20 digits":                 {strings.Replace(oci, `"size":10`, `"size":18446744073709551616`, 1), "", "", "size"},
		"layers twice, in two spellings":      {strings.Replace(oci, `"layers"`, `"Layers":[],"layers"`, 1), "", "", `"Layers" is spelled "layers"`},
		"layers with a long s":                {imageText(pulp.OCIManifest, descriptor(ociConfig, d1, ""), "", `,"layer\u017f":[]`), "", "", "is spelled"},
		"manifests in another case":           {imageText(pulp.OCIManifest, descriptor(ociConfig, d1, ""), "", `,"Manifests":[]`), "", "", "is spelled"},
		"a media type in another case":        {imageText(pulp.OCIManifest, descriptor(ociConfig, d1, ""), "", `,"MediaType":"`+pulp.OCIIndex+`"`), "", "", "is spelled"},
		"a digest in another case":            {imageText(pulp.OCIManifest, descriptor(ociConfig, d1, `,"Digest":"`+d2+`"`), "", ""), "", "", "config: the member \"Digest\""},
		"a platform in another case":          {indexText(pulp.OCIIndex, descriptor(pulp.OCIManifest, d1, `,"platform":{"architecture":"a","os":"b","OS":"c"}`), ""), "", "", "platform: the member"},
		"annotations in two cases":            {imageText(pulp.OCIManifest, descriptor(ociConfig, d1, ""), "", `,"annotations":{"Size":"1","size":"2"}`), "", pulp.OCIManifest, ""},
		"config and manifests":                {indexText(pulp.OCIIndex, "", `,"config":`+descriptor(ociConfig, d1, "")), "", "", "manifests"},
		"layers without a config and a type":  {`{"schemaVersion":2,"manifests":[],"layers":[]}`, "", "", "manifests"},
		"20,001 children":                     {indexText(pulp.OCIIndex, strings.Repeat(descriptor(pulp.OCIManifest, d2, "")+",", 20_000)+descriptor(pulp.OCIManifest, d2, ""), ""), "", "", "manifests"},
		"layers that are a text":              {strings.Replace(oci, `[`+descriptor(ociLayer, d2, "")+`]`, `"x"`, 1), "", "", "layers"},
		"a layer that is a text":              {imageText(pulp.OCIManifest, descriptor(ociConfig, d1, ""), `"x"`, ""), "", "", "layers[0]"},
		"no config":                           {`{"schemaVersion":2,"mediaType":"` + pulp.OCIManifest + `","layers":[]}`, "", "", "config"},
		"a digest of an unknown kind":         {strings.Replace(oci, d2, "md5:d41d8cd98f00b204e9800998ecf8427e", 1), "", "", "digest"},
		"a digest that is a path":             {strings.Replace(oci, d2, "sha256:../../etc/passwd", 1), "", "", "digest"},
		"a short digest":                      {strings.Replace(oci, d2, d2[:70], 1), "", "", "digest"},
		"a negative size":                     {strings.Replace(oci, `"size":10`, `"size":-1`, 1), "", "", "size"},
		"a size that is no integer":           {strings.Replace(oci, `"size":10`, `"size":1.5`, 1), "", "", "size"},
		"a huge size":                         {strings.Replace(oci, `"size":10`, `"size":1e400`, 1), "", "", "number"},
		"sizes that overflow":                 {imageText(pulp.OCIManifest, descriptor(ociConfig, d1, ""), strings.ReplaceAll(descriptor(ociLayer, d1, "")+","+descriptor(ociLayer, d2, ""), `"size":10`, `"size":9223372036854775807`), ""), "", "", "sizes"},
		"a docker list without a platform":    {indexText(pulp.DockerList, descriptor(pulp.DockerManifest, d1, ""), ""), "", "", "platform"},
		"half a platform":                     {indexText(pulp.OCIIndex, descriptor(pulp.OCIManifest, d1, `,"platform":{"os":"linux"}`), ""), "", "", "platform"},
		"a docker list of something else":     {indexText(pulp.DockerList, descriptor("text/plain", d1, platform), ""), "", "", "mediaType"},
		"a docker config of another type":     {strings.Replace(docker, dockerConfig, ociConfig, 1), "", "", "config"},
		"a foreign layer without a place":     {strings.Replace(docker, "rootfs.diff", "rootfs.foreign.diff", 1), "", "", "urls"},
		"annotations that are no texts":       {imageText(pulp.OCIManifest, descriptor(ociConfig, d1, ""), "", `,"annotations":{"a":1}`), "", "", "annotations"},
		"too many layers":                     {imageText(pulp.OCIManifest, descriptor(ociConfig, d1, ""), strings.Repeat(descriptor(ociLayer, d2, "")+",", 10_000)+descriptor(ociLayer, d2, ""), ""), "", "", "layers"},
		"deep nesting":                        {imageText(pulp.OCIManifest, descriptor(ociConfig, d1, ""), "", `,"x":`+strings.Repeat("[", 10_000)+strings.Repeat("]", 10_000)), "", "", "deep"},
		"something behind it":                 {oci + "{}", "", "", "more than one"},
		"half of it":                          {oci[:len(oci)/2], "", "", "JSON"},
		"nothing":                             {"", "", "", "JSON"},
		"a list":                              {"[]", "", "", "object"},
		"null":                                {"null", "", "", "object"},
		"a byte order mark":                   {"\ufeff" + oci, "", "", "JSON"},
		"no UTF-8":                            {strings.Replace(oci, "schemaVersion", "schema\xffVersion", 1), "", "", "UTF-8"},
		"a NUL":                               {strings.Replace(oci, "{", "{\x00", 1), "", "", "JSON"},
		"a NUL in a text":                     {imageText(pulp.OCIManifest, descriptor(ociConfig, d1, ""), "", `,"annotations":{"a":"b\u0000c"}`), "", "", "NUL"},
		"a NUL in a key":                      {imageText(pulp.OCIManifest, descriptor(ociConfig, d1, ""), "", `,"annotations":{"a\u0000":"b"}`), "", "", "NUL"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m, err := pulp.ParseManifest([]byte(tt.give), tt.contentType)
			if tt.want != "" && (err != nil || m.MediaType != tt.want) {
				t.Errorf("ParseManifest = %s, %v, want %s", m.MediaType, err, tt.want)
			}
			if tt.want == "" && (!fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), tt.says) || len(err.Error()) > 300) {
				t.Errorf("ParseManifest = %v, want Invalid about %q", err, tt.says)
			}
		})
	}
	if _, err := pulp.ParseManifest(make([]byte, pulp.MaxManifestSize+1), ""); !fault.Is(err, fault.TooLarge) {
		t.Errorf("a manifest that is too large: %v", err)
	}
}

func TestWhatAManifestIs(t *testing.T) {
	t.Parallel()
	config := func(mediaType string) string { return descriptor(mediaType, d1, "") }
	layer := func(mediaType string) string { return descriptor(mediaType, d2, "") }
	tests := map[string]struct {
		give, config       string // the manifest, and the bytes of its image config
		kind, artifactType string
	}{
		"an image":               {imageText(pulp.OCIManifest, config(ociConfig), layer(ociLayer), ""), `{"architecture":"arm64","os":"linux"}`, "image", ociConfig},
		"an index":               {indexText(pulp.OCIIndex, "", ""), "", "index", ""},
		"an index of a type":     {indexText(pulp.OCIIndex, "", `,"artifactType":"a/b"`), "", "index", "a/b"},
		"a chart":                {imageText(pulp.OCIManifest, config("application/vnd.cncf.helm.config.v1+json"), "", ""), "{}", "helm", "application/vnd.cncf.helm.config.v1+json"},
		"an artifact":            {imageText(pulp.OCIManifest, config("application/vnd.oci.empty.v1+json"), "", `,"artifactType":"a/b"`), "{}", "artifact", "a/b"},
		"an artifact by config":  {imageText(pulp.OCIManifest, config("a/config"), "", ""), "rubbish", "artifact", "a/config"},
		"a cosign signature":     {imageText(pulp.OCIManifest, config(ociConfig), layer("application/vnd.dev.cosign.simplesigning.v1+json"), ""), "{}", "cosign_signature", ociConfig},
		"an SBOM":                {imageText(pulp.OCIManifest, config(ociConfig), layer("text/spdx+json"), ""), "{}", "cosign_sbom", ociConfig},
		"a bootable image":       {imageText(pulp.OCIManifest, config(ociConfig), layer(ociLayer), ""), `{"config":{"Labels":{"containers.bootc":"1"}}}`, "bootable", ociConfig},
		"bootable by annotation": {imageText(pulp.OCIManifest, config(ociConfig), layer(ociLayer), `,"annotations":{"containers.bootc":"1"}`), "{}", "bootable", ociConfig},
		"a flatpak":              {imageText(pulp.OCIManifest, config(ociConfig), layer(ociLayer), ""), `{"config":{"Labels":{"org.flatpak.ref":"app/x"}}}`, "flatpak", ociConfig},
	}
	for name, tt := range tests {
		m, err := pulp.ParseManifest([]byte(tt.give), "")
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		m.ApplyConfig([]byte(tt.config))
		if m.Type != tt.kind || m.ArtifactType != tt.artifactType {
			t.Errorf("%s: type %s, artifact type %s, want %s, %s", name, m.Type, m.ArtifactType, tt.kind, tt.artifactType)
		}
	}
	m, err := pulp.ParseManifest([]byte(imageText(pulp.OCIManifest, config(ociConfig), layer(ociLayer)+","+layer(ociLayer), `,"subject":`+descriptor(pulp.OCIManifest, d2, "")+`,"annotations":{"a":"b"}`)), "")
	if err != nil {
		t.Fatal(err)
	}
	m.ApplyConfig([]byte(`{"architecture":"arm64","os":"linux","config":{"Labels":{"c":"d"}}}`))
	if m.Subject != d2 || m.Annotations["a"] != "b" || m.Labels["c"] != "d" || *m.Architecture != "arm64" || *m.OS != "linux" || *m.ImageSize != 20 || m.Config.Digest != d1 || len(m.Layers) != 2 {
		t.Errorf("parsed %+v", m)
	}
}

// looseDescriptor and looseManifest are what clients in Go read, which take members of any case.
type looseDescriptor struct {
	MediaType, Digest string
	Size              int64
	Platform          *struct{ Architecture, OS string }
}

type looseManifest struct {
	SchemaVersion     int
	MediaType         string
	Config            *looseDescriptor
	Layers, Manifests []looseDescriptor
}

// FuzzParseManifest: what is taken is either a list or an image, and means the same to a parser that is not strict. Hostile inputs 19 and 20.
func FuzzParseManifest(f *testing.F) {
	image := imageText(pulp.OCIManifest, descriptor(ociConfig, d1, ""), descriptor(ociLayer, d2, ""), "")
	f.Add([]byte(image), pulp.OCIManifest)
	f.Add([]byte(indexText(pulp.DockerList, descriptor(pulp.DockerManifest, d1, `,"platform":{"architecture":"a","os":"b"}`), "")), "")
	for _, more := range []string{
		`,"Layers":[]`, `,"layers":[]`, `,"layer\u017f":[]`, `,"Manifests":[` + descriptor(pulp.OCIManifest, d1, "") + `]`, `,"manifests":[]`, `,"MediaType":"x"`, `,"x":1e400`, `,"x":"\u0000"`,
		`,"subject":` + descriptor(pulp.OCIManifest, d2, ""), `,"annotations":{"a":"b","A":"c"}`, `,"x":` + strings.Repeat("[", 63) + strings.Repeat("]", 63), `,"\ud800":1,"\udfff":2`,
	} {
		f.Add([]byte(strings.Replace(image, "}]}", "}]"+more+"}", 1)), pulp.OCIManifest)
	}
	f.Add([]byte("\ufeff"+image), "")
	f.Add([]byte(image+"\n"), pulp.OCIManifest+"; charset=utf-8")
	f.Add([]byte(strings.Replace(image, `"size":10`, `"size":1e1`, 1)), "application/json")
	f.Add([]byte(`{"schemaVersion":2,"config":`+descriptor(ociConfig, d1, `,"Size":11`)+`,"layers":[]}`), "")
	f.Fuzz(func(t *testing.T, b []byte, contentType string) {
		m, err := pulp.ParseManifest(b, contentType)
		if err != nil {
			return
		}
		if pulp.IsList(m.MediaType) == (m.Config != nil) || pulp.IsList(m.MediaType) == (m.ImageSize != nil) {
			t.Errorf("%q is a %s with the config %v", b, m.MediaType, m.Config)
		}
		var loose looseManifest
		if err := json.Unmarshal(b, &loose); err != nil {
			t.Fatalf("%q: %v", b, err)
		}
		if loose.SchemaVersion != 2 || loose.MediaType != "" && loose.MediaType != m.MediaType || (loose.Config == nil) != (m.Config == nil) {
			t.Errorf("%q is a %s, and read loosely %+v", b, m.MediaType, loose)
		}
		strict, read := append(m.Layers, m.Children...), append(loose.Layers, loose.Manifests...)
		if m.Config != nil && loose.Config != nil {
			strict, read = append(strict, *m.Config), append(read, *loose.Config)
		}
		if len(strict) != len(read) {
			t.Fatalf("%q has %d parts, and read loosely %d", b, len(strict), len(read))
		}
		for i, d := range strict {
			if d.Digest.Validate() != nil || d.Size < 0 {
				t.Errorf("%q has the descriptor %+v", b, d)
			}
			if l := read[i]; l.Digest != string(d.Digest) || l.Size != d.Size || l.MediaType != d.MediaType || l.Platform != nil && (l.Platform.Architecture != d.Architecture || l.Platform.OS != d.OS) {
				t.Errorf("%q has %+v, and read loosely %+v", b, d, l)
			}
		}
	})
}
