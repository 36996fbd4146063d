package cmd

import (
	"adit/internal/fail"
	"errors"
	"strings"
	"testing"
)

func TestPermute(t *testing.T) {
	for _, test := range []struct{ name, in, want string }{
		{"flags after positionals", "expose 22 --json", "expose --json -- 22"},
		{"a value after its flag", "connect CODE -L 2222", "connect --local=2222 -- CODE"},
		{"a value at its flag", "connect -L2222 CODE", "connect --local=2222 -- CODE"},
		{"equals", "connect --local=2222 CODE --port=7", "connect --local=2222 --port=7 -- CODE"},
		{"single dash long", "connect -port 7", "connect --port=7 --"},
		{"flags in front of the command", "--json --port 7 expose 22", "expose --json --port=7 -- 22"},
		{"two dashes end flags", "expose 22 -- --json", "expose -- 22 --json"},
		{"a dash is positional", "expose -", "expose -- -"},
		{"one name for a flag", "expose -v --verbose 22", "expose --verbose --verbose -- 22"},
		{"a value that looks like a flag", "connect -W -v", "connect --stdio=-v --"},
		{"help of a command", "expose 22 --help", "expose --help"},
		{"help of a command, asked first", "help expose", "expose --help"},
		{"nothing", "", "--help"},
		{"version", "--version", "version --"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := permute(testApp(t), strings.Fields(test.in))
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.Join(got, " "); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

func TestUnknownFlags(t *testing.T) {
	for _, test := range []struct{ in, message, hint string }{
		{"expose --jsno 22", "adit expose has no flag --jsno", "did you mean --json?"},
		{"expose --gibberish=1 22", "adit expose has no flag --gibberish", `"adit expose --help" lists its flags`},
		{"expose -W 22", "adit expose has no flag -W", ""},
		{"expsoe 22", `there is no command "expsoe"`, `did you mean "adit expose"?`},
		{"frobnicate", `there is no command "frobnicate"`, `"adit --help" lists the commands`},
		{"connect --timeout", "--timeout needs a value", `"adit connect --help" shows what it takes`},
		{"--frob expose", "unknown flag --frob in front of the command", `flags go after the command; "adit --help" lists the commands`},
		{"--json", "no command given", `"adit --help" lists the commands`},
	} {
		_, err := permute(testApp(t), strings.Fields(test.in))
		var f *fail.Failure
		if !errors.As(err, &f) || f.Code != fail.Usage {
			t.Errorf("%q: %v, want a usage failure", test.in, err)
			continue
		}
		if f.Message != test.message || test.hint != "" && f.Hint != test.hint {
			t.Errorf("%q: %q, %q; want %q, %q", test.in, f.Message, f.Hint, test.message, test.hint)
		}
	}
}

func TestSignalFlag(t *testing.T) {
	for in, hint := range map[string]string{
		"paste": "", "exec:cat": "", "http://127.0.0.1:8080": "", "https://meet.example.org/x": "",
		"exec:":            "for example --signal 'exec:ssh host cat'",
		"https://":         "use paste, the http(s) URL of a rendezvous, or exec:CMD",
		"ftp://x":          "use paste, the http(s) URL of a rendezvous, or exec:CMD",
		"meet.example.org": "did you mean --signal https://meet.example.org?",
		"10.77.0.1:8080":   "did you mean --signal http://10.77.0.1:8080?",
		"pste":             "did you mean paste?",
	} {
		if problem, got := signalProblem(in); got != hint || (problem == "") != (hint == "") {
			t.Errorf("%q: %q, %q; want the hint %q", in, problem, got, hint)
		}
	}
}

func TestStunFlag(t *testing.T) {
	for _, test := range []struct{ in, want string }{
		{"a:1 b.example", "a:1 b.example:3478"},
		{"localhost", "localhost:3478"},
		{"foo", "error"}, // most likely a slip
		{"stun:a.example:5", "a.example:5"},
		{"[2001:db8::1]:7", "[2001:db8::1]:7"},
		{"2001:db8::1", "[2001:db8::1]:3478"},
		{"a:99999", "error"},
		{"a:b", "error"},
		{"turn:a@b:1", "error"},
		{"none a:1", "error"},
	} {
		got, problem, _ := stunList(strings.Fields(test.in))
		s := strings.Join(got, " ")
		if problem != "" {
			s = "error"
		}
		if s != test.want {
			t.Errorf("%q: %q, want %q", test.in, s, test.want)
		}
	}
	if got, problem, _ := stunList(nil); got != nil || problem != "" {
		t.Errorf("nothing: %v, %v; want nil", got, problem)
	}
	if got, problem, _ := stunList([]string{"none"}); got == nil || len(got) != 0 || problem != "" {
		t.Errorf("none: %v, %v; want an empty list", got, problem)
	}
}

func TestQuoted(t *testing.T) {
	for in, want := range map[string]string{
		"22": "22", "a b": "'a b'", "it's": `'it'\''s'`, "": "''", "[::1]:22": "'[::1]:22'", "http://a:1/": "http://a:1/",
	} {
		if got := quoted(in); got != want {
			t.Errorf("%q: %s, want %s", in, got, want)
		}
	}
}
