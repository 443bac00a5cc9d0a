package sqldb

import (
	"database/sql/driver"
	"fmt"
	"regexp"
	"sync"
	"sync/atomic"

	"modernc.org/sqlite"
)

// registerRegexp gives SQLite the function behind its REGEXP operator: RE2, so that no pattern takes more than linear time. The driver
// keeps functions for the process, so it is done once, before the first connection.
var registerRegexp = sync.OnceValue(func() error {
	var last atomic.Pointer[regexp.Regexp] // a query asks with one pattern, row after row
	match := func(_ *sqlite.FunctionContext, args []driver.Value) (driver.Value, error) {
		pattern, ok := args[0].(string)
		if !ok {
			return nil, fmt.Errorf("regexp: the pattern is %T", args[0])
		}
		text, ok := args[1].(string)
		if !ok {
			return nil, nil // NULL matches nothing
		}
		re := last.Load()
		if re == nil || re.String() != pattern {
			var err error
			if re, err = regexp.Compile(pattern); err != nil {
				return nil, err
			}
			last.Store(re)
		}
		return re.MatchString(text), nil
	}
	return sqlite.RegisterDeterministicScalarFunction("regexp", 2, match)
})
