package integration

import (
	"encoding/json"
	"io"
	"net/http"
	"regexp"
	"strings"
	"testing"
)

// TestAdoptNamesWhatItSkips uses an upstream with content that cannot be stored: a schema 1 manifest, a tag and a
// repository with malformed names, and a tag without a manifest. The commands, the task, the log and the list of
// differences name each with its reason, with and without upstream.follow.
func TestAdoptNamesWhatItSkips(t *testing.T) {
	t.Parallel()
	const schema1 = `{"schemaVersion":1,"name":"company/app","tag":"old","architecture":"amd64","fsLayers":[],"history":[],"signatures":[]}`
	peer := newPeer(t)
	before := peer.inFront(t)
	before.tiny(t, "company/app", "good", "good")
	within(t, "the upstream has it", func() bool { return peer.shows(t, "company/app", "good") != "" })
	proxy := newFaultProxy(t, peer)
	answer := func(contentType, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", contentType)
			if !strings.Contains(body, "repositories") && !strings.Contains(body, "tags\"") {
				w.Header().Set("Docker-Content-Digest", describe("", []byte(body)).Digest)
			}
			if r.Method != http.MethodHead {
				_, _ = io.WriteString(w, body)
			}
		}
	}
	proxy.set(func(r *http.Request) http.HandlerFunc {
		switch {
		case strings.HasSuffix(r.URL.Path, "/_catalog"):
			return answer("application/json", `{"repositories":["company/app","company/Upper"]}`)
		case strings.HasSuffix(r.URL.Path, "/company/app/tags/list"):
			return answer("application/json", `{"name":"company/app","tags":["good","old","dangling","not a tag\n"]}`)
		case strings.Contains(r.URL.Path, "/company/app/manifests/old"), strings.HasSuffix(r.URL.Path, "/manifests/"+describe("", []byte(schema1)).Digest):
			return answer("application/vnd.docker.distribution.manifest.v1+prettyjws", schema1)
		}
		return nil
	})
	const (
		old       = `Pushing manifests of the version V1 is not supported`
		dangling  = `The upstream lists it, but serves no manifest under it that can be stored here\.`
		malformed = `Its name is not that of a tag here\.`
	)
	rows := func(prefix string) *regexp.Regexp {
		return regexp.MustCompile(`(?s)` + prefix + `"not a tag\\n"\S*.*` + malformed + `.*` + prefix + `dangling\S*.*` + dangling + `.*` + prefix + `old\S*.*` + old)
	}
	s := proxy.inFront(t, "COUNTERSIGN_UPSTREAM_FOLLOW=false")
	said, err := s.cli(t, nil, "adopt", "company/*")
	if err == nil || !rows("company/app +skipped tag ").MatchString(said) || !regexp.MustCompile(`company/Upper +not adopted: Its name is not that of a repository here\.`).MatchString(said) {
		t.Errorf("adopt: %v\n%s", err, said)
	}
	if tags := s.tags(t, "company/app"); len(tags) != 1 || tags[0] != "good" {
		t.Errorf("the tags that are here: %v", tags)
	}
	drift := func(deep ...string) {
		t.Helper()
		said, err := s.cli(t, nil, append([]string{"drift"}, deep...)...)
		if err != nil || !rows(`company/app +tag +`).MatchString(said) {
			t.Errorf("drift %v: %v\n%s", deep, err, said)
		}
	}
	drift()
	drift() // with the stored differences
	drift("--deep")
	task := s.list(t, apiRoot+"tasks/?name__contains=adopt").Results[0]
	result, err := json.Marshal(task["result"])
	if err != nil || strings.Count(string(result), `"kind":"tag"`) != 3 || !strings.Contains(string(result), old) {
		t.Errorf("the task's result: %s, %v", result, err)
	}
	reports, err := json.Marshal(task["progress_reports"])
	if err != nil || !strings.Contains(string(reports), `"code":"adopt.skipped"`) || !strings.Contains(string(reports), "company/app:old") {
		t.Errorf("the task's progress reports: %s, %v", reports, err)
	}
	if log := s.LogTail(); strings.Count(log, `msg="not adopted"`) < 4 || !strings.Contains(log, "name=old") || !strings.Contains(log, "company/Upper") {
		t.Errorf("the log names less:\n%s", log)
	}
}
