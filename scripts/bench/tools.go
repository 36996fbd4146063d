package main

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"

	"adit/internal/netlab"
)

// A network is two hosts and the link between them, with the service on the right one.
type network struct {
	left, right *netlab.Host
	service     *service
}

// A tunnel is a tool that is running, with its entry on the left host.
type tunnel struct {
	entry       netip.AddrPort
	left, right []int // the processes of each side, without what descends from them
}

// pids returns the processes of both sides.
func (t tunnel) pids() []int { return append(append([]int(nil), t.left...), t.right...) }

// A tool is something that carries connections from the left host to the service on the right one.
type tool struct {
	name  string
	needs []string // programs
	about string   // how it runs here
	start func(*job, network) tunnel
}

// missing says which program the machine lacks, or nothing.
func (t tool) missing() string {
	for _, p := range t.needs {
		if _, err := exec.LookPath(p); err != nil {
			return p
		}
	}
	return ""
}

// tools are in the order of the tables.
var tools = []tool{
	{"adit", nil, "a code from a rendezvous on the right host, `expose` there and `connect -L 0` on the left one", startAdit},
	{"tcp", nil, "no tunnel: TCP CUBIC from end to end", startTCP("cubic")},
	{"tcp-bbr", nil, "no tunnel: TCP BBR from end to end", startTCP("bbr")},
	{"ssh", []string{"ssh", "/usr/sbin/sshd", "ssh-keygen"}, "`ssh -L`, throwaway keys, default ciphers, TCP CUBIC", startSSH},
	{"kcptun", []string{"kcptun-server", "kcptun-client"}, "`-mode fast3 -crypt aes-128 -sndwnd 1024 -rcvwnd 1024 -nocomp`, FEC 10+3 as by default", startKCPTun},
	{"wireguard-go", []string{"wireguard-go", "wg"}, "MTU 1420, TCP CUBIC inside", startWireGuard},
}

// aditPath is the binary that is measured.
var aditPath string

// startAdit starts a rendezvous and an exposer on the right and a connecter on the left.
func startAdit(j *job, n network) tunnel {
	t, _ := startAditAt(j, n, 8080)
	return t
}

// startAditAt is startAdit with the rendezvous at that port, for more sessions than one.
func startAditAt(j *job, n network, port int) (tunnel, *process) {
	web := netip.AddrPortFrom(n.right.Addr(), uint16(port))
	stun := netip.AddrPortFrom(n.right.Addr(), uint16(3478+2*(port-8080))) // it takes the next port too
	common := []string{"--json", "--config", os.DevNull}
	adit := func(h *netlab.Host, args ...string) *process { return j.start(h, aditPath, append(args, common...)...) }

	server := adit(n.right, "serve", "--http", web.String(), "--stun", stun.String(), "--external-ip", n.right.Addr().String())
	server.event("listening")
	server.event("listening")
	signal := "http://" + web.String()
	exposer := adit(n.right, "expose", fmt.Sprintf("127.0.0.1:%d", servicePort), "--signal", signal)
	code := fmt.Sprint(exposer.event("code")["code"])
	connecter := adit(n.left, "connect", code, "-L", "0", "--signal", signal)
	connecter.event("up")
	entry, err := netip.ParseAddrPort(fmt.Sprint(connecter.event("listening")["addr"]))
	j.check("adit's listening event", err)
	return tunnel{entry, []int{connecter.pid()}, []int{exposer.pid()}}, connecter
}

func (p *process) pid() int { return p.cmd.Process.Pid } // ip netns exec becomes the program

// event waits for an event of adit's --json output.
func (p *process) event(name string) map[string]any {
	var e map[string]any
	p.line("event "+name, func(s string) bool {
		e = nil
		return strings.HasPrefix(s, "{") && json.Unmarshal([]byte(s), &e) == nil && e["event"] == name
	})
	return e
}

// hosts returns left and right.
func (n network) hosts() [2]*netlab.Host { return [2]*netlab.Host{n.left, n.right} }
