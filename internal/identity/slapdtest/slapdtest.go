// Package slapdtest provides tests with an LDAP directory: OpenLDAP's slapd with a private directory on loopback ports.
package slapdtest

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/go-ldap/ldap/v3"

	"github.com/countersign/countersign/internal/eventually"
)

// The entries that every directory has. The service account may search; others may only bind.
const (
	Base            = "dc=example,dc=com"
	People          = "ou=people," + Base
	Groups          = "ou=groups," + Base
	Service         = "cn=registry," + Base
	ServicePassword = "service-password"

	root         = "cn=root," + Base
	rootPassword = "root-password"
)

// Server is a running slapd.
type Server struct {
	URL    string // ldap://127.0.0.1:PORT, with StartTLS
	TLSURL string // ldaps://127.0.0.1:PORT
	CAFile string // the certificate of the server

	program string
	dir     string
	command *exec.Cmd
	log     lockedBuffer
	marks   int      // requests of Log
	own     []string // connections of Log
}

// connectionForm is the number of a connection in the log.
var connectionForm = regexp.MustCompile(`conn=[0-9]+ `)

// lockedBuffer is a buffer that a process writes and a test reads.
type lockedBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

// Write implements io.Writer.
func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

// takeLines removes and returns the lines up to the first that contains mark. It removes nothing if none does.
func (b *lockedBuffer) takeLines(mark string) (lines string, found bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	at := bytes.Index(b.text.Bytes(), []byte(mark))
	if at < 0 {
		return "", false
	}
	end := bytes.IndexByte(b.text.Bytes()[at:], '\n')
	if end < 0 {
		return "", false
	}
	return string(b.text.Next(at + end + 1)), true
}

// Start starts a directory for a test and stops it when the test ends. It skips the test if slapd is not installed.
func Start(t testing.TB) *Server {
	t.Helper()
	program, schema, modules := installed()
	if program == "" {
		t.Skip("slapd is not installed; tools/install-test-tools.sh installs it")
	}
	dir := t.TempDir()
	plain, encrypted := freePorts(t)
	s := &Server{
		URL: "ldap://" + plain, TLSURL: "ldaps://" + encrypted,
		CAFile: filepath.Join(dir, "cert.pem"), program: program, dir: dir,
	}
	makeCertificate(t, s.CAFile, filepath.Join(dir, "key.pem"))
	must(t, os.Mkdir(filepath.Join(dir, "data"), 0o700))
	must(t, os.WriteFile(filepath.Join(dir, "slapd.conf"), []byte(configuration(dir, schema, modules)), 0o600))
	s.Run(t)
	t.Cleanup(s.Stop)
	s.Add(t, Base, "objectClass", "organization", "objectClass", "dcObject", "dc", "example", "o", "Example")
	s.Add(t, People, "objectClass", "organizationalUnit", "ou", "people")
	s.Add(t, Groups, "objectClass", "organizationalUnit", "ou", "groups")
	s.Add(t, Service, "objectClass", "organizationalRole", "objectClass", "simpleSecurityObject", "cn", "registry",
		"userPassword", ServicePassword)
	return s
}

// installed returns the program, the directory of its schemas and that of its modules, which may be "" if the program
// needs none.
func installed() (program, schema, modules string) {
	for _, name := range []string{"slapd", "/usr/sbin/slapd", "/usr/libexec/slapd"} {
		if path, err := exec.LookPath(name); err == nil {
			program = path
			break
		}
	}
	for _, dir := range []string{"/etc/ldap/schema", "/etc/openldap/schema"} {
		if _, err := os.Stat(filepath.Join(dir, "inetorgperson.schema")); err == nil {
			schema = dir
		}
	}
	for _, dir := range []string{"/usr/lib/ldap", "/usr/lib/openldap", "/usr/lib64/openldap"} {
		if found, _ := filepath.Glob(filepath.Join(dir, "back_mdb*")); len(found) > 0 {
			modules = dir
		}
	}
	if schema == "" {
		program = ""
	}
	return program, schema, modules
}

// configuration returns the text of slapd.conf.
func configuration(dir, schema, modules string) string {
	var lines []string
	for _, name := range []string{"core", "cosine", "inetorgperson"} {
		lines = append(lines, "include "+filepath.Join(schema, name+".schema"))
	}
	if modules != "" {
		lines = append(lines, "modulepath "+modules, "moduleload back_mdb")
	}
	lines = append(lines,
		"TLSCertificateFile "+filepath.Join(dir, "cert.pem"), "TLSCertificateKeyFile "+filepath.Join(dir, "key.pem"),
		"loglevel stats",
		// Without a password a bind succeeds as anonymous, as in many installations.
		"allow bind_anon_cred bind_anon_dn",
		"database mdb", "suffix "+quote(Base), "rootdn "+quote(root), "rootpw "+rootPassword,
		"directory "+filepath.Join(dir, "data"), "maxsize 67108864", "dbnosync",
		"access to attrs=userPassword by anonymous auth by * none",
		"access to * by dn.exact="+quote(Service)+" read by anonymous auth by * none",
		"")
	return strings.Join(lines, "\n")
}

