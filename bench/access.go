package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/countersign/countersign/integration/process"
	"github.com/countersign/countersign/internal/auth"
	"github.com/countersign/countersign/internal/pgtest"
)

// accessUser is the user of the measurement, an owner of the namespace of that name.
const accessUser = "bench"

// compareAccess measures the cost of permissions: reads of a manifest with and without a token, and pushes, on a
// database with many users and roles, on one without them, and with the program of an earlier version.
func compareAccess(ctx context.Context, o options, out io.Writer, dir string) error {
	program, err := process.Build(ctx, dir, ".", "-trimpath")
	if err != nil {
		return err
	}
	files := func(name string) (string, string, string) {
		path := filepath.Join(dir, name, "data", "countersign.db")
		return "sqlite", "file:" + path + "?_pragma=busy_timeout(60000)", ""
	}
	if err := compareAccessOn(ctx, o, out, filepath.Join(dir, "access"), program, "SQLite", files); err != nil {
		return err
	}
	server, stop, err := pgtest.Durable()
	if err != nil {
		fmt.Fprintln(out, "Permissions on PostgreSQL were not measured:", err)
		return nil //nolint:nilerr // reported in the output
	}
	defer stop()
	admin, err := sql.Open("pgx", server)
	if err != nil {
		return err
	}
	defer func() { _ = admin.Close() }()
	for _, name := range []string{"many", "few", "before"} {
		if _, err := admin.ExecContext(ctx, "CREATE DATABASE "+name); err != nil {
			return err
		}
	}
	databases := func(name string) (string, string, string) {
		at, _ := url.Parse(server)
		at.Path = "/" + filepath.Base(name)
		return "pgx", at.String(), at.String()
	}
	return compareAccessOn(ctx, o, out, filepath.Join(dir, "access-postgres"), program, "PostgreSQL", databases)
}

// compareAccessOn is compareAccess on one engine. database returns the driver, the source and the setting of the
// database of a server whose directory has a name.
func compareAccessOn(
	ctx context.Context, o options, out io.Writer, dir, program, engine string,
	database func(name string) (driver, source, setting string),
) error {
	programs := map[string]string{"many": program, "few": program}
	if o.before != "" {
		programs["before"] = o.before
	}
	servers := map[string]*registry{}
	for name, program := range programs {
		at := filepath.Join(dir, name)
		if err := os.MkdirAll(at, 0o700); err != nil {
			return err
		}
		relative, err := filepath.Rel(filepath.Dir(dir), at)
		if err != nil {
			return err
		}
		driver, source, setting := database(relative)
		r, stop, err := startWithUser(ctx, program, at, driver, source, setting)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		defer stop()
		servers[name] = r
		if name == "many" {
			if err := addAccounts(ctx, o, driver, source); err != nil {
				return err
			}
		}
	}
	fmt.Fprintf(out, "\npermissions on %s: many = %d users with %d roles each, few = one user", engine, o.users, o.grants)
	if o.before != "" {
		fmt.Fprintf(out, ", before = %s with one user", filepath.Base(o.before))
	}
	fmt.Fprintln(out)
	measured, err := measureAccess(ctx, o, servers)
	if err != nil {
		return err
	}
	return printAccess(out, measured)
}

// startWithUser starts a server whose database has the user accessUser.
func startWithUser(ctx context.Context, program, dir, driver, source, setting string) (*registry, func(), error) {
	var more []string
	if setting != "" {
		more = append(more, "COUNTERSIGN_DATABASE_URL="+setting)
		migrate := exec.CommandContext(ctx, program, "migrate")
		migrate.Env = append([]string{
			"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "COUNTERSIGN_DATA=" + filepath.Join(dir, "data"),
		}, more...)
		if output, err := migrate.CombinedOutput(); err != nil {
			return nil, nil, fmt.Errorf("migrate: %w: %s", err, output)
		}
	}
	r, stop, err := startProgram(ctx, program, dir, more...)
	if err != nil {
		return nil, nil, err
	}
	hash, err := auth.HashPassword(password)
	if err == nil {
		err = execute(ctx, driver, source, []statement{{`
			INSERT INTO account (username, password_hash, is_staff, is_active, created, updated)
			VALUES ($1, $2, FALSE, TRUE, 1, 1)`, []any{accessUser, hash}}})
	}
	if err != nil {
		stop()
		return nil, nil, err
	}
	r.name, r.user = accessUser, accessUser
	return r, stop, nil
}

