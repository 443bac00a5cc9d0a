// Package pgtest provides each test with a PostgreSQL database if COUNTERSIGN_TEST_DATABASE requests it. The
// tests of one binary share a server that pgtest starts.
package pgtest

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib" // registers the driver
)

// Variable is the environment variable that chooses the engine: empty or "sqlite", or "postgres".
const Variable = "COUNTERSIGN_TEST_DATABASE"

// server is a PostgreSQL server of one test binary.
type server struct {
	dir     string
	url     string // without a database
	command *exec.Cmd
	admin   *sql.DB

	program    string
	arguments  []string
	attributes *syscall.SysProcAttr
	made       atomic.Int64

	template    sync.Once
	templateErr error
}

var shared struct {
	once sync.Once
	s    *server
	err  error
}

// Main runs a package's tests and stops the server, if one was started. TestMain exits with its result.
func Main(m *testing.M) int {
	code := m.Run()
	if shared.s != nil {
		shared.s.stop()
	}
	return code
}

// URL returns the URL of a new database for a test, or "" if COUNTERSIGN_TEST_DATABASE selects SQLite.
func URL(t testing.TB) string {
	t.Helper()
	if !Selected(t) {
		return ""
	}
	return Database(t)
}

// Selected reports whether COUNTERSIGN_TEST_DATABASE selects PostgreSQL.
func Selected(t testing.TB) bool {
	t.Helper()
	engine := os.Getenv(Variable)
	switch engine {
	case "", "sqlite", "postgres":
	default:
		t.Fatalf("%s: want sqlite or postgres, got %q", Variable, engine)
	}
	return engine == "postgres"
}

// Or returns the URL of a new PostgreSQL database if COUNTERSIGN_TEST_DATABASE requests one, else the URL of
// the SQLite file at path.
func Or(t testing.TB, path string) string {
	t.Helper()
	if url := URL(t); url != "" {
		return url
	}
	return "sqlite:" + path
}

// available reports whether PostgreSQL is installed.
func available() bool {
	_, err := programs()
	return err == nil
}

// Database returns the URL of a new, empty PostgreSQL database for a test. It skips the test if PostgreSQL is not
// installed.
func Database(t testing.TB) string {
	t.Helper()
	return running(t).database(t, "template1")
}

// templateName is the name of the database that Copy copies.
const templateName = "prepared"

// Copy returns the URL of a new PostgreSQL database for a test: a copy of one that the first call of the test binary
// creates and passes to prepare, which must close its connections. It skips the test if PostgreSQL is not installed.
func Copy(t testing.TB, prepare func(url string) error) string {
	t.Helper()
	s := running(t)
	s.template.Do(func() {
		_, s.templateErr = s.admin.ExecContext(context.WithoutCancel(t.Context()), "CREATE DATABASE "+templateName)
		if s.templateErr == nil {
			s.templateErr = prepare(s.urlOf(templateName))
		}
	})
	if s.templateErr != nil {
		t.Fatalf("PostgreSQL: prepare a database: %v", s.templateErr)
	}
	return s.database(t, templateName)
}

// running returns the server that the tests share. It skips the test if PostgreSQL is not installed.
func running(t testing.TB) *server {
	t.Helper()
	if !available() {
		t.Skip("PostgreSQL is not installed; tools/install-test-tools.sh says how to get it")
	}
	shared.once.Do(func() { shared.s, shared.err = start("fsync=off", "full_page_writes=off", "synchronous_commit=off") })
	if shared.err != nil {
		t.Fatalf("PostgreSQL: %v", shared.err)
	}
	return shared.s
}

// database creates a copy of a database and returns its URL. The end of the test deletes it.
func (s *server) database(t testing.TB, template string) string {
	t.Helper()
	name := fmt.Sprintf("t%d", s.made.Add(1))
	if _, err := s.admin.ExecContext(context.WithoutCancel(t.Context()), "CREATE DATABASE "+name+" TEMPLATE "+template); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := s.admin.ExecContext(context.WithoutCancel(t.Context()), "DROP DATABASE "+name+" WITH (FORCE)"); err != nil {
			t.Error(err)
		}
	})
	return s.urlOf(name)
}

// urlOf returns the URL of a database.
func (s *server) urlOf(name string) string { return s.url + "/" + name + "?sslmode=disable" }

// Durable starts a server with the durability settings of production, for measurements. It returns the URL of
// its database and a function that stops the server.
func Durable() (url string, stop func(), err error) {
	s, err := start()
	if err != nil {
		return "", nil, err
	}
	return s.url + "/postgres?sslmode=disable", s.stop, nil
}

