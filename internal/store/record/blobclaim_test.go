package record_test

import (
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/record"
	"github.com/countersign/countersign/internal/store/sqldb"
	"github.com/countersign/countersign/internal/store/storetest"
)

// source is a remote of a claim, with the times since its last answer 404 and its last failure; 0 if there was none.
type source struct {
	remote         string
	lacked, failed time.Duration
}

// TestSourceOf verifies the choice of the remote that is asked for a blob, and that a blob without such a remote is
// unavailable, although its bytes may be stored for another repository.
func TestSourceOf(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	insertRepository(t, s, "r", "acme/app")
	for _, id := range []string{"a", "b", "c"} {
		insertRemote(t, s, id)
	}
	for name, tt := range map[string]struct {
		claimed string // the remote of the claim; empty for NULL
		sources []source
		want    string
	}{
		"no remote":                     {},
		"claim of an older version":     {claimed: "b", want: "b"},
		"remote of the claim":           {claimed: "b", sources: []source{{remote: "a"}, {remote: "b"}, {remote: "c"}}, want: "b"},
		"sources without the claim's":   {sources: []source{{remote: "c"}, {remote: "b"}}, want: "b"},
		"failed remote comes last":      {claimed: "a", sources: []source{{remote: "a", failed: time.Hour}, {remote: "b"}}, want: "b"},
		"earliest failure first":        {claimed: "a", sources: []source{{remote: "a", failed: time.Minute}, {remote: "b", failed: time.Hour}}, want: "b"},
		"only a failed remote":          {claimed: "a", sources: []source{{remote: "a", failed: time.Second}}, want: "a"},
		"recent 404":                    {claimed: "a", sources: []source{{remote: "a", lacked: time.Minute}}, want: ""},
		"recent 404 of one remote":      {claimed: "a", sources: []source{{remote: "a", lacked: time.Minute}, {remote: "c"}}, want: "c"},
		"former 404":                    {claimed: "a", sources: []source{{remote: "a", lacked: 6 * time.Minute}}, want: "a"},
		"recent 404, claim without row": {claimed: "b", sources: []source{{remote: "a", lacked: time.Minute}}, want: "b"},
	} {
		t.Run(name, func(t *testing.T) { // one after the other: each has a blob of its own in the same repository
			blob := "blob for " + name
			insert(t, s, "blob", row{"id": blob, "digest": digest.FromString(blob), "size": 1})
			insertPlain(t, s, "blob_claim", row{"repository_id": "r", "blob_id": blob, "remote_id": sqldb.NullIfEmpty(tt.claimed), "size": 1})
			for _, x := range tt.sources {
				insertPlain(t, s, "claim_source", row{
					"repository_id": "r", "blob_id": blob, "remote_id": x.remote, "lacked": timeSince(x.lacked), "failed": timeSince(x.failed),
				})
			}
			var got string
			var without bool
			err := s.DB.Read().QueryRowContext(t.Context(), `
				SELECT COALESCE(`+record.SourceOf("$2")+`, ''), `+record.WithoutSource("$2")+`
				  FROM blob_claim k JOIN blob b ON b.id = k.blob_id WHERE k.blob_id = $1`, blob, record.LackedSince()).Scan(&got, &without)
			if err != nil || got != tt.want || without != (tt.want == "") {
				t.Errorf("source %q, unavailable: %t, %v, want %q", got, without, err, tt.want)
			}
		})
	}
}

// timeSince returns the stored form of the time before now, 0 for the duration 0.
func timeSince(d time.Duration) int64 {
	if d == 0 {
		return 0
	}
	return sqldb.Micros(time.Now().Add(-d))
}

// TestWithoutSourceWithoutClaim verifies that a blob without a claim is unavailable only while its bytes are absent.
func TestWithoutSourceWithoutClaim(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	insert(t, s, "blob", row{"id": "absent", "digest": digest.FromString("absent"), "size": 1, "absent": true})
	insert(t, s, "blob", row{"id": "stored", "digest": digest.FromString("stored"), "size": 1})
	got, err := sqldb.Collect(t.Context(), s.DB.Read(), sqldb.ScanString, `
		SELECT b.id FROM blob b LEFT JOIN blob_claim k ON k.blob_id = b.id AND k.repository_id = 'r' WHERE `+record.WithoutSource("$1"),
		record.LackedSince())
	if err != nil || len(got) != 1 || got[0] != "absent" {
		t.Errorf("unavailable blobs: %q, %v, want the absent one", got, err)
	}
}

// TestPendingContent verifies the conditions for content that is in no version: an uploaded blob is pending in its
// repository until a manifest uses it, and is not fetched content.
func TestPendingContent(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	to, other := storetest.Target(t, s, "acme/app").Repository.ID, storetest.Target(t, s, "acme/other").Repository.ID
	config, layer := storetest.PushBlob(t, s, to, "config acme"), storetest.PushBlob(t, s, to, "layer acme")
	pending := func(repository string, kind pulp.Kind, key digest.Digest) (is bool) {
		t.Helper()
		err := s.DB.Read().QueryRowContext(t.Context(), `SELECT `+record.IsPending("$1", "$2", "$3"), repository, kind, key).Scan(&is)
		if err != nil {
			t.Fatal(err)
		}
		return is
	}
	if !pending(to, pulp.KindBlob, config.Digest) || !pending(to, pulp.KindBlob, layer.Digest) {
		t.Error("an uploaded blob is not pending")
	}
	if pending(other, pulp.KindBlob, layer.Digest) || pending(to, pulp.KindManifest, layer.Digest) || pending(to, pulp.KindBlob, "sha256:x") {
		t.Error("the blob is pending in another repository, as another kind or under another key")
	}
	var fetched bool
	if err := s.DB.Read().QueryRowContext(t.Context(), `SELECT EXISTS (SELECT 1 FROM unversioned_content f WHERE `+record.Fetched("$1")+`)`, to).
		Scan(&fetched); err != nil || fetched {
		t.Errorf("uploaded content counts as fetched: %t, %v", fetched, err)
	}
	storetest.PushImage(t, s, to, "acme", "v1")
	if pending(to, pulp.KindBlob, layer.Digest) {
		t.Error("the blob of a pushed image is still pending")
	}
}
