package app

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store"
	"github.com/countersign/countersign/signing"
	"github.com/countersign/countersign/signing/openpgp"
	"github.com/countersign/countersign/signing/pkcs11"
	"github.com/countersign/countersign/signing/script"
)

// CommandError prints as Pulp's management command prints its failures: one line (contract 5.2).
type CommandError struct{ err error }

// Error returns the line.
func (e CommandError) Error() string {
	text := e.err.Error()
	if f, ok := errors.AsType[*fault.Error](e.err); ok && f.Kind != fault.Internal {
		text = f.Msg
	}
	return "CommandError: " + strings.Join(strings.Fields(text), " ")
}

// Unwrap returns the cause.
func (e CommandError) Unwrap() error { return e.err }

func command(err error) error {
	if err == nil {
		return nil
	}
	return CommandError{err}
}

type AddServiceCommand struct {
	Name       string `arg:"" help:"The service's name."`
	Script     string `arg:"" optional:"" help:"The signing script; none with --openpgp-key and --pkcs11-uri."`
	Key        string `arg:"" optional:"" help:"Key id or fingerprint of the key that the script signs with; needed with a script."`
	Class      string `default:"container:ManifestSigningService" help:"The kind of service; there is only ${default}." placeholder:"APP:MODEL"`
	Home       string `help:"GnuPG home directory of the script's key; the user's own when not given." placeholder:"DIR"`
	Gnupghome  string `help:"The same as --home." placeholder:"DIR"`
	Keyring    string `help:"Look the script's key up in this keyring file." placeholder:"FILE"`
	OpenPGPKey string `name:"openpgp-key" help:"Sign with the secret key in this file, without a script." placeholder:"FILE"`
	Passphrase string `name:"passphrase-file" help:"File with the passphrase of that key." placeholder:"FILE"`
	PKCS11URI  string `name:"pkcs11-uri" help:"Sign with the key in a token that this PKCS #11 URI (RFC 7512) names, without a script." placeholder:"URI"`
	PublicKey  string `help:"File with the OpenPGP public key, armored, of the token's key." placeholder:"FILE"`
	UserID     string `name:"user-id" help:"Make an OpenPGP public key of the token's key, for this user." placeholder:"'NAME <MAIL>'"`
}

// Help shows the ways to call it, which the parser's synopsis runs together.
func (AddServiceCommand) Help() string {
	return `One of these:

    add-signing-service NAME SCRIPT KEY [--home DIR] [--keyring FILE]
    add-signing-service NAME --openpgp-key FILE [--passphrase-file FILE]
    add-signing-service NAME --pkcs11-uri URI --public-key FILE
    add-signing-service NAME --pkcs11-uri URI --user-id 'NAME <MAIL>'

The service signs once, as a test, before it is kept. Settings are the server's: run it with the same configuration file and environment, as the same user. The server need not be stopped.`
}

// Run validates the service by having it sign, and keeps it (contract 5.2).
func (c AddServiceCommand) Run(p *Program) error { return command(c.add(p)) }

func (c AddServiceCommand) add(p *Program) error {
	if err := checkClass(c.Class); err != nil {
		return err
	}
	service, err := c.service(p)
	if err != nil {
		return err
	}
	service.Name, service.Class = c.Name, c.Class
	if err := p.validate(service); err != nil {
		return err
	}
	return p.withStore(func(s *store.Store) error {
		if _, err := s.AddSigningService(p.ctx, service); err != nil {
			return err
		}
		_, err := fmt.Fprintf(p.out, "Successfully added signing service %s for key %s.\n", c.Name, service.Fingerprint)
		return err
	})
}

// commandLineUser is who the audit names for what a verb does.
const commandLineUser = "command line"

// validate has a service sign once.
func (p *Program) validate(v pulp.SigningService) error {
	key, err := signing.ParsePublicKey(v.PublicKey)
	if err != nil {
		return err
	}
	signers := p.newSigners()
	signers.config.TokenWait = 0 // somebody is waiting
	signer, err := signers.signer(v)
	if err != nil {
		return err
	}
	err = signing.Validate(p.ctx, signer, key)
	result := slog.String("result", "done")
	if err != nil {
		result = slog.String("result", "failed")
	}
	p.log.InfoContext(p.ctx, "audit", slog.String("who", commandLineUser), slog.String("action", "sign"), slog.String("key", key.Fingerprint()),
		slog.String("reference", "test"), slog.String("service", v.Name), result)
	return err
}

// service returns what the arguments describe, by its kind.
func (c AddServiceCommand) service(p *Program) (pulp.SigningService, error) {
	switch {
	case c.PKCS11URI != "":
		return c.pkcs11Service(p)
	case c.PublicKey+c.UserID != "":
		return pulp.SigningService{}, fault.New(fault.Invalid, "--public-key and --user-id go with --pkcs11-uri.")
	case c.OpenPGPKey != "":
		return c.openPGPService(p)
	case c.Passphrase != "":
		return pulp.SigningService{}, fault.New(fault.Invalid, "--passphrase-file goes with --openpgp-key.")
	}
	return c.scriptService(p)
}

func (c AddServiceCommand) scriptService(p *Program) (pulp.SigningService, error) {
	none := pulp.SigningService{}
	if c.Script == "" || c.Key == "" {
		return none, fault.New(fault.Invalid, "Say a SCRIPT and its KEY, or --openpgp-key FILE, or --pkcs11-uri URI.")
	}
	if c.Home != "" && c.Gnupghome != "" {
		return none, fault.New(fault.Invalid, "--home and --gnupghome are mutually exclusive.")
	}
	home := c.Home + c.Gnupghome
	armored, fingerprint, err := script.LookupKey(p.ctx, script.KeyQuery{KeyID: c.Key, GnuPGHome: home, Keyring: c.Keyring})
	if err != nil {
		return none, err
	}
	path, err := script.Resolve(c.Script)
	if err != nil {
		return none, err
	}
	return pulp.SigningService{Kind: pulp.ServiceScript, Script: path, Fingerprint: fingerprint, PublicKey: armored, GnuPGHome: home}, nil
}

