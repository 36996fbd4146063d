package acceptance

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"adit/internal/netlab"
)

// playFor bounds one connection of the table of ends. What has not happened by then is seen as "open".
const playFor = time.Minute

// A program is one end of a connection and what its program does there. What it writes is the pattern, what it reads
// is compared with it.
type program interface {
	write(n int)    // the next n bytes
	read(n int)     // exactly n bytes
	holds(n int)    // waits until n bytes wait unread
	acknowledged()  // waits until the kernel of the other side has all that was written
	finish()        // ends its direction and goes on reading
	close()         // an orderly close; what waits unread makes the kernel reset a TCP connection
	reset()         // close with SO_LINGER 0
	die()           // SIGKILL for the process that holds the connection
	drain() string  // reads to the end: "20000 bytes, end", "20000 bytes, reset", or "20000 bytes, open"
	floods() string // writes until that fails: "write fails"
	fault() string  // what went wrong that should not have
}

// A socketProgram has a TCP connection or a unix socket.
type socketProgram struct {
	host          *netlab.Host
	conn          net.Conn
	wrote, gotten int
	trouble       string
}

func newSocketProgram(h *netlab.Host, c net.Conn) *socketProgram {
	_ = c.SetDeadline(time.Now().Add(playFor)) // it is open
	return &socketProgram{host: h, conn: c}
}

func (p *socketProgram) fault() string { return p.trouble }

func (p *socketProgram) blame(format string, args ...any) {
	if p.trouble == "" {
		p.trouble = fmt.Sprintf(format, args...)
	}
}

// patternAt returns n bytes of the pattern.
func patternAt(at, n int) []byte {
	b := make([]byte, 0, n)
	for len(b) < n {
		part := pattern[(at+len(b))%len(pattern):]
		b = append(b, part[:min(len(part), n-len(b))]...)
	}
	return b
}

func (p *socketProgram) write(n int) {
	m, err := p.conn.Write(patternAt(p.wrote, n))
	p.wrote += m
	if err != nil {
		p.blame("write of %d bytes: %v", n, err)
	}
}

func (p *socketProgram) read(n int) {
	b := make([]byte, n)
	m, err := io.ReadFull(p.conn, b)
	p.took(b[:m])
	if err != nil {
		p.blame("read of %d bytes: %v", n, err)
	}
}

func (p *socketProgram) took(b []byte) {
	if !bytes.Equal(b, patternAt(p.gotten, len(b))) {
		p.blame("other bytes than were written, from %d on", p.gotten)
	}
	p.gotten += len(b)
}

func (p *socketProgram) holds(n int) { p.awaitQueue(unix.SIOCINQ, func(v int) bool { return v >= n }) }

func (p *socketProgram) acknowledged() {
	p.awaitQueue(unix.SIOCOUTQ, func(v int) bool { return v == 0 })
}

// awaitQueue waits for what the kernel says of a queue. There is no event for it.
func (p *socketProgram) awaitQueue(request uint, ok func(int) bool) {
	raw, err := p.conn.(syscall.Conn).SyscallConn()
	if err != nil {
		p.blame("%v", err)
		return
	}
	awaitCount(raw, request, ok, p.blame)
}

func awaitCount(raw syscall.RawConn, request uint, ok func(int) bool, blame func(string, ...any)) {
	for deadline := time.Now().Add(playFor); ; time.Sleep(time.Millisecond) {
		v, err := 0, error(nil)
		if e := raw.Control(func(fd uintptr) { v, err = unix.IoctlGetInt(int(fd), request) }); e != nil {
			err = e
		}
		switch {
		case err != nil:
			blame("look at the queue: %v", err)
			return
		case ok(v):
			return
		case time.Now().After(deadline):
			blame("the queue still has %d bytes", v)
			return
		}
	}
}

func (p *socketProgram) finish() {
	if err := p.conn.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		p.blame("shutdown: %v", err)
	}
}

func (p *socketProgram) close() { _ = p.conn.Close() } // it may be closed

func (p *socketProgram) reset() {
	if c, ok := p.conn.(*net.TCPConn); ok {
		_ = c.SetLinger(0) // it may be dead already
	}
	p.close()
}

