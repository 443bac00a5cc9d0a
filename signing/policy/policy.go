// Package policy says what podman, skopeo and their kin would say of an image: it reads a containers-policy.json(5) and evaluates it for
// a docker reference, a manifest and its signatures.
//
// It agrees with them by test (oracle, integration): with their own code about policies, references and identities, and with gpg about
// OpenPGP. It touches no file; who may read the files that a policy names gives it their content.
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

// MaxSize is how many bytes a policy may have. Clients know no bound; this one is ours.
const MaxSize = 1 << 20

// Types of requirements (containers-policy.json(5)).
const (
	Accept    = "insecureAcceptAnything"
	Reject    = "reject"
	SignedBy  = "signedBy"
	BaseLayer = "signedBaseLayer"
	Sigstore  = "sigstoreSigned"
)

// Policy is a policy that was read. Make one with Parse. One goroutine at a time may use it.
type Policy struct {
	fallback   []*requirement
	transports map[string]map[string][]*requirement
	files      map[string]file // by path; nil until ReadKeys
	rings      map[string]*keyRing
}

// requirement is one that an image must meet.
type requirement struct {
	kind     string
	keyType  string
	paths    []string // of files with keys, for signedBy
	data     []byte   // keys; nil when there are paths
	identity matcher
}

// keyRing has the keys of a requirement, or why there are none.
type keyRing struct {
	scanned *signing.ScannedKeyring
	ring    *signing.Keyring // nil until the keys are needed
	err     error
}

// file is the content of a file with keys, or why there is none.
type file struct {
	content []byte
	err     error
}

// Parse reads a policy as strictly as its clients do: unknown members, members that are there twice, empty lists and values of wrong types
// are Invalid. sigstoreSigned is read as far as its members' names go.
func Parse(data []byte) (*Policy, error) {
	if len(data) > MaxSize {
		return nil, fault.New(fault.TooLarge, "A policy may have %d bytes.", MaxSize)
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
			return nil, fmt.Errorf("%q is no scope of %s", scope, transport)
		}
		if scopes[scope], err = parseRequirements(raw); err != nil {
			return nil, err
		}
	}
	return scopes, nil
}

// openshiftScope is HOST/namespace/stream:tag, or what stands left of a separator in it.
var openshiftScope = regexp.MustCompile(`^[^/]*(/[^:/]*(/[^:/]*(:[^:/]*)?)?)?$`)

// validScope says whether a transport takes a scope. Clients refuse a whole policy for a scope that they cannot match with anything.
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
		return nil, fmt.Errorf("a list of requirements is wanted")
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

// sigstoreMembers are what a sigstoreSigned requirement may have beside its type.
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

// keyTypes are what a policy may say. Clients, too, evaluate only the first.
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
		return fmt.Errorf("exactly one of keyPath, keyPaths and keyData is wanted")
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

// parseKeys reads the one member that says which keys.
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

// all returns every requirement.
func (p *Policy) all() []*requirement {
	all := slices.Clone(p.fallback)
	for _, scopes := range p.transports {
		for _, requirements := range scopes {
			all = append(all, requirements...)
		}
	}
	return all
}

// Files returns the paths of the files with keys that the policy names, sorted, each once.
func (p *Policy) Files() []string {
	paths := map[string]bool{}
	for _, r := range p.all() {
		for _, path := range r.paths {
			paths[path] = true
		}
	}
	return slices.Sorted(maps.Keys(paths))
}

// ReadKeys reads the files that the policy names. One that cannot be read fails the requirements that name it, as at clients.
func (p *Policy) ReadKeys(read func(path string) ([]byte, error)) {
	p.files, p.rings = map[string]file{}, map[string]*keyRing{}
	for _, path := range p.Files() {
		content, err := read(path)
		p.files[path] = file{content, err}
	}
}

// keys returns the keys of a requirement, one blob a file.
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
