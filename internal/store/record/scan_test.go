package record_test

import (
	"reflect"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store"
	"github.com/countersign/countersign/internal/store/record"
	"github.com/countersign/countersign/internal/store/sqldb"
	"github.com/countersign/countersign/internal/store/storetest"
)

// labelsText is the stored form of labels.
const labelsText = `{"env":"prod","empty":null}`

func labels() pulp.Labels { return pulp.Labels{"env": new("prod"), "empty": nil} }

// wantRows verifies that a query returns certain values.
func wantRows[T any](t *testing.T, s *store.Store, scan func(sqldb.Scanner) (T, error), query string, want ...T) {
	t.Helper()
	got, err := sqldb.Collect(t.Context(), s.DB.Read(), scan, query)
	if err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%s:\n got %+v\nwant %+v", query, got, want)
	}
}

// wantColumnError verifies that a value which is not JSON results in an error that names its column.
func wantColumnError[T any](t *testing.T, s *store.Store, scan func(sqldb.Scanner) (T, error), query, table, column string) {
	t.Helper()
	storetest.Exec(t, s, `UPDATE `+table+` SET `+column+` = 'no JSON'`)
	_, err := sqldb.Collect(t.Context(), s.DB.Read(), scan, query)
	if err == nil || !strings.Contains(err.Error(), table+"."+column) {
		t.Errorf("%s with an invalid value: %v, want an error that names %s.%s", query, err, table, column)
	}
	storetest.Exec(t, s, `UPDATE `+table+` SET `+column+` = '{}'`)
}

func TestScanUser(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	insert(t, s, "account", row{"id": 7, "username": "alice", "password_hash": "hash", "is_staff": true, "is_active": false})
	insert(t, s, "account", row{"id": 8, "username": "bob", "password_hash": "", "is_staff": false, "is_active": true})
	wantRows(t, s, record.ScanUser, `SELECT `+record.AccountColumns+` FROM account ORDER BY id`,
		pulp.User{ID: 7, Username: "alice", Hash: "hash", Staff: true, Kind: pulp.LocalUser, Stamps: stamps},
		pulp.User{ID: 8, Username: "bob", Active: true, Kind: pulp.LocalUser, Stamps: stamps})
}

// TestScanBlob reads a blob in the storage, an empty inline blob, and an absent blob.
func TestScanBlob(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	stored, empty, absent := digest.FromString("stored"), digest.FromString(""), digest.FromString("absent")
	insert(t, s, "blob", row{"id": "1", "digest": stored, "size": 6, "location": "acme/app"})
	insert(t, s, "blob", row{"id": "2", "digest": empty, "size": 0, "data": []byte{}})
	insert(t, s, "blob", row{"id": "3", "digest": absent, "size": 1 << 40, "absent": true})
	small := digest.FromString("small")
	insert(t, s, "blob", row{"id": "4", "digest": small, "size": 5, "data": []byte("small")})
	scan := func(row sqldb.Scanner) (pulp.Blob, error) {
		b, err := record.ScanBlob(row)
		b.Data = append([]byte(nil), b.Data...) // SQLite's driver returns nil for empty bytes, PostgreSQL's does not
		return b, err
	}
	wantRows(t, s, scan, `SELECT `+record.BlobColumns+` FROM blob b ORDER BY b.id`,
		pulp.Blob{ID: "1", Digest: stored, Size: 6, Location: "acme/app", Stamps: stamps},
		pulp.Blob{ID: "2", Digest: empty, Inline: true, Stamps: stamps},
		pulp.Blob{ID: "3", Digest: absent, Size: 1 << 40, Absent: true, Stamps: stamps},
		pulp.Blob{ID: "4", Digest: small, Size: 5, Data: []byte("small"), Inline: true, Stamps: stamps})
	wantRows(t, s, record.ScanDigest, `SELECT b.digest FROM blob b WHERE b.id = '2'`, empty)
}

