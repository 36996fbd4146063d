package main

import (
	"go/build"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// allowed says which packages of adit each package may import (docs/design.md). A package that is
// not listed may import none and must not exist: add it here together with its place in the design.
var allowed = map[string][]string{
	"adit":                         {"adit/cmd"},
	"adit/cmd":                     {"adit/tunnel", "adit/reliable", "adit/signal", "adit/signal/rendezvous", "adit/internal/bench", "adit/internal/carry", "adit/internal/config", "adit/internal/control", "adit/internal/doctor", "adit/internal/event", "adit/internal/fail", "adit/internal/forwards", "adit/internal/handshake", "adit/internal/history", "adit/internal/identity", "adit/internal/manual", "adit/internal/memory", "adit/internal/metrics", "adit/internal/peer", "adit/internal/plan", "adit/internal/relay", "adit/internal/rulebook", "adit/internal/sdnotify", "adit/internal/statusview", "adit/internal/suggest", "adit/internal/turn", "adit/internal/typeset"},
	"adit/internal/acceptance":     {},
	"adit/internal/bench":          {"adit/tunnel"},
	"adit/internal/carry":          {"adit/internal/outbox", "adit/internal/fair"},
	"adit/internal/control":        {"adit/internal/identity"},
	"adit/internal/doctor":         {"adit/signal", "adit/internal/nat64", "adit/internal/portmap", "adit/internal/punch", "adit/internal/reach", "adit/internal/stunmsg", "adit/internal/turn", "adit/internal/uplink"},
	"adit/internal/event":          {},
	"adit/internal/fair":           {},
	"adit/internal/config":         {"adit/tunnel", "adit/internal/fail", "adit/internal/identity", "adit/internal/plan", "adit/internal/suggest"},
	"adit/internal/fail":           {},
	"adit/internal/forwards":       {"adit/reliable", "adit/tunnel", "adit/internal/event", "adit/internal/fail", "adit/internal/peer", "adit/internal/plan"},
	"adit/internal/handshake":      {},
	"adit/internal/identity":       {},
	"adit/internal/history":        {},
	"adit/internal/leaktest":       {},
	"adit/internal/congestion":     {},
	"adit/internal/link":           {"adit/internal/congestion"},
	"adit/internal/netlab":         {},
	"adit/internal/memory":         {},
	"adit/internal/manual":         {"adit/internal/typeset"},
	"adit/internal/metrics":        {},
	"adit/internal/metrics/strict": {},
	"adit/internal/nat64":          {},
	"adit/internal/netmon":         {},
	"adit/internal/outbox":         {},
	"adit/internal/peer":           {"adit/reliable", "adit/signal", "adit/internal/carry", "adit/internal/event", "adit/internal/handshake", "adit/internal/history", "adit/internal/identity", "adit/internal/link", "adit/internal/netmon", "adit/internal/portmap", "adit/internal/punch", "adit/internal/reach", "adit/internal/turn"},
	"adit/internal/plan":           {"adit/tunnel", "adit/internal/fail", "adit/internal/identity", "adit/internal/suggest"},
	"adit/internal/portmap":        {},
	"adit/internal/punch":          {"adit/internal/nat64", "adit/internal/stunmsg", "adit/internal/uplink"},
	"adit/internal/reach":          {"adit/internal/nat64", "adit/internal/uplink"},
	"adit/internal/relay":          {"adit/internal/outbox", "adit/internal/stunmsg"},
	"adit/internal/rulebook":       {"adit/tunnel", "adit/internal/config", "adit/internal/fail", "adit/internal/identity"},
	"adit/internal/sdnotify":       {},
	"adit/internal/simnet":         {},
	"adit/internal/statusview":     {"adit/internal/control", "adit/internal/typeset"},
	"adit/internal/stunmsg":        {},
	"adit/internal/testtier":       {},
	"adit/internal/suggest":        {},
	"adit/internal/turn":           {"adit/internal/outbox", "adit/internal/stunmsg"},
	"adit/internal/uplink":         {},
	"adit/internal/typeset":        {},
	"adit/reliable":                {},
	"adit/signal":                  {"adit/internal/carry", "adit/internal/reach"},
	"adit/signal/rendezvous":       {"adit/signal", "adit/internal/carry", "adit/internal/fair"},
	"adit/scripts/bench":           {"adit/internal/netlab"},
	"adit/tunnel":                  {"adit/reliable", "adit/internal/event"},
}

// confined says which packages may import a library whose types must not leak.
var confined = map[string][]string{
	"github.com/pion/":           {"adit/internal/punch", "adit/internal/relay", "adit/internal/turn"},
	"github.com/xtaci/kcp-go/":   {"adit/reliable"},
	"github.com/urfave/cli/":     {"adit/cmd"},
	"github.com/BurntSushi/toml": {"adit/internal/config", "adit/internal/identity"},
	"github.com/mattn/go-isatty": {"adit/cmd"},
	"golang.org/x/term":          {"adit/cmd"},
	"github.com/flynn/noise":     {"adit/internal/handshake"},
	"github.com/gtank/":          {"adit/internal/handshake"},
}

func TestImports(t *testing.T) {
	seen := 0
	err := filepath.WalkDir(".", func(dir string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return err
		}
		if name := d.Name(); dir != "." && (strings.HasPrefix(name, ".") || name == "testdata") {
			return filepath.SkipDir
		}
		p, err := build.ImportDir(dir, 0)
		if _, none := err.(*build.NoGoError); none {
			return nil
		}
		if err != nil {
			return err
		}
		seen++
		path := "adit"
		if dir != "." {
			path += "/" + filepath.ToSlash(dir)
		}
		mine, known := allowed[path]
		if !known {
			t.Errorf("package %s has no place in the design: list it here and in docs/design.md", path)
		}
		if p.Doc == "" && p.Name != "main" {
			t.Errorf("package %s has no package comment", path)
		}
		for _, imp := range p.Imports {
			if (imp == "adit" || strings.HasPrefix(imp, "adit/")) && !slices.Contains(mine, imp) {
				t.Errorf("%s imports %s: arrows go down only", path, imp)
			}
			for prefix, where := range confined {
				if strings.HasPrefix(imp, prefix) && !slices.Contains(where, path) {
					t.Errorf("%s imports %s, which belongs to %v alone", path, imp, where)
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if seen == 0 {
		t.Fatal("found no packages")
	}
}
