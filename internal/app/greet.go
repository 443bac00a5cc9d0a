package app

import (
	"fmt"
	"path/filepath"

	"github.com/countersign/countersign/config"
)

// greet writes the addresses, the place of the data, the login and the next steps. password is the generated password
// of admin, or "".
func (a *App) greet(g Greeting, password string) {
	c := a.config
	host := c.Public().Host
	login := "unchanged   (set a new one with reset-admin-password)"
	switch {
	case password != "":
		login = password + "   (shown only once; set a new one with reset-admin-password)"
	case c.AdminPassword != "":
		login = "value of COUNTERSIGN_ADMIN_PASSWORD"
	}
	blobs := c.Storage.Driver
	if c.UpstreamURL != "" {
		blobs = c.UpstreamURL
	}
	tlsVerify := ""
	if c.Public().Scheme == "http" {
		tlsVerify = " --tls-verify=false"
	}
	_, _ = fmt.Fprintf(g.Out, `Countersign %s
  listening on  %s   (clients use %s)
  data          %s   (blobs: %s)
  user          %s
  password      %s

Next:
  podman login%[8]s -u %[6]s %[3]s
  podman push%[8]s IMAGE %[3]s/team/app:1.0
  %[10]s add-signing-service NAME --openpgp-key FILE   (or: NAME SCRIPT KEYID)
  curl -u admin %[9]s/pulp/api/v3/repositories/container/container-push/
`, a.version, c.Listen, host, c.Data, blobs, AdminName, login, tlsVerify, c.Public(), a.commandLine(g))
}

// commandLine returns how the operator calls the program with the settings of this server.
func (a *App) commandLine(g Greeting) string {
	if g.SettingsFile != "" {
		return "COUNTERSIGN_CONFIG=" + g.SettingsFile + " " + g.Command
	}
	if data, err := filepath.Abs(config.Default().Data); err != nil || data != a.config.Data {
		return "COUNTERSIGN_DATA=" + a.config.Data + " " + g.Command
	}
	return g.Command
}
