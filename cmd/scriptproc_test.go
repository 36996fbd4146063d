package cmd

import (
	"bytes"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

const (
	procsKey = "processes"
	heldKey  = "connections"

	// patience is how long a script waits for what it expects: long enough for the 30 s after which a
	// silent peer counts as gone.
	patience = 2 * time.Minute
)

// A proc is a program that a script runs aside.
type proc struct {
	cmd      *exec.Cmd
	in       io.WriteCloser
	out, err *output
	ended    chan struct{} // closed when it has been waited for
}

// output holds what a program printed and tells who waits for more.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
	more chan struct{} // closed and replaced at each write
}

func newOutput() *output { return &output{more: make(chan struct{})} }

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	close(o.more)
	o.more = make(chan struct{})
	return o.text.Write(b)
}

func (o *output) read() (string, <-chan struct{}) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String(), o.more
}

func procs(ts *testscript.TestScript) map[string]*proc {
	return ts.Value(procsKey).(map[string]*proc)
}

func procNamed(ts *testscript.TestScript, name string) *proc {
	p := procs(ts)[name]
	if p == nil {
		ts.Fatalf("no process %q", name)
	}
	return p
}

func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE PROGRAM ARGS…")
	}
	checkExit(ts, args[0], args[1], ts.Exec(args[1], args[2:]...))
}

func checkExit(ts *testscript.TestScript, want, name string, err error) {
	got := 0
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		got = exit.ExitCode()
	} else if err != nil {
		ts.Fatalf("%s: %v", name, err)
	}
	if strconv.Itoa(got) != want {
		ts.Fatalf("%s ended with %d, want %s", name, got, want)
	}
}

func start(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: start NAME PROGRAM ARGS…")
	}
	// The shell looks the program up in the script's PATH, and becomes it.
	p := &proc{out: newOutput(), err: newOutput(), ended: make(chan struct{})}
	p.cmd = exec.Command("/bin/sh", append([]string{"-c", `exec "$@"`, "sh"}, args[1:]...)...)
	p.cmd.Dir = ts.MkAbs(".")
	p.cmd.Env = scriptEnv(ts)
	p.cmd.Stdout, p.cmd.Stderr = p.out, p.err
	p.cmd.WaitDelay = 5 * time.Second // if what it started holds on to its output
	var err error
	p.in, err = p.cmd.StdinPipe()
	ts.Check(err)
	ts.Check(p.cmd.Start())
	go func() {
		defer close(p.ended)
		_ = p.cmd.Wait() // awaits looks at the state
	}()
	procs(ts)[args[0]] = p
	ts.Defer(func() {
		_ = p.cmd.Process.Kill() // it may have ended
		<-p.ended
		out, _ := p.out.read()
		errs, _ := p.err.read()
		ts.Logf("[%s]\n%s%s", args[0], out, errs)
	})
}

func scriptEnv(ts *testscript.TestScript) []string {
	var env []string
	for _, v := range os.Environ() {
		name, _, _ := strings.Cut(v, "=")
		if !strings.HasPrefix(name, "ADIT_") && name != "PATH" && name != "HOME" && name != "TMPDIR" && !strings.HasPrefix(name, "XDG_") {
			env = append(env, v)
		}
	}
	for _, name := range []string{"PATH", "HOME", "XDG_CONFIG_HOME", "XDG_RUNTIME_DIR", "XDG_STATE_HOME", "TMPDIR", "SIGNAL", "http_proxy", "https_proxy", "no_proxy"} {
		env = append(env, name+"="+ts.Getenv(name))
	}
	return env
}

// says waits for output; negated it looks at once.
func says(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 3 {
		ts.Fatalf("usage: says NAME out|err PATTERN [VAR]")
	}
	p := procNamed(ts, args[0])
	o := p.out
	if args[1] == "err" {
		o = p.err
	}
	pattern, err := regexp.Compile(`(?m)` + args[2])
	ts.Check(err)
	limit := time.NewTimer(patience)
	defer limit.Stop()
	ended := p.ended
	for last := false; ; {
		text, more := o.read()
		m := pattern.FindStringSubmatch(text)
		switch {
		case neg && m != nil:
			ts.Fatalf("%s printed %q", args[0], m[0])
		case neg:
			return
		case m != nil:
			if len(args) > 3 {
				ts.Setenv(args[3], m[len(m)-1])
			}
			return
		case last:
			ts.Fatalf("%s ended without printing %q", args[0], args[2])
		}
		select {
		case <-more:
		case <-ended:
			last = true
		case <-limit.C:
			ts.Fatalf("%s does not print %q", args[0], args[2])
		}
	}
}

