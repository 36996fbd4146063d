package cmd

import (
	runtimemetrics "runtime/metrics"
	"slices"
	"strings"

	"adit/internal/control"
	"adit/internal/metrics"
)

// totals are counters of sessions with one peer: those that have ended count on, so that no counter of
// a peer ever falls.
type totals struct {
	sessions                                            uint64
	sentBytes, receivedBytes, sentPkts, recvPkts        uint64
	lost, resent, spurious, replayed, rejected, dropped uint64
}

func (t totals) plus(s control.Session) totals {
	t.sessions++
	t.sentBytes += s.Sent
	t.receivedBytes += s.Received
	t.sentPkts += s.SentPkts
	t.recvPkts += s.RecvPkts
	t.lost += s.Lost
	t.resent += s.Resent
	t.spurious += s.Spurious
	t.replayed += s.Replayed
	t.rejected += s.Rejected
	t.dropped += s.Dropped
	return t
}

// counters are the families that totals hold; docs/metrics.md lists them.
var counters = []struct {
	name, help string
	of         func(totals) uint64
}{
	{"adit_peer_sessions_total", "Sessions with the peer since the start.", func(t totals) uint64 { return t.sessions }},
	{"adit_peer_sent_bytes_total", "Bytes of UDP payload sent, repetitions included.", func(t totals) uint64 { return t.sentBytes }},
	{"adit_peer_received_bytes_total", "Bytes of UDP payload received, each packet once.", func(t totals) uint64 { return t.receivedBytes }},
	{"adit_peer_sent_packets_total", "Packets sent.", func(t totals) uint64 { return t.sentPkts }},
	{"adit_peer_received_packets_total", "Packets received, each once.", func(t totals) uint64 { return t.recvPkts }},
	{"adit_peer_lost_packets_total", "Packets sent and found lost.", func(t totals) uint64 { return t.lost }},
	{"adit_peer_resent_packets_total", "Packets sent again because they were lost, or might be.", func(t totals) uint64 { return t.resent }},
	{"adit_peer_spurious_packets_total", "Packets found lost that came all the same.", func(t totals) uint64 { return t.spurious }},
	{"adit_peer_replayed_packets_total", "Packets received again, or too late.", func(t totals) uint64 { return t.replayed }},
	{"adit_peer_rejected_packets_total", "Packets received that were not the peer's.", func(t totals) uint64 { return t.rejected }},
	{"adit_peer_dropped_packets_total", "Packets refused for want of room in a queue.", func(t totals) uint64 { return t.dropped }},
}

// figures writes what the process does for Prometheus. Peers without a name, met by a code, are one.
func (r *running) figures(p *metrics.Page) {
	// A session that ends meanwhile must be counted once: it is either still in sessions or in past.
	r.mu.Lock()
	running := slices.Clone(r.sessions)
	opened, refused := r.opened, r.refused
	all := make(map[string]totals, len(r.past))
	for name, t := range r.past {
		all[name] = t
	}
	more := slices.Clone(r.more)
	r.mu.Unlock()
	var sessions []control.Session
	for _, s := range running {
		sessions = append(sessions, s.status())
	}

	p.Family("adit_info", "The version that runs, and the command.", metrics.Gauge)
	p.Sample(1, metrics.Label{Name: "command", Value: r.command}, metrics.Label{Name: "version", Value: version()})
	p.Family("adit_start_time_seconds", "When the process began, in seconds since 1970.", metrics.Gauge)
	p.Sample(float64(r.since.UnixMilli()) / 1000)
	p.Family("adit_memory_bytes", "Memory that the process has from the system, without what it gave back.", metrics.Gauge)
	p.Sample(float64(runtimeFigure("/memory/classes/total:bytes") - runtimeFigure("/memory/classes/heap/released:bytes")))
	p.Family("adit_goroutines", "Goroutines at present.", metrics.Gauge)
	p.Sample(float64(runtimeFigure("/sched/goroutines:goroutines")))
	if r.command != "serve" {
		p.Family("adit_streams_opened_total", "Forwarded streams opened since the start.", metrics.Counter)
		p.Sample(float64(opened))
		p.Family("adit_streams_refused_total", "Streams refused since the start.", metrics.Counter)
		p.Sample(float64(refused))
		peerFigures(p, sessions, all)
	}
	for _, f := range more {
		f(p)
	}
}

