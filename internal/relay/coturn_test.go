package relay

import (
	"context"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"adit/internal/testtier"
)

// coturn's own client talks to the server in each way, makes its passwords from the secret by itself, and
// gets back all it sends: between two clients of the relay, which is how it tests a server without a peer.
func TestCoturnClient(t *testing.T) {
	t.Parallel()
	testtier.Long(t)
	program, err := exec.LookPath("turnutils_uclient")
	if err != nil {
		t.Skip("no turnutils_uclient here (Debian: coturn)")
	}
	s := startTURN(t, TURNConfig{})
	for name, c := range map[string]struct {
		port uint16
		args string
	}{
		"udp":                  {s.udp.Port(), ""},
		"udp, send":            {s.udp.Port(), "-s"},
		"udp, extra requests":  {s.udp.Port(), "-G"},
		"tcp":                  {s.tcp.Port(), "-t"},
		"tcp, send":            {s.tcp.Port(), "-t -s"},
		"tls":                  {s.tls.Port(), "-t -S"},
		"tls, no permissions":  {s.tls.Port(), "-t -S -I"},
		"udp, padded channels": {s.udp.Port(), "-D"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			args := append(strings.Fields(c.args), "-y", "-c", "-n", "20", "-m", "2", "-z", "5", "-l", "700",
				"-u", strings.ReplaceAll(name, " ", ""), "-W", string(secret), "-p", strconv.Itoa(int(c.port)), "127.0.0.1")
			cmd := exec.CommandContext(ctx, program, args...)
			cmd.Dir = t.TempDir() // it writes logs
			out, err := cmd.CombinedOutput()
			if err != nil || !strings.Contains(string(out), "tot_send_msgs=40, tot_recv_msgs=40") {
				t.Errorf("%v: %v\n%s", args, err, tail(string(out)))
			}
		})
	}
}

func tail(s string) string { return s[max(0, len(s)-2000):] }
