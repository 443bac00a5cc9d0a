// Command bench compares this registry with bare distribution. It builds both from this module and runs them on one
// machine. The rounds of the two alternate, so that other load on the machine affects both. It prints a table of
// medians.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/countersign/countersign/integration/process"
)

// options are the sizes of a run. A run with the defaults takes a few minutes.
type options struct {
	rounds  int           // of each measurement on each registry
	clients int           // concurrent
	pushes  int           // images per round
	reading time.Duration // duration of the manifest GETs of a round
	blob    int           // size of the big blob in MB
	deep    int           // number of the push that is compared with the first one
	window  int           // measured pushes around it
	images  int           // images of a synced repository
	tasks   int           // tasks per round
	old     int           // finished tasks in the database at the last measurement of tasks
	users   int           // in the database of the measurement of permissions, each with grants roles
	grants  int           // roles of each of these users
	rows    int           // content units and tasks in the database of the measurement of lists; a tenth as many repositories
	before  string        // program of an earlier version for the measurement of permissions; empty: none
	only    string        // names of parts, separated by commas; empty: all
	dir     string        // parent of the data directory; empty: the system's temporary directory
}

func main() {
	var o options
	flag.IntVar(&o.rounds, "rounds", 5, "rounds of each measurement on each registry")
	flag.IntVar(&o.clients, "clients", 8, "concurrent clients")
	flag.IntVar(&o.pushes, "pushes", 400, "images that are pushed per round")
	flag.DurationVar(&o.reading, "reading", 3*time.Second, "duration of the manifest GETs of a round")
	flag.IntVar(&o.blob, "blob", 200, "size of the big blob in MB")
	flag.IntVar(&o.deep, "deep", 5000, "number of the push to a repository that is compared with the first one")
	flag.IntVar(&o.window, "window", 100, "measured pushes around each of these two")
	flag.IntVar(&o.images, "images", 200, "images of a synced repository")
	flag.IntVar(&o.tasks, "tasks", 3000, "tasks that are dispatched per round")
	flag.IntVar(&o.old, "old", 1_000_000, "finished tasks in the database at the last measurement of tasks")
	flag.IntVar(&o.users, "users", 10_000, "users in the database of the measurement of permissions")
	flag.IntVar(&o.grants, "grants", 10, "roles of each of these users")
	flag.IntVar(&o.rows, "rows", 1_000_000, "content units, and tasks, in the database of the measurement of lists; a tenth as many repositories")
	flag.StringVar(&o.before, "before", "", "program of an earlier version that the measurement of permissions compares; default: none")
	flag.StringVar(&o.only, "only", "", "parts to run, separated by commas: registry,upstream,sync,tasks,signing,access,lists,depth; default: all")
	flag.StringVar(&o.dir, "dir", "", "parent of the data directory, which is deleted at the end; default: the system's temporary directory")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// run builds and starts both registries, runs the selected parts and prints their results.
func run(ctx context.Context, o options, out io.Writer) (err error) {
	dir, err := os.MkdirTemp(o.dir, "countersign-bench")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if err := os.WriteFile(filepath.Join(dir, "policy.json"), []byte(`{"default":[{"type":"insecureAcceptAnything"}]}`), 0o600); err != nil {
		return err
	}
	ours, stopOurs, err := startOurs(ctx, dir)
	if err != nil {
		return err
	}
	defer stopOurs()
	peer, stopPeer, err := startPeer(ctx, dir, "peer")
	if err != nil {
		return err
	}
	defer stopPeer()
	source, stopSource, err := startPeer(ctx, dir, "source")
	if err != nil {
		return err
	}
	defer stopSource()

	fmt.Fprintf(out, "%s, %d CPUs, load %s, data on %s; %d rounds of each, interleaved; %d clients; median (min..max)\n\n",
		runtime.Version(), runtime.NumCPU(), loadAverage(), filesystem(dir), o.rounds, o.clients)
	return runParts(o, []part{
		{"registry", func() error { return compareRegistries(ctx, o, out, ours, peer) }},
		{"upstream", func() error { return compareUpstream(ctx, o, out, dir) }},
		{"sync", func() error { return compareSyncs(ctx, o, out, ours, peer, source, dir) }},
		{"tasks", func() error { return compareTasks(ctx, o, out, dir) }},
		{"signing", func() error { return compareSigning(ctx, o, out, ours, dir) }},
		{"access", func() error { return compareAccess(ctx, o, out, dir) }},
		{"lists", func() error { return compareLists(ctx, o, out, dir) }},
		{"depth", func() error { return compareDepth(ctx, o, out, ours) }},
	})
}

// part is a group of measurements that can be selected.
type part struct {
	name string
	run  func() error
}

// runParts runs the parts that o selects.
func runParts(o options, parts []part) error {
	for _, p := range parts {
		if o.only != "" && !slices.Contains(strings.Split(o.only, ","), p.name) {
			continue
		}
		if err := p.run(); err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
	}
	return nil
}

func compareRegistries(ctx context.Context, o options, out io.Writer, ours, peer *registry) error {
	rows, err := compare(ctx, o, ours, peer)
	if err != nil {
		return err
	}
	return printTable(out, rows)
}

// compareDepth compares the duration of pushes to a repository with many versions and to one with few.
func compareDepth(ctx context.Context, o options, out io.Writer, ours *registry) error {
	first, deep, err := depth(ctx, o, ours)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, "\npush number 1 to a repository (%d around): %v; number %d: %v; ratio %.2f\n",
		o.window, median(first).Round(time.Microsecond), o.deep, median(deep).Round(time.Microsecond),
		float64(median(deep))/float64(median(first)))
	return err
}

