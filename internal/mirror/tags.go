package mirror

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"strconv"
	"time"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/registryclient"
)

// Bounds of a list of tags.
const (
	maxTags     = 100_000
	maxTagPages = 1_000
	maxTagTime  = 2 * time.Hour // for all pages
	maxTagPage  = 8 << 20       // bytes of one page
	tagPage     = 1_000         // tags that a page is requested to have
	maxBadTags  = 20            // malformed names that are logged
)

// Tags returns the names of the repository's tags in the remote's order, each once, without malformed ones. It
// returns an error if one page fails, or is not a list of tags.
func (g *Registry) Tags(ctx context.Context) ([]string, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, maxTagTime,
		fault.New(fault.Unavailable, "The remote took longer than %v for its list of tags.", maxTagTime))
	defer cancel()
	at := g.repository("/tags/list")
	at.RawQuery = "n=" + strconv.Itoa(tagPage)
	list, pages := tagList{registry: g, seen: map[string]bool{}}, map[string]bool{}
	for range maxTagPages {
		pages[at.RawQuery] = true
		page, err := g.document(ctx, request{method: http.MethodGet, url: at}, maxTagPage)
		if err != nil {
			return nil, err
		}
		if err := list.add(ctx, page); err != nil {
			return nil, err
		}
		next, err := registryclient.NextPage(page.URL, page.Header)
		switch {
		case err != nil:
			return nil, fault.Wrap(fault.Denied, err, "The remote's list of tags goes on elsewhere; that is refused.")
		case next == nil:
			return list.tags, nil
		case pages[next.RawQuery]:
			return nil, fault.New(fault.Unavailable, "The remote's list of tags does not end, url='%s'",
				registryclient.PlainURL(page.URL))
		}
		at = next
	}
	return nil, fault.New(fault.Unavailable, "The remote's list of tags has more than %d pages.", maxTagPages)
}

// tagList collects the tags of all pages.
type tagList struct {
	registry *Registry
	tags     []string
	seen     map[string]bool
	names    int // on all pages
	bad      int // malformed names
}

// add reads one page. It leaves out malformed tags, and the hidden tags by which a server like this one in front of
// the remote pins manifests.
func (l *tagList) add(ctx context.Context, page registryclient.Document) error {
	listed, err := readTags(page.Body)
	if err != nil {
		return fault.Wrap(fault.Unavailable, err, "The remote's list of tags cannot be read, url='%s'",
			registryclient.PlainURL(page.URL))
	}
	if l.names += len(listed); l.names > maxTags {
		return fault.New(fault.Unavailable, "The remote repository has more than %d tags.", maxTags)
	}
	for _, name := range listed {
		switch {
		case pulp.IsPinTag(name):
		case !pulp.ValidTag(name):
			l.leaveOut(ctx, name)
		case !l.seen[name]:
			l.seen[name] = true
			l.tags = append(l.tags, name)
		}
	}
	return nil
}

func (l *tagList) leaveOut(ctx context.Context, name string) {
	l.registry.skip(SkippedTag, name)
	if l.bad++; l.bad <= maxBadTags {
		l.registry.network.Log.WarnContext(ctx, "tag left out: its name is not well-formed",
			slog.String("remote", l.registry.remote.Name), slog.String("tag", name[:min(len(name), 200)]))
	}
}

// readTags returns the tags of one page. An object with a name and no tags is an empty page.
func readTags(body []byte) ([]string, error) {
	var page struct {
		Name *string         `json:"name"`
		Tags json.RawMessage `json:"tags"`
	}
	if err := json.Unmarshal(body, &page); err != nil {
		return nil, err
	}
	if page.Tags == nil {
		if page.Name == nil {
			return nil, errors.New("it has neither a name nor tags")
		}
		return nil, nil
	}
	var tags []string
	err := json.Unmarshal(page.Tags, &tags)
	return tags, err
}
