package tasks

import "time"

// Result is the result of an attempt at a task.
type Result string

// The results of attempts. After Returned, Postponed and Left the task runs again.
const (
	Completed Result = "completed"
	Failed    Result = "failed"
	Canceled  Result = "canceled"
	Returned  Result = "returned"  // because the worker is being stopped
	Postponed Result = "postponed" // until a key or another system is available again
	Left      Result = "left"      // until the lease ends, because the database does not answer
	Fenced    Result = "fenced"    // it was canceled, or another worker has claimed it
)

// Results returns all results.
func Results() []Result {
	return []Result{Completed, Failed, Canceled, Returned, Postponed, Left, Fenced}
}

// Observer receives the attempts of a worker at tasks.
type Observer interface {
	// TaskStarted is called before the first statement of an attempt.
	TaskStarted(name string)
	// TaskEnded is called when the result of the attempt is stored, or could not be stored.
	TaskEnded(name string, result Result, took time.Duration)
}

// unobserved is the Observer of workers that have none.
type unobserved struct{}

func (unobserved) TaskStarted(string)                      {}
func (unobserved) TaskEnded(string, Result, time.Duration) {}
