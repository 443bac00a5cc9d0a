package main

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	"golang.org/x/sync/errgroup"
)

const (
	signTags    = 2000 // that a task with a key in the process signs
	scriptTags  = 150  // that a task with a script signs
	signTime    = 3 * time.Second
	signRepo    = "bench/sign"
	besideFirst = 200 // measured pushes without a concurrent task
)

// Default numbers of concurrent signatures by scripts and tokens, and by keys in the process.
var scriptParallel, keyParallel = max(4, 2*runtime.NumCPU()), max(1, runtime.NumCPU()-1)

// compareSigning compares sign tasks, from the request to the end, with signing by the key alone in as many
// goroutines. It also measures pushes to the same repository during a sign task.
func compareSigning(ctx context.Context, o options, out io.Writer, ours *registry, dir string) error {
	fmt.Fprintf(out, "\nsignatures per second: sign tasks, and the key (%d concurrent), the token or the script (%d concurrent) alone\n",
		keyParallel, scriptParallel)
	s, err := ours.open(ctx, o.clients, signRepo)
	if err != nil {
		return err
	}
	defer s.close()
	if _, err := s.pushMany(ctx, o.clients, signTags); err != nil {
		return err
	}
	repository, err := ours.find(ctx, "repositories/container/container-push/?name="+signRepo)
	if err != nil {
		return err
	}
	kinds, err := signKinds(ctx, out, ours, dir)
	if err != nil {
		return err
	}
	results, err := measureSigning(ctx, o, ours, repository, kinds)
	if err != nil {
		return err
	}
	for i, k := range kinds {
		r := results[i]
		fmt.Fprintf(out, "%26s  task %-26s alone %-26s ratio %.2f\n", k.name, spread(r.ours, "/s"), spread(r.peer, "/s"),
			median(r.ours)/median(r.peer))
	}
	if last := len(kinds) - 1; kinds[last].service == "script" {
		fmt.Fprintf(out, "Ed25519 in the process against the script: %.0f times\n", median(results[1].ours)/median(results[last].ours))
	}
	return pushesBeside(ctx, out, ours, s, repository)
}

// signKinds adds the signing services and returns the kinds of keys. It omits tokens and scripts without the programs
// that they require.
func signKinds(ctx context.Context, out io.Writer, ours *registry, dir string) ([]signKind, error) {
	all, some := tagNames(signTags), tagNames(scriptTags)
	rsaKey, rsaFile, err := makeKey(dir, packet.Config{Algorithm: packet.PubKeyAlgoRSA, RSABits: 2048})
	if err != nil {
		return nil, err
	}
	if err := ours.cli(ctx, "add-signing-service", "rsa", "--openpgp-key", rsaFile); err != nil {
		return nil, err
	}
	_, curve, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	digest := sha256.Sum256([]byte("x"))
	kinds := []signKind{
		{name: "RSA-2048 in the process", service: "rsa", tags: all, parallel: keyParallel, bare: func(context.Context) error {
			_, err := rsaKey.Sign(rand.Reader, digest[:], crypto.SHA256)
			return err
		}},
		{name: "Ed25519 in the process", service: "countersign", tags: all, parallel: keyParallel, bare: func(context.Context) error {
			_, err := curve.Sign(rand.Reader, digest[:], crypto.Hash(0))
			return err
		}},
	}
	if token, bare, err := ours.makeToken(ctx, dir); err != nil {
		fmt.Fprintln(out, "no token was measured:", err)
	} else {
		kinds = append(kinds, signKind{name: "RSA-2048 in SoftHSM", service: token, tags: all, bare: bare, parallel: scriptParallel})
	}
	if script, bare, err := ours.makeScript(ctx, dir); err != nil {
		fmt.Fprintln(out, "no script was measured:", err)
	} else {
		kinds = append(kinds, signKind{name: "the guide's script", service: script, tags: some, bare: bare, parallel: scriptParallel})
	}
	return kinds, nil
}

