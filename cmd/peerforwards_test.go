package cmd

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
		if name, forward := ownerOf(in); name != want[0] || forward != want[1] {
			t.Errorf("%q: got %q and %q, want %q", in, name, forward, want)
		}
	}
}

func TestCarrierOf(t *testing.T) {
	silent := func(s string) bool { return s[0] == '-' }
	for _, test := range []struct {
		name     string
		sessions []string
		now      string
		want     string
	}{
		{"nobody", nil, "", ""},
		{"the first", []string{"a"}, "", "a"},
		{"it stays", []string{"a", "b"}, "a", "a"},
		{"it is gone: the newest", []string{"b", "c"}, "a", "c"},
		{"it is silent: the newest that is not", []string{"-a", "b", "-c"}, "-a", "b"},
		{"all are silent: it stays", []string{"-a", "-b"}, "-a", "-a"},
		{"all are silent, and it is gone", []string{"-b", "-c"}, "a", "-c"},
		{"all are gone", nil, "a", ""},
	} {
		if got := carrierOf(test.sessions, test.now, silent); got != test.want {
			t.Errorf("%s: got %q, want %q", test.name, got, test.want)
		}
	}
}
