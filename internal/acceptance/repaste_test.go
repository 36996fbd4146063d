//go:build unix

package acceptance

import (
	"io"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"adit/internal/netlab"
	"adit/internal/testtier"
)

// TestRepaste: two that met by pasted lines move at the same moment, and there is no rendezvous. Each shows another
// line, which is pasted at the other side, and the streams go on.
func TestRepaste(t *testing.T) {
	testtier.Long(t)
	t.Parallel()
	w := newWorld(t)
	nat := func() *netlab.Host { return w.lab.Host(netlab.PortRestricted, netlab.HostOptions{}) }
	left, right := nat(), nat()
	echo := listen(t, left, func(c net.Conn) { _, _ = io.Copy(c, c) })
	r, toExposer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close(); toExposer.Close() })
	exposer := w.runWith(left, []setting{stdin(r)}, "expose", "--signal", "paste", "--stun", w.stun, "-v", echo.String())
	e, _ := exposer.await("token")
	r2, toConnecter := input(t, e.Token)
	connecter := w.runWith(right, []setting{stdin(r2)}, "connect", "--signal", "paste", "--stun", w.stun, "-v", "-L", "0")
	e, _ = connecter.await("token")
	if _, err := io.WriteString(toExposer, e.Token+"\n"); err != nil {
		t.Fatal(err)
	}
	connecter.await("up")
	exposer.await("up")
	e, _ = connecter.await("listening")
	conn := dial(t, right, netip.MustParseAddrPort(e.Addr))
	says := func(text string) {
		t.Helper()
		if _, err := io.WriteString(conn, text); err != nil {
			t.Fatal(err)
		}
		_ = conn.SetReadDeadline(time.Now().Add(patience))
		b := make([]byte, len(text))
		if _, err := io.ReadFull(conn, b); err != nil || string(b) != text {
			t.Fatalf("got %q, %v, want %q", b, err, text)
		}
	}
	says("before")
	for _, round := range []string{"first", "second"} {
		left.Move(nat())
		right.Move(nat())
		if _, err := io.WriteString(conn, round); err != nil { // it waits
			t.Fatal(err)
		}
		for _, p := range []*process{exposer, connecter} {
			p.awaitFor("interrupted", goneLimit)
		}
		mine, _ := exposer.awaitFor("token", goneLimit)
		theirs, _ := connecter.awaitFor("token", goneLimit)
		if len(mine.Token) > 900 || mine.State != "again" {
			t.Errorf("token event %+v", mine)
		}
		if _, err := io.WriteString(toConnecter, "no line of ours\n"+mine.Token+"\n"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(3 * time.Second) // people take their time
		began := time.Now()
		if _, err := io.WriteString(toExposer, theirs.Token+"\n"); err != nil {
			t.Fatal(err)
		}
		_ = conn.SetReadDeadline(time.Now().Add(patience))
		b := make([]byte, len(round))
		if _, err := io.ReadFull(conn, b); err != nil || string(b) != round {
			t.Fatalf("%s move: got %q, %v", round, b, err)
		}
		t.Logf("%s move: back %.2f s after the second line was pasted; a line has %d characters", round, time.Since(began).Seconds(), len(mine.Token))
		connecter.awaitFor("up", patience)
		exposer.awaitFor("up", patience)
		says("and more")
	}
	conn.Close()
	ends(connecter, exposer)
}