// measureSigning runs a sign task with each kind of key, and the key alone, in each round.
func measureSigning(ctx context.Context, o options, ours *registry, repository string, kinds []signKind) ([]row, error) {
	results := make([]row, len(kinds))
	for range o.rounds {
		for i, k := range kinds {
			service, err := ours.find(ctx, "signing-services/?name="+k.service)
			if err != nil {
				return nil, err
			}
			took, err := ours.task(ctx, repository+"sign/", map[string]any{
				"manifest_signing_service": service, "tags_list": k.tags, "force": true,
			})
			if err != nil {
				return nil, err
			}
			results[i].ours = append(results[i].ours, float64(len(k.tags))/took.Seconds())
			bare, err := rate(ctx, k.parallel, k.bare)
			if err != nil {
				return nil, err
			}
			results[i].peer = append(results[i].peer, bare)
		}
	}
	return results, nil
}

// signKind is a kind of key to measure.
type signKind struct {
	name, service string
	tags          []string
	bare          func(context.Context) error // makes a signature with the key alone
	parallel      int
}

// tagNames returns the tags of the first n images that pushMany pushes.
func tagNames(n int) []string {
	names := make([]string, n)
	for i := range names {
		names[i] = fmt.Sprintf("n%d", i)
	}
	return names
}

// tokenConfig returns the path of SoftHSM's configuration.
func tokenConfig(dir string) string { return filepath.Join(dir, "softhsm2.conf") }

// makeKey creates an OpenPGP key and returns it with the path of its file.
func makeKey(dir string, config packet.Config) (crypto.Signer, string, error) {
	config.Time = func() time.Time { return time.Now().Add(-time.Hour) }
	e, err := openpgp.NewEntity("bench", "", "bench@example.com", &config)
	if err != nil {
		return nil, "", err
	}
	e.Subkeys = nil
	path := filepath.Join(dir, "bench-key.asc")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, "", err
	}
	w, err := armor.Encode(f, openpgp.PrivateKeyType, nil)
	if err == nil {
		err = e.SerializePrivate(w, &config)
	}
	if err == nil {
		err = w.Close()
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return nil, "", err
	}
	key, ok := e.PrivateKey.PrivateKey.(*rsa.PrivateKey)
	if !ok {
		return nil, "", fmt.Errorf("the key is a %T", e.PrivateKey.PrivateKey)
	}
	return key, path, nil
}

// signScript is the script of the guide.
const signScript = `#!/usr/bin/env bash
skopeo standalone-sign "$1" "$REFERENCE" "$PULP_SIGNING_KEY_FINGERPRINT" --output "$SIG_PATH" >&2 &&
echo "{\"signature_path\": \"$SIG_PATH\"}"
`

// makeScript adds a signing service with the script of the guide and an RSA-2048 key of gpg. It returns the name of
// the service and a function that calls the script alone.
func (r *registry) makeScript(ctx context.Context, dir string) (string, func(context.Context) error, error) {
	for _, program := range []string{"gpg", "skopeo"} {
		if _, err := exec.LookPath(program); err != nil {
			return "", nil, err
		}
	}
	home, err := os.MkdirTemp("", "g") // the path of gpg-agent's socket must be short
	if err != nil {
		return "", nil, err
	}
	r.cleanup = append(r.cleanup, func() {
		_ = exec.Command("gpgconf", "--homedir", home, "--kill", "all").Run()
		_ = os.RemoveAll(home)
	})
	env := append(os.Environ(), "GNUPGHOME="+home)
	fingerprint, err := generateKey(ctx, env)
	if err != nil {
		return "", nil, err
	}
	script := filepath.Join(dir, "sign.sh")
	if err := os.WriteFile(script, []byte(signScript), 0o700); err != nil {
		return "", nil, err
	}
	if err := r.cli(ctx, "add-signing-service", "script", script, fingerprint, "--gnupghome", home); err != nil {
		return "", nil, err
	}
	manifest := filepath.Join(dir, "manifest.json")
	if err := os.WriteFile(manifest, []byte(`{"schemaVersion":2,"mediaType":"`+manifestType+`"}`), 0o600); err != nil {
		return "", nil, err
	}
	var calls atomic.Int64
	return "script", func(ctx context.Context) error {
		command := exec.CommandContext(ctx, script, manifest)
		command.Env = append(slices.Clone(env), "REFERENCE=localhost/a:1", "PULP_SIGNING_KEY_FINGERPRINT="+fingerprint,
			fmt.Sprintf("SIG_PATH=%s/bare-%d", dir, calls.Add(1)))
		return command.Run()
	}, nil
}

