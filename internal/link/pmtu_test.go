// In package link: this file drives the search for the path's MTU by hand.

package link

import (
	"testing"
	"time"
)

// A sizedPath answers probes of at most mtu bytes after rtt.
type sizedPath struct {
	mtu     int
	down    bool
	answers []sizedAnswer // under way
}

type sizedAnswer struct {
	size     int
	sent, at time.Duration
}

// drive runs the machine against a path until the time given, and returns how many probes it sent and
// when the size last changed.
func (s *sizedPath) drive(p *pmtu, from, until, rtt time.Duration) (probes int, changed time.Duration) {
	for now := from; now <= until; {
		for len(s.answers) > 0 && s.answers[0].at <= now {
			if p.answered(s.answers[0].size, s.answers[0].sent, now) {
				changed = now
			}
			s.answers = s.answers[1:]
		}
		before := p.size
		for z := p.step(now, 2*rtt+answerSlack); z.n > 0; z.n-- {
			size := z.size[z.n-1]
			probes++
			if size <= s.mtu && !s.down {
				s.answers = append(s.answers, sizedAnswer{size, now, now + rtt})
			}
		}
		if p.size != before {
			changed = now
		}
		next := max(p.at, now+1)
		if len(s.answers) > 0 {
			next = min(next, s.answers[0].at)
		}
		now = next
	}
	return probes, changed
}

func TestPMTUSearch(t *testing.T) {
	const rtt = 40 * time.Millisecond
	for _, c := range []struct {
		name   string
		v6     bool
		mtu    int // UDP payload
		want   int
		probes int
		within time.Duration
	}{
		{"Ethernet", false, 1472, 1472, 1, rtt},
		{"Ethernet, IPv6", true, 1452, 1452, 1, rtt},
		{"loopback", false, 65507, 1472, 1, rtt},
		{"loopback, IPv6", true, 65507, 1452, 1, rtt},
		{"PPPoE", false, 1464, 1452, 1 + 5 + 1, time.Second},
		{"PPPoE, IPv6", true, 1444, 1412, 1 + 4 + 2, time.Second},
		{"WireGuard", false, 1392, 1372, 1 + 5 + 3, time.Second},
		{"least", true, 1232, packetBytes, 1 + 4 + 3, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			var p pmtu
			p.reset(true, c.v6, 0)
			probes, changed := (&sizedPath{mtu: c.mtu}).drive(&p, 0, 2*time.Second, rtt)
			if p.size != c.want || changed > c.within {
				t.Errorf("got %d bytes after %v, want %d within %v", p.size, changed, c.want, c.within)
			}
			if probes > c.probes {
				t.Errorf("%d probes, want at most %d", probes, c.probes)
			}
			if p.state != pmtuDone {
				t.Errorf("state %v, want done", p.state)
			}
		})
	}
}

// TestPMTUNarrow: a path that does not carry what packets begin with is found out before they get lost, whatever it
// carries, and grows again.
func TestPMTUNarrow(t *testing.T) {
	for mtu := narrowPacket; mtu < packetBytes; mtu += 7 {
		for _, rtt := range []time.Duration{time.Millisecond, 40 * time.Millisecond, 500 * time.Millisecond} {
			want := 0
			for _, size := range packetSizes {
				if size <= mtu {
					want = max(want, size)
				}
			}
			var p pmtu
			p.reset(true, false, 0)
			path := &sizedPath{mtu: mtu}
			_, changed := path.drive(&p, 0, 20*time.Second, rtt)
			if round := 2*rtt + answerSlack; p.size != want || changed > 9*round {
				t.Fatalf("a path of %d bytes after %v: got %d after %v, want %d within %v", mtu, rtt, p.size, changed, want, 9*round)
			}
			path.mtu = 1472
			if path.drive(&p, 20*time.Second, 2*raiseAfter, rtt); p.size != 1472 {
				t.Fatalf("a path that grew from %d bytes: got %d", mtu, p.size)
			}
		}
	}
}

// TestPMTURaise: a path that grows is found to have grown, and one that is at its top is left alone.
func TestPMTURaise(t *testing.T) {
	var p pmtu
	p.reset(true, false, 0)
	path := &sizedPath{mtu: 1400}
	path.drive(&p, 0, 30*time.Minute, 20*time.Millisecond)
	if p.size != 1372 {
		t.Fatalf("got %d bytes, want 1372", p.size)
	}
	probes, _ := path.drive(&p, 30*time.Minute, 60*time.Minute, 20*time.Millisecond)
	if probes > 4*8 {
		t.Errorf("%d probes in half an hour", probes)
	}
	path.mtu = 1472
	path.drive(&p, 60*time.Minute, 71*time.Minute, 20*time.Millisecond)
	if p.size != 1472 {
		t.Errorf("got %d bytes ten minutes after the path grew, want 1472", p.size)
	}
	if probes, _ := path.drive(&p, 71*time.Minute, 24*time.Hour, 20*time.Millisecond); probes != 0 || p.at != never {
		t.Errorf("%d probes at the top", probes)
	}
}

// TestPMTUOutage: what is not answered because nothing is, is asked for again soon.
func TestPMTUOutage(t *testing.T) {
	var p pmtu
	p.reset(true, false, 0)
	path := &sizedPath{mtu: 1472, down: true}
	path.drive(&p, 0, 5*time.Second, 20*time.Millisecond)
	path.down = false
	path.drive(&p, 5*time.Second, 15*time.Second, 20*time.Millisecond)
	if p.size != 1472 {
		t.Errorf("got %d bytes, want 1472", p.size)
	}
}

