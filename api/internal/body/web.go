package body

import (
	"crypto/x509"
	"encoding/pem"
	"net/url"
	"strings"

	"golang.org/x/net/http/httpguts"

	"github.com/countersign/countersign/tasks"
)

// WebURL reads an http or https URL without credentials that may be null.
func (f *Fields) WebURL(name string) tasks.Optional[string] {
	v := f.Text(name, Nullable)
	f.note(name, WebURL)
	if v.Value == nil || !f.Valid(name) {
		return v
	}
	if u, err := url.Parse(*v.Value); err != nil || !IsWebURL(u) || u.User != nil {
		f.Fail(name, "Enter a valid URL.")
	}
	return v
}

// IsWebURL reports whether a URL has the scheme http or https and a host.
func IsWebURL(u *url.URL) bool {
	return u.Hostname() != "" && (u.Scheme == "http" || u.Scheme == "https")
}

// Headers reads a list of objects of HTTP headers that may be null.
func (f *Fields) Headers(name string) tasks.Optional[[]map[string]string] {
	f.note(name, Headers)
	v, ok := f.nested(name)
	if !ok || v == nil {
		return tasks.Optional[[]map[string]string]{Set: ok}
	}
	list, isList := v.([]any)
	if !isList {
		f.Fail(name, notList, PythonType(v))
	}
	all := make([]map[string]string, 0, len(list))
	for _, item := range list {
		object, isObject := item.(map[string]any)
		if !isObject {
			f.Fail(name, notDict, PythonType(item))
			continue
		}
		headers := make(map[string]string, len(object))
		for key, value := range object {
			s, isText := value.(string)
			if !isText || !httpguts.ValidHeaderFieldName(key) || !httpguts.ValidHeaderFieldValue(s) {
				f.Fail(name, notText)
			}
			headers[key] = s
		}
		all = append(all, headers)
	}
	return tasks.Optional[[]map[string]string]{Set: true, Value: &all}
}

// Certificate reads certificates in PEM that may be null. The field is shown to every viewer of its object, so it may
// hold nothing but certificates, and in particular no key.
func (f *Fields) Certificate(name string) tasks.Optional[string] {
	const unreadable = "The certificate cannot be read."
	v := f.Text(name, Nullable)
	if v.Value == nil || !f.Valid(name) {
		return v
	}
	block, rest := pem.Decode([]byte(*v.Value))
	if block == nil {
		f.Fail(name, "No certificate in PEM was found.")
	}
	for ; block != nil; block, rest = pem.Decode(rest) {
		if _, err := x509.ParseCertificate(block.Bytes); err != nil || block.Type != "CERTIFICATE" {
			f.Fail(name, unreadable)
			return v
		}
	}
	// The decoder skips a block that was cut off.
	if strings.Contains(*v.Value, "PRIVATE KEY") && f.Valid(name) {
		f.Fail(name, unreadable)
	}
	return v
}

// PrivateKey reads an unencrypted private key in PEM that may be null and is never shown.
func (f *Fields) PrivateKey(name string) tasks.Optional[string] {
	v := f.Secret(name)
	if v.Value == nil || !f.Valid(name) {
		return v
	}
	for block, rest := pem.Decode([]byte(*v.Value)); block != nil; block, rest = pem.Decode(rest) {
		_, pkcs8 := x509.ParsePKCS8PrivateKey(block.Bytes)
		_, pkcs1 := x509.ParsePKCS1PrivateKey(block.Bytes)
		_, ec := x509.ParseECPrivateKey(block.Bytes)
		if pkcs8 == nil || pkcs1 == nil || ec == nil {
			return v
		}
	}
	f.Fail(name, "No unencrypted private key in PEM was found.")
	return v
}
