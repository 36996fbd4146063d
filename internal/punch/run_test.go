package punch

import (
	"bytes"
	"net/netip"
	"slices"
	"testing"
)

func TestFirstRun(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name                         string
		n, segment, datagrams, bytes int
		want                         []int // all runs, one after the other
	}{
		{"one", 1200, 1200, 64, 65000, []int{1200}},
		{"short one", 7, 1200, 64, 65000, []int{7}},
		{"all in one", 5*1200 + 7, 1200, 64, 65000, []int{5*1200 + 7}},
		{"bounded by bytes", 60*1200 + 1, 1200, 64, 65000, []int{54 * 1200, 6*1200 + 1}},
		{"bounded by datagrams", 130 * 20, 20, 64, 65000, []int{64 * 20, 64 * 20, 2 * 20}},
		{"just as many as fit", 64 * 20, 20, 64, 65000, []int{64 * 20}},
		{"one more", 64*20 + 1, 20, 64, 65000, []int{64 * 20, 1}},
		{"larger than half a run", 3 * 40000, 40000, 64, 65000, []int{40000, 40000, 40000}},
		{"larger than a run", 70000*2 + 5, 70000, 64, 65000, []int{70000, 70000, 5}},
		{"one at a time", 5, 2, 1, 65000, []int{2, 2, 1}},
		{"nothing", 0, 1200, 64, 65000, nil},
	} {
		var got []int
		for n := test.n; n > 0; n -= got[len(got)-1] {
			got = append(got, firstRun(n, test.segment, test.datagrams, test.bytes))
		}
		if !slices.Equal(got, test.want) {
			t.Errorf("%s: got %v, want %v", test.name, got, test.want)
		}
	}
}

func TestJoin(t *testing.T) {
	t.Parallel()
	a, b := netip.MustParseAddrPort("192.0.2.1:1"), netip.MustParseAddrPort("192.0.2.1:2")
	type in struct { // what one message of recvmmsg holds
		n, segment int
		from       netip.AddrPort
	}
	type out struct{ n, segment int }
	for _, test := range []struct {
		name string
		in   []in
		want []out
	}{
		{"one", []in{{100, 100, a}}, []out{{100, 100}}},
		{"equal", []in{{100, 100, a}, {100, 100, a}, {100, 100, a}}, []out{{300, 100}}},
		{"shorter last", []in{{100, 100, a}, {100, 100, a}, {3, 3, a}}, []out{{203, 100}}},
		{"nothing behind a shorter one", []in{{100, 100, a}, {3, 3, a}, {100, 100, a}, {100, 100, a}}, []out{{103, 100}, {200, 100}}},
		{"nor another short one", []in{{100, 100, a}, {3, 3, a}, {3, 3, a}, {3, 3, a}}, []out{{103, 100}, {6, 3}}},
		{"longer", []in{{99, 99, a}, {100, 100, a}}, []out{{99, 99}, {100, 100}}},
		{"another source", []in{{100, 100, a}, {100, 100, b}, {100, 100, a}}, []out{{100, 100}, {100, 100}, {100, 100}}},
		{"one behind a run", []in{{90, 30, a}, {30, 30, a}, {4, 4, a}}, []out{{124, 30}}},
		{"one behind a run that is over", []in{{95, 30, a}, {5, 5, a}}, []out{{95, 30}, {5, 5}}},
		{"a run does not move", []in{{90, 30, a}, {90, 30, a}, {60, 30, a}}, []out{{90, 30}, {90, 30}, {60, 30}}},
		{"a shorter one whose size divides", []in{{100, 100, a}, {50, 50, a}, {50, 50, a}}, []out{{150, 100}, {50, 50}}},
	} {
		const slot = 128
		buf := make([]byte, slot*len(test.in))
		runs := make([]run, 0, len(test.in))
		var sent, got []byte
		for i, m := range test.in {
			p := buf[i*slot : i*slot+m.n]
			for j := range p {
				p[j] = byte(i + 1)
			}
			sent = append(sent, p...)
			runs = join(runs, run{p, m.segment, m.from})
		}
		var sizes []out
		for _, r := range runs {
			got = append(got, r.b...)
			sizes = append(sizes, out{len(r.b), r.segment})
		}
		if !slices.Equal(sizes, test.want) {
			t.Errorf("%s: got %v, want %v", test.name, sizes, test.want)
		}
		if !bytes.Equal(got, sent) {
			t.Errorf("%s: got bytes %x, want %x", test.name, got, sent)
		}
	}
}