func TestPMTUOff(t *testing.T) {
	var p pmtu
	p.reset(false, false, 0)
	if probes, _ := (&sizedPath{mtu: 1472}).drive(&p, 0, time.Hour, time.Millisecond); probes != 0 || p.size != packetBytes {
		t.Errorf("%d probes, %d bytes; want none, %d", probes, p.size, packetBytes)
	}
	p.suspect(0)
	if p.state != pmtuOff {
		t.Error("suspect turned it on")
	}
}

func TestPMTUBlackHole(t *testing.T) {
	const rtt = 200 * time.Millisecond
	up := func(t *testing.T) (*pmtu, *sizedPath) {
		p, path := new(pmtu), &sizedPath{mtu: 1472}
		p.reset(true, false, 0)
		path.drive(p, 0, time.Second, rtt)
		if p.size != 1472 {
			t.Fatalf("got %d bytes, want 1472", p.size)
		}
		return p, path
	}
	lose := func(p *pmtu, n, size int, at time.Duration) {
		for range n {
			p.lost(size, at, at)
		}
	}
	t.Run("falls", func(t *testing.T) {
		p, path := up(t)
		path.mtu = 1272
		lose(p, 3, 1472, time.Second)
		_, changed := path.drive(p, time.Second, 3*time.Second, rtt)
		if p.size != leastPacket || changed > 2500*time.Millisecond {
			t.Errorf("%d bytes at %v, want %d by 2.5 s", p.size, changed, leastPacket)
		}
		// It does not go back and forth, and finds out in the end that the path recovered.
		probes, _ := path.drive(p, 3*time.Second, 10*time.Minute, rtt)
		if probes > 3*10 || p.size != packetBytes {
			t.Errorf("%d probes in ten minutes, %d bytes", probes, p.size)
		}
		path.mtu = 1472
		path.drive(p, 10*time.Minute, 21*time.Minute, rtt)
		if p.size != 1472 {
			t.Errorf("%d bytes ten minutes after the path recovered, want 1472", p.size)
		}
	})
	t.Run("timeout", func(t *testing.T) {
		p, path := up(t)
		path.mtu = 1272
		p.suspect(time.Second)
		path.drive(p, time.Second, 3*time.Second, rtt)
		if p.size != leastPacket {
			t.Errorf("got %d bytes, want %d", p.size, leastPacket)
		}
	})
	t.Run("congestion", func(t *testing.T) {
		p, path := up(t)
		lose(p, 100, 1472, time.Second)
		path.drive(p, time.Second, 5*time.Second, rtt)
		if p.size != 1472 || p.state != pmtuDone {
			t.Errorf("%d bytes, state %v; want 1472, done", p.size, p.state)
		}
	})
	t.Run("outage", func(t *testing.T) {
		p, path := up(t)
		path.down = true
		p.suspect(time.Second)
		path.drive(p, time.Second, 30*time.Second, rtt)
		if p.size != 1472 || p.state != pmtuDone {
			t.Errorf("%d bytes, state %v; want 1472, done", p.size, p.state)
		}
	})
	t.Run("smaller ones", func(t *testing.T) {
		p, _ := up(t)
		lose(p, 100, leastPacket, time.Second)
		if p.state != pmtuDone {
			t.Errorf("state %v, want done", p.state)
		}
	})
	t.Run("newer one arrived", func(t *testing.T) {
		p, _ := up(t)
		p.delivered(1472, 2*time.Second)
		lose(p, 100, 1472, time.Second)
		if p.state != pmtuDone {
			t.Errorf("state %v, want done", p.state)
		}
		lose(p, 2, 1472, 2*time.Second)
		p.delivered(1472, 2*time.Second)
		lose(p, 2, 1472, 2*time.Second)
		if p.state != pmtuDone {
			t.Errorf("state %v, want done", p.state)
		}
	})
	t.Run("again and again", func(t *testing.T) {
		p, path := up(t)
		now := time.Second
		for _, wait := range []time.Duration{time.Second, 10 * time.Second, 100 * time.Second, 600 * time.Second, 600 * time.Second} {
			path.mtu = 1272
			p.suspect(now)
			for p.size > packetBytes {
				path.drive(p, now, now+rtt, rtt)
				now += rtt
			}
			if got := p.at - p.fellAt; got != wait {
				t.Fatalf("searches again after %v, want %v", got, wait)
			}
			path.mtu = 1472
			path.drive(p, now, now+wait+time.Second, rtt)
			now += wait + time.Second
			if p.size != 1472 {
				t.Fatalf("got %d bytes, want 1472", p.size)
			}
		}
	})
}

// TestPMTUReset: an answer to a probe of another path says nothing.
func TestPMTUReset(t *testing.T) {
	var p pmtu
	p.reset(true, false, 0)
	p.step(0, time.Second)
	p.reset(true, false, time.Second)
	if p.answered(1472, 0, time.Second) || p.size != packetBytes {
		t.Errorf("got %d bytes, want %d", p.size, packetBytes)
	}
	p.reset(true, true, 2*time.Second)
	if p.answered(1472, 2*time.Second, 3*time.Second) {
		t.Error("IPv6 got larger than its top")
	}
}
