package mirror

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/registryclient"
)

// Bounds of what a remote may have.
const (
	maxTags     = 100_000
	maxTagPages = 1_000
	maxTagTime  = 2 * time.Hour // for all pages
	maxTagPage  = 8 << 20       // bytes of one page
	tagPage     = 1_000         // names that a page is asked to have
	namesLogged = 20            // of those that are no tags
)

// manifestTypes are the media types that a manifest is asked for in.
var manifestTypes = http.Header{"Accept": {strings.Join([]string{pulp.OCIIndex, pulp.OCIManifest, pulp.DockerList, pulp.DockerManifest}, ", ")}}

// ErrCorrupt says that content of the remote is missing or wrong for good: a blob that a manifest names and the remote does not have, or bytes that do not match
// their digest. Another try will not help; other images of the remote may be whole.
var ErrCorrupt = errors.New("the content is corrupt")

func corrupt(format string, args ...any) error {
	return fault.Wrap(fault.Unavailable, ErrCorrupt, format, args...)
}

// Tags returns the names of the remote repository's tags, in its own order, each once. It skips names that are not well-formed tags. An error of any page is an
// error of the whole list, and so is an answer that is no list of tags.
func (g *Registry) Tags(ctx context.Context) ([]string, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, maxTagTime, fault.New(fault.Unavailable, "The remote took longer than %v for its list of tags.", maxTagTime))
	defer cancel()
	at := g.at("/v2/" + g.name + "/tags/list")
	at.RawQuery = "n=" + strconv.Itoa(tagPage)
	var tags []string
	names, bad := 0, 0
	seen, pages := map[string]bool{}, map[string]bool{}
	for range maxTagPages {
		pages[at.RawQuery] = true
		answer, err := g.document(ctx, request{method: http.MethodGet, url: at}, maxTagPage)
		if err != nil {
			return nil, err
		}
		at = answer.url // the list goes on where it was
		var page struct {
			Name *string         `json:"name"`
			Tags json.RawMessage `json:"tags"`
		}
		var listed []string
		if err = json.Unmarshal(answer.body, &page); err == nil && page.Tags != nil {
			err = json.Unmarshal(page.Tags, &listed)
		} else if err == nil && page.Name == nil { // an object about something else
			err = errors.New("it has neither a name nor tags")
		}
		if err != nil {
			return nil, fault.Wrap(fault.Unavailable, err, "The remote's list of tags cannot be read, url='%s'", registryclient.Plain(at))
		}
		if names += len(listed); names > maxTags {
			return nil, fault.New(fault.Unavailable, "The remote repository has more than %d tags.", maxTags)
		}
		for _, name := range listed {
			if pulp.IsPinTag(name) { // of a server like this one, in front of that remote
				continue
			}
			if !pulp.ValidTag(name) {
				g.skip(SkippedTag, name)
				if bad++; bad <= namesLogged {
					g.network.Log.WarnContext(ctx, "tag left out: its name is not well-formed", slog.String("remote", g.remote.Name), slog.String("tag", name[:min(len(name), 200)]))
				}
				continue
			}
			if !seen[name] {
				seen[name] = true
				tags = append(tags, name)
			}
		}
		switch next, err := registryclient.NextPage(at, answer.header); {
		case err != nil:
			return nil, fault.Wrap(fault.Denied, err, "The remote's list of tags goes on elsewhere; that is refused.")
		case next == nil:
			return tags, nil
		case pages[next.RawQuery]:
			return nil, fault.New(fault.Unavailable, "The remote's list of tags does not end, url='%s'", registryclient.Plain(at))
		default:
			at = next
		}
	}
	return nil, fault.New(fault.Unavailable, "The remote's list of tags has more than %d pages.", maxTagPages)
}

// Head returns what the remote says of a manifest, by tag or digest. NotFound when it has none.
func (g *Registry) Head(ctx context.Context, reference string) (Descriptor, error) {
	if !wellFormed(reference) {
		return Descriptor{}, unknown(reference)
	}
	res, err := g.do(ctx, request{method: http.MethodHead, url: g.at("/v2/" + g.name + "/manifests/" + reference), header: manifestTypes})
	if err != nil {
		return Descriptor{}, err
	}
	if res.StatusCode != http.StatusOK {
		return Descriptor{}, refused(res)
	}
	drain(res)
	d := Descriptor{MediaType: mediaType(res.Header), Digest: digest.Digest(res.Header.Get("Docker-Content-Digest")), Size: res.ContentLength}
	if !known(d.Digest) {
		d.Digest = ""
	}
	return d, nil
}

// headRefused reports whether a registry that answers HEAD so may still answer GET.
func headRefused(status int) bool {
	switch status {
	case http.StatusBadRequest, http.StatusForbidden, http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusNotAcceptable, http.StatusNotImplemented:
		return true
	}
	return false
}

// Resolve returns the digest that a tag stands for. It asks with HEAD, and with GET where the remote refuses HEAD or does not tell the digest; then it returns
// the manifest too. NotFound when the remote has no such manifest.
func (g *Registry) Resolve(ctx context.Context, reference string) (digest.Digest, *Manifest, error) {
	found, err := g.Head(ctx, reference)
	refused, ok := errors.AsType[*refusal](err)
	if ok && !headRefused(refused.status) || err != nil && !ok {
		return "", nil, err
	}
	if err == nil && found.Digest != "" {
		return found.Digest, nil, nil
	}
	m, err := g.Manifest(ctx, reference)
	if err != nil {
		return "", nil, err
	}
	return m.Digest, &m, nil
}

// known says whether a digest is well-formed and of an algorithm that is kept.
func known(d digest.Digest) bool {
	return d.Validate() == nil && (d.Algorithm() == digest.SHA256 || d.Algorithm() == digest.SHA512)
}

