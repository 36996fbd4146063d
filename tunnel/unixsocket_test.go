package tunnel

import (
	"errors"
	"net"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// An abstract socket is a target, and a place to listen at for both sides, where the system has them.
func TestAbstractSocket(t *testing.T) {
	name := "@" + strings.ReplaceAll(filepath.Base(t.TempDir())+t.TempDir(), "/", "-")
	if runtime.GOOS != "linux" {
		if err := (Target{Path: name}).CheckHere(); err == nil || !strings.Contains(err.Error(), "Linux alone") {
			t.Errorf("%v, want that this system has none", err)
		}
		return
	}
	target, _ := service(t, "unix", name, echo)
	x, y := reliableSessions(t)
	gate := NewGate("", Policy{Targets: []Rule{RuleOf(target)}, Remote: []Rule{Any}}, nil)
	serving(t, Over(y), Offer{Gate: gate}, Options{})
	r := NewRemotes()
	serving(t, Over(x), Offer{Remotes: r}, Options{})
	l := listening(t, Over(x), name+"-L:"+name, Options{})
	m, err := remote(t, Over(x), r, name+"-R:"+name)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	for _, at := range []string{l.Addr().String(), m.Addr()} {
		c := dialed(t, &net.UnixAddr{Name: at, Net: "unix"})
		say(t, c, "hello", true)
		text(t, c, "hello")
	}
}

// A path that the system has no room for is refused with a sentence, not with "invalid argument".
func TestPathTooLong(t *testing.T) {
	long := "/" + strings.Repeat("x", sunPathBytes-1)
	const want = "bytes at most on this system"
	f, err := ParseForward(long + ":localhost:1")
	if err != nil {
		t.Fatal(err)
	}
	a, b := newSessions(t)
	if _, err := Listen(t.Context(), a, f, Options{}); !errors.Is(err, ErrListen) || !strings.Contains(err.Error(), want) {
		t.Errorf("listen: %v, want %q", err, want)
	}
	serving(t, b, offeringAll(), Options{})
	st, err := a.Open(t.Context(), headerTo(Target{Path: long}).encode())
	if err != nil {
		t.Fatal(err)
	}
	wantRefused(t, st, CodeUnreachable, want)
}
