package tunnel

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
)

func TestParseTarget(t *testing.T) {
	for in, want := range map[string]string{
		"22":                              "localhost:22",
		":22":                             "localhost:22",
		"LocalHost:22":                    "localhost:22",
		"db.example_1.org:5432":           "db.example_1.org:5432",
		"10.0.0.1:1":                      "10.0.0.1:1",
		"[::1]:22":                        "[::1]:22",
		"[0:0::1]:65535":                  "[::1]:65535",
		"[::ffff:10.0.0.1]:80":            "10.0.0.1:80",
		"[fe80::1%eth0]:22":               "[fe80::1%eth0]:22",
		"/run/app.sock":                   "unix:/run/app.sock",
		"unix:/run/../run/a:b":            "unix:/run/a:b",
		"unix:/with space/x.sock":         "unix:/with space/x.sock",
		"@app":                            "unix:@app",
		"unix:@app:x/../y":                "unix:@app:x/../y", // a name, not a path
		"localhost.:22":                   "localhost:22",
		"Example.COM.:22":                 "example.com.:22",
		strings.Repeat("x", 253) + ".:22": strings.Repeat("x", 253) + ".:22",
	} {
		got, err := ParseTarget(in)
		if err != nil || got.String() != want {
			t.Errorf("ParseTarget(%q) = %q, %v; want %q", in, got, err, want)
		}
	}
	for _, in := range []string{
		"", ":", "0", "65536", "22x", "+22", "022", "host", "host:", "host:0", "host:ssh", "host:22:22", "::1:22", "[::1]", "[::1:22",
		"[host]:22", "[10.0.0.1:22", "a b:22", "ho\x00st:22", "-x:22", "22:22", "unix:", "unix:relative", "/", "/a\nb", "/x\u009b2J", "/a\u202eb", "/a\xff", "/" + strings.Repeat("x", 300),
		strings.Repeat("x", 254) + ":22", "[fe80::1%]]:22", "[fe80::1%a\n]:22", "é:22", "[]:22",
		"@", "unix:@", "@a\nb", ".:22", "22.:22", "127.0.0.1.:22", strings.Repeat("x", 254) + ".:22", "@" + strings.Repeat("x", 300),
	} {
		got, err := ParseTarget(in)
		if err == nil {
			t.Errorf("ParseTarget(%q) = %q, want an error", in, got)
		} else if strings.ContainsAny(err.Error(), "\n\x00") {
			t.Errorf("ParseTarget(%q): %q is more than a line", in, err)
		}
	}
}

func TestParseForward(t *testing.T) {
	for in, want := range map[string]Forward{
		"2222":                     {Bind: "localhost", Port: 2222},
		"0":                        {Bind: "localhost"},
		"localhost:2222":           {Bind: "localhost", Port: 2222},
		"*:2222":                   {Bind: "*", Port: 2222},
		":2222":                    {Bind: "*", Port: 2222},
		"[::1]:2222":               {Bind: "::1", Port: 2222},
		"8080:web:80":              {Bind: "localhost", Port: 8080, Target: Target{Host: "web", Port: 80}},
		"8080:[::1]:80":            {Bind: "localhost", Port: 8080, Target: Target{Host: "::1", Port: 80}},
		"8080::80":                 {Bind: "localhost", Port: 8080, Target: Target{Host: "localhost", Port: 80}},
		":8080:web:80":             {Bind: "*", Port: 8080, Target: Target{Host: "web", Port: 80}},
		"0.0.0.0:8080:web:80":      {Bind: "0.0.0.0", Port: 8080, Target: Target{Host: "web", Port: 80}},
		"[::]:8080:[::1]:80":       {Bind: "::", Port: 8080, Target: Target{Host: "::1", Port: 80}},
		"8080:/run/b.sock":         {Bind: "localhost", Port: 8080, Target: Target{Path: "/run/b.sock"}},
		"8080:unix:/run/b.sock":    {Bind: "localhost", Port: 8080, Target: Target{Path: "/run/b.sock"}},
		"10.0.0.1:8080:/run/b":     {Bind: "10.0.0.1", Port: 8080, Target: Target{Path: "/run/b"}},
		"/run/a.sock":              {Path: "/run/a.sock"},
		"/run/a.sock:/run/b.sock":  {Path: "/run/a.sock", Target: Target{Path: "/run/b.sock"}},
		"unix:/run/a.sock:web:80":  {Path: "/run/a.sock", Target: Target{Host: "web", Port: 80}},
		"/run/a.sock:[2001::1]:80": {Path: "/run/a.sock", Target: Target{Host: "2001::1", Port: 80}},
		"@app":                     {Path: "@app"},
		"@app/udp":                 {Path: "@app/udp"},
		"unix:@app:web:80":         {Path: "@app", Target: Target{Host: "web", Port: 80}},
		"@a:@b":                    {Path: "@a", Target: Target{Path: "@b"}},
		"8080:@app":                {Bind: "localhost", Port: 8080, Target: Target{Path: "@app"}},
		"8080:@app/udp":            {Bind: "localhost", Port: 8080, Target: Target{Path: "@app/udp"}},
		"8080:unix:@app":           {Bind: "localhost", Port: 8080, Target: Target{Path: "@app"}},
		"localhost.:8080:web.:80":  {Bind: "localhost", Port: 8080, Target: Target{Host: "web.", Port: 80}},
	} {
		got, err := ParseForward(in)
		if err != nil || got != want {
			t.Errorf("ParseForward(%q) = %+v, %v; want %+v", in, got, err, want)
			continue
		}
		if again, err := ParseForward(got.String()); err != nil || again != got {
			t.Errorf("ParseForward(%q) = %+v, %v; want %+v", got.String(), again, err, got)
		}
	}
	for _, in := range []string{
		"", "web", "65536", "-1", "8080:", "8080:web", "8080:web:", "8080:web:0", "8080:web:x", "8080:80", "web:80:22", "::1:8080:web:80",
		"[::1:8080", "a b:80", "8080:web:80:90:100", "/", "/a:", "/a:22", "224.0.0.1:80", "[ff02::1]:80", "8080 :web:80", "/a:relative",
	} {
		if got, err := ParseForward(in); err == nil {
			t.Errorf("ParseForward(%q) = %+v, want an error", in, got)
		}
	}
	if _, err := ParseForward("8080:80"); err == nil || !strings.Contains(err.Error(), "8080:localhost:80") {
		t.Errorf("ParseForward(8080:80): %v, want the form that was meant", err)
	}
}

