package integration

import (
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestStalledBodiesEndOnEveryPath checks that the server disconnects clients with a stalled body within 90 seconds, on
// every kind of path, with and without credentials, and still serves others.
func TestStalledBodiesEndOnEveryPath(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	login := "Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte("admin:"+adminPassword)) + "\r\n"
	upload, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+s.host+"/v2/slow/app/blobs/uploads/", nil)
	if err != nil {
		t.Fatal(err)
	}
	upload.SetBasicAuth("admin", adminPassword)
	answer, err := http.DefaultClient.Do(upload)
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()
	if answer.StatusCode != http.StatusAccepted {
		t.Fatal(answer.Status)
	}
	zeros := "sha256:" + strings.Repeat("0", 64)
	var all sync.WaitGroup
	for _, line := range []string{
		"PATCH " + answer.Header.Get("Location"), "PUT /v2/slow/app/manifests/v1", "PUT /v2/slow/app/nothing", "GET /v2/", "PUT /extensions/v2/slow/app/signatures/" + zeros,
		"POST /token/", "GET /token/?service=x", "POST " + pushRepos, "PATCH " + pushRepos + "x/", "GET /pulp/api/v3/status/", "POST /pulp/api/v3/livez/", "POST /pulp/nothing/", "POST /nothing", "PUT /", "BREW /coffee",
	} {
		for _, who := range []string{"", login} {
			for how, length := range map[string]string{"with a length": "Content-Length: 100000\r\n\r\n{", "chunked": "Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n"} {
				all.Go(func() {
					took, err := stall(t, s.host, fmt.Sprintf("%s HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\n%s%s", line, s.host, who, length))
					if err != nil || took > 90*time.Second {
						t.Errorf("%s (%s, login %v): the connection was kept for %v, %v", line, how, who != "", took, err)
					}
				})
			}
		}
	}
	all.Wait()
	s.get(t, pushRepos)
}

// stall sends a part of a request and returns the time until the server closes the connection, at most two minutes.
func stall(t *testing.T, host, begin string) (time.Duration, error) {
	c, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", host)
	if err != nil {
		return 0, err
	}
	defer func() { _ = c.Close() }()
	start := time.Now()
	if err := c.SetDeadline(start.Add(2 * time.Minute)); err != nil {
		return 0, err
	}
	if _, err := io.WriteString(c, begin); err != nil {
		return 0, err
	}
	_, err = io.Copy(io.Discard, c)
	return time.Since(start), err
}
