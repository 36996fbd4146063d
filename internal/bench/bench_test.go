package bench

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"adit/tunnel"
)

const megabit = 1e6 / 8

func TestRun(t *testing.T) {
	for _, test := range []struct {
		name     string
		parallel int
		down, up float64 // Mbit/s
	}{
		{"one stream", 0, 20, 5},
		{"eight streams", 8, 8, 8},
		{"slow", 1, 0.5, 0.25},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const delay = 20 * time.Millisecond
				there := &lane{rate: test.up * megabit, delay: delay}
				back := &lane{rate: test.down * megabit, delay: delay}
				var mine, theirs Counters
				mine.PacketBytes, theirs.PacketBytes = 1200, 1444
				server := NewServer(func() Counters {
					theirs.Sent += 10
					theirs.Lost++
					return theirs
				})
				s := newFake(t, there, back, tunnel.Offer{Bench: server.Serve})
				samples := map[string]int{}
				start := time.Now()
				r, err := Run(t.Context(), s, Config{
					Duration: 5 * time.Second, Parallel: test.parallel, Counters: func() Counters { mine.Sent += 5; return mine },
					OnSample: func(s Sample) { samples[s.Phase]++ },
				})
				if err != nil {
					t.Fatal(err)
				}
				if took := time.Since(start); took < 12*time.Second || took > 15*time.Second {
					t.Errorf("took %v", took)
				}
				if len(r.Phases) != 3 || r.PacketBytes != 1200 || r.PeerPacketBytes != 1444 {
					t.Fatalf("got %+v", r)
				}
				for i, want := range []struct {
					name string
					rate float64
					n    int // samples
				}{{Idle, 0, 20}, {Down, test.down, 50}, {Up, test.up, 50}} {
					p := r.Phases[i]
					// The echo beside takes up to 50 messages a second of the same lane.
					least := max(want.rate-50*messageBytes*8/1e6, 0)
					if got := p.Bits / 1e6; p.Name != want.name || got < 0.98*least || got > 1.02*want.rate {
						t.Errorf("%s: %.2f Mbit/s, want %.2f", p.Name, got, want.rate)
					}
					if n := samples[p.Name]; n < want.n-5 || n > want.n {
						t.Errorf("%s: %d samples, want %d", p.Name, n, want.n)
					}
					if p.RTT.N < 2*want.n || p.RTT.Min < 2*delay {
						t.Errorf("%s: round trips %+v", p.Name, p.RTT)
					}
				}
				if idle := r.Phases[0]; idle.RTT.Max > 2*delay+5*time.Millisecond || idle.Bytes != 0 {
					t.Errorf("idle: %+v", idle)
				}
				// The peer counts ten a report, a tenth of them lost; this side five a phase, none lost.
				if down := r.Phases[1]; down.Sent < 100 || down.Lost*10 != down.Sent {
					t.Errorf("down: %d of %d lost", down.Lost, down.Sent)
				}
				if up := r.Phases[2]; up.Sent != 5 || up.Lost != 0 {
					t.Errorf("up: %d of %d lost", up.Lost, up.Sent)
				}
			})
		})
	}
}

func TestRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newFake(t, &lane{rate: 1e6}, &lane{rate: 1e6}, tunnel.Offer{})
		r, err := Run(t.Context(), s, Config{})
		var refused *tunnel.RefusedError
		if !errors.As(err, &refused) || refused.Code != tunnel.CodeRefused || len(r.Phases) > 0 {
			t.Errorf("got %+v, %v; want a refusal", r, err)
		}
	})
}

func TestInterrupted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := NewServer(func() Counters { return Counters{} })
		s := newFake(t, &lane{rate: 1e6}, &lane{rate: 1e6}, tunnel.Offer{Bench: server.Serve})
		enough := errors.New("enough")
		ctx, cancel := context.WithTimeoutCause(t.Context(), 4*time.Second, enough)
		defer cancel()
		r, err := Run(ctx, s, Config{})
		if !errors.Is(err, enough) || len(r.Phases) != 1 || r.Phases[0].Name != Idle {
			t.Errorf("got %+v, %v; want the idle phase and the cause", r, err)
		}
	})
}

func TestBadConfig(t *testing.T) {
	for _, c := range []Config{{Duration: time.Minute + 1}, {Duration: -1}, {Parallel: 9}} {
		if _, err := Run(t.Context(), nil, c); !errors.Is(err, ErrRequest) {
			t.Errorf("%+v: %v, want ErrRequest", c, err)
		}
	}
}

