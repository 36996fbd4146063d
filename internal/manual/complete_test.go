package manual

import (
	"strings"
	"testing"

	"adit/internal/leaktest"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

// program is a small one with all that completion knows.
func program() *Program {
	common := []Flag{{Name: "path", Value: "WHICH", Values: []string{"auto", "direct"}}, {Name: "config", Value: "FILE", Path: true}, {Name: "verbose", Short: "v"}}
	return &Program{Name: "adit", Commands: []Command{
		{Name: "connect", Summary: "join", Flags: common, Expect: func(args []string) Expected {
			if len(args) > 0 {
				return Expected{}
			}
			return Expected{Kind: "peer"}
		}},
		{Name: "config", Flags: common, Expect: func(args []string) Expected { return Expected{Files: len(args) == 1} }},
		{Name: "service", Expect: func(args []string) Expected {
			switch {
			case len(args) == 0:
				return Expected{Words: []string{"install", "status"}}
			case args[0] == "install":
				return Expected{Words: []string{"connect"}, Command: true}
			}
			return Expected{}
		}},
	}}
}

func TestComplete(t *testing.T) {
	t.Parallel()
	lookUp := func(kind, begins string) []Candidate { return []Candidate{{Word: kind + ":" + begins}} }
	for line, want := range map[string]string{
		"":                              "connect config service",
		"con":                           "connect config",
		"help s":                        "service",
		"connect ":                      "peer:",
		"connect ho":                    "peer:ho",
		"connect home ":                 "",
		"connect -":                     "--path --config --verbose -v --help",
		"connect --path d":              "direct",
		"connect --path=d":              "--path=direct",
		"connect --config ":             "FILES",
		"connect -v ho":                 "peer:ho",
		"--path direct connect ho":      "peer:ho",
		"config check ":                 "FILES",
		"service ":                      "install status",
		"service install ":              "connect",
		"service install -- ":           "connect",
		"service install -- connect ho": "peer:ho",
		"service install -- connect --": "--path --config --verbose --help",
		"service status ":               "",
		"nonsense ":                     "",
		"connect --nonsense=x":          "",
	} {
		list, files := program().Complete(strings.Split(line, " "), lookUp)
		var got []string
		for _, c := range list {
			got = append(got, c.Word)
		}
		if files {
			got = append(got, "FILES")
		}
		if got := strings.Join(got, " "); got != want {
			t.Errorf("%q: got %q, want %q", line, got, want)
		}
	}
}