// An IPv6 address without brackets is recognised wherever it stands, and the error has the form that was meant.
func TestBracketsAreMissing(t *testing.T) {
	for in, want := range map[string]string{
		"::1:22":                     "[::1]:22",
		"2001:db8::1:22":             "[2001:db8::1]:22",
		"fe80::1%eth0:22":            "[fe80::1%eth0]:22",
		"::ffff:10.0.0.1:22":         "[::ffff:10.0.0.1]:22",
		"::1:53/udp":                 "[::1]:53/udp",
		"1:2:3:4:5:6:7:8:22":         "[1:2:3:4:5:6:7:8]:22",
		"2001:db8:0:0:0:0:0:1:65535": "[2001:db8:0:0:0:0:0:1]:65535",
	} {
		if _, err := ParseTarget(in); err == nil || !strings.HasSuffix(err.Error(), " write "+want) {
			t.Errorf("ParseTarget(%q): %v, want %q at its end", in, err, want)
		}
		if _, err := ParseRule(in); err == nil || !strings.HasSuffix(err.Error(), " write "+want) {
			t.Errorf("ParseRule(%q): %v, want %q at its end", in, err, want)
		}
		if _, err := ParseOffer(in); err == nil || !strings.HasSuffix(err.Error(), " write "+want) {
			t.Errorf("ParseOffer(%q): %v, want %q at its end", in, err, want)
		}
	}
	for in, want := range map[string]string{
		"2222:::1:22":               "2222:[::1]:22",
		"2222:2001:db8::1:80":       "2222:[2001:db8::1]:80",
		"2222:fe80::1%eth0:80/udp":  "2222:[fe80::1%eth0]:80/udp",
		"::1:8080:web:80":           "[::1]:8080:web:80",
		"::1:8080":                  "[::1]:8080",
		"*:8080:::1:80":             "*:8080:[::1]:80",
		"localhost:2222:::1:22":     "localhost:2222:[::1]:22",
		"/run/s:::1:22":             "/run/s:[::1]:22",
		"2001:db8::1:8080:web:80":   "[2001:db8::1]:8080:web:80",
		"2001:db8::1:8080:/run/s":   "[2001:db8::1]:8080:/run/s",
		"8000-8001:2001:db8::1:1-2": "8000-8001:[2001:db8::1]:1-2",
		"80,443:::1":                "80,443:[::1]",
	} {
		if _, err := ParseForwards(in); err == nil || !strings.HasSuffix(err.Error(), " write "+want) {
			t.Errorf("ParseForwards(%q): %v, want %q at its end", in, err, want)
		}
	}
	for _, in := range []string{"::", "host:22:22", "a:b:c", ":::", "1:2:3", "2222:a:b:c", "::1", strings.Repeat(":", 1000), "[::1]:2222:::1:22"} {
		if _, err := ParseForwards(in); err == nil || strings.Contains(err.Error(), "in brackets, write") && !strings.HasPrefix(in, "[") && in != "::1" {
			t.Errorf("ParseForwards(%q): %v, want another error", in, err)
		}
	}
}