func (p *socketProgram) die() {
	f, err := p.conn.(interface{ File() (*os.File, error) }).File()
	if err != nil {
		p.blame("%v", err)
		return
	}
	holder := p.host.Command(context.Background(), "sleep", "1000")
	holder.ExtraFiles = []*os.File{f}
	if err := holder.Start(); err != nil {
		p.blame("%v", err)
	} else {
		p.close()
		_ = f.Close()
		_ = holder.Process.Kill()
		_ = holder.Wait() // it says that it was killed
		return
	}
	_ = f.Close()
}

func (p *socketProgram) drain() string {
	b := make([]byte, 64<<10)
	for {
		n, err := p.conn.Read(b)
		p.took(b[:n])
		if err != nil {
			return fmt.Sprintf("%d bytes, %s", p.gotten, seen(err))
		}
	}
}

// seen names how reading ended.
func seen(err error) string {
	switch {
	case errors.Is(err, io.EOF):
		return "end"
	case errors.Is(err, syscall.ECONNRESET):
		return "reset"
	case errors.Is(err, os.ErrDeadlineExceeded):
		return "open"
	}
	return err.Error()
}

func (p *socketProgram) floods() string {
	b := make([]byte, 16<<10)
	for {
		_, err := p.conn.Write(b)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			return "write blocks"
		case errors.Is(err, syscall.EPIPE), errors.Is(err, syscall.ECONNRESET):
			return "write fails"
		case err != nil:
			return err.Error()
		}
	}
}

// A pipedProgram has the standard input and output of "adit connect NAME -W". It sees an end where the output ends and
// the exit code is 0, and a reset where it is another.
type pipedProgram struct {
	socketProgram // its conn is nil
	cmd           *exec.Cmd
	in, out       *os.File
}

func (p *pipedProgram) write(n int) {
	m, err := p.in.Write(patternAt(p.wrote, n))
	p.wrote += m
	if err != nil {
		p.blame("write of %d bytes: %v", n, err)
	}
}

func (p *pipedProgram) read(n int) {
	b := make([]byte, n)
	m, err := io.ReadFull(p.out, b)
	p.took(b[:m])
	if err != nil {
		p.blame("read of %d bytes: %v", n, err)
	}
}

func (p *pipedProgram) holds(n int) {
	raw, err := p.out.SyscallConn()
	if err != nil {
		p.blame("%v", err)
		return
	}
	awaitCount(raw, unix.SIOCINQ, func(v int) bool { return v >= n }, p.blame)
}

func (p *pipedProgram) acknowledged() { p.blame("a pipe knows no acknowledgements") }
func (p *pipedProgram) finish()       { _ = p.in.Close() } // it is open
func (p *pipedProgram) close()        { _, _ = p.in.Close(), p.out.Close() }
func (p *pipedProgram) reset()        { p.blame("a pipe knows no reset") }
func (p *pipedProgram) die()          { p.close() } // the kernel closes both

func (p *pipedProgram) drain() string {
	b := make([]byte, 64<<10)
	for {
		n, err := p.out.Read(b)
		p.took(b[:n])
		switch {
		case errors.Is(err, io.EOF):
			_ = p.cmd.Wait()
			how := "end"
			if p.cmd.ProcessState.ExitCode() != 0 {
				how = "reset"
			}
			return fmt.Sprintf("%d bytes, %s", p.gotten, how)
		case err != nil:
			return fmt.Sprintf("%d bytes, %s", p.gotten, seen(err))
		}
	}
}

func (p *pipedProgram) floods() string {
	b := make([]byte, 16<<10)
	for {
		_, err := p.in.Write(b)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			return "write blocks"
		case errors.Is(err, syscall.EPIPE):
			return "write fails"
		case err != nil:
			return err.Error()
		}
	}
}

// gone ends the process, whatever it does.
func (p *pipedProgram) gone() {
	p.close()
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait() // it may have ended, and been waited for
}

// What a route of the table leads to.
type destination int

const (
	toServer  destination = iota // a server of the table
	toNothing                    // a port at which nobody listens
	toSilence                    // an address from which nothing comes back
	destinations
)

// A route is one way from a client to a server.
type route struct {
	name    string
	direct  bool // without any tunnel
	foreign bool // of ssh: shown, not judged
	unix    bool
	pipe    bool
	client  *netlab.Host
	server  *netlab.Host
	dial    func(to destination, small bool) (program, error)
}

