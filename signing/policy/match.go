package policy

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// matcher decides whether a signature for the reference signed applies to an image that is pulled by the reference
// image.
type matcher interface {
	matches(image, signed named) bool
}

type (
	matchExact             struct{}
	matchRepoDigestOrExact struct{}
	matchRepository        struct{}
	exactReference         struct{ wanted named }
	exactRepository        struct{ wanted named }
	remapIdentity          struct{ prefix, signed string }
)

func parseMatcher(raw json.RawMessage) (matcher, error) {
	kind, err := readType(raw)
	if err != nil {
		return nil, err
	}
	switch kind {
	case "matchExact":
		_, err = readObject(raw, []string{"type"}, nil)
		return matchExact{}, err
	case "matchRepoDigestOrExact":
		_, err = readObject(raw, []string{"type"}, nil)
		return matchRepoDigestOrExact{}, err
	case "matchRepository":
		_, err = readObject(raw, []string{"type"}, nil)
		return matchRepository{}, err
	case "exactReference":
		wanted, err := readNamed(raw, "dockerReference")
		if err == nil && wanted.bare() {
			err = errors.New("dockerReference has no tag and no digest")
		}
		return exactReference{wanted}, err
	case "exactRepository":
		wanted, err := readNamed(raw, "dockerRepository")
		return exactRepository{wanted}, err
	case "remapIdentity":
		return parseRemap(raw)
	}
	return nil, fmt.Errorf("there is no signedIdentity of type %q", kind)
}

// readNamed parses the docker reference in the only member besides the type.
func readNamed(raw json.RawMessage, member string) (named, error) {
	members, err := readObject(raw, []string{"type", member}, nil)
	if err != nil {
		return named{}, err
	}
	text, err := readText(members[member])
	if err != nil {
		return named{}, err
	}
	n, err := parseNamed(text)
	if err != nil {
		return named{}, fmt.Errorf("%s: %w", member, err)
	}
	return n, nil
}

func parseRemap(raw json.RawMessage) (matcher, error) {
	members, err := readObject(raw, []string{"type", "prefix", "signedPrefix"}, nil)
	if err != nil {
		return nil, err
	}
	var m remapIdentity
	for name, to := range map[string]*string{"prefix": &m.prefix, "signedPrefix": &m.signed} {
		if *to, err = readText(members[name]); err != nil {
			return nil, err
		}
		if !hostOnly.MatchString(*to) && !hostAndPath.MatchString(*to) {
			return nil, fmt.Errorf("%s is not a host with an optional path", name)
		}
	}
	return m, nil
}

func (matchExact) matches(image, signed named) bool {
	return !image.bare() && !signed.bare() && image == signed
}

func (matchRepoDigestOrExact) matches(image, signed named) bool {
	switch {
	case signed.bare() || image.bare():
		return false
	case image.tag != "":
		return image == signed
	}
	return image.name == signed.name // pulled by digest: fits compares the digest
}

func (matchRepository) matches(image, signed named) bool { return image.name == signed.name }

func (m exactReference) matches(_, signed named) bool { return m.wanted == signed }

func (m exactRepository) matches(_, signed named) bool { return m.wanted.name == signed.name }

func (m remapIdentity) matches(image, signed named) bool {
	if image.name == m.prefix || strings.HasPrefix(image.name, m.prefix+"/") {
		text := m.signed + strings.TrimPrefix(image.String(), m.prefix)
		mapped, err := parseNamed(text)
		if err != nil || mapped.String() != text { // signedPrefix is a short name
			return false
		}
		image = mapped
	}
	return matchRepoDigestOrExact{}.matches(image, signed)
}
