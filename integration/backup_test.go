package integration

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/countersign/countersign/integration/process"
	"github.com/countersign/countersign/internal/pgtest"
	"github.com/countersign/countersign/signing"
)

// documented returns the lines of each block of commands below a heading of docs/operations.md.
func documented(t *testing.T, heading string) [][]string {
	t.Helper()
	page, err := os.ReadFile(filepath.Join(shared.root, "docs/operations.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, section, found := strings.Cut(string(page), "\n### "+heading+"\n")
	if !found {
		t.Fatalf("docs/operations.md has no heading %q", heading)
	}
	section, _, _ = strings.Cut(section, "\n##")
	var blocks [][]string
	for i, part := range strings.Split(section, "```") {
		if i%2 == 1 {
			blocks = append(blocks, strings.Split(strings.TrimSpace(part), "\n"))
		}
	}
	return blocks
}

// backup is a server that is backed up with the documented commands, destroyed, and restored.
type backup struct {
	*server
	public  signing.PublicKey
	policy  string
	user    *containers
	service string
	kept    map[string][]pushed // by repository: pushes that were acknowledged before the backup began
	half    string              // an upload that was unfinished then
}

// bulk is larger than the blobs that are stored in the database.
var bulk = strings.Repeat("in a file. ", 2000)

// fill pushes small and large blobs to a repository that signs on push and to one that a task signs.
func (b *backup) fill(t *testing.T) {
	t.Helper()
	b.kept = map[string][]pushed{}
	for _, name := range []string{"prod/app", "acme/app"} {
		for i := range 12 {
			body := fmt.Sprintf("%s %d ", name, i)
			if i%2 == 1 {
				body += bulk
			}
			image, err := b.pushTiny(t, name, fmt.Sprintf("v%d", i), body)
			if err != nil {
				t.Fatal(err)
			}
			b.kept[name] = append(b.kept[name], image)
		}
	}
	b.signed(t, text(b.repository(t, "acme/app")["pulp_href"]), object{"manifest_signing_service": b.service})
	_, header, _ := b.do(t, http.MethodPost, "/v2/acme/app/blobs/uploads/", nil, nil)
	status, header, answer := b.do(t, http.MethodPatch, header.Get("Location"), octets, []byte(bulk))
	if status != http.StatusAccepted {
		t.Fatalf("PATCH: %d %s", status, answer)
	}
	b.half = header.Get("Location")
}

var octets = http.Header{"Content-Type": {"application/octet-stream"}}

// save runs commands one after another while clients push, with some pushes before each and after the last.
func (b *backup) save(t *testing.T, env, commands []string) {
	t.Helper()
	const clients, between = 4, 12
	var pushes atomic.Int64
	var pushing sync.WaitGroup
	stop := make(chan struct{})
	for client := range clients {
		pushing.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				if _, err := b.pushTiny(t, fmt.Sprintf("prod/busy%d", client), fmt.Sprintf("v%d", n), fmt.Sprintf("%d %d %s", client, n, bulk)); err != nil {
					t.Errorf("a push during the backup: %v", err)
					return
				}
				pushes.Add(1)
			}
		})
	}
	defer pushing.Wait()
	defer close(stop)
	for _, command := range append(commands, "true") {
		so := pushes.Load()
		within(t, "pushes go on", func() bool { return pushes.Load() >= so+between || t.Failed() })
		b.run(t, env, command)
	}
	t.Logf("%d pushes during the backup", pushes.Load())
}

// run runs a documented command in the directory above the data.
func (b *backup) run(t *testing.T, env []string, command string) {
	t.Helper()
	must(t, append(b.env[:len(b.env):len(b.env)], env...), "bash", "-euc", "cd "+filepath.Dir(b.data)+"; "+command)
}

// check checks the restored server: all pushes that were acknowledged before the backup are there and verify, all other
// tags are complete and signed, and new pushes work.
func (b *backup) check(t *testing.T) {
	t.Helper()
	for name, images := range b.kept {
		for _, image := range images {
			b.isServed(t, name, image)
			if wrong := b.seenSigned(t, b.public, name, image.tag); wrong != "" {
				t.Error(wrong)
			}
		}
		for _, image := range images[:2] {
			if said, err := b.user.pull(t, b.policy, name+":"+image.tag); err != nil {
				t.Errorf("%s:%s does not pull under the policy: %v\n%s", name, image.tag, err, said)
			}
		}
	}
	// The answer makes the client start the upload again.
	if status, _, answer := b.do(t, http.MethodPatch, b.half, octets, []byte(bulk)); status != http.StatusNotFound || !strings.Contains(string(answer), "BLOB_UPLOAD_UNKNOWN") {
		t.Errorf("the rest of an upload that was under way: %d %s", status, answer)
	}
	later := 0
	for _, repository := range b.list(t, pushRepos).Results {
		name := text(repository["name"])
		b.versionsAreComplete(t, text(repository["pulp_href"]))
		if b.kept[name] != nil {
			continue
		}
		var shown struct{ Tags []string }
		b.call(t, http.MethodGet, "/v2/"+name+"/tags/list", nil, http.StatusOK, &shown)
		for _, tag := range shown.Tags {
			later++
			b.isWhole(t, name, tag)
			if wrong := b.seenSigned(t, b.public, name, tag); wrong != "" {
				t.Error(wrong)
			}
		}
	}
	if later == 0 {
		t.Error("no push made before the first command of the backup ran was restored")
	}
	t.Logf("%d of the pushes during the backup are in it", later)
	for _, name := range []string{"prod/app", "acme/app"} {
		image, err := b.pushTiny(t, name, "after", "after the restore "+bulk)
		if err != nil {
			t.Fatal(err)
		}
		b.kept[name] = append(b.kept[name], image)
	}
	b.signed(t, text(b.repository(t, "acme/app")["pulp_href"]), object{"manifest_signing_service": b.service})
	for _, name := range []string{"prod/app", "acme/app"} {
		if said, err := b.user.pull(t, b.policy, name+":after"); err != nil {
			t.Errorf("an image pushed to %s after the restore cannot be pulled: %v\n%s", name, err, said)
		}
	}
}