// An endsLab is two hosts, or one, with a session of adit and one of ssh between them, and servers behind both.
type endsLab struct {
	t           testing.TB
	w           *world
	left, right *netlab.Host
	dir         string
	ssh         *sshServer
	routes      []*route
	exposer     *process
	connecter   *process

	name    string // of the session that -W uses
	next    atomic.Uint32
	mu      sync.Mutex
	waiting map[uint32]chan net.Conn // capacity 1: a connection comes once
}

// The ports of an endsLab, from which those of its destinations count. Nothing else has any in these namespaces.
const (
	serverPort  = 4100
	localPort   = 4200 // -L
	remotePort  = 4300 // -R
	socksPort   = 4400
	secureShell = 4500 // ssh -L
)

// newEndsLab joins two hosts by a link with that loss and delay, or uses one host for both, and has a session of adit
// and one of ssh between them. More forwards are made for the ports named.
func newEndsLab(t testing.TB, link *netlab.LinkConfig, more ...uint16) *endsLab {
	t.Helper()
	l := newBareLab(t, link)
	l.ssh = newSSHServer(t, l.left)
	l.join(more)
	return l
}

// newBareLab is newEndsLab without sessions.
func newBareLab(t testing.TB, link *netlab.LinkConfig) *endsLab {
	t.Helper()
	path := adit(t)
	l := &endsLab{t: t, dir: t.TempDir(), waiting: make(map[uint32]chan net.Conn)}
	l.name = fmt.Sprintf("table%x", fnv1a(l.dir)) // tests at the same time share one directory of running sessions
	lab := netlab.New(t)
	if link != nil {
		l.left, l.right = lab.Link(*link)
	} else {
		l.left = lab.Public("both")
		l.right = l.left
	}
	l.w = &world{t: t, adit: path, lab: lab}
	l.w.serve(l.left)
	for i, h := range l.hosts() {
		// A connection to silence times out after three seconds.
		command(t, h, []string{"sysctl", "-qw", "net.ipv4.tcp_syn_retries=1"})
		command(t, h, []string{"ip", "neigh", "replace", l.silent().String(), "lladdr", "02:00:00:00:00:99", "dev", "eth0"})
		l.serve(h, "tcp4", fmt.Sprintf("0.0.0.0:%d", serverPort))
		l.serve(h, "unix", l.socket(fmt.Sprint("server", i)))
	}
	return l
}

func fnv1a(s string) uint32 {
	h := fnv.New32a()
	_, _ = io.WriteString(h, s) // never fails
	return h.Sum32()
}

func (l *endsLab) hosts() []*netlab.Host {
	if l.left == l.right {
		return []*netlab.Host{l.left}
	}
	return []*netlab.Host{l.left, l.right}
}

func (l *endsLab) socket(name string) string { return filepath.Join(l.dir, name+".sock") }

// silent is an address beside the left host's at which there is nobody.
func (l *endsLab) silent() netip.Addr {
	a := l.left.Addr().As4()
	a[3] = 99
	return netip.AddrFrom4(a)
}

// at is a destination as seen from the server's own host.
func (l *endsLab) at(to destination) string {
	switch to {
	case toSilence:
		return fmt.Sprintf("%v:%d", l.silent(), serverPort)
	case toNothing:
		return fmt.Sprintf("127.0.0.1:%d", serverPort+1)
	}
	return fmt.Sprintf("127.0.0.1:%d", serverPort)
}

// serve takes connections. Each says first which player waits for it.
func (l *endsLab) serve(h *netlab.Host, network, addr string) {
	l.t.Helper()
	listener, err := h.Listen(network, addr)
	if err != nil {
		l.t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			go l.accepted(c)
		}
	}()
	l.t.Cleanup(func() { _ = listener.Close(); <-done })
}

func (l *endsLab) accepted(c net.Conn) {
	_ = c.SetDeadline(time.Now().Add(playFor)) // it is open
	var id [4]byte
	if _, err := io.ReadFull(c, id[:]); err != nil {
		_ = c.Close()
		return
	}
	l.mu.Lock()
	ch := l.waiting[binary.BigEndian.Uint32(id[:])]
	delete(l.waiting, binary.BigEndian.Uint32(id[:]))
	l.mu.Unlock()
	if ch == nil {
		_ = c.Close()
		return
	}
	ch <- c
}

