package memory

import (
	"runtime"
	"testing"
)

func TestBudget(t *testing.T) {
	for available, want := range map[int64]int64{
		0: 160 << 20, 24 << 30: 160 << 20, 256 << 20: 128 << 20, 64 << 20: 32 << 20, 8 << 20: 16 << 20,
	} {
		if got := Budget(available); got != want {
			t.Errorf("Budget(%d): got %d, want %d", available, got, want)
		}
	}
	if got := limit(32<<20, 64<<20); got != 56<<20 {
		t.Errorf("got a limit of %d, want seven eighths of 64 MiB", got)
	}
	if got := limit(160<<20, 0); got != 256<<20 {
		t.Errorf("got a limit of %d, want 256 MiB", got)
	}
}

func TestAvailable(t *testing.T) {
	if n := Available(); runtime.GOOS == "linux" && n < 1<<20 {
		t.Errorf("got %d bytes, want what the machine has", n)
	}
}
