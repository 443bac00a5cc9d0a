package config

import (
	"fmt"
	"net"
)

// PlainHTTP returns the reason why clients would send passwords and tokens over the network in plain text, or "": the
// server speaks plain HTTP on an address that other hosts can reach, or tells clients to use http. With a public URL with
// https a proxy is expected to terminate TLS. The Config must come from Load.
func (c Config) PlainHTTP() string {
	public := c.Public()
	host, _, _ := net.SplitHostPort(c.Listen)
	switch {
	case public.Scheme == "http" && !isLoopback(public.Hostname()):
		return fmt.Sprintf("clients use plain HTTP for public_url (%s)", public)
	case public.Scheme == "http" && c.TLS.CertFile == "" && !isLoopback(host):
		return fmt.Sprintf("the server speaks plain HTTP on listen (%s), which other hosts can reach", c.Listen)
	}
	return ""
}
