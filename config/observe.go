package config

import (
	"errors"
	"net"
	"net/url"
	"strconv"
	"strings"
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

// Tracing contains settings of OpenTelemetry traces. See docs/metrics.md.
type Tracing struct {
	// Endpoint is the URL of an OTLP receiver for HTTP, http(s)://HOST:PORT; spans are sent to /v1/traces there unless the URL
	// has a path. Empty: the standard variables OTEL_EXPORTER_OTLP_ENDPOINT and OTEL_EXPORTER_OTLP_TRACES_ENDPOINT name it;
	// without them there are no traces.
	Endpoint string `yaml:"endpoint" env:"ENDPOINT"`
	// SampleRatio is the share of traces that are recorded, from 0 to 1.
	SampleRatio float64 `yaml:"sample_ratio" env:"SAMPLE_RATIO"`
	// AcceptParent continues traces of clients, which then decide whether a request is recorded.
	AcceptParent bool `yaml:"accept_parent" env:"ACCEPT_PARENT"`
}

// tracesPath is the path of OTLP receivers for spans.
const tracesPath = "/v1/traces"

// complete derives the endpoint from the standard variables and completes its path.
func (t *Tracing) complete(vars map[string]string) error {
	if t.Endpoint == "" && vars["OTEL_SDK_DISABLED"] != "true" && vars["OTEL_TRACES_EXPORTER"] != "none" {
		t.Endpoint = vars["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"]
		if base := vars["OTEL_EXPORTER_OTLP_ENDPOINT"]; t.Endpoint == "" && base != "" {
			t.Endpoint = strings.TrimRight(base, "/") + tracesPath
		}
	}
	if t.Endpoint == "" {
		return nil
	}
	u, err := url.Parse(t.Endpoint)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || u.User != nil || u.RawQuery != "" || u.ForceQuery {
		// The value may contain a password.
		return errors.New("tracing.endpoint: want http(s)://HOST:PORT without a user, password or query; " +
			"OTEL_EXPORTER_OTLP_HEADERS can have credentials")
	}
	if strings.Trim(u.Path, "/") == "" {
		u.Path = tracesPath
	}
	t.Endpoint = u.String()
	return nil
}

func (t Tracing) validate() error {
	return check(t.SampleRatio >= 0 && t.SampleRatio <= 1, "tracing.sample_ratio: want 0 to 1, got %v", t.SampleRatio)
}
