package admin

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/countersign/countersign/internal/app"
	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/signers"
	"github.com/countersign/countersign/internal/store"
	"github.com/countersign/countersign/signing"
	"github.com/countersign/countersign/signing/pkcs11"
	"github.com/countersign/countersign/signing/script"
)

// NewService describes a signing service to add. The fields that are set select its kind: Script and Key, OpenPGPKey,
// or PKCS11URI.
type NewService struct {
	Name       string
	Script     string // path of the signing script
	Key        string // key id or fingerprint of the script's key
	Class      string // APP:MODEL, as Pulp names it
	Home       string // GnuPG home directory of the script's key
	Gnupghome  string // alternative to Home
	Keyring    string // file that contains the script's key
	OpenPGPKey string // file with a secret key
	Passphrase string // file with the passphrase of OpenPGPKey
	PKCS11URI  string // RFC 7512
	PublicKey  string // file with the OpenPGP public key of the token's key
	UserID     string // alternative to PublicKey: create one with this user id
}

// AddSigningService adds a signing service after a test signature. The arguments, messages and the form of errors are
// those of Pulp's command (compatibility.md#signing-services).
func (a *Admin) AddSigningService(ctx context.Context, n NewService) error {
	return commandError(a.add(ctx, n))
}

func (a *Admin) add(ctx context.Context, n NewService) error {
	if err := checkClass(n.Class); err != nil {
		return err
	}
	keys := a.app.Signers()
	service, err := n.service(ctx, keys)
	if err != nil {
		return err
	}
	service.Name, service.Class = n.Name, n.Class
	validate := func(ctx context.Context, entries *audit.Log) error { return keys.Validate(ctx, service, entries) }
	path, created := a.app.MissingDatabase()
	if created { // a failed test signature creates no database
		if err := a.app.WithAudit(ctx, nil, validate); err != nil {
			return err
		}
	}
	return a.app.WithStore(ctx, func(s *store.Store) error {
		err := a.app.WithAudit(ctx, s, func(ctx context.Context, entries *audit.Log) error {
			if !created {
				if err := validate(ctx, entries); err != nil {
					return err
				}
			}
			if _, err := s.Signatures.AddSigningService(ctx, service); err != nil {
				return err
			}
			app.RecordService(ctx, entries, "add signing service", service.Name, slog.String("key", service.Fingerprint))
			return nil
		})
		if err != nil {
			return err
		}
		if created {
			a.log.WarnContext(ctx, "created a new database for the service; if the server uses another one, "+
				"run this command again with COUNTERSIGN_DATA set to the data directory of the server",
				slog.String("database", path))
		}
		_, err = fmt.Fprintf(a.out, "Successfully added signing service %s for key %s.\n", n.Name, service.Fingerprint)
		return err
	})
}

// option is an argument or a flag of the command line.
type option struct{ name, value string }

// serviceKind is a kind of signing service with its options. The first option selects the kind.
type serviceKind struct {
	kind    pulp.ServiceKind
	options []option
}

// kinds returns all kinds of services with the values of their options. A service is of the last kind that is
// selected, and otherwise of the first.
func (n NewService) kinds() []serviceKind {
	return []serviceKind{
		{kind: pulp.ServiceScript, options: []option{
			{"SCRIPT", n.Script}, {"KEY", n.Key}, {"--home", n.Home}, {"--gnupghome", n.Gnupghome}, {"--keyring", n.Keyring},
		}},
		{kind: pulp.ServiceOpenPGP, options: []option{{"--openpgp-key", n.OpenPGPKey}, {"--passphrase-file", n.Passphrase}}},
		{kind: pulp.ServicePKCS11, options: []option{
			{"--pkcs11-uri", n.PKCS11URI}, {"--public-key", n.PublicKey}, {"--user-id", n.UserID},
		}},
	}
}

// kind returns the kind of the service. The error names the options of other kinds, if any of these are set.
func (n NewService) kind() (pulp.ServiceKind, error) {
	kinds, selected := n.kinds(), 0
	for i, k := range kinds {
		if k.options[0].value != "" {
			selected = i
		}
	}
	for _, k := range slices.Backward(kinds[selected+1:]) {
		if names, set := namesOf(k.options[1:]); set {
			verb := "require"
			if len(k.options) == 2 { // one besides the selecting option
				verb = "requires"
			}
			return "", fault.New(fault.Invalid, "%s %s %s.", names, verb, k.options[0].name)
		}
	}
	var others []option
	for _, k := range kinds[:selected] {
		others = append(others, k.options...)
	}
	if names, set := namesOf(others); set {
		return "", fault.New(fault.Invalid, "%s cannot be combined with %s.", names, kinds[selected].options[0].name)
	}
	return kinds[selected].kind, nil
}

// namesOf returns the names of options as text, and whether any of the options is set.
func namesOf(options []option) (names string, set bool) {
	for i, o := range options {
		switch i {
		case 0:
		case len(options) - 1:
			names += " and "
		default:
			names += ", "
		}
		names += o.name
		set = set || o.value != ""
	}
	return names, set
}