func (c AddServiceCommand) openPGPService(p *Program) (pulp.SigningService, error) {
	none := pulp.SigningService{}
	if c.Script+c.Key+c.Home+c.Gnupghome+c.Keyring != "" {
		return none, fault.New(fault.Invalid, "SCRIPT, KEY, --home, --gnupghome and --keyring do not go with --openpgp-key.")
	}
	// Links are kept as they are: where secrets are mounted, they lead elsewhere after each change.
	file, err := filepath.Abs(c.OpenPGPKey)
	if err != nil {
		return none, err
	}
	passphrase := ""
	if c.Passphrase != "" {
		if passphrase, err = filepath.Abs(c.Passphrase); err != nil {
			return none, err
		}
	}
	return p.openPGPService(pulp.ServiceConfig{KeyFile: file, PassphraseFile: passphrase})
}

// maxPublicKey bounds the file of a public key, in bytes.
const maxPublicKey = 1 << 20

// pkcs11Service returns the service of a key in a token, whose OpenPGP public key is read or made. It is made once and kept: its fingerprint
// depends on the time.
func (c AddServiceCommand) pkcs11Service(p *Program) (pulp.SigningService, error) {
	none := pulp.SigningService{}
	switch {
	case c.Script+c.Key+c.Home+c.Gnupghome+c.Keyring+c.OpenPGPKey+c.Passphrase != "":
		return none, fault.New(fault.Invalid, "SCRIPT, KEY, --home, --gnupghome, --keyring, --openpgp-key and --passphrase-file do not go with --pkcs11-uri.")
	case (c.PublicKey == "") == (c.UserID == ""):
		return none, fault.New(fault.Invalid, "With --pkcs11-uri say one of --public-key FILE, the OpenPGP key that there is, and --user-id 'NAME <MAIL>', to make one.")
	}
	var armored string
	var err error
	if c.PublicKey == "" {
		armored, err = pkcs11.NewPublicKey(p.ctx, c.PKCS11URI, c.UserID)
	} else {
		armored, err = readPublicKey(c.PublicKey)
	}
	if err != nil {
		return none, err
	}
	key, err := signing.ParsePublicKey(armored)
	if err != nil {
		return none, err
	}
	return pulp.SigningService{
		Kind: pulp.ServicePKCS11, Fingerprint: key.Fingerprint(), PublicKey: armored, Config: pulp.ServiceConfig{PKCS11URI: c.PKCS11URI},
	}, nil
}

func readPublicKey(name string) (string, error) {
	f, err := os.Open(name)
	if err != nil {
		return "", fault.Wrap(fault.Invalid, err, "The public key cannot be read: %v.", err)
	}
	defer func() { _ = f.Close() }()
	raw, err := io.ReadAll(io.LimitReader(f, maxPublicKey))
	if err != nil {
		return "", fault.Wrap(fault.Invalid, err, "The public key cannot be read: %v.", err)
	}
	return string(raw), nil
}

// openPGPService returns the service, without a name, of a key in a file.
func (p *Program) openPGPService(c pulp.ServiceConfig) (pulp.SigningService, error) {
	key, err := openpgp.Load(keyOptions(p.config.Data, p.creator(), c))
	if err != nil {
		return pulp.SigningService{}, err
	}
	return pulp.SigningService{Kind: pulp.ServiceOpenPGP, Fingerprint: key.Fingerprint(), PublicKey: key.PublicKey(), Config: c}, nil
}

// ensureService makes a signing service with a key of its own on a first start on SQLite, so that somebody new can sign at once: when there is no
// signing service yet and no admin, who is made after it. So a service that was removed does not come back. A start that is killed in
// between leaves a key without a service, which the next start takes.
func (p *Program) ensureService(s *store.Store) error {
	name := p.config.Signing.DefaultService
	if name == "" || store.IsPostgres(p.config.DatabaseURL) {
		return nil
	}
	if _, err := s.UserByName(p.ctx, adminName); !fault.Is(err, fault.NotFound) {
		return err
	}
	if services, err := s.SigningServices(p.ctx); err != nil || len(services) > 0 {
		return err
	}
	file, err := openpgp.Ensure(filepath.Join(p.config.Data, "keys"), "Countersign", "countersign@"+p.config.Public().Hostname())
	if err != nil {
		return err
	}
	if file, err = filepath.Rel(p.config.Data, file); err != nil {
		return err
	}
	service, err := p.openPGPService(pulp.ServiceConfig{KeyFile: file})
	if err != nil {
		return err
	}
	service.Name, service.Class = name, pulp.ManifestSigningService
	if err := p.validate(service); err != nil {
		return err
	}
	if _, err := s.AddSigningService(p.ctx, service); err != nil {
		return err
	}
	p.log.InfoContext(p.ctx, "made a signing service with a key of its own", slog.String("service", name), slog.String("key", service.Fingerprint))
	return nil
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

type RemoveServiceCommand struct {
	Name  string `arg:"" help:"The service's name."`
	Class string `default:"container:ManifestSigningService" help:"The kind of service; there is only ${default}." placeholder:"APP:MODEL"`
}

// Run removes the service.
func (c RemoveServiceCommand) Run(p *Program) error {
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

type ListServicesCommand struct{}

// Run prints the names, one a line.
func (ListServicesCommand) Run(p *Program) error {
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