type statement struct {
	text      string
	arguments []any
}

// execute runs statements in one transaction.
func execute(ctx context.Context, driver, source string, statements []statement) error {
	db, err := sql.Open(driver, source)
	if err != nil {
		return err
	}
	defer func() { _ = db.Close() }()
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	for _, s := range statements {
		if _, err := tx.ExecContext(ctx, s.text, s.arguments...); err != nil {
			return errors.Join(fmt.Errorf("%.60s: %w", strings.TrimSpace(s.text), err), tx.Rollback())
		}
	}
	return tx.Commit()
}

// addAccounts adds users in groups, namespaces, and roles of the users and the groups in these namespaces.
func addAccounts(ctx context.Context, o options, driver, source string) error {
	const (
		// series has the numbers from 1 to the first argument.
		series = `WITH RECURSIVE series (n) AS (
			SELECT CAST(1 AS BIGINT) UNION ALL SELECT n + 1 FROM series WHERE n < CAST($1 AS BIGINT)) `
		role = `(SELECT id FROM role WHERE name = CASE n % 3
			WHEN 0 THEN 'container.containernamespace_owner' WHEN 1 THEN 'container.containernamespace_collaborator'
			ELSE 'container.containernamespace_consumer' END)`
	)
	roles := o.users * o.grants
	ofGroups := roles / 5
	return execute(ctx, driver, source, []statement{
		{`INSERT INTO namespace (id, name, created, updated) ` + series + `
			SELECT 'ns' || n, 'team' || n, 1, 1 FROM series`, []any{1000}},
		{`INSERT INTO account (username, password_hash, is_staff, is_active, created, updated) ` + series + `
			SELECT 'user' || n, '', FALSE, TRUE, 1, 1 FROM series`, []any{o.users}},
		{`INSERT INTO account_group (name, created, updated) ` + series + `
			SELECT 'group' || n, 1, 1 FROM series`, []any{500}},
		// Each user is in three groups.
		{`INSERT INTO account_group_member (group_id, account_id)
			SELECT g.id, a.id FROM account a JOIN account_group g
			    ON (g.id - a.id) % 500 IN (0, 7, 31) OR (a.id - g.id) % 500 IN (0, 7, 31)`, nil},
		{`INSERT INTO role_assignment (id, role_id, account_id, object, created, updated) ` + series + `
			SELECT 'a' || n, ` + role + `, a.id, 'namespace:ns' || (1 + (n * 7919) % 1000), 1, 1
			  FROM series JOIN account a ON a.username = 'user' || (1 + n % $2)
			 WHERE TRUE ON CONFLICT DO NOTHING`, []any{roles - ofGroups, o.users}},
		{`INSERT INTO role_assignment (id, role_id, group_id, object, created, updated) ` + series + `
			SELECT 'g' || n, ` + role + `, g.id, 'namespace:ns' || (1 + (n / 500) % 1000), 1, 1
			  FROM series JOIN account_group g ON g.name = 'group' || (1 + n % 500)
			 WHERE TRUE ON CONFLICT DO NOTHING`, []any{ofGroups}},
		// The user of the measurement has roles like the others.
		{`INSERT INTO role_assignment (id, role_id, account_id, object, created, updated)
			SELECT 'b' || x.id, x.role_id, b.id, x.object, 1, 1
			  FROM role_assignment x JOIN account a ON a.id = x.account_id AND a.username = 'user1'
			  JOIN account b ON b.username = $1`, []any{accessUser}},
		{`ANALYZE`, nil},
	})
}

// accessRow has the results of a measurement in each round, by the server's name.
type accessRow struct {
	name, unit string
	rates      map[string][]float64
}

