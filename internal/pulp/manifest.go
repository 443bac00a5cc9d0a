package pulp

import (
	_ "crypto/sha512" // registers the algorithm for digests
	"encoding/json"
	"fmt"
	"math"
	"mime"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/fault"
)

// Limits on the structure of a manifest.
const (
	maxEntries = 10_000 // layers or children
	maxDepth   = 64     // levels of nested JSON
)

// ParseManifest parses the bytes of a manifest that a client sent with contentType, which may be empty. A manifest is one
// JSON object without duplicate keys, of one of the four supported media types, and either an image or a list. The
// result lacks the Digest and the fields that ApplyConfig sets. Errors have the form "<path>: <text>" and are Invalid, or
// TooLarge for a payload over MaxManifestSize. See compatibility.md#manifests and
// compatibility.md#media-types-must-agree.
func ParseManifest(payload []byte, contentType string) (Manifest, error) {
	if len(payload) > MaxManifestSize {
		return Manifest{}, fault.New(fault.TooLarge, "The manifest is larger than %d bytes.", MaxManifestSize)
	}
	if err := checkJSON(payload); err != nil {
		return Manifest{}, err
	}
	top, err := members("$", payload)
	if err != nil {
		return Manifest{}, err
	}
	mediaType, err := manifestType(top, contentType)
	if err != nil {
		return Manifest{}, err
	}
	m := Manifest{MediaType: mediaType, Payload: payload, Labels: map[string]string{}, Annotations: map[string]string{}}
	d := manifestReader{top: top}
	m.SchemaVersion = int(d.number("schemaVersion"))
	if d.err == nil && m.SchemaVersion != 2 {
		d.fail("schemaVersion", "%d is not 2", m.SchemaVersion)
	}
	d.annotations(&m)
	artifactType := d.text("artifactType")
	if subject := d.descriptor("subject"); subject != nil {
		m.Subject = subject.Digest
	}
	if IsList(mediaType) {
		d.list(&m)
	} else {
		d.image(&m)
	}
	if d.err != nil {
		return Manifest{}, d.err
	}
	m.classify(artifactType)
	return m, nil
}

// The media types of schema 1 manifests, which are rejected.
const (
	dockerV1       = "application/vnd.docker.distribution.manifest.v1+json"
	dockerV1Signed = "application/vnd.docker.distribution.manifest.v1+prettyjws"
)

// manifestType returns the media type of a manifest, which it derives from the mediaType member, the Content-Type and
// the members of the manifest. It rejects a manifest whose members do not fit the type.
func manifestType(top map[string]json.RawMessage, contentType string) (string, error) {
	own, mediaType, err := statedType(top, contentType)
	if err != nil {
		return "", err
	}
	has := func(key string) bool { return top[key] != nil && string(top[key]) != "null" }
	_, names := top["manifests"] // null is an empty list
	listed, configured := has("manifests"), has("config")
	image := configured || has("layers")
	if listed && image {
		return "", fault.New(fault.Invalid, "manifests: a manifest is either a list or an image")
	}
	if mediaType == "" {
		switch {
		case configured:
			mediaType = OCIManifest
		case names && !image:
			mediaType = OCIIndex
		default:
			mediaType = dockerV1
		}
	}
	switch mediaType {
	case DockerManifest, DockerList:
		if own == "" {
			return "", fault.New(fault.Invalid, "mediaType: this field is required")
		}
	case OCIManifest, OCIIndex:
	case dockerV1, dockerV1Signed:
		return "", fault.New(fault.Invalid, "Pushing manifests of the version V1 is not supported")
	default:
		return "", fault.New(fault.Invalid, "A manifest of an unknown media type was provided: %s", mediaType)
	}
	if IsList(mediaType) && image || !IsList(mediaType) && listed {
		return "", fault.New(fault.Invalid, "mediaType: %q does not match the content of the manifest", mediaType)
	}
	return mediaType, nil
}

// statedType returns the mediaType member of a manifest, and the type that the member or else the Content-Type states.
// Each is empty if not stated. It is an error if the member and the Content-Type differ.
func statedType(top map[string]json.RawMessage, contentType string) (own, either string, err error) {
	if contentType != "" {
		if either, _, err = mime.ParseMediaType(contentType); err != nil {
			return "", "", fault.New(fault.Invalid, "Content-Type: %q is not a media type", contentType)
		}
	}
	if either == "application/json" || either == "application/octet-stream" { // generic types state no manifest type
		either = ""
	}
	raw, ok := top["mediaType"]
	if !ok {
		return "", either, nil
	}
	if err := json.Unmarshal(raw, &own); err != nil || own == "" {
		return "", "", fault.New(fault.Invalid, "mediaType: want a media type")
	}
	if either != "" && own != either {
		return "", "", fault.New(fault.Invalid, "mediaType: %q does not agree with the Content-Type %q", own, either)
	}
	return own, own, nil
}

