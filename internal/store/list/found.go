package list

import (
	"context"
	"fmt"
	"iter"
	"slices"

	"github.com/countersign/countersign/internal/store/sqldb"
)

// Limits of a piece of a list. They bound the memory for a list of any length.
const (
	pieceRows  = 100
	pieceBytes = 256 << 10 // of large data; a row that exceeds it is a piece by itself
)

// Found are the rows of a query, of which only the ids have been read.
type Found[T any] struct {
	Count int64    // number of rows without the query's Limit and Offset
	IDs   []string // of the rows, in order

	source  string // see List
	id      string
	columns string
	size    string // see List.selected
	scan    func(sqldb.Scanner) (T, error)
	db      sqldb.Querier
}

// Pieces reads the rows and yields them in order, in pieces of at most 100 rows or about 256 KiB of large data. It skips
// rows that were deleted after Find. It holds no connection to the database while the caller uses a piece. An error ends the
// sequence.
func (f *Found[T]) Pieces(ctx context.Context) iter.Seq2[[]T, error] {
	return func(yield func([]T, error) bool) {
		sizes, err := f.sizes(ctx)
		for ids := f.IDs; err == nil && len(ids) > 0; {
			n := nextPiece(ids, sizes)
			var piece []T
			if piece, err = f.piece(ctx, ids[:n]); err == nil && !yield(piece, nil) {
				return
			}
			ids = ids[n:]
		}
		if err != nil {
			yield(nil, fmt.Errorf("list: %w", patternError(err)))
		}
	}
}

// nextPiece returns the number of rows of the first piece of ids, at least 1.
func nextPiece(ids []string, sizes map[string]int64) int {
	n, bytes := 0, int64(0)
	for n < len(ids) && n < pieceRows && (n == 0 || bytes+sizes[ids[n]] <= pieceBytes) {
		bytes += sizes[ids[n]]
		n++
	}
	return n
}

// identified is a value of a row with the row's id.
type identified[V any] struct {
	id    string
	value V
}

func scanSize(row sqldb.Scanner) (identified[int64], error) {
	var v identified[int64]
	err := row.Scan(&v.id, &v.value)
	return v, err
}

// sizes returns the approximate bytes of large data of the rows.
func (f *Found[T]) sizes(ctx context.Context) (map[string]int64, error) {
	if f.size == "" || len(f.IDs) == 0 {
		return nil, nil
	}
	rows, err := sqldb.Collect(ctx, f.db, scanSize, `SELECT `+f.id+`, `+f.size+f.where(), sqldb.ToJSON(f.IDs))
	sizes := make(map[string]int64, len(rows))
	for _, r := range rows {
		sizes[r.id] = r.value
	}
	return sizes, err
}

// where returns the text that selects rows by the JSON list of their ids, the only argument.
func (f *Found[T]) where() string {
	return f.source + ` WHERE ` + f.id + ` IN (SELECT j.value FROM json_each($1) j)`
}

// withID is a row whose first column is its id. Scan functions read the columns after it.
type withID struct {
	sqldb.Scanner
	id *string
}

// Scan implements sqldb.Scanner.
func (r withID) Scan(into ...any) error { return r.Scanner.Scan(append([]any{r.id}, into...)...) }

// piece reads the rows with these ids, in their order.
func (f *Found[T]) piece(ctx context.Context, ids []string) ([]T, error) {
	rows, err := sqldb.Collect(ctx, f.db, func(row sqldb.Scanner) (v identified[T], err error) {
		v.value, err = f.scan(withID{row, &v.id})
		return v, err
	}, `SELECT `+f.id+`, `+f.columns+f.where(), sqldb.ToJSON(ids))
	if err != nil {
		return nil, err
	}
	position := make(map[string]int, len(ids))
	for i, id := range ids {
		position[id] = i
	}
	slices.SortFunc(rows, func(x, y identified[T]) int { return position[x.id] - position[y.id] })
	piece := make([]T, len(rows))
	for i, r := range rows {
		piece[i] = r.value
	}
	return piece, nil
}
