//go:build unix

package acceptance

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"adit/internal/netlab"
	"adit/internal/testtier"
)

// patience is how long anything that should happen soon may take on a busy machine.
const patience = time.Minute

// within is how long may take what should take d: ten times as long in the short tier, which must hold on a
// machine that is busy or slow.
func within(d time.Duration) time.Duration {
	if testtier.IsLong() {
		return d
	}
	return 10 * d
}

// A process is one command inside a host. What it writes is kept, and shown if the test fails.
type process struct {
	t     testing.TB
	label string
	cmd   *exec.Cmd
	out   *record
	err   *record
	ended chan struct{} // closed when it has ended and all it wrote is here

	seen int // how many events have been taken; owned by the test
}

// An event is one line of adit's --json output, as a script sees it.
type event struct {
	Name      string   `json:"event"`
	Token     string   `json:"token"`
	Words     []string `json:"words"`
	Path      string   `json:"path"`
	Transport string   `json:"transport"`
	Local     string   `json:"local"`
	Remote    string   `json:"remote"`
	RTT       float64  `json:"rtt_ms"`
	Addr      string   `json:"addr"`
	Target    string   `json:"target"`
	State     string   `json:"state"`
	Message   string   `json:"message"`
	Hint      string   `json:"hint"`
	Code      any      `json:"code"` // a string in "code", a number in "error"
}

func (e event) code() string { return fmt.Sprint(e.Code) }

// A record is a stream that a process writes. Those who wait for more wait on changed.
type record struct {
	mu      sync.Mutex
	data    bytes.Buffer
	times   []time.Time // of each line
	changed chan struct{}
	began   time.Time
}

func newRecord() *record { return &record{changed: make(chan struct{}), began: time.Now()} }

func (r *record) Write(b []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.data.Write(b)
	for range bytes.Count(b, []byte("\n")) {
		r.times = append(r.times, time.Now())
	}
	close(r.changed)
	r.changed = make(chan struct{})
	return len(b), nil
}

// look returns what has been written, and a channel that closes when there is more.
func (r *record) look() (string, <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.data.String(), r.changed
}

func (r *record) String() string {
	s, _ := r.look()
	return s
}

// lines returns the whole lines so far and when each was written.
func (r *record) lines() (lines []string, times []time.Time, more <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := bufio.NewScanner(bytes.NewReader(r.data.Bytes()))
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		lines = append(lines, s.Text())
	}
	return lines[:min(len(lines), len(r.times))], r.times, r.changed
}

// show returns the record as a log, with the time since the process began in front of each line.
func (r *record) show() string {
	lines, times, _ := r.lines()
	var b strings.Builder
	const most = 200
	for i, l := range lines {
		if i == most/2 && len(lines) > most {
			fmt.Fprintf(&b, "    … %d lines\n", len(lines)-most)
		}
		if i >= most/2 && i < len(lines)-most/2 {
			continue
		}
		fmt.Fprintf(&b, "    %6.3f  %.500s\n", times[i].Sub(r.began).Seconds(), l)
	}
	return b.String()
}

// A setting changes how a process is started.
type setting func(*exec.Cmd)

// stdin gives the process its standard input; without it that is empty.
func stdin(f *os.File) setting { return func(c *exec.Cmd) { c.Stdin = f } }

// stdout sends the process's standard output into a file.
func stdout(f *os.File) setting { return func(c *exec.Cmd) { c.Stdout = f } }

// start runs a command inside h. It ends with the test: asked first, then killed.
func start(t testing.TB, h *netlab.Host, label string, args []string, settings ...setting) *process {
	t.Helper()
	ctx := context.WithoutCancel(t.Context()) // the cleanup below ends it, in good order
	p := &process{t: t, label: label, cmd: h.Command(ctx, args[0], args[1:]...), out: newRecord(), err: newRecord(), ended: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = p.out, p.err
	p.cmd.Env = environment()
	for _, s := range settings {
		s(p.cmd)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatalf("start %s: %v", label, err)
	}
	go func() {
		defer close(p.ended)
		_ = p.cmd.Wait() // ProcessState has it
	}()
	t.Cleanup(func() {
		p.stop()
		if t.Failed() {
			t.Logf("%s in %v: %s: %v\n  standard output:\n%s  standard error:\n%s", p.label, h,
				strings.Join(args, " "), p.cmd.ProcessState, p.out.show(), p.err.show())
		}
	})
	return p
}

// environment is that of the test without what would change adit or ssh.
func environment() []string {
	var out []string
	for _, v := range os.Environ() {
		name, _, _ := strings.Cut(v, "=")
		if !strings.HasPrefix(v, "ADIT_") && !strings.HasPrefix(v, "XDG_RUNTIME_DIR=") && !strings.HasPrefix(v, "RUNTIME_DIRECTORY=") && !strings.HasPrefix(v, "SSH_") && !strings.HasSuffix(strings.ToLower(name), "_proxy") {
			out = append(out, v)
		}
	}
	// What one test's networks were like is not to be remembered in another's. A setting may name a place.
	out = append(out, "XDG_STATE_HOME="+filepath.Join(os.DevNull, "none"))
	// Processes of adit find each other there, and none of another test run.
	if path, err := build(); err == nil {
		out = append(out, "XDG_RUNTIME_DIR="+filepath.Join(filepath.Dir(path), "run"))
	}
	return out
}

// stop ends the process: as Ctrl-C does, and for good if that does not help.
func (p *process) stop() {
	_ = p.cmd.Process.Signal(syscall.SIGCONT)
	if p.interrupt(); p.gone(patience) {
		return
	}
	p.t.Errorf("%s did not end by itself", p.label)
	p.kill()
	<-p.ended
}

func (p *process) interrupt() { _ = p.cmd.Process.Signal(os.Interrupt) } // it may have ended
func (p *process) pause()     { _ = p.cmd.Process.Signal(syscall.SIGSTOP) }
func (p *process) resume()    { _ = p.cmd.Process.Signal(syscall.SIGCONT) }
func (p *process) kill()      { _ = p.cmd.Process.Kill() }

// gone waits for the process to end and says whether it did.
func (p *process) gone(limit time.Duration) bool {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-p.ended:
		return true
	case <-timer.C:
		return false
	}
}

