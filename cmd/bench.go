package cmd

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"adit/internal/bench"
	"adit/internal/event"
	"adit/internal/fail"
	"adit/internal/forwards"
	"adit/internal/peer"
	"adit/tunnel"

	"github.com/urfave/cli/v2"
)

// benchOptions are those of "adit bench".
type benchOptions struct {
	given
	meetingOptions
	outputOptions
	time     time.Duration
	parallel int
}

func newBenchOptions() *benchOptions { return &benchOptions{time: bench.DefaultDuration, parallel: 1} }

func (o *benchOptions) list() []option {
	return slices.Concat(own("bench",
		option{name: "time", to: &o.time, usage: "send data for `D` each way, at most 60s"},
		option{name: "parallel", short: "P", to: &o.parallel, usage: fmt.Sprintf("send over `N` streams at the same time, at most %d", bench.MaxParallel)},
	), o.meetingOptions.list(), o.outputOptions.list())
}

func (o *benchOptions) check(bad *complaints) {
	o.meetingOptions.check(bad)
	o.outputOptions.check(bad)
	if o.time < leastBenchTime || o.time > bench.MaxDuration {
		bad.about("time", "for example --time 10s", "%s is not between %s and %s", o.time, leastBenchTime, bench.MaxDuration)
	}
	if o.parallel < 1 || o.parallel > bench.MaxParallel {
		bad.about("parallel", "for example --parallel 4", "%d is not between 1 and %d", o.parallel, bench.MaxParallel)
	}
}

func benchCommand(u *ui) *cli.Command {
	return command(u, cli.Command{
		Name:      "bench",
		Usage:     "measure throughput, round trips and loss to a peer that allows it",
		ArgsUsage: "[CODE or NAME]",
		Description: `Meet a peer that runs "adit expose --allow-bench" and measure the encrypted path: round trips
while idle, then data to this side, then data to the peer, with round trips beside them. What is
found is printed as a table. The session ends with it.

  adit expose --allow-bench          on one machine
  adit bench CODE                    on the other: about 13 seconds
  adit bench CODE --time 30s --json  longer, for a script
  adit bench home                    a peer that is known by its key`,
	}, newBenchOptions, func(ctx context.Context, u *ui, o *benchOptions) error {
		cfg, err := o.meetingOptions.measured(u, &o.given, "bench")
		if err != nil {
			return err
		}
		return measure(ctx, u, cfg, bench.Config{Duration: o.time, Parallel: o.parallel})
	})
}

// leastBenchTime is enough for a few samples.
const leastBenchTime = 200 * time.Millisecond

func measure(ctx context.Context, u *ui, cfg peer.Config, how bench.Config) error {
	s, end, err := meet(ctx, u, cfg, false)
	if err != nil {
		return err
	}
	defer end()
	live := newLiveGraph(u, how.Duration)
	how.Counters = func() bench.Counters { return countersOf(s) }
	how.OnSample = func(x bench.Sample) {
		if u.json {
			u.sample(x)
		} else {
			live.add(x)
		}
	}
	path := s.Path()
	found, err := bench.Run(ctx, tunnel.Over(s.Streams()), how)
	live.end()
	if len(found.Phases) > 0 {
		u.found(found, path)
	}
	if err == nil {
		for _, p := range found.Phases {
			if p.Bytes == 0 && p.Name != bench.Idle {
				return &fail.Failure{Code: fail.Other, Message: "the session is up, and no data came through in " + how.Duration.String(),
					Hint: `the path may carry small packets only: see what "adit doctor" says of the MTU on both sides`}
			}
		}
	}
	var refused *tunnel.RefusedError
	if errors.As(err, &refused) && refused.Code == tunnel.CodeRefused && len(found.Phases) == 0 {
		return &fail.Failure{Code: fail.Refused, Message: "the other side does not let the path be measured", Hint: `have it run "adit expose --allow-bench"`}
	}
	return forwards.Ended(ctx, s, err)
}

// countersOf returns what this side's half of the link has counted.
func countersOf(s *peer.Session) bench.Counters {
	l := s.LinkStats()
	return bench.Counters{Sent: l.SentPackets, Lost: l.Lost, Resent: l.Resent, Spurious: l.Spurious, PacketBytes: s.PacketBytes()}
}

// sample prints what goes on as JSON.
func (u *ui) sample(x bench.Sample) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.jsonLocked(struct {
		Name  string    `json:"event"`
		Time  time.Time `json:"time"`
		Phase string    `json:"phase"`
		At    float64   `json:"at_s"`
		Rate  float64   `json:"mbit_s"`
		RTT   float64   `json:"rtt_ms,omitempty"`
	}{event.Sample, time.Now(), x.Phase, inMilliseconds(x.At) / 1000, megabits(x.Bits), inMilliseconds(x.RTT)})
}

// found prints what was measured.
func (u *ui) found(r bench.Result, path peer.Path) {
	if !u.json {
		for _, line := range benchTable(r, path) {
			u.answer("%s", u.answerWrapped(line, strings.Repeat(" ", benchLabel)))
		}
		return
	}
	e := benchJSON{
		Name: event.Bench, Time: time.Now(), Path: path.Kind, Local: path.Local, Remote: path.Remote,
		PacketBytes: r.PacketBytes, PeerPacketBytes: r.PeerPacketBytes,
	}
	for _, p := range r.Phases {
		x := &phaseJSON{
			Seconds: p.Elapsed.Seconds(), Bytes: p.Bytes, Rate: megabits(p.Bits), RTT: roundTripsOf(p.RTT),
			Packets: p.Sent, Lost: p.Lost, Resent: p.Resent,
		}
		switch p.Name {
		case bench.Idle:
			e.Idle = x
		case bench.Down:
			e.Down = x
		case bench.Up:
			e.Up = x
		}
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.jsonLocked(e)
}

type benchJSON struct {
	Name            string     `json:"event"`
	Time            time.Time  `json:"time"`
	Path            string     `json:"path"`
	Local           string     `json:"local"`
	Remote          string     `json:"remote"`
	PacketBytes     int        `json:"packet_bytes"`
	PeerPacketBytes int        `json:"peer_packet_bytes"`
	Idle            *phaseJSON `json:"idle,omitempty"`
	Down            *phaseJSON `json:"down,omitempty"`
	Up              *phaseJSON `json:"up,omitempty"`
}

type phaseJSON struct {
	Seconds float64     `json:"seconds,omitempty"`
	Bytes   uint64      `json:"bytes,omitempty"`
	Rate    float64     `json:"mbit_s,omitempty"`
	RTT     *roundTrips `json:"rtt_ms,omitempty"`
	Packets uint64      `json:"packets"`
	Lost    uint64      `json:"lost"`
	Resent  uint64      `json:"resent"`
}

// megabits is exact to the kilobit.
func megabits(bits float64) float64 { return float64(int64(bits/1e3+0.5)) / 1e3 }
