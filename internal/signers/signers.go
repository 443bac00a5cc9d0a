// Package signers creates the signers of signing services from the configuration of this process, and finds out which
// services it can use.
package signers

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/safefile"
	"github.com/countersign/countersign/signing"
	"github.com/countersign/countersign/signing/openpgp"
	"github.com/countersign/countersign/signing/pkcs11"
	"github.com/countersign/countersign/signing/script"
)

// Options are the settings of Signers. All are required.
type Options struct {
	// DataDir is the directory that relative paths of key files refer to.
	DataDir string
	// WorkDir is the parent of the directories in which signing scripts run.
	WorkDir string
	// ScriptTimeout limits one call of a signing script.
	ScriptTimeout time.Duration
	// TokenWait is the time that a signature waits for a PKCS #11 token that is unavailable.
	TokenWait time.Duration
	// Creator names the program and its version in signatures.
	Creator string
	Log     *slog.Logger
}

// Signers creates the signers of signing services. It is safe for concurrent use.
type Signers struct {
	options Options
	keys    openpgp.Cache
	slots   signing.Slots // for keys in this process: the CPU limits their signatures

	mu      sync.Mutex
	reasons map[string]string // by service id: why the service was unusable when it was last checked; empty if it was usable
}

// New returns Signers.
func New(o Options) *Signers {
	return &Signers{
		options: o, reasons: map[string]string{},
		slots: signing.NewSlots(runtime.NumCPU() - 1), // one CPU remains for the registry
	}
}

// Signer returns the signer of a service. The error is Invalid if the key or the program of the service is missing
// here or differs from the one that the service was created with.
func (s *Signers) Signer(v pulp.SigningService) (signing.Signer, error) {
	switch v.Kind {
	case pulp.ServiceScript:
		return script.New(script.Options{
			Path: v.Script, Fingerprint: v.Fingerprint, GnuPGHome: v.GnuPGHome, WorkDir: s.options.WorkDir, Timeout: s.options.ScriptTimeout,
		}), nil
	case pulp.ServiceOpenPGP:
		return s.openPGP(v)
	case pulp.ServicePKCS11:
		return s.pkcs11(v, s.options.TokenWait)
	}
	return nil, fault.New(fault.Invalid, "This program does not support signing services of the kind %s.", v.Kind)
}

// CheckUsable returns an error if this process cannot use a service. It does not sign.
func (s *Signers) CheckUsable(v pulp.SigningService) error {
	switch v.Kind {
	case pulp.ServiceScript:
		return checkScript(v)
	case pulp.ServicePKCS11:
		signer, err := s.pkcs11(v, s.options.TokenWait)
		if err != nil {
			return err
		}
		return signer.Usable()
	default:
		_, err := s.Signer(v)
		return err
	}
}

func (s *Signers) pkcs11(v pulp.SigningService, wait time.Duration) (*pkcs11.Signer, error) {
	return pkcs11.New(pkcs11.Options{URI: v.Config.PKCS11URI, PublicKey: v.PublicKey, Creator: s.options.Creator, Wait: wait})
}

func checkScript(v pulp.SigningService) error {
	info, err := os.Stat(v.Script)
	switch {
	case err != nil:
		return err
	case info.IsDir() || info.Mode()&0o111 == 0:
		return fmt.Errorf("%s is not executable", v.Script)
	case v.GnuPGHome != "":
		if _, err := os.Stat(v.GnuPGHome); err != nil {
			return err
		}
	}
	return safefile.CheckProgram(v.Script)
}

// openPGP returns the signer with the key file of a service. The key must be the one that the service was created with.
func (s *Signers) openPGP(v pulp.SigningService) (signing.Signer, error) {
	signer, err := s.keys.Load(s.keyOptions(v.Config))
	if err != nil {
		return nil, err
	}
	if got := signer.Fingerprint(); got != v.Fingerprint {
		return nil, fault.New(fault.Invalid, "The key file of signing service %s contains the key %s, but the service was created with %s.",
			v.Name, got, v.Fingerprint)
	}
	return s.slots.Limited(signer), nil
}