// generateKey creates an RSA-2048 key with gpg in the environment env and returns its fingerprint.
func generateKey(ctx context.Context, env []string) (fingerprint string, err error) {
	gpg := func(arguments ...string) (string, error) {
		command := exec.CommandContext(ctx, "gpg", append([]string{"--batch"}, arguments...)...)
		command.Env = env
		output, err := command.CombinedOutput()
		if err != nil {
			return "", fmt.Errorf("gpg: %w: %.300s", err, output)
		}
		return string(output), nil
	}
	if _, err := gpg("--passphrase", "", "--quick-generate-key", "bench <bench@example.com>", "rsa2048", "sign", "never"); err != nil {
		return "", err
	}
	listed, err := gpg("--with-colons", "--list-keys")
	if err != nil {
		return "", err
	}
	_, rest, _ := strings.Cut(listed, "\nfpr:")
	return strings.Trim(strings.SplitN(rest, "\n", 2)[0], ":"), nil
}

// rate calls f in parallel goroutines for signTime and returns the number of calls per second.
func rate(ctx context.Context, parallel int, f func(context.Context) error) (float64, error) {
	var calls atomic.Int64
	group, ctx := errgroup.WithContext(ctx)
	began := time.Now()
	for range parallel {
		group.Go(func() error {
			for time.Since(began) < signTime {
				if err := f(ctx); err != nil {
					return err
				}
				calls.Add(1)
			}
			return nil
		})
	}
	err := group.Wait()
	return float64(calls.Load()) / time.Since(began).Seconds(), err
}

// pushesBeside measures single pushes to a repository without other load and while a task signs all its tags.
func pushesBeside(ctx context.Context, out io.Writer, ours *registry, s *session, repository string) error {
	push := func(until func(n int) bool, name string) ([]time.Duration, error) {
		var took []time.Duration
		for n := 0; !until(n); n++ {
			began := time.Now()
			if err := s.pushTiny(ctx, fmt.Sprintf("%s%d", name, n)); err != nil {
				return nil, err
			}
			took = append(took, time.Since(began))
		}
		slices.Sort(took)
		return took, nil
	}
	idle, err := push(func(n int) bool { return n == besideFirst }, "idle")
	if err != nil {
		return err
	}
	service, err := ours.find(ctx, "signing-services/?name=rsa")
	if err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() {
		_, err := ours.task(ctx, repository+"sign/", map[string]any{
			"manifest_signing_service": service, "tags_list": tagNames(signTags), "force": true,
		})
		ended <- err
	}()
	var taskErr error
	beside, err := push(func(int) bool {
		select {
		case taskErr = <-ended:
			return true
		default:
			return false
		}
	}, "beside")
	if err != nil || taskErr != nil {
		return fmt.Errorf("pushes during a sign task: %w, %w", err, taskErr)
	}
	p := func(d []time.Duration, percent int) time.Duration {
		return d[len(d)*percent/100].Round(10 * time.Microsecond)
	}
	_, err = fmt.Fprintf(out, "a push alone: p50 %v, p99 %v; "+
		"during a task that signs the same repository (%d pushes): p50 %v, p99 %v; p99 ratio %.2f\n",
		p(idle, 50), p(idle, 99), len(beside), p(beside, 50), p(beside, 99), float64(p(beside, 99))/float64(p(idle, 99)))
	return err
}