// manifestReader extracts the members of a manifest or a descriptor. err is the first error; later ones are dropped.
type manifestReader struct {
	top map[string]json.RawMessage
	err error
}

func (d *manifestReader) fail(path, format string, args ...any) {
	if d.err == nil {
		d.err = fault.New(fault.Invalid, "%s: %s", path, fmt.Sprintf(format, args...))
	}
}

// reject records the error of a nested object.
func (d *manifestReader) reject(err error) {
	if d.err == nil {
		d.err = err
	}
}

func (d *manifestReader) number(key string) int64 {
	var n json.Number
	raw, ok := d.top[key]
	if !ok {
		d.fail(key, "this field is required")
		return 0
	}
	if err := json.Unmarshal(raw, &n); err != nil || len(raw) > 0 && raw[0] == '"' {
		d.fail(key, "%s is not an integer", shown(raw))
		return 0
	}
	v, err := n.Int64()
	if err != nil {
		d.fail(key, "%s is not an integer", shown(raw))
	}
	return v
}

func (d *manifestReader) text(key string) string {
	var s string
	if raw, ok := d.top[key]; ok {
		if err := json.Unmarshal(raw, &s); err != nil {
			d.fail(key, "%s is not of type 'string'", shown(raw))
		}
	}
	return s
}

func (d *manifestReader) annotations(m *Manifest) {
	raw, ok := d.top["annotations"]
	if !ok || string(raw) == "null" {
		return
	}
	if err := json.Unmarshal(raw, &m.Annotations); err != nil {
		d.fail("annotations", "%s is not an object of strings", shown(raw))
		m.Annotations = map[string]string{}
	}
}

// descriptor parses the descriptor in a member. It returns nil if the member is absent or null.
func (d *manifestReader) descriptor(key string) *Descriptor {
	raw, ok := d.top[key]
	if !ok || string(raw) == "null" {
		return nil
	}
	v := d.parse(key, raw)
	return &v
}

// descriptors parses the array of descriptors in a member. An absent member and null are an empty array, since some
// builders write it that way.
func (d *manifestReader) descriptors(key string) []Descriptor {
	raw, ok := d.top[key]
	if !ok || string(raw) == "null" {
		return nil
	}
	var items []json.RawMessage
	if err := json.Unmarshal(raw, &items); err != nil {
		d.fail(key, "%s is not of type 'array'", shown(raw))
		return nil
	}
	if len(items) > maxEntries {
		d.fail(key, "%d entries are more than %d", len(items), maxEntries)
		return nil
	}
	found := make([]Descriptor, len(items))
	for i, item := range items {
		found[i] = d.parse(fmt.Sprintf("%s[%d]", key, i), item)
		if d.err != nil {
			return nil
		}
	}
	return found
}

func (d *manifestReader) parse(path string, raw json.RawMessage) (v Descriptor) {
	object, err := members(path, raw)
	if err != nil {
		d.reject(err)
		return v
	}
	in := manifestReader{top: object}
	v.MediaType = in.text("mediaType")
	v.Digest = digest.Digest(in.text("digest"))
	v.Size = in.number("size")
	v.ArtifactType = in.text("artifactType")
	if urls, ok := object["urls"]; ok && json.Unmarshal(urls, &v.URLs) != nil {
		in.fail("urls", "%s is not an array of strings", shown(urls))
	}
	if platform, ok := object["platform"]; ok && string(platform) != "null" {
		p, err := members("platform", platform)
		if err != nil {
			in.reject(err)
		}
		inner := manifestReader{top: p}
		v.Architecture, v.OS = inner.text("architecture"), inner.text("os")
		if inner.err == nil && (v.Architecture == "" || v.OS == "") {
			inner.fail("platform", "architecture and os are required")
		}
		if inner.err != nil {
			in.fail("platform", "%s", inner.err.Error())
		}
	}
	switch {
	case in.err != nil:
		d.fail(path, "%s", in.err.Error())
	case v.MediaType == "":
		d.fail(path, "mediaType: this field is required")
	case v.Digest.Validate() != nil || !slices.Contains([]digest.Algorithm{digest.SHA256, digest.SHA512}, v.Digest.Algorithm()):
		d.fail(path, "digest: %s is not a sha256 or sha512 digest", short([]byte(v.Digest)))
	case v.Size < 0:
		d.fail(path, "size: %d is less than 0", v.Size)
	}
	return v
}

// dockerConfigs are the media types of the configs of Docker manifests: images, images of old clients, and plugins.
var dockerConfigs = []string{
	"application/vnd.docker.container.image.v1+json", "application/octet-stream", "application/vnd.docker.plugin.v1+json",
}

