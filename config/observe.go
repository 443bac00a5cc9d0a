package config

import (
	"errors"
	"net"
	"strconv"
)

// Metrics contains settings of the listener for monitoring. See docs/metrics.md.
type Metrics struct {
	// Listen is the address, HOST:PORT, of /metrics, /livez and /readyz. Servers and workers listen there with plain HTTP.
	// Empty: they do not.
	Listen string `yaml:"listen" env:"LISTEN"`
	// TokenFile is a file whose first line is the bearer token that /metrics requires. It is read at each request. Empty:
	// everybody who reaches the address may read the metrics.
	TokenFile string `yaml:"token_file" env:"TOKEN_FILE"`
}

func (m Metrics) validate() error {
	return errors.Join(
		check(m.Listen == "" || isAddress(m.Listen), "metrics.listen: want host:port, got %q", m.Listen),
		check(m.TokenFile == "" || m.Listen != "", "metrics.token_file: set metrics.listen too"),
	)
}

// isAddress reports whether a text is HOST:PORT with a port number. The host may be empty.
func isAddress(text string) bool {
	_, port, err := net.SplitHostPort(text)
	if err != nil {
		return false
	}
	_, err = strconv.ParseUint(port, 10, 16)
	return err == nil
}
