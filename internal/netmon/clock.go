package netmon

import "time"

// A reading is what the clocks of this machine say, each from an origin of its own.
type reading struct {
	steady time.Duration // goes on at its pace, and on some systems stands still while the machine sleeps
	boot   time.Duration // the same, and goes on while the machine sleeps; 0 on systems that have none
	wall   time.Duration // the time of day, which is set now and then
}

var began = time.Now()

// readClocks reads all of them. That they are not read at the same moment is far less than jumpLeast.
func readClocks() reading {
	now := time.Now()
	return reading{steady: now.Sub(began), boot: bootTime(), wall: time.Duration(now.UnixNano())}
}

// A clock finds out, once each clockEvery, whether time passed in which this process did nothing.
type clock struct{ last reading }

// tick returns how long nothing was done since the last tick, or 0. There are two kinds: the process was
// stopped, and the tick is late; the machine slept, and other clocks went on while the steady one stood still. A virtual
// machine that was paused may know of that only when its time of day is corrected. So a time of day that
// was set forward counts as well; it costs one search. One that was set back means nothing.
func (c *clock) tick(now reading) time.Duration {
	steady := now.steady - c.last.steady
	slept := max(now.boot-c.last.boot, now.wall-c.last.wall) - steady
	c.last = now
	if gap := steady - clockEvery + max(slept, 0); gap >= jumpLeast {
		return gap
	}
	return 0
}
