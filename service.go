package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store"
	"github.com/countersign/countersign/signing"
	"github.com/countersign/countersign/signing/script"
)

// commandError prints as Pulp's management command prints its failures: one line (contract 5.2).
type commandError struct{ err error }

// Error returns the line.
func (e commandError) Error() string {
	text := e.err.Error()
	if f, ok := errors.AsType[*fault.Error](e.err); ok && f.Kind != fault.Internal {
		text = f.Msg
	}
	return "CommandError: " + strings.Join(strings.Fields(text), " ")
}

// Unwrap returns the cause.
func (e commandError) Unwrap() error { return e.err }

func command(err error) error {
	if err == nil {
		return nil
	}
	return commandError{err}
}

type addServiceCommand struct {
	Name      string `arg:"" help:"The service's name."`
	Script    string `arg:"" help:"The signing script."`
	Key       string `arg:"" help:"Key id or fingerprint of the key that the script signs with."`
	Class     string `default:"container:ManifestSigningService" help:"The kind of service." placeholder:"APP:MODEL"`
	Home      string `help:"GnuPG home directory of the key; the user's own when not given." placeholder:"DIR"`
	Gnupghome string `help:"The same as --home." placeholder:"DIR"`
	Keyring   string `help:"Look the key up in this keyring file." placeholder:"FILE"`
}

// Run validates the service by having it sign, and keeps it (contract 5.2).
func (c addServiceCommand) Run(p *program) error { return command(c.add(p)) }

func (c addServiceCommand) add(p *program) error {
	if err := checkClass(c.Class); err != nil {
		return err
	}
	if c.Home != "" && c.Gnupghome != "" {
		return fault.New(fault.Invalid, "--home and --gnupghome are mutually exclusive.")
	}
	home := c.Home + c.Gnupghome
	armored, fingerprint, err := script.LookupKey(p.ctx, script.KeyQuery{KeyID: c.Key, GnuPGHome: home, Keyring: c.Keyring})
	if err != nil {
		return err
	}
	path, err := script.Resolve(c.Script)
	if err != nil {
		return err
	}
	key, err := signing.ParsePublicKey(armored)
	if err != nil {
		return err
	}
	service := pulp.SigningService{
		Name: c.Name, Class: c.Class, Kind: pulp.ServiceScript, Script: path, Fingerprint: fingerprint, PublicKey: armored, GnuPGHome: home,
	}
	if err := script.Validate(p.ctx, p.scriptSigner(service), key); err != nil {
		return err
	}
	return p.withStore(func(s *store.Store) error {
		if _, err := s.AddSigningService(p.ctx, service); err != nil {
			return err
		}
		_, err := fmt.Fprintf(p.out, "Successfully added signing service %s for key %s.\n", c.Name, fingerprint)
		return err
	})
}

func (p *program) scriptSigner(v pulp.SigningService) *script.Signer {
	return script.New(script.Options{
		Path: v.Script, Fingerprint: v.Fingerprint, GnuPGHome: v.GnuPGHome,
		WorkDir: p.config.Signing.WorkDir, Timeout: p.config.Signing.ScriptTimeout,
	})
}

// models are the model names of the apps that Pulp's users know, to tell a wrong class from a misspelt one.
var models = map[string][]string{
	"container": {"Blob", "Manifest", "ManifestSignature", "Tag", "ContainerRepository", "ContainerPushRepository", "ContainerDistribution", "ContainerRemote", "ContainerNamespace"},
	"core":      {"SigningService", "AsciiArmoredDetachedSigningService"},
}

// checkClass sees that a class is the one that this server has, with Pulp's words where it is not.
func checkClass(class string) error {
	if class == pulp.ManifestSigningService {
		return nil
	}
	app, model, ok := strings.Cut(class, ":")
	if !ok {
		return fault.New(fault.Invalid, "The signing service class was not provided in a proper format.")
	}
	known, ok := models[app]
	if !ok {
		return fault.New(fault.Invalid, "No installed app with label '%s'.", app)
	}
	for _, m := range known {
		if m != model {
			continue
		}
		if app == "core" {
			return fault.New(fault.Invalid, "This server signs container manifests only; use --class %s.", pulp.ManifestSigningService)
		}
		return fault.New(fault.Invalid, "Class '%s' is not a subclass of the base 'core:SigningService' class.", class)
	}
	return fault.New(fault.Invalid, "App '%s' doesn't have a '%s' model.", app, model)
}

type removeServiceCommand struct {
	Name  string `arg:"" help:"The service's name."`
	Class string `default:"container:ManifestSigningService" help:"The kind of service." placeholder:"APP:MODEL"`
}

// Run removes the service.
func (c removeServiceCommand) Run(p *program) error {
	if err := checkClass(c.Class); err != nil {
		return command(err)
	}
	return command(p.withExisting(func(s *store.Store) error {
		if err := s.RemoveSigningService(p.ctx, c.Name, c.Class); err != nil {
			return err
		}
		_, err := fmt.Fprintf(p.out, "Signing service '%s' has been successfully removed.\n", c.Name)
		return err
	}))
}

type listServicesCommand struct{}

// Run prints the names, one a line.
func (listServicesCommand) Run(p *program) error {
	return p.withExisting(func(s *store.Store) error {
		services, err := s.SigningServices(p.ctx)
		for _, v := range services {
			if _, err := fmt.Fprintln(p.out, v.Name); err != nil {
				return err
			}
		}
		return err
	})
}

// usable returns the signing services that this process can use: those whose script is here and may be run.
func usable(ctx context.Context, s *store.Store) ([]pulp.SigningService, error) {
	all, err := s.SigningServices(ctx)
	if err != nil {
		return nil, err
	}
	found := []pulp.SigningService{}
	for _, v := range all {
		if info, err := os.Stat(v.Script); err != nil || info.IsDir() || info.Mode()&0o111 == 0 {
			continue
		}
		if v.GnuPGHome != "" {
			if _, err := os.Stat(v.GnuPGHome); err != nil {
				continue
			}
		}
		found = append(found, v)
	}
	return found, nil
}
