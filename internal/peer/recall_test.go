package peer

import (
	"log/slog"
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	"adit/internal/history"
	"adit/internal/punch"
	"adit/signal"
)

// TestRecall: the waits of a meeting follow from what worked before, with the same peer or, as far as the network
// is concerned, with anybody.
func TestRecall(t *testing.T) {
	if network() == "" {
		t.Skip("needs a route")
	}
	cfg := Config{Worked: history.Open(filepath.Join(t.TempDir(), "paths.json")), Logger: slog.New(slog.DiscardHandler)}
	to := punch.Pair{Remote: punch.Candidate{Addr: netip.MustParseAddrPort("192.0.2.1:9")}}
	mapped := []punch.Candidate{{Type: punch.ServerReflexive}}
	met := func(who string, burst bool, own []punch.Candidate, p path) {
		c := cfg
		c.Who = who
		e := &endpoint{cfg: c, burst: burst, candidates: own}
		e.remember(p)
		e.wg.Wait()
	}
	waits := func(who string) [4]time.Duration {
		c := cfg
		c.Who = who
		e := &endpoint{cfg: c, past: recall(c)}
		return [4]time.Duration{e.relayWait(), e.streamWait(), e.carryWait(), e.burstWait()}
	}
	usual := [4]time.Duration{relayAfter, streamAfter, carryAfter, burstAfter}
	check := func(when, who string, want [4]time.Duration) {
		t.Helper()
		if got := waits(who); got != want {
			t.Errorf("%s: waits %v, want %v", when, got, want)
		}
	}
	check("at first", "a", usual)
	met("a", true, mapped, path{pair: to})
	check("after a burst", "a", [4]time.Duration{relayAfter, streamAfter, carryAfter, 0})
	check("another peer", "b", usual)
	met("a", false, mapped, path{pair: to, transport: "udp"})
	check("after a relay", "a", [4]time.Duration{0, streamAfter, carryAfter, burstAfter})
	check("somebody with a code", "", usual)
	met("a", false, mapped, path{pair: to})
	check("after a direct path", "a", usual)
	met("", false, nil, path{pair: to, transport: "tls"})
	check("without UDP", "b", [4]time.Duration{0, 0, carryAfter, burstAfter})
	met("", false, nil, path{pair: to, transport: "https"})
	check("without TCP", "", [4]time.Duration{0, 0, carrySoon, burstAfter})
	met("a", false, mapped, path{pair: to, transport: "tcp"}) // UDP goes out, the peer's network lets none in
	check("when UDP is back", "b", usual)
	cfg.Worked = nil
	check("without a history", "a", usual)
}

// TestOnRelay: the peer's address on a relay counts as one, so that a packet that took it while the direct path is
// new does not take the link there.
func TestOnRelay(t *testing.T) {
	e := &endpoint{cfg: Config{Path: PathDirect}}
	direct, relay := netip.MustParseAddrPort("192.0.2.1:9"), netip.MustParseAddrPort("192.0.2.2:9")
	e.relayCandidate(signal.Candidate{Type: signal.CandidateType(punch.Relay), Addr: relay})
	if e.onRelay(relay) {
		t.Error("relays are not for --path direct")
	}
	e.cfg.Path, e.cfg.Logger = PathRelay, slog.New(slog.DiscardHandler) // it does not probe them
	e.relayCandidate(signal.Candidate{Type: signal.ServerReflexive, Addr: direct})
	e.relayCandidate(signal.Candidate{Type: signal.CandidateType(punch.Relay), Addr: relay})
	if e.onRelay(direct) || !e.onRelay(relay) {
		t.Errorf("on a relay: %v, %v, want false, true", e.onRelay(direct), e.onRelay(relay))
	}
}
