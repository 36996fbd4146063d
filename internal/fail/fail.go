// Package fail is the shape of what ends a command: one sentence that says what is wrong, one that says what to do,
// and the exit code. Any package may fail so; only cmd prints.
package fail

import "fmt"

// Exit codes. They are part of the interface: scripts match on them. Those from 3 to 8 and 124 that a meeting or a
// session can fail with are classes of peer.Error too, with the same values.
const (
	Done        = 0
	Other       = 1
	Usage       = 2 // a wrong command line, variable or config file
	Signal      = 3 // signalling failed
	NoPath      = 4
	Auth        = 5
	Refused     = 6 // by the peer's policy, or its target
	Listen      = 7
	Gone        = 8 // the peer was there and is silent now
	Timeout     = 124
	Interrupted = 130
)

// A Failure is what a command ends with when it does not end well.
type Failure struct {
	Code    int
	Message string // no capital, no period
	Hint    string // may be empty

	More []*Failure // what is wrong besides; they end the command with the same code
}

func (f *Failure) Error() string { return f.Message }

// Usagef is a failure that a different command line, variable or file would not have had.
func Usagef(hint, format string, args ...any) *Failure {
	return &Failure{Code: Usage, Message: fmt.Sprintf(format, args...), Hint: hint}
}

// Join makes one failure of several, which keep their order; nil of none. The first gives its code.
func Join(all []*Failure) *Failure {
	if len(all) == 0 {
		return nil
	}
	first := *all[0]
	first.More = append(append([]*Failure(nil), first.More...), all[1:]...)
	return &first
}
