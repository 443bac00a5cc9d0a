package api_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/countersign/countersign/internal/access"
	"github.com/countersign/countersign/internal/pulp"
)

var (
	anyID        = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`)
	otherHost    = regexp.MustCompile(`127\.0\.0\.1:24817`)
	anySignature = regexp.MustCompile(`@[0-9a-f]{32}`)
	parseError   = regexp.MustCompile(`JSON parse error - [^"]*`)
	// recordedToken matches a token as the recordings show it: decoded, without its signature.
	recordedToken = regexp.MustCompile(`^JWT header=(\{.*\}) claims=(\{.*\})$`)
	anyTime       = regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z`)
)

// translate replaces known recorded ids, the recorded key and the URL of the recorded remote by those of this server.
func (p *story) translate(s string) string {
	s = strings.ReplaceAll(s, recordedKey, p.keyID())
	s = strings.ReplaceAll(s, `"http://`+recordedHost+`"`, `"`+p.upstream.URL+`"`)
	return anyID.ReplaceAllStringFunc(s, func(id string) string {
		if ours, ok := p.ids[id[24:]]; ok {
			return ours
		}
		return id
	})
}

// learn compares a recorded value and ours, and notes which of our ids are at the places of recorded ids.
func (p *story) learn(recorded, ours any) {
	switch r := recorded.(type) {
	case string:
		o, _ := ours.(string)
		if a, b := anyID.FindAllString(r, -1), anyID.FindAllString(o, -1); len(a) == len(b) {
			for i := range a {
				if _, known := p.ids[a[i][24:]]; !known {
					p.ids[a[i][24:]] = b[i]
				}
			}
		}
	case map[string]any:
		if o, ok := ours.(map[string]any); ok {
			for k, v := range r {
				p.learn(v, o[k])
			}
		}
	case []any:
		if o, ok := ours.([]any); ok && len(o) == len(r) {
			for i, v := range r {
				p.learn(v, o[i])
			}
		}
	}
}

// know maps a recorded id to the first object of a list.
func (p *story) know(id, list string) {
	p.t.Helper()
	if found := p.results(list, "pulp_href"); len(found) > 0 {
		p.ids[id] = anyID.FindString(found[0])
		return
	}
	p.t.Fatalf("%s is empty", list)
}

// token returns an Authorization header with a bearer token for a user, or with an anonymous token for "-".
func (p *story) token(user string, scopes ...string) string {
	p.t.Helper()
	r, err := http.NewRequestWithContext(p.t.Context(), http.MethodGet, p.server.URL+"/token/?"+url.Values{"service": {recordedHost}, "scope": scopes}.Encode(), nil)
	if err != nil {
		p.t.Fatal(err)
	}
	if user != "-" {
		r.SetBasicAuth(user, passwordOf(user))
	}
	res, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		p.t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	var body struct{ Token string }
	if err := json.NewDecoder(res.Body).Decode(&body); err != nil || body.Token == "" {
		p.t.Fatalf("no token: %d %v", res.StatusCode, err)
	}
	return "Bearer " + body.Token
}

// tokenFor returns the Authorization header of a step. The words are scopes for an administrator, or a user's name and scopes, or "foreign": a token for
// another host.
func (p *story) tokenFor(words []string) string {
	p.t.Helper()
	if words[0] == "foreign" {
		issued, err := p.foreign.Issue(&access.Caller{Account: pulp.User{Username: "admin"}}, nil)
		if err != nil {
			p.t.Fatal(err)
		}
		return "Bearer " + issued.Token
	}
	if !strings.Contains(words[0], ":") {
		return p.token(words[0], words[1:]...)
	}
	return p.token("admin", words...)
}

// send sends a recorded request. The argument as is the name of a user, "-" for no credentials, "token" and words for tokenFor, a whole Authorization header,
// or empty for an administrator, who sends the registry a token for the repository.
func (p *story) send(t *testing.T, e exchange, as string) (*http.Response, string) {
	t.Helper()
	line := strings.Fields(e.Request.Line)
	path, body := p.translate(line[1]), []byte(nil)
	if raw := e.Request.Body; len(raw) > 0 && string(raw) != "null" {
		var text string
		if json.Unmarshal(raw, &text) == nil {
			body = []byte(p.translate(text))
		} else {
			body = []byte(p.translate(string(spaced(t, raw))))
		}
	}
	r, err := http.NewRequestWithContext(t.Context(), line[0], p.server.URL+path, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for k, v := range e.Request.Headers {
		r.Header.Set(k, v)
	}
	name := regexp.MustCompile(`^/(?:v2|extensions/v2)/(.+)/(?:blobs|manifests|tags|signatures|referrers)/`).FindStringSubmatch(path)
	scopes, scoped := strings.CutPrefix(as, "token ")
	switch {
	case scoped:
		r.Header.Set("Authorization", p.tokenFor(strings.Fields(scopes)))
	case strings.Contains(as, " "):
		r.Header.Set("Authorization", as)
	case as == "-":
	case as == "" && name != nil:
		r.Header.Set("Authorization", p.token("admin", "repository:"+name[1]+":pull,push,delete", "repository:ctr/push:pull"))
	case as == "" && strings.HasPrefix(path, "/v2/"):
		r.Header.Set("Authorization", p.token("admin", "registry:catalog:*"))
	case as == "":
		r.SetBasicAuth("admin", "secret")
	default:
		r.SetBasicAuth(as, passwordOf(as))
	}
	r.Host = recordedHost
	res, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	raw, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res, string(raw)
}

// replay sends a recorded request and returns how the answer differs in its status, in the headers that clients read, and in its body or the shape of it.
// For HTML pages, with which the reference answers unknown paths, only the status is compared (compatibility.md#errors). The first result is that of
// answered.
func (p *story) replay(t *testing.T, s step, shape bool) (answer string, faults []string) {
	t.Helper()
	e := recording(t, s.name)
	res, raw := p.send(t, e, s.as)
	var have any
	if raw != "" && json.Unmarshal([]byte(raw), &have) != nil {
		have = raw
	}
	answer = answered(res.StatusCode, have)
	if res.StatusCode != e.Status {
		return answer, []string{fmt.Sprintf("status %d, want %d: %.300s", res.StatusCode, e.Status, raw)}
	}
	p.learn(e.Body, have)
	rest := strings.Contains(e.Request.Line, " /pulp/")
	page := strings.HasPrefix(e.header("Content-Type"), "text/html")
	for _, h := range []string{
		"Allow", "Content-Type", "Location", "WWW-Authenticate", "Docker-Content-Digest", "Docker-Upload-UUID", "Docker-Distribution-Api-Version",
		"X-Registry-Supports-Signatures", "Range", "Link",
	} {
		want, got := e.header(h), res.Header.Get(h)
		p.learn(want, got)
		if want == "" || page && h == "Content-Type" || h == "Allow" && !rest {
			continue
		}
		recorded, ours := p.alike(t, map[string]any{h + ":": want}, map[string]any{h + ":": got})
		faults = append(faults, wholeDiff(s.name, recorded, ours)...)
	}
	if e.Body == "None" { // Countersign sends an empty body instead (compatibility.md#faults-of-the-reference)
		e.Body = nil
	}
	if page {
		return answer, faults
	}
	if shape {
		if diff := shapeDiff(s.name, e.Body, have); diff != "" {
			faults = append(faults, "shape (-reference +ours):\n"+diff)
		}
		return answer, faults
	}
	want, have := p.alike(t, e.Body, have)
	return answer, append(faults, wholeDiff(s.name, want, have)...)
}

// answered summarises an answer as golden.tsv does: the status, followed by the codes of the registry's errors, or by the names of the fields in the
// REST API's error.
func answered(status int, body any) string {
	words := []string{strconv.Itoa(status)}
	object, _ := body.(map[string]any)
	failures, registry := object["errors"].([]any)
	switch {
	case status < http.StatusBadRequest:
	case registry:
		for _, f := range failures {
			if object, is := f.(map[string]any); is {
				words = append(words, fmt.Sprint(object["code"]))
			}
		}
	default:
		fields := slices.Sorted(maps.Keys(object))
		words = append(words, slices.DeleteFunc(fields, func(f string) bool { return f == "detail" })...)
	}
	return strings.Join(words, " ")
}

// alike normalises a recorded answer and ours so that they can be compared: values that differ in each run are replaced, ids of corresponding objects
// become equal, and our key and remote are replaced by the recorded ones.
func (p *story) alike(t *testing.T, want, have any) (recorded, ours any) {
	t.Helper()
	service, _ := recording(t, "03b-signing-service-get").Body.(map[string]any)
	recorded = plain(t, anyID.ReplaceAllStringFunc(encoded(t, want), func(id string) string {
		if ours, known := p.ids[id[24:]]; known {
			return "<" + ours[24:] + ">"
		}
		return id
	}))
	known := map[string]bool{}
	for _, id := range p.ids {
		known[id] = true
	}
	return recorded, plain(t, anyID.ReplaceAllStringFunc(strings.NewReplacer(
		encoded(t, p.key.Armor), encoded(t, service["public_key"]), p.key.Public.Fingerprint(), service["pubkey_fingerprint"].(string),
		p.keyID(), recordedKey, p.upstream.URL, "http://"+recordedHost,
	).Replace(encoded(t, have)), func(id string) string {
		if known[id] {
			return "<" + id[24:] + ">"
		}
		return id
	}))
}

// plain decodes JSON after normal has replaced the values that differ in each run.
func plain(t *testing.T, encoded string) any {
	t.Helper()
	return normalJSON(t, normal(encoded))
}

// normal replaces the values of a text that differ in each run: ids, times, names of signatures, and messages of JSON decoders.
func normal(s string) string {
	for _, n := range []struct {
		pattern     *regexp.Regexp
		replacement string
	}{{anyID, "<id>"}, {anyTime, "<time>"}, {otherHost, recordedHost}, {anySignature, "@0"}, {parseError, "JSON parse error"}} {
		s = n.pattern.ReplaceAllString(s, n.replacement)
	}
	return s
}

// normalJSON decodes JSON. A token in it is replaced by its header and claims, without times, ids and key.
func normalJSON(t *testing.T, s string) any {
	t.Helper()
	var v any
	if err := json.Unmarshal([]byte(s), &v); err != nil {
		t.Fatal(err)
	}
	object, _ := v.(map[string]any)
	for _, field := range []string{"token", "access_token"} {
		text, _ := object[field].(string)
		header, claims := recordedToken.ReplaceAllString(text, "$1"), recordedToken.ReplaceAllString(text, "$2")
		if parts := strings.Split(text, "."); !recordedToken.MatchString(text) && len(parts) == 3 {
			a, errA := base64.RawURLEncoding.DecodeString(parts[0])
			b, errB := base64.RawURLEncoding.DecodeString(parts[1])
			if err := errors.Join(errA, errB); err != nil {
				t.Fatal(err)
			}
			header, claims = string(a), string(b)
		}
		if text != "" {
			said := map[string]any{"header": normalJSON(t, header), "claims": normalJSON(t, claims)}
			delete(said["header"].(map[string]any), "kid")
			for _, c := range []string{"exp", "iat", "nbf", "jti", "cred"} { // the reference's tokens have no credential
				delete(said["claims"].(map[string]any), c)
			}
			object[field] = said
		}
	}
	return v
}

// step is one recorded exchange of the story.
type step struct {
	name   string
	as     string // the argument of send
	before func()
}

// testTheRecordedStory replays the steps. The answer to a step that the table does not list as replayed must differ from the recording, in the way that the
// table says; otherwise the step is in the wrong column.
func testTheRecordedStory(t *testing.T) {
	t.Parallel()
	p := newStory(t)
	listed := map[string]row{}
	for _, r := range readTable(t) {
		listed[r.file] = r
	}
	for _, s := range p.steps() {
		if s.before != nil {
			s.before()
		}
		t.Run(s.name, func(t *testing.T) {
			r := listed[s.name]
			answer, faults := p.replay(t, s, r.answer == "shape")
			switch {
			case r.column != "replayed":
				compares(t, s.name, answer)
			case r.answer == "shape":
				compares(t, s.name, "shape")
			default:
				compares(t, s.name, "whole")
			}
			switch {
			case r.column == "replayed":
				for _, f := range faults {
					t.Error(f)
				}
			case len(faults) == 0:
				t.Errorf("listed as %s, but answered as recorded", r.column)
			case answer != r.answer:
				t.Errorf("listed as %s: answered %s, want %s", r.column, answer, r.answer)
			}
		})
	}
}