// join starts the sessions and lists the routes.
func (l *endsLab) join(more []uint16) {
	t := l.t
	t.Helper()
	none := l.socket("none")
	expose := []string{"--allow-dynamic", "*", l.socket("server0"), none}
	connect := []string{"--share", l.name, "-D", fmt.Sprint(socksPort),
		"-L", l.socket("front") + ":" + l.socket("server0"), "-L", l.socket("front-none") + ":" + none}
	forwards := []string{"ssh", "-N", "-o", "ExitOnForwardFailure=yes"}
	forwards = append(forwards, l.ssh.options()...)
	for to := range destinations {
		i := int(to)
		expose = append(expose, l.at(to), "--allow-remote", fmt.Sprint(remotePort+i))
		connect = append(connect, "-L", fmt.Sprintf("%d:%s", localPort+i, l.at(to)), "-R", fmt.Sprintf("%d:%s", remotePort+i, l.at(to)))
		forwards = append(forwards, "-L", fmt.Sprintf("%d:%s", secureShell+i, l.at(to)))
	}
	for _, port := range more {
		expose = append(expose, fmt.Sprintf("127.0.0.1:%d", port), "--allow-remote", fmt.Sprint(port+2000))
		connect = append(connect, "-L", fmt.Sprintf("%d:127.0.0.1:%d", port+1000, port), "-R", fmt.Sprintf("%d:127.0.0.1:%d", port+2000, port),
			"-L", fmt.Sprintf("%s:127.0.0.1:%d", l.front(port), port))
		forwards = append(forwards, "-L", fmt.Sprintf("%d:127.0.0.1:%d", port+3000, port))
	}
	var code string
	l.exposer, code = l.w.expose(l.left, expose...)
	l.connecter = l.w.connect(l.right, code, connect...)
	l.connecter.await("up")
	start(t, l.right, "ssh -L", append(forwards, "-p", fmt.Sprint(sshPort), l.ssh.user+"@"+l.left.Addr().String()))
	last := []int{secureShell + int(destinations) - 1, remotePort + int(destinations) - 1}
	for i, h := range []*netlab.Host{l.right, l.left} {
		waitFor(t, func() bool { // it listens there last
			c, err := h.Dial(t.Context(), "tcp", netip.AddrPortFrom(loopback, uint16(last[i])))
			if err == nil {
				_ = c.Close()
			}
			return err == nil
		})
	}
	socks := netip.AddrPortFrom(loopback, socksPort)
	l.routes = []*route{
		{name: "direct", direct: true, client: l.right, server: l.left, dial: func(to destination, small bool) (program, error) {
			at := netip.MustParseAddrPort(l.at(to))
			if to != toSilence {
				at = netip.AddrPortFrom(l.left.Addr(), at.Port())
			}
			return l.dialTCP(l.right, at, small)
		}},
		{name: "direct, unix", direct: true, unix: true, client: l.right, server: l.left, dial: func(to destination, _ bool) (program, error) {
			return l.dialUnix(l.right, [...]string{l.socket("server0"), none}[to])
		}},
		{name: "ssh -L", foreign: true, client: l.right, server: l.left, dial: l.ports(l.right, secureShell)},
		{name: "-L", client: l.right, server: l.left, dial: l.ports(l.right, localPort)},
		{name: "-R", client: l.left, server: l.right, dial: l.ports(l.left, remotePort)},
		{name: "-D", client: l.right, server: l.left, dial: func(to destination, small bool) (program, error) {
			p, err := l.dialTCP(l.right, socks, small)
			if err != nil {
				return nil, err
			}
			if err := askSOCKS(p.conn, netip.MustParseAddrPort(l.at(to))); err != nil {
				p.close()
				return nil, err
			}
			return p, nil
		}},
		{name: "-W", pipe: true, client: l.right, server: l.left, dial: func(to destination, _ bool) (program, error) {
			return l.pipe(l.at(to))
		}},
		{name: "-L, unix", unix: true, client: l.right, server: l.left, dial: func(to destination, _ bool) (program, error) {
			return l.dialUnix(l.right, [...]string{l.socket("front"), l.socket("front-none")}[to])
		}},
	}
}

