// Package policy predicts the decision of podman, skopeo and similar clients about an image: it parses a
// containers-policy.json(5) and evaluates it for a docker reference, a manifest and its signatures.
//
// Tests compare its results with the clients' own library for policies, references and identities (oracle), and with
// gpg for OpenPGP (integration). It reads no files: callers pass the content of the files that a policy names.
package policy

import (
	"encoding/json"
	"fmt"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/signing"
)

// MaxSize is the maximum size of a policy in bytes. Clients have no limit.
const MaxSize = 1 << 20

// Types of requirements (containers-policy.json(5)).
const (
	Accept    = "insecureAcceptAnything"
	Reject    = "reject"
	SignedBy  = "signedBy"
	BaseLayer = "signedBaseLayer"
	Sigstore  = "sigstoreSigned"
)

// Policy is a parsed policy. Make one with Parse. It is not safe for concurrent use.
type Policy struct {
	fallback   []*requirement
	transports map[string]map[string][]*requirement
	files      map[string]file // by path; nil until ReadKeys
	rings      map[string]*keyRing
}

// requirement is a condition that an image must meet.
type requirement struct {
	kind     string
	keyType  string
	paths    []string // of key files, for signedBy
	data     []byte   // keys; nil with paths
	identity matcher
}

// keyRing has the keys of a requirement, or the error of reading them.
type keyRing struct {
	scanned *signing.ScannedKeyring
	ring    *signing.Keyring // nil before the keys are needed
	err     error
}

// file has the content of a key file, or the error of reading it.
type file struct {
	content []byte
	err     error
}

// Parse parses a policy as strictly as the clients do. Unknown members, duplicate members, empty lists and values of
// wrong types are Invalid. Of sigstoreSigned requirements only the names of the members are checked.
func Parse(data []byte) (*Policy, error) {
	if len(data) > MaxSize {
		return nil, fault.New(fault.TooLarge, "A policy may have at most %d bytes.", MaxSize)
	}
	p, err := parse(data)
	if err != nil {
		return nil, fault.New(fault.Invalid, "Not a policy: %s.", err)
	}
	return p, nil
}

func parse(data []byte) (*Policy, error) {
	if !json.Valid(data) {
		return nil, errNotJSON
	}
	members, err := readObject(data, []string{"default"}, []string{"transports"})
	if err != nil {
		return nil, err
	}
	p := &Policy{transports: map[string]map[string][]*requirement{}, rings: map[string]*keyRing{}}
	if p.fallback, err = parseRequirements(members["default"]); err != nil {
		return nil, err
	}
	if members["transports"] == nil {
		return p, nil
	}
	transports, err := readMap(members["transports"])
	if err != nil {
		return nil, err
	}
	for name, raw := range transports {
		if p.transports[name], err = parseScopes(name, raw); err != nil {
			return nil, err
		}
	}
	return p, nil
}

func parseScopes(transport string, raw json.RawMessage) (map[string][]*requirement, error) {
	members, err := readMap(raw)
	if err != nil {
		return nil, err
	}
	scopes := map[string][]*requirement{}
	for scope, raw := range members {
		if scope != "" && !validScope(transport, scope) {
			return nil, fmt.Errorf("%q is not a scope of %s", scope, transport)
		}
		if scopes[scope], err = parseRequirements(raw); err != nil {
			return nil, err
		}
	}
	return scopes, nil
}

// openshiftScope is HOST/namespace/stream:tag, or a prefix of that which ends at a separator.
var openshiftScope = regexp.MustCompile(`^[^/]*(/[^:/]*(/[^:/]*(:[^:/]*)?)?)?$`)

// validScope reports whether a transport supports a scope. Clients reject a policy with a scope that can match nothing.
func validScope(transport, scope string) bool {
	switch transport {
	case "dir", "sif":
		return strings.HasPrefix(scope, "/") && scope != "/" && filepath.Clean(scope) == scope
	case "oci", "oci-archive":
		return strings.HasPrefix(scope, "/") && scope != "/" && filepath.Clean(scope) == scope
	case "docker-archive", "tarball":
		return false
	case "docker-daemon":
		return digest.Digest(scope).Validate() != nil
	case "atomic":
		return openshiftScope.MatchString(scope)
	}
	return true
}

func parseRequirements(raw json.RawMessage) ([]*requirement, error) {
	var list []json.RawMessage
	if err := json.Unmarshal(raw, &list); err != nil {
		return nil, fmt.Errorf("the value is not a list of requirements")
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("a list of requirements is empty")
	}
	requirements := make([]*requirement, len(list))
	for i, raw := range list {
		var err error
		if requirements[i], err = parseRequirement(raw); err != nil {
			return nil, err
		}
	}
	return requirements, nil
}

