//go:build unix

package acceptance

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"adit/internal/netlab"
	"adit/internal/testtier"
)

// flood writes into a connection until that is reset, and tells when.
func flood(c net.Conn) <-chan time.Time {
	reset := make(chan time.Time, 1)
	go func() {
		_ = c.SetWriteDeadline(time.Now().Add(3 * goneLimit))
		for {
			if _, err := c.Write(pattern[:100]); err != nil {
				if !errors.Is(err, os.ErrDeadlineExceeded) {
					reset <- time.Now()
				}
				return
			}
		}
	}()
	return reset
}

func discard(c net.Conn) { _, _ = io.Copy(io.Discard, c) } // a peer that is gone does not mind

// talk writes to who connects, without an end.
func talk(c net.Conn) { <-flood(c) }

// TestKilledNextDoor: where no NAT lies between the two, the machine of a process that was killed says that nobody
// has its port: the streams of the other side are reset after ten to twenty seconds, long before
// --resume-timeout. A process that is only stopped, and a machine without a network, are waited for.
func TestKilledNextDoor(t *testing.T) {
	testtier.Long(t)
	if runtime.GOOS != "linux" {
		t.Skip("only Linux tells of ICMP errors")
	}
	t.Parallel()
	const least, most = 10 * time.Second, 20 * time.Second
	w := newWorld(t)
	type couple struct {
		left, right        *netlab.Host
		exposer, connecter *process
		reset              <-chan time.Time
	}
	pair := func(name string, busyExposer bool) (c couple) {
		c.left, c.right = w.lab.Public(name+"-left"), w.lab.Public(name+"-right")
		handle := discard
		if busyExposer {
			handle = talk
		}
		var code string
		c.exposer, code = w.expose(c.left, listen(t, c.left, handle).String(), "-v")
		var port netip.AddrPort
		c.connecter, port = w.forward(c.right, code, "-v")
		conn := dial(t, c.right, port)
		if busyExposer {
			reset := make(chan time.Time, 1)
			go func() {
				_, err := io.Copy(io.Discard, conn)
				_ = err // an end as good as a reset
				reset <- time.Now()
			}()
			c.reset = reset
		} else {
			c.reset = flood(conn)
		}
		return c
	}
	exposed, connected := pair("exposer", false), pair("connecter", true)
	stopped, cable := pair("stopped", false), pair("cable", false)

	began := time.Now()
	exposed.exposer.kill()
	connected.connecter.kill()
	stopped.exposer.pause()
	command(t, cable.left, []string{"ip", "link", "set", "eth0", "down"})
	select {
	case at := <-exposed.reset:
		t.Logf("the exposer killed: reset after %.1f s", at.Sub(began).Seconds())
		if took := at.Sub(began); took < least || took > most {
			t.Errorf("the exposer killed: reset after %v, want %v to %v", took, least, most)
		}
	case <-time.After(goneLimit):
		t.Error("the exposer killed: no reset")
	}
	for name, p := range map[string]*process{"the exposer killed": exposed.connecter, "the connecter killed": connected.exposer} {
		if e := p.fails(exitGone, goneLimit); !strings.Contains(e.Message, "ended without a word") {
			t.Errorf("%s: %q", name, e.Message)
		}
		t.Logf("%s: ended within %.1f s", name, time.Since(began).Seconds())
	}
	time.Sleep(time.Until(began.Add(35 * time.Second)))
	stopped.exposer.resume()
	command(t, cable.left, []string{"ip", "link", "set", "eth0", "up"})
	for name, c := range map[string]couple{"stopped": stopped, "without a network": cable} {
		select {
		case <-c.reset:
			t.Errorf("%s: reset", name)
		default:
		}
		if c.connecter.gone(0) || c.exposer.gone(0) {
			t.Errorf("%s: it has ended", name)
		}
	}
	stopped.connecter.awaitFor("up", goneLimit)
}