var loopback = netip.MustParseAddr("127.0.0.1")

// front is a socket that leads to a port of the server's host. PostgreSQL's clients look for one of this name.
func (l *endsLab) front(port uint16) string {
	return filepath.Join(l.dir, fmt.Sprint(".s.PGSQL.", port))
}

func (l *endsLab) ports(h *netlab.Host, first int) func(destination, bool) (program, error) {
	return func(to destination, small bool) (program, error) {
		return l.dialTCP(h, netip.AddrPortFrom(loopback, uint16(first+int(to))), small)
	}
}

// dialTCP connects, with a receive buffer as small as there is if small is set.
func (l *endsLab) dialTCP(h *netlab.Host, to netip.AddrPort, small bool) (*socketProgram, error) {
	var c net.Conn
	err := h.Do(func() (err error) {
		d := net.Dialer{Timeout: playFor}
		if small {
			d.Control = func(_, _ string, raw syscall.RawConn) error {
				return raw.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, 4096) })
			}
		}
		c, err = d.Dial("tcp", to.String())
		return err
	})
	if err != nil {
		return nil, err
	}
	return newSocketProgram(h, c), nil
}

func (l *endsLab) dialUnix(h *netlab.Host, path string) (program, error) {
	c, err := net.DialTimeout("unix", path, playFor)
	if err != nil {
		return nil, err
	}
	return newSocketProgram(h, c), nil
}

// askSOCKS asks for an address.
func askSOCKS(c net.Conn, to netip.AddrPort) error {
	request := []byte{5, 1, 0, 5, 1, 0, 1}
	request = append(request, to.Addr().AsSlice()...)
	request = binary.BigEndian.AppendUint16(request, to.Port())
	if _, err := c.Write(request); err != nil {
		return err
	}
	var answer [2 + 10]byte
	if _, err := io.ReadFull(c, answer[:]); err != nil {
		return err
	}
	if code := answer[3]; code != 0 {
		return socksError(code)
	}
	return nil
}

// A socksError is the code of a refusal (RFC 1928 section 6).
type socksError byte

func (e socksError) Error() string { return fmt.Sprintf("SOCKS %d", byte(e)) }

// pipe starts a process that has a stream of the running session at its standard input and output.
func (l *endsLab) pipe(target string) (program, error) {
	p := &pipedProgram{cmd: l.right.Command(context.Background(), l.w.adit, "connect", l.name, "-W", target, "--config", os.DevNull)}
	p.cmd.Env = environment()
	in, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer in.Close()
	r, out, err := os.Pipe()
	if err != nil {
		_ = w.Close()
		return nil, err
	}
	defer out.Close()
	p.in, p.out, p.cmd.Stdin, p.cmd.Stdout = w, r, in, out
	for _, f := range []*os.File{w, r} {
		_ = f.SetDeadline(time.Now().Add(playFor)) // pipes have them
	}
	if err := p.cmd.Start(); err != nil {
		p.close()
		return nil, err
	}
	return p, nil
}

// connect returns both ends of a connection by r, each with its program.
func (l *endsLab) connect(r *route, small bool) (client, server program, err error) {
	id := l.next.Add(1)
	ch := make(chan net.Conn, 1)
	l.mu.Lock()
	l.waiting[id] = ch
	l.mu.Unlock()
	client, err = r.dial(toServer, small)
	if err != nil {
		return nil, nil, err
	}
	hello := binary.BigEndian.AppendUint32(nil, id)
	if p, ok := client.(*pipedProgram); ok {
		_, err = p.in.Write(hello)
	} else {
		_, err = client.(*socketProgram).conn.Write(hello)
	}
	if err == nil {
		select {
		case c := <-ch:
			return client, newSocketProgram(r.server, c), nil
		case <-time.After(playFor):
			err = errors.New("the connection did not reach the server")
		}
	}
	part(client)
	return nil, nil, err
}

// part gives up what an end still holds.
func part(p program) {
	if w, ok := p.(*pipedProgram); ok {
		w.gone()
		return
	}
	p.close()
}
