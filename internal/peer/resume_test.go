package peer

import (
	"testing"
	"time"
)

func TestResumeTimeout(t *testing.T) {
	for _, c := range []struct {
		name string
		cfg  Config
		want time.Duration
	}{
		{"by code", Config{}, 10 * time.Minute},
		{"by key", Config{Who: "key"}, 24 * time.Hour},
		{"by code, as asked for", Config{ResumeTimeout: time.Hour}, time.Hour},
		{"by key, as asked for", Config{Who: "key", ResumeTimeout: time.Minute}, time.Minute},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := c.cfg.resumeTimeout(); got != c.want {
				t.Errorf("got %v, want %v", got, c.want)
			}
		})
	}
}