// peerFigures writes what sessions do by the names of their peers. ended is what counts on.
func peerFigures(p *metrics.Page, sessions []control.Session, ended map[string]totals) {
	type kind struct{ peer, path, transport, state string }
	now := map[kind]int{}
	newest := map[string]control.Session{}
	streams, queue := map[string]int{}, map[string]int{}
	for _, s := range sessions {
		ended[s.Peer] = ended[s.Peer].plus(s)
		now[kind{s.Peer, s.Path.Kind, s.Path.Transport, s.State}]++
		streams[s.Peer] += s.Streams
		queue[s.Peer] += s.Queue
		if n, ok := newest[s.Peer]; !ok || s.Since.After(n.Since) {
			newest[s.Peer] = s
		}
	}
	peer := func(name string) metrics.Label { return metrics.Label{Name: "peer", Value: name} }
	p.Family("adit_peer_sessions", "Sessions now, by the kind of path (direct or relay), the transport to the relay, and the state (up or interrupted).", metrics.Gauge)
	for _, k := range sorted(now, func(k kind) string { return strings.Join([]string{k.peer, k.path, k.transport, k.state}, "\x00") }) {
		p.Sample(float64(now[k]), peer(k.peer), metrics.Label{Name: "path", Value: k.path},
			metrics.Label{Name: "transport", Value: k.transport}, metrics.Label{Name: "state", Value: k.state})
	}
	self := func(s string) string { return s }
	gauge := func(name, help string, of func(peer string) float64) {
		p.Family(name, help, metrics.Gauge)
		for _, n := range sorted(newest, self) {
			p.Sample(of(n), peer(n))
		}
	}
	gauge("adit_peer_streams", "Streams open now.", func(n string) float64 { return float64(streams[n]) })
	gauge("adit_peer_queue_bytes", "Bytes that wait to be sent.", func(n string) float64 { return float64(queue[n]) })
	gauge("adit_peer_round_trip_seconds", "Smoothed round trip of the newest session.", func(n string) float64 { return newest[n].RTT / 1000 })
	gauge("adit_peer_least_round_trip_seconds", "Least round trip of the newest session.", func(n string) float64 { return newest[n].MinRTT / 1000 })
	gauge("adit_peer_path_bytes_per_second", "What the path of the newest session is thought to carry.", func(n string) float64 { return newest[n].Rate / 8 })
	gauge("adit_peer_packet_bytes", "Largest UDP payload on the path of the newest session.", func(n string) float64 { return float64(newest[n].Packet) })
	for _, c := range counters {
		p.Family(c.name, c.help, metrics.Counter)
		for _, n := range sorted(ended, self) {
			p.Sample(float64(c.of(ended[n])), peer(n))
		}
	}
}

// sorted returns the keys of m in the order of what by makes of them.
func sorted[K comparable, V any](m map[K]V, by func(K) string) []K {
	keys := make([]K, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(a, b K) int { return strings.Compare(by(a), by(b)) })
	return keys
}

func runtimeFigure(name string) uint64 {
	s := []runtimemetrics.Sample{{Name: name}}
	runtimemetrics.Read(s)
	if s[0].Value.Kind() != runtimemetrics.KindUint64 {
		return 0 // this Go does not know it
	}
	return s[0].Value.Uint64()
}

// measure adds figures to those that the process shows.
func (r *running) measure(f func(*metrics.Page)) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.more = append(r.more, f)
}
