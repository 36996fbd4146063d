package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"adit/internal/netlab"
)

// errSkipped ends a job that cannot run here.
var errSkipped = errors.New("skipped")

// A job is one measurement of one tool: to a lab it is what a test would be. Whatever it started is gone
// when [run] returns, however it ended.
type job struct {
	ctx      context.Context // ends with the job, and with the program
	scenario string
	tool     string
	number   int // of the run, from 1
	log      func(format string, args ...any)

	mu       sync.Mutex
	cleanups []func()
	samples  []sample
	err      error
}

var _ netlab.TB = (*job)(nil)

// run runs f as a job, in a goroutine of its own, and returns what it recorded.
func run(ctx context.Context, j *job, f func()) ([]sample, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	j.ctx = ctx
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		f()
	}()
	<-ended
	for i := len(j.cleanups) - 1; i >= 0; i-- {
		j.cleanups[i]()
	}
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	return j.samples, j.err
}

func (j *job) Helper() {}

// Cleanup makes f one of the things to do when the job is over, last first.
func (j *job) Cleanup(f func()) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.cleanups = append(j.cleanups, f)
}

// Context ends with the job.
func (j *job) Context() context.Context { return j.ctx }

// Failed says whether the job has ended badly.
func (j *job) Failed() bool { return j.err != nil }

// TempDir makes a directory that is removed when the job is over.
func (j *job) TempDir() string {
	dir, err := os.MkdirTemp("", "adit-bench-")
	j.check("make a directory", err)
	j.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// Logf prints a remark.
func (j *job) Logf(format string, args ...any) { j.log(format, args...) }

// Log prints a remark.
func (j *job) Log(args ...any) { j.log("%s", fmt.Sprint(args...)) }

// Fatal ends the job, and must be called from its own goroutine.
func (j *job) Fatal(args ...any) { j.Fatalf("%s", fmt.Sprint(args...)) }

// Fatalf ends the job, and must be called from its own goroutine.
func (j *job) Fatalf(format string, args ...any) {
	j.err = fmt.Errorf(format, args...)
	runtime.Goexit()
}

// Skip ends the job as one that cannot run here.
func (j *job) Skip(args ...any) {
	j.err = fmt.Errorf("%w: %s", errSkipped, fmt.Sprint(args...))
	runtime.Goexit()
}

// check ends the job if err is not nil.
func (j *job) check(what string, err error) {
	if err != nil {
		j.Fatalf("%s: %w", what, err)
	}
}

// pause waits, or ends the job when the program is interrupted.
func (j *job) pause(d time.Duration) {
	select {
	case <-time.After(d):
	case <-j.ctx.Done():
		j.Fatalf("interrupted")
	}
}

// A process is a program that runs inside a host until the job is over.
type process struct {
	j     *job
	cmd   *exec.Cmd
	lines chan string   // of both outputs; what nobody takes is dropped
	ended chan struct{} // closed when it has ended

	mu   sync.Mutex
	tail []string // the last lines, for whoever asks why it failed
}

// start starts a program inside h. It is interrupted when the job is over, then killed.
func (j *job) start(h *netlab.Host, name string, args ...string) *process {
	// Not the job's context: the program should end in good order, and ends with this process anyway.
	cmd := h.Command(context.WithoutCancel(j.ctx), name, args...)
	r, w := io.Pipe()
	cmd.Stdout, cmd.Stderr = w, w
	p := &process{j: j, cmd: cmd, lines: make(chan string, 100), ended: make(chan struct{})}
	j.check("start "+name, cmd.Start())
	go func() {
		s := bufio.NewScanner(r)
		s.Buffer(nil, 1<<20)
		for s.Scan() {
			p.mu.Lock()
			p.tail = append(p.tail, s.Text())
			if len(p.tail) > 20 {
				p.tail = p.tail[1:]
			}
			p.mu.Unlock()
			select {
			case p.lines <- s.Text():
			default: // 100 lines are far more than anybody waits for
			}
		}
		_, _ = io.Copy(io.Discard, r) // after a line of more than a megabyte
	}()
	go func() {
		_ = cmd.Wait() // how it ended is nobody's business: it was told to
		w.Close()
		close(p.ended)
	}()
	j.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGINT)
		if p.gone(3 * time.Second) {
			return
		}
		_ = cmd.Process.Kill()
		<-p.ended
	})
	return p
}

func (p *process) gone(limit time.Duration) bool {
	select {
	case <-p.ended:
		return true
	case <-time.After(limit):
		return false
	}
}

// said returns the last lines it wrote.
func (p *process) said() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return strings.Join(p.tail, "\n")
}

// line returns the first line for which want is true.
func (p *process) line(what string, want func(string) bool) string {
	limit := time.After(20 * time.Second)
	for {
		select {
		case s := <-p.lines:
			if want(s) {
				return s
			}
		case <-p.ended:
			p.j.Fatalf("%s: ended before %s:\n%s", p.cmd.Args[4], what, p.said())
		case <-limit:
			p.j.Fatalf("%s: no %s:\n%s", p.cmd.Args[4], what, p.said())
		case <-p.j.ctx.Done():
			p.j.Fatalf("interrupted")
		}
	}
}

// run runs a program inside h to its end and returns what it wrote to its standard output.
func (j *job) run(h *netlab.Host, stdin, name string, args ...string) string {
	ctx, cancel := context.WithTimeout(j.ctx, 20*time.Second)
	defer cancel()
	cmd := h.Command(ctx, name, args...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.Output()
	if err != nil {
		var said []byte
		if x := (*exec.ExitError)(nil); errors.As(err, &x) {
			said = x.Stderr
		}
		j.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, said)
	}
	return string(out)
}
