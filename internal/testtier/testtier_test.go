package testtier_test

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"adit/internal/testtier"
)

func TestTiers(t *testing.T) {
	for _, c := range []struct {
		value      string
		long, full bool
	}{{"", false, false}, {"long", true, false}, {"full", true, true}} {
		t.Setenv("ADIT_TEST", c.value)
		if long, full := testtier.IsLong(), testtier.IsFull(); long != c.long || full != c.full {
			t.Errorf("%q: long %v, full %v, want %v and %v", c.value, long, full, c.long, c.full)
		}
		for _, g := range []struct {
			gate func(testing.TB)
			want bool
		}{{testtier.Long, c.long}, {testtier.Full, c.full}} {
			ran := false
			t.Run("gate", func(t *testing.T) {
				g.gate(t)
				ran = true
			})
			if ran != g.want {
				t.Errorf("%q: ran %v, want %v", c.value, ran, g.want)
			}
		}
	}
}

func TestNoTier(t *testing.T) {
	t.Setenv("ADIT_TEST", "lnog")
	defer func() {
		if s, _ := recover().(string); !strings.Contains(s, `"lnog"`) {
			t.Errorf("got %q, want what is wrong with lnog", s)
		}
	}()
	testtier.IsLong()
}

// TestOneMechanism: no test has another way to find out how much is wanted.
func TestOneMechanism(t *testing.T) {
	seen := 0
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		seen++
		text, err := os.ReadFile(path)
		for _, other := range []string{"testing." + "Short(", "ADIT_" + "LONG"} {
			if bytes.Contains(text, []byte(other)) {
				t.Errorf("%s has %s: use testtier.Long or testtier.Full", path, other)
			}
		}
		return err
	})
	if err != nil || seen == 0 {
		t.Fatalf("%d files: %v", seen, err)
	}
}
