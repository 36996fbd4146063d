//go:build unix

package acceptance

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"adit/internal/netlab"
)

// A world is a lab with a rendezvous in it, and the binary to run there.
type world struct {
	t      testing.TB
	lab    *netlab.Lab
	adit   string
	server *process
	signal string // the rendezvous' URL
	stun   string // and its STUN server

	serveAgain func() // starts the rendezvous anew, where and how it ran before
}

// newWorld makes a lab with a rendezvous on a public host of its own.
func newWorld(t testing.TB, opts ...netlab.Option) *world {
	t.Helper()
	path := adit(t)
	w := &world{t: t, adit: path, lab: netlab.New(t, opts...)}
	w.serve(w.lab.Public("rendezvous"))
	return w
}

// serve starts the rendezvous on h.
func (w *world) serve(h *netlab.Host, args ...string) {
	w.t.Helper()
	web, stun := netip.AddrPortFrom(h.Addr(), 8080), netip.AddrPortFrom(h.Addr(), 3478)
	w.signal, w.stun = "http://"+web.String(), stun.String()
	w.serveAgain = func() {
		w.t.Helper()
		w.server = w.run(h, append([]string{"serve", "--http", web.String(), "--stun", stun.String(), "--external-ip", h.Addr().String()}, args...)...)
		w.server.await("listening")
		w.server.await("listening")
	}
	w.serveAgain()
}

// in returns the same world for a subtest.
func (w *world) in(t testing.TB) *world {
	c := *w
	c.t = t
	return &c
}

// run starts adit with --json inside h.
func (w *world) run(h *netlab.Host, args ...string) *process {
	w.t.Helper()
	return w.runWith(h, nil, args...)
}

// runWith is run with settings.
func (w *world) runWith(h *netlab.Host, settings []setting, args ...string) *process {
	w.t.Helper()
	label := args[0]
	args = append([]string{w.adit}, args...)
	return start(w.t, h, label, append(args, "--json", "--config", os.DevNull), settings...)
}

// expose offers targets by code and returns the code too.
func (w *world) expose(h *netlab.Host, args ...string) (*process, string) {
	w.t.Helper()
	p := w.run(h, append([]string{"expose", "--signal", w.signal}, args...)...)
	e, _ := p.await("code")
	return p, e.code()
}

// connect joins by code.
func (w *world) connect(h *netlab.Host, code string, args ...string) *process {
	w.t.Helper()
	return w.run(h, append([]string{"connect", code, "--signal", w.signal}, args...)...)
}

// forward joins by code with one local port, and returns its address when the path is up.
func (w *world) forward(h *netlab.Host, code string, args ...string) (*process, netip.AddrPort) {
	w.t.Helper()
	p := w.connect(h, code, append([]string{"-L", "0"}, args...)...)
	p.await("up")
	e, _ := p.await("listening")
	a, err := netip.ParseAddrPort(e.Addr)
	if err != nil {
		w.t.Fatalf("listening event: %v", err)
	}
	return p, a
}

// ends interrupts both sides of a session, the connecter first, and expects them to end well.
func ends(connecter, exposer *process) {
	connecter.t.Helper()
	connecter.interrupt()
	connecter.exits(130, patience)
	exposer.exits(0, patience) // its peer has left
}

// listen serves TCP inside h with one goroutine a connection, which must return when the connection
// is closed. Everything ends with the test.
func listen(t testing.TB, h *netlab.Host, handle func(net.Conn)) netip.AddrPort {
	t.Helper()
	l, err := h.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	serve(t, l, handle)
	return l.Addr().(*net.TCPAddr).AddrPort()
}

func serve(t testing.TB, l net.Listener, handle func(net.Conn)) {
	conns := make(chan net.Conn)
	done := make(chan struct{})
	go func() {
		defer close(conns)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			conns <- c
		}
	}()
	go func() {
		defer close(done)
		var open []net.Conn
		finished := make(chan struct{})
		for c := range conns {
			open = append(open, c)
			go func() {
				defer func() { finished <- struct{}{} }()
				defer c.Close()
				handle(c)
			}()
		}
		for _, c := range open {
			go func() { _ = c.Close() }() // many have ended by themselves
		}
		for range open {
			<-finished
		}
	}()
	t.Cleanup(func() {
		_ = l.Close()
		<-done
	})
}

// dial connects inside h.
func dial(t testing.TB, h *netlab.Host, to netip.AddrPort) *net.TCPConn {
	t.Helper()
	c, err := h.Dial(t.Context(), "tcp", to)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c.(*net.TCPConn)
}

// command runs a program inside h to its end and returns its standard output; the test ends if it fails.
func command(t testing.TB, h *netlab.Host, args []string, settings ...setting) string {
	t.Helper()
	p := start(t, h, args[0], args, settings...)
	if code := p.exit(2 * time.Minute); code != 0 {
		t.Fatalf("%s: exit code %d: %s", args[0], code, p.err)
	}
	return p.out.String()
}

// tool skips the test where a program is not installed.
func tool(t testing.TB, names ...string) {
	t.Helper()
	for _, n := range names {
		if _, err := exec.LookPath(n); err != nil {
			t.Skipf("needs %s", n)
		}
	}
}

// natural writes a pair of NATs as part of a test's name.
func natural(a, b netlab.NAT) string {
	return strings.ReplaceAll(fmt.Sprintf("%v with %v", a, b), "none", "no NAT")
}
