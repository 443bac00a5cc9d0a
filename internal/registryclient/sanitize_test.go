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

// TestSanitized proves that the text of an error contains neither secrets nor addresses of this server, and that its
// cause is still there.
func TestSanitized(t *testing.T) {
	t.Parallel()
	location := `failed to parse Location header "https://robot:hunter2@cdn.example/x?X-Amz-Signature=hunter2": bad`
	connection := &net.OpError{
		Op: "read", Net: "tcp", Source: &net.TCPAddr{IP: net.IPv4(172, 17, 0, 2), Port: 5}, Addr: &net.TCPAddr{IP: net.IPv4(8, 8, 8, 8), Port: 443},
		Err: errors.New("reset"),
	}
	tests := map[string]struct {
		err  error
		want string
	}{
		"a URL": {err: &url.Error{Op: "Get", URL: "https://cdn.example/x?sig=hunter2", Err: errors.New("EOF")}, want: "EOF"},
		"a location": {
			err:  &url.Error{Op: "Get", URL: "https://h/", Err: errors.New(location)},
			want: `failed to parse Location header "https:cdn.example/x": bad`,
		},
		"an address of this server": {err: connection, want: "read 8.8.8.8:443: reset"},
		"a resolver of this server": {
			err:  &net.DNSError{Name: "registry.example", Server: "10.0.0.2:53", Err: "no such host"},
			want: "lookup registry.example: no such host",
		},
		"control characters": {err: errors.New("a\nb\xff"), want: "a b\ufffd"},
		"a long text":        {err: errors.New(strings.Repeat("x", 1000)), want: strings.Repeat("x", 200)},
	}
	for name, tt := range tests {
		if got := Sanitized(tt.err).Error(); got != tt.want {
			t.Errorf("%s: %q, want %q", name, got, tt.want)
		}
	}
	cause := Sanitized(fmt.Errorf("at https://h/?hunter2: %w", context.DeadlineExceeded))
	if !errors.Is(cause, context.DeadlineExceeded) || strings.Contains(cause.Error(), "hunter2") {
		t.Errorf("the cause: %v", cause)
	}
	if err := Sanitized(nil); err != nil {
		t.Errorf("Sanitized(nil) = %v", err)
	}
}
