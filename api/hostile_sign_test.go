package api_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/packet"

	"github.com/countersign/countersign/internal/access"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/signing"
	"github.com/countersign/countersign/tasks"
)

// TestHostileBasePaths requests signatures for paths of other users and for invalid paths, of repositories with and
// without distributions (hostile-inputs.md#hostile-base-path).
func TestHostileBasePaths(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.target("b/other")
	undistributed := w.undistributed("acme/bare")
	bare := pulp.RepositoryHref(pulp.ContainerPush, undistributed.ID)
	w.assign(undistributed, w.service.ID, pulp.AssignedByAdmin)
	w.assign(w.repo.Repository, w.service.ID, pulp.AssignedByAdmin)
	digest := "sha256:" + strings.Repeat("0", 64)
	for path, status := range map[string]int{
		"b/other":                  403,
		"b/new":                    403,
		"b":                        403,
		"a/../b":                   400,
		"acme/../b/other":          400,
		"acme/./app":               400,
		"acme//app":                400,
		"/acme/app":                400,
		"acme/app/":                400,
		"A/B":                      400,
		"acme/APP":                 400,
		"acme/app:latest":          400,
		"acme/app@sha256":          400,
		"acme/app@" + digest:       400,
		"acme/app@sha256:":         400,
		"evil.example:5000/acme":   400,
		"https://evil.example/app": 400,
		"acme/app x":               400,
		"acme /app":                400,
		"acme/app\nx":              400,
		"acme/app\x00":             400,
		"acme/app%2fx":             400,
		"acme\\app":                400,
		"acme/аpp":                 400, // a Cyrillic letter
		"acme/app\u202e":           400,
		"acme/" + strings.Repeat("x", pulp.MaxNameLength): 400,
		"": 400,
	} {
		t.Run(fmt.Sprintf("%.40q", path), func(t *testing.T) {
			before := len(w.dispatcher.specs)
			for _, repo := range []string{w.repoHref(), bare} {
				body := map[string]any{"manifest_signing_service": w.serviceHref(), "future_base_path": path}
				r := w.expect(call{method: http.MethodPost, path: repo + "sign/", user: "acme", json: body}, status, "")
				if status == 400 && !strings.Contains(r.raw, `{"future_base_path":["`) {
					t.Errorf("response %s", r.raw)
				}
			}
			if len(w.dispatcher.specs) != before {
				t.Error("a task was started")
			}
		})
	}
}

// TestPushPermissionDoesNotAllowSigning proves that a user who may push to a repository by a path of theirs may not
// have it signed (hostile-inputs.md#sign-without-permission).
func TestPushPermissionDoesNotAllowSigning(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	other := w.target("b/other")
	w.pushImage(other, "theirs", "amd64", "latest")
	w.distribute("carol/window", other.Repository.ID)
	carol := &access.Caller{Account: w.storedUser("carol")}
	may, err := w.store.Accounts.NewDecider(nil).AllowPath(t.Context(), carol, access.Push, access.Object{Name: "carol/window"})
	if err != nil || !may {
		t.Fatal("carol may not push, so the test proves nothing", err)
	}
	href := pulp.RepositoryHref(pulp.ContainerPush, other.Repository.ID)
	before := len(w.dispatcher.specs)
	for name, body := range map[string]string{
		"under their own path":   `,"future_base_path":"carol/window"`,
		"under the owner's path": `,"future_base_path":"b/other"`,
		"under no path":          "",
	} {
		t.Run(name, func(t *testing.T) {
			w.expect(
				call{
					method: http.MethodPost, path: href + "sign/", user: "carol",
					json: `{"manifest_signing_service":"` + w.serviceHref() + `"` + body + "}",
				},
				403, `{"detail":"You do not have permission to perform this action."}`,
			)
		})
	}
	if len(w.dispatcher.specs) != before {
		t.Error("a task was started")
	}
	w.expect(
		call{
			method: http.MethodPost, path: href + "sign/",
			json: `{"manifest_signing_service":"` + w.serviceHref() + `","future_base_path":"b/other"}`,
		},
		202, "",
	)
}

// TestRequestHostsHaveNoEffectOnSigning proves that headers with a host do not change a sign task
// (hostile-inputs.md#foreign-host-headers). TestForeignHostsAreNotSigned in integration inspects the signatures.
func TestRequestHostsHaveNoEffectOnSigning(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for name, header := range map[string]map[string]string{
		"Host":             {},
		"X-Forwarded-Host": {"X-Forwarded-Host": "evil.example"},
		"X-Forwarded-Host of many": {
			"X-Forwarded-Host": "evil.example, registry.example:8443", "X-Forwarded-Port": "1", "X-Forwarded-Proto": "http",
		},
		"Forwarded":       {"Forwarded": "host=evil.example;proto=http"},
		"X-Original-Host": {"X-Original-Host": "evil.example", "X-Host": "evil.example"},
	} {
		t.Run(name, func(t *testing.T) {
			body := strings.NewReader(`{"manifest_signing_service":"` + w.serviceHref() + `"}`)
			r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, w.server.URL+w.repoHref()+"sign/", body)
			if err != nil {
				t.Fatal(err)
			}
			r.SetBasicAuth("admin", "secret")
			r.Header.Set("Content-Type", "application/json")
			for k, v := range header {
				r.Header.Set(k, v)
			}
			r.Host = "evil.example"
			res, err := http.DefaultClient.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = res.Body.Close() }()
			raw, err := io.ReadAll(res.Body)
			if err != nil || res.StatusCode != http.StatusAccepted || strings.Contains(string(raw), "evil") {
				t.Errorf("response %d %s, %v", res.StatusCode, raw, err)
			}
			want := tasks.SignArgs{RepositoryID: w.repo.Repository.ID, ServiceID: w.service.ID, BasePath: "acme/app"}
			if got := w.dispatcher.last().Args; fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", want) {
				t.Errorf("the task's arguments are %+v, want %+v", got, want)
			}
		})
	}
}