// insertManifest inserts a manifest with an id.
func insertManifest(t *testing.T, s *store.Store, id string, more row) digest.Digest {
	t.Helper()
	d := digest.FromString("manifest " + id)
	insertPlain(t, s, "manifest", row{"created": created, "updated": updated}, row{
		"id": id, "digest": d, "media_type": pulp.OCIIndex, "schema_version": 2, "payload": []byte("payload " + id), "type": "index",
	}, more)
	return d
}

func TestScanManifest(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	config, subject := digest.FromString("config"), digest.FromString("subject")
	index := insertManifest(t, s, "1", nil)
	image := insertManifest(t, s, "2", row{
		"media_type": pulp.OCIManifest, "type": "image", "config_digest": config, "subject": subject, "artifact_type": "example/type",
		"architecture": "arm64", "os": "linux", "image_size": 1 << 40,
	})
	wantRows(t, s, record.ScanManifest, `SELECT `+record.ManifestColumns+` FROM manifest m ORDER BY m.id`,
		pulp.Manifest{
			ID: "1", Digest: index, MediaType: pulp.OCIIndex, SchemaVersion: 2, Payload: []byte("payload 1"), Type: "index",
			Stamps: stamps,
		},
		pulp.Manifest{
			ID: "2", Digest: image, MediaType: pulp.OCIManifest, SchemaVersion: 2, Payload: []byte("payload 2"), Type: "image",
			Config: &pulp.Descriptor{Digest: config}, Subject: subject, ArtifactType: "example/type",
			Architecture: new("arm64"), OS: new("linux"), ImageSize: new(int64(1 << 40)), Stamps: stamps,
		})
}

func TestScanTagAndTagged(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	d := insertManifest(t, s, "m", nil)
	insert(t, s, "tag", row{"id": "t", "name": "v1", "manifest_id": "m"})
	wantRows(t, s, record.ScanTag, `SELECT t.id, t.name, t.manifest_id, t.created, t.updated FROM tag t`,
		pulp.Tag{ID: "t", Name: "v1", ManifestID: "m", Stamps: stamps})
	wantRows(t, s, record.ScanTagged, `SELECT t.name, m.id, m.digest, m.media_type FROM tag t JOIN manifest m ON m.id = t.manifest_id`,
		record.TaggedManifest{Tag: "v1", ID: "m", Digest: string(d), MediaType: pulp.OCIIndex})
}

func TestScanSignature(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	insertManifest(t, s, "m", nil)
	a, b := digest.FromString("a"), digest.FromString("b")
	insert(t, s, "signature", row{
		"id": "1", "digest": a, "name": "name a", "manifest_id": "m", "content": []byte("a"), "key_id": "key", "fingerprint": "FINGER",
		"verified_by": "PRIMARY", "reference": "localhost/acme/app:v1", "creator": "signer", "signed_at": 1_700_000_000,
	})
	insert(t, s, "signature", row{
		"id": "2", "digest": b, "name": "name b", "manifest_id": "m", "content": []byte("b"), "key_id": "key", "reference": "ref",
		"signed_at": 0,
	})
	wantRows(t, s, record.ScanSignature, `SELECT `+record.SignatureColumns+` FROM signature g ORDER BY g.id`,
		pulp.Signature{
			ID: "1", Digest: a, Name: "name a", ManifestID: "m", Content: []byte("a"), KeyID: "key", Fingerprint: new("FINGER"),
			VerifiedBy: "PRIMARY", Reference: "localhost/acme/app:v1", Creator: "signer", SignedAt: 1_700_000_000, Stamps: stamps,
		},
		pulp.Signature{
			ID: "2", Digest: b, Name: "name b", ManifestID: "m", Content: []byte("b"), KeyID: "key", Reference: "ref", Stamps: stamps,
		})
}

func TestScanNamespace(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	insert(t, s, "namespace", row{"id": "n", "name": "acme", "labels": labelsText})
	query := `SELECT n.id, n.name, n.labels, n.created, n.updated FROM namespace n`
	wantRows(t, s, record.ScanNamespace, query, pulp.Namespace{ID: "n", Name: "acme", Labels: labels(), Stamps: stamps})
	wantColumnError(t, s, record.ScanNamespace, query, "namespace", "labels")
}

