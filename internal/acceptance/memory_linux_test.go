package acceptance

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"adit/internal/testtier"
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
	testtier.Long(t)
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

	reader := newReader(dial(t, h, port))
	reader.pace(time.Second) // it finds its speed
	before := reader.pace(3 * time.Second)
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
	show(fmt.Sprint(stalled, " readers have stopped"))
	// Until the kernels are full, on both sides of the forward, each of them takes its fair share of what goes.
	for range 15 {
		pace := reader.pace(time.Second)
		t.Logf("meanwhile the reader has %.0f MB/s; %d MB wait in the kernel for the others", pace, waiting(stopped)>>20)
		if pace > before/2 {
			break
		}
	}
	beside := reader.pace(3 * time.Second)
	show(fmt.Sprint(stalled, " stopped readers beside it"))
	for _, c := range stopped {
		_ = c.Close() // it is open
	}
	left := time.Now()
	after := reader.pace(3 * time.Second)
	t.Logf("the reader: %.0f MB/s alone, %.0f beside them, %.0f after them", before, beside, after)
	if testtier.IsFull() && beside < 0.9*min(before, after) {
		t.Errorf("the reader had %.0f MB/s beside them, %.0f and %.0f without", beside, before, after)
	}
	reader.stop()
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

// A reader reads a connection as fast as it comes, until it is stopped.
type reader struct {
	conn net.Conn
	came atomic.Int64
	done chan struct{}
}

func newReader(c net.Conn) *reader {
	r := &reader{conn: c, done: make(chan struct{})}
	go func() {
		defer close(r.done)
		b := make([]byte, 256<<10)
		for {
			n, err := r.conn.Read(b)
			r.came.Add(int64(n))
			if err != nil {
				return
			}
		}
	}()
	return r
}

// pace returns how many millions of bytes a second come while it waits.
func (r *reader) pace(span time.Duration) float64 {
	began, before := time.Now(), r.came.Load()
	time.Sleep(span)
	return float64(r.came.Load()-before) / 1e6 / time.Since(began).Seconds()
}

func (r *reader) stop() {
	_ = r.conn.Close() // it is open
	<-r.done
}

// waiting returns how many bytes wait for readers in the kernel.
func waiting(conns []net.Conn) (n int) {
	for _, c := range conns {
		unread, _ := (&tcpSide{conn: c.(*net.TCPConn)}).queues()
		n += unread
	}
	return n
}

// TestSmallMemory: in control groups of 64 MiB, which a process that takes more does not survive, a thousand readers that
// stop for a while get all that was sent to them.
func TestSmallMemory(t *testing.T) {
	testtier.Long(t)
	const limit, size = 64 << 20, 300_000
	w := newWorld(t)
	h := w.lab.Public("both")
	service := listen(t, h, func(c net.Conn) { _, _ = c.Write(patternAt(0, size)) }) // the reader sees what is missing
	exposer := w.runWith(h, []setting{inGroup(memoryGroup(t, limit))}, "expose", "--signal", w.signal, service.String())
	e, _ := exposer.await("code")
	connecter := w.runWith(h, []setting{inGroup(memoryGroup(t, limit))}, "connect", e.code(), "--signal", w.signal, "-L", "0")
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
	if t.Failed() {
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
		if err := writeGroup(dir, version.limit, limit); err != nil {
			_ = os.Remove(dir) // it is no control group, or one without memory
			why = err
			continue
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

// writeGroup sets a value of a control group, which must have it.
func writeGroup(dir, name string, value int64) error {
	f, err := os.OpenFile(filepath.Join(dir, name), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = fmt.Fprint(f, value)
	return errors.Join(err, f.Close())
}

// inGroup starts a process inside a control group. "ip netns exec" would hide the groups from it.
func inGroup(group string) setting {
	return func(c *exec.Cmd) {
		ns, rest := c.Args[3], c.Args[4:]
		c.Path = "/usr/bin/nsenter"
		c.Args = append([]string{"nsenter", "--net=/run/netns/" + ns, "sh", "-c", `echo $$ >"$1" && shift && exec "$@"`, "sh", filepath.Join(group, "cgroup.procs")}, rest...)
	}
}