// wellFormed says whether a reference is a tag or a digest, and nothing that leads elsewhere in the remote's paths.
func wellFormed(reference string) bool {
	return pulp.ValidTag(reference) || known(digest.Digest(reference))
}

func unknown(reference string) error {
	return fault.New(fault.Invalid, "%.200q is neither a tag nor a digest that is kept.", reference)
}

func mediaType(h http.Header) string {
	name, _, _ := strings.Cut(h.Get("Content-Type"), ";")
	return strings.TrimSpace(name)
}

// Manifest returns a manifest's exact bytes, by tag or digest. By digest the bytes are that digest's. NotFound when the remote has none.
func (g *Registry) Manifest(ctx context.Context, reference string) (Manifest, error) {
	if !wellFormed(reference) {
		return Manifest{}, unknown(reference)
	}
	q := request{method: http.MethodGet, url: g.at("/v2/" + g.name + "/manifests/" + reference), header: manifestTypes}
	answer, err := g.document(ctx, q, pulp.MaxManifestSize)
	if err != nil {
		return Manifest{}, err
	}
	payload := answer.body
	m := Manifest{mediaType(answer.header), digest.FromBytes(payload), payload}
	if want := digest.Digest(reference); known(want) {
		m.Digest = want.Algorithm().FromBytes(payload)
		if m.Digest != want {
			return Manifest{}, corrupt("The remote answers with other bytes than those of %s.", want)
		}
	}
	return m, nil
}

// maxBlob bounds a blob whose size nobody has said, in bytes.
const maxBlob = 50 << 30

// Blob returns a blob's bytes: size many, or with a size below 0 as many as the remote sends. The reader goes on by itself where a connection breaks. It ends with an error unless the bytes
// match the digest, and when they arrive more slowly than Options.Pace, or not within Options.BlobTimeout.
func (g *Registry) Blob(ctx context.Context, d digest.Digest, size int64) (io.ReadCloser, error) {
	if !known(d) {
		return nil, unknown(string(d))
	}
	ctx, meter := g.network.Pace.Start(ctx)
	b := &blob{registry: g, ctx: ctx, meter: meter, digest: d, size: size, verifier: d.Verifier()}
	if total := g.network.BlobTimeout; total > 0 {
		b.total = time.AfterFunc(total, func() {
			meter.cancel(fault.New(fault.Unavailable, "The remote took longer than %v for %s.", total, d))
		})
	}
	if err := b.open(); err != nil {
		b.stop()
		return nil, err
	}
	return b, nil
}

// blob reads one blob over as many connections as it takes.
type blob struct {
	registry *Registry
	ctx      context.Context //nolint:containedctx // it is the download's
	meter    *Meter
	total    *time.Timer // nil when the download has no bound in all
	digest   digest.Digest
	size     int64
	at       int64
	broken   int64 // connections that broke
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

// open asks for the bytes from where the reader is.
func (b *blob) open() error {
	g := b.registry
	q := request{method: http.MethodGet, url: g.at("/v2/" + g.name + "/blobs/" + string(b.digest)), blob: true}
	if b.at > 0 {
		q.header = http.Header{"Range": {"bytes=" + strconv.FormatInt(b.at, 10) + "-"}}
	}
	res, err := g.do(b.ctx, q)
	if err != nil {
		return err
	}
	switch {
	case res.StatusCode == http.StatusPartialContent && b.at > 0 && strings.HasPrefix(res.Header.Get("Content-Range"), "bytes "+strconv.FormatInt(b.at, 10)+"-"):
	case res.StatusCode == http.StatusOK:
		if _, err := io.CopyN(io.Discard, b.meter.Reader(res.Body), b.at); err != nil { // it knows no ranges
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

// Read implements io.Reader.
func (b *blob) Read(p []byte) (int, error) {
	for b.err == nil {
		n, err := b.meter.Read(b.body, p)
		b.at += int64(n)
		_, _ = b.verifier.Write(p[:n])
		limit := b.size
		if limit < 0 {
			limit = maxBlob
		}
		switch {
		case b.at > limit:
			b.err = corrupt("The remote sends more bytes for %s than the %d that it has.", b.digest, limit)
			return 0, b.err
		case err != nil && b.at == b.size, errors.Is(err, io.EOF) && b.size < 0: // all is there, however it ended
			b.err = io.EOF
			if !b.verifier.Verified() {
				b.err = corrupt("The remote's bytes are not those of %s.", b.digest)
			}
		case err != nil:
			b.err = b.goOn(err)
		}
		if n > 0 {
			return n, nil
		}
	}
	return 0, b.err
}

// goOn opens another connection after one broke.
func (b *blob) goOn(err error) error {
	for {
		_ = b.body.Close()
		if b.ctx.Err() != nil {
			return context.Cause(b.ctx)
		}
		if b.broken++; b.broken > b.registry.retries() {
			if err == io.EOF { //nolint:errorlint // the answer ended as it should, with fewer bytes
				return corrupt("The remote has %d bytes of %s, fewer than its manifest says.", b.at, b.digest)
			}
			return fault.Wrap(fault.Unavailable, &plainError{err}, "The remote broke off %s after %d bytes.", b.digest, b.at)
		}
		if err := pause(b.ctx, backoff(b.broken-1)); err != nil {
			return context.Cause(b.ctx)
		}
		err = b.open()
		if _, decided := errors.AsType[*fault.Error](err); err == nil || decided {
			return err
		}
	}
}

// Close implements io.Closer.
func (b *blob) Close() error {
	err := b.body.Close()
	b.stop()
	return err
}
