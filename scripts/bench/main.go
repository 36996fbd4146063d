// Command bench measures adit against other tools on emulated links, all in one run:
//
//	go run ./scripts/bench [-runs 3] [-tools adit,ssh] [-o table|json] [-samples FILE] [-write FILE] [SCENARIO...]
//
// It needs root on Linux, iproute2 and nftables; tools that the machine lacks are left out, and a line says
// so. Each run of each tool has a link of its own, made of two network namespaces that this process joins
// ([netlab]), and starts the tool anew. The runs of all tools take turns, so that what else the machine does
// meets all of them. The probe is this process: it connects on the left host, to the tool's entry, and
// serves on the right one. Data flow from left to right, and figures of bulk transfers are the receiver's.
// What a run started ends with it; when the program is killed, its processes die with it, and the next run
// removes the namespaces.
//
// Tables go to standard output, or with -o json every figure as one JSON object a line, with the raw samples
// it was made of. -samples writes these to a file too, -from reads such a file in place of measuring, and
// -write puts the tables into a document between the comments that name their scenarios.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"adit/internal/netlab"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := benchmark(ctx, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// A plan is what to measure.
type plan struct {
	scenarios []scenario
	tools     []tool
	runs      int
	others    float64 // a run during which others had more cores than this is made again
}

// tries is how often a run is made at most.
const tries = 5

func benchmark(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("bench", flag.ExitOnError)
	runs := flags.Int("runs", 3, "runs of each tool; the tables show the median, least and largest")
	names := flags.String("tools", "", "tools to measure, with commas between them (default all)")
	others := flags.Float64("others", 0, "make a run again, at most four times, during which others had more cores than this; 0 keeps all")
	output := flags.String("o", "table", "what goes to standard output: table or json")
	samples := flags.String("samples", "", "write every figure to this file, one JSON object a line")
	write := flags.String("write", "", "put the tables into this document")
	from := flags.String("from", "", "measure nothing: show the samples that this file has of an earlier run")
	binary := flags.String("adit", "", "measure this binary (default: built from this module)")
	flags.Usage = func() {
		fmt.Fprintln(flags.Output(), "usage: bench [OPTION...] [SCENARIO...]")
		flags.PrintDefaults()
		for _, s := range scenarios {
			fmt.Fprintf(flags.Output(), "scenario %s: %s\n", s.name, s.about)
		}
		for _, t := range tools {
			fmt.Fprintf(flags.Output(), "tool %s: %s\n", t.name, t.about)
		}
	}
	_ = flags.Parse(args) // it exits
	if *output != "table" && *output != "json" {
		return fmt.Errorf("-o %s is neither table nor json", *output)
	}
	p, err := choose(flags.Args(), *names, *runs)
	if err != nil {
		return err
	}
	p.others = *others

	if *from != "" {
		all, err := read(*from)
		if err != nil {
			return err
		}
		return deliver(p, all, *output, *samples, *write)
	}

	// Threads of emulated links wait in system calls and should not take turns with the probe.
	runtime.GOMAXPROCS(max(8, runtime.NumCPU()))
	dir, err := os.MkdirTemp("", "adit-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if aditPath = *binary; aditPath == "" {
		aditPath = filepath.Join(dir, "adit")
		flags := "-s -w"
		if commit, err := exec.CommandContext(ctx, "git", "describe", "--always", "--dirty").Output(); err == nil {
			flags += " -X adit/cmd.versionOverride=devel-" + strings.TrimSpace(string(commit))
		}
		cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", flags, "-o", aditPath, "adit")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("build adit: %w\n%s", err, out)
		}
	}

	version, err := exec.CommandContext(ctx, aditPath, "version").Output()
	if err != nil {
		return fmt.Errorf("ask %s for its version: %w", aditPath, err)
	}

	all, failed := p.measure(ctx)
	for i := range all {
		all[i].Version, all[i].System = strings.TrimSpace(string(version)), system()
	}
	return errors.Join(failed, deliver(p, all, *output, *samples, *write))
}

