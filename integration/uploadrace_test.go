package integration

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/eventually"
)

// patch sends a chunk with bytes from a reader, and returns the status.
func (a api) patch(ctx context.Context, at string, body io.Reader) (int, error) {
	to, err := a.base.Parse(at)
	if err != nil {
		return 0, err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPatch, to.String(), body)
	if err != nil {
		return 0, err
	}
	request.SetBasicAuth(a.user, a.password)
	request.Header.Set("Content-Type", "application/octet-stream")
	response, err := client.Do(request)
	if err != nil {
		return 0, err
	}
	_, err = io.Copy(io.Discard, response.Body)
	return response.StatusCode, errors.Join(err, response.Body.Close())
}

// intruder is a body with other bytes for an upload. It yields a few bytes at a time until stop is closed; after the
// channel after is closed too, it yields the last bytes.
type intruder struct {
	from        *rand.Rand
	stop, after chan struct{}
	late        int // number of the last bytes
	stage       int
	sent        *atomic.Int64
}

// Read implements io.Reader.
func (i *intruder) Read(p []byte) (int, error) {
	switch i.stage {
	case 0:
		select {
		case <-i.stop:
			<-i.after
			i.stage = 1
		case <-time.After(time.Duration(i.from.IntN(2_000)) * time.Microsecond):
		}
	case 1:
		if i.late <= 0 {
			return 0, io.EOF
		}
	}
	n := min(len(p), 1+i.from.IntN(20_000))
	for at := range n {
		p[at] = byte(i.from.Uint32())
	}
	if i.stage == 1 {
		i.late -= n
	}
	i.sent.Add(int64(n))
	return n, nil
}

// race is an upload to which two servers write concurrently.
type race struct {
	c        *cluster
	r        *rand.Rand
	repo     string
	blob     []byte
	digest   string
	finished bool // acknowledged
}

// run sends the blob through one server while intruders write to the same upload through the other, at random times.
func (x *race) run(t *testing.T) error {
	first := x.r.IntN(2)
	mine, other := x.c.servers[first], x.c.servers[1-first]
	status, header, answer, err := mine.try(t, http.MethodPost, "/v2/"+x.repo+"/blobs/uploads/", nil, nil)
	if err != nil || status != http.StatusAccepted {
		return errors.Join(err, errors.New(string(answer)))
	}
	at := header.Get("Location")
	begin := 20_000 + x.r.IntN(len(x.blob)-40_000)
	if _, _, _, err := mine.try(t, http.MethodPatch, at, nil, x.blob[:begin]); err != nil {
		return err
	}
	stop, after := make(chan struct{}), make(chan struct{})
	var sent atomic.Int64
	var intruders sync.WaitGroup
	for range 1 + x.r.IntN(2) {
		body := &intruder{from: rand.New(rand.NewPCG(x.r.Uint64(), 0)), stop: stop, after: after, late: x.r.IntN(300_000), sent: &sent}
		intruders.Go(func() { _, _ = other.patch(t.Context(), at, body) }) // its answer depends on the order of the requests
	}
	pause := x.r.IntN(15)
	if pause > 0 { // without a pause it races with the first bytes
		eventually.Within(time.Second, func() bool { return sent.Load() > 0 })
		time.Sleep(time.Duration(pause) * time.Millisecond)
	}
	rest := x.blob[begin:]
	if x.r.IntN(2) == 0 {
		if _, _, _, err := mine.try(t, http.MethodPatch, at, nil, rest); err != nil {
			return err
		}
		rest = nil
	}
	status, _, _, err = mine.try(t, http.MethodPut, at+"?digest="+x.digest, nil, rest)
	x.finished = status == http.StatusCreated
	close(stop)
	if x.finished {
		x.check(t)
	}
	close(after)
	intruders.Wait()
	if x.finished {
		x.check(t)
	}
	return err
}

// check reads the blob through both servers.
func (x *race) check(t *testing.T) {
	t.Helper()
	for i, s := range x.c.servers {
		status, _, got, err := s.try(t, http.MethodGet, "/v2/"+x.repo+"/blobs/"+x.digest, nil, nil)
		if err != nil || status != http.StatusOK || describe("", got).Digest != x.digest {
			t.Errorf("server %d: %s of %d bytes: %d, %v; its bytes are %s", i, x.digest, len(x.blob), status, err, describe("", got).Digest)
		}
	}
}

// TestNoProcessChangesABlobOfAnother runs two servers that share a database and a directory. At random times during an
// upload through one of them, and after its end, requests write other bytes to it through the other. Every acknowledged
// blob must keep its bytes.
func TestNoProcessChangesABlobOfAnother(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 0)
	rounds := 50
	if soaking() {
		rounds = 2_000
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	races := make([]*race, rounds)
	for i := range races {
		r := rand.New(rand.NewPCG(seed, uint64(i)))
		b := make([]byte, 60_000+r.IntN(400_000))
		for at := range b {
			b[at] = byte(r.Uint32())
		}
		races[i] = &race{c: c, r: r, repo: "race/app", blob: b, digest: describe("", b).Digest}
	}
	if _, err := c.servers[0].pushTiny(t, "race/app", "first", "makes the repository"); err != nil {
		t.Fatal(err)
	}
	next := make(chan *race)
	var workers sync.WaitGroup
	for range 6 {
		workers.Go(func() {
			for x := range next {
				if err := x.run(t); err != nil {
					t.Errorf("a race: %v", err)
				}
			}
		})
	}
	for _, x := range races {
		next <- x
	}
	close(next)
	workers.Wait()
	finished := 0
	for _, x := range races {
		if x.finished {
			finished++
			x.check(t)
		}
	}
	t.Logf("%d of %d uploads were acknowledged", finished, rounds)
	if finished < rounds/4 {
		t.Errorf("only %d of %d uploads were acknowledged: the races say nothing", finished, rounds)
	}
}