func (d *manifestReader) image(m *Manifest) {
	if m.Config = d.descriptor("config"); m.Config == nil {
		d.fail("config", "this field is required")
		return
	}
	if m.MediaType == DockerManifest && !slices.Contains(dockerConfigs, m.Config.MediaType) {
		d.fail("config", "mediaType: %q is not that of an image config", m.Config.MediaType)
	}
	m.Layers = d.descriptors("layers")
	var size int64
	for i, l := range m.Layers {
		if l.Size > math.MaxInt64-size {
			d.fail("layers", "the sizes are too large")
			return
		}
		size += l.Size
		if l.MediaType == "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip" && len(l.URLs) == 0 {
			d.fail(fmt.Sprintf("layers[%d]", i), "urls: a foreign layer needs URLs")
		}
	}
	m.ImageSize = &size
}

func (d *manifestReader) list(m *Manifest) {
	m.Children = d.descriptors("manifests")
	for i, c := range m.Children {
		path := fmt.Sprintf("manifests[%d]", i)
		if m.MediaType == DockerList {
			if c.MediaType != DockerManifest && c.MediaType != DockerList && c.MediaType != OCIManifest &&
				c.MediaType != OCIIndex {
				d.fail(path, "mediaType: %q is not that of a manifest", c.MediaType)
			}
			if c.Architecture == "" {
				d.fail(path, "platform: this field is required")
			}
		}
	}
}

// classify sets Type, as in compatibility.md#content, and ArtifactType, as in the OCI distribution specification 1.1,
// "Listing Referrers".
func (m *Manifest) classify(artifactType string) {
	m.ArtifactType = artifactType
	if m.Config == nil {
		m.Type = "index"
		return
	}
	if m.ArtifactType == "" {
		m.ArtifactType = m.Config.MediaType
	}
	m.Type = m.imageType(artifactType)
}

// cosignTypes maps the media type of the first layer to the Type of a cosign artifact. See compatibility.md#constants.
var cosignTypes = map[string]string{
	"application/vnd.dev.cosign.simplesigning.v1+json": "cosign_signature",
	"application/vnd.dsse.envelope.v1+json":            "cosign_attestation",
	"application/vnd.dev.sigstore.bundle.v0.3+json":    "cosign_attestation_bundle",
	"application/vnd.cyclonedx":                        "cosign_sbom",
	"application/vnd.cyclonedx+xml":                    "cosign_sbom",
	"application/vnd.cyclonedx+json":                   "cosign_sbom",
	"text/spdx":                                        "cosign_sbom",
	"text/spdx+xml":                                    "cosign_sbom",
	"text/spdx+json":                                   "cosign_sbom",
	"application/vnd.syft+json":                        "cosign_sbom",
}

func (m *Manifest) imageType(artifactType string) string {
	switch {
	case m.Annotations["containers.bootc"] == "1" || m.Labels["containers.bootc"] == "1":
		return "bootable"
	case m.Labels["org.flatpak.ref"] != "":
		return "flatpak"
	case m.Config.MediaType == "application/vnd.cncf.helm.config.v1+json":
		return "helm"
	}
	if len(m.Layers) > 0 && cosignTypes[m.Layers[0].MediaType] != "" {
		return cosignTypes[m.Layers[0].MediaType]
	}
	if artifactType != "" || m.Config.MediaType != "application/vnd.oci.image.config.v1+json" &&
		m.Config.MediaType != "application/vnd.docker.container.image.v1+json" && m.Config.MediaType != "application/octet-stream" {
		return "artifact"
	}
	return "image"
}

// ApplyConfig sets Labels, Architecture and OS from the image config, and the Type that the labels imply. It ignores a
// config that is not an image config. It replaces NUL, which PostgreSQL cannot store, by the replacement character; the
// stored config does not change.
func (m *Manifest) ApplyConfig(config []byte) {
	var c struct {
		Architecture *string `json:"architecture"`
		OS           *string `json:"os"`
		Config       struct {
			Labels map[string]string `json:"Labels"`
		} `json:"config"`
	}
	if m.Config == nil || json.Unmarshal(config, &c) != nil {
		return
	}
	for _, text := range []*string{c.Architecture, c.OS} {
		if text != nil {
			*text = withoutNull(*text)
		}
	}
	m.Architecture, m.OS = c.Architecture, c.OS
	if c.Config.Labels != nil {
		m.Labels = make(map[string]string, len(c.Config.Labels))
		for key, value := range c.Config.Labels {
			m.Labels[withoutNull(key)] = withoutNull(value)
		}
	}
	if m.Type == "image" || m.Type == "artifact" {
		if special := m.imageType(""); special == "bootable" || special == "flatpak" {
			m.Type = special
		}
	}
}

func withoutNull(text string) string { return strings.ReplaceAll(text, "\x00", "\ufffd") }
