package pullthrough

import (
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/time/rate"

	"github.com/countersign/countersign/internal/fault"
)

// limits bound the lookups of new names.
type limits struct {
	perMinute int
	kept      *lru.Cache[string, *rate.Limiter]
}

// maxLimiters is the number of pull-through distributions and clients whose lookups are counted.
const maxLimiters = 10_000

func newLimits(perMinute int) *limits {
	l := &limits{perMinute: max(1, perMinute)}
	l.kept, _ = lru.New[string, *rate.Limiter](maxLimiters) // the only error is a size below 1
	return l
}

// allow counts a lookup of a client at a pull-through distribution. The error is TooMany if one of them has no lookups left.
func (l *limits) allow(cache, client string) error {
	if !l.of(cache+" "+client, max(1, l.perMinute/2)).Allow() || !l.of(cache, l.perMinute).Allow() {
		return &fault.Error{
			Kind: fault.TooMany, Msg: "Too many new names were requested from the cache. Try again later.", RetryAfter: time.Minute,
		}
	}
	return nil
}

func (l *limits) of(key string, perMinute int) *rate.Limiter {
	fresh := rate.NewLimiter(rate.Limit(float64(perMinute)/time.Minute.Seconds()), perMinute)
	if kept, ok, _ := l.kept.PeekOrAdd(key, fresh); ok {
		l.kept.Get(key) // it is in use
		return kept
	}
	return fresh
}
