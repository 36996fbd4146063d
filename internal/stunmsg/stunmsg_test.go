package stunmsg

import (
	"bytes"
	"net/netip"
	"testing"

	"adit/internal/leaktest"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

// The messages of RFC 5769, sections 2.1 to 2.4.
const (
	vectorID = "\xb7\xe7\xa7\x01\xbc\x34\xd6\x86\xfa\x87\xdf\xae"

	vectorRequest = "\x00\x01\x00\x58\x21\x12\xa4\x42" + vectorID +
		"\x80\x22\x00\x10STUN test client" +
		"\x00\x24\x00\x04\x6e\x00\x01\xff" +
		"\x80\x29\x00\x08\x93\x2f\xf9\xb1\x51\x26\x3b\x36" +
		"\x00\x06\x00\x09evtj:h6vY   " +
		"\x00\x08\x00\x14\x9a\xea\xa7\x0c\xbf\xd8\xcb\x56\x78\x1e\xf2\xb5\xb2\xd3\xf2\x49\xc1\xb5\x71\xa2" +
		"\x80\x28\x00\x04\xe5\x7a\x3b\xcf"

	vectorIPv4 = "\x01\x01\x00\x3c\x21\x12\xa4\x42" + vectorID +
		"\x80\x22\x00\x0btest vector " +
		"\x00\x20\x00\x08\x00\x01\xa1\x47\xe1\x12\xa6\x43" +
		"\x00\x08\x00\x14\x2b\x91\xf5\x99\xfd\x9e\x90\xc3\x8c\x74\x89\xf9\x2a\xf9\xba\x53\xf0\x6b\xe7\xd7" +
		"\x80\x28\x00\x04\xc0\x7d\x4c\x96"

	vectorIPv6 = "\x01\x01\x00\x48\x21\x12\xa4\x42" + vectorID +
		"\x80\x22\x00\x0btest vector " +
		"\x00\x20\x00\x14\x00\x02\xa1\x47\x01\x13\xa9\xfa\xa5\xd3\xf1\x79\xbc\x25\xf4\xb5\xbe\xd2\xb9\xd9" +
		"\x00\x08\x00\x14\xa3\x82\x95\x4e\x4b\xe6\x7b\xf1\x17\x84\xc9\x7c\x82\x92\xc2\x75\xbf\xe3\xed\x41" +
		"\x80\x28\x00\x04\xc8\xfb\x0b\x4c"

	vectorLongTerm = "\x00\x01\x00\x60\x21\x12\xa4\x42\x78\xad\x34\x33\xc6\xad\x72\xc0\x29\xda\x41\x2e" +
		"\x00\x06\x00\x12マトリックス\x00\x00" +
		"\x00\x15\x00\x1cf//499k954d6OL34oL9FSTvy64sA" +
		"\x00\x14\x00\x0bexample.org\x00" +
		"\x00\x08\x00\x14\xf6\x70\x24\x65\x6d\xd6\x4a\x3e\x02\xb8\xe0\x71\x2e\x85\xc9\xa2\x8c\xa8\x96\x66"
)

func TestVectors(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, message string
		typ           uint16
		attrs         map[uint16]string
		mapped        string
		fingerprint   bool
	}{
		{"request", vectorRequest, BindingRequest, map[uint16]string{Username: "evtj:h6vY", Priority: "\x6e\x00\x01\xff"}, "", true},
		{"ipv4", vectorIPv4, BindingSuccess, nil, "192.0.2.1:32853", true},
		{"ipv6", vectorIPv6, BindingSuccess, nil, "[2001:db8:1234:5678:11:2233:4455:6677]:32853", true},
		{"long-term", vectorLongTerm, BindingRequest, map[uint16]string{Username: "マトリックス", Realm: "example.org", Nonce: "f//499k954d6OL34oL9FSTvy64sA"}, "", false},
	} {
		b := []byte(c.message)
		typ, id, ok := Parse(b)
		if !ok || typ != c.typ || string(id[:]) != c.message[8:20] {
			t.Errorf("%s: got type %#x, id %x, %v", c.name, typ, id, ok)
		}
		for attr, want := range c.attrs {
			if got, ok := Find(b, attr); !ok || string(got) != want {
				t.Errorf("%s: attribute %#x: got %q, %v, want %q", c.name, attr, got, ok, want)
			}
		}
		if got, ok := Mapped(b, id); ok != (c.mapped != "") || ok && got.String() != c.mapped {
			t.Errorf("%s: mapped address: got %v, %v, want %s", c.name, got, ok, c.mapped)
		}
		good := false
		for a := range Attrs(b) {
			good = good || a.Type == Fingerprint && Fingerprinted(b, a)
		}
		if good != c.fingerprint {
			t.Errorf("%s: fingerprint: got %v, want %v", c.name, good, c.fingerprint)
		}
		b[30] ^= 1
		for a := range Attrs(b) {
			if a.Type == Fingerprint && Fingerprinted(b, a) {
				t.Errorf("%s: changed, and its fingerprint fits", c.name)
			}
		}
	}
}

