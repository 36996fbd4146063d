package acceptance

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"adit/internal/netlab"
	"adit/internal/testtier"
)

// A terminal is a pseudo terminal: what a person types goes into keys, and what programs write comes out there.
type terminal struct {
	keys *os.File // its other end; closing it is closing the window
	tty  *os.File
}

func newTerminal(t testing.TB) *terminal {
	t.Helper()
	keys, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("needs pseudo terminals: %v", err)
	}
	t.Cleanup(func() { _ = keys.Close() }) // the test may have closed it
	raw, err := keys.SyscallConn()         // Fd would make it one whose reads cannot be ended
	if err != nil {
		t.Fatal(err)
	}
	n, failed := 0, error(nil)
	err = raw.Control(func(fd uintptr) {
		if failed = unix.IoctlSetPointerInt(int(fd), unix.TIOCSPTLCK, 0); failed == nil {
			n, failed = unix.IoctlGetInt(int(fd), unix.TIOCGPTN)
		}
	})
	if err = errors.Join(err, failed); err != nil {
		t.Fatal(err)
	}
	tty, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tty.Close() })
	return &terminal{keys, tty}
}

// window shows what a process writes in the terminal.
func (x *terminal) window() setting {
	return func(c *exec.Cmd) { c.Stdout, c.Stderr = x.tty, x.tty }
}

// attach makes the terminal the controlling one of a process, and its standard input too if it is used there.
func (x *terminal) attach(used bool) setting {
	return func(c *exec.Cmd) {
		if used {
			c.Stdin = x.tty
		}
		c.ExtraFiles = []*os.File{x.tty}
		if c.SysProcAttr == nil {
			c.SysProcAttr = new(syscall.SysProcAttr)
		}
		c.SysProcAttr.Setsid, c.SysProcAttr.Setctty, c.SysProcAttr.Ctty = true, true, 3
	}
}

// TestHangup: SIGHUP has a session look for its peer, on a terminal as well. The end of the terminal ends what
// is used there, and nothing else.
func TestHangup(t *testing.T) {
	testtier.Long(t)
	t.Parallel()
	for _, used := range []bool{true, false} {
		t.Run(fmt.Sprintf("used there %v", used), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			r := newRoaming(w, netlab.PortRestricted)
			echo := listen(t, r.left, func(c net.Conn) { _, _ = io.Copy(c, c) }) // what is missing, the client sees
			_, code := w.expose(r.left, "-v", echo.String())
			x := newTerminal(t)
			p := w.runWith(r.right, []setting{x.attach(used)}, "connect", code, "--signal", w.signal, "-L", "0:"+echo.String(), "-v")
			e, _ := p.await("listening")
			conn := dial(t, r.right, netip.MustParseAddrPort(e.Addr))
			typed := func(text string) {
				t.Helper()
				_ = conn.SetDeadline(time.Now().Add(patience))
				b := make([]byte, len(text))
				if _, err := io.WriteString(conn, text); err != nil {
					t.Fatal(err)
				} else if _, err := io.ReadFull(conn, b); err != nil || string(b) != text {
					t.Fatalf("%q came back: %v, want %q", b, err, text)
				}
			}
			hup := func() { _ = p.cmd.Process.Signal(syscall.SIGHUP) }
			typed("before")

			// Each SIGHUP starts a search at once, whatever is waited for.
			drop(t, r.left, "meta", "l4proto", "udp")
			hup()
			p.says("generation=1")
			if _, err := io.WriteString(conn, "waits"); err != nil {
				t.Fatal(err)
			}
			p.await("interrupted")
			began := time.Now()
			hup()
			p.says("generation=2")
			if took := time.Since(began); took > time.Second {
				t.Errorf("looked for the peer %v after SIGHUP", took)
			}
			heal(t, r.left)
			hup()
			b := make([]byte, 5)
			if _, err := io.ReadFull(conn, b); err != nil || string(b) != "waits" {
				t.Fatalf("%q came back: %v", b, err)
			}
			p.await("up")

			_ = x.tty.Close()
			_ = x.keys.Close() // its session leader is sent SIGHUP
			if used {
				p.exits(130, patience)
				return
			}
			time.Sleep(time.Second) // if it ended, it would within a moment
			typed("after")
			p.interrupt()
			p.exits(130, patience)
		})
	}
}
