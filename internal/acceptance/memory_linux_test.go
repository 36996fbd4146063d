package acceptance

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// What 1,000 readers that stopped may cost either side, and what is left of it when they have left.
const (
	stalled      = 1000
	stalledBytes = 200 << 20
	leftBytes    = 60 << 20
	leftAfter    = 20 * time.Second
)

// TestStalledReaders: connections that nobody reads cost little, do not slow down one that is read, and when they have
// left, their memory goes back to the system.
func TestStalledReaders(t *testing.T) {
	if !long && *endsRuns == 0 {
		t.Skip("takes half a minute: set ADIT_LONG")
	}
	w := newWorld(t)
	h := w.lab.Public("both")
	fountain := listen(t, h, func(c net.Conn) {
		for {
			if _, err := c.Write(pattern); err != nil {
				return
			}
		}
	})
	exposer, code := w.expose(h, fountain.String())
	connecter, port := w.forward(h, code)
	both := []*process{exposer, connecter}

	reader := dial(t, h, port)
	pace(t, reader, time.Second) // it finds its speed
	before := pace(t, reader, 3*time.Second)
	show := func(when string) {
		for _, p := range both {
			t.Logf("%s, %s: %d MB, %d at most", when, p.label, p.memory()>>20, highWater(t, p)>>20)
		}
	}
	show("one reader")
	var stopped []net.Conn
	for range stalled {
		c := dial(t, h, port)
		stopped = append(stopped, c)
	}
	waitFor(t, func() bool { return queuedIn(t, stopped) }) // each has its first bytes
	beside := pace(t, reader, 3*time.Second)
	show(fmt.Sprint(stalled, " stopped readers beside it"))
	for _, c := range stopped {
		_ = c.Close() // it is open
	}
	left := time.Now()
	after := pace(t, reader, 3*time.Second)
	t.Logf("the reader: %.0f MB/s alone, %.0f beside them, %.0f after them", before, beside, after)
	if beside < 0.9*min(before, after) {
		t.Errorf("the reader had %.0f MB/s beside them, %.0f and %.0f without", beside, before, after)
	}
	_ = reader.Close() // it is open
	for _, p := range both {
		if most := highWater(t, p); most > stalledBytes {
			t.Errorf("%s took %d MB, %d are the most that may be", p.label, most>>20, stalledBytes>>20)
		}
	}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for exposer.memory() > leftBytes || connecter.memory() > leftBytes {
		if time.Since(left) > 3*leftAfter {
			break
		}
		<-tick.C
	}
	took := time.Since(left)
	show(fmt.Sprintf("%.0f s after they have left", took.Seconds()))
	if took > leftAfter {
		t.Errorf("their memory is not given back %v after they have left", leftAfter)
	}
	ends(connecter, exposer)
}

// queuedIn says whether all of these connections have bytes that wait for a reader.
func queuedIn(t testing.TB, conns []net.Conn) bool {
	t.Helper()
	for _, c := range conns {
		if unread, _ := (&tcpSide{conn: c.(*net.TCPConn)}).queues(); unread == 0 {
			return false
		}
	}
	return true
}

// TestSmallMemory: in control groups of 64 MiB, which a process that takes more does not survive, a thousand readers that
// stop for a while get all that was sent to them.
func TestSmallMemory(t *testing.T) {
	if !long && *endsRuns == 0 {
		t.Skip("takes half a minute: set ADIT_LONG")
	}
	const limit, size = 64 << 20, 300_000
	w := newWorld(t)
	h := w.lab.Public("both")
	service := listen(t, h, func(c net.Conn) { _, _ = c.Write(patternAt(0, size)) }) // the reader sees what is missing
	exposer := w.runWith(h, []setting{within(memoryGroup(t, limit))}, "expose", "--signal", w.signal, service.String())
	e, _ := exposer.await("code")
	connecter := w.runWith(h, []setting{within(memoryGroup(t, limit))}, "connect", e.code(), "--signal", w.signal, "-L", "0")
	connecter.await("up")
	e, _ = connecter.await("listening")
	port, err := netip.ParseAddrPort(e.Addr)
	if err != nil {
		t.Fatal(err)
	}
	var readers []*net.TCPConn
	for range stalled {
		c, err := h.Dial(t.Context(), "tcp", port)
		if err != nil {
			t.Errorf("after %d connections: %v", len(readers), err)
			break
		}
		defer c.Close()
		readers = append(readers, c.(*net.TCPConn))
	}
	connecter.gone(5 * time.Second) // the readers have stopped; neither process should
	for _, p := range []*process{exposer, connecter} {
		if p.gone(0) {
			t.Errorf("%s was killed: %v", p.label, p.cmd.ProcessState)
		} else {
			t.Logf("%s: %d MB, %d at most", p.label, p.memory()>>20, highWater(t, p)>>20)
		}
	}
	var whole atomic.Int64
	var all sync.WaitGroup
	for _, c := range readers {
		all.Go(func() {
			_ = c.SetReadDeadline(time.Now().Add(2 * time.Minute)) // it is open
			b, err := io.ReadAll(c)
			if err == nil && string(b) == string(patternAt(0, size)) {
				whole.Add(1)
			}
		})
	}
	all.Wait()
	t.Logf("%d of %d got all", whole.Load(), stalled)
	if whole.Load() < stalled {
		t.Errorf("%d of %d readers did not get all", stalled-whole.Load(), stalled)
	}
	if exposer.gone(0) || connecter.gone(0) {
		return
	}
	for _, p := range []*process{exposer, connecter} {
		t.Logf("%s at the end: %d MB, %d at most", p.label, p.memory()>>20, highWater(t, p)>>20)
	}
	ends(connecter, exposer)
}

// memoryGroup makes a control group with a limit of memory, of version 2 or 1, and skips the test where that is not
// allowed. It goes away with the test.
func memoryGroup(t testing.TB, limit int64) string {
	t.Helper()
	name := fmt.Sprintf("adit-test-%d-%d", os.Getpid(), groups.Add(1))
	var why error
	for _, version := range []struct{ root, limit string }{
		{"/sys/fs/cgroup", "memory.max"},
		{"/sys/fs/cgroup/unified", "memory.max"},
		{"/sys/fs/cgroup/memory", "memory.limit_in_bytes"},
	} {
		dir := filepath.Join(version.root, name)
		if err := os.Mkdir(dir, 0o755); err != nil {
			why = err
			continue
		}
		if err := os.WriteFile(filepath.Join(dir, version.limit), fmt.Append(nil, limit), 0); err != nil {
			_ = os.Remove(dir) // on a file system that is none of control groups, or has none for memory
			if why = err; errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
				continue
			}
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := os.Remove(dir); err != nil {
				t.Errorf("control group: %v", err)
			}
		})
		return dir
	}
	t.Skipf("no control group for memory: %v", why)
	return ""
}

var groups atomic.Int32

// within starts a process inside a control group. "ip netns exec" would hide the groups from it.
func within(group string) setting {
	return func(c *exec.Cmd) {
		ns, rest := c.Args[3], c.Args[4:]
		c.Path = "/usr/bin/nsenter"
		c.Args = append([]string{"nsenter", "--net=/run/netns/" + ns, "sh", "-c", `echo $$ >"$1" && shift && exec "$@"`, "sh", filepath.Join(group, "cgroup.procs")}, rest...)
	}
}
