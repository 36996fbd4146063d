package cmd

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"adit/internal/event"
)

// A family is the processes that the demo started. None of them outlives it.
type family struct {
	ui       *ui
	mu       sync.Mutex
	children []*child // in the order they were started
}

// A child is one process of this binary, run with --json.
type child struct {
	name   string
	cmd    *exec.Cmd
	events chan line // far more than one of the demo's children says; the rest is dropped
	ended  chan struct{}

	// Set before ended is closed.
	err error
}

// A line is one event as it stands in a child's output. Code is a code, or a number in an error.
type line struct {
	event.Event
	Code any `json:"code"`
}

func (l line) code() string { return fmt.Sprint(l.Code) }

func newFamily(u *ui) *family { return &family{ui: u} }

// start runs a command, and shows it as a person would type it.
func (f *family) start(ctx context.Context, args ...string) (*child, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	typed := make([]string, len(args))
	for i, a := range args {
		typed[i] = quoted(a)
	}
	f.ui.say("$ adit %s", strings.Join(typed, " "))
	c := &child{name: args[0], events: make(chan line, 256), ended: make(chan struct{})}
	c.cmd = exec.Command(self, append(args, "--json", "--config", os.DevNull)...)
	c.cmd.Args[0] = "adit"
	c.cmd.Env = plainEnvironment()
	dieWithParent(c.cmd)
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if f.ui.verbose {
		c.cmd.Stderr = logWriter{f.ui}
	}
	if err := c.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", c.name, err)
	}
	f.mu.Lock()
	f.children = append(f.children, c)
	f.mu.Unlock()
	go c.read(out)
	return c, nil
}

// plainEnvironment is the environment without ADIT_ variables, which would change what the demo runs.
func plainEnvironment() []string {
	var out []string
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "ADIT_") {
			out = append(out, v)
		}
	}
	return out
}

// read takes the child's events until its output ends, and then its exit.
func (c *child) read(out io.Reader) {
	defer close(c.ended)
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		var l line
		if json.Unmarshal(lines.Bytes(), &l) != nil {
			continue // not an event
		}
		if l.Name == event.Error {
			c.err = fmt.Errorf("%s: %s", c.name, l.Message)
		}
		select {
		case c.events <- l:
		default:
		}
	}
	if err := c.cmd.Wait(); c.err == nil && err != nil {
		c.err = fmt.Errorf("%s: %w", c.name, err)
	}
}

// await returns the child's next event of that name.
func (c *child) await(ctx context.Context, name string) (line, error) {
	for {
		select {
		case l := <-c.events:
			if l.Name == name {
				return l, nil
			}
		case <-c.ended:
			select {
			case l := <-c.events: // it was said before the end
				if l.Name == name {
					return l, nil
				}
				continue
			default:
			}
			if c.err != nil {
				return line{}, c.err
			}
			return line{}, fmt.Errorf("%s ended early", c.name)
		case <-ctx.Done():
			return line{}, context.Cause(ctx)
		}
	}
}

// end asks the processes to end, the last one first so that each can say goodbye to one that still
// listens, and kills what does not. It returns an error if one had to be killed.
func (f *family) end() error {
	f.mu.Lock()
	children := f.children
	f.children = nil
	f.mu.Unlock()
	var errs []error
	for i := len(children) - 1; i >= 0; i-- {
		c := children[i]
		// Not an interrupt: who is started in the background of a script ignores that.
		if err := c.cmd.Process.Signal(syscall.SIGTERM); err != nil {
			_ = c.cmd.Process.Kill() // where there are no signals, or it has ended already
		}
		patience := time.NewTimer(5 * time.Second)
		select {
		case <-c.ended:
		case <-patience.C:
			_ = c.cmd.Process.Kill() // the wait below notices
			<-c.ended
			errs = append(errs, fmt.Errorf("%s had to be killed", c.name))
		}
		patience.Stop()
	}
	return errors.Join(errs...)
}
