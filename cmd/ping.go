package cmd

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"adit/internal/bench"
	"adit/internal/event"
	"adit/internal/fail"
	"adit/internal/peer"
	"adit/internal/typeset"

	"github.com/urfave/cli/v2"
)

const (
	// pingPatience is how long an answer may take. The link remembers 32 pings without one, which at
	// leastPingInterval is a little longer.
	pingPatience      = 3 * time.Second
	leastPingInterval = 100 * time.Millisecond
)

// pingOptions are those of "adit ping".
type pingOptions struct {
	given
	meetingOptions
	outputOptions
	count    int
	interval time.Duration
}

func newPingOptions() *pingOptions { return &pingOptions{interval: time.Second} }

func (o *pingOptions) list() []option {
	return slices.Concat(own("ping",
		option{name: "count", short: "c", to: &o.count, usage: "stop after `N`", none: "go on until Ctrl-C"},
		option{name: "interval", short: "i", to: &o.interval, usage: "`SECONDS` between two, 0.1 or more"},
	), o.meetingOptions.list(), o.outputOptions.list())
}

func (o *pingOptions) check(bad *complaints) {
	o.meetingOptions.check(bad)
	o.outputOptions.check(bad)
	if o.interval < leastPingInterval || o.interval > time.Hour {
		bad.about("interval", "for example -i 0.2", "%s is no time between 0.1 and 3600 seconds", o.interval)
	}
	if _, given := o.sources["count"]; o.count < 0 || given && o.count == 0 {
		bad.about("count", "for example -c 10", "%d is no number of pings", o.count)
	}
}

func pingCommand(u *ui) *cli.Command {
	return command(u, cli.Command{
		Name:      "ping",
		Usage:     "measure the round trip to a peer",
		ArgsUsage: "[CODE or NAME]",
		Description: `Meet a peer that runs "adit expose" and measure the round trip over the encrypted path until
Ctrl-C. The other side need not allow it: every session answers. Its session ends with it.

  adit ping CODE                     one each second, a summary at the end
  adit ping CODE -c 20 -i 0.2        twenty, five a second
  adit ping CODE -q -c 20            the summary alone
  adit ping home                     a peer that is known by its key`,
	}, newPingOptions, func(ctx context.Context, u *ui, o *pingOptions) error {
		cfg, err := o.meetingOptions.measured(u, &o.given, "ping")
		if err != nil {
			return err
		}
		return ping(ctx, u, cfg, o.count, o.interval)
	})
}

// measured is the configuration of a command that joins an exposer in order to measure.
func (o *meetingOptions) measured(u *ui, g *given, command string) (peer.Config, error) {
	if len(g.args) > 1 && !isCode(g.args) {
		return peer.Config{}, fail.Usagef("for example: adit "+command+" CODE", "%s takes one code or name, not %d arguments", command, len(g.args))
	}
	cfg := o.config(u)
	cfg.Role = peer.Connecter
	code := strings.Join(g.args, "-")
	if known, err := byName(peerName(code), "", g.file, &cfg); known || err != nil {
		return cfg, err
	}
	cfg.Code = code
	u.onToken = "Send this line back to the other side:"
	u.afterOwn = "waiting for the other side to paste this line"
	return cfg, checkCode(cfg.Signal, cfg.Code, "expose")
}

// A pong is what became of one ping; rtt 0 says that no answer came.
type pong struct {
	seq int
	rtt time.Duration
}

