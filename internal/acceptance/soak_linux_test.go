package acceptance

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"io"
	mrand "math/rand/v2"
	"net"
	"net/netip"
	"os"
	"slices"
	"syscall"
	"testing"
	"time"

	"adit/internal/netlab"
)

const (
	soakStreams = 20
	soakPortion = 8 << 10 // that a stream's sender writes at once
	soakEvery   = 100 * time.Millisecond
	soakLimit   = 30 * time.Second // until every stream flows again, whatever it was
)

// A soakStream carries random bytes one way: even ones to the exposer, odd ones from it.
type soakStream struct {
	received count
	sent     int64
	sums     [2]chan [32]byte // of what was sent and what came, capacity 1
}

// run is one end of the stream. The sender ends it when stop is closed.
func (s *soakStream) run(conn *net.TCPConn, sends bool, stop <-chan struct{}) {
	h := sha256.New()
	if !sends {
		_, _ = io.Copy(io.MultiWriter(h, &counting{&s.received}), conn) // how it ended the sum tells
		s.sums[1] <- [32]byte(h.Sum(nil))
		return
	}
	b := make([]byte, soakPortion)
	t := time.NewTicker(soakEvery)
	defer t.Stop()
	for ended := false; !ended; {
		select {
		case <-stop:
			_ = conn.CloseWrite()
			ended = true
		case <-t.C:
			rand.Read(b)
			n, err := conn.Write(b)
			h.Write(b[:n])
			s.sent += int64(n)
			if err != nil {
				<-stop
				ended = true
			}
		}
	}
	s.sums[0] <- [32]byte(h.Sum(nil))
}

// A soak is a session with many streams.
type soak struct {
	*roaming
	streams [soakStreams]*soakStream
	stop    chan struct{}
}

func newSoak(t testing.TB) *soak {
	t.Helper()
	w := newRelayWorld(t)
	r := newRoaming(w, netlab.PortRestricted)
	s := &soak{roaming: r, stop: make(chan struct{})}
	for i := range s.streams {
		s.streams[i] = &soakStream{received: newCount(), sums: [2]chan [32]byte{make(chan [32]byte, 1), make(chan [32]byte, 1)}}
	}
	addr := listen(t, r.left, func(conn net.Conn) {
		var id [1]byte
		if _, err := io.ReadFull(conn, id[:]); err == nil && int(id[0]) < soakStreams {
			s.streams[id[0]].run(conn.(*net.TCPConn), id[0]%2 == 1, s.stop)
		}
	})
	var port netip.AddrPort
	var code string
	r.exposer, code = w.expose(r.left, "--resume-timeout=15m", "-v", addr.String())
	r.connecter, port = w.forward(r.right, code, "--resume-timeout=15m", "-v")
	for i := range s.streams {
		conn := dial(t, r.right, port)
		if _, err := conn.Write([]byte{byte(i)}); err != nil {
			t.Fatal(err)
		}
		go s.streams[i].run(conn, i%2 == 0, s.stop)
	}
	s.flows()
	return s
}

// flows waits until every stream has got on, and returns how long that took.
func (s *soak) flows() time.Duration {
	s.t.Helper()
	began := time.Now()
	deadline := time.After(soakLimit)
	var want [soakStreams]int64
	for i, x := range s.streams {
		want[i] = x.received.n.Load() + 4*soakPortion
	}
	for i, x := range s.streams {
		if !x.received.reaches(want[i], deadline) {
			s.t.Fatalf("stream %d does not get on within %v", i, soakLimit)
		}
	}
	return time.Since(began)
}

// ends ends the streams and compares what was sent with what came.
func (s *soak) ends() (total int64) {
	s.t.Helper()
	close(s.stop)
	deadline := time.After(2 * soakLimit)
	for i, x := range s.streams {
		var sums [2][32]byte
		for j, c := range x.sums {
			select {
			case sums[j] = <-c:
			case <-deadline:
				s.t.Fatalf("stream %d does not end", i)
			}
		}
		total += x.sent
		if !bytes.Equal(sums[0][:], sums[1][:]) || x.sent != x.received.n.Load() {
			s.t.Errorf("stream %d: %d of %d bytes came, or others than were sent", i, x.received.n.Load(), x.sent)
		}
	}
	return total
}

// A holding is what a process holds of the system.
type holding struct {
	memory int64
	files  int
}

func (p *process) holds() holding {
	entries, _ := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.cmd.Process.Pid)) // 0 if it is gone
	return holding{p.memory(), len(entries)}
}

// goroutines ends a process the hard way and counts its goroutines in what it says about that.
func (p *process) goroutines() int {
	_ = p.cmd.Process.Signal(syscall.SIGQUIT)
	if !p.gone(patience) {
		p.t.Fatalf("%s survived SIGQUIT", p.label)
	}
	return bytes.Count([]byte(p.err.String()), []byte("\ngoroutine "))
}

