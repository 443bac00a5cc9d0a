package list

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"github.com/countersign/countersign/internal/store/sqldb"
)

// Bounds of the counts that are used again. A count is exact if it is at most fewRows, or if it took at most cheapCount.
const (
	fewRows    = 1000
	cheapCount = 10 * time.Millisecond
	// countReuse is the time for which a count is used again, as a multiple of the time that it took: counting takes at most
	// a fiftieth of a processor for each list. countMaxAge limits that time.
	countReuse  = 50
	countMaxAge = 30 * time.Second
	// countTimeout limits a count that nobody waits for.
	countTimeout = time.Minute
	countsKept   = 1000 // least recently used counts are forgotten first
)

// counts remembers the numbers of rows of long lists, which take long to count. It is safe for concurrent use.
type counts struct {
	db  *sqldb.DB
	now func() time.Time

	mu   sync.Mutex
	kept *simplelru.LRU[string, *keptCount]
}

// keptCount is a number of rows. The lock of counts guards its fields.
type keptCount struct {
	rows    int64
	at      time.Time     // when it was counted
	took    time.Duration // the time that it took
	commits uint64        // see sqldb.DB.Commits, before it was counted
	renewed bool          // it is being counted again
}

func newCounts(db *sqldb.DB) *counts {
	kept, _ := simplelru.NewLRU[string, *keptCount](countsKept, nil) // the only error is a size below 1
	return &counts{db: db, now: time.Now, kept: kept}
}

// maxAge returns the time for which the count is used again.
func (k *keptCount) maxAge() time.Duration { return min(k.took*countReuse, countMaxAge) }

// of returns the number of rows of a query that has a single number as its result. The number may be as old as countMaxAge if
// it is larger than fewRows.
func (c *counts) of(ctx context.Context, db sqldb.Querier, query string, args []any) (int64, error) {
	key := fmt.Sprintf("%s\x00%q", query, args)
	rows, renew, ok := c.known(key)
	if !ok {
		return c.count(ctx, db, key, query, args)
	}
	if renew {
		go func() {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), countTimeout)
			defer cancel()
			if _, err := c.count(ctx, db, key, query, args); err != nil {
				c.forget(key) // the next list counts itself and reports the error
			}
		}()
	}
	return rows, nil
}

// known returns a number that may be used again. renew is set for one caller when half of its time has passed.
func (c *counts) known(key string) (rows int64, renew, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	k, ok := c.kept.Get(key)
	if !ok {
		return 0, false, false
	}
	if !c.db.IsPostgres() && k.commits == c.db.Commits() {
		return k.rows, false, true // nothing was written since
	}
	age := c.now().Sub(k.at)
	if age > k.maxAge() {
		return 0, false, false
	}
	renew = age > k.maxAge()/2 && !k.renewed
	k.renewed = k.renewed || renew
	return k.rows, renew, true
}

// count counts the rows and remembers the number if it may be used again.
func (c *counts) count(ctx context.Context, db sqldb.Querier, key, query string, args []any) (int64, error) {
	began, commits := c.now(), c.db.Commits()
	var rows int64
	if err := db.QueryRowContext(ctx, query, args...).Scan(&rows); err != nil {
		return 0, fmt.Errorf("count list: %w", patternError(err))
	}
	at := c.now()
	c.mu.Lock()
	defer c.mu.Unlock()
	if took := at.Sub(began); rows > fewRows && took > cheapCount {
		c.kept.Add(key, &keptCount{rows: rows, at: at, took: took, commits: commits})
	} else {
		c.kept.Remove(key)
	}
	return rows, nil
}

func (c *counts) forget(key string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.kept.Remove(key)
}
