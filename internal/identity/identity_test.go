package identity

import (
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"testing"
)

// alice returns the key pair of RFC 7748 section 6.1.
func alice(t testing.TB) (PrivateKey, PublicKey) {
	t.Helper()
	secret, err := hex.DecodeString("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a")
	if err != nil {
		t.Fatal(err)
	}
	return PrivateKey(secret), PrivateKey(secret).Public()
}

func TestKeyText(t *testing.T) {
	_, p := alice(t)
	if got, want := hex.EncodeToString(p[:]), "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a"; got != want {
		t.Errorf("public key %s, want %s", got, want)
	}
	s := p.String()
	if len(s) != len(publicPrefix)+keyLetters || s != strings.ToLower(s) {
		t.Errorf("text %q", s)
	}
	for _, in := range []string{s, strings.ToUpper(s), " " + s + "\n"} {
		if got, err := ParsePublicKey(in); err != nil || got != p {
			t.Errorf("%q: %v, %v; want the key", in, got, err)
		}
	}
	if got, want := strings.ReplaceAll(p.Fingerprint(), " ", ""), s[5:21]; got != want {
		t.Errorf("fingerprint %q, want %q", got, want)
	}
	for name, in := range map[string]string{
		"empty":       "",
		"no prefix":   s[5:],
		"cut":         s[:len(s)-1],
		"too long":    s + "a",
		"a digit":     s[:9] + "1" + s[10:],
		"spare bits":  s[:len(s)-1] + "b",
		"a secret":    PrivateKey{1}.text(),
		"the zero":    PublicKey{}.String(),
		"small order": PublicKey{1}.String(),
	} {
		if _, err := ParsePublicKey(in); !errors.Is(err, ErrKeyText) {
			t.Errorf("%s: %v, want ErrKeyText", name, err)
		}
	}
}

func TestPrivateKeyIsNotPrinted(t *testing.T) {
	k, _ := alice(t)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%d", "%q"} {
		if got := fmt.Sprintf(verb, k); got != "private key" {
			t.Errorf("%s prints %q", verb, got)
		}
		if got := fmt.Sprintf(verb, struct{ K PrivateKey }{k}); strings.Contains(got, "77") {
			t.Errorf("%s in a struct prints %q", verb, got)
		}
	}
}

func FuzzParsePublicKey(f *testing.F) {
	_, p := alice(f)
	f.Add(p.String())
	f.Add("adit1")
	f.Add("adit1" + strings.Repeat("2", keyLetters-7) + "\xff\xff\xff0000") // "padding"
	f.Fuzz(func(t *testing.T, s string) {
		k, err := ParsePublicKey(s)
		if err == nil && k.String() != strings.ToLower(strings.TrimSpace(s)) {
			t.Errorf("%q is read as %s", s, k)
		}
	})
}
