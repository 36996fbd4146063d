package netlab

import (
	"net"
	"strings"
	"testing"
)

// TestMoveIn: who moves into a LAN does not change what its router is known by there.
func TestMoveIn(t *testing.T) {
	l := New(t)
	stays := l.Host(PortRestricted, HostOptions{})
	server := open(t, l.Public("server"), 7)
	own := open(t, stays, 7)
	own.send(server.addr(), "before")
	if !server.expect("before", soon).IsValid() {
		t.Fatal("nothing comes through")
	}
	mac := func() string {
		t.Helper()
		out, err := stays.RouterCommand(t.Context(), "ip", "-o", "link", "show", "lan").Output()
		if err != nil {
			t.Fatal(err)
		}
		_, after, _ := strings.Cut(string(out), "link/ether ")
		a, err := net.ParseMAC(strings.Fields(after + " none")[0])
		if err != nil {
			t.Fatal(err)
		}
		return a.String()
	}
	was := mac()
	for range 4 { // their addresses are random: one of them would be the lowest
		l.Host(PortRestricted, HostOptions{}).Move(stays)
		if is := mac(); is != was {
			t.Fatalf("the router is at %s, was at %s", is, was)
		}
	}
	own.send(server.addr(), "after")
	if !server.expect("after", soon).IsValid() {
		t.Error("nothing comes through after others moved in")
	}
}
