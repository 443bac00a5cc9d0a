package mirror

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/registryclient"
	"github.com/countersign/countersign/internal/retry"
)

// maxBlob bounds a blob of unknown size, in bytes.
const maxBlob = 50 << 30

// Blob returns the bytes of a blob. size is their number; below 0 it is not known. The reader continues on a new
// connection if one breaks. It ends with an error unless the bytes match the digest, arrive at the rate of
// Options.Pace and within Options.BlobTimeout. Errors of missing or wrong bytes are ErrCorrupt.
func (g *Registry) Blob(ctx context.Context, d digest.Digest, size int64) (io.ReadCloser, error) {
	if !supported(d) {
		return nil, malformed(string(d))
	}
	ctx, meter := g.network.Pace.Start(ctx)
	b := &blob{registry: g, ctx: ctx, meter: meter, digest: d, size: size, verifier: d.Verifier()}
	if total := g.network.BlobTimeout; total > 0 {
		b.total = time.AfterFunc(total, func() {
			meter.Cancel(fault.New(fault.Unavailable, "The remote took longer than %v for %s.", total, d))
		})
	}
	if err := b.open(ctx); err != nil {
		b.stop()
		return nil, err
	}
	return b, nil
}

// blob reads one blob over as many connections as necessary.
type blob struct {
	registry *Registry
	ctx      context.Context //nolint:containedctx // the context of the download
	meter    *registryclient.Meter
	total    *time.Timer // nil without BlobTimeout
	digest   digest.Digest
	size     int64 // below 0 if it is not known
	at       int64
	broken   int // connections that broke
	body     io.ReadCloser
	verifier digest.Verifier
	err      error
}

func (b *blob) stop() {
	if b.total != nil {
		b.total.Stop()
	}
	b.meter.Stop()
}

// open requests the bytes from the position of the reader on.
func (b *blob) open(ctx context.Context) error {
	q := request{method: http.MethodGet, url: b.registry.repository("/blobs/" + string(b.digest)), blob: true}
	if b.at > 0 {
		q.header = http.Header{"Range": {"bytes=" + strconv.FormatInt(b.at, 10) + "-"}}
	}
	res, err := b.registry.do(ctx, q)
	if err != nil {
		return err
	}
	switch {
	case res.StatusCode == http.StatusPartialContent && b.at > 0 && b.continues(res):
	case res.StatusCode == http.StatusOK: // all bytes: from the start, or the remote ignores ranges
		if _, err := io.CopyN(io.Discard, b.meter.Reader(res.Body), b.at); err != nil {
			_ = res.Body.Close()
			return err
		}
	case res.StatusCode == http.StatusNotFound, res.StatusCode == http.StatusRequestedRangeNotSatisfiable && b.at > 0:
		err := refused(res)
		return &refusal{fault.Wrap(fault.KindOf(err), ErrCorrupt, "%s", err), res.StatusCode}
	default:
		return refused(res)
	}
	b.body = res.Body
	return nil
}

// continues reports whether a response with a range starts at the position of the reader.
func (b *blob) continues(res *http.Response) bool {
	return strings.HasPrefix(res.Header.Get("Content-Range"), "bytes "+strconv.FormatInt(b.at, 10)+"-")
}

// Read implements io.Reader.
func (b *blob) Read(p []byte) (int, error) {
	limit := b.size
	if limit < 0 {
		limit = maxBlob
	}
	for b.err == nil {
		n, err := b.meter.Read(b.body, p)
		b.at += int64(n)
		_, _ = b.verifier.Write(p[:n])
		switch {
		case b.at > limit:
			b.err = corrupt("The remote sends more bytes for %s than the %d that it has.", b.digest, limit)
			return 0, b.err
		case err != nil && b.at == b.size, errors.Is(err, io.EOF) && b.size < 0: // complete, however the connection ended
			b.err = io.EOF
			if !b.verifier.Verified() {
				b.err = corrupt("The remote's bytes are not those of %s.", b.digest)
			}
		case err != nil:
			b.err = b.resume(err)
		}
		if n > 0 {
			return n, nil
		}
	}
	return 0, b.err
}

// resume opens another connection after one broke with an error. All connections of a blob share the number of
// retries. A decision, such as a response with another status, is final; a connection that breaks while it skips
// bytes is not.
func (b *blob) resume(broken error) error {
	_ = b.body.Close()
	policy := registryclient.Policy(max(1, b.registry.retries()+1-b.broken))
	policy.First <<= min(b.broken, 10)
	attempt := func(context.Context) error { return broken } // the first attempt is the connection that broke
	err := retry.Run(b.ctx, policy, func(ctx context.Context) error {
		err := attempt(ctx)
		attempt = b.open
		if _, decided := errors.AsType[*fault.Error](err); decided {
			return retry.Permanent(err)
		}
		if err != nil {
			b.broken++
		}
		return err
	})
	_, decided := errors.AsType[*fault.Error](err)
	switch {
	case err == nil || decided:
		return err
	case b.ctx.Err() != nil:
		return context.Cause(b.ctx)
	case err == io.EOF: //nolint:errorlint // the response ended regularly, with fewer bytes
		return corrupt("The remote has %d bytes of %s, fewer than its manifest says.", b.at, b.digest)
	}
	return fault.Wrap(fault.Unavailable, registryclient.Sanitized(err), "The remote broke off %s after %d bytes.", b.digest, b.at)
}

// Close implements io.Closer.
func (b *blob) Close() error {
	err := b.body.Close()
	b.stop()
	return err
}

// HasBlob reports whether the remote sends a blob of a size in bytes. It requests the blob and reads its first byte: a remote
// that is a mirror itself may answer HEAD for a blob that it would have to fetch, and cannot.
func (g *Registry) HasBlob(ctx context.Context, d digest.Digest, size int64) (bool, error) {
	if !supported(d) {
		return false, malformed(string(d))
	}
	res, err := g.do(ctx, request{method: http.MethodGet, url: g.repository("/blobs/" + string(d)), blob: true})
	if err != nil {
		return false, err
	}
	defer func() { _ = res.Body.Close() }()
	switch res.StatusCode {
	case http.StatusOK:
	case http.StatusNotFound:
		return false, nil
	default:
		return false, refusedAt(res.StatusCode, res.Request.URL)
	}
	if res.ContentLength >= 0 && res.ContentLength != size { // other bytes under the digest
		return false, nil
	}
	if _, err := io.CopyN(io.Discard, res.Body, min(size, 1)); err != nil {
		return false, fault.Wrap(fault.Unavailable, registryclient.Sanitized(err), "The remote broke off %s.", d)
	}
	return true, nil
}
