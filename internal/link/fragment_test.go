// In package link: this file takes payloads apart and joins them, which has no exported name.

package link

import (
	"bytes"
	"math/rand/v2"
	"testing"
	"time"
)

// fragments returns the plaintexts of the parts of a payload.
func fragments(id uint32, p []byte, count int) (out [][]byte) {
	for i := range count {
		from, to := cut(len(p), count, i)
		f := fragment{false, i, count, id, p[from:to]}
		b := make([]byte, fragmentHeader+to-from)
		f.put(b)
		out = append(out, b)
	}
	return out
}

func payloadOf(n int, seed byte) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(i)*7 + seed
	}
	return p
}

// take hands a plaintext to r.
func (r *reassembler) take(t *testing.T, b []byte, now time.Duration) []byte {
	t.Helper()
	f, ok := parseFragment(b)
	if !ok {
		t.Fatalf("fragment of %d bytes was refused", len(b))
	}
	return r.join(f, now)
}

func TestFragments(t *testing.T) {
	var r reassembler
	for _, n := range []int{4, 5, 600, mtuBytes + 1, mtuBytes + 2, mostMTU - 1, mostMTU} {
		for count := 2; count <= mostParts; count++ {
			p := payloadOf(n, byte(n))
			all := fragments(uint32(n), p, count)
			for _, i := range rand.Perm(count) {
				if len(all[i]) > mtuBytes || len(all[i]) > len(all[0]) {
					t.Fatalf("%d bytes became %d and %d", n, len(all[0]), len(all[i]))
				}
			}
			order := rand.Perm(count)
			for _, i := range order[1:] {
				for range 2 {
					if got := r.take(t, all[i], 0); len(got) != 0 {
						t.Errorf("%d bytes in %d parts: %d were enough", n, count, count-1)
					}
				}
			}
			if got := r.take(t, all[order[0]], 0); !bytes.Equal(got, p) {
				t.Errorf("%d bytes in %d parts came as %d others", n, count, len(got))
			}
		}
	}
}

// TestParts: what a payload is cut into fits the packets, and is not cut more often than it must be.
func TestParts(t *testing.T) {
	for _, size := range packetSizes {
		for n := size - overheadBytes + 1; n <= mostMTU; n++ {
			count := parts(n, size)
			_, first := cut(n, count, 0)
			if first+fragmentHeader+overheadBytes > size {
				t.Fatalf("%d bytes for packets of %d: parts of %d", n, size, first)
			}
			if count > 2 && (n+count-2)/(count-1)+fragmentHeader+overheadBytes <= size {
				t.Fatalf("%d bytes for packets of %d: %d parts", n, size, count)
			}
		}
	}
}

// TestFragmentsBounded: of more halves than there is room for the oldest are lost, and old ones anyway.
func TestFragmentsBounded(t *testing.T) {
	var r reassembler
	p := payloadOf(mostMTU, 0)
	for i := range mostPartials + 10 {
		r.take(t, fragments(uint32(i), p, 2)[0], time.Duration(i))
	}
	for i := range mostPartials + 10 {
		// The halves that find nobody push out the next of the oldest ones, so ask from the newest on.
		i = mostPartials + 9 - i
		if got, want := len(r.take(t, fragments(uint32(i), p, 2)[1], 1000)) > 0, i >= 10; got != want {
			t.Errorf("payload %d: whole is %v, want %v", i, got, want)
		}
	}
	r = reassembler{}
	ab := fragments(1, p, 2)
	r.take(t, ab[0], time.Second)
	if at := r.tick(2 * time.Second); at != time.Second+partialFor {
		t.Errorf("wants its tick at %v", at)
	}
	if got := r.take(t, ab[1], time.Second+partialFor+1); len(got) != 0 {
		t.Error("a half lived for ever")
	}
	if at := r.tick(3 * partialFor); at != never || r.partials != nil {
		t.Error("the memory was kept")
	}
}

// TestFragmentsUnequal: two halves that cannot belong together are dropped.
func TestFragmentsUnequal(t *testing.T) {
	var r reassembler
	r.take(t, fragments(1, payloadOf(1000, 0), 2)[0], 0)
	if got := r.take(t, fragments(1, payloadOf(1300, 0), 2)[1], 0); len(got) != 0 {
		t.Errorf("made %d bytes of them", len(got))
	}
}

func FuzzFragment(f *testing.F) {
	ab := fragments(7, payloadOf(1300, 0), 2)
	f.Add(ab[0], ab[1])
	ab = fragments(7, payloadOf(1300, 0), 3)
	f.Add(ab[0], ab[2])
	f.Add([]byte{0, 0, 0, 0, 1, 9}, []byte{1, 0, 0, 0, 1, 9})
	f.Fuzz(func(t *testing.T, a, b []byte) {
		var r reassembler
		for i, p := range [][]byte{a, b, a, b} {
			x, ok := parseFragment(p)
			if !ok {
				continue
			}
			out := make([]byte, len(p))
			x.put(out)
			if !bytes.Equal(out, p) {
				t.Fatalf("%x became %x", p, out)
			}
			if n := len(r.join(x, time.Duration(i))); n > mostParts*(len(x.part)+1) {
				t.Fatalf("%d bytes of parts of %d", n, len(x.part))
			}
		}
	})
}
