package peer

import (
	"net/netip"
	"slices"
	"strings"
	"time"

	"adit/internal/history"
	"adit/internal/punch"
)

// carrySoon is how long a relay has to be faster than the rendezvous in a network where it was not last time.
const carrySoon = 800 * time.Millisecond

// network names the one that this machine is in, by the prefixes that its packets come from; "" if it is in none.
// Two networks may have one name: what is remembered is a hint.
func network() string {
	var parts []string
	for _, v6 := range [2]bool{false, true} {
		if a, ok := punch.RouteSource(v6); ok {
			bits := 24
			if v6 {
				bits = 64
			}
			parts = append(parts, netip.PrefixFrom(a, bits).Masked().String())
		}
	}
	return strings.Join(parts, " ")
}

// recall returns what worked last time with the peer in this network, and what is known of the network itself.
func recall(cfg Config) history.Entry {
	if cfg.Worked == nil || cfg.Loopback {
		return history.Entry{}
	}
	in := network()
	var past history.Entry
	if cfg.Who != "" {
		past, _ = cfg.Worked.Look(cfg.Who, in)
	}
	all, _ := cfg.Worked.Look("", in)
	past.Stream, past.Carried = all.Stream, all.Carried
	if past != (history.Entry{}) {
		cfg.Logger.Info("what worked here last", "kind", past.Kind, "stream", past.Stream, "carried", past.Carried)
	}
	return past
}

// relayWait is how long direct paths are tried before a relay that works is taken: not at all where none came up
// last time. The search goes on either way.
func (e *endpoint) relayWait() time.Duration {
	if e.past.Kind == history.Relay || e.past.Stream {
		return 0
	}
	return relayAfter
}

// streamWait is how long UDP has to get an allocation first.
func (e *endpoint) streamWait() time.Duration {
	if e.past.Stream {
		return 0
	}
	return streamAfter
}

// carryWait is how long everything else has before the rendezvous is asked to carry.
func (e *endpoint) carryWait() time.Duration {
	if e.past.Carried {
		return carrySoon
	}
	return carryAfter
}

// burstWait is how long plain checks have before bursts.
func (e *endpoint) burstWait() time.Duration {
	if e.past.Kind == history.Burst {
		return 0
	}
	return burstAfter
}

// remember notes what works. The file is written in the background; the latest path counts.
func (e *endpoint) remember(p path) {
	if e.cfg.Worked == nil || e.cfg.Loopback || e.cfg.Path == PathRelay {
		return
	}
	e.mu.Lock()
	public := slices.ContainsFunc(e.candidates, func(c punch.Candidate) bool { return c.Type == punch.ServerReflexive })
	e.worked = history.Entry{Kind: history.Direct}
	switch {
	case p.transport != "":
		e.worked = history.Entry{Kind: history.Relay, Stream: !public && p.transport != "udp", Carried: !public && p.transport == "https"}
	case e.burst:
		e.worked.Kind = history.Burst
	}
	e.mu.Unlock()
	e.wg.Go(func() {
		e.mu.Lock()
		what := e.worked
		e.mu.Unlock()
		in := network()
		err := e.cfg.Worked.Keep("", in, history.Entry{Kind: history.Direct, Stream: what.Stream, Carried: what.Carried})
		if err == nil && e.cfg.Who != "" {
			err = e.cfg.Worked.Keep(e.cfg.Who, in, what)
		}
		if err != nil {
			e.cfg.Logger.Info("what worked is not remembered", "err", err)
		}
	})
}

// who is what tells a peer from others in the history.
func who(public [32]byte) string { return string(public[:]) }
