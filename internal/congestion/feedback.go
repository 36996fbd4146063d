package congestion

import "time"

const (
	defaultBuffer = 212992 // bytes; Linux net.core.rmem_default
	truesizeBytes = 2304   // what a full packet costs a Linux receive buffer
)

// FeedbackInterval is how long a receiver waits before it tells what came.
func FeedbackInterval(rtt time.Duration) time.Duration {
	return min(max(rtt/4, time.Millisecond), 25*time.Millisecond)
}

// FeedbackPackets is after how many packets a receiver with a socket buffer of so many bytes (0: unknown) does not
// wait for the interval to pass: a small part of what the buffer holds.
func FeedbackPackets(buffer int) int {
	if buffer == 0 {
		buffer = defaultBuffer
	}
	return min(max(buffer/truesizeBytes/8, 8), 64)
}
