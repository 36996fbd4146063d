package reliable

import (
	"encoding/binary"
	"math"
	"testing"

	kcp "github.com/xtaci/kcp-go/v5"
)

func segmentOf(cmd byte, sn uint32, data int) []byte {
	p := make([]byte, kcp.IKCP_OVERHEAD+data)
	p[4] = cmd
	binary.LittleEndian.PutUint32(p[12:], sn)
	binary.LittleEndian.PutUint32(p[20:], uint32(data))
	return p
}

func TestRepair(t *testing.T) {
	push := func(sn uint32) []byte { return segmentOf(kcp.IKCP_CMD_PUSH, sn, 100) }
	ack := func(sn uint32) []byte { return segmentOf(kcp.IKCP_CMD_ACK, sn, 0) }
	for _, c := range []struct {
		name    string
		packets [][]byte
		want    []bool
	}{
		{"new segments", [][]byte{push(0), push(1), push(2)}, []bool{false, false, false}},
		{"one again", [][]byte{push(0), push(1), push(0), push(2)}, []bool{false, false, true, false}},
		{"acknowledgements", [][]byte{push(5), ack(1), ack(5)}, []bool{false, false, false}},
		{"behind an acknowledgement", [][]byte{push(5), append(ack(9), push(5)...)}, []bool{false, true}},
		{"old and new in one packet", [][]byte{push(3), append(push(2), push(4)...), push(4)}, []bool{false, true, true}},
		{"past the end of the numbers", [][]byte{push(math.MaxInt32), push(math.MaxUint32), push(0), push(math.MaxUint32)}, []bool{false, false, false, true}},
		{"too short", [][]byte{push(1)[:20], nil}, []bool{false, false}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var r repair
			for i, p := range c.packets {
				if got := r.urgent(p); got != c.want[i] {
					t.Errorf("packet %d: got urgent %v, want %v", i, got, c.want[i])
				}
			}
		})
	}
}

// What is urgent is bounded, however much is sent again.
func TestRepairCredit(t *testing.T) {
	var r repair
	urgent := func(n int) (count int) {
		for range n {
			if r.urgent(segmentOf(kcp.IKCP_CMD_PUSH, 0, 1)) {
				count++
			}
		}
		return count
	}
	if got := urgent(1000); got != repairBurst {
		t.Errorf("%d of 1000 segments urgent at first, want %d", got, repairBurst)
	}
	for sn := range uint32(10 * repairShare) {
		r.urgent(segmentOf(kcp.IKCP_CMD_PUSH, sn+1, 1))
	}
	if got := urgent(1000); got != 10 {
		t.Errorf("%d of 1000 segments urgent after %d new ones, want 10", got, 10*repairShare)
	}
}
