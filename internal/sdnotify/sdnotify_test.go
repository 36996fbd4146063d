//go:build unix

package sdnotify

import (
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"testing"
	"time"

	"adit/internal/leaktest"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

// manager is a socket as a service manager has it.
func manager(t *testing.T, name string) (read func() string) {
	t.Helper()
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return func() string {
		t.Helper()
		c.SetReadDeadline(time.Now().Add(10 * time.Second))
		b := make([]byte, 4096)
		n, err := c.Read(b)
		if err != nil {
			t.Fatal(err)
		}
		return string(b[:n])
	}
}

func TestNotify(t *testing.T) {
	names := []string{filepath.Join(t.TempDir(), "notify")}
	if runtime.GOOS == "linux" {
		names = append(names, "@adit-test-"+strconv.Itoa(os.Getpid()))
	}
	for _, name := range names {
		t.Setenv("NOTIFY_SOCKET", name)
		t.Setenv("WATCHDOG_USEC", "4000000")
		t.Setenv("WATCHDOG_PID", strconv.Itoa(os.Getpid()))
		read := manager(t, name)
		n := New()
		if _, there := os.LookupEnv("NOTIFY_SOCKET"); there {
			t.Error("children would speak for the service")
		}
		if n.Watchdog() != 4*time.Second {
			t.Errorf("watchdog %v, want 4 s", n.Watchdog())
		}
		for _, c := range []struct {
			do   func() error
			want string
		}{
			{func() error { return n.Ready("direct\nto home") }, "READY=1\nSTATUS=direct to home\n"},
			{func() error { return n.Status("x") }, "STATUS=x\n"},
			{n.Alive, "WATCHDOG=1\n"},
			{n.Stopping, "STOPPING=1\n"},
		} {
			if err := c.do(); err != nil {
				t.Fatal(err)
			}
			if got := read(); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		}
	}
}

func TestNobody(t *testing.T) {
	for name, env := range map[string][3]string{
		"no manager": {"", "1000000", ""}, "vsock": {"vsock:2:1", "", ""},
	} {
		t.Setenv("NOTIFY_SOCKET", env[0])
		t.Setenv("WATCHDOG_USEC", env[1])
		n := New()
		if n != nil || n.Ready("x") != nil || n.Watchdog() != 0 {
			t.Errorf("%s: got %v", name, n)
		}
	}
	t.Setenv("NOTIFY_SOCKET", filepath.Join(t.TempDir(), "gone"))
	t.Setenv("WATCHDOG_USEC", "1000000")
	t.Setenv("WATCHDOG_PID", "1")
	n := New()
	if n.Watchdog() != 0 {
		t.Error("took another process's watchdog for its own")
	}
	if n.Alive() == nil {
		t.Error("no error where nobody listens")
	}
}
