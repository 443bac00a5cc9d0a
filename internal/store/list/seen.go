package list

import (
	"context"
	"fmt"

	"github.com/countersign/countersign/internal/access"
	"github.com/countersign/countersign/internal/store/record"
)

// fewRepositories is the number of repositories whose content a list selects and sorts. A viewer of more repositories sees
// enough of the newest rows for a list to check them one by one.
const fewRepositories = 1000

// seesFew reports whether the viewer sees few repositories. A nil viewer sees all.
func (s *Store) seesFew(ctx context.Context, v *access.Viewer) (bool, error) {
	if s.few < 0 || v.SeesAllRepositories() {
		return false, nil
	}
	b := &statement{viewer: v}
	var n int64
	query := `SELECT COUNT(*) FROM (SELECT 1 FROM (` + record.Permitted{Viewer: v, Arg: b.arg}.VisibleRepositories() +
		fmt.Sprintf(`) v LIMIT %d) few`, s.few+1)
	if err := s.db.ReadComposed().QueryRowContext(ctx, query, b.args...).Scan(&n); err != nil {
		return false, fmt.Errorf("list: %w", err)
	}
	return n <= int64(s.few), nil
}
