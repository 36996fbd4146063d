package acceptance

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"adit/internal/netlab"
	"adit/internal/testtier"
)

// These are short forms of what scripts/bench measures (docs/performance.md has its figures), with
// bounds that a busy machine keeps too. They show that the link holds its nature: that loss does not
// throttle it, that a keystroke does not wait behind a copy, that idle streams are free.

// TestLossyThroughput: random loss does not throttle a transfer. TCP CUBIC gets 3.5 and 0.6 Mbit/s here.
func TestLossyThroughput(t *testing.T) {
	testtier.Long(t)
	for _, c := range []struct {
		name string
		link netlab.LinkConfig
		size int64
		want float64 // Mbit/s
	}{
		{"40 ms, 100 Mbit, 1 %", netlab.LinkConfig{Delay: 20 * time.Millisecond, RateBits: 100e6, Loss: 0.01}, 48 << 20, 60},
		{"200 ms, 50 Mbit, 2 %", netlab.LinkConfig{Delay: 100 * time.Millisecond, RateBits: 50e6, Loss: 0.02}, 24 << 20, 15},
	} {
		t.Run(c.name, func(t *testing.T) {
			best := 0.0
			// The machine may be busy with something else.
			for try := 0; try < 3 && best < c.want; try++ {
				l := netlab.New(t)
				left, right := l.Link(c.link)
				r := bulk(t, l, left, right, c.size, true, 2*time.Minute)
				rate := float64(c.size) * 8 / 1e6 / r.took.Seconds()
				t.Logf("%d MiB in %.2f s: %.1f Mbit/s", c.size>>20, r.took.Seconds(), rate)
				best = max(best, rate)
			}
			if best < c.want {
				t.Errorf("%.1f Mbit/s, want %.0f", best, c.want)
			}
		})
	}
}

// TestEchoBesideBulk: on a link with a queue of two bandwidth-delay products, an echo beside a copy takes
// about a round trip, 40 ms, where TCP CUBIC's full queue makes it 120.
func TestEchoBesideBulk(t *testing.T) {
	testtier.Long(t)
	const warmUp, span, limit = 2 * time.Second, 5 * time.Second, 80 * time.Millisecond
	floor := 2.0 // on a machine that is busy
	if testtier.IsFull() {
		floor = 10
	}
	l := netlab.New(t)
	left, right := l.Link(netlab.LinkConfig{Delay: 20 * time.Millisecond, RateBits: 20e6, QueueBytes: 200_000})
	w := &world{t: t, adit: adit(t), lab: l}
	w.serve(left)
	copying := listen(t, left, source(1<<40))
	echo := listen(t, left, func(c net.Conn) { _, _ = io.Copy(c, c) })
	exposer, code := w.expose(left, copying.String(), echo.String())
	connecter := w.connect(right, code, "-L", "0", "-L", "0:"+echo.String())
	var ports [2]netip.AddrPort
	for i := range ports {
		e, _ := connecter.await("listening")
		ports[i] = netip.MustParseAddrPort(e.Addr)
	}

	var got atomic.Int64
	copied := dial(t, right, ports[0])
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		buf := make([]byte, 256<<10)
		for {
			n, err := copied.Read(buf)
			if got.Add(int64(n)); err != nil {
				return // closed below
			}
		}
	}()
	c := dial(t, right, ports[1])
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	msg := make([]byte, 64)
	exchange := func(span time.Duration) (trips []time.Duration) {
		for end := time.Now().Add(span); time.Now().Before(end); {
			began := time.Now()
			if _, err := c.Write(msg); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(c, msg); err != nil {
				t.Fatal(err)
			}
			trips = append(trips, time.Since(began))
		}
		return trips
	}
	exchange(warmUp)
	from, began := got.Load(), time.Now()
	trips := exchange(span)
	rate := float64(got.Load()-from) * 8 / 1e6 / time.Since(began).Seconds()
	_, _ = c.Close(), copied.Close()
	<-drained
	slices.Sort(trips)
	p50 := trips[len(trips)/2]
	t.Logf("%d echoes: p50 %v, largest %v, beside %.1f Mbit/s", len(trips), p50, trips[len(trips)-1], rate)
	if p50 > limit {
		t.Errorf("an echo takes %v, want %v", p50, limit)
	}
	if rate < floor {
		t.Errorf("the copy got %.1f Mbit/s, want %.0f", rate, floor)
	}
	ends(connecter, exposer)
}

// TestIdleStreams: 100 streams that carry nothing cost next to nothing, on the wire and of the processor.
func TestIdleStreams(t *testing.T) {
	testtier.Long(t)
	const streams, span, wire, share = 100, 10 * time.Second, 300.0, 0.02
	l := netlab.New(t)
	left, right := l.Link(netlab.LinkConfig{Delay: 5 * time.Millisecond})
	w := &world{t: t, adit: adit(t), lab: l}
	w.serve(left)
	exposer, code := w.expose(left, listen(t, left, func(c net.Conn) { _, _ = io.Copy(c, c) }).String())
	connecter, port := w.forward(right, code)
	for range streams {
		c := dial(t, right, port)
		_ = c.SetDeadline(time.Now().Add(patience))
		want, got := []byte("open"), make([]byte, 4)
		if _, err := c.Write(want); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("echo %q, %v", got, err)
		}
	}
	// Idle is nothing that one could wait for: first what the opening left behind, then the span.
	if connecter.gone(3 * time.Second) {
		t.Fatal("the connecter ended")
	}
	sent := func() int64 { return left.LinkStats().Bytes + right.LinkStats().Bytes }
	from, used := sent(), [2]time.Duration{exposer.cpu(), connecter.cpu()}
	if connecter.gone(span) {
		t.Fatal("the connecter ended")
	}
	rate := float64(sent()-from) / span.Seconds()
	t.Logf("%.0f bytes a second on the wire", rate)
	if rate > wire {
		t.Errorf("%.0f bytes a second, want %.0f", rate, wire)
	}
	for i, p := range []*process{exposer, connecter} {
		part := (p.cpu() - used[i]).Seconds() / span.Seconds()
		t.Logf("%s: %.1f %% of a core", p.label, 100*part)
		if part > share {
			t.Errorf("%s uses %.3f of a core, want %.3f", p.label, part, share)
		}
	}
	ends(connecter, exposer)
}

// cpu returns the processor time, user and system, that a running process has used.
func (p *process) cpu() (used time.Duration) {
	p.t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
	if err != nil {
		p.t.Fatal(err)
	}
	// proc_pid_stat(5): utime and stime, fields 14 and 15, in hundredths of a second. The second field, a
	// name in parentheses, may hold blanks.
	fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	for _, f := range fields[11:13] {
		n, err := strconv.Atoi(f)
		if err != nil {
			p.t.Fatalf("stat of %s: %v", p.label, err)
		}
		used += time.Duration(n) * 10 * time.Millisecond
	}
	return used
}