// What can never be connected to is refused when it is offered.
func TestParseOffer(t *testing.T) {
	long := "/" + strings.Repeat("x", sunPathBytes-1)
	for in, want := range map[string]string{
		"22": "localhost:22", ":22": "localhost:22", "8000-8010": "localhost:8000-8010", "*": "*", "10.0.0.0/8:0-80": "10.0.0.0/8:0-80",
		"*.lan.:443": "*.lan:443", long[1:] + ":1": long[1:] + ":1", long[:len(long)-1]: "unix:" + long[:len(long)-1],
	} {
		if r, err := ParseOffer(in); err != nil || r.String() != want {
			t.Errorf("ParseOffer(%q) = %q, %v; want %q", in, r, err, want)
		}
	}
	for in, want := range map[string]string{
		"localhost:0": "from 1 to 65535", "0": "from 1 to 65535", "*:0": "from 1 to 65535", "10.0.0.0/8:0": "from 1 to 65535", "0-0": "from 1 to 65535",
		long:           fmt.Sprintf("has %d bytes at most on this system, this one has %d", sunPathBytes-1, sunPathBytes),
		"unix:" + long: "bytes at most on this system", "web": "has no port",
	} {
		if _, err := ParseOffer(in); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("ParseOffer(%q): %v; want an error with %q", in, err, want)
		}
	}
}

func TestHeader(t *testing.T) {
	for _, h := range []header{
		{kind: kindDefault}, {kind: kindPipe}, {kind: kindBench}, {kind: kindBench, request: strings.Repeat("x", maxRequestBytes)},
		headerTo(Target{Host: "::1", Port: 1}), headerTo(Target{Path: "/" + strings.Repeat("x", maxPathBytes-1)}), headerTo(Target{}),
	} {
		b := h.encode()
		got, err := parseHeader(b)
		if err != nil || got != h || len(b) > maxHeaderBytes {
			t.Errorf("parseHeader(%q) = %+v, %v; want %+v", b, got, err, h)
		}
	}
	for _, b := range []string{"", "\x00", "\x05", "\x04" + strings.Repeat("x", maxRequestBytes+1), "\x01x", "\x03x", "\x02", "\x0222", "\x02LOCALHOST:22", "\x02/run/a", "\x02" + strings.Repeat("x", 512)} {
		if got, err := parseHeader([]byte(b)); !errors.Is(err, ErrHeader) {
			t.Errorf("parseHeader(%q) = %+v, %v; want ErrHeader", b, got, err)
		}
	}
}

func FuzzTarget(f *testing.F) {
	for _, s := range []string{"22", ":22", "host:22", "[::1]:22", "[fe80::1%eth0]:22", "unix:/a:b", "/a", "@a", "unix:@a:b", "localhost.:1", "a.:1", "::1:22", "[::ffff:1.2.3.4]:80", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		a, err := ParseTarget(s)
		if err != nil {
			return
		}
		b, err := ParseTarget(a.String())
		if err != nil || a != b || a.IsDefault() || len(headerTo(a).encode()) > maxHeaderBytes {
			t.Fatalf("%q: %+v reads back as %+v, %v", s, a, b, err)
		}
	})
}

func FuzzForward(f *testing.F) {
	for _, s := range []string{"22", ":22", "*:1:a:2", "[::1]:22:[::1]:22", "1:/a:b", "/a:/b", "unix:/a:unix:/b", "0", "1:unix:/x", "1:unix:1", "@a:@b", "1:@a", "2222:::1:22"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		a, err := ParseForward(s)
		if err != nil {
			return
		}
		b, err := ParseForward(a.String())
		if err != nil || a != b {
			t.Fatalf("%q: %+v reads back as %+v, %v", s, a, b, err)
		}
	})
}

func FuzzHeader(f *testing.F) {
	for _, s := range []string{"\x01", "\x02localhost:22", "\x02unix:/a", "\x03", "\x04source", "\x02[::1]:22"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := parseHeader(b)
		if err == nil && !bytes.Equal(h.encode(), b) {
			t.Fatalf("%q encodes as %q", b, h.encode())
		}
	})
}
