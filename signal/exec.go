package signal

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"
)

const (
	// execGrace is how long a command may take to end by itself once its input has ended, and once
	// more when it has been asked to.
	execGrace = 500 * time.Millisecond

	// execStatus is how long to wait for the exit status of a command whose output has ended.
	execStatus = time.Second
)

// ExecConfig says which command carries the lines. Only Command is needed.
type ExecConfig struct {
	Command string           // for sh -c, or cmd /C on windows
	Stderr  io.Writer        // gets the command's standard error; os.Stderr if nil
	Now     func() time.Time // time.Now if nil
}

// NewExec starts a command and returns a Channel over it: our tokens go to its standard input and
// the peer's come from its standard output, a line each; other lines are skipped. Its standard error
// is ours.
//
// Close ends the command's standard input, gives it a moment to end by itself, ends it and what it
// started, and waits for it. What fails because the command has ended unwraps to its
// *exec.ExitError, if it has a status other than 0.
func NewExec(command string) (Channel, error) {
	return ExecConfig{Command: command}.Start()
}

// Start starts the command; see NewExec.
func (c ExecConfig) Start() (Channel, error) {
	if strings.TrimSpace(c.Command) == "" {
		return nil, errors.New("run a command for signalling: it is empty")
	}
	if c.Stderr == nil {
		c.Stderr = os.Stderr
	}
	x := &execChannel{command: c.Command, exited: make(chan struct{})}
	cmd := shell(c.Command)
	cmd.Stderr = c.Stderr
	// If something the command started keeps its standard error open, the copying ends after this.
	cmd.WaitDelay = execGrace
	// Pipes of our own: what the command has written stays readable after it has ended.
	childIn, in, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("run %q: %v", c.Command, err)
	}
	out, childOut, err := os.Pipe()
	if err != nil {
		childIn.Close()
		in.Close()
		return nil, fmt.Errorf("run %q: %v", c.Command, err)
	}
	cmd.Stdin, cmd.Stdout = childIn, childOut
	err = cmd.Start()
	childIn.Close()
	childOut.Close()
	if err != nil {
		in.Close()
		out.Close()
		return nil, fmt.Errorf("run %q: %v", c.Command, err)
	}
	x.cmd, x.in, x.out = cmd, in, out
	x.paste = newPaste(PasteConfig{In: out, Out: in, Now: c.Now})
	go func() {
		if err := cmd.Wait(); !errors.Is(err, exec.ErrWaitDelay) {
			x.status = err
		}
		close(x.exited)
	}()
	return x, nil
}

// execChannel is a paste between pipes to a command.
type execChannel struct {
	command string
	cmd     *exec.Cmd
	paste   *paste
	in, out *os.File // our ends of its standard input and output

	closing sync.Once
	exited  chan struct{} // closed when the command has been waited for
	status  error         // what Wait returned; valid once exited is closed
}

// Trickles reports false: a command is given one line and gives one back.
func (x *execChannel) Trickles() bool { return false }

func (x *execChannel) Send(ctx context.Context, m Message) error {
	err := x.paste.Send(ctx, m)
	if err == nil || errors.Is(err, ErrTooLong) || x.paste.ended(ctx, "write") != nil || m.Kind > KindAnswer {
		return err
	}
	return x.why(ctx, err)
}

func (x *execChannel) Receive(ctx context.Context) (Message, error) {
	m, err := x.paste.Receive(ctx)
	var e *TokenError
	if errors.As(err, &e) && e.ended {
		err = x.why(ctx, errors.New("it closed its output"))
	}
	return m, err
}

// why returns the exit status of the command, which explains err, or err if it goes on running.
func (x *execChannel) why(ctx context.Context, err error) error {
	t := time.NewTimer(execStatus)
	defer t.Stop()
	select {
	case <-x.exited:
		if x.status != nil {
			return fmt.Errorf("the command %q ended before a token came: %w", x.command, x.status)
		}
		return fmt.Errorf("the command %q ended before a token came", x.command)
	case <-x.paste.closed:
		return x.paste.ended(ctx, "read")
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return fmt.Errorf("the command %q gave no token: %w", x.command, err)
	}
}

// Close ends the command; see NewExec.
func (x *execChannel) Close() error {
	x.closing.Do(func() {
		x.paste.Close()
		x.in.Close()
		if !x.waitExit() {
			terminate(x.cmd)
			if !x.waitExit() {
				kill(x.cmd)
				<-x.exited
			}
		}
		x.out.Close() // ends the read, should something else still hold the other end
		x.paste.lines.wait()
	})
	return nil
}

func (x *execChannel) waitExit() bool {
	t := time.NewTimer(execGrace)
	defer t.Stop()
	select {
	case <-x.exited:
		return true
	case <-t.C:
		return false
	}
}