// keyOptions returns the options of a key file. Relative paths refer to the data directory, so that the default
// service's key moves with it.
func (s *Signers) keyOptions(c pulp.ServiceConfig) openpgp.Options {
	o := openpgp.Options{KeyFile: c.KeyFile, PassphraseFile: c.PassphraseFile, Creator: s.options.Creator}
	if !filepath.IsAbs(o.KeyFile) {
		o.KeyFile = filepath.Join(s.options.DataDir, o.KeyFile)
	}
	return o
}

// OpenPGPService returns a new signing service, without a name, for a key file. The error is Invalid if the file has
// no usable key.
func (s *Signers) OpenPGPService(c pulp.ServiceConfig) (pulp.SigningService, error) {
	key, err := openpgp.Load(s.keyOptions(c))
	if err != nil {
		return pulp.SigningService{}, err
	}
	return pulp.SigningService{Kind: pulp.ServiceOpenPGP, Fingerprint: key.Fingerprint(), PublicKey: key.PublicKey(), Config: c}, nil
}

// Validate verifies that a service signs: it makes one test signature and records it. It does not wait for an
// unavailable token.
func (s *Signers) Validate(ctx context.Context, v pulp.SigningService, entries *audit.Log) error {
	key, err := signing.ParsePublicKey(v.PublicKey)
	if err != nil {
		return err
	}
	signer, err := s.signerWithoutWait(v)
	if err != nil {
		return err
	}
	err = signing.Validate(ctx, signer, key)
	entry := audit.Entry{Action: audit.Sign, Object: "test", Result: audit.Done}
	details := []slog.Attr{slog.String("key", key.Fingerprint()), slog.String("service", v.Name)}
	if err != nil {
		entry.Result, details = audit.Failed, append(details, slog.Any("err", err))
	}
	entries.Record(ctx, entry, details...)
	return err
}

func (s *Signers) signerWithoutWait(v pulp.SigningService) (signing.Signer, error) {
	if v.Kind == pulp.ServicePKCS11 {
		return s.pkcs11(v, 0)
	}
	return s.Signer(v)
}

// Usable returns the subset of services that can sign in this process. It logs each change of a service's
// usability.
//
// Services with a key that is expired, or with a script that others can modify, are included: their tasks must fail
// with this reason instead of waiting for another process.
func (s *Signers) Usable(ctx context.Context, services []pulp.SigningService) []pulp.SigningService {
	usable := []pulp.SigningService{}
	for _, v := range services {
		err := s.CheckUsable(v)
		s.logChange(ctx, v, err)
		if err == nil || errors.Is(err, openpgp.ErrNotValid) || v.Kind == pulp.ServiceScript && errors.Is(err, safefile.ErrUnsafe) {
			usable = append(usable, v)
		}
	}
	return usable
}

// WarnOfScripts logs the services with a script that cannot be used. It serves processes without workers, which do not call
// Usable.
func (s *Signers) WarnOfScripts(ctx context.Context, services []pulp.SigningService) {
	for _, v := range services {
		if v.Kind == pulp.ServiceScript {
			s.logChange(ctx, v, checkScript(v))
		}
	}
}

// logChange logs the usability of a service if it differs from the last one. err is nil for a usable service.
func (s *Signers) logChange(ctx context.Context, v pulp.SigningService, err error) {
	reason := ""
	if err != nil {
		reason = err.Error()
	}
	s.mu.Lock()
	changed := s.reasons[v.ID] != reason
	s.reasons[v.ID] = reason
	s.mu.Unlock()
	switch {
	case !changed:
	case err != nil:
		s.options.Log.WarnContext(ctx, "this process cannot use a signing service", slog.String("service", v.Name), slog.Any("err", err))
	default:
		s.options.Log.InfoContext(ctx, "this process can use a signing service again", slog.String("service", v.Name))
	}
}
