package punch

import (
	"net"
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// maximum reads net.core.rmem_max.
func maximum(t *testing.T) int {
	t.Helper()
	b, err := os.ReadFile("/proc/sys/net/core/rmem_max")
	if err != nil {
		t.Skip(err)
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// netAdmin reports whether this thread has CAP_NET_ADMIN, after taking it away if drop is set.
func netAdmin(drop bool) (bool, error) {
	h := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&h, &data[0]); err != nil {
		return false, err
	}
	if drop {
		data[0].Effective &^= 1 << unix.CAP_NET_ADMIN
		if err := unix.Capset(&h, &data[0]); err != nil {
			return false, err
		}
	}
	return data[0].Effective&(1<<unix.CAP_NET_ADMIN) != 0, nil
}

// What the kernel caps is told as it is.
func TestReceiveBufferIsCapped(t *testing.T) {
	t.Parallel()
	most := maximum(t)
	for _, drop := range []bool{false, true} {
		done := make(chan struct{})
		go func() {
			defer close(done)
			runtime.LockOSThread() // and the thread ends with its goroutine
			admin, err := netAdmin(drop)
			if err != nil {
				t.Error(err)
				return
			}
			for _, size := range []int{64 << 10, most, most + 4096, 2 * most} {
				c, err := net.ListenUDP("udp4", nil)
				if err != nil {
					t.Error(err)
					return
				}
				want := 2 * size
				if !admin {
					want = 2 * min(size, most)
				}
				if got := setBuffers(c, size); got != want {
					t.Errorf("CAP_NET_ADMIN %v, %d bytes asked for, at most %d: got %d, want %d", admin, size, most, got, want)
				}
				c.Close()
			}
		}()
		<-done
	}
}

// As many full packets fit into the buffer as a link believes, who counts 2,304 bytes for each.
func TestReceiveBufferHolds(t *testing.T) {
	t.Parallel()
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	granted := setBuffers(c, 100<<10)
	h := listen(t, Config{})
	h.socks[0].batch.gso.Store(false) // a run is cheaper
	const charged = 2304
	fit := granted / charged
	if err := h.Send(datagrams(0, 2*fit, 1232, 1232), 1232, c.LocalAddr().(*net.UDPAddr).AddrPort()); err != nil {
		t.Fatal(err)
	}
	got := 0
	var b [2000]byte
	for {
		if err := c.SetReadDeadline(time.Now().Add(100 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		if _, _, err := c.ReadFromUDPAddrPort(b[:]); err != nil {
			break
		}
		got++
	}
	if got < fit*3/4 || got > fit*5/4 { // kernels differ a little
		t.Errorf("a buffer of %d bytes held %d packets, want about %d", granted, got, fit)
	}
}
