package handshake

import (
	"bytes"
	"encoding/hex"
	"errors"
	"strings"
	"testing"

	"github.com/gtank/ristretto255"
)

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func scalar(t *testing.T, s string) *ristretto255.Scalar {
	t.Helper()
	y, err := ristretto255.NewScalar().SetCanonicalBytes(unhex(t, s))
	if err != nil {
		t.Fatal(err)
	}
	return y
}

func wantHex(t *testing.T, what string, got []byte, want string) {
	t.Helper()
	if g := hex.EncodeToString(got); g != want {
		t.Errorf("%s: got %s, want %s", what, g, want)
	}
}

// The vectors of draft-irtf-cfrg-cpace-21, appendix A.
func TestLVCatVectors(t *testing.T) {
	upTo := func(n int) []byte {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(i)
		}
		return b
	}
	wantHex(t, "empty", lvCat(nil), "00")
	wantHex(t, "1234", lvCat([]byte("1234")), "0431323334")
	wantHex(t, "127 bytes", lvCat(upTo(127)), "7f"+hex.EncodeToString(upTo(127)))
	wantHex(t, "128 bytes", lvCat(upTo(128)), "8001"+hex.EncodeToString(upTo(128)))
	wantHex(t, "list", lvCat([]byte("1234"), []byte("5"), nil, []byte("6789")), "04313233340135000436373839")
}

// The vectors of draft-irtf-cfrg-cpace-21, appendix B.3.
func TestCPaceVectors(t *testing.T) {
	prs := []byte("Password")
	ci := unhex(t, "0b415f696e69746961746f720b425f726573706f6e646572")
	sid := unhex(t, "7e4b4791d6a8ef019b936c79fb7f2c57")
	ya := scalar(t, "da3d23700a9e5699258aef94dc060dfda5ebb61f02a5ea77fad53f4ff0976d08")
	yb := scalar(t, "d2316b454718c35362d83d69df6320f38578ed5984651435e2949762d900b80d")

	g := cpaceGenerator(prs, ci, sid)
	wantHex(t, "g", g.Bytes(), "222b6b195fe84b1652badb6f6a3ae3d24341e7306967f0b8115b40d5698c7e56")
	bigYa, bigYb := cpaceMult(ya, g).Bytes(), cpaceMult(yb, g).Bytes()
	wantHex(t, "Ya", bigYa, "d6bac480f2c386c394efc7c47adb9925dcd2630b64f240c50f8d0eec482b9157")
	wantHex(t, "Yb", bigYb, "3ea7e0b19560d7c0b0f5734f63b955286dfa8232b5ebe63324e2d9e7433f7258")
	ka, ok := cpaceMultVerify(ya, bigYb)
	if !ok {
		t.Fatal("Yb rejected")
	}
	kb, ok := cpaceMultVerify(yb, bigYa)
	if !ok {
		t.Fatal("Ya rejected")
	}
	const k = "80b69a8a76457ab6a4d7f887a4bf6b55a2f80ac19c333f917a05fc9887c8b40f"
	wantHex(t, "K of A", ka, k)
	wantHex(t, "K of B", kb, k)
	wantHex(t, "ISK", cpaceSessionKey(sid, ka, bigYa, []byte("ADa"), bigYb, []byte("ADb")),
		"b69effbf61b51d56401c0f65601abe428de8206feaaf0e32198896dcae7b35cd"+
			"2b38950a39dfd5d4a79164614c2984f7daa460b588c1e80c3fa2068af7900447")
}

func TestCPaceMultVerifyVectors(t *testing.T) {
	s := scalar(t, "7cd0e075fa7955ba52c02759a6c90dbbfc10e6d40aea8d283e407d88cf538a05")
	got, ok := cpaceMultVerify(s, unhex(t, "2c3c6b8c4f3800e7aef6864025b4ed79bd599117e427c41bd47d93d654b4a51c"))
	if !ok {
		t.Fatal("valid input rejected")
	}
	wantHex(t, "product", got, "7c13645fe790a468f62c39beb7388e541d8405d1ade69d1778c5fe3e7f6b600e")
	for name, in := range badElements {
		if _, ok := cpaceMultVerify(s, unhex(t, in)); ok {
			t.Errorf("%s accepted", name)
		}
	}
}

// badElements are the two invalid inputs of the draft's B.3.11 and encodings of RFC 9496, appendix A.3.
var badElements = map[string]string{
	"draft Y_i1":                "2b3c6b8c4f3800e7aef6864025b4ed79bd599117e427c41bd47d93d654b4a51c",
	"identity, draft Y_i2":      "0000000000000000000000000000000000000000000000000000000000000000",
	"field element not reduced": "00ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
	"2^255-1":                   "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
	"p + 6":                     "f3ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
	"identity as p":             "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
	"identity as 2^255":         "0000000000000000000000000000000000000000000000000000000000000080",
	"negative field element":    "0100000000000000000000000000000000000000000000000000000000000000",
	"negative, another":         "01ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
	"x^2 is no square":          "26948d35ca62e643e26a83177332e6b6afeb9d08e4268b650f1f5bbd8d81d371",
	"xy is negative":            "3eb858e78f5a7254d8c9731174a94f76755fd3941c0ac93735c07ba14579630e",
	"s = -1, so that y = 0":     "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
}