// sigstoreMembers are the members of a sigstoreSigned requirement besides its type.
var sigstoreMembers = []string{
	"keyPath", "keyPaths", "keyData", "keyDatas", "fulcio", "pki", "rekorPublicKeyPath", "rekorPublicKeyPaths", "rekorPublicKeyData",
	"rekorPublicKeyDatas", "signedIdentity",
}

func parseRequirement(raw json.RawMessage) (*requirement, error) {
	kind, err := readType(raw)
	if err != nil {
		return nil, err
	}
	r := &requirement{kind: kind}
	switch kind {
	case Accept, Reject:
		_, err = readObject(raw, []string{"type"}, nil)
	case SignedBy:
		err = r.parseSignedBy(raw)
	case BaseLayer:
		var members map[string]json.RawMessage
		if members, err = readObject(raw, []string{"type", "baseLayerIdentity"}, nil); err == nil {
			_, err = parseMatcher(members["baseLayerIdentity"])
		}
	case Sigstore:
		var members map[string]json.RawMessage
		if members, err = readObject(raw, []string{"type"}, sigstoreMembers); err == nil && members["signedIdentity"] != nil {
			_, err = parseMatcher(members["signedIdentity"])
		}
	default:
		err = fmt.Errorf("there is no requirement of type %q", kind)
	}
	return r, err
}

// keyTypes are the valid key types. Clients implement only the first.
var keyTypes = []string{gpgKeys, "signedByGPGKeys", "X509Certificates", "signedByX509CAs"}

const gpgKeys = "GPGKeys"

func (r *requirement) parseSignedBy(raw json.RawMessage) error {
	members, err := readObject(raw, []string{"type", "keyType"}, []string{"keyPath", "keyPaths", "keyData", "signedIdentity"})
	if err != nil {
		return err
	}
	if r.keyType, err = readText(members["keyType"]); err != nil || !slices.Contains(keyTypes, r.keyType) {
		return fmt.Errorf("there is no keyType %q", r.keyType)
	}
	var given int
	for _, name := range []string{"keyPath", "keyPaths", "keyData"} {
		if members[name] != nil {
			given++
		}
	}
	if given != 1 {
		return fmt.Errorf("exactly one of keyPath, keyPaths and keyData is required")
	}
	if err := r.parseKeys(members); err != nil {
		return err
	}
	if members["signedIdentity"] == nil {
		r.identity = matchRepoDigestOrExact{}
		return nil
	}
	r.identity, err = parseMatcher(members["signedIdentity"])
	return err
}

// parseKeys parses the member with the keys.
func (r *requirement) parseKeys(members map[string]json.RawMessage) error {
	switch {
	case members["keyPath"] != nil:
		path, err := readText(members["keyPath"])
		if err != nil || path == "" {
			return fmt.Errorf("keyPath names no file")
		}
		r.paths = []string{path}
	case members["keyPaths"] != nil:
		if err := json.Unmarshal(members["keyPaths"], &r.paths); err != nil || r.paths == nil {
			return fmt.Errorf("keyPaths is not a list of files")
		}
	default:
		if err := json.Unmarshal(members["keyData"], &r.data); err != nil || r.data == nil {
			return fmt.Errorf("keyData is not base64")
		}
	}
	return nil
}

// all returns all requirements.
func (p *Policy) all() []*requirement {
	all := slices.Clone(p.fallback)
	for _, scopes := range p.transports {
		for _, requirements := range scopes {
			all = append(all, requirements...)
		}
	}
	return all
}

// Files returns the paths of the key files in the policy, sorted and without duplicates.
func (p *Policy) Files() []string {
	paths := map[string]bool{}
	for _, r := range p.all() {
		for _, path := range r.paths {
			paths[path] = true
		}
	}
	return slices.Sorted(maps.Keys(paths))
}

// ReadKeys reads the key files with read. When a file cannot be read, the requirements that name it fail, as they do in
// clients.
func (p *Policy) ReadKeys(read func(path string) ([]byte, error)) {
	p.files, p.rings = map[string]file{}, map[string]*keyRing{}
	for _, path := range p.Files() {
		content, err := read(path)
		p.files[path] = file{content, err}
	}
}

// keys returns the keys of a requirement, one blob for each file.
func (p *Policy) keys(r *requirement) ([][]byte, error) {
	if r.data != nil {
		return [][]byte{r.data}, nil
	}
	blobs := [][]byte{}
	for _, path := range r.paths {
		f, read := p.files[path]
		if !read {
			return nil, fmt.Errorf("the file %s was not read", path)
		}
		if f.err != nil {
			return nil, f.err
		}
		blobs = append(blobs, f.content)
	}
	return blobs, nil
}
