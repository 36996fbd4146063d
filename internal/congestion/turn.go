package congestion

import "time"

const (
	leastTurn  = 100 * time.Microsecond
	turnRounds = 16  // round trips that a trial lasts
	turnHelps  = 0.7 // of the loss before: with less left, a smaller turn has helped
	mostHold   = 64  // trials that are left out after several that did not help
)

// A turn is how much leaves together: as much as the pace makes of its time. The bottleneck may hold less than that, so
// where packets are lost without a queue the smallest turn is tried for some round trips. It is kept if less is lost then;
// otherwise the path loses packets anyway, and smaller turns would only cost processor time.
type turn struct {
	worth  time.Duration
	rounds int
	loss   float64       // sum over these
	before float64       // mean loss before a trial; 0: none is under way
	large  time.Duration // worth before it
	hold   int           // trials that are left out after the next that does not help
	skip   int           // more that are left out
}

// round takes in a round trip's loss.
func (t *turn) round(loss float64, queue bool) {
	if queue { // it holds more than a turn
		if t.before > 0 {
			t.worth = t.large
		}
		t.worth, t.before = min(t.worth+t.worth/8, quantumTime), 0
		t.rounds, t.loss = 0, 0
		return
	}
	t.loss += loss
	if t.rounds++; t.rounds < turnRounds {
		return
	}
	mean := t.loss / turnRounds
	t.rounds, t.loss = 0, 0
	switch {
	case t.before > 0 && mean > turnHelps*t.before:
		t.worth, t.before = t.large, 0
		t.hold = min(2*t.hold+1, mostHold)
		t.skip = t.hold
	case mean > slightLoss && t.skip > 0:
		t.skip--
	case mean > slightLoss && t.worth > leastTurn:
		t.large, t.worth, t.before = t.worth, leastTurn, mean
	case mean < leastLoss:
		t.worth, t.before, t.hold = min(t.worth+t.worth/8, quantumTime), 0, 0
	default:
		t.before = 0
	}
}
