package acceptance

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"adit/internal/netlab"
	"adit/internal/testtier"
)

// An assault is one attack of the hostile peer, and what the exposer is to do about it.
type assault struct {
	name    string // as internal/hostile has it
	what    string
	target  string // what its streams ask for, if they do
	brief   bool   // in the long tier too, not only in the full one
	session string // "ends": the exposer ends it and says why; "stands": nothing is wrong with it; "": either
}

const hostileUDP = "127.0.0.1:4801/udp"

var assaults = []assault{
	{name: "unknown", what: "a control message of a kind that is not known", session: "stands", brief: true},
	{name: "hoard", what: "1,000 streams, endless credit, no acknowledgement", brief: true},
	{name: "sizes", what: "control messages of sizes that cannot be", session: "ends", brief: true},
	{name: "streams", what: "streams without end"},
	{name: "holes", what: "streams whose second segment never comes"},
	{name: "syncs", what: "a flood of SYNC", session: "ends"},
	{name: "controls", what: "a flood of FIN, CREDIT, STOP and RESET"},
	{name: "resets", what: "streams that are reset at once", session: "ends", brief: true},
	{name: "fragments", what: "fragments that never complete"},
	{name: "parts", what: "datagrams whose parts never complete", target: hostileUDP},
	{name: "flows", what: "flows of datagrams without end", target: hostileUDP},
	{name: "pings", what: "a flood of PING and CHALLENGE", session: "ends"},
	{name: "offers", what: "a flood of offers to the session", session: "ends"},
}

const (
	hostileMemory = 256 << 20 // the most that the exposer may take
	hostileLines  = 100       // the most that it may say, at its default level
)

// buildHostile builds the hostile peer once.
var buildHostile = sync.OnceValues(func() (string, error) {
	adit, err := build()
	if err != nil {
		return "", err
	}
	path := filepath.Join(filepath.Dir(adit), "hostile") // goes away with adit
	cmd := exec.Command("go", "build", "-tags", "hostile", "-o", path, "adit/internal/hostile")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args, " "), err, out)
	}
	return path, nil
})

// TestHostile: a peer that has been let in, and means ill, costs the exposer little memory and few lines, is named and
// ended if it floods, and does not keep another peer from its service meanwhile.
func TestHostile(t *testing.T) {
	testtier.Long(t)
	adit(t) // or skip
	path, err := buildHostile()
	if err != nil {
		t.Fatal(err)
	}
	span := 2 * time.Second
	if testtier.IsFull() {
		span = 20 * time.Second
	}
	var report strings.Builder
	fmt.Fprintf(&report, "\n%-52s %8s %8s %8s %8s %8s %8s  %s", "for "+span.String(), "MB", "MB after", "routines", "lines", "alone", "beside", "MB/s; the session")
	for _, a := range assaults {
		if !a.brief && !testtier.IsFull() && *endsRuns == 0 {
			continue
		}
		t.Run(a.name, func(t *testing.T) {
			fmt.Fprintf(&report, "\n%s", attack(t, path, a, span))
		})
	}
	t.Log(report.String())
}