// choose makes a plan of names.
func choose(names []string, toolNames string, runs int) (plan, error) {
	p := plan{scenarios: scenarios, tools: tools, runs: max(runs, 1)}
	if len(names) > 0 {
		p.scenarios = nil
		for _, n := range names {
			s, err := find(scenarios, n, scenario.String)
			if err != nil {
				return plan{}, err
			}
			p.scenarios = append(p.scenarios, s)
		}
	}
	if toolNames != "" {
		p.tools = nil
		for n := range strings.SplitSeq(toolNames, ",") {
			t, err := find(tools, n, tool.String)
			if err != nil {
				return plan{}, err
			}
			p.tools = append(p.tools, t)
		}
	}
	p.tools = slices.DeleteFunc(slices.Clone(p.tools), func(t tool) bool {
		m := t.missing()
		if m != "" {
			fmt.Fprintf(os.Stderr, "%s is left out: no %s\n", t.name, m)
		}
		return m != ""
	})
	return p, nil
}

// measure carries the plan out. What one tool cannot do is noted and does not stop the others.
func (p plan) measure(ctx context.Context) (all []sample, err error) {
	for _, sc := range p.scenarios {
		runs := p.runs
		if sc.runs > 0 {
			runs = min(runs, sc.runs)
		}
		for n := range runs {
			for _, t := range p.tools {
				if len(sc.only) > 0 && !slices.Contains(sc.only, t.name) {
					continue
				}
				began := time.Now()
				j, samples, err := p.once(ctx, sc, t, n+1)
				all = append(all, samples...)
				switch {
				case ctx.Err() != nil:
					return all, errors.New("interrupted")
				case errors.Is(err, errSkipped):
					return all, err
				case err != nil:
					j.log("%v", err)
					first, _, _ := strings.Cut(err.Error(), "\n")
					all = append(all, sample{Scenario: sc.name, Tool: t.name, Run: n + 1, Error: first})
				}
				for i := range all {
					if all[i].Time.IsZero() {
						all[i].Time = time.Now().Round(time.Second)
					}
				}
				fmt.Fprintf(os.Stderr, "%s %s, run %d of %d, %.0f s:%s\n", sc.name, t.name, n+1, runs, time.Since(began).Seconds(), brief(samples))
			}
		}
	}
	return all, nil
}

// once measures one tool once, or until the machine left it alone.
func (p plan) once(ctx context.Context, sc scenario, t tool, number int) (j *job, samples []sample, err error) {
	for range tries {
		j = &job{scenario: sc.name, tool: t.name, number: number, log: func(f string, a ...any) {
			fmt.Fprintf(os.Stderr, "%s %s: "+f+"\n", append([]any{sc.name, t.name}, a...)...)
		}}
		samples, err = run(ctx, j, func() { sc.run(j, t) })
		busy := values(samples, sc.name, t.name, mOthers)
		if err != nil || p.others == 0 || len(busy) == 0 || busy[0] <= p.others {
			break
		}
		j.log("others had %.2f cores:%s", busy[0], brief(samples))
	}
	return j, samples, err
}

// run measures one tool once.
func (s scenario) run(j *job, t tool) {
	l := netlab.New(j)
	left, right := l.Link(s.link)
	n := network{left: left, right: right, service: j.serve(right)}
	began := time.Now()
	tun := t.start(j, n)
	b := &bench{job: j, client: client{j, left, tun.entry}, network: n, tunnel: tun}
	j.record(mSetup, float64(b.ready(20*time.Second).Sub(began).Milliseconds()), nil)
	j.pause(500 * time.Millisecond)
	others, began := elsewhere(), time.Now()
	s.measure(b)
	j.record(mOthers, (elsewhere()-others)/time.Since(began).Seconds(), nil)
}

func brief(samples []sample) string {
	var b strings.Builder
	for _, s := range samples {
		fmt.Fprintf(&b, " %s %s %s;", s.Metric, number(s.Value), s.Unit)
	}
	return b.String()
}

// deliver writes the results to where they are wanted.
func deliver(p plan, all []sample, output, samples, write string) error {
	var lines bytes.Buffer
	enc := json.NewEncoder(&lines)
	for _, s := range all {
		if err := enc.Encode(s); err != nil {
			return err
		}
	}
	var failed error
	if output == "json" {
		_, failed = os.Stdout.Write(lines.Bytes())
	} else {
		for _, sc := range p.scenarios {
			if slices.ContainsFunc(all, func(s sample) bool { return s.Scenario == sc.name }) {
				fmt.Println(table(all, sc))
			}
		}
	}
	if samples != "" {
		failed = errors.Join(failed, os.WriteFile(samples, lines.Bytes(), 0o644))
	}
	if write != "" {
		failed = errors.Join(failed, document(write, all))
	}
	return failed
}
