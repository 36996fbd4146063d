//go:build !linux

package netmon

import "time"

func bootTime() time.Duration { return 0 }
