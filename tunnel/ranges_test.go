package tunnel

import (
	"strings"
	"testing"
)

func TestParseForwards(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"8000-8002:host:9000-9002", "8000:host:9000 8001:host:9001 8002:host:9002"},
		{"80,443:host", "80:host:80 443:host:443"},
		{"80,443:my-host", "80:my-host:80 443:my-host:443"},
		{"80,8000-8001:[::1]:1,5-6", "80:[::1]:1 8000:[::1]:5 8001:[::1]:6"},
		{"*:80,443:host", "*:80:host:80 *:443:host:443"},
		{"[::1]:80,443:host:80,443", "[::1]:80:host:80 [::1]:443:host:443"},
		{"127.0.0.1:1-2:10.0.0.1:5-6", "127.0.0.1:1:10.0.0.1:5 127.0.0.1:2:10.0.0.1:6"},
		{"53,123:host/udp", "53:host:53/udp 123:host:123/udp"},
		{"1-2:host:3-4/udp", "1:host:3/udp 2:host:4/udp"},
		{"7-7:host", "7:host:7"},
		{"8080", "8080"},
		{"5353/udp", "5353/udp"},
		{"8080:localhost:80", "8080:localhost:80"},
		{"8080:1-2:80", "8080:1-2:80"}, // a host may be called that
		{"8080:/run/a-b", "8080:/run/a-b"},
		{"/run/s:localhost:80", "/run/s:localhost:80"},
		{"/a:/b", "/a:/b"},
		{"@a-1:@b", "@a-1:@b"},
		{"8080:@a-b", "8080:@a-b"},
	} {
		fs, err := ParseForwards(c.in)
		var got []string
		for _, f := range fs {
			got = append(got, f.String())
		}
		if err != nil || strings.Join(got, " ") != c.want {
			t.Errorf("%s: got %q, %v, want %q", c.in, got, err, c.want)
		}
	}
	for in, want := range map[string]string{
		"80,443":                  "no host",
		"8000-8010:host:9000":     "11 ports to listen at and 1",
		"8000:host:9000-9010":     "one port to listen at and several",
		"8010-8000:host":          "ends before it begins",
		"80,80:host":              "port 80 twice",
		"1-2000:host":             "more than 1024",
		"80,:host":                "is not a port",
		"80-70000:host":           "is not a port",
		"80,443:/run/s":           "several ports and one socket",
		"80,443:unix:/run/s":      "several ports and one socket",
		"80,443:@s":               "several ports and one socket",
		"80,443:":                 "makes no sense",
		"80,443:host:1-2:3":       "makes no sense",
		"80,443:ho st":            "not a host name",
		"/run/s:localhost:53/udp": "not at a unix socket",
	} {
		if fs, err := ParseForwards(in); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, %v, want an error with %q", in, fs, err, want)
		}
	}
}

func FuzzParseForwards(f *testing.F) {
	for _, s := range []string{"8000-8010:host:9000-9010", "80,443:host", "*:1-2:[::1]/udp", "/a:/b", "22"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		fs, err := ParseForwards(s)
		if err != nil {
			return
		}
		for _, f := range fs {
			if g, err := ParseForward(f.String()); err != nil || g != f {
				t.Errorf("%q: %q became %q, %v", s, f, g, err)
			}
		}
	})
}
