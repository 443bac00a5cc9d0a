package events_test

import (
	"encoding/json"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/countersign/countersign/internal/events"
)

// TestSignature compares a signature with the example of Standard Webhooks.
func TestSignature(t *testing.T) {
	t.Parallel()
	got, err := events.Sign("msg_p5jXN8AQM9LWM0D4loKWxJek", time.Unix(1614265330, 0), []byte(`{"test": 2432232314}`),
		"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", events.NewSecret())
	first, second, two := strings.Cut(got, " ")
	if want := "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="; err != nil || first != want || !two || !strings.HasPrefix(second, "v1,") {
		t.Errorf("%q, %v; want %q and another", got, err, want)
	}
	for _, secret := range []string{"", "whsec_", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZI", "whsec_!", events.NewSecret() + "A"} {
		if events.ValidSecret(secret) {
			t.Errorf("%q is accepted", secret)
		}
		if _, err := events.Sign("x", time.Now(), nil, secret); err == nil {
			t.Errorf("%q signs", secret)
		}
	}
}

// TestDocumentedVerification runs the shell commands of docs/webhooks.md.
func TestDocumentedVerification(t *testing.T) {
	t.Parallel()
	for _, program := range []string{"bash", "openssl", "base64", "od"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("%s is not installed", program)
		}
	}
	page, err := os.ReadFile(filepath.Join("..", "..", "docs", "webhooks.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, script, ok := strings.Cut(string(page), "In a shell, with the body in the file `body`:\n\n```\n")
	script, _, closed := strings.Cut(script, "```")
	if !ok || !closed {
		t.Fatal("docs/webhooks.md has no commands")
	}
	secret, body := events.NewSecret(), `{"a":1}`
	want, err := events.Sign("id", time.Unix(7, 0), []byte(body), secret)
	if err != nil {
		t.Fatal(err)
	}
	c := exec.CommandContext(t.Context(), "bash", "-euc", script)
	c.Dir = t.TempDir()
	if err := os.WriteFile(filepath.Join(c.Dir, "body"), []byte(body), 0o600); err != nil {
		t.Fatal(err)
	}
	c.Env = append(os.Environ(), "SECRET="+secret, "WEBHOOK_ID=id", "WEBHOOK_TIMESTAMP=7")
	out, err := c.CombinedOutput()
	if err != nil || "v1,"+strings.TrimSpace(string(out)) != want {
		t.Errorf("%s, %v; want %s", out, err, want)
	}
}

// TestSchema compares the members of the data of each type with docs/webhooks.schema.json.
func TestSchema(t *testing.T) {
	t.Parallel()
	raw, err := os.ReadFile(filepath.Join("..", "..", "docs", "webhooks.schema.json"))
	if err != nil {
		t.Fatal(err)
	}
	var schema struct {
		Defs map[string]struct {
			Required   []string
			Properties map[string]any
		} `json:"$defs"`
	}
	if err := json.Unmarshal(raw, &schema); err != nil {
		t.Fatal(err)
	}
	forms := map[string]any{
		"repository": events.Repository{}, "version": events.Version{}, "actor": events.Actor{}, "units": events.Units{}, "webhook": events.Webhook{},
		"task": events.Task{}, "signature": events.Signature{},
		string(events.Push): events.PushData{}, string(events.VersionCreated): events.VersionData{},
		string(events.TagCreated): events.TagData{}, string(events.TagMoved): events.TagData{}, string(events.TagRemoved): events.TagData{},
		string(events.SignatureAdded): events.SignatureData{}, string(events.SignatureRemoved): events.SignatureData{},
		string(events.TaskEnded): events.TaskData{}, string(events.SyncEnded): events.TaskData{},
		string(events.Ping): events.PingData{}, string(events.Lost): events.LostData{},
	}
	if diff := cmp.Diff(slices.Sorted(maps.Keys(forms)), slices.Sorted(maps.Keys(schema.Defs))); diff != "" {
		t.Fatalf("definitions (-types +schema):\n%s", diff)
	}
	for name, form := range forms {
		text, err := json.Marshal(form)
		if err != nil {
			t.Fatal(err)
		}
		var members map[string]any
		if err := json.Unmarshal(text, &members); err != nil {
			t.Fatal(err)
		}
		want := slices.Sorted(maps.Keys(members))
		if diff := cmp.Diff(want, slices.Sorted(slices.Values(schema.Defs[name].Required))); diff != "" {
			t.Errorf("%s: required members (-type +schema):\n%s", name, diff)
		}
		if diff := cmp.Diff(want, slices.Sorted(maps.Keys(schema.Defs[name].Properties))); diff != "" {
			t.Errorf("%s: members (-type +schema):\n%s", name, diff)
		}
	}
}

// TestWithoutDetails removes the error and the created resources of a task, and changes no other event.
func TestWithoutDetails(t *testing.T) {
	t.Parallel()
	failure := "secret path"
	e, err := events.New(events.TaskEnded, "/x/", "x", events.TaskData{Task: events.Task{Href: "/t/", Error: &failure, CreatedResources: []string{"/y/"}}})
	if err != nil {
		t.Fatal(err)
	}
	limited, err := e.WithoutDetails()
	if err != nil || strings.Contains(string(limited.Data), failure) || strings.Contains(string(limited.Data), "/y/") || limited.TaskHref() != "/t/" {
		t.Errorf("%s, %v", limited.Data, err)
	}
	e.Type = events.Push
	if same, err := e.WithoutDetails(); err != nil || string(same.Data) != string(e.Data) {
		t.Errorf("%s, %v", same.Data, err)
	}
}
