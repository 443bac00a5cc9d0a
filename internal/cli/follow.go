package cli

import (
	"context"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/countersign/countersign/internal/apiclient"
	"github.com/countersign/countersign/internal/fault"
)

// Times of a command that waits for a task.
const (
	firstPoll   = 100 * time.Millisecond // between two requests for the task, at first
	lastPoll    = time.Second            // between two requests for a task that runs for long
	maxOutage   = 2 * time.Minute        // for which the server may not answer
	firstNotice = 3 * time.Second        // after which a cause of the delay is named
	lineEvery   = 5 * time.Second        // between two lines about progress, without a terminal
)

// start sends a request that starts a task, and returns the href of the task.
func (s *session) start(ctx context.Context, path string, body any) (string, error) {
	var started struct {
		Task string `json:"task"`
	}
	if err := s.api.Post(ctx, path, body, &started); err != nil {
		return "", err
	}
	if started.Task == "" {
		return "", fmt.Errorf("%s started no task", path)
	}
	return started.Task, nil
}

// waits reports whether a command waits for its tasks. It must if this process runs them.
func (s *session) waits(asked bool) bool {
	if s.local != nil && s.local.RunsTasks && !asked {
		s.notef("no server uses this database: this command runs the task itself")
		return true
	}
	return asked
}

// follow shows the progress of a task until it has ended, and returns it. label names its object. The server may be away for
// some time. If ctx ends before, the task continues.
func (s *session) follow(ctx context.Context, href, label string) (apiclient.Object[task], error) {
	p := &progressView{console: s.console, label: label}
	defer s.err.show("")
	began, answered, noticed, pause := time.Now(), time.Now(), false, firstPoll
	for {
		found, err := s.readTask(ctx, href)
		switch {
		case ctx.Err() != nil:
			return found, s.interrupted(ctx, href)
		case fault.Is(err, fault.Unavailable) && s.local == nil && time.Since(answered) < maxOutage:
			p.unavailable(err)
		case err != nil:
			return found, err
		default:
			answered = time.Now()
			p.update(found.V)
			if found.V.ended() {
				return found, nil
			}
		}
		if err == nil && !noticed && found.V.State == waiting && time.Since(began) > firstNotice {
			noticed = true
			if reason := s.delay(ctx); reason != "" {
				s.notef("task %s waits: %s", lastSegment(href), reason)
			}
		}
		select {
		case <-ctx.Done():
			return found, s.interrupted(ctx, href)
		case <-time.After(pause):
		}
		pause = min(pause*5/4, lastPoll)
	}
}

// interrupted returns the error for a command that a signal ends while it waits.
func (s *session) interrupted(ctx context.Context, href string) error {
	next := fmt.Sprintf("`%s task follow %s` waits for it", s.name, lastSegment(href))
	if s.local != nil && s.local.RunsTasks {
		next = "the next server that uses the database runs it"
	}
	return fmt.Errorf("%w: the task continues, %s", context.Cause(ctx), next)
}

// delay returns the reason for which a task is waiting, or "" if the status shows none.
func (s *session) delay(ctx context.Context) string {
	var v status
	if s.api.Get(ctx, statusPath, nil, &v) != nil || s.local != nil && s.local.RunsTasks {
		return ""
	}
	if len(v.Workers) == 0 {
		return "no worker is online; start a server or a worker with this database"
	}
	for _, service := range v.Services {
		if service.Workers == 0 {
			return fmt.Sprintf("perhaps for the key of the signing service %s, which no worker can use; `%s doctor` shows more", service.Name, s.name)
		}
	}
	return "other tasks are before it, or it will be retried"
}

// progressView shows the progress of a task: as a bar on a terminal, otherwise in lines.
type progressView struct {
	*console
	label string
	last  string // line
	wrote time.Time
	away  bool
}

// unavailable tells, once, that the server does not answer.
func (p *progressView) unavailable(err error) {
	if !p.away {
		p.notef("%v; trying again", err)
	}
	p.away = true
}

// update shows the progress of a task.
func (p *progressView) update(t task) {
	p.away = false
	report, reported := t.current()
	text := t.State
	if reported {
		text = report.text()
	}
	if p.label != "" {
		text = p.label + "  " + text
	}
	text = printable(text)
	if p.err.terminal != nil {
		if !t.ended() {
			p.err.show(bar(text, report, p.err.width()))
		}
		return
	}
	// Lines are for the logs of jobs: not many, and none for a task that ends at once.
	if text == p.last || !reported || t.ended() && p.last == "" || !t.ended() && time.Since(p.wrote) < lineEvery {
		return
	}
	p.last, p.wrote = text, time.Now()
	p.notef("%s", text)
}

// current returns the report that says most about the progress of a task: the last running one, or else the last one.
func (t task) current() (found progress, ok bool) {
	for _, p := range t.Progress {
		if !ok || p.State == "running" || found.State != "running" {
			found, ok = p, true
		}
	}
	return found, ok
}

// bar returns a text with a progress bar that fits into a line. Without a total, the line has the text only.
func bar(text string, p progress, columns int) string {
	const size, least = 30, 20
	if room := columns - 1; utf8.RuneCountInString(text) > room {
		return string([]rune(text)[:max(0, room)])
	}
	room := min(size, columns-1-utf8.RuneCountInString(text)-3)
	if p.Total == nil || *p.Total <= 0 || room < least/2 {
		return text
	}
	done := int(min(p.Done, *p.Total) * int64(room) / *p.Total)
	return text + " [" + strings.Repeat("=", done) + strings.Repeat(" ", room-done) + "]"
}