// exit waits for the process to end and returns its exit code.
func (p *process) exit(limit time.Duration) int {
	p.t.Helper()
	if !p.gone(limit) {
		p.t.Fatalf("%s has not ended within %v", p.label, limit)
	}
	if status, ok := p.cmd.ProcessState.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return -int(status.Signal())
	}
	return p.cmd.ProcessState.ExitCode()
}

// exits checks how the process ends.
func (p *process) exits(want int, limit time.Duration) {
	p.t.Helper()
	if got := p.exit(limit); got != want {
		p.t.Errorf("%s: exit code %d, want %d", p.label, got, want)
	}
}

// events returns all events so far, from wherever --json put them.
func (p *process) events() (all []event, times []time.Time, more [2]<-chan struct{}) {
	for i, r := range []*record{p.out, p.err} {
		var lines []string
		var at []time.Time
		lines, at, more[i] = r.lines()
		for j, l := range lines {
			var e event
			if strings.HasPrefix(l, "{") && json.Unmarshal([]byte(l), &e) == nil && e.Name != "" {
				all, times = append(all, e), append(times, at[j])
			}
		}
	}
	return all, times, more
}

// await returns the next event of that name, and when it was written. Events in between are passed over.
func (p *process) await(name string) (event, time.Time) {
	p.t.Helper()
	return p.awaitFor(name, patience)
}

func (p *process) awaitFor(name string, limit time.Duration) (event, time.Time) {
	p.t.Helper()
	return p.awaitAny(limit, name)
}

// awaitAny returns the next event of one of these names.
func (p *process) awaitAny(limit time.Duration, names ...string) (event, time.Time) {
	p.t.Helper()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	for last := false; ; {
		all, times, more := p.events()
		for p.seen < len(all) {
			e, at := all[p.seen], times[p.seen]
			p.seen++
			if slices.Contains(names, e.Name) {
				return e, at
			}
		}
		if last {
			p.t.Fatalf("%s ended without an event %q", p.label, names)
		}
		select {
		case <-more[0]:
		case <-more[1]:
		case <-p.ended:
			last = true
		case <-timer.C:
			p.t.Fatalf("%s: no event %q within %v", p.label, names, limit)
		}
	}
}

// count says how many events of that name there have been.
func (p *process) count(name string) (n int) {
	all, _, _ := p.events()
	for _, e := range all {
		if e.Name == name {
			n++
		}
	}
	return n
}

// prints waits until the standard output begins with text.
func (p *process) prints(text string) {
	p.t.Helper()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	for {
		out, more := p.out.look()
		if strings.HasPrefix(out, text) {
			return
		}
		select {
		case <-more:
		case <-timer.C:
			p.t.Fatalf("%s has not printed %q within %v", p.label, text, patience)
		}
	}
}

// says waits for text on standard error.
func (p *process) says(text string) {
	p.t.Helper()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	for {
		s, more := p.err.look()
		if strings.Contains(s, text) {
			return
		}
		select {
		case <-more:
		case <-p.ended:
			if s := p.err.String(); !strings.Contains(s, text) {
				p.t.Fatalf("%s ended without saying %q", p.label, text)
			}
		case <-timer.C:
			p.t.Fatalf("%s has not said %q within %v", p.label, text, patience)
		}
	}
}

// fails checks that the process ends with that exit code and says so in an error event with a hint.
func (p *process) fails(code int, limit time.Duration) event {
	p.t.Helper()
	p.exits(code, limit)
	all, _, _ := p.events()
	for _, e := range all {
		if e.Name != "error" {
			continue
		}
		if e.code() != fmt.Sprint(code) || e.Message == "" || e.Hint == "" {
			p.t.Errorf("%s: error event %+v, want code %d, a message and a hint", p.label, e, code)
		}
		p.t.Logf("%s: %s (%s)", p.label, e.Message, e.Hint)
		return e
	}
	p.t.Errorf("%s: no error event", p.label)
	return event{}
}

// memory returns the resident set of a running process in bytes.
func (p *process) memory() int64 {
	p.t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		p.t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), "VmRSS:")
	var kib int64
	if _, err := fmt.Sscanf(rest, "%d kB", &kib); err != nil {
		p.t.Fatalf("VmRSS of %s: %v", p.label, err)
	}
	return kib << 10
}
