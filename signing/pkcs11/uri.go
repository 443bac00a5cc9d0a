package pkcs11

import (
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/countersign/countersign/internal/fault"
)

// maxURI is the maximum length of a URI in bytes.
const maxURI = 4 << 10

// URI is a PKCS #11 URI (RFC 7512) of one private key. Empty and nil attributes match any value.
type URI struct {
	Module  string // absolute path of the shared library
	PINFile string // absolute path of a file with the user PIN on its first line; empty when no login is needed

	Token, Manufacturer, Model, Serial string
	Slot                               *uint

	Object string // the key's label
	ID     string // the key's id: any bytes
}

// ParseURI parses a URI. It requires an absolute module-path, an attribute that selects the token, and one that
// selects the key. URIs are stored and shown, so pin-value is an error: the PIN comes from a file. Unsupported
// attributes are errors too. All errors are Invalid, and do not contain attribute values.
func ParseURI(text string) (URI, error) {
	var u URI
	rest, ok := cutScheme(text)
	switch {
	case len(text) > maxURI:
		return URI{}, fault.New(fault.Invalid, "The PKCS #11 URI has more than %d bytes.", maxURI)
	case !ok:
		return URI{}, fault.New(fault.Invalid, "A PKCS #11 URI begins with pkcs11: (RFC 7512).")
	case strings.ContainsFunc(rest, func(r rune) bool { return r <= ' ' || r >= 0x7f || r == '#' }):
		return URI{}, fault.New(fault.Invalid, "The PKCS #11 URI contains a character that must be percent-encoded.")
	}
	path, query, _ := strings.Cut(rest, "?")
	if err := attributes(path, ";", u.setPath); err != nil {
		return URI{}, err
	}
	if err := attributes(query, "&", u.setQuery); err != nil {
		return URI{}, err
	}
	switch {
	case u.Module == "":
		return URI{}, fault.New(fault.Invalid, "The PKCS #11 URI has no module-path, the path of the token's library.")
	case u.Token+u.Serial == "" && u.Slot == nil:
		return URI{}, fault.New(fault.Invalid, "The PKCS #11 URI does not say which token. Add token, serial or slot-id.")
	case u.Object+u.ID == "":
		return URI{}, fault.New(fault.Invalid, "The PKCS #11 URI does not say which key. Add object or id.")
	}
	return u, nil
}

// cutScheme removes the scheme, which is case-insensitive.
func cutScheme(text string) (string, bool) {
	scheme, rest, ok := strings.Cut(text, ":")
	return rest, ok && strings.EqualFold(scheme, "pkcs11")
}

// attributes calls set for each attribute of a part of a URI, with the decoded value. Repeated attributes are errors.
func attributes(part, separator string, set func(name, value string) error) error {
	seen := map[string]bool{}
	for text := range strings.SplitSeq(part, separator) {
		if text == "" {
			continue
		}
		name, raw, ok := strings.Cut(text, "=")
		value, err := url.PathUnescape(raw)
		switch {
		case !ok || name == "":
			return fault.New(fault.Invalid, "A part of the PKCS #11 URI does not have the form name=value.")
		case err != nil:
			return fault.New(fault.Invalid, "The PKCS #11 URI's attribute %s is not percent-encoded correctly.", shown(name))
		case seen[name]:
			return fault.New(fault.Invalid, "The PKCS #11 URI has the attribute %s twice.", shown(name))
		}
		seen[name] = true
		if err := set(name, value); err != nil {
			return err
		}
	}
	return nil
}

// shown shortens an attribute name for an error message.
func shown(name string) string { return name[:min(len(name), 40)] }

func (u *URI) setPath(name, value string) error {
	texts := map[string]*string{
		"token": &u.Token, "manufacturer": &u.Manufacturer, "model": &u.Model, "serial": &u.Serial, "object": &u.Object,
	}
	if text := texts[name]; text != nil {
		if !utf8.ValidString(value) || strings.ContainsRune(value, 0) {
			return fault.New(fault.Invalid, "The PKCS #11 URI's attribute %s is not valid text.", name)
		}
		*text = value
		return nil
	}
	switch name {
	case "id":
		u.ID = value
	case "slot-id":
		n, err := strconv.ParseUint(value, 10, 32)
		if err != nil {
			return fault.New(fault.Invalid, "The PKCS #11 URI's attribute slot-id is not a number.")
		}
		slot := uint(n)
		u.Slot = &slot
	case "type":
		if value != "private" {
			return fault.New(fault.Invalid, "The PKCS #11 URI must name a private key. Use type=private, or omit type.")
		}
	default:
		return fault.New(fault.Invalid, "The PKCS #11 URI's attribute %s is not supported.", shown(name))
	}
	return nil
}

func (u *URI) setQuery(name, value string) error {
	switch name {
	case "module-path":
		if !filepath.IsAbs(value) || strings.ContainsRune(value, 0) {
			return fault.New(fault.Invalid, "The PKCS #11 URI's module-path must be an absolute path.")
		}
		u.Module = filepath.Clean(value)
	case "pin-source":
		file, ok := strings.CutPrefix(value, "file:")
		file = strings.TrimPrefix(strings.TrimPrefix(file, "//localhost"), "//")
		if !ok || !filepath.IsAbs(file) || strings.ContainsRune(file, 0) {
			return fault.New(fault.Invalid, "The PKCS #11 URI's pin-source must be file: followed by an absolute path.")
		}
		u.PINFile = filepath.Clean(file)
	case "pin-value":
		return fault.New(fault.Invalid, "The PKCS #11 URI must not contain a PIN. Write the PIN to a file and use pin-source=file:/path.")
	default:
		return fault.New(fault.Invalid, "The PKCS #11 URI's attribute %s is not supported.", shown(name))
	}
	return nil
}

// tokenName returns the attributes that select the token, for messages and as a map key.
func (u URI) tokenName() string {
	var parts []string
	for _, a := range [][2]string{{"token", u.Token}, {"manufacturer", u.Manufacturer}, {"model", u.Model}, {"serial", u.Serial}} {
		if a[1] != "" {
			parts = append(parts, a[0]+"="+url.PathEscape(a[1]))
		}
	}
	if u.Slot != nil {
		parts = append(parts, "slot-id="+strconv.FormatUint(uint64(*u.Slot), 10))
	}
	return strings.Join(parts, ";")
}

// keyName returns the attributes that select the key in its token.
func (u URI) keyName() string {
	var parts []string
	if u.Object != "" {
		parts = append(parts, "object="+url.PathEscape(u.Object))
	}
	if u.ID != "" {
		parts = append(parts, "id="+url.PathEscape(u.ID))
	}
	return strings.Join(parts, ";")
}
