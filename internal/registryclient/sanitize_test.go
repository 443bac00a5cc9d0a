package registryclient

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"testing"
)

func TestSanitized(t *testing.T) {
	t.Parallel()
	location := `failed to parse Location header "https://robot:hunter2@cdn.example/x?X-Amz-Signature=hunter2": bad`
	for name, c := range map[string]struct {
		err  error
		want string
	}{
		"a URL":      {&url.Error{Op: "Get", URL: "https://cdn.example/x?sig=hunter2", Err: errors.New("EOF")}, "EOF"},
		"a location": {&url.Error{Op: "Get", URL: "https://h/", Err: errors.New(location)}, `failed to parse Location header "https:cdn.example/x": bad`},
		"addresses of ours": {
			&net.OpError{Op: "read", Net: "tcp", Source: &net.TCPAddr{IP: net.IPv4(172, 17, 0, 2), Port: 5}, Addr: &net.TCPAddr{IP: net.IPv4(8, 8, 8, 8), Port: 443}, Err: errors.New("reset")},
			"read 8.8.8.8:443: reset",
		},
		"our resolver": {&net.DNSError{Name: "registry.example", Server: "10.0.0.2:53", Err: "no such host"}, "lookup registry.example: no such host"},
		"control":      {errors.New("a\nb\xff"), "a b\ufffd"},
		"long":         {errors.New(strings.Repeat("x", 1000)), strings.Repeat("x", 200)},
	} {
		if got := Sanitized(c.err).Error(); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
	if cause := Sanitized(fmt.Errorf("at https://h/?hunter2: %w", context.DeadlineExceeded)); !errors.Is(cause, context.DeadlineExceeded) || strings.Contains(cause.Error(), "hunter2") {
		t.Errorf("the cause: %v", cause)
	}
}
