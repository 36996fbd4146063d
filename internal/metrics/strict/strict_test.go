package strict

import (
	"testing"

	"adit/internal/leaktest"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

func TestCheck(t *testing.T) {
	const head = "# HELP a_total A.\n# TYPE a_total counter\n"
	if err := Check(head + "a_total{x=\"1\",y=\"\\\"}\"} 1\na_total 2e9\n"); err != nil {
		t.Error(err)
	}
	for name, page := range map[string]string{
		"empty": "", "no end of line": head + "a_total 1", "no help": "# TYPE a gauge\na 1\n", "no type": "# HELP a A.\na 1\n",
		"twice": head + "a_total 1\na_total 1\n", "family twice": head + "a_total 1\n" + head, "negative": head + "a_total -1\n",
		"no number": head + "a_total x\n", "gauge named total": "# HELP a_total A.\n# TYPE a_total gauge\n",
		"counter without total": "# HELP a A.\n# TYPE a counter\n", "open quote": head + "a_total{x=\"} 1\n", "label twice": head + "a_total{x=\"1\",x=\"2\"} 1\n",
		"comma": head + "a_total{x=\"1\",} 1\n", "escape": head + "a_total{x=\"\\t\"} 1\n", "another's sample": head + "b 1\n", "empty line": head + "\n", "not UTF-8": head + "a_total{x=\"\xff\"} 1\n",
	} {
		if Check(page) == nil {
			t.Errorf("%s: taken", name)
		}
	}
}