func quote(text string) string { return `"` + text + `"` }

// Run starts the server, on the same ports and with the same data as before.
func (s *Server) Run(t testing.TB) {
	t.Helper()
	// With -d the server stays in the foreground and logs to standard error; 256 is "stats", one line for each request.
	s.command = exec.CommandContext(context.WithoutCancel(t.Context()), s.program, "-d", "256",
		"-f", filepath.Join(s.dir, "slapd.conf"), "-h", s.URL+"/ "+s.TLSURL+"/")
	s.command.Stderr = &s.log
	s.command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // do not outlive a test binary that is killed
	must(t, s.command.Start())
	eventually.True(t, 20*time.Second, func() bool {
		c, err := ldap.DialURL(s.URL)
		if err != nil {
			return false
		}
		_ = c.Close()
		return true
	}, "slapd does not accept connections")
}

// Stop stops the server.
func (s *Server) Stop() {
	if s.command == nil {
		return
	}
	_ = s.command.Process.Signal(syscall.SIGTERM)
	_ = s.command.Wait()
	s.command = nil
}

// Log returns the requests that the server received since the last call, one a line, without passwords. Responses that
// were sent just before the call may be missing.
func (s *Server) Log(t testing.TB) string {
	t.Helper()
	s.marks++
	mark := fmt.Sprintf("SRCH base=\"cn=mark%d\"", s.marks)
	c, err := ldap.DialURL(s.URL)
	must(t, err)
	defer func() { _ = c.Close() }()
	_, _ = c.Search(&ldap.SearchRequest{BaseDN: fmt.Sprintf("cn=mark%d", s.marks), Filter: "(objectClass=*)"})
	var text string
	eventually.True(t, 20*time.Second, func() bool {
		var found bool
		text, found = s.log.takeLines(mark)
		return found
	}, "slapd does not log the request with %s", mark)
	lines := slices.Collect(strings.Lines(text))
	s.own = append(s.own, connectionForm.FindString(lines[len(lines)-1]))
	return strings.Join(slices.DeleteFunc(lines, func(line string) bool {
		return slices.Contains(s.own, connectionForm.FindString(line))
	}), "")
}

// Add creates an entry. attributes are names and values in turn.
func (s *Server) Add(t testing.TB, dn string, attributes ...string) {
	t.Helper()
	request := ldap.NewAddRequest(dn, nil)
	values := map[string][]string{}
	var names []string
	for i := 0; i < len(attributes); i += 2 {
		if values[attributes[i]] == nil {
			names = append(names, attributes[i])
		}
		values[attributes[i]] = append(values[attributes[i]], attributes[i+1])
	}
	for _, name := range names {
		request.Attribute(name, values[name])
	}
	s.asRoot(t, func(c *ldap.Conn) error { return c.Add(request) })
}

// AddPerson creates a person with a uid and a password and returns the distinguished name.
func (s *Server) AddPerson(t testing.TB, uid, password string) string {
	t.Helper()
	dn := "uid=" + ldap.EscapeDN(uid) + "," + People
	s.Add(t, dn, "objectClass", "inetOrgPerson", "uid", uid, "cn", uid, "sn", "Person", "mail", "person@example.com",
		"userPassword", password)
	return dn
}

// AddGroup creates a group with members and returns the distinguished name.
func (s *Server) AddGroup(t testing.TB, cn string, members ...string) string {
	t.Helper()
	dn := "cn=" + ldap.EscapeDN(cn) + "," + Groups
	attributes := []string{"objectClass", "groupOfNames", "cn", cn}
	for _, member := range members {
		attributes = append(attributes, "member", member)
	}
	s.Add(t, dn, attributes...)
	return dn
}

// Replace sets the values of an attribute.
func (s *Server) Replace(t testing.TB, dn, attribute string, values ...string) {
	t.Helper()
	request := ldap.NewModifyRequest(dn, nil)
	request.Replace(attribute, values)
	s.asRoot(t, func(c *ldap.Conn) error { return c.Modify(request) })
}

// Delete deletes an entry.
func (s *Server) Delete(t testing.TB, dn string) {
	t.Helper()
	s.asRoot(t, func(c *ldap.Conn) error { return c.Del(ldap.NewDelRequest(dn, nil)) })
}

func (s *Server) asRoot(t testing.TB, change func(*ldap.Conn) error) {
	t.Helper()
	c, err := ldap.DialURL(s.URL)
	must(t, err)
	defer func() { _ = c.Close() }()
	must(t, c.Bind(root, rootPassword))
	must(t, change(c))
}

// makeCertificate writes a self-signed certificate for the loopback address and its key.
func makeCertificate(t testing.TB, certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "slapd"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		DNSNames: []string{"localhost"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	must(t, err)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	must(t, err)
	must(t, os.WriteFile(certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}), 0o600))
	must(t, os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600))
}

// freePorts returns two addresses at which nothing listens.
func freePorts(t testing.TB) (first, second string) {
	t.Helper()
	a, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	must(t, err)
	defer func() { _ = a.Close() }()
	b, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	must(t, err)
	defer func() { _ = b.Close() }()
	return a.Addr().String(), b.Addr().String()
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
