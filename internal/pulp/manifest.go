package pulp

import (
	_ "crypto/sha512" // digests by it are taken
	"encoding/json"
	"fmt"
	"math"
	"mime"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/fault"
)

// Bounds of a manifest's structure.
const (
	maxEntries = 10_000 // layers, or children
	maxDepth   = 64     // of nested JSON
)

// ParseManifest reads a manifest's exact bytes as they were sent with a Content-Type. It is strict (contract 3.3, D11, D24): one
// JSON object without duplicate keys, of one of the four media types, that is either an image or a list. What it cannot tell from the bytes alone
// (Digest, and what the image config says) is left empty. Its errors are Invalid and name the place, `<path>: <text>`.
func ParseManifest(payload []byte, contentType string) (Manifest, error) {
	if len(payload) > MaxManifestSize {
		return Manifest{}, fault.New(fault.TooLarge, "A manifest may have %d bytes.", MaxManifestSize)
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

// The media types of manifests that are no longer taken.
const (
	dockerV1       = "application/vnd.docker.distribution.manifest.v1+json"
	dockerV1Signed = "application/vnd.docker.distribution.manifest.v1+prettyjws"
)

// manifestType decides what a manifest is, from what it says of itself and what the request says of it, and sees that it holds what that has.
func manifestType(top map[string]json.RawMessage, contentType string) (string, error) {
	own, mediaType, err := statedType(top, contentType)
	if err != nil {
		return "", err
	}
	has := func(key string) bool { return top[key] != nil && string(top[key]) != "null" }
	_, names := top["manifests"] // null is a list of none
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
		return "", fault.New(fault.Invalid, "mediaType: %q does not fit what the manifest holds", mediaType)
	}
	return mediaType, nil
}

// statedType returns the media type that a manifest states, and the one that it or the request states; empty where none does. The two may not disagree (D24).
func statedType(top map[string]json.RawMessage, contentType string) (own, either string, err error) {
	if contentType != "" {
		if either, _, err = mime.ParseMediaType(contentType); err != nil {
			return "", "", fault.New(fault.Invalid, "Content-Type: %q is not a media type", contentType)
		}
	}
	if either == "application/json" || either == "application/octet-stream" { // they say nothing
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

// manifestReader takes a manifest apart and keeps the first thing that is wrong.
type manifestReader struct {
	top map[string]json.RawMessage
	err error
}

func (d *manifestReader) fail(path, format string, args ...any) {
	if d.err == nil {
		d.err = fault.New(fault.Invalid, "%s: %s", path, fmt.Sprintf(format, args...))
	}
}

// refuse keeps what is wrong with a part.
func (d *manifestReader) refuse(err error) {
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

// descriptor reads the descriptor under a key; nil when there is none.
func (d *manifestReader) descriptor(key string) *Descriptor {
	raw, ok := d.top[key]
	if !ok || string(raw) == "null" {
		return nil
	}
	v := d.parse(key, raw)
	return &v
}

// descriptors reads the list of descriptors under a key. Absent and null are an empty list, which some builders write so.
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
		d.refuse(err)
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
			in.refuse(err)
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

// dockerConfigs are the media types of the configs of Docker's manifests: of images, of images of old clients, and of plugins.
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
			d.fail(fmt.Sprintf("layers[%d]", i), "urls: a foreign layer says where it is to be had")
		}
	}
	m.ImageSize = &size
}

func (d *manifestReader) list(m *Manifest) {
	m.Children = d.descriptors("manifests")
	for i, c := range m.Children {
		path := fmt.Sprintf("manifests[%d]", i)
		if m.MediaType == DockerList {
			if c.MediaType != DockerManifest && c.MediaType != DockerList && c.MediaType != OCIManifest && c.MediaType != OCIIndex {
				d.fail(path, "mediaType: %q is not that of a manifest", c.MediaType)
			}
			if c.Architecture == "" {
				d.fail(path, "platform: this field is required")
			}
		}
	}
}

// classify fills in Type (contract 2.10) and the referrers API's artifact type (OCI distribution specification 1.1, "Listing
// Referrers").
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

// cosignTypes tells what a cosign artifact is by the media type of its first layer (contract, appendix A).
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

// ApplyConfig fills in what the image config says: labels, architecture and operating system, and the type that follows from the labels. A config that is no image
// config says nothing. A null character, which not every database keeps, becomes the replacement character: the config itself stays as it is.
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