// TestKilledTold: the next adit of a machine tells the peer of the one that was killed, whatever it is: the
// streams of the one who was left are reset with that.
func TestKilledTold(t *testing.T) {
	testtier.Long(t)
	t.Parallel()
	const limit = 5 * time.Second
	w := newWorld(t)
	for _, victim := range []string{"exposer", "connecter"} {
		home := w.keyholder(w.lab.Host(netlab.PortRestricted, netlab.HostOptions{}))
		away := w.keyholder(w.lab.Host(netlab.PortRestricted, netlab.HostOptions{}))
		target := listen(t, home.Host, discard)
		exposer := home.run(w, "expose", target.String(), "--signal", w.signal, "-v")
		e, _ := exposer.await("code")
		connecter := away.run(w, "connect", e.code(), "-L", "0", "--signal", w.signal, "-v")
		connecter.await("up")
		e, _ = connecter.await("listening")
		reset := flood(dial(t, away.Host, netip.MustParseAddrPort(e.Addr)))
		dead, left, machine := exposer, connecter, home
		if victim == "connecter" {
			dead, left, machine = connecter, exposer, away
		}
		machine.leavesWord(t)
		dead.kill()
		dead.gone(patience)
		left.awaitFor("interrupted", patience)
		began := time.Now()
		machine.run(w, "expose", "22", "--signal", w.signal, "-v")
		if e := left.fails(exitGone, goneLimit); !strings.Contains(e.Message, "started again") {
			t.Errorf("%s killed: %q", victim, e.Message)
		}
		took := time.Since(began)
		t.Logf("%s killed: told %.2f s after another was started", victim, took.Seconds())
		if took > limit {
			t.Errorf("%s killed: told only %v after another was started, want %v", victim, took, limit)
		}
		if victim == "exposer" {
			<-reset
		}
	}
}

// leavesWord waits until what is to tell the peer of this process' death is in its file.
func (k *keyholder) leavesWord(t *testing.T) {
	t.Helper()
	for began := time.Now(); ; <-time.After(20 * time.Millisecond) { // a file tells nobody
		if all, _ := filepath.Glob(filepath.Join(k.dir, "adit", "sessions", "*", "*.json")); len(all) > 0 {
			return
		}
		if time.Since(began) > patience {
			t.Fatal("no word is left for the peer")
		}
	}
}

// TestKilledKeepsNoPort: a known peer that was killed and is started again takes its place at once: ports that it had
// opened on the other side are free for it, and what was connected is reset.
func TestKilledKeepsNoPort(t *testing.T) {
	testtier.Long(t)
	t.Parallel()
	const limit = 8 * time.Second
	w := newWorld(t)
	home, away := w.keyholder(w.lab.Host(netlab.PortRestricted, netlab.HostOptions{})), w.keyholder(w.lab.Host(netlab.PortRestricted, netlab.HostOptions{}))
	home.knows(t, map[string]string{"away": away.key})
	file, err := os.OpenFile(filepath.Join(home.dir, "adit", "peers.toml"), os.O_WRONLY|os.O_APPEND, 0)
	if err == nil {
		_, err = file.WriteString("remote = [\"18080\"]\n")
		file.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	away.knows(t, map[string]string{"home": home.key})
	exposer := home.run(w, "expose", "22", "--listen", "--signal", w.signal, "-v")
	exposer.await("reachable")
	target := listen(t, away.Host, discard)
	connect := func() *process {
		p := away.run(w, "connect", "home", "-R", "18080:"+target.String(), "--signal", w.signal, "-v")
		p.awaitFor("up", patience)
		return p
	}
	port := netip.MustParseAddrPort("127.0.0.1:18080")
	open := func() net.Conn {
		t.Helper()
		for deadline := time.Now().Add(patience); ; {
			if c, err := home.Dial(t.Context(), "tcp", port); err == nil {
				return c
			} else if time.Now().After(deadline) {
				t.Fatal(err)
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
	first := connect()
	old := open()
	defer old.Close()
	if _, err := old.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	time.Sleep(3 * time.Second) // nothing waits to be sent
	first.kill()
	first.gone(patience)
	began := time.Now()
	connect()
	_ = old.SetReadDeadline(time.Now().Add(goneLimit))
	if _, err := old.Read(make([]byte, 1)); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("what was connected to the dead is still open")
	}
	took := time.Since(began)
	t.Logf("the old connection ended after %.2f s", took.Seconds())
	c := open()
	defer c.Close()
	if _, err := c.Write([]byte("hello")); err != nil {
		t.Error(err)
	}
	if took > limit {
		t.Errorf("the old connection ended after %v, want %v", took, limit)
	}
}

// TestFreshKeys: each time that a side moves both get fresh keys, while a copy goes on whose bytes are compared.
func TestFreshKeys(t *testing.T) {
	testtier.Long(t)
	t.Parallel()
	w := newWorld(t)
	r := newRoaming(w, netlab.PortRestricted)
	r.start()
	for i, move := range []func(){
		func() { r.right.Move(r.other) },
		func() { r.left.Move(r.another) },
		func() { r.right.Readdress() },
	} {
		move()
		r.back(2 * time.Second)
		for _, p := range []*process{r.exposer, r.connecter} {
			p.says(fmt.Sprintf(`msg="fresh keys" number=%d`, i+1))
		}
	}
	r.end()
}
