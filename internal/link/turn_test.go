package link

import "testing"

// What one flow lost does not delay what another has to send, and goes before what that flow queued since.
func TestRepairsTakeTurns(t *testing.T) {
	var s scheduler
	payload := make([]byte, mtuBytes)
	for key := range uint32(100) {
		s.push(1, key+1, payload, 1<<20)
	}
	var sent []*packet
	for range 100 {
		sent = append(sent, s.pop(0))
	}
	for i, p := range sent {
		p.state = stateLost
		if i == 50 {
			p.state = stateAgain // it was lost before
		}
		s.lose(p)
	}
	s.push(1, 200, payload, 1<<20)
	s.push(2, 1, payload[:100], 1<<20)
	var order []uint32
	for p := s.pop(0); p != nil; p = s.pop(0) {
		if p.flow.id == 2 {
			if len(order) > 3 {
				t.Errorf("%d packets of the first flow went before the other's, want 3 at most", len(order))
			}
			continue
		}
		order = append(order, p.key)
	}
	if len(order) != 101 || order[0] != 51 || order[1] != 1 || order[2] != 2 || order[100] != 200 {
		t.Errorf("sent %d packets in the order %v, want what was lost twice, then once, then what waits", len(order), order)
	}
	if s.lost != 0 || s.bytes != 0 {
		t.Errorf("%d and %d bytes left, want none", s.lost, s.bytes)
	}
}
