//go:build unix

package main

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"adit/internal/leaktest"
	"adit/internal/netlab"
	"adit/internal/testtier"
)

func TestMain(m *testing.M) {
	if os.Getenv("BENCH_TEST_MAIN") != "" {
		main()
		os.Exit(0)
	}
	leaktest.Main(m)
}

func TestNumbers(t *testing.T) {
	for v, want := range map[float64]string{0: "0", 0.123: "0.12", 9.876: "9.88", 45.67: "45.7", 1234.5: "1234"} {
		if got := number(v); got != want {
			t.Errorf("number(%v): got %s, want %s", v, got, want)
		}
	}
	v := []float64{5, 1, 3, 2}
	if got := median(v); got != 2.5 {
		t.Errorf("median of four: got %v, want 2.5", got)
	}
	for q, want := range map[float64]float64{0: 1, 0.5: 3, 0.99: 5, 1: 5} {
		if got := quantile(v, q); got != want {
			t.Errorf("quantile %v: got %v, want %v", q, got, want)
		}
	}
	if v[0] != 5 {
		t.Error("the values were sorted in place")
	}
}

// TestTable checks medians, ranges, ratios and what is said of a tool that failed.
func TestTable(t *testing.T) {
	sc, err := find(scenarios, "W1", scenario.String)
	if err != nil {
		t.Fatal(err)
	}
	var all []sample
	for i, v := range []float64{90, 80, 94} {
		all = append(all, sample{Scenario: "W1", Tool: "adit", Run: i + 1, Metric: mBulk, Value: v},
			sample{Scenario: "W1", Tool: "tcp", Run: i + 1, Metric: mBulk, Value: v / 2},
			sample{Scenario: "W1", Tool: "ssh", Run: i + 1, Error: "no echo"})
	}
	text := table(all, sc)
	for _, want := range []string{
		"|adit|tcp|ssh|\n", "|bulk, Mbit/s|≥ 93|90.0 (80.0–94.0)|45.0 (40.0–47.0) ×0.50|–|\n", "\nssh: no echo\n",
	} {
		if strings.Count(text, want) != 1 {
			t.Errorf("the table has no %q, or more than one:\n%s", want, text)
		}
	}
}

// TestDocument: every scenario has its place in docs/performance.md, and nothing else there changes.
func TestDocument(t *testing.T) {
	was, err := os.ReadFile("../../docs/performance.md")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "performance.md")
	if err := os.WriteFile(path, was, 0o600); err != nil {
		t.Fatal(err)
	}
	var all []sample
	for _, sc := range scenarios {
		all = append(all, sample{Scenario: sc.name, Tool: "adit", Run: 1, Metric: sc.metrics[0].name, Value: 4321})
		for _, m := range sc.metrics {
			if units[m.name] == "" {
				t.Errorf("%s has no unit", m.name)
			}
		}
	}
	for range 2 {
		if err := document(path, all); err != nil {
			t.Fatal(err)
		}
	}
	now, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Count(string(now), "|4321|"); got != len(scenarios) {
		t.Errorf("%d figures in the document, want %d", got, len(scenarios))
	}
	if !strings.Contains(string(now), "## How it is measured") || strings.Count(string(now), "<!-- end -->") != len(scenarios) {
		t.Error("the rest of the document has changed")
	}
}

// TestInterrupt: nothing is left of a measurement that was interrupted, or of its processes when the
// program is killed.
func TestInterrupt(t *testing.T) {
	testtier.Long(t)
	netlab.Skip(t)
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGKILL} {
		// Not adit is measured, so any program will do that ends well.
		cmd := exec.Command(os.Args[0], "-runs", "1", "-tools", "tcp", "-adit", "true", "W1")
		cmd.Env = append(os.Environ(), "BENCH_TEST_MAIN=1", "TMPDIR="+t.TempDir())
		out, err := cmd.StderrPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		spaces := func() (n int) {
			entries, _ := os.ReadDir("/run/netns")
			for _, e := range entries {
				if strings.HasPrefix(e.Name(), fmt.Sprintf("aditlab-%d-", cmd.Process.Pid)) {
					n++
				}
			}
			return n
		}
		tick := time.NewTicker(10 * time.Millisecond)
		for limit := time.Now().Add(20 * time.Second); spaces() < 2; <-tick.C {
			if time.Now().After(limit) {
				t.Error("no namespaces appeared")
				break
			}
		}
		tick.Stop()
		_ = cmd.Process.Signal(sig)
		said := bufio.NewScanner(out)
		var last string
		for said.Scan() {
			last = said.Text()
		}
		_ = cmd.Wait() // it ends with an error
		if sig == syscall.SIGINT {
			if last != "bench: interrupted" {
				t.Errorf("said %q at last", last)
			}
			if n := spaces(); n != 0 {
				t.Errorf("%d namespaces are left", n)
			}
			continue
		}
		netlab.New(t) // the next lab sweeps
		if n := spaces(); n != 0 {
			t.Errorf("%d namespaces are left after a kill", n)
		}
	}
}
