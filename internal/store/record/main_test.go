package record_test

import (
	"cmp"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/countersign/countersign/internal/pgtest"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store"
	"github.com/countersign/countersign/internal/store/record"
	"github.com/countersign/countersign/internal/store/storetest"
)

func TestMain(m *testing.M) { os.Exit(pgtest.Main(m)) }

// The times of all rows of these tests, in microseconds since 1970.
const created, updated = 1_700_000_000_123_456, 1_700_000_001_654_321

// stamps are the times of all rows of these tests.
var stamps = record.Stamps(created, updated)

// row is a row by column.
type row map[string]any

// insert inserts a row into a table with columns for the times.
func insert(t *testing.T, s *store.Store, table string, r row) {
	t.Helper()
	insertPlain(t, s, table, row{"created": created, "updated": updated}, r)
}

// insertPlain inserts a row that has the columns of all parts.
func insertPlain(t *testing.T, s *store.Store, table string, parts ...row) {
	t.Helper()
	all := row{}
	for _, part := range parts {
		maps.Copy(all, part)
	}
	columns := slices.Sorted(maps.Keys(all))
	var placeholders []string
	var args []any
	for i, column := range columns {
		placeholders, args = append(placeholders, "$"+strconv.Itoa(i+1)), append(args, all[column])
	}
	storetest.Exec(t, s, `INSERT INTO `+table+` (`+strings.Join(columns, ", ")+`) VALUES (`+strings.Join(placeholders, ", ")+`)`,
		args...)
}

// insertRepository inserts a repository with an id and a name.
func insertRepository(t *testing.T, s *store.Store, id, name string) {
	t.Helper()
	insert(t, s, "repository", row{"id": id, "type": pulp.ContainerPush, "name": name})
}

// insertVersion inserts a version of a repository. Its id is composed of the repository's and the number.
func insertVersion(t *testing.T, s *store.Store, repositoryID string, number int64) string {
	t.Helper()
	id := repositoryID + "-" + strconv.FormatInt(number, 10)
	insert(t, s, "repository_version", row{"id": id, "repository_id": repositoryID, "number": number})
	return id
}

// insertRemote inserts a remote with an id, which is also its name.
func insertRemote(t *testing.T, s *store.Store, id string) {
	t.Helper()
	insert(t, s, "remote", row{"id": id, "name": id, "url": "https://" + id, "upstream_name": "app", "policy": pulp.OnDemand})
}

// sorted returns the elements in order.
func sorted[T cmp.Ordered](all []T) []T {
	slices.Sort(all)
	return all
}