// measureAccess measures the servers in each round. The order changes from round to round.
func measureAccess(ctx context.Context, o options, servers map[string]*registry) ([]accessRow, error) {
	rows := []accessRow{
		{name: "manifest GETs, anonymous, public", unit: "/s"}, {name: "manifest GETs, token, public", unit: "/s"},
		{name: "manifest GETs, token, private", unit: "/s"}, {name: "tiny image pushes", unit: "/s"},
	}
	order := slices.Sorted(maps.Keys(servers))
	for i := range rows {
		rows[i].rates = map[string][]float64{}
	}
	for round := range o.rounds {
		sessions := map[string]accessSessions{}
		for _, name := range order {
			s, err := prepareAccess(ctx, o, servers[name], round)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			defer s.public.close()
			sessions[name] = s
		}
		for i := range rows { // each measurement of all servers in turn: they meet the same load of the machine
			for k := range order {
				name := order[(k+round)%len(order)]
				rate, err := sessions[name].measure(ctx, o, i)
				if err != nil {
					return nil, fmt.Errorf("%s: %s: %w", name, rows[i].name, err)
				}
				rows[i].rates[name] = append(rows[i].rates[name], rate)
			}
		}
	}
	return rows, nil
}

// accessSessions are the sessions of one round on one server: with a public repository, a private one, and one to push
// to.
type accessSessions struct{ public, private, pushed *session }

// prepareAccess pushes the images that are read in a round.
func prepareAccess(ctx context.Context, o options, r *registry, round int) (accessSessions, error) {
	var s accessSessions
	for _, one := range []struct {
		to   **session
		name string
		push int
	}{{&s.public, "public", o.pushes}, {&s.private, "private", o.pushes}, {&s.pushed, "pushed", 0}} {
		opened, err := r.open(ctx, o.clients, fmt.Sprintf("%s/%s-%d", accessUser, one.name, round))
		if err != nil {
			return s, err
		}
		*one.to = opened
		if _, err := opened.pushMany(ctx, o.clients, one.push); err != nil {
			return s, err
		}
	}
	return s, s.private.hide(ctx)
}

// measure returns the rate of the measurement with an index in the rows of measureAccess.
func (s accessSessions) measure(ctx context.Context, o options, row int) (float64, error) {
	if row == 3 {
		took, err := s.pushed.pushMany(ctx, o.clients, o.pushes)
		return float64(o.pushes) / took.Seconds(), err
	}
	reads, took, err := []*session{s.public.anonymous(), s.public, s.private}[row].readMany(ctx, o)
	return float64(reads) / took.Seconds(), err
}

// hide makes the repository of a session private.
func (s *session) hide(ctx context.Context) error {
	href, err := s.find(ctx, "distributions/container/container/?name="+url.QueryEscape(s.repository))
	if err == nil {
		_, err = s.taskBy(ctx, http.MethodPatch, href, map[string]any{"private": true})
	}
	return err
}

// printAccess prints the medians of each measurement, with the smallest and the largest value, and the ratios.
func printAccess(out io.Writer, rows []accessRow) error {
	table := tabwriter.NewWriter(out, 0, 8, 3, ' ', tabwriter.AlignRight)
	has := len(rows[0].rates["before"]) > 0
	title := "\tmany\tfew\tmany / few\t"
	if has {
		title += "before\tmany / before\t"
	}
	fmt.Fprintln(table, title)
	for _, r := range rows {
		many, few := r.rates["many"], r.rates["few"]
		line := fmt.Sprintf("%s\t%s\t%s\t%.2f\t", r.name, spread(many, r.unit), spread(few, r.unit), median(many)/median(few))
		if before := r.rates["before"]; has {
			line += fmt.Sprintf("%s\t%.2f\t", spread(before, r.unit), median(many)/median(before))
		}
		fmt.Fprintln(table, line)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	anonymous := median(rows[0].rates["many"])
	_, err := fmt.Fprintf(out, "with many users, a GET with a token has %.2f of the rate of an anonymous one; "+
		"from a private repository %.2f\n",
		median(rows[1].rates["many"])/anonymous, median(rows[2].rates["many"])/anonymous)
	return err
}
