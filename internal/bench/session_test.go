package bench

import (
	"context"
	"net"
	"net/http/httptest"
	"testing"
	"time"

	"adit/internal/event"
	"adit/internal/peer"
	"adit/signal/rendezvous"
	"adit/tunnel"
)

// TestSession measures a session of two peers over loopback.
func TestSession(t *testing.T) {
	place := rendezvous.New(rendezvous.Config{})
	defer place.Close()
	web := httptest.NewServer(place.Handler())
	defer web.Close()
	defer web.CloseClientConnections()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()

	code := make(chan string, 1)
	served := make(chan error, 1)
	go func() {
		s, err := peer.Dial(ctx, peer.Config{Role: peer.Exposer, Signal: web.URL, Loopback: true, Events: func(e event.Event) {
			if e.Name == event.Code {
				code <- e.Code
			}
		}})
		if err != nil {
			served <- err
			return
		}
		ctx, stop := context.WithCancelCause(ctx)
		done := make(chan struct{})
		go func() {
			defer close(done)
			_ = tunnel.Serve(ctx, tunnel.Over(s.Streams()), tunnel.Offer{Bench: NewServer(counters(s)).Serve}, tunnel.Options{}) // ends with ctx
		}()
		err = s.Wait()
		stop(net.ErrClosed)
		<-done
		s.Close()
		served <- err
	}()
	var s *peer.Session
	select {
	case c := <-code:
		var err error
		if s, err = peer.Dial(ctx, peer.Config{Role: peer.Connecter, Signal: web.URL, Code: c, Loopback: true}); err != nil {
			t.Fatal(err)
		}
	case err := <-served:
		t.Fatal(err)
	}
	r, err := Run(ctx, tunnel.Over(s.Streams()), Config{Duration: 500 * time.Millisecond, Parallel: 2, Counters: counters(s)})
	if err != nil || len(r.Phases) != 3 {
		t.Fatalf("got %+v, %v", r, err)
	}
	if r.PacketBytes < 1000 || r.PeerPacketBytes < 1000 {
		t.Errorf("packets of %d and %d bytes", r.PacketBytes, r.PeerPacketBytes)
	}
	for _, p := range r.Phases {
		if p.RTT.N == 0 || p.RTT.Max <= 0 || p.Sent == 0 {
			t.Errorf("%+v lacks round trips or packets", p)
		}
		if p.Name != Idle && (p.Bits == 0 || p.Bytes == 0 || p.Elapsed <= 0 || p.Elapsed > 3*time.Second) {
			t.Errorf("%+v lacks data", p)
		}
	}
	if rtt, err := s.Ping(ctx); err != nil || rtt <= 0 {
		t.Errorf("Ping: %v, %v", rtt, err)
	}
	if p := s.Path(); p.Kind != "direct" || p.Local == "" || p.Remote == "" || !p.To.IsValid() {
		t.Errorf("path %+v lacks something", p)
	}
	s.Close()
	if err := <-served; err != nil {
		t.Errorf("the exposer ended with %v", err)
	}
}

func counters(s *peer.Session) func() Counters {
	return func() Counters {
		l := s.LinkStats()
		return Counters{Sent: l.SentPackets, Lost: l.Lost, Resent: l.Resent, Spurious: l.Spurious, PacketBytes: s.PacketBytes()}
	}
}
