package peer

import (
	"net/netip"
	"testing"
	"time"

	"adit/internal/punch"
	"adit/signal"
)

// TestVigil: refusals count only if there are several, over most of ten seconds that begin with the silence.
func TestVigil(t *testing.T) {
	s := func(n float64) time.Duration { return time.Duration(n * float64(time.Second)) }
	type span struct{ from, to, every time.Duration } // of refusals
	for name, test := range map[string]struct {
		spans []span
		gone  time.Duration // 0: never
		over  time.Duration // when nothing is waited for any more; 0: with gone
	}{
		"a process that was killed":        {[]span{{s(0.5), s(40), s(1)}}, s(10), 0},
		"one refusal in three seconds":     {[]span{{s(0.5), s(40), s(3)}}, s(12.5), 0},
		"none: asleep, or no network":      {nil, 0, s(3.5)},
		"later: somebody else's address":   {[]span{{s(4), s(40), s(1)}}, 0, s(3.5)},
		"a few, then none":                 {[]span{{s(0.5), s(4), s(0.5)}}, 0, s(8)},
		"many at once, then none":          {[]span{{s(0.5), s(1.5), s(0.01)}}, 0, s(6)},
		"a pause":                          {[]span{{s(0.5), s(5), s(1)}, {s(9.5), s(40), s(1)}}, 0, s(9)},
		"rare ones":                        {[]span{{s(1), s(40), s(7)}}, 0, s(5.5)},
		"a process that is started slowly": {[]span{{s(2.9), s(9.9), s(1)}}, s(10), 0},
	} {
		var at []time.Duration
		for _, x := range test.spans {
			for d := x.from; d < x.to; d += x.every {
				at = append(at, d)
			}
		}
		began := time.Now()
		v := vigil{since: began}
		var goneAt, overAt time.Duration
		for d := time.Duration(0); d < time.Minute && goneAt == 0 && overAt == 0; d += goneEvery {
			n := 0
			for _, x := range at {
				if x <= d {
					n++
				}
			}
			switch gone, over := v.see(began.Add(d), n); {
			case gone:
				goneAt = d
			case over:
				overAt = d
			}
		}
		if goneAt != test.gone || overAt != test.over {
			t.Errorf("%s: gone after %v, over after %v, want %v, %v", name, goneAt, overAt, test.gone, test.over)
		}
	}
}

func TestKnowHost(t *testing.T) {
	e := &endpoint{}
	host, mapped := netip.MustParseAddrPort("192.0.2.1:9"), netip.MustParseAddrPort("192.0.2.2:9")
	e.knowHost(signal.Candidate{Type: signal.CandidateType(punch.HostCandidate), Addr: host})
	for _, c := range []punch.CandidateType{punch.ServerReflexive, punch.Relay} {
		e.knowHost(signal.Candidate{Type: signal.CandidateType(c), Addr: mapped})
	}
	if !e.isHost(host) || e.isHost(mapped) || e.isHost(netip.AddrPort{}) {
		t.Error("what is behind a NAT, or a relay's, is no address of the peer's own")
	}
	for i := range 2 * mostHosts {
		e.knowHost(signal.Candidate{Type: signal.CandidateType(punch.HostCandidate), Addr: netip.AddrPortFrom(host.Addr(), uint16(i))})
	}
	if len(e.hosts) > mostHosts {
		t.Errorf("%d addresses are kept", len(e.hosts))
	}
	e.forgetHosts()
	if e.isHost(host) {
		t.Error("an address of the last generation counts")
	}
}
