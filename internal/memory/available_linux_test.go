package memory

import (
	"os"
	"path/filepath"
	"testing"
)

func TestGroupLimit(t *testing.T) {
	for name, c := range map[string]struct {
		groups string
		files  map[string]string
		want   int64
	}{
		"none":             {"", nil, 0},
		"version 2":        {"0::/a/b\n", map[string]string{"a/b/memory.max": "1000\n"}, 1000},
		"above":            {"0::/a/b\n", map[string]string{"a/b/memory.max": "max\n", "a/memory.max": "500\n"}, 500},
		"the least":        {"0::/a/b\n", map[string]string{"a/b/memory.max": "400\n", "a/memory.max": "500\n"}, 400},
		"in a container":   {"0::/docker/x\n", map[string]string{"memory.max": "70\n"}, 70},
		"version 1":        {"4:cpu,memory:/g\n0::/\n", map[string]string{"memory/g/memory.limit_in_bytes": "90\n"}, 90},
		"both":             {"4:memory:/g\n0::/h\n", map[string]string{"memory/g/memory.limit_in_bytes": "90\n", "unified/h/memory.max": "80\n"}, 80},
		"another resource": {"4:cpu:/g\n", map[string]string{"memory/g/memory.limit_in_bytes": "90\n"}, 0},
		"nonsense":         {"0::\n::\nx\n0::/../..\n", map[string]string{"memory.max": "-5\n"}, 0},
	} {
		root := t.TempDir()
		for f, text := range c.files {
			f = filepath.Join(root, f)
			if err := os.MkdirAll(filepath.Dir(f), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(f, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if got := groupLimit(root, c.groups); got != c.want {
			t.Errorf("%s: got %d, want %d", name, got, c.want)
		}
	}
}
