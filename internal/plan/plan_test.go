package plan

import "testing"

func TestOwnerOf(t *testing.T) {
	for in, want := range map[string][2]string{
		"laptop=2222":              {"laptop", "2222"},
		"laptop=8080:localhost:80": {"laptop", "8080:localhost:80"},
		"laptop=/run/a=b:80":       {"laptop", "/run/a=b:80"},
		"2222":                     {"", "2222"},
		"/run/a=b:80":              {"", "/run/a=b:80"},
		"=2222":                    {"", "=2222"},
	} {
		if name, forward := OwnerOf(in); name != want[0] || forward != want[1] {
			t.Errorf("%q: got %q and %q, want %q", in, name, forward, want)
		}
	}
}