var (
	testSID = bytes.Repeat([]byte{7}, 16)
)

// listed is the code of these words.
func listed(nameplate string, words ...string) Code {
	return Code{Nameplate: nameplate, Words: [3]string(words)}
}

func newPAKE(t testing.TB, c Code, sid []byte, initiator bool) *PAKE {
	t.Helper()
	p, err := NewPAKE(c, sid, initiator)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestPAKE(t *testing.T) {
	code := listed("7341", "orbit", "hobby", "lamp")
	other := bytes.Repeat([]byte{8}, 16)
	tests := []struct {
		name  string
		code  Code
		sid   []byte
		role  bool
		equal bool
	}{
		{"same", code, testSID, false, true},
		{"another word", listed("7341", "orbit", "hobby", "lake"), testSID, false, false},
		{"words in another order", listed("7341", "hobby", "orbit", "lamp"), testSID, false, false},
		{"another nameplate", listed("7342", "orbit", "hobby", "lamp"), testSID, false, false},
		{"another sid", code, other, false, false},
		{"both creators", code, testSID, true, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a := newPAKE(t, code, testSID, true)
			b := newPAKE(t, tt.code, tt.sid, tt.role)
			if got := len(a.Message()); got != PAKEMessageLen {
				t.Errorf("message: got %d bytes, want %d", got, PAKEMessageLen)
			}
			ka, err := a.Finish(b.Message())
			if err != nil {
				t.Fatal(err)
			}
			kb, err := b.Finish(a.Message())
			if err != nil {
				t.Fatal(err)
			}
			if got := ka == kb; got != tt.equal {
				t.Errorf("keys equal: got %v, want %v", got, tt.equal)
			}
			if ka == [32]byte{} {
				t.Error("key is zero")
			}
		})
	}
}

func TestPAKEIsFresh(t *testing.T) {
	code := listed("7341", "orbit", "hobby", "lamp")
	a, b := newPAKE(t, code, testSID, true), newPAKE(t, code, testSID, true)
	if bytes.Equal(a.Message(), b.Message()) {
		t.Error("two runs sent the same message")
	}
	m := a.Message()
	clear(m)
	if bytes.Equal(m, a.Message()) {
		t.Error("the caller's slice is the PAKE's")
	}
}

func TestPAKERejects(t *testing.T) {
	code := listed("7341", "orbit", "hobby", "lamp")
	good := newPAKE(t, code, testSID, false).Message()
	own := newPAKE(t, code, testSID, true)
	tests := map[string]struct {
		msg  []byte
		want error
	}{
		"nil":             {nil, ErrMalformed},
		"cut":             {good[:PAKEMessageLen-1], ErrMalformed},
		"too long":        {append(bytes.Clone(good), 0), ErrMalformed},
		"another version": {append([]byte{version + 1}, good[1:]...), ErrVersion},
		"our own":         {own.Message(), ErrAuth},
	}
	for name, in := range badElements {
		tests[name] = struct {
			msg  []byte
			want error
		}{append([]byte{version}, unhex(t, in)...), ErrAuth}
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			p := own
			if name != "our own" {
				p = newPAKE(t, code, testSID, true)
			}
			key, err := p.Finish(tt.msg)
			if !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
			if key != [32]byte{} {
				t.Error("a key came with the error")
			}
			if _, err := p.Finish(good); !errors.Is(err, ErrState) {
				t.Errorf("second guess: got %v, want %v", err, ErrState)
			}
		})
	}
}

func TestNewPAKERejects(t *testing.T) {
	code := listed("7341", "orbit", "hobby", "lamp")
	for name, sid := range map[string][]byte{"no sid": nil, "short sid": testSID[:15], "long sid": make([]byte, 65)} {
		if _, err := NewPAKE(code, sid, true); err == nil {
			t.Errorf("%s accepted", name)
		}
	}
	for name, c := range map[string]Code{
		"zero code":  {},
		"upper case": listed("7341", "Otter", "hobby", "lamp"),
		"nameplate":  listed("73\x1b[1", "orbit", "hobby", "lamp"),
		"no word":    listed("7341", "orbit", strings.Repeat("x", 1000), "lamp"),
	} {
		if _, err := NewPAKE(c, testSID, true); !errors.Is(err, ErrCode) {
			t.Errorf("%s: got %v, want %v", name, err, ErrCode)
		}
	}
}

func FuzzPAKEFinish(f *testing.F) {
	code := listed("7341", "orbit", "hobby", "lamp")
	f.Add(newPAKE(f, code, testSID, false).Message())
	f.Add([]byte{})
	f.Add(make([]byte, PAKEMessageLen))
	f.Fuzz(func(t *testing.T, msg []byte) {
		p := newPAKE(t, code, testSID, true)
		key, err := p.Finish(msg)
		if err == nil && key == [32]byte{} {
			t.Error("zero key without an error")
		}
		if err != nil && !errors.Is(err, ErrAuth) && !errors.Is(err, ErrMalformed) && !errors.Is(err, ErrVersion) {
			t.Errorf("unknown error %v", err)
		}
	})
}