// ping sends count pings, or goes on until ctx or the session ends if count is 0.
func ping(ctx context.Context, u *ui, cfg peer.Config, count int, interval time.Duration) error {
	s, end, err := meet(ctx, u, cfg, false)
	if err != nil {
		return err
	}
	defer end()
	u.done() // each answer is a line
	ended := make(chan error, 1)
	go func() { ended <- s.Wait() }() // ends with the session

	var wg sync.WaitGroup
	defer wg.Wait()
	all, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	pongs := make(chan pong)
	send := func(seq int) {
		wg.Go(func() {
			one, cancel := context.WithTimeout(all, pingPatience)
			defer cancel()
			rtt, err := s.Ping(one)
			if err != nil {
				rtt = 0
			}
			select {
			case pongs <- pong{seq, rtt}:
			case <-all.Done():
			}
		})
	}

	t := time.NewTicker(interval)
	defer t.Stop()
	var times []time.Duration
	sent, open := 1, 1
	send(1)
	at := s.Path().To
	why := error(nil)
loop:
	for open > 0 || count == 0 || sent < count {
		select {
		case <-t.C:
			if count == 0 || sent < count {
				sent, open = sent+1, open+1
				send(sent)
			}
		case p := <-pongs:
			open--
			if p.rtt > 0 {
				times = append(times, p.rtt)
			}
			if to := s.Path().To; to != at {
				at = to
				u.say("the peer is at %s now", at)
			}
			u.pong(p)
		case <-ctx.Done():
			why = context.Cause(ctx)
			break loop
		case why = <-ended:
			if why == nil && (count > 0 || len(times) == 0) {
				why = &fail.Failure{Code: fail.Gone, Message: "the other side ended the session", Hint: "see what it says there"}
			}
			break loop
		}
	}
	// What is on its way is neither answered nor lost.
	u.pings(sent-open, bench.Summarize(times))
	switch {
	case why != nil && ctx.Err() != nil && len(times) > 0:
		return nil // Ctrl-C is how it is meant to end
	case why == nil && len(times) == 0:
		return &fail.Failure{Code: fail.Gone, Message: "no answer came", Hint: "see whether the other side still runs and has a network"}
	}
	return why
}

// pong prints what became of one ping.
func (u *ui) pong(p pong) {
	if u.json {
		e := struct {
			Name string    `json:"event"`
			Time time.Time `json:"time"`
			Seq  int       `json:"seq"`
			RTT  float64   `json:"rtt_ms,omitempty"`
			Lost bool      `json:"lost,omitempty"`
		}{event.Ping, time.Now(), p.seq, inMilliseconds(p.rtt), p.rtt == 0}
		u.mu.Lock()
		defer u.mu.Unlock()
		u.jsonLocked(e)
		return
	}
	if u.quiet {
		return
	}
	if p.rtt == 0 {
		u.answer("seq=%d no answer within %s", p.seq, pingPatience)
		return
	}
	u.answer("seq=%d time=%s ms", p.seq, typeset.Digits(inMilliseconds(p.rtt)))
}

// pings prints the summary of those that were answered or lost.
func (u *ui) pings(sent int, d bench.Distribution) {
	if u.json {
		e := struct {
			Name     string      `json:"event"`
			Time     time.Time   `json:"time"`
			Sent     int         `json:"sent"`
			Answered int         `json:"answered"`
			RTT      *roundTrips `json:"rtt_ms,omitempty"`
		}{event.PingSummary, time.Now(), sent, d.N, roundTripsOf(d)}
		u.mu.Lock()
		defer u.mu.Unlock()
		u.jsonLocked(e)
		return
	}
	lost := 0.0
	if sent > 0 {
		lost = 100 * float64(sent-d.N) / float64(sent)
	}
	u.answer("%d sent, %d answered, %s%% lost", sent, d.N, typeset.Digits(lost))
	if r := roundTripsOf(d); r != nil {
		line := fmt.Sprintf("min %s, avg %s, max %s, p99 %s ms", typeset.Digits(r.Min), typeset.Digits(r.Avg), typeset.Digits(r.Max), typeset.Digits(r.P99))
		u.answer("%s", u.answerWrapped(line, ""))
	}
}

// roundTrips is a distribution in JSON, in milliseconds.
type roundTrips struct {
	Count int     `json:"count"`
	Min   float64 `json:"min"`
	Avg   float64 `json:"avg"`
	Max   float64 `json:"max"`
	P50   float64 `json:"p50"`
	P90   float64 `json:"p90"`
	P99   float64 `json:"p99"`
}

// roundTripsOf returns nil for the distribution of nothing.
func roundTripsOf(d bench.Distribution) *roundTrips {
	if d.N == 0 {
		return nil
	}
	ms := inMilliseconds
	return &roundTrips{d.N, ms(d.Min), ms(d.Avg), ms(d.Max), ms(d.P50), ms(d.P90), ms(d.P99)}
}

// inMilliseconds is exact to the microsecond.
func inMilliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