// isWhole checks that all content of a tag is present.
func (b *backup) isWhole(t *testing.T, name, tag string) {
	t.Helper()
	var manifest struct {
		Config descriptor
		Layers []descriptor
	}
	b.call(t, http.MethodGet, "/v2/"+name+"/manifests/"+tag, nil, http.StatusOK, &manifest)
	image := pushed{tag: tag, name: b.digest(t, name, tag)}
	for _, blob := range append(manifest.Layers, manifest.Config) {
		image.blobs = append(image.blobs, blob.Digest)
	}
	b.isServed(t, name, image)
}

// TestBackupOnSQLite backs up a running server with the embedded stores, deletes its data directory, and restores it.
func TestBackupOnSQLite(t *testing.T) {
	t.Parallel()
	need(t, "sqlite3", "skopeo")
	if os.Getenv(pgtest.Variable) == "postgres" {
		t.Skip("the tests run on PostgreSQL")
	}
	s := startServer(t, "COUNTERSIGN_SIGNING_ON_PUSH=prod/*=countersign")
	service := s.list(t, signingServices).Results[0] // created by the first start, with a key in the data directory
	b := &backup{server: s, user: newContainers(t, s), service: text(service["pulp_href"])}
	k := &key{public: write(t, filepath.Join(t.TempDir(), "public.asc"), text(service["public_key"]), 0o600)}
	b.public, b.policy = publicKey(t, k), b.user.signedBy(t, k)
	b.fill(t)
	blocks := documented(t, "On SQLite")
	if len(blocks) != 2 {
		t.Fatalf("%d blocks of commands, want one for the backup and one for the restore", len(blocks))
	}
	b.save(t, nil, blocks[0])
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(s.data); err != nil {
		t.Fatal(err)
	}
	for _, command := range blocks[1] {
		b.run(t, nil, command)
	}
	s.start(t)
	b.check(t)
}

