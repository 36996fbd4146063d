package signal

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"reflect"
	"strings"
	"testing"
)

func sampleDescription() Description {
	return Description{
		Index: 0xabcdef,
		Seed:  [16]byte{1, 2, 3, 15: 16},
		Candidates: []Candidate{
			{Host, netip.MustParseAddrPort("192.168.178.20:40001"), 2130706431},
			{Host, netip.MustParseAddrPort("10.8.0.3:40001"), 2130706175},
			{ServerReflexive, netip.MustParseAddrPort("203.0.113.77:51999"), 1694498815},
		},
		Targets: []string{"localhost:22"},
	}
}

func TestDescription(t *testing.T) {
	many := Description{Index: 1<<24 - 1}
	for i := range MaxCandidates {
		addr := netip.AddrFrom16([16]byte{0x20, 1, 15: byte(i)})
		many.Candidates = append(many.Candidates, Candidate{CandidateType(i % 4), netip.AddrPortFrom(addr, uint16(i+1)), ^uint32(i)})
	}
	for range MaxTargets {
		many.Targets = append(many.Targets, strings.Repeat("ü", MaxTargetBytes/2))
	}
	for _, c := range []struct {
		name string
		d    Description
	}{
		{"zero", Description{}},
		{"sample", sampleDescription()},
		{"behind a NAT", Description{NAT: NAT{Mapping: 2, Preserved: true, Burst: true}}},
		{"behind one that counts", Description{NAT: NAT{Mapping: 3, Burst: true, Step: -2, Last: netip.MustParseAddrPort("203.0.113.77:40001")}}},
		{"as many as there may be", many},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := c.d.Append([]byte("x"))
			got, err := ParseDescription(b[1:])
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, c.d) {
				t.Errorf("got %+v, want %+v", got, c.d)
			}
		})
	}
}

func TestDescriptionLeavesOutWhatNobodyAccepts(t *testing.T) {
	d := sampleDescription()
	want := sampleDescription()
	for range 2 * MaxCandidates {
		d.Candidates = append(d.Candidates,
			Candidate{}, // no address
			Candidate{Host, netip.MustParseAddrPort("0.0.0.0:1"), 1},
			Candidate{Host, netip.MustParseAddrPort("224.0.0.251:5353"), 1},
			Candidate{Host, netip.MustParseAddrPort("192.0.2.1:0"), 1},
			Candidate{7, netip.MustParseAddrPort("192.0.2.1:1"), 1},
			Candidate{Relay, netip.MustParseAddrPort("[::ffff:192.0.2.9]:9"), 9})
	}
	for len(want.Candidates) < MaxCandidates {
		want.Candidates = append(want.Candidates, Candidate{Relay, netip.MustParseAddrPort("192.0.2.9:9"), 9})
	}
	for range 2 * MaxTargets {
		d.Targets = append(d.Targets, "", strings.Repeat("x", MaxTargetBytes+1), "a\x1b[2Jb", "\xff", "web:80")
	}
	for len(want.Targets) < MaxTargets {
		want.Targets = append(want.Targets, "web:80")
	}
	got, err := ParseDescription(d.Append(nil))
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

// A later version may add fields: this one skips them.
func TestDescriptionUnknownField(t *testing.T) {
	want := sampleDescription()
	b := appendField(want.Append(nil), 300, bytes.Repeat([]byte{9}, 400))
	b = appendField(b, fieldTarget, []byte("later:1"))
	want.Targets = append(want.Targets, "later:1")
	got, err := ParseDescription(b)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestDescriptionRefuses(t *testing.T) {
	fixed := Description{}.Append(nil)
	candidate := sampleDescription().Candidates[0].append(nil)
	field := func(id uint64, v []byte) []byte { return appendField(bytes.Clone(fixed), id, v) }
	var targets []byte
	for range MaxTargets + 1 {
		targets = appendField(targets, fieldTarget, []byte("a:1"))
	}
	for _, c := range []struct {
		name string
		b    []byte
	}{
		{"empty", nil},
		{"short", fixed[:len(fixed)-1]},
		{"other version", append([]byte{2}, fixed[1:]...)},
		{"field without length", append(bytes.Clone(fixed), 9)},
		{"field longer than the rest", append(bytes.Clone(fixed), 9, 5, 1)},
		{"field of 2^64-1 bytes", append(binary.AppendUvarint(append(bytes.Clone(fixed), 9), ^uint64(0)), 1)},
		{"candidate cut short", field(fieldCandidates, candidate[:10])},
		{"candidate with unknown bits", field(fieldCandidates, append([]byte{0x80}, candidate[1:]...))},
		{"candidate without port", field(fieldCandidates, []byte{0, 192, 0, 2, 1, 0, 0, 1, 1, 1, 1})},
		{"candidate 0.0.0.0", field(fieldCandidates, []byte{0, 0, 0, 0, 0, 0, 9, 1, 1, 1, 1})},
		{"too many candidates", field(fieldCandidates, bytes.Repeat(candidate, MaxCandidates+1))},
		{"too many candidates in two fields", appendField(field(fieldCandidates, bytes.Repeat(candidate, MaxCandidates)), fieldCandidates, candidate)},
		{"empty target", field(fieldTarget, nil)},
		{"long target", field(fieldTarget, bytes.Repeat([]byte("a"), MaxTargetBytes+1))},
		{"target with an escape", field(fieldTarget, []byte("a\x1b[2J"))},
		{"too many targets", append(bytes.Clone(fixed), targets...)},
	} {
		t.Run(c.name, func(t *testing.T) {
			if d, err := ParseDescription(c.b); err == nil {
				t.Errorf("got %+v, want an error", d)
			}
		})
	}
}

// TestNATField: what a later version adds is left aside, what makes no sense is nothing.
func TestNATField(t *testing.T) {
	for _, c := range []struct {
		name  string
		value []byte
		want  NAT
	}{
		{"empty", nil, NAT{}},
		{"unknown bits", []byte{0xf2}, NAT{Mapping: 2}},
		{"cut short", []byte{3, 0, 1, 203, 0}, NAT{Mapping: 3}},
		{"longer", []byte{3, 0, 1, 203, 0, 113, 1, 0, 9, 77}, NAT{Mapping: 3, Step: 1, Last: netip.MustParseAddrPort("203.0.113.1:9")}},
		{"no step", []byte{3, 0, 0, 203, 0, 113, 1, 0, 9}, NAT{Mapping: 3}},
		{"no port", []byte{3, 0, 1, 203, 0, 113, 1, 0, 0}, NAT{Mapping: 3}},
		{"multicast", []byte{3, 0, 1, 224, 0, 113, 1, 0, 9}, NAT{Mapping: 3}},
	} {
		b := appendField(Description{}.Append(nil), fieldNAT, c.value)
		if got, err := ParseDescription(b); err != nil || got.NAT != c.want {
			t.Errorf("%s: got %+v, %v, want %+v", c.name, got.NAT, err, c.want)
		}
	}
}

func FuzzDescription(f *testing.F) {
	f.Add([]byte{})
	f.Add(sampleDescription().Append(nil))
	f.Add(appendField(sampleDescription().Append(nil), 77, []byte("later")))
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := ParseDescription(b)
		if err != nil {
			return
		}
		again, err := ParseDescription(d.Append(nil))
		if err != nil || !reflect.DeepEqual(again, d) {
			t.Errorf("%+v came back as %+v, %v", d, again, err)
		}
	})
}