func TestScanService(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	insert(t, s, "signing_service", row{
		"id": "v", "name": "signer", "class": pulp.ManifestSigningService, "kind": pulp.ServiceScript, "script": "/sign.sh",
		"fingerprint": "FINGER", "public_key": "armor", "gnupghome": "/home", "config": sqldb.ToJSON(pulp.ServiceConfig{}),
	})
	query := `SELECT ` + record.ServiceColumns + ` FROM signing_service`
	wantRows(t, s, record.ScanService, query, pulp.SigningService{
		ID: "v", Name: "signer", Class: pulp.ManifestSigningService, Kind: pulp.ServiceScript, Script: "/sign.sh", Fingerprint: "FINGER",
		PublicKey: "armor", GnuPGHome: "/home", Stamps: stamps,
	})
	wantColumnError(t, s, record.ScanService, query, "signing_service", "config")
}

// TestScanRemote reads a remote without optional values, and one with all of them.
func TestScanRemote(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	insertRemote(t, s, "a")
	connection := pulp.Connection{CACert: new("PEM"), TLSValidation: true, RateLimit: new(int64(5)), TokenHosts: []string{"auth.example"}}
	secrets := pulp.RemoteSecrets{Username: new("robot"), Password: new("password")}
	insert(t, s, "remote", row{
		"id": "b", "name": "full", "url": "https://b", "upstream_name": "lib/app", "policy": pulp.Immediate, "includes": `["v*"]`,
		"excludes": `[]`, "sigstore": "https://sigstore", "connection": sqldb.ToJSON(connection), "secrets": sqldb.ToJSON(secrets),
		"labels": labelsText,
	})
	full := pulp.Remote{
		ID: "b", Name: "full", URL: "https://b", UpstreamName: "lib/app", Policy: pulp.Immediate, Includes: []string{"v*"},
		Excludes: []string{}, Sigstore: new("https://sigstore"), Connection: connection, Secrets: secrets, Labels: labels(), Stamps: stamps,
	}
	query := `SELECT ` + record.RemoteColumns + record.RemoteSource + ` ORDER BY m.id`
	wantRows(t, s, record.ScanRemote, query, pulp.Remote{
		ID: "a", Name: "a", URL: "https://a", UpstreamName: "app", Policy: pulp.OnDemand, Labels: pulp.Labels{}, Stamps: stamps,
	}, full)
	if got, err := record.FindRemote(t.Context(), s.DB.Read(), "b"); err != nil || !reflect.DeepEqual(got, full) {
		t.Errorf("FindRemote = %+v, %v, want %+v", got, err, full)
	}
	if _, err := record.FindRemote(t.Context(), s.DB.Read(), "full"); !fault.Is(err, fault.NotFound) {
		t.Errorf("FindRemote with a name = %v, want NotFound", err)
	}
	for _, column := range []string{"connection", "secrets", "labels"} {
		wantColumnError(t, s, record.ScanRemote, query, "remote", column)
	}
	storetest.Exec(t, s, `UPDATE remote SET includes = '{}'`)
	if _, err := record.FindRemote(t.Context(), s.DB.Read(), "a"); err == nil || !strings.Contains(err.Error(), "remote.includes") {
		t.Errorf("FindRemote with an object for a list = %v, want an error that names the column", err)
	}
}

// TestScanVersion verifies that each count comes from its own column.
func TestScanVersion(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	insertRepository(t, s, "r", "acme/app")
	insert(t, s, "repository_version", row{
		"id": "v", "repository_id": "r", "number": 4,
		"blobs_present": 11, "blobs_added": 12, "blobs_removed": 13, "manifests_present": 21, "manifests_added": 22, "manifests_removed": 23,
		"signatures_present": 31, "signatures_added": 32, "signatures_removed": 33, "tags_present": 41, "tags_added": 42, "tags_removed": 43,
	})
	want := pulp.Version{ID: "v", RepositoryID: "r", Type: pulp.ContainerPush, Number: 4, Stamps: stamps, Counts: map[pulp.Kind]pulp.Count{
		pulp.KindBlob:      {Present: 11, Added: 12, Removed: 13},
		pulp.KindManifest:  {Present: 21, Added: 22, Removed: 23},
		pulp.KindSignature: {Present: 31, Added: 32, Removed: 33},
		pulp.KindTag:       {Present: 41, Added: 42, Removed: 43},
	}}
	wantRows(t, s, record.ScanVersion, `SELECT `+record.VersionColumns+record.VersionSource, want)
	if got, err := record.FindVersion(t.Context(), s.DB.Read(), "r", 4); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("FindVersion = %+v, %v, want %+v", got, err, want)
	}
	if _, err := record.FindVersion(t.Context(), s.DB.Read(), "r", 3); !fault.Is(err, fault.NotFound) {
		t.Errorf("FindVersion of a missing number = %v, want NotFound", err)
	}
}