// TestBackupOnPostgreSQL backs up the database and the storage of a running server, and restores them to another
// database and directory. Redis is not changed.
func TestBackupOnPostgreSQL(t *testing.T) {
	t.Parallel()
	need(t, "pg_dump", "pg_restore", "skopeo")
	c := startCluster(t, 0, "COUNTERSIGN_SIGNING_ON_PUSH=prod/*=release")
	s := c.servers[0]
	if err := c.servers[1].Stop(); err != nil {
		t.Fatal(err)
	}
	c.addWorker(t)
	k := keyHome(t)
	k.generate(t, "ed25519", "")
	b := &backup{server: s, user: newContainers(t, s), service: s.addKeyService(t, "release", k, "--openpgp-key", k.secret(t, ""))}
	b.public, b.policy = publicKey(t, k), b.user.signedBy(t, k)
	b.fill(t)
	blocks := documented(t, "On PostgreSQL")
	if len(blocks) != 2 {
		t.Fatalf("%d blocks of commands, want one for the backup and one for the restore", len(blocks))
	}
	setting := func(name string) string {
		i := slices.IndexFunc(s.env, func(v string) bool { return strings.HasPrefix(v, name+"=") })
		if i < 0 {
			t.Fatalf("the server's environment has no %s", name)
		}
		_, value, _ := strings.Cut(s.env[i], "=")
		return value
	}
	_, old, _ := strings.Cut(setting("COUNTERSIGN_STORAGE"), ":")
	b.save(t, []string{"STORAGE=" + old}, blocks[0])
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	c.workers[0].Kill()
	if err := os.RemoveAll(old); err != nil {
		t.Fatal(err)
	}
	fresh := filepath.Join(t.TempDir(), "storage")
	moved := []string{"COUNTERSIGN_DATABASE_URL=" + pgtest.Database(t), "COUNTERSIGN_STORAGE=filesystem:" + fresh}
	for _, command := range blocks[1] {
		b.run(t, append(moved, "STORAGE="+fresh), command)
	}
	s.command.Env = append(s.env[:len(s.env):len(s.env)], moved...)
	s.start(t)
	dir := t.TempDir()
	worker, err := process.Start(t.Context(), process.Command{
		Program: s.command.Program, Arguments: []string{"worker"}, Log: filepath.Join(dir, "log"),
		Env: environment(dir, slices.Concat(c.env, moved, []string{"COUNTERSIGN_DATA=" + dir})...),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(worker.Kill)
	b.check(t)
}

// TestDiskIsFull fills the disk of a server with the embedded stores: pushes fail without partial effects, pulls work,
// and pushes work again when there is space.
func TestDiskIsFull(t *testing.T) {
	t.Parallel()
	if os.Getenv(pgtest.Variable) == "postgres" {
		t.Skip("the tests run on PostgreSQL")
	}
	disk := t.TempDir()
	if err := syscall.Mount("tmpfs", disk, "tmpfs", 0, "size=4m"); err != nil {
		t.Skipf("a small file system cannot be mounted here: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(disk, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	s := startServer(t, "COUNTERSIGN_DATA="+filepath.Join(disk, "data"))
	var kept []pushed
	for i := range 1000 {
		image, err := s.pushTiny(t, "full/app", fmt.Sprintf("v%d", i), fmt.Sprintf("%d %s", i, bulk[:5000]))
		if err != nil {
			break
		}
		kept = append(kept, image)
	}
	t.Logf("%d images had room", len(kept))
	if _, err := s.pushTiny(t, "full/app", "large", strings.Repeat(bulk, 500)); err == nil || !strings.Contains(err.Error(), "503") || !strings.Contains(err.Error(), "storage is full") {
		t.Errorf("a blob that is larger than the disk: %v", err)
	}
	for _, image := range kept {
		s.isServed(t, "full/app", image)
	}
	if status, _, answer := s.do(t, http.MethodGet, "/v2/full/app/manifests/large", nil, nil); status != http.StatusNotFound {
		t.Errorf("the tag of the refused push: %d %s", status, answer)
	}
	if err := syscall.Mount("tmpfs", disk, "tmpfs", syscall.MS_REMOUNT, "size=64m"); err != nil {
		t.Fatal(err)
	}
	image, err := s.pushTiny(t, "full/app", "large", strings.Repeat(bulk, 500))
	if err != nil {
		t.Fatalf("a push when there is room again: %v", err)
	}
	s.isServed(t, "full/app", image)
	s.versionsAreComplete(t, text(s.repository(t, "full/app")["pulp_href"]))
}

// TestUpstreamIsAway stops the upstream: content in the database is served, requests for content of the upstream get
// 503, and sign tasks work.
func TestUpstreamIsAway(t *testing.T) {
	t.Parallel()
	program, err := shared.peer()
	if err != nil {
		t.Fatal(err)
	}
	address, err := process.FreeAddress()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	command := process.Command{
		Program: program, Arguments: []string{"-addr", address, "-root", filepath.Join(dir, "root")},
		Env: environment(dir), Log: filepath.Join(dir, "log"), Ready: []string{"http://" + address + "/v2/"},
	}
	upstream, err := process.Start(t.Context(), command)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { upstream.Kill() })
	s := startServer(t, "COUNTERSIGN_UPSTREAM_URL=http://"+address)
	k := keyHome(t)
	k.generate(t, "ed25519", "")
	service := s.addKeyService(t, "here", k, "--openpgp-key", k.secret(t, ""))
	image, err := s.pushTiny(t, "away/app", "v1", "before")
	if err != nil {
		t.Fatal(err)
	}
	upstream.Kill()
	s.signed(t, text(s.repository(t, "away/app")["pulp_href"]), object{"manifest_signing_service": service})
	if wrong := s.seenSigned(t, publicKey(t, k), "away/app", "v1"); wrong != "" {
		t.Error(wrong)
	}
	if have := s.digest(t, "away/app", "v1"); have != image.name {
		t.Errorf("the tag is %s, want %s", have, image.name)
	}
	status, header, answer := s.do(t, http.MethodGet, "/v2/away/app/blobs/"+image.blobs[0], nil, nil)
	if status != http.StatusServiceUnavailable || header.Get("Retry-After") == "" || !strings.Contains(string(answer), "UNAVAILABLE") || strings.Contains(string(answer), address) {
		t.Errorf("a blob: %d %v %s", status, header, answer)
	}
	if _, err := s.pushTiny(t, "away/app", "v2", "without"); err == nil || !strings.Contains(err.Error(), "503") {
		t.Errorf("a push: %v", err)
	}
	if status, _, _ := s.do(t, http.MethodGet, apiRoot+"readyz/", nil, nil); status != http.StatusServiceUnavailable {
		t.Errorf("readyz: %d", status)
	}
	if upstream, err = process.Start(t.Context(), command); err != nil {
		t.Fatal(err)
	}
	s.isServed(t, "away/app", image)
	if image, err = s.pushTiny(t, "away/app", "v2", "without"); err != nil {
		t.Fatal(err)
	}
	s.isServed(t, "away/app", image)
}
