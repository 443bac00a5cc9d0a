package cli

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestVerifyWithAServer verifies images by a server: without a policy, and with policies that name key files.
func TestVerifyWithAServer(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	digest := w.push(t, "team/app:v1")
	w.push(t, "team/app:v2")
	w.pushList(t, "team/app:list", 2)
	w.admin(t, "sign", "team/app:v1", "team/app:list", "--wait").want(t, 0, "completed")
	v1 := w.host() + "/team/app:v1"
	w.admin(t, "verify", v1).want(t, 0, `(?m)^1 +[0-9A-F]{40} +countersign +`+v1+` +\S+ +yes$(.*\n)*\nsigned for exactly `+v1+`\n$`)
	w.admin(t, "verify", "team/app:list").want(t, 0, `signed for exactly .*:list\n$`)
	w.admin(t, "verify", "team/app:v2").want(t, 1, `(?m)^  no signatures\n\nNOT signed, by a key that the server knows, for exactly .*:v2$`)
	w.admin(t, "verify", "team/app@"+digest).want(t, 1, `NOT signed, by a key that the server knows, for exactly .*@`+digest)
	w.admin(t, "verify", "team/app:none").wantError(t, 2, "has no such tag")
	w.admin(t, "verify", "team/app").wantError(t, 2, "names no image")
	w.remote(t, "admin", "wrong", "verify", "team/app:v1").wantError(t, 2, "Invalid username/password")
	if got := decode[verified](t, w.admin(t, "verify", v1, "-o", "json")); len(got.Manifests) != 1 || !got.Manifests[0].Signatures[0].Verified {
		t.Errorf("JSON: %+v", got)
	}

	var services struct {
		Results []struct {
			PublicKey string `json:"public_key"`
		} `json:"results"`
	}
	if err := json.Unmarshal([]byte(w.server.Get(t, "/pulp/api/v3/signing-services/").Body), &services); err != nil {
		t.Fatal(err)
	}
	key, rules := filepath.Join(w.dir, "key.asc"), filepath.Join(w.dir, "policy.json")
	write := func(file, text string) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(key, services.Results[0].PublicKey)
	for requirement, status := range map[string]int{
		`"keyPath": "` + key + `"`:                            0,
		`"keyPaths": ["` + key + `", "` + key + `"]`:          0,
		`"keyPath": "` + filepath.Join(w.dir, "absent") + `"`: 2,
	} {
		write(rules, `{"default": [{"type": "reject"}], "transports": {"docker": {"`+w.host()+`": [{"type": "signedBy", "keyType": "GPGKeys", `+requirement+`}]}}}`)
		if got := w.admin(t, "verify", v1, "--policy", rules); got.status != status || status == 0 && !strings.HasSuffix(got.out, "\naccepted by "+rules+"\n") {
			t.Errorf("%s: status %d, %v\n%s", requirement, got.status, got.err, got.out)
		}
	}
	write(rules, `{"default": [{"type": "reject"}]}`)
	w.admin(t, "verify", v1, "--policy", rules).want(t, 1, `(?m)^  policy, scope "default": NOT accepted$(.*\n)*\nNOT accepted by `)
	write(rules, `{"default": [], "default": []}`)
	w.admin(t, "verify", v1, "--policy", rules).wantError(t, 2, "policy.json: ")
}
