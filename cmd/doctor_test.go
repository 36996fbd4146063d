package cmd

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"adit/internal/doctor"
	"adit/internal/typeset"
)

var update = flag.Bool("update", false, "write the golden files anew")

// TestReport compares what a person sees with golden files: on a narrow terminal, on a wide one, and where
// standard output is none.
func TestReport(t *testing.T) {
	for _, name := range []string{"good", "hard"} {
		b, err := os.ReadFile(filepath.Join("testdata", "doctor", name+".json"))
		if err != nil {
			t.Fatal(err)
		}
		var r doctor.Report
		if err := json.Unmarshal(b, &r); err != nil {
			t.Fatal(err)
		}
		for _, columns := range []int{0, 40, 100} {
			got := report(r.Lines(), func(s string) string { return s }, columns, func(_ style, s string) string { return s }) + "\n"
			file := filepath.Join("testdata", "doctor", fmt.Sprintf("%s.%d.txt", name, columns))
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if got != strings.ReplaceAll(string(want), "\r\n", "\n") {
				t.Errorf("%s at %d columns: got\n%swant\n%s", name, columns, got, want)
			}
			for line := range strings.SplitSeq(got, "\n") {
				if columns > 0 && typeset.Columns(line) > columns && strings.Contains(strings.TrimSpace(line), " ") {
					t.Errorf("%s at %d columns: %q is too long", name, columns, line)
				}
			}
		}
	}
}