// TestSoak: 20 streams go on under random faults for ADIT_SOAK, a duration. No byte is lost or doubled, and
// both sides hold no more at the end than at the beginning.
func TestSoak(t *testing.T) {
	length, err := time.ParseDuration(os.Getenv("ADIT_SOAK"))
	if err != nil {
		t.Skip("set ADIT_SOAK to a duration, or use scripts/test --soak")
	}
	tool(t, "conntrack")
	calm := func() { time.Sleep(25 * time.Second) } // until searches are over and relays given back

	// What a session that never met a fault has.
	quiet := newSoak(t)
	calm()
	quiet.ends()
	undisturbed := [2]int{quiet.exposer.goroutines(), quiet.connecter.goroutines()}

	s := newSoak(t)
	calm()
	before := [2]holding{s.exposer.holds(), s.connecter.holds()}

	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := mrand.New(mrand.NewPCG(seed, 0))
	seconds := func(least, most int) time.Duration { return time.Duration(least+rng.IntN(most-least+1)) * time.Second }
	sites := []*netlab.Host{s.other, s.another, s.lab.Host(netlab.PortRestricted, netlab.HostOptions{}), s.lab.Host(netlab.FullCone, netlab.HostOptions{})}
	at := map[*netlab.Host]int{s.left: -1, s.right: -1}
	move := func(h *netlab.Host) {
		to := rng.IntN(len(sites))
		if to == at[h] {
			to = (to + 1) % len(sites)
		}
		at[h] = to
		h.Move(sites[to])
	}
	either := func() *netlab.Host { return []*netlab.Host{s.left, s.right}[rng.IntN(2)] }
	faults := []struct {
		name string
		do   func()
	}{
		{"mapping lost", func() { flush(t, either()) }},
		{"both mappings lost", func() { flush(t, s.left); flush(t, s.right) }},
		{"another address", func() { either().Readdress() }},
		{"another NAT", func() { move(either()) }},
		{"other NATs of both", func() { move(s.left); move(s.right) }},
		{"link down", func() { cut(t, either(), seconds(1, 8)) }},
		{"one stopped", func() {
			p := []*process{s.exposer, s.connecter}[rng.IntN(2)]
			p.pause()
			time.Sleep(seconds(1, 8))
			p.resume()
		}},
		{"both stopped", func() { s.stopBoth(seconds(1, 8)) }},
		{"rendezvous killed", func() {
			s.server.kill()
			s.server.gone(patience)
			time.Sleep(seconds(1, 5))
			s.serveAgain()
		}},
		{"direct path blocked", func() {
			h := either()
			drop(t, h, "meta", "l4proto", "udp", "udp", "dport", "!=", "3478", "udp", "sport", "!=", "3478")
			time.Sleep(seconds(3, 10))
			heal(t, h)
		}},
		{"loss", func() {
			h := either()
			drop(t, h, "numgen", "random", "mod", "100", "<", "30")
			time.Sleep(seconds(3, 10))
			heal(t, h)
		}},
	}
	took := make(map[string][]time.Duration)
	var halfway [2]int64 // what queues grew to in outages the runtime keeps for a while: it must not go on growing
	tenths := 0
	for began := time.Now(); time.Since(began) < length; {
		if time.Since(began) >= time.Duration(tenths)*length/10 {
			e, c := s.exposer.holds(), s.connecter.holds()
			t.Logf("%7.1f s: expose: %.1f MiB, %d descriptors; connect: %.1f MiB, %d descriptors", time.Since(began).Seconds(),
				float64(e.memory)/(1<<20), e.files, float64(c.memory)/(1<<20), c.files)
			if tenths++; tenths <= 6 {
				halfway = [2]int64{max(halfway[0], e.memory), max(halfway[1], c.memory)}
			}
		}
		f := faults[rng.IntN(len(faults))]
		t.Logf("%7.1f s: %s", time.Since(began).Seconds(), f.name)
		f.do()
		took[f.name] = append(took[f.name], s.flows())
		time.Sleep(time.Duration(rng.IntN(3000)) * time.Millisecond)
	}
	for _, f := range faults {
		if all := took[f.name]; len(all) > 0 {
			slices.Sort(all)
			t.Logf("%-20s %3d times, back after %.1f s, %.1f s at most", f.name, len(all), all[len(all)/2].Seconds(), all[len(all)-1].Seconds())
		}
	}

	calm()
	after := [2]holding{s.exposer.holds(), s.connecter.holds()}
	total := s.ends()
	t.Logf("%d MB in %d streams", total/1e6, soakStreams)
	for i, p := range []*process{s.exposer, s.connecter} {
		g := p.goroutines()
		t.Logf("%s: %.1f MiB, %.1f at most in the first half, then %.1f; %d descriptors, then %d; %d goroutines, %d without faults", p.label,
			float64(before[i].memory)/(1<<20), float64(halfway[i])/(1<<20), float64(after[i].memory)/(1<<20), before[i].files, after[i].files, g, undisturbed[i])
		// A connection to the rendezvous, and the post, may be there now that were not before.
		if after[i].files > before[i].files+4 || g > undisturbed[i]+12 || after[i].memory > max(before[i].memory, halfway[i])+24<<20 {
			t.Errorf("%s holds more than before the faults", p.label)
		}
	}
}