// programs returns the directory of PostgreSQL's programs, which Debian does not add to PATH.
func programs() (string, error) {
	if path, err := exec.LookPath("postgres"); err == nil {
		return filepath.Dir(path), nil
	}
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/postgres")
	if err != nil || len(found) == 0 {
		return "", errors.New("PostgreSQL is not installed")
	}
	slices.Sort(found)
	return filepath.Dir(found[len(found)-1]), nil
}

// start creates a cluster in a temporary directory and starts it on a free loopback port. PostgreSQL refuses to
// run as root: then it runs as the user postgres.
func start(settings ...string) (*server, error) {
	bin, err := programs()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "pg")
	if err != nil {
		return nil, err
	}
	s := &server{dir: dir}
	attributes, err := s.own()
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	data := filepath.Join(dir, "data")
	ctx := context.Background() //nolint:forbidigo // the server is all tests', and ends with the test binary
	initdb := exec.CommandContext(ctx, filepath.Join(bin, "initdb"), "-D", data, "-U", "tester", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync")
	initdb.SysProcAttr, initdb.Dir = attributes, dir
	if said, err := initdb.CombinedOutput(); err != nil {
		return nil, errors.Join(fmt.Errorf("initdb: %w: %s", err, said), os.RemoveAll(dir))
	}
	port, err := freePort()
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	s.arguments = []string{"-D", data, "-p", strconv.Itoa(port), "-h", "127.0.0.1", "-k", dir, "-c", "max_connections=400"}
	for _, setting := range settings {
		s.arguments = append(s.arguments, "-c", setting)
	}
	dying := *attributes
	dying.Pdeathsig = syscall.SIGQUIT // do not outlive a test binary that is killed
	s.program, s.attributes = filepath.Join(bin, "postgres"), &dying
	s.url = fmt.Sprintf("postgres://tester@127.0.0.1:%d", port)
	if s.admin, err = sql.Open("pgx", s.url+"/postgres?sslmode=disable"); err != nil {
		return nil, err
	}
	if err := s.launch(ctx); err != nil {
		s.stop()
		return nil, err
	}
	return s, nil
}

// launch starts the server's process and waits until it accepts connections.
func (s *server) launch(ctx context.Context) error {
	s.command = exec.CommandContext(ctx, s.program, s.arguments...)
	s.command.SysProcAttr, s.command.Dir = s.attributes, s.dir
	err := s.command.Start()
	for range 200 {
		if err != nil {
			return err
		}
		if err := s.admin.PingContext(ctx); err == nil {
			return nil
		}
		time.Sleep(50 * time.Millisecond)
	}
	return errors.New("the server does not accept connections")
}

// Own is a PostgreSQL server of a single test, which may stop and restart it.
type Own struct{ s *server }

// NewOwn starts a server for one test and stops it when the test ends. It skips the test if PostgreSQL is not
// installed.
func NewOwn(t testing.TB) Own {
	t.Helper()
	if !available() {
		t.Skip("PostgreSQL is not installed; tools/install-test-tools.sh says how to get it")
	}
	s, err := start("fsync=off") // the tests kill the process, not the machine, so nothing is lost without fsync
	if err != nil {
		t.Fatalf("PostgreSQL: %v", err)
	}
	t.Cleanup(s.stop)
	return Own{s}
}

// URL returns the URL of the server's database.
func (o Own) URL() string { return o.s.url + "/postgres?sslmode=disable" }

// Kill ends the server immediately, like a crash.
func (o Own) Kill() {
	_ = o.s.command.Process.Signal(syscall.SIGQUIT)
	_ = o.s.command.Wait()
}

// Start starts the server again with its data.
func (o Own) Start(t testing.TB) {
	t.Helper()
	if err := o.s.launch(context.WithoutCancel(t.Context())); err != nil {
		t.Fatalf("PostgreSQL: %v", err)
	}
}

// own changes the owner of the directory to the user that the server runs as, and returns the attributes of its
// process.
func (s *server) own() (*syscall.SysProcAttr, error) {
	if os.Geteuid() != 0 {
		return &syscall.SysProcAttr{}, nil
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		return nil, err
	}
	uid, err := strconv.Atoi(u.Uid)
	if err != nil {
		return nil, err
	}
	gid, err := strconv.Atoi(u.Gid)
	if err != nil {
		return nil, err
	}
	return &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}, os.Chown(s.dir, uid, gid)
}

func (s *server) stop() {
	if s.admin != nil {
		_ = s.admin.Close()
	}
	_ = s.command.Process.Signal(syscall.SIGQUIT)
	_ = s.command.Wait()
	_ = os.RemoveAll(s.dir)
}

func freePort() (int, error) {
	l, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", "127.0.0.1:0") //nolint:forbidigo // as above
	if err != nil {
		return 0, err
	}
	defer func() { _ = l.Close() }()
	return l.Addr().(*net.TCPAddr).Port, nil
}