// insertFullRepository inserts a repository with a value in every column and returns it.
func insertFullRepository(t *testing.T, s *store.Store, id string) pulp.Repository {
	t.Helper()
	insertRemote(t, s, "m")
	insert(t, s, "signing_service", row{
		"id": "v", "name": "signer", "class": pulp.ManifestSigningService, "kind": pulp.ServiceScript, "fingerprint": "", "public_key": "",
	})
	insert(t, s, "repository", row{
		"id": id, "type": pulp.Container, "name": "full", "description": "text", "labels": labelsText, "retain_repo_versions": 3,
		"signing_service_id": "v", "signing_assigned": "owner", "sign_on_push": true, "remote_id": "m", "allow_shrink": true,
		"made_by_push": true, "pushed_as": "acme/app", "latest_version": 9,
	})
	return pulp.Repository{
		ID: id, Type: pulp.Container, Name: "full", Description: new("text"), Labels: labels(), RetainRepoVersions: new(int64(3)),
		SigningServiceID: "v", SigningAssigned: "owner", SignOnPush: true, RemoteID: "m", AllowShrink: true, MadeByPush: true,
		PushedAs: "acme/app", LatestVersion: 9, Stamps: stamps,
	}
}

func TestScanRepository(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	insertRepository(t, s, "r1", "plain")
	plain := pulp.Repository{ID: "r1", Type: pulp.ContainerPush, Name: "plain", Labels: pulp.Labels{}, Stamps: stamps}
	full := insertFullRepository(t, s, "r2")
	query := `SELECT ` + record.RepositoryColumns + ` FROM repository r ORDER BY r.id`
	wantRows(t, s, record.ScanRepository, query, plain, full)

	got, err := record.FindRepository(t.Context(), s.DB.Read(), pulp.Container, "r2")
	if err != nil || !reflect.DeepEqual(got, full) {
		t.Errorf("FindRepository = %+v, %v, want %+v", got, err, full)
	}
	got, err = record.FindRepositoryByName(t.Context(), s.DB.Read(), "plain")
	if err != nil || !reflect.DeepEqual(got, plain) {
		t.Errorf("FindRepositoryByName = %+v, %v, want %+v", got, err, plain)
	}
	if _, err := record.FindRepositoryByName(t.Context(), s.DB.Read(), "r1"); !fault.Is(err, fault.NotFound) {
		t.Errorf("FindRepositoryByName with an id = %v, want NotFound", err)
	}
	wantColumnError(t, s, record.ScanRepository, query, "repository", "labels")
}

// TestFindRepositoryOfAnotherType verifies that a repository of another type is not found, with the name of the wanted
// type in the text.
func TestFindRepositoryOfAnotherType(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	insertRepository(t, s, "r", "acme/app") // container-push
	insertFullRepository(t, s, "full")      // container
	for _, tt := range []struct {
		kind pulp.RepositoryType
		id   string
		want string
	}{
		{kind: pulp.Container, id: "r", want: "No ContainerRepository matches the given query."},
		{kind: pulp.ContainerPush, id: "full", want: "No ContainerPushRepository matches the given query."},
	} {
		_, err := record.FindRepository(t.Context(), s.DB.Read(), tt.kind, tt.id)
		if !fault.Is(err, fault.NotFound) || err.Error() != tt.want {
			t.Errorf("FindRepository(%s, %s) = %v, want NotFound with %q", tt.kind, tt.id, err, tt.want)
		}
	}
}
