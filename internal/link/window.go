package link

import "math"

// How much may be in flight, and how much of it one flow may have.

// window returns how many bytes may be in flight now.
func (c *congestion) window() float64 {
	if c.stalls > 0 {
		return leastWindow
	}
	w := c.steadyWindow()
	if c.phase == phaseRTT {
		w = min(w, max(c.bdp()/2+c.rate*leastSample.Seconds(), leastWindow))
	}
	return w
}

// steadyWindow is the window without the moments in which it is made small on purpose.
func (c *congestion) steadyWindow() float64 {
	buffer := c.buffer
	if buffer == 0 {
		buffer = defaultBuffer
	}
	// A full packet costs the buffer truesizeBytes; half of it stays free, more after heavy loss.
	room := float64(buffer/truesizeBytes*packetBytes) / 2 * max(c.gain-1, 0.25)
	if c.rate == 0 {
		return min(initialRate, max(room, leastWindow))
	}
	gain := c.gain
	if c.phase == phaseStart {
		gain = startWindow
		if c.loss > slightLoss && !c.standing(c.lastRTT) {
			gain = startLossy // feedback is lost as well, and news are older
		}
		gain = gain*c.makeUp() + feedbackInterval(c.minRTT).Seconds()/max(c.minRTT, leastRound).Seconds()
	}
	if c.crowd.window > 0 {
		return min(c.crowd.window, c.crowd.window/2+room+leastWindow)
	}
	slow := 0.0
	if c.phase == phaseStart && !c.standing(c.lastRTT) {
		slow = min(c.slow, startMost*c.bdp())
		if c.full == 0 { // no sample says yet what the path bears
			slow = max(slow, initialRate)
		}
	}
	// What arrived but was not reported yet must not keep the pacer from its rate, probing included.
	need := cycle[0]*c.makeUp()*c.bdp() + c.rate*feedbackInterval(c.minRTT).Seconds()
	w := max(max(gain*c.bdp(), need)+c.rate*timerSlack.Seconds(), slow, leastWindow)
	if c.phase == phaseCruise && c.cycleIndex > 0 && c.crowd.yield > 0 {
		w = max(min(w, c.yieldWindow()), leastWindow)
	}
	// What is lost on the way comes to no buffer.
	network := c.rate * c.makeUp() * max(c.minRTT, min(c.srtt, 2*c.minRTT)).Seconds()
	reported := float64(feedbackPackets(buffer) * packetBytes)
	return min(w, network+reported+max(room, leastWindow))
}

// filling reports whether there is more in flight than the path holds without a queue. Then a sender
// whose own queue runs empty for a moment is not what limits the rate.
func (c *congestion) filling() bool {
	if !c.standing(c.lastRTT) && c.loss < slightLoss {
		return false
	}
	need := 1.25*c.bdp() + c.rate*(feedbackInterval(c.minRTT)+leastSample).Seconds()
	return c.rate > 0 && c.inflight() >= need
}

// flowWindow is what one of n flows should keep outstanding: some of it waits in its queue. A flow in order stops at a
// lost packet until that was sent again, and goes on only as long as its window lasts. So where packets are lost it
// grows by a round trip for each time that the unluckiest packet of a round trip is lost: with 1 % loss at 100 Mbit/s and 40 ms, 84 Mbit/s arrive
// instead of 74.
func (c *congestion) flowWindow(n int) int {
	const least, most = 32 << 10, 80 << 20
	slack := min(streamLeast+c.srtt/4, streamSlack)
	w := 1.1 * (c.steadyWindow() + c.rate*slack.Seconds())
	if c.loss > leastLoss {
		again := math.Log(max(c.bdp()/packetBytes, 2)) / -math.Log(min(c.loss, mostLoss))
		w = max(1.4*w, c.bdp()*(1.1+1.25*again)+c.rate*slack.Seconds())
	}
	return int(min(max(w/float64(max(n, 1)), least), most))
}
