package rendezvous

import (
	"net/netip"
	"testing"
	"testing/synctest"
	"time"
)

// A network that has a hundred connections waiting does not hold up the first one of another.
func TestTurnstile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		turns := newTurnstile(1)
		if !turns.enter(netip.MustParseAddr("192.0.2.1")) {
			t.Fatal("the first does not get in")
		}
		served := make(chan string, 101)
		wait := func(name, addr string) {
			if turns.enter(netip.MustParseAddr(addr)) {
				served <- name
			}
		}
		for range 100 {
			go wait("many", "192.0.2.1")
		}
		synctest.Wait()
		go wait("few", "192.0.2.2")
		synctest.Wait()
		turns.leave()
		turns.leave()
		synctest.Wait()
		got := []string{<-served, <-served}
		if got[0] != "few" && got[1] != "few" {
			t.Errorf("the first two turns went to %v, want one of them to few", got)
		}
		time.Sleep(turnWait + time.Second)
		synctest.Wait()
		if len(turns.queue) != 0 || len(served) != 0 {
			t.Errorf("%d still wait, %d were served later, want none", len(turns.queue), len(served))
		}
		turns.leave()
		turns.leave()
		if turns.free != 1+1 { // leave was called for a turn that two waiters had, and for the first
			t.Errorf("%d turns are free, want 2", turns.free)
		}
	})
}