// TestHostileSignaturesAreFlagged proves that lists show expired signatures, signatures by expired or revoked keys, and
// signatures by unknown keys as not verified (hostile-inputs.md#expired-signature, hostile-inputs.md#unknown-key).
// TestExpiredSignatures in proxy checks that they are served.
func TestHostileSignaturesAreFlagged(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	now := time.Now()
	made := func(lifetime time.Duration) signingKey {
		t.Helper()
		entity, err := openpgp.NewEntity("test", "", "test@example.com", &packet.Config{
			Algorithm: packet.PubKeyAlgoEdDSA, KeyLifetimeSecs: uint32(
				lifetime.Seconds(),
			), Time: func() time.Time { return now.Add(-24 * time.Hour) },
		})
		if err != nil {
			t.Fatal(err)
		}
		k := signingKey{entity: entity}
		k.export(t)
		return k
	}
	good, spent, revoked, unknown := made(0), made(time.Hour), made(0), made(0)
	then := now.Add(-23*time.Hour - 30*time.Minute)
	w.signAt(good, now.Add(-time.Minute), 0, app+"good")
	w.signAt(good, then, time.Hour, app+"expired")
	w.signAt(spent, then, 0, app+"spent")
	w.signAt(revoked, then, 0, app+"revoked")
	w.signAt(unknown, then, 0, app+"unknown")
	if err := revoked.entity.RevokeKey(packet.KeyCompromised, "lost", nil); err != nil {
		t.Fatal(err)
	}
	revoked.export(t)
	for name, k := range map[string]signingKey{"good": good, "spent": spent, "revoked": revoked} {
		w.serviceOf(k, name)
	}
	want := map[string]string{ // the reason for not being verified, by reference
		app + "good": "", app + "unknown": signing.ErrUnknownKey.Msg,
		app + "expired": "it has expired", app + "spent": "its key has expired", app + "revoked": "its key was revoked",
	}
	found := map[string]bool{}
	for _, r := range w.get("content/container/signatures/")["results"].([]any) {
		g := r.(map[string]any)
		reference, _ := g["docker_reference"].(string)
		why, ours := want[reference]
		if !ours {
			continue
		}
		found[reference] = true
		if services, _ := g["signing_services"].([]any); g["verified"] != (why == "") || len(services) > 0 != (why == "") {
			t.Errorf("%s: verified %v, by %v", reference, g["verified"], services)
		}
	}
	if len(found) != len(want) {
		t.Errorf("the list has the signatures %v, want %v", found, want)
	}
	said := w.expect(
		call{method: http.MethodPost, path: w.repoHref() + "verify/", json: `{"tag":"latest"}`}, http.StatusOK, "",
	).body
	found = map[string]bool{}
	for _, g := range dig(t, said, "manifests", 0, "signatures").([]any) {
		reference, _ := dig(t, g, "docker_reference").(string)
		why, ours := want[reference]
		if !ours {
			continue
		}
		found[reference] = true
		if reason, _ := dig(
			t, g, "reason",
		).(string); dig(t, g, "verified") != (why == "") || !strings.Contains(reason, why) || why == "" && reason != "" {
			t.Errorf("%s: verified %v, reason %q, want %q", reference, dig(t, g, "verified"), reason, why)
		}
	}
	if len(found) != len(want) {
		t.Errorf("verify/ reports the signatures %v, want %v", found, want)
	}
}

// export updates the public key after the entity was changed.
func (k *signingKey) export(t *testing.T) {
	t.Helper()
	var public bytes.Buffer
	if err := k.entity.Serialize(&public); err != nil {
		t.Fatal(err)
	}
	k.public = public.Bytes()
}

// signAt stores a signature of latest that was created at a time in the past.
func (w *world) signAt(k signingKey, at time.Time, lifetime time.Duration, reference string) {
	w.t.Helper()
	claim, err := signing.EncodeClaim(signing.Claim{ManifestDigest: w.manifest, DockerReference: reference})
	if err != nil {
		w.t.Fatal(err)
	}
	var b bytes.Buffer
	in, err := openpgp.Sign(
		&b, k.entity, nil, &packet.Config{Time: func() time.Time { return at }, SigLifetimeSecs: uint32(lifetime.Seconds())},
	)
	if err != nil {
		w.t.Fatal(err)
	}
	if _, err := in.Write(claim); err != nil {
		w.t.Fatal(err)
	}
	if err := in.Close(); err != nil {
		w.t.Fatal(err)
	}
	raw := b.Bytes()
	s, err := signing.Parse(raw)
	if err != nil {
		w.t.Fatal(err)
	}
	if _, err := w.store.Signatures.PutSignature(w.t.Context(), w.repo.Repository.ID, w.manifest, pulp.Signature{
		Digest: signing.Digest(
			raw,
		), Name: signing.Name(w.manifest, raw), Content: raw, KeyID: s.KeyID, Fingerprint: &s.Fingerprint,
		Reference: reference, SignedAt: s.CreatedAt.Unix(),
	}); err != nil {
		w.t.Fatal(err)
	}
}