// attack plays one assault on an exposer of its own, beside a peer that reads, and returns a line of the report.
func attack(t *testing.T, path string, a assault, span time.Duration) string {
	w := &world{t: t, adit: adit(t), lab: netlab.New(t)}
	h := w.lab.Public("both")
	w.serve(h)
	k := w.keyholder(h)
	const metrics = 4802
	fountain := listen(t, h, func(c net.Conn) {
		_ = c.(*net.TCPConn).SetWriteBuffer(64 << 10) // the kernel would fill megabytes for each stream of the bad peer
		for {
			if _, err := c.Write(pattern); err != nil {
				return
			}
		}
	})
	sink, err := h.ListenPacket("udp4", strings.TrimSuffix(hostileUDP, "/udp"))
	if err != nil {
		t.Fatal(err)
	}
	defer sink.Close()
	exposer := start(t, h, "expose", []string{w.adit, "expose", "--listen", "--code", "--signal", w.signal, "--metrics", fmt.Sprint(metrics),
		"--config", os.DevNull, fountain.String(), hostileUDP}, k.home)
	connecter := w.connect(h, nextCode(t, exposer, ""), "-L", "0:"+fountain.String())
	connecter.await("up")
	e, _ := connecter.await("listening")
	port, err := netip.ParseAddrPort(e.Addr)
	if err != nil {
		t.Fatal(err)
	}
	reader := newReader(dial(t, h, port))
	reader.pace(time.Second) // it finds its speed
	alone := reader.pace(time.Second)
	code := nextCode(t, exposer, regexp.MustCompile(codePattern).FindString(exposer.out.String()))
	said := lines(exposer)

	// What it costs counts, not that two share the processors of one machine.
	bad := start(t, h, "hostile", []string{"nice", "-n", "19", path, "-signal", w.signal, "-code", code, "-attack", a.name, "-target", a.target, "-for", span.String()})
	bad.prints("up")
	beside := reader.pace(span)
	if !bad.gone(span + patience) {
		t.Fatal("the hostile peer does not end")
	}
	routines := figure(t, h, metrics, "adit_goroutines")
	most := highWater(t, exposer)
	more := lines(exposer) - said
	after := exposer.memory()
	reader.stop()

	reason, ended := strings.CutPrefix(strings.TrimSpace(strings.TrimPrefix(bad.out.String(), "up\n")), "ended: ")
	session := "stood"
	if ended {
		session = "ended: " + reason
	}
	if bad.exit(patience) != 0 {
		t.Errorf("the hostile peer failed: %s", bad.err)
	}
	if most > hostileMemory {
		t.Errorf("%d MB, %d are the most that may be", most>>20, hostileMemory>>20)
	}
	if more > hostileLines {
		t.Errorf("the exposer said %d lines, %d are the most that may be", more, hostileLines)
	}
	if beside < alone/4 {
		t.Errorf("another peer got %.0f MB/s, and %.0f before", beside, alone)
	}
	switch {
	case a.session == "stands" && ended:
		t.Errorf("the session ended: %s", reason)
	case a.session == "ends" && !ended:
		t.Error("the exposer let the session stand")
	case a.session == "ends":
		// Both sides are told why: the hostile peer in the last of the words that it was given.
		why := reason[strings.LastIndex(reason, ": ")+1:]
		if why == reason || !strings.Contains(exposer.err.String(), why) {
			t.Errorf("the exposer does not say why it ended the session (%q)", reason)
		}
	}
	connecter.interrupt()
	connecter.exits(130, patience)
	exposer.interrupt()
	exposer.exits(130, patience)
	return fmt.Sprintf("%-52s %8d %8d %8.0f %8d %8.0f %8.0f  %s", a.what, most>>20, after>>20, routines, more, alone, beside, session)
}

const codePattern = `[0-9]+(-[a-z]+){3,}`

// nextCode waits for a code that is not the one before.
func nextCode(t testing.TB, p *process, before string) (code string) {
	t.Helper()
	waitFor(t, func() bool {
		all := regexp.MustCompile(codePattern).FindAllString(p.out.String(), -1)
		if len(all) == 0 || all[len(all)-1] == before {
			return false
		}
		code = all[len(all)-1]
		return true
	})
	return code
}

// lines counts what a process has written.
func lines(p *process) int {
	out, _, _ := p.out.lines()
	err, _, _ := p.err.lines()
	return len(out) + len(err)
}

// figure reads one of the metrics of a process.
func figure(t testing.TB, h *netlab.Host, port uint16, name string) float64 {
	t.Helper()
	c := dial(t, h, netip.AddrPortFrom(loopback, port))
	_ = c.SetDeadline(time.Now().Add(patience)) // it is open
	request, err := http.NewRequest("GET", "http://127.0.0.1/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Close = true
	if err := request.Write(c); err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(c)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(line), name+" "); ok {
			f, err := strconv.ParseFloat(v, 64)
			if err != nil {
				t.Fatal(err)
			}
			return f
		}
	}
	t.Fatalf("no %s in the metrics", name)
	return 0
}

// highWater returns the largest resident set that a running process has had, in bytes.
func highWater(t testing.TB, p *process) int64 {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), "VmHWM:")
	var kib int64
	if _, err := fmt.Sscanf(rest, "%d kB", &kib); err != nil {
		t.Fatalf("VmHWM of %s: %v", p.label, err)
	}
	return kib << 10
}