const password = "bench-bench-bench"

// startOurs builds this registry and starts it with startProgram.
func startOurs(ctx context.Context, dir string, more ...string) (*registry, func(), error) {
	program, err := process.Build(ctx, dir, ".", "-trimpath")
	if err != nil {
		return nil, nil, err
	}
	return startProgram(ctx, program, dir, more...)
}

// startProgram starts this registry, or an earlier version of it, with its default settings and further variables in its
// environment.
func startProgram(ctx context.Context, program, dir string, more ...string) (*registry, func(), error) {
	address, err := process.FreeAddress()
	if err != nil {
		return nil, nil, err
	}
	_, port, _ := strings.Cut(address, ":")
	public := "localhost:" + port
	env := append([]string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "COUNTERSIGN_DATA=" + filepath.Join(dir, "data"), "COUNTERSIGN_LISTEN=" + address,
		"COUNTERSIGN_PUBLIC_URL=http://" + public, "COUNTERSIGN_ADMIN_PASSWORD=" + password,
		"COUNTERSIGN_MIRROR_ALLOW_PRIVATE_ADDRESSES=127.0.0.0/8", "SOFTHSM2_CONF=" + tokenConfig(dir),
	}, more...)
	server, err := process.Start(ctx, process.Command{
		Program: program, Arguments: []string{"serve"}, Log: filepath.Join(dir, "countersign.log"), Env: env,
		Ready: []string{"http://" + address + "/pulp/api/v3/readyz/"},
	})
	if err != nil {
		return nil, nil, err
	}
	r := &registry{name: "countersign", base: "http://" + address, service: public, user: "admin", password: password}
	r.cli = func(ctx context.Context, arguments ...string) error {
		command := exec.CommandContext(ctx, program, arguments...)
		command.Env = env
		if output, err := command.CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %.500s", arguments[0], err, output)
		}
		return nil
	}
	return r, func() {
		for _, f := range r.cleanup {
			f()
		}
		server.Kill()
	}, nil
}

// startPeer starts bare distribution without authentication. options are those of baredist.
func startPeer(ctx context.Context, dir, name string, options ...string) (*registry, func(), error) {
	program, err := process.Build(ctx, dir, "integration/baredist", "-trimpath")
	if err != nil {
		return nil, nil, err
	}
	address, err := process.FreeAddress()
	if err != nil {
		return nil, nil, err
	}
	server, err := process.Start(ctx, process.Command{
		Program: program, Arguments: append([]string{"-addr", address, "-root", filepath.Join(dir, name)}, options...),
		Log: filepath.Join(dir, name+".log"),
		Env: []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir}, Ready: []string{"http://" + address + "/v2/"},
	})
	if err != nil {
		return nil, nil, err
	}
	return &registry{name: "distribution", base: "http://" + address}, stop(server), nil
}

// stop returns a function that kills a server. Its data are deleted afterwards.
func stop(server *process.Server) func() { return server.Kill }

// loadAverage returns the load average of the last minute.
func loadAverage() string {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	one, _, _ := strings.Cut(string(text), " ")
	return one
}

// filesystem returns the type of the file system of a directory. It matters because fsync dominates a push.
func filesystem(dir string) string {
	var stat syscall.Statfs_t
	if err := syscall.Statfs(dir, &stat); err != nil {
		return "an unknown file system"
	}
	switch stat.Type {
	case 0xef53:
		return "ext4"
	case 0x01021994:
		return "tmpfs"
	case 0x58465342:
		return "xfs"
	case 0x9123683e:
		return "btrfs"
	case 0x794c7630:
		return "overlayfs"
	default:
		return fmt.Sprintf("file system %#x", stat.Type)
	}
}