// What is written is the vector again, as far as its padding is zeros.
func TestAppend(t *testing.T) {
	t.Parallel()
	b := AppendHeader([]byte("before"), BindingSuccess, ID([]byte(vectorID)))
	b = AppendAttr(b, 0x8022, []byte("test vector"))
	b = AppendXORAddress(b, XORMappedAddress, netip.MustParseAddrPort("[::ffff:192.0.2.1]:32853"), ID([]byte(vectorID)))
	Finish(b[6:])
	want := "before\x01\x01\x00\x1c" + vectorIPv4[4:35] + "\x00" + vectorIPv4[36:48]
	if string(b) != want {
		t.Errorf("got %q, want %q", b, want)
	}
	b = AppendXORAddress(nil, XORMappedAddress, netip.MustParseAddrPort("[2001:db8:1234:5678:11:2233:4455:6677]:32853"), ID([]byte(vectorID)))
	if want := vectorIPv6[36:60]; string(b) != want {
		t.Errorf("got %x, want %x", b, want)
	}
	b = AppendUint32(nil, ChangeRequest, ChangeAddr|ChangePort)
	if want := "\x00\x03\x00\x04\x00\x00\x00\x06"; string(b) != want {
		t.Errorf("got %x, want %x", b, want)
	}
}

func TestParseRefuses(t *testing.T) {
	t.Parallel()
	head := "\x01\x01\x00\x08\x21\x12\xa4\x42" + vectorID
	for name, b := range map[string]string{
		"empty": "", "short": head[:19], "cut": vectorIPv4[:len(vectorIPv4)-4], "longer": vectorIPv4 + "\x00\x00\x00\x00",
		"no cookie": "\x01\x01\x00\x00\x21\x12\xa4\x43" + vectorID, "data": "\x80" + vectorIPv4[1:], "channel": "\x40" + vectorIPv4[1:],
		"attribute too long": head + "\x00\x20\x00\x05\x00\x01\x00\x00", "length no multiple of four": "\x01\x01\x00\x02\x21\x12\xa4\x42" + vectorID + "\x00\x20",
	} {
		if typ, _, ok := Parse([]byte(b)); ok {
			t.Errorf("%s: taken as %#x", name, typ)
		}
	}
}

func TestAddress(t *testing.T) {
	t.Parallel()
	for value, want := range map[string]string{
		"\x00\x01\x0d\x96\xc0\x00\x02\x09":                                                      "192.0.2.9:3478",
		"\x00\x02\x0d\x96" + "2001db8000000001":                                                 "[3230:3031:6462:3830:3030:3030:3030:3031]:3478",
		"\x00\x02\x00\x01" + "\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff\x7f\x00\x00\x01": "[::ffff:127.0.0.1]:1",
		"": "", "\x00\x01\x0d": "", "\x00\x01\x0d\x96": "", "\x00\x01\x0d\x96\xc0\x00\x02": "", "\x00\x02\x0d\x96\xc0\x00\x02\x09": "",
		"\x00\x03\x0d\x96\xc0\x00\x02\x09": "", "\x00\x01\x0d\x96\xc0\x00\x02\x09\x00": "", "\x00\x02\x0d\x9601234567890123456": "",
	} {
		if got, ok := Address([]byte(value)); ok != (want != "") || ok && got.String() != want {
			t.Errorf("%x: got %v, %v, want %q", value, got, ok, want)
		}
	}
	// An answer without XOR-MAPPED-ADDRESS, and one whose mapped address is an IPv4 one in disguise.
	id := ID{1}
	old := Finish(AppendAttr(AppendHeader(nil, BindingSuccess, id), MappedAddress, []byte("\x00\x02\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff\xc0\x00\x02\x01")))
	if got, ok := Mapped(old, id); !ok || got.String() != "192.0.2.1:1" {
		t.Errorf("MAPPED-ADDRESS: got %v, %v", got, ok)
	}
	if got, ok := Mapped(Request(id), id); ok || got.IsValid() {
		t.Errorf("no address: got %v, %v", got, ok)
	}
}

func TestAllocatesNothing(t *testing.T) {
	b, out := []byte(vectorIPv6), make([]byte, 0, 100)
	n := testing.AllocsPerRun(100, func() {
		_, id, _ := Parse(b)
		a, _ := Mapped(b, id)
		Finish(AppendXORAddress(AppendHeader(out, BindingSuccess, id), XORMappedAddress, a, id))
	})
	if n != 0 {
		t.Errorf("%v allocations, want 0", n)
	}
}

// FuzzParse: what comes in from the network may be anything. What is taken can be written again.
func FuzzParse(f *testing.F) {
	for _, v := range []string{vectorRequest, vectorIPv4, vectorIPv6, vectorLongTerm} {
		f.Add([]byte(v))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		before := bytes.Clone(b)
		typ, id, ok := Parse(b)
		mapped, there := Mapped(b, id)
		for a := range Attrs(b) {
			Fingerprinted(b, a)
		}
		if !bytes.Equal(b, before) {
			t.Fatal("the message was changed")
		}
		if mapped.Addr().Is4In6() {
			t.Fatalf("%v: an IPv4 address in an IPv6 one", mapped)
		}
		if !ok {
			return
		}
		again := AppendHeader(nil, typ, id)
		for a := range Attrs(b) {
			again = AppendAttr(again, a.Type, a.Value)
		}
		if len(again) != len(b) {
			t.Fatalf("%x comes back as %x", b, again)
		}
		if there {
			v := AppendXORAddress(AppendHeader(nil, BindingSuccess, id), XORMappedAddress, mapped, id)
			if back, ok := Mapped(Finish(v), id); !ok || back != mapped {
				t.Fatalf("%v comes back as %v, %v", mapped, back, ok)
			}
		}
	})
}
