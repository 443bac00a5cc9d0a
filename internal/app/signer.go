package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"sync"

	"github.com/countersign/countersign/config"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/safefile"
	"github.com/countersign/countersign/internal/store"
	"github.com/countersign/countersign/signing"
	"github.com/countersign/countersign/signing/openpgp"
	"github.com/countersign/countersign/signing/pkcs11"
	"github.com/countersign/countersign/signing/script"
)

// signers makes the signers of signing services, and knows which services this process can use. It is safe for concurrent use.
type signers struct {
	config  config.Signing
	data    string // the data directory
	creator string // of signatures: the program and its version
	log     *slog.Logger
	keys    openpgp.Cache
	slots   signing.Slots // of keys in the process: their work is arithmetic, and more of it at a time than processors is of no use

	mu   sync.Mutex
	said map[string]string // by a service's id: why it could not be used when it was last looked at
}

func (p *Program) newSigners() *signers {
	return &signers{
		config: p.config.Signing, data: p.config.Data, creator: p.creator(), log: p.log, said: map[string]string{},
		slots: signing.NewSlots(runtime.NumCPU() - 1), // one processor is left to the registry
	}
}

// signer returns the signer of a service. Invalid when what it signs with is not here, or is not what the service was made of.
func (s *signers) signer(v pulp.SigningService) (signing.Signer, error) {
	switch v.Kind {
	case pulp.ServiceScript:
		return script.New(script.Options{
			Path: v.Script, Fingerprint: v.Fingerprint, GnuPGHome: v.GnuPGHome, WorkDir: s.config.WorkDir, Timeout: s.config.ScriptTimeout,
		}), nil
	case pulp.ServiceOpenPGP:
		return s.openPGP(v)
	case pulp.ServicePKCS11:
		return s.pkcs11(v)
	}
	return nil, fault.New(fault.Invalid, "This program knows no signing services of the kind %s.", v.Kind)
}

// usable says why a service cannot be used here; nil when it can. It is asked once a second, and signs nothing.
func (s *signers) usable(v pulp.SigningService) error {
	switch v.Kind {
	case pulp.ServiceScript:
		return usableScript(v)
	case pulp.ServicePKCS11:
		signer, err := s.pkcs11(v)
		if err != nil {
			return err
		}
		return signer.Usable()
	default:
		_, err := s.signer(v)
		return err
	}
}

// pkcs11 returns the signer with a service's key in a token.
func (s *signers) pkcs11(v pulp.SigningService) (*pkcs11.Signer, error) {
	return pkcs11.New(pkcs11.Options{URI: v.Config.PKCS11URI, PublicKey: v.PublicKey, Creator: s.creator, Wait: s.config.TokenWait})
}

func usableScript(v pulp.SigningService) error {
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

// openPGP returns the signer with a service's key file, whose key must still be the service's.
func (s *signers) openPGP(v pulp.SigningService) (signing.Signer, error) {
	signer, err := s.keys.Load(keyOptions(s.data, s.creator, v.Config))
	if err != nil {
		return nil, err
	}
	if got := signer.Fingerprint(); got != v.Fingerprint {
		return nil, fault.New(fault.Invalid, "The key file of signing service %s holds the key %s, and the service was made with %s.", v.Name, got, v.Fingerprint)
	}
	return s.slots.Limited(signer), nil
}

// keyOptions says which key a service has. The one that a first start makes moves with the data directory.
func keyOptions(data, creator string, c pulp.ServiceConfig) openpgp.Options {
	o := openpgp.Options{KeyFile: c.KeyFile, PassphraseFile: c.PassphraseFile, Creator: creator}
	if !filepath.IsAbs(o.KeyFile) {
		o.KeyFile = filepath.Join(data, o.KeyFile)
	}
	return o
}

// all returns the services that this process can use. Why it cannot use one it says once, and again when the reason changes.
func (s *signers) all(ctx context.Context, db *store.Store) ([]pulp.SigningService, error) {
	services, err := db.SigningServices(ctx)
	if err != nil {
		return nil, err
	}
	found := []pulp.SigningService{}
	for _, v := range services {
		err := s.usable(v)
		s.tell(ctx, v, err)
		// Tasks for a key that is here and has expired, or for a script that others may change, shall fail and say so, not wait.
		if err == nil || errors.Is(err, openpgp.ErrNotValid) || v.Kind == pulp.ServiceScript && errors.Is(err, safefile.ErrUnsafe) {
			found = append(found, v)
		}
	}
	return found, nil
}

// warnOfScripts warns of the scripts that cannot be used, also in a process that runs no workers.
func (s *signers) warnOfScripts(ctx context.Context, db *store.Store) error {
	services, err := db.SigningServices(ctx)
	if err != nil {
		return err
	}
	for _, v := range services {
		if v.Kind == pulp.ServiceScript {
			s.tell(ctx, v, usableScript(v))
		}
	}
	return nil
}

func (s *signers) tell(ctx context.Context, v pulp.SigningService, err error) {
	why := ""
	if err != nil {
		why = err.Error()
	}
	s.mu.Lock()
	changed := s.said[v.ID] != why
	s.said[v.ID] = why
	s.mu.Unlock()
	switch {
	case !changed:
	case err != nil:
		s.log.WarnContext(ctx, "this process cannot use a signing service", slog.String("service", v.Name), slog.Any("err", err))
	default:
		s.log.InfoContext(ctx, "this process can use a signing service again", slog.String("service", v.Name))
	}
}