// service returns the described service without name and class.
func (n NewService) service(ctx context.Context, keys *signers.Signers) (pulp.SigningService, error) {
	kind, err := n.kind()
	switch {
	case err != nil:
		return pulp.SigningService{}, err
	case kind == pulp.ServicePKCS11:
		return n.pkcs11Service(ctx)
	case kind == pulp.ServiceOpenPGP:
		return n.openPGPService(keys)
	}
	return n.scriptService(ctx)
}

func (n NewService) scriptService(ctx context.Context) (pulp.SigningService, error) {
	none := pulp.SigningService{}
	if n.Script == "" || n.Key == "" {
		return none, fault.New(fault.Invalid, "Give a SCRIPT and its KEY, or --openpgp-key FILE, or --pkcs11-uri URI.")
	}
	if n.Home != "" && n.Gnupghome != "" {
		return none, fault.New(fault.Invalid, "--home and --gnupghome are mutually exclusive.")
	}
	home := n.Home + n.Gnupghome
	armored, fingerprint, err := script.LookupKey(ctx, script.KeyQuery{KeyID: n.Key, GnuPGHome: home, Keyring: n.Keyring})
	if err != nil {
		return none, err
	}
	path, err := script.Resolve(n.Script)
	if err != nil {
		return none, err
	}
	return pulp.SigningService{Kind: pulp.ServiceScript, Script: path, Fingerprint: fingerprint, PublicKey: armored, GnuPGHome: home}, nil
}

func (n NewService) openPGPService(keys *signers.Signers) (pulp.SigningService, error) {
	none := pulp.SigningService{}
	// Symbolic links are not resolved: mounted secrets change by changing the target of a link.
	file, err := filepath.Abs(n.OpenPGPKey)
	if err != nil {
		return none, err
	}
	passphrase := ""
	if n.Passphrase != "" {
		if passphrase, err = filepath.Abs(n.Passphrase); err != nil {
			return none, err
		}
	}
	return keys.OpenPGPService(pulp.ServiceConfig{KeyFile: file, PassphraseFile: passphrase})
}

// maxPublicKey is the maximum size of a public key file in bytes.
const maxPublicKey = 1 << 20

// pkcs11Service returns the service for a key in a token. It reads the OpenPGP public key from a file, or creates it.
// A created key is stored with the service, because its fingerprint depends on the time of creation.
func (n NewService) pkcs11Service(ctx context.Context) (pulp.SigningService, error) {
	none := pulp.SigningService{}
	if (n.PublicKey == "") == (n.UserID == "") {
		return none, fault.New(fault.Invalid,
			"With --pkcs11-uri give one of --public-key FILE, with an existing OpenPGP key, and --user-id 'NAME <MAIL>', to create one.")
	}
	var armored string
	var err error
	if n.PublicKey == "" {
		armored, err = pkcs11.NewPublicKey(ctx, n.PKCS11URI, n.UserID)
	} else {
		armored, err = readPublicKey(n.PublicKey)
	}
	if err != nil {
		return none, err
	}
	key, err := signing.ParsePublicKey(armored)
	if err != nil {
		return none, err
	}
	return pulp.SigningService{
		Kind: pulp.ServicePKCS11, Fingerprint: key.Fingerprint(), PublicKey: armored, Config: pulp.ServiceConfig{PKCS11URI: n.PKCS11URI},
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

// models lists model names of Pulp's apps, so that checkClass distinguishes wrong classes from unknown ones.
var models = map[string][]string{
	"container": {"Blob", "Manifest", "ManifestSignature", "Tag", "ContainerRepository", "ContainerPushRepository",
		"ContainerDistribution", "ContainerRemote", "ContainerNamespace"},
	"core": {"SigningService", "AsciiArmoredDetachedSigningService"},
}

// checkClass returns an error, with the text of Pulp's command, for a class that this server does not have.
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

// RemoveSigningService removes the signing service with a name and class. Its errors are in the form of Pulp's command.
func (a *Admin) RemoveSigningService(ctx context.Context, name, class string) error {
	if err := checkClass(class); err != nil {
		return commandError(err)
	}
	return commandError(a.change(ctx, func(ctx context.Context, s *store.Store, entries *audit.Log) error {
		if err := s.Signatures.RemoveSigningService(ctx, name, class); err != nil {
			return err
		}
		app.RecordService(ctx, entries, "remove signing service", name)
		_, err := fmt.Fprintf(a.out, "Signing service '%s' has been successfully removed.\n", name)
		return err
	}))
}

// ListSigningServices prints the names of the signing services, one per line.
func (a *Admin) ListSigningServices(ctx context.Context) error {
	return a.app.WithExistingStore(ctx, func(s *store.Store) error {
		services, err := s.Signatures.SigningServices(ctx)
		if err != nil {
			return err
		}
		for _, v := range services {
			if _, err := fmt.Fprintln(a.out, v.Name); err != nil {
				return err
			}
		}
		return nil
	})
}