// A peer gets no more than it asked for, however it behaves.
func TestBounds(t *testing.T) {
	bounded := func(t *testing.T, r request, use func(tunnel.Stream)) time.Duration {
		t.Helper()
		server := NewServer(func() Counters { return Counters{} })
		done := make(chan struct{})
		s := newFake(t, &lane{rate: 1e6}, &lane{rate: 1e6}, tunnel.Offer{Bench: func(ctx context.Context, st tunnel.Stream, b []byte) {
			server.Serve(ctx, st, b)
			close(done)
		}})
		st, err := tunnel.OpenBench(t.Context(), s, r.encode())
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		if use != nil {
			go use(st)
		}
		<-done
		_ = st.Reset(0)
		return time.Since(start)
	}
	for _, test := range []struct {
		name string
		r    request
		use  func(tunnel.Stream)
		most time.Duration
	}{
		{"a source that nobody reads", request{source, 3 * time.Second, maxBulkBytes}, nil, 3*time.Second + grace},
		{"a source of few bytes", request{source, time.Minute, 1000}, func(st tunnel.Stream) {
			if b, _ := io.ReadAll(st); len(b) != 1000 {
				panic("not the bytes asked for")
			}
			_ = st.CloseWrite()
		}, time.Second},
		{"a sink that nobody fills", request{sink, time.Second, maxBulkBytes}, nil, time.Second + grace},
		{"a sink that is overfilled", request{sink, time.Minute, 1000}, func(st tunnel.Stream) { _, _ = st.Write(make([]byte, 1e5)) }, time.Second},
		{"an echo that nobody ends", request{echo, time.Second, maxEchoBytes}, nil, time.Second + grace},
		{"an echo of two messages", request{echo, time.Minute, 2 * messageBytes}, func(st tunnel.Stream) { _, _ = st.Write(make([]byte, 1e4)) }, time.Second},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				if took := bounded(t, test.r, test.use); took > test.most+100*time.Millisecond {
					t.Errorf("served for %v, want at most %v", took, test.most)
				}
			})
		})
	}
}

func TestStreamsAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := NewServer(func() Counters { return Counters{} })
		s := newFake(t, &lane{rate: 1e6}, &lane{rate: 1e6}, tunnel.Offer{Bench: server.Serve})
		open := func() (tunnel.Stream, error) {
			st, err := tunnel.OpenBench(t.Context(), s, request{sink, time.Second, 1}.encode())
			if err != nil {
				t.Fatal(err)
			}
			return st, st.WaitAccepted(t.Context())
		}
		var refused *tunnel.RefusedError
		for n := 0; n < streamsInAll; {
			for range min(streamsAtOnce, streamsInAll-n) {
				if _, err := open(); err != nil {
					t.Fatalf("stream %d: %v", n, err)
				}
				n++
			}
			if _, err := open(); !errors.As(err, &refused) {
				t.Fatalf("after %d streams: %v, want a refusal", n, err)
			}
			time.Sleep(time.Second + grace + time.Millisecond) // virtual: until they are over
			synctest.Wait()
		}
		if _, err := open(); !errors.As(err, &refused) {
			t.Errorf("after %d streams: %v, want a refusal", streamsInAll, err)
		}
	})
}

func TestParseRequest(t *testing.T) {
	for _, r := range []request{
		{source, time.Millisecond, 1}, {sink, MaxDuration, maxBulkBytes}, {echo, time.Second, maxEchoBytes},
	} {
		if got, err := parseRequest(r.encode()); err != nil || got != r {
			t.Errorf("got %+v, %v; want %+v", got, err, r)
		}
	}
	for _, r := range []request{
		{0, time.Second, 1}, {echo + 1, time.Second, 1}, {source, 0, 1}, {source, MaxDuration + time.Millisecond, 1},
		{source, time.Second, 0}, {source, time.Second, maxBulkBytes + 1}, {echo, time.Second, maxEchoBytes + 1},
	} {
		if _, err := parseRequest(r.encode()); !errors.Is(err, ErrRequest) {
			t.Errorf("%+v: %v, want ErrRequest", r, err)
		}
	}
	if _, err := parseRequest(nil); !errors.Is(err, ErrRequest) {
		t.Errorf("nothing: %v, want ErrRequest", err)
	}
}

func FuzzRequest(f *testing.F) {
	f.Add(request{echo, time.Second, 64}.encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := parseRequest(b)
		if err == nil && !bytes.Equal(r.encode(), b) {
			t.Fatalf("%x encodes as %x", b, r.encode())
		}
	})
}

func FuzzReport(f *testing.F) {
	var b [messageBytes]byte
	(&report{1, time.Second, 2, Counters{3, 4, 5, 6, 1200}}).put(&b)
	f.Add(b[:])
	f.Fuzz(func(t *testing.T, in []byte) {
		var b, again [messageBytes]byte
		copy(b[:], in)
		r := parseReport(&b)
		r.put(&again)
		if got := parseReport(&again); got != r || r.clock < 0 || r.link.PacketBytes < 0 {
			t.Fatalf("%+v reads back as %+v", r, got)
		}
	})
}
