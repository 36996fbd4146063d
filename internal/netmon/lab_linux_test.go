package netmon

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"adit/internal/netlab"
)

// TestMonitorHelper is the process inside a namespace: it prints each event until its input ends.
func TestMonitorHelper(t *testing.T) {
	if os.Getenv("NETMON_TEST_HELPER") == "" {
		t.Skip("for TestLab only")
	}
	m := Open(nil, func(e Event) { fmt.Println("event", e) })
	fmt.Println("event open")
	_, _ = io.Copy(io.Discard, os.Stdin)
	m.Close()
}

// TestLab changes addresses and routes of a real interface.
func TestLab(t *testing.T) {
	lab := netlab.New(t)
	h := lab.Host(netlab.PortRestricted, netlab.HostOptions{})
	cmd := h.Command(t.Context(), os.Args[0], "-test.run=^TestMonitorHelper$")
	cmd.Env = append(os.Environ(), "NETMON_TEST_HELPER=1")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := make(chan string, 64)
	go func() {
		defer close(lines)
		for s := bufio.NewScanner(out); s.Scan(); {
			if e, ok := strings.CutPrefix(s.Text(), "event "); ok {
				lines <- e
			}
		}
	}()
	defer func() {
		in.Close()
		for range lines {
		}
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	}()
	next := func(want string, limit time.Duration) {
		t.Helper()
		select {
		case e := <-lines:
			if e != want {
				t.Fatalf("event %q, want %q", e, want)
			}
		case <-time.After(limit):
			t.Fatalf("no event %q within %v", want, limit)
		}
	}
	next("open", 20*time.Second)
	for _, c := range []struct{ name, command string }{
		{"another address", "addr add 192.168.77.7/24 dev eth0"},
		{"its end", "addr del 192.168.77.7/24 dev eth0"},
		{"no default route", "route del default"},
		{"a default route", "route add default via 192.168.1.1"},
		{"interface down", "link set eth0 down"},
	} {
		began := time.Now()
		if out, err := h.Command(t.Context(), "ip", strings.Fields(c.command)...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", c.command, err, out)
		}
		next("changed", 5*time.Second) // before the poll would see it
		t.Logf("%s: told after %v", c.name, time.Since(began).Round(time.Millisecond))
	}
}
