package acceptance

import (
	"context"
	"net"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"adit/internal/netlab"
	"adit/internal/testtier"
)

// shrinkRules count packets that fill Ethernet's 1500 bytes, and drop none.
const shrinkRules = `
table inet shrink {
	counter full { }
	chain in { type filter hook prerouting priority -300; policy accept;
		meta l4proto udp meta length 1500 counter name full
	}
}`

// shrinkDrop makes the path one of 1300 bytes that tells nobody.
const shrinkDrop = "add rule inet shrink in meta l4proto udp meta length > 1300 drop\n"

func nft(ctx context.Context, h *netlab.Host, rules string, args ...string) (string, error) {
	c := h.Command(ctx, "nft", args...)
	c.Stdin = strings.NewReader(rules)
	out, err := c.CombinedOutput()
	return string(out), err
}

var nftPackets = regexp.MustCompile(`packets (\d+)`)

// nftCount returns how many packets a counter of shrinkRules saw.
func nftCount(t *testing.T, h *netlab.Host, counter string) int {
	t.Helper()
	out, err := nft(t.Context(), h, "", "list", "counter", "inet", "shrink", counter)
	m := nftPackets.FindStringSubmatch(out)
	if err != nil || m == nil {
		t.Fatalf("list counter %s: %v\n%s", counter, err, out)
	}
	n, _ := strconv.Atoi(m[1]) // digits
	return n
}

// A midConn calls at once when so many bytes were read.
type midConn struct {
	net.Conn
	at, got int64
	call    func()
	once    sync.Once
}

func (c *midConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if c.got += int64(n); c.got >= c.at {
		c.once.Do(c.call)
	}
	return n, err
}

// TestShrinkingPath: a path that stops to carry packets of more than 1300 bytes in the middle of a copy,
// without ICMP, goes on within 3 seconds.
//
// The same when it is the machine's own interface that shrinks, where the kernel refuses what is too large
// (and whole runs of packets with it).
func TestShrinkingPath(t *testing.T) {
	testtier.Long(t)
	t.Run("path", func(t *testing.T) {
		shrinkingPath(t, func(h *netlab.Host) (string, error) {
			return nft(t.Context(), h, shrinkDrop, "-f", "-")
		})
	})
	t.Run("interface", func(t *testing.T) {
		testtier.Long(t)
		shrinkingPath(t, func(h *netlab.Host) (string, error) {
			out, err := h.Command(t.Context(), "ip", "link", "set", "eth0", "mtu", "1300").CombinedOutput()
			return string(out), err
		})
	})
}

func shrinkingPath(t *testing.T, shrink func(*netlab.Host) (string, error)) {
	t.Helper()
	if _, err := exec.LookPath("nft"); err != nil {
		t.Skip("needs nftables:", err)
	}
	const size, limit = 32 << 20, time.Minute
	l := netlab.New(t)
	left, right := l.Link(netlab.LinkConfig{RateBits: 100e6, Delay: 20 * time.Millisecond})
	for _, h := range []*netlab.Host{left, right} {
		if out, err := nft(t.Context(), h, shrinkRules, "-f", "-"); err != nil {
			t.Fatalf("nft: %v\n%s", err, out)
		}
	}
	w := &world{t: t, adit: adit(t), lab: l}
	w.serve(left)
	exposer, code := w.expose(left, listen(t, left, source(size)).String())
	connecter, port := w.forward(right, code)
	c := &midConn{Conn: dial(t, right, port), at: size / 3}
	before := 0
	c.call = func() {
		before = nftCount(t, right, "full")
		for _, h := range []*netlab.Host{left, right} {
			if out, err := shrink(h); err != nil {
				t.Errorf("shrink: %v\n%s", err, out)
			}
		}
	}
	r, err := drain(c, size, limit)
	if err != nil {
		t.Fatal(err)
	}
	after := nftCount(t, right, "full") - before
	t.Logf("%d MiB in %.2f s, longest wait %d ms; %d packets of 1500 bytes before the path shrank, %d afterwards",
		size>>20, r.took.Seconds(), r.stall.Milliseconds(), before, after)
	// The copy began when the session was up: it took no time to find out what the path carries.
	if least := size / 3 / 1500 * 9 / 10; before < least {
		t.Errorf("%d packets of 1500 bytes in the first third, want %d", before, least)
	}
	if after > before {
		t.Errorf("%d packets of 1500 bytes after the path shrank", after)
	}
	if r.stall > 3*time.Second {
		t.Errorf("%v without a byte", r.stall)
	}
	_ = c.Close()
	ends(connecter, exposer)
}