func feed(ts *testscript.TestScript, _ bool, args []string) {
	p := procNamed(ts, args[0])
	if len(args) == 1 {
		ts.Check(p.in.Close())
		return
	}
	_, err := io.WriteString(p.in, strings.Join(args[1:], " ")+"\n")
	ts.Check(err)
}

func signals(ts *testscript.TestScript, _ bool, args []string) {
	for _, name := range args[1:] {
		s, known := map[string]os.Signal{"INT": os.Interrupt, "TERM": syscall.SIGTERM, "KILL": os.Kill, "HUP": syscall.SIGHUP}[name]
		if !known {
			ts.Fatalf("no signal %s", name)
		}
		ts.Check(procNamed(ts, args[0]).cmd.Process.Signal(s))
	}
}

func awaits(ts *testscript.TestScript, _ bool, args []string) {
	p := procNamed(ts, args[1])
	select {
	case <-p.ended:
	case <-time.After(patience):
		ts.Fatalf("%s does not end", args[1])
	}
	if got := strconv.Itoa(p.cmd.ProcessState.ExitCode()); got != args[0] {
		ts.Fatalf("%s ended with %s, want %s", args[1], got, args[0])
	}
}

func echoServer(ts *testscript.TestScript, _ bool, args []string) {
	l, port := listenTCP(ts)
	ts.Setenv(args[0], port)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				_, _ = io.Copy(c, c) // a client that resets is its own business
			})
		}
	})
	ts.Defer(func() {
		l.Close()
		wg.Wait()
	})
}

func echo(ts *testscript.TestScript, neg bool, args []string) {
	got, err := roundTrip("127.0.0.1:"+args[0], args[1])
	if same := err == nil && got == args[1]; same == neg {
		ts.Fatalf("got %q, %v back", got, err)
	}
}

// hold opens a connection to a port and keeps it.
func hold(ts *testscript.TestScript, _ bool, args []string) {
	c, err := net.Dial("tcp", "127.0.0.1:"+args[1])
	ts.Check(err)
	ts.Defer(func() { c.Close() })
	held(ts)[args[0]] = c
}

// talk sends text over a held connection and wants it back; negated it wants the connection to be gone.
func talk(ts *testscript.TestScript, neg bool, args []string) {
	c := held(ts)[args[0]]
	if c == nil {
		ts.Fatalf("there is no connection %s", args[0])
	}
	ts.Check(c.SetDeadline(time.Now().Add(patience)))
	_, err := io.WriteString(c, args[1])
	got := make([]byte, len(args[1]))
	if err == nil {
		_, err = io.ReadFull(c, got)
	}
	if same := err == nil && string(got) == args[1]; same == neg {
		ts.Fatalf("got %q, %v back", got, err)
	}
}

func held(ts *testscript.TestScript) map[string]net.Conn {
	return ts.Value(heldKey).(map[string]net.Conn)
}

func roundTrip(addr, text string) (string, error) {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return "", err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		return "", err
	}
	if _, err := io.WriteString(c, text); err != nil {
		return "", err
	}
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		return "", err
	}
	b, err := io.ReadAll(c)
	return string(b), err
}

func hole(ts *testscript.TestScript, _ bool, args []string) {
	l, port := listenTCP(ts)
	ts.Setenv(args[0], port)
	ts.Defer(func() { l.Close() })
}

func listenTCP(ts *testscript.TestScript) (net.Listener, string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	return l, strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
}

// webServer starts a server that answers every request, and not as a rendezvous does.
func webServer(ts *testscript.TestScript, _ bool, args []string) {
	s := httptest.NewUnstartedServer(http.FileServer(http.Dir(ts.MkAbs("."))))
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	if args[1] == "tls" {
		s.StartTLS()
	} else {
		s.Start()
	}
	ts.Defer(s.Close)
	ts.Setenv(args[0], strconv.Itoa(s.Listener.Addr().(*net.TCPAddr).Port))
}

// free finds a port for a program that cannot choose one.
func free(ts *testscript.TestScript, _ bool, args []string) {
	l, port := listenTCP(ts)
	ts.Check(l.Close())
	ts.Setenv(args[0], port)
}

// untilDone runs a program until it succeeds.
func untilDone(ts *testscript.TestScript, _ bool, args []string) {
	for limit := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		err := ts.Exec(args[0], args[1:]...)
		if err == nil {
			return
		}
		if time.Now().After(limit) {
			ts.Fatalf("%s: %v", args[0], err)
		}
	}
}
