package config

// Dangers returns the settings that permit more than most installations need. The Config must come from Load.
func (c Config) Dangers() []Warning {
	var found []Warning
	add := func(dangerous bool, setting, problem string) {
		if dangerous {
			found = append(found, Warning{Setting: setting, Problem: problem})
		}
	}
	plain := c.PlainHTTP()
	add(plain != "", "public_url", plain+": passwords and tokens are sent in plain text")
	add(c.AdminPassword != "", "admin_password", "the password of admin is in the configuration or in the environment, "+
		"and is set again at each start; change it with reset-admin-password and remove the setting")
	add(c.Upstream.InsecureSkipVerify, "upstream.insecure_skip_verify", "the certificate of the upstream is not verified: use upstream.ca_file")
	add(c.Signing.Use == UseRepositoryOwners, "signing.use", "owners of repositories may sign with every signing service")
	add(c.Signing.OnPushFailure == "accept", "signing.on_push_failure", "tags become visible unsigned while the key is unavailable")
	add(c.Mirror.AllowShrink, "mirror.allow_shrink", "an outage of a remote can empty mirrors")
	add(c.Mirror.SkipCorrupt, "mirror.skip_corrupt", "syncs skip corrupt images without failing")
	add(c.LDAP.URL != "" && !c.LDAP.StartTLS && !hasScheme(c.LDAP.URL, "ldaps") && !hasScheme(c.LDAP.URL, "ldapi"),
		"ldap.start_tls", "passwords are sent to the directory in plain text")
	for _, network := range c.Mirror.AllowPrivateAddresses {
		add(network == "0.0.0.0/0" || network == "::/0", "mirror.allow_private_addresses",
			network+" permits remotes on all addresses, also on the server's own services")
	}
	for _, proxy := range c.TrustedProxies {
		add(proxy == "0.0.0.0/0" || proxy == "::/0", "trusted_proxies", proxy+" lets every client choose its address in the audit log")
	}
	return found
}

// hasScheme reports whether a URL begins with a scheme.
func hasScheme(url, scheme string) bool {
	return len(url) > len(scheme) && url[:len(scheme)] == scheme && url[len(scheme)] == ':'
}
